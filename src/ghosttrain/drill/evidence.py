"""What could be seen of an incident, from when on, where, and how large it was.

When is the label's; how large is measured on the run itself, as a player could have.

Shapes: S = steps, G = GPUs of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import IncidentLabelled, Phase, StepsCompleted
from ghosttrain.core.timeline import Incident, Span
from ghosttrain.drill.readings import COLUMNS, COUNTERS, Readings
from ghosttrain.views.renderables.numbers import duration, short_time

F64 = NDArray[np.float64]

_STEPS = 60  # before and after, whose means are compared
# Where a player would have seen a signal first, and what it is called in words.
WHERE = {
    "step_time": ("metrics", "step time"),
    "throughput": ("metrics", "throughput"),
    "loss": ("metrics", "loss"),
    "grad_norm": ("metrics", "gradient norm"),
    "power": ("compare", "power"),
    "temperature": ("compare", "temperature"),
    "sm_clock": ("compare", "SM clock"),
    "tensor_active": ("compare", "tensor activity"),
    "ib": ("gpu", "network traffic"),
    "nvlink": ("compare", "NVLink errors"),
    "pcie": ("compare", "PCIe replays"),
    "ecc": ("compare", "ECC errors"),
    "xid": ("xid", "Xid"),
    "log": ("log", "log"),
    "checkpoint_time": ("log", "checkpoint time"),
    "validation_time": ("log", "validation time"),
    "telemetry_lost": ("gpus", "telemetry"),
}
_TELEMETRY = {
    "power": "power",
    "temperature": "temp",
    "sm_clock": "clock",
    "tensor_active": "tensor",
    "ib": "network",
}
_STEP_COLUMNS = {
    "step_time": ("step_time_s", ",.3f", " s"),
    "throughput": ("tokens_per_s", ",.0f", " tok/s"),
    "loss": ("loss", ".4f", ""),
    "grad_norm": ("grad_norm", ".3f", ""),
}
_PHASES = {"checkpoint_time": Phase.CHECKPOINT, "validation_time": Phase.VALIDATION}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A signal: its name in words, since when, which command shows it, its size in words."""

    name: str
    time_s: float
    where: str
    size: str


