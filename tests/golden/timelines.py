"""Golden timelines: one run with one fault, told so that a person can judge it.

Times are seconds after the onset. Numbers of telemetry are rounded to what a person reads, so
that another build of NumPy, whose last bits may differ, tells the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ghosttrain import catalog
from ghosttrain.core.cascade import entity_words
from ghosttrain.core.events import (
    CheckpointSaved,
    Event,
    FaultOccurred,
    IncidentLabelled,
    MessageKind,
    MessageLogged,
    Phase,
    PhaseEnded,
    PhaseStarted,
    RunAborted,
    RunFinished,
    RunRestarted,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.messages import message_lines
from ghosttrain.core.messages.writer import writer_of
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.spec import Faults, InjectedFault, Recipe, RunSpec
from ghosttrain.core.timeline import Incident, Span

FOLDER = Path(__file__).with_name("faults")
SEED = 7
GPU, NODE = 17, 2
ONSET_STEP = 250
MOST_LINES = 5  # of one message: of longer ones the first, and what they end with
# Steps after the onset whose losses are told: of the attempt it strikes, and when done again.
_LOSS_AFTER = (-1, 0, 1, 2, 3, 4, 5, 6, 8, 12, 20, 40, 61, 100, 200, 300)
_LOSS_AGAIN = (-1, 0, 1, 2, 5, 61)
_NEAR_STEPS = 5  # to either side: of all of them a step time is the median

_KERNEL = (
    MessageKind.XID,
    MessageKind.OOM_KILL,
    MessageKind.PANIC,
    MessageKind.LINK_DOWN,
    MessageKind.LINK_UP,
    MessageKind.THROTTLE,
)
_SHORT = {
    Phase.TRAINING: "lost",  # the step in progress, where a fault strikes it
    Phase.VALIDATION: "valid",
    Phase.CHECKPOINT: "save",
    Phase.HANG: "hang",
    Phase.DOWN: "down",
    Phase.EXPORT: "export",
}
_ENDING = {MessageKind.AGENT_SUMMARY: 6, MessageKind.AGENT_SIGTERM: 1}  # lines, else 3
_AGENT = (MessageKind.AGENT_SIGTERM, MessageKind.AGENT_FAILED, MessageKind.AGENT_SUMMARY)
_SLURM = (
    MessageKind.NODE_FAILED,
    MessageKind.TASK_EXITED,
    MessageKind.STEP_CANCELLED,
    MessageKind.PREEMPTED,
)
_ONCALL = (
    MessageKind.OPERATOR_NOTICED,
    MessageKind.OPERATOR_EXCLUDED,
    MessageKind.OPERATOR_REPAIRED,
)


@dataclass(frozen=True, slots=True)
class Case:
    """How a kind is shown where the fixed run with its own draws would not show it.

    Attributes:
        why: Said in the head of the file.
        kind: Fields of the kind that are changed.
        then: (kind, step, GPU) of a second fault.
    """

    why: str = ""
    steps: int = 600
    gpu_name: str = "h100-sxm"
    severity: float | None = None
    duration_s: float | None = None
    kind: dict[str, Any] = field(default_factory=dict)
    then: tuple[str, int, int] | None = None


_LONG = 9000  # steps, some four and a half hours
_IN_A_QUARTER = {"detect_low_s": 600.0, "detect_high_s": 900.0}
_STOPPED = "detection within 15 min, and a run long enough that operators stop it"
CASES = {
    "nvlink5-error": Case("B200, as Hopper has no NVLink 5", gpu_name="b200", steps=1200),
    "slow-link": Case(
        f"a severity that this run feels; {_STOPPED}",
        steps=_LONG,
        severity=0.8,
        kind=_IN_A_QUARTER,
    ),
    "network-congestion": Case("a severity that this run feels", severity=0.8),
    "fan-failure": Case(_STOPPED, steps=_LONG, severity=0.6, kind=_IN_A_QUARTER),
    "hot-inlet": Case("a run that lasts as long", steps=_LONG, severity=12.0),
    "power-cap": Case("a run that lasts as long", steps=_LONG),
    "straggler-gpu": Case(
        "detection within 15 min, and a crash elsewhere later: the launch leaves the node out",
        steps=1200,
        kind=_IN_A_QUARTER,
        then=("hbm-ecc", 1000, 60),
    ),
    "slow-node": Case(_STOPPED, steps=_LONG, kind=_IN_A_QUARTER),
    "noisy-neighbour": Case("a run that lasts as long", steps=3000),
    "checkpoint-corrupted": Case("a crash later: somebody reads it", then=("gpu-fault", 400, 60)),
    "loss-spike-rollback": Case("detection within 15 min", steps=1200, kind=_IN_A_QUARTER),
    "divergence": Case("detection within 15 min", steps=1200, kind=_IN_A_QUARTER),
    "silent-data-corruption": Case("detection within 15 min", steps=1200, kind=_IN_A_QUARTER),
    "ecc-sbe-storm": Case("a run of an hour", steps=2000),
    "pcie-replays": Case("a run of an hour", steps=2000),
}


def case_spec(name: str) -> RunSpec:
    """The fixed run with the fault `name`."""
    case = CASES.get(name, Case())
    model, gpu = catalog.model("llama-3-8b"), catalog.gpu(case.gpu_name)
    kind = replace(catalog.fault_kind(name), **case.kind)
    injected = [
        InjectedFault(
            kind, gpu=GPU, at_step=ONSET_STEP, severity=case.severity, duration_s=case.duration_s
        )
    ]
    if case.then is not None:
        then, step, place = case.then
        injected.append(InjectedFault(catalog.fault_kind(then), gpu=place, at_step=step))
    return RunSpec(
        model=model,
        gpu=gpu,
        cluster=catalog.cluster(gpu, 64),
        dataset=catalog.dataset("fineweb-edu"),
        tokenizer=catalog.tokenizer(model.tokenizer),
        recipe=Recipe(
            seq_len=8192,
            global_batch_size=128,
            epochs=1,
            steps_per_epoch=case.steps,
            warmup_steps=50,
            validation_interval_steps=300,
            checkpoint_interval_steps=150,
        ),
        faults=Faults(injected=tuple(injected)),
    )


def timeline_text(name: str) -> str:
    """The golden file of a fault kind."""
    return _Text(name, simulate(case_spec(name), SEED)).text()


class _Text:
    """One file in the making."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.run, self.spec = name, run, run.spec
        self.incidents = run.timeline.incidents
        self.onset_s = self.incidents[0].time_s
        self.until_s = max((i.cleared_s or run.end_s) for i in self.incidents)
        self.signals = SignalSource(run.plan, run.seed)
        self.courses = {incident.kind.course for incident in self.incidents}

    def text(self) -> str:
        """All of it."""
        return "\n".join((*self._head(), "", *self._said(), "", *self._telemetry())) + "\n"

    def _head(self) -> Iterator[str]:
        case, incident = CASES.get(self.name, Case()), self.incidents[0]
        kind, recipe = incident.kind, self.spec.recipe
        yield f"{kind.name}: {kind.title} ({kind.family}, {kind.scope}, {kind.course})"
        yield (
            f"{self.spec.model.name} on 64 × {self.spec.gpu.name}, 8 nodes, seed {SEED}: "
            f"{recipe.total_steps:,} steps, saved every {recipe.checkpoint_interval_steps}, "
            f"validated every {recipe.validation_interval_steps}"
        )
        severity = f", severity {incident.severity:.3g}" if incident.severity else ""
        yield (
            f"onset in step {ONSET_STEP} at {entity_words(self.run.plan, incident)} "
            f"(asked for: GPU {GPU}){severity}"
        )
        if case.why:
            yield f"shown by: {case.why}"

    # Who says what.

    def _said(self) -> Iterator[str]:
        for event in self._events():
            for who, text in self._lines(event):
                yield f"{self._at(event.time_s):>13}  {who:<16}  {text}".rstrip()

    def _events(self) -> Iterator[Event]:
        """From the last step before the onset to the last label."""
        start_s = max(0.0, self.onset_s - 30.0)
        events = list(self.run.events(start_s, math.inf))
        last = max(n for n, e in enumerate(events) if isinstance(e, IncidentLabelled))
        first = next(n for n, e in enumerate(events) if isinstance(e, FaultOccurred))
        yield from filter(self._matters, events[first : last + 1])
        yield from (e for e in events[last + 1 :] if isinstance(e, RunFinished))

    def _matters(self, event: Event) -> bool:
        """Stops are told where they are what the fault is about, or lead to what follows."""
        match event:
            case PhaseStarted(phase=Phase.CHECKPOINT):  # else its end tells all
                return self.run.span_at(event.time_s).cut
            case ValidationCompleted():
                return bool(self.courses & {"save", "loss"})
            case CheckpointSaved():
                gone_back_to = {incident.checkpoint_step for incident in self.incidents}
                return "save" in self.courses or event.step in gone_back_to
            case _:
                return True

    def _at(self, time_s: float) -> str:
        """`+0.400s`, `+10m00.05s`, `+3h02m10s`."""
        since = time_s - self.onset_s
        if since < 59.9995:
            return f"{since:+.3f}s"
        if since < 3599.995:
            minutes, seconds = divmod(round(since * 100), 6000)
            return f"+{minutes}m{seconds / 100:05.2f}s"
        hours, seconds = divmod(round(since), 3600)
        return f"+{hours}h{seconds // 60:02d}m{seconds % 60:02d}s"

    def _lines(self, event: Event) -> Iterator[tuple[str, str]]:
        match event:
            case MessageLogged() | WatchdogTimedOut():
                raw = message_lines(event, self.run.plan, SEED)
                who = self._who(event)
                last = _ENDING.get(event.message, 3) if isinstance(event, MessageLogged) else 3
                for line in _shortened([text.expandtabs(4) for text in raw], last):
                    yield who, line
                    who = ""
            case FaultOccurred():
                where = f"GPUs {event.gpu} to {event.gpu + event.gpus - 1}"
                where = f"GPU {event.gpu}" if event.gpus == 1 else where
                yield (
                    "truth",
                    f"fault {event.fault}: {event.kind} at {where}, node {event.node}, after "
                    f"step {event.step} of attempt {event.attempt}",
                )
            case IncidentLabelled():
                yield "truth", self._label(event)
                seen = ", ".join(f"{name} {self._at(at)}" for name, at in event.signals)
                yield "", f"  first seen in: {seen or 'nothing'}"
            case StepsCompleted():
                return
            case _:
                if text := self._phase(event):
                    yield "run", text

    def _label(self, event: IncidentLabelled) -> str:
        def at(time_s: float | None) -> str:
            return "never" if time_s is None else self._at(time_s)

        benign = ", benign" if event.benign else ""
        return (
            f"fault {event.incident} over: {event.entity}, noticed {at(event.detected_s)}, "
            f"mended {at(event.mitigated_s)}, cleared {at(event.cleared_s)}, "
            f"{event.steps_lost} steps and {event.lost_s:.4g} s lost{benign}"
        )

    def _phase(self, event: Event) -> str:
        match event:
            case PhaseStarted(phase=Phase.HANG):
                return f"hang: no step after {event.step}"
            case PhaseStarted(phase=Phase.DOWN):
                return "down"
            case PhaseStarted(phase=Phase.CHECKPOINT):
                return f"checkpoint begins after step {event.step}"
            case RunAborted():
                return (
                    f"attempt {event.attempt} ended ({event.reason}) after step {event.step}, "
                    f"back to {event.checkpoint_step}"
                )
            case RunRestarted():
                swapped = f"node {', '.join(map(str, event.nodes))} swapped"
                node = swapped if event.nodes else "same nodes"
                skipped = f", {event.skipped_batches} batches skipped"
                return (
                    f"attempt {event.attempt} launched after {event.downtime_s:.4g} s down: from "
                    f"step {event.step}, {event.lost_steps} to repeat, {node}"
                    + (skipped if event.skipped_batches else "")
                )
            case PhaseEnded(phase=Phase.WEIGHTS):
                return f"weights loaded in {event.duration_s:.4g} s"
            case TrainingStarted():
                return f"training again after step {event.step}"
            case CheckpointSaved():
                return f"saved step {event.step} in {event.duration_s:.4g} s ({event.reason})"
            case ValidationCompleted():
                best = ", best" if event.improved else ""
                return f"validation loss {event.loss:.4g} in {event.duration_s:.4g} s{best}"
            case RunFinished():
                return f"run {event.reason} after step {event.summary.steps}"
            case _:
                return ""

    def _who(self, event: MessageLogged | WatchdogTimedOut) -> str:
        writer = writer_of(event, self.run.plan, SEED, None)
        if isinstance(event, WatchdogTimedOut):
            return f"rank {event.reporter}{_more(event.waiting_ranks)}"
        if event.message in _KERNEL:
            return f"kernel {writer.host}{_more(event.ranks)}"
        if event.message in _AGENT:
            return f"torchrun {writer.host}"
        if event.message in _SLURM:
            return f"slurm{_more(event.ranks)}"
        if event.message in _ONCALL or event.rank is None:
            return "oncall"
        return f"rank {event.rank}{_more(event.ranks)}"

    # What the telemetry says.

    def _telemetry(self) -> Iterator[str]:
        gpus = slice(self.incidents[0].gpu, self.incidents[0].gpu + self.incidents[0].gpus)
        whole = self.incidents[0].gpus == self.spec.cluster.gpus
        whom = "all" if whole else "peers/affected"
        yield f"telemetry ({whom}: means; signs: name, GPU, value)"
        yield (
            f"{'at':>13}  {'':<22}  {'step s':>6}  {'power W':>9}  {'util %':>7}  {'temp C':>7}  "
            f"{'SM MHz':>9}  {'tensor':>11}  signs"
        )
        for time_s, what in self._moments():
            yield self._row(time_s, what, None if whole else gpus)
        if any(i.kind.course == "loss" for i in self.incidents):
            yield ""
            yield from self._loss_rows()

    def _moments(self) -> list[tuple[float, str]]:
        """(time, in words) of the moments that show most."""
        run, first = self.run, self.incidents[0]
        found = [(self._end_of_step_before(), "before")]
        effects = [e for e in run.timeline.effects if e.incident == 1]
        for effect in effects:
            if first.kind.course != "slow":
                continue
            full_s = max(effect.since_s + effect.ramp_s, first.shown_s or 0.0)
            if effect.ramp_s:
                found.append((effect.since_s + effect.ramp_s / 2, "half way"))
            found.append((full_s + 300.0, "5 min at full effect"))
            if effect.until_s < run.end_s:
                if run.span_at(effect.until_s - 0.001).phase is Phase.TRAINING:
                    found.append((effect.until_s - 0.001, "before its end"))
                found.append((effect.until_s + 300.0, "5 min after its end"))
        if first.kind.course == "sign":
            found += [(self.onset_s + 60, "a minute later"), (self.onset_s + 1800, "30 min later")]
        if first.kind.course == "stall":
            found.append((self.onset_s + 0.8 * first.severity, "while it waits"))
        if first.kind.course == "save":
            for span in run.timeline.spans:
                if span.phase in (Phase.CHECKPOINT, Phase.VALIDATION) and span.end_s > self.onset_s:
                    found.append(((span.start_s + span.end_s) / 2, f"{span.phase}, half way"))
                    if len(found) == 5:
                        break
        for incident in self.incidents:
            found += self._moments_of_end(incident)
        end_s = min(run.end_s, self.until_s + 60.0)
        found.append((end_s - 0.001, "a minute after all" if end_s < run.end_s else "at the end"))
        return sorted((at, what) for at, what in found if at < run.end_s)

    def _end_of_step_before(self) -> float:
        ends, _ = self._columns(self.onset_s - 30.0, self.onset_s)
        return float(ends[-1])

    def _moments_of_end(self, incident: Incident) -> Iterator[tuple[float, str]]:
        struck_s, detected_s = incident.strike_s, incident.detected_s
        if struck_s is None:
            return
        if incident.kind.lead_high_s:
            yield (self.onset_s + struck_s) / 2, "half way to the strike"
        if incident.reason == "fault" and detected_s is not None:
            if incident.hangs:
                yield struck_s + 10.0, "10 s into the hang"
                yield detected_s - 0.001, "before the watchdog"
            else:
                yield struck_s + 0.9 * (detected_s - struck_s), "before the end"
        down = next(
            s for s in self.run.timeline.spans if s.phase is Phase.DOWN and s.end_s > struck_s
        )
        yield down.start_s + 30.0, "30 s down"
        again = next(
            (
                s
                for s in self.run.timeline.spans
                if s.start_s > down.end_s and s.phase is Phase.TRAINING and s.steps > 20
            ),
            None,
        )
        if again is not None:
            yield again.start_s + 10 * again.step_time_s * again.factor, "10 steps after launch"

    def _row(self, time_s: float, what: str, apart: slice | None) -> str:
        samples = self.run.fleet(time_s)
        signals = self.signals.at(samples, 0)
        span = self.run.span_at(math.nextafter(time_s, 0.0))  # at its end a step is still itself
        step_s = f"{self._step_time_s(span, time_s):.3f}" if span.steps else _SHORT[span.phase]
        columns = (
            (samples.power_w[0], "{:.0f}", 9),
            (samples.util_pct[0], "{:.0f}", 7),
            (samples.temp_c[0], "{:.0f}", 7),
            (signals.sm_clock_mhz, "{:.0f}", 9),
            (signals.tensor_active, "{:.3f}", 11),
        )
        lost = np.zeros(self.spec.cluster.gpus, bool)
        lost[list(samples.lost)] = True
        cells = [
            f"{_peers_and_affected(values, form, apart, lost):>{width}}"
            for values, form, width in columns
        ]
        signs = ", ".join(f"{name} {gpu} {value}" for name, gpu, value in signals.signs)
        row = f"{self._at(time_s):>13}  {what:<22}  {step_s:>6}  {'  '.join(cells)}  {signs}"
        return row.rstrip()

    def _step_time_s(self, span: Span, time_s: float) -> float:
        """Median of the steps about a moment, of one stretch."""
        ends = self._columns(span.start_s, span.end_s)
        at = int(np.searchsorted(ends[0], time_s))
        low = max(0, at - _NEAR_STEPS)
        return float(np.median(ends[1][low : at + _NEAR_STEPS + 1]))

    def _columns(self, start_s: float, stop_s: float) -> tuple[Any, Any]:
        batches = [
            event
            for event in self.run.events(start_s, math.nextafter(stop_s, math.inf))
            if isinstance(event, StepsCompleted)
        ]
        return (
            np.concatenate([b.end_s for b in batches]),
            np.concatenate([b.step_time_s for b in batches]),
        )

    def _loss_rows(self) -> Iterator[str]:
        usual = simulate(replace(self.spec, faults=Faults()), SEED)
        yield (
            f"{'at':>13}  {'attempt':>7}  {'step':>5}  {'loss':>6}  {'usual':>6}  "
            f"{'grad norm':>9}  {'usual':>6}"
        )
        for event in self.run.events(self.onset_s - 60.0, math.inf):
            if not isinstance(event, StepsCompleted):
                continue
            wanted = _LOSS_AFTER if event.attempt == 1 else _LOSS_AGAIN
            for n, step in enumerate(event.step.tolist()):
                if step - ONSET_STEP in wanted:
                    were = usual.steps(step, step)
                    yield (
                        f"{self._at(float(event.end_s[n])):>13}  {event.attempt:>7}  {step:>5}  "
                        f"{event.loss[n]:>6.3f}  {were.loss[0]:>6.3f}  "
                        f"{event.grad_norm[n]:>9.3g}  {were.grad_norm[0]:>6.3g}"
                    )


def _more(writers: int) -> str:
    return f" (+{writers - 1})" if writers > 1 else ""


def _shortened(lines: list[str], last: int) -> list[str]:
    if len(lines) <= MOST_LINES:
        return lines
    return [lines[0], f"... ({len(lines) - 1 - last} lines)", *lines[-last:]]


def _peers_and_affected(values: Any, form: str, apart: slice | None, lost: Any) -> str:
    """`690/612`: means of the others and of those affected, `-` where none answers."""

    def mean(where: Any) -> str:
        where = where & ~lost
        return form.format(float(values[where].mean(dtype=np.float64))) if where.any() else "-"

    every = np.ones(len(values), bool)
    if apart is None:
        return mean(every)
    affected = np.zeros(len(values), bool)
    affected[apart] = True
    return f"{mean(~affected)}/{mean(affected)}"


def write_all() -> None:
    """Write the file of every fault kind, and take away those of kinds that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name in catalog.names("fault"):
        golden_file(name).write_text(timeline_text(name), encoding="utf-8", newline="\n")


def golden_file(name: str) -> Path:
    """Where the timeline of a fault kind is kept."""
    return FOLDER / f"{name}.txt"
