"""A simple detector to start from: reads a run's events, writes alarms for `ghosttrain score`.

    ghosttrain export llama-3-8b --faults realistic --seed 7 --to out
    python examples/baseline_detector.py out/events.jsonl > alarms.jsonl
    ghosttrain score out/labels.jsonl alarms.jsonl

It looks only at what an observer of a real run has: steps, samples of the GPUs, lines that the
machine logs, and the trainer's word that it validates, saves or exports. Not at the rows that tell
the truth (fault_occurred, incident_labelled and what the simulator says of its own state), nor
at the number of the fault behind a line. It never looks ahead: an alarm begins when the row that
raised it was written. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median

PLANNED_STOPS = ("validation", "checkpoint", "export")
WINDOW_STEPS = 64  # of what is usual
SETTLING_STEPS = 5  # the first after a launch are slow
SLOW_Z = 6.0  # robust standard deviations
SLOW_STEPS = 10  # whose median is held against the usual
SLOW_SHARE = 0.015  # less is not worth an alarm
STALL_RATIO = 3.0  # one step alone
SILENT_STEPS, SILENT_S = 10.0, 30.0  # without a step: so many usual ones, and at least so long
SPIKE_NATS = 0.25
HOT_C = 10.0  # above what this GPU usually has over the others; inlets alone move it by some
WEAK_POWER = 0.12  # below what it usually has of theirs, as a share
USUAL_SAMPLES = 10  # of the GPUs, before they are judged
QUIET_S = 900.0  # the same alarm is not raised twice within

# The lines that tell a class by themselves. Those that follow from others (peers that abort,
# agents, schedulers) and those of operators, who have found it already, are left alone.
XID_CLASSES = {
    31: "gpu-fault", 43: "gpu-fault", 48: "hbm-ecc", 63: "row-remap-pending", 74: "nvlink-error",
    79: "gpu-off-bus", 95: "sram-ecc", 119: "gsp-timeout", 145: "nvlink5-error",
}  # fmt: skip
MESSAGE_CLASSES = {
    "kernel_oom_kill": "host-oom",
    "kernel_panic": "kernel-panic",
    "kernel_link_down": "link-down",
    "torch_cuda_oom": "cuda-oom",
    "torch_desync": "collective-desync",
    "torch_watchdog_status": "nccl-hang",
    "trainer_traceback": "software-bug",
    "trainer_sigterm": "host-maintenance",
    "trainer_nan_loss": "loss-nan",
    "trainer_storage_full": "storage-full",
    "trainer_storage_slow": "storage-slow",
    "trainer_checkpoint_corrupt": "checkpoint-corrupted",
    "scheduler_node_failed": "host-crash",
    "scheduler_preempted": "job-preempted",
}
OF_THE_JOB = ("nccl-hang", "software-bug", "loss-nan", "job-preempted")
OF_THE_STORAGE = ("storage-full", "storage-slow", "checkpoint-corrupted")


def spread(values: Iterable[float], middle: float) -> float:
    """Median distance from the middle, as a standard deviation."""
    return 1.4826 * median(abs(value - middle) for value in values)


def is_line_of_a_machine(row: dict) -> bool:
    """Whether it is a logged line that no person wrote."""
    return row["event"] == "message_logged" and not row["message"].startswith("operator_")


class Detector:
    """Takes a run's rows in order and says what seems wrong."""

    def __init__(self) -> None:
        self.gpus_per_node = 8
        self.attempt = 0
        self.settling = SETTLING_STEPS
        self.step_s: deque[float] = deque(maxlen=WINDOW_STEPS)
        self.loss: deque[float] = deque(maxlen=WINDOW_STEPS)
        self.recent_s: deque[float] = deque(maxlen=SLOW_STEPS)
        self.is_slow = False
        self.last_step_s: float | None = None
        self.is_silent = False
        self.planned = 0
        self.lost: set[int] = set()
        self.samples = 0
        self.usual: dict[str, list[float]] = {}  # of each GPU, against the others
        self.odd: dict[str, set[int]] = {}
        self.raised: dict[tuple[str, str], float] = {}

    def take(self, row: dict) -> Iterator[dict]:
        """The alarms that a row raises."""
        event, time_s = row["event"], row["time_s"]
        if event == "run_started":
            self.__init__()
            self.gpus_per_node = row["gpus_per_node"]
        elif event in ("phase_started", "phase_ended"):
            if row["phase"] in PLANNED_STOPS:
                self.planned += 1 if event == "phase_started" else -1
                self.last_step_s = time_s  # the clock of silence begins anew
        elif event in ("step", "fleet") or is_line_of_a_machine(row):
            yield from self.silence(time_s, is_step=event == "step")
            yield from getattr(self, event)(time_s, row)

    def alarm(
        self, time_s: float, kind: str, entity: str, confidence: float, rule: str = ""
    ) -> Iterator[dict]:
        """An alarm, unless the same was raised a moment ago."""
        key = (rule or kind, entity)
        if time_s - self.raised.get(key, -math.inf) < QUIET_S:
            return
        self.raised[key] = time_s
        found = {"start_s": time_s, "class": kind, "entity": entity, "confidence": confidence}
        yield {name: value for name, value in found.items() if value != ""}

    def silence(self, time_s: float, *, is_step: bool) -> Iterator[dict]:
        """No step where there should have been several."""
        if is_step or self.planned > 0 or self.last_step_s is None or not self.step_s:
            return
        patience_s = max(SILENT_S, SILENT_STEPS * median(self.step_s))
        if not self.is_silent and time_s - self.last_step_s > patience_s:
            self.is_silent = True
            yield from self.alarm(time_s, "", "", 0.6, rule="silence")

    def step(self, time_s: float, row: dict) -> Iterator[dict]:
        """Steps that take too long, losses that jump."""
        self.last_step_s, self.is_silent = time_s, False
        if row["attempt"] != self.attempt:
            self.attempt, self.settling = row["attempt"], SETTLING_STEPS
            self.loss.clear()  # it is back at a checkpoint
        if self.settling:
            self.settling -= 1
            return
        yield from self.pace(time_s, row["step_time_s"])
        yield from self.course(time_s, row["loss"])

    def pace(self, time_s: float, step_s: float) -> Iterator[dict]:
        """One step that stalls, or several that are slow."""
        self.recent_s.append(step_s)
        if len(self.step_s) >= WINDOW_STEPS // 2:
            usual_s, now_s = median(self.step_s), median(self.recent_s)
            # The median of n values scatters by 1.25 / sqrt(n) of what one does.
            scatter_s = 1.25 * spread(self.step_s, usual_s) / math.sqrt(SLOW_STEPS)
            was_slow = self.is_slow
            self.is_slow = now_s - usual_s > max(SLOW_Z * scatter_s, SLOW_SHARE * usual_s)
            if step_s > STALL_RATIO * usual_s:
                yield from self.alarm(time_s, "link-flap", "", 0.4, rule="stall")
            elif self.is_slow and not was_slow:
                yield from self.alarm(time_s, "straggler-gpu", "", 0.5, rule="slow")
        self.step_s.append(step_s)

    def course(self, time_s: float, loss: float | None) -> Iterator[dict]:
        """A loss that is no number, or far above what it was."""
        if loss is None or not math.isfinite(loss):
            yield from self.alarm(time_s, "loss-nan", "job", 0.95)
            return
        if len(self.loss) >= WINDOW_STEPS // 2:
            usual = median(self.loss)
            if loss - usual > max(SPIKE_NATS, SLOW_Z * spread(self.loss, usual)):
                yield from self.alarm(time_s, "loss-spike", "job", 0.7)
        self.loss.append(loss)

    def message_logged(self, time_s: float, row: dict) -> Iterator[dict]:
        """What the machine says itself."""
        name = row["message"]
        kind = XID_CLASSES.get(row["code"]) if name == "kernel_xid" else MESSAGE_CLASSES.get(name)
        if kind is None:
            return
        rank, node = row["rank"], row["node"]
        entity = f"node {node}" if rank is None else f"gpu {rank}"
        if kind in OF_THE_JOB:
            entity = "job"
        elif kind in OF_THE_STORAGE:
            entity = "storage"
        # The first Xid of a GPU is the cause, the others follow from it.
        rule = "xid" if name == "kernel_xid" else ""
        yield from self.alarm(time_s, kind, entity, 0.9, rule)

    def fleet(self, time_s: float, row: dict) -> Iterator[dict]:
        """GPUs that are gone, too hot, or too weak."""
        gone = set(row["lost"])
        new, self.lost = gone - self.lost, gone
        for kind, entity in self.places(new, "gpu-off-bus", "host-crash"):
            yield from self.alarm(time_s, kind, entity, 0.8)
        if gone or median(row["util_pct"]) < 50:
            return
        middle_c, middle_w = median(row["temp_c"]), median(row["power_w"])
        self.samples += 1
        hotter = self.unusual("hot", [t - middle_c for t in row["temp_c"]], HOT_C)
        weaker = self.unusual("weak", [1 - p / middle_w for p in row["power_w"]], WEAK_POWER)
        for kind, entity in self.places(hotter, "straggler-gpu", "fan-failure"):
            yield from self.alarm(time_s, kind, entity, 0.6, rule="hot")
        for kind, entity in self.places(weaker, "power-cap", "power-cap"):
            yield from self.alarm(time_s, kind, entity, 0.5, rule="weak")

    def unusual(self, what: str, values: list[float], limit: float) -> set[int]:
        """GPUs above their own usual value by `limit`, in this sample and the one before."""
        usual = self.usual.setdefault(what, list(values))
        odd = {g for g, value in enumerate(values) if value - usual[g] > limit}
        both = odd & self.odd.get(what, set())
        self.odd[what] = odd
        for g, value in enumerate(values):
            if g not in odd:
                usual[g] += (value - usual[g]) / min(self.samples, USUAL_SAMPLES)
        return both if self.samples > USUAL_SAMPLES else set()

    def places(self, gpus: set[int], of_one: str, of_node: str) -> Iterator[tuple[str, str]]:
        """(class, entity): whole nodes where most of their GPUs are meant, else single GPUs."""
        by_node: dict[int, list[int]] = {}
        for g in sorted(gpus):
            by_node.setdefault(g // self.gpus_per_node, []).append(g)
        for node, members in by_node.items():
            if 2 * len(members) > self.gpus_per_node:
                yield of_node, f"node {node}"
            else:
                yield from ((of_one, f"gpu {g}") for g in members)


def alarms(lines: Iterable[str]) -> Iterator[dict]:
    """The alarms of a log of events; rows that are not for us are not even read."""
    detector = Detector()
    for line in lines:
        if line.strip():
            yield from detector.take(json.loads(line))


def main() -> None:
    """Read a log, write alarms."""
    parser = argparse.ArgumentParser(description="A simple detector of what goes wrong in a run.")
    parser.add_argument("events", nargs="?", default="-", help="events.jsonl; - (default): stdin")
    file = parser.parse_args().events
    with sys.stdin if file == "-" else open(file, encoding="utf-8") as lines:  # noqa: PTH123 - short
        for alarm in alarms(lines):
            print(json.dumps(alarm))


if __name__ == "__main__":
    main()