class Measuring:
    """Measures the evidence of one incident."""

    def __init__(
        self, readings: Readings, label: IncidentLabelled, first_log: Callable[[float], str]
    ) -> None:
        self._readings, self._label, self._first_log = readings, label, first_log
        self._run = readings.run
        self._incident: Incident = self._run.timeline.incidents[label.incident - 1]
        self._window_s = _STEPS * self._run.plan.step_time.total_s

    def all(self) -> list[Evidence]:
        """All signals of the label, in order of time."""
        found = []
        for name, time_s in self._label.signals:
            where, words = WHERE.get(name, ("log", name.replace("_", " ")))
            found.append(Evidence(words, time_s, where, self._size(name, time_s)))
        return found

    def _size(self, name: str, time_s: float) -> str:
        struck_s = self._incident.strike_s
        struck = struck_s is not None and time_s >= struck_s and self._incident.reason == "fault"
        if name in _PHASES:
            return self._longer(_PHASES[name], time_s)
        if name in ("nvlink", "pcie", "ecc"):
            return self._counted()
        if name == "xid":
            xids = ", ".join(str(xid) for xid in self._incident.kind.xids)
            return f"Xid {xids} on gpu {self._label.first_rank}"
        if name == "telemetry_lost":
            more = f" and {self._label.ranks - 1} more" if self._label.ranks > 1 else ""
            return f"gpu {self._label.first_rank}{more} answers no more"
        if name == "log":
            return self._first_log(time_s)
        if name in _STEP_COLUMNS:
            return self._no_step(time_s) if struck else self._steps(name, time_s)
        if name in _TELEMETRY:
            return self._telemetry(_TELEMETRY[name], time_s, struck=struck)
        return ""

    def _until_s(self) -> float:
        """When the effect was over, or cut short by what else happened."""
        i, end_s = self._incident, self._run.end_s
        struck = (other.strike_s for other in self._run.timeline.incidents)
        ends = [s for s in struck if s is not None and s > i.time_s]
        ends += [s for s in (i.mitigated_s, end_s) if s is not None]
        return min(ends)

    # Steps.

    def _steps(self, name: str, time_s: float) -> str:
        column, form, unit = _STEP_COLUMNS[name]
        onset_s = self._label.onset_s
        before = self._readings.steps(
            max(self._readings.training_s, onset_s - self._window_s), onset_s
        )
        after = self._felt_steps(time_s)
        if before is None or after is None:
            return ""
        old = float(np.mean(getattr(before, column)))
        values = getattr(after, column)
        peak = self._label.kind.startswith("loss-spike") or self._incident.kind.course == "stall"
        step = f"from step {int(after.step[0]):,}"
        if not np.isfinite(values).all():
            return f"{old:{form}}{unit} before, no number {step}"
        if peak and name != "throughput":
            new = float(np.max(values))
            step = f"at step {int(after.step[int(np.argmax(values))]):,}"
        elif peak:
            new = float(np.min(values))
        elif name == "loss":
            return f"{self._off_trend(before, after)} {step}"
        else:
            new = float(np.mean(values[-_STEPS:]))
        change = f" ({100 * (new / old - 1):+.1f} %)" if old else ""
        return f"{old:{form}} → {new:{form}}{unit}{change} {step}"

    def _off_trend(self, before: StepsCompleted, after: StepsCompleted) -> str:
        """How far the loss has left its trend, which goes down all the while."""
        mean = self._run.plan.loss_curve.mean
        off = float(np.mean(before.loss - mean(before.step.astype(np.float64))))
        last = after.part(max(0, len(after.step) - _STEPS), len(after.step))
        trend = off + float(np.mean(mean(last.step.astype(np.float64))))
        new = float(np.mean(last.loss))
        return f"{new:.4f} where its trend is at {trend:.4f} ({new - trend:+.4f})"

    def _felt_steps(self, time_s: float) -> StepsCompleted | None:
        """The steps that felt it: from the first on to the end of the effect."""
        found = self._readings.steps(time_s, max(self._until_s(), time_s + 1e-6))
        if found is None:  # the one step of a stall
            found = self._readings.steps(time_s, time_s + self._window_s)
        return found

    def _no_step(self, time_s: float) -> str:
        spans = self._run.timeline.spans
        at = self._run.timeline.index_at(time_s)
        step = next((s.step for s in spans[at:]), 0)
        again = next((s.start_s for s in spans[at:] if s.phase is Phase.TRAINING and
                      s.start_s > time_s), self._run.end_s)  # fmt: skip
        return f"no step after step {step:,} for {duration(again - time_s)}"

    # GPUs.

    def _telemetry(self, column: str, time_s: float, *, struck: bool) -> str:
        onset_s = self._label.onset_s
        from_s = max(self._readings.training_s, onset_s - self._window_s)
        before = self._readings.telemetry(from_s, onset_s)
        if struck or self._incident.kind.course == "stall":
            after = self._readings.at(self._while_nothing_moves(time_s))
        else:
            until_s = self._until_s()
            begin_s = max(time_s, until_s - self._window_s)
            after = self._readings.telemetry(begin_s, math.nextafter(until_s, 0.0))
        here = np.zeros(len(before.columns[column]), bool)
        here[self._label.first_rank : self._label.first_rank + self._label.ranks] = True
        words = []
        for who, mask in (("the other GPUs", ~here), (self._label.entity, here)):
            old, new = (_mean(t.columns[column], mask) for t in (before, after))
            if mask.any() and math.isfinite(old) and math.isfinite(new):
                name = "all GPUs" if here.all() else who
                _, unit, form = COLUMNS[column]
                change = f" ({100 * (new / old - 1):+.1f} %)" if old else ""
                words.append(f"{name} {old:{form}} → {new:{form}} {unit}{change}")
        return ", ".join(words)

    def _while_nothing_moves(self, time_s: float) -> float:
        """A moment soon after a strike, with the phase that it brought."""
        span: Span = self._run.span_at(time_s)
        if self._incident.kind.course == "stall":
            return time_s + 0.5 * self._label.severity
        return min(time_s + 30.0, 0.5 * (time_s + max(time_s, span.end_s)))

    def _counted(self) -> str:
        until_s = math.nextafter(self._until_s(), 0.0)
        signs = [
            s for s in self._run.timeline.signs
            if s.incident == self._label.incident and s.name != "xid"
        ]  # fmt: skip
        texts = [
            f"{COUNTERS[s.name]} of gpu {s.first_gpu}: 0 → {s.value(until_s):,}" for s in signs
        ]
        return ", ".join(texts)

    def _longer(self, phase: Phase, time_s: float) -> str:
        """Duration of the stop that ended then, against the last one before."""
        spans = [s for s in self._run.timeline.spans if s.phase is phase and s.end_s <= time_s]
        if not spans:
            return ""
        took = short_time(spans[-1].duration_s)
        before = [s for s in spans[:-1] if s.end_s <= self._label.onset_s]
        usual = before[-1].duration_s if before else self._planned_s(phase)
        return f"{short_time(usual)} → {took} at step {spans[-1].step:,}"

    def _planned_s(self, phase: Phase) -> float:
        phases = self._run.plan.phases
        return phases.checkpoint_s if phase is Phase.CHECKPOINT else phases.validation_s


def _mean(values: F64, mask: NDArray[np.bool_]) -> float:
    chosen = values[mask & np.isfinite(values)]
    return float(chosen.mean()) if chosen.size else math.nan
