"""Sums over the spans of a run: energy, time by power level, steps, bytes.

Shapes: K = moments of one span; P = spans; L = levels of power.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters.moments import Moments, summed
from ghosttrain.core.events import Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.laws.faults import WAITING_LEVEL, waiting_level
from ghosttrain.core.laws.telemetry import copied_bytes, pcie_volume
from ghosttrain.core.laws.thermal import PHASE_LEVELS
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.timeline import Span, Timeline

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Levels of power at which what the limit does is known; linear between them.
POWER_LEVELS: Final = np.array([0.0, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.9625, 0.975, 0.9875, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums up to the start of each span (and past the last), shape (P + 1,) or (P + 1, grid).

    Attributes:
        base_j: Energy without load.
        level_s: Power level times time: energy over `dynamic_w`.
        at_level_s: Time in steps by power level.
        steps: Steps done, parts and repeated ones included.
        tx_bytes, rx_bytes: Sent and received over PCIe by each GPU.
    """

    base_j: F64
    level_s: F64
    at_level_s: F64
    steps: F64
    tx_bytes: F64
    rx_bytes: F64


class SpanSums:
    """Sums over the spans of one run, and what a moment adds in its span."""

    def __init__(
        self, plan: Plan, timeline: Timeline, fleet: FleetSource, signals: SignalSource
    ) -> None:
        self.plan, self.timeline, self.fleet = plan, timeline, fleet
        self.gpus, self._step_s = plan.spec.cluster.gpus, plan.step_time.total_s
        tokens = plan.spec.recipe.tokens_per_step / self.gpus
        self._pcie = pcie_volume(signals.volume.network_bytes, tokens)

    @cached_property
    def sums(self) -> Sums:
        """Sums over the spans."""
        spans = self.timeline.spans
        rows = np.array([self._of_span(span) for span in spans])
        weights = np.zeros((len(spans), len(POWER_LEVELS)))
        trained = rows[:, 5] > 0
        low, share = between(rows[trained, 6])
        at = np.flatnonzero(trained)
        weights[at, low] = (1 - share) * rows[trained, 5]
        weights[at, low + 1] = share * rows[trained, 5]
        columns = [summed(rows[:, i]) for i in range(5)]
        return Sums(
            base_j=columns[0],
            level_s=columns[1],
            at_level_s=summed(weights),
            steps=columns[2],
            tx_bytes=columns[3],
            rx_bytes=columns[4],
        )

    def _of_span(self, span: Span) -> tuple[float, ...]:
        """What a span adds to the sums; for how long and at which level it trained."""
        gpu, length = self.plan.spec.gpu, span.duration_s
        level = PHASE_LEVELS[self.fleet.doing(span)]
        base_w = gpu.loaded_idle_w if level >= 0 else gpu.idle_w
        level_s, steps, trained_s = max(0.0, level) * length, 0.0, 0.0
        if span.phase is Phase.TRAINING and span.steps:
            steps, trained_s = self._steps_of(span), length
            level_s = self._level_s(length, steps)
        tx, rx = self.pcie_bytes(span, length, steps)
        return base_w * length, level_s, steps, tx, rx, trained_s, training_level(span)

    def _steps_of(self, span: Span) -> float:
        """Steps done in a training span, with the part of one that a fault cut short."""
        if not span.cut:
            return float(span.steps)
        pace, after = self.fleet.pace, span.ordinal + span.steps
        clock = pace.at(after) - pace.at(span.ordinal)
        left_s = span.duration_s - clock * span.step_time_s
        # The one that was cut shows the pace of the last: see `StepSource.in_progress`.
        last_s = float(pace.factors(after - 1, after)[0]) * span.step_time_s
        return span.steps + max(0.0, left_s) / last_s

    def _level_s(self, trained_s: Any, steps: Any) -> Any:
        """Power level times time, of a time in which so many steps were done.

        A step that takes longer is longer by waiting: `waiting_level` over its length.
        """
        return WAITING_LEVEL * trained_s + (1 - WAITING_LEVEL) * self._step_s * steps

    def pcie_bytes(self, span: Span, length: Any, steps: Any) -> tuple[Any, Any]:
        """Bytes sent and received by a GPU in the first `length` seconds of a span."""
        pcie, plan = self._pcie, self.plan
        if span.phase in (Phase.TRAINING, Phase.VALIDATION):
            base = pcie.busy_bytes_per_s * length
            return base + pcie.step_tx_bytes * steps, base + pcie.step_rx_bytes * steps
        base = pcie.idle_bytes_per_s * length
        whole_s = span.due_s - span.start_s
        if whole_s <= 0:
            return base, base
        share = length / whole_s
        match span.phase:
            case Phase.CHECKPOINT:
                return base + share * copied_bytes(plan.checkpoint_bytes, self.gpus), base
            case Phase.EXPORT:
                return base + share * copied_bytes(plan.export_bytes, self.gpus), base
            case Phase.WEIGHTS:
                return base, base + share * copied_bytes(self.loaded_bytes(span), self.gpus)
            case _:
                return base, base

    def loaded_bytes(self, span: Span) -> float:
        """What is read at a launch: a checkpoint, a base model, or nothing."""
        if span.step:
            return float(self.plan.checkpoint_bytes)
        return float(self.plan.export_bytes) if self.plan.spec.recipe.continued_loss else 0.0

    def inside(self, at: Moments) -> tuple[F64, F64]:
        """Time since the span's start and steps done since, shape (K,) each."""
        since = np.clip(at.time_s - at.span.start_s, 0.0, at.span.duration_s)
        if at.steps is None:
            return since, np.zeros_like(since)
        length = at.steps.factor * self._step_s
        done = at.steps.number + np.maximum(0.0, at.time_s - at.steps.begin_s) / length
        sums = self.sums.steps
        return since, np.minimum(done, sums[at.span_index + 1] - sums[at.span_index])

    def level_s(self, at: Moments, since: F64, steps: F64) -> F64:
        """Power level times time since the span's start, shape (K,)."""
        if at.steps is not None:
            return np.asarray(self._level_s(since, steps))
        return np.asarray(max(0.0, PHASE_LEVELS[self.fleet.doing(at.span)]) * since)

    def pcie_rates(self, at: Moments) -> tuple[F64, F64]:
        """Bytes/s sent and received over PCIe by each GPU, shape (K,) each."""
        one = np.ones(len(at.time_s))
        per_s = np.zeros_like(one)
        if at.steps is not None:
            per_s = 1 / (at.steps.factor * self._step_s)
        tx, rx = self.pcie_bytes(at.span, one, per_s)
        return np.asarray(tx), np.asarray(rx)


def training_level(span: Span) -> float:
    """Mean power level of most GPUs in a training span, whenever it ends."""
    return float(waiting_level(span.factor))


def between(level: F64) -> tuple[I64, F64]:
    """Position of levels on the grid: the point below, and the share of the one above."""
    low = np.clip(POWER_LEVELS.searchsorted(level, side="right") - 1, 0, len(POWER_LEVELS) - 2)
    share = (level - POWER_LEVELS[low]) / (POWER_LEVELS[low + 1] - POWER_LEVELS[low])
    return low, np.clip(share, 0.0, 1.0)
