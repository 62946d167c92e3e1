"""Invariants of faults: what breaks, and who says so."""

from __future__ import annotations

import math

from ghosttrain.checking.faults import kind_of
from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import History, speaks
from ghosttrain.checking.invariants.course import slack_of
from ghosttrain.checking.observations import Observation

_EFFECT_OF_MESSAGE = {
    "trainer_nan_loss": "loss-nan",
    "trainer_storage_full": "full-storage",
    "trainer_storage_slow": "slow-storage",
}


def faults_are_numbered(o: Observation, h: History) -> Findings:
    """Faults are numbered from 1; their GPU is one of the run's and of their node."""
    if o.kind != "fault_occurred":
        return
    number, gpu, node = o.get("fault"), o.get("gpu"), o.get("node")
    if number and h.begins_here:
        yield equal(o.line, "fault number", number.value, h.faults.told + 1.0, 0, "the next")
    if gpu and h.facts.gpus is not None:
        yield within(o.line, "GPU", gpu.value, 0, h.facts.gpus.value - 1)
    per_node = h.facts.gpus_per_node
    if gpu and node and per_node is not None:
        expected = float(gpu.value // per_node.value)
        yield equal(o.line, "node of the GPU", node.value, expected, 0, "GPU / GPUs per node")
    attempt = o.get("attempt")
    if attempt and h.attempt is not None and h.begins_here:
        yield equal(o.line, "attempt", attempt.value, float(h.attempt), 0, "the last one launched")


def faults_are_of_a_known_kind(o: Observation, h: History) -> Findings:
    """A fault is of a kind of the catalogue, with its first Xid, at as many GPUs as that breaks."""
    if o.kind != "fault_occurred":
        return
    name = o.words.get("kind", "")
    kind = kind_of(name)
    yield Stated(o.line, kind is not None, f"fault of kind {name!r}", "one of the catalogue")
    if kind is None:
        return
    if xid := o.get("xid"):
        first = float(kind.xids[0]) if kind.xids else 0.0
        yield equal(o.line, "Xid", xid.value, first, 0, f"the first of {kind.name}")
    gpu, gpus, per_node, all_gpus = (
        o.get("gpu"),
        o.get("gpus"),
        h.facts.gpus_per_node,
        h.facts.gpus,
    )
    if not gpu or not gpus or per_node is None or all_gpus is None:
        return
    rest = all_gpus.value - gpu.value
    what = f"GPUs of a {kind.scope}"
    match kind.scope:
        case "gpu":
            yield equal(o.line, what, gpus.value, 1.0, 0)
        case "node":
            yield equal(o.line, what, gpus.value, min(per_node.value, rest), 0, "a whole node")
        case "rack":
            whole = gpus.value == rest or gpus.value % per_node.value == 0
            found = f"{gpus.value:.0f} {what} from GPU {gpu.value:.0f} on"
            starts = gpu.value % per_node.value == 0
            yield Stated(o.line, whole and starts and gpus.value <= rest, found, "whole nodes")
        case _:
            yield equal(o.line, what, gpus.value, all_gpus.value, 0, "all")


def messages_are_of_a_fault(o: Observation, h: History) -> Findings:
    """A message belongs to a fault that has begun and is not over."""
    number, text, code = o.get("fault"), o.words.get("message", ""), o.get("code")
    if o.kind != "message_logged" or not h.begins_here:
        return
    if not number:
        if text == "kernel_xid" and code:
            told = {xid for f in h.faults.standing() if f.kind for xid in f.kind.xids}
            found = f"Xid {code.value:.0f}"
            expected = ", ".join(map(str, sorted(told))) or "none"
            yield Stated(o.line, int(code.value) in told, found, expected)
        return
    if not number.value:
        return
    fault = h.faults.of(o)
    known = f"{text} of fault {number.value:.0f}"
    yield Stated(o.line, fault is not None, known, "a fault that has occurred")
    if fault is None:
        return
    yield Stated(o.line, fault.label is None, f"{known}, which is over", "none after its label")
    wanted = _EFFECT_OF_MESSAGE.get(text)
    if wanted is not None:
        yield Stated(o.line, fault.effect == wanted, f"{text} of {fault.name}", f"one of {wanted}")
    if text == "kernel_xid" and fault.kind is not None and code:
        xids = ", ".join(map(str, fault.kind.xids)) or "none"
        found = f"Xid {code.value:.0f} of {fault.name}"
        yield Stated(o.line, int(code.value) in fault.kind.xids, found, xids)


def messages_are_of_a_place(o: Observation, h: History) -> Findings:
    """The rank that writes is on the node that is named; both are the run's."""
    if o.kind != "message_logged":
        return
    node, rank, ranks = o.get("node"), o.get("rank"), o.get("ranks")
    f = h.facts
    if node and f.nodes is not None:
        yield within(o.line, "node", node.value, 0, f.nodes.value - 1)
    if rank and f.gpus is not None:
        yield within(o.line, "rank", rank.value, 0, f.gpus.value - 1)
    if rank and node and f.gpus_per_node is not None:
        expected = float(rank.value // f.gpus_per_node.value)
        yield equal(o.line, "node of the rank", node.value, expected, 0, "rank / GPUs per node")
    if ranks and f.gpus is not None:
        yield within(o.line, "ranks that write it", ranks.value, 1, f.gpus.value)
    attempt = o.get("attempt")
    if attempt and h.attempt is not None and h.begins_here:
        yield equal(o.line, "attempt", attempt.value, float(h.attempt), 0, "the last one launched")


def messages_tell_what_was_seen(o: Observation, h: History) -> Findings:
    """Numbers in messages are those of the run."""
    value, text = o.get("value"), o.words.get("message")
    if o.kind != "message_logged" or not value or not h.begins_here or h.has_holes:
        return
    fault = h.faults.of(o)
    if text == "trainer_nan_loss" and fault is not None and h.facts.prints_every_step:
        first = math.nan if fault.loss_nan_step is None else float(fault.loss_nan_step)
        seen = fault.loss_nan_step is not None
        yield Stated(o.line, seen, "a loss that is no number", "a step that has one")
        yield equal(o.line, "first step without a loss", value.value, first, 0, "the first such")
    if text == "trainer_rollback" and h.restart is not None:
        skipped = h.restart.numbers["skipped_batches"].value
        yield equal(o.line, "batches to skip", value.value, skipped, value.half, "the restart's")
    if text == "trainer_checkpoint_corrupt" and h.abort is not None and h.saves is not None:
        back = h.abort.get("checkpoint_step")
        newer = [step for step in h.saves if back is None or step > back.value]
        found = f"unreadable checkpoint of step {value.value:,.0f}"
        wanted = " or ".join(map(str, newer)) or "none newer than what was gone back to"
        yield Stated(o.line, value.value in newer, found, wanted)
    if text == "trainer_storage_full" and h.facts.checkpoint_bytes is not None:
        yield equal(
            o.line, "bytes", value.value, h.facts.checkpoint_bytes.value, value.half, "a checkpoint"
        )


def slow_saves_are_told_in_time(o: Observation, h: History) -> Findings:
    """Who says how long a checkpoint takes says so while it is written, and is right."""
    if not h.begins_here or h.has_holes or not h.facts.prints_every_step:
        return
    name = h.phase.words.get("phase") if h.phase is not None else None
    if o.words.get("message") == "trainer_storage_slow":
        yield Stated(o.line, name == "checkpoint", "a slow save", "a checkpoint being written")
    took = o.get("duration_s")
    if o.kind == "phase_ended" and name == "checkpoint" and took and h.saving_said is not None:
        said = h.saving_said.numbers["value"]
        slack = slack_of(said, took)
        yield equal(o.line, "seconds of saving", took.value, said.value, slack, "as was said")


def spares_are_known(o: Observation, h: History) -> Findings:
    """Each place that a spare has taken has one of its own, and no swap is forgotten."""
    if o.kind not in ("message_logged", "watchdog_timed_out") or h.facts.nodes is None:
        return
    spares = {int(name.partition(".")[2]): value.value for name, value in o.numbers.items()
              if name.startswith("spares.")}  # fmt: skip
    nodes = h.facts.nodes.value
    if spares:
        yield within(o.line, "node of a spare", float(max(spares)), 0, nodes - 1)
        yield within(o.line, "physical node of a spare", min(spares.values()), nodes, math.inf)
        apart = len(set(spares.values())) == len(spares)
        yield Stated(o.line, apart, "two places with one spare", "one each")
    if h.facts.prints_every_step and h.begins_here and not h.has_holes:
        without = sorted(h.swapped - set(spares))
        text = f"no spare at node {without[0]}" if without else "spares"
        yield Stated(o.line, not without, text, "one where a restart swapped the node")


def the_dead_say_nothing(o: Observation, h: History) -> Findings:
    """A node that is gone writes nothing until the next launch, neither its ranks nor its agent."""
    rank = o.get("reporter" if o.kind == "watchdog_timed_out" else "rank")
    from_program = speaks(o) or o.words.get("message", "").startswith("agent_")
    if o.kind == "watchdog_timed_out" or (o.kind == "message_logged" and from_program):
        gone = h.gone
        if rank and gone is not None:
            found = f"rank {rank.value:.0f} writes, which is gone by {gone.name}"
            yield Stated(o.line, int(rank.value) not in gone.gpus(), found, "a rank that is there")


INCIDENT_INVARIANTS = (
    faults_are_numbered,
    faults_are_of_a_known_kind,
    messages_are_of_a_fault,
    messages_are_of_a_place,
    messages_tell_what_was_seen,
    slow_saves_are_told_in_time,
    spares_are_known,
    the_dead_say_nothing,
)
