"""JobSource: computes the job's state of one run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import Phase
from ghosttrain.core.job.state import (
    SPENT,
    JobState,
    LastCheckpoint,
    LastStep,
    LastValidation,
    Spent,
)
from ghosttrain.core.laws.loss_scale import fp16_loss_scale
from ghosttrain.core.plan import Plan
from ghosttrain.core.steps import StepColumns, StepSource
from ghosttrain.core.timeline import INIT_PHASES, Incident, Span, Timeline, silent_nodes
from ghosttrain.core.units import TERA

F64 = NDArray[np.float64]

_SPENT_IN: Mapping[Phase, Spent] = MappingProxyType(
    {
        **dict.fromkeys(INIT_PHASES, "init"),
        Phase.TRAINING: "steps",
        Phase.VALIDATION: "validation",
        Phase.CHECKPOINT: "checkpoint",
        Phase.HANG: "hang",
        Phase.DOWN: "down",
        Phase.EXPORT: "export",
    }
)


class JobSource:
    """Computes the job's state of one run."""

    def __init__(self, plan: Plan, timeline: Timeline, steps: StepSource) -> None:
        self.plan, self.timeline, self.steps = plan, timeline, steps

    def at(self, time_s: float) -> JobState:
        """The job at a moment; before the start as at it, after the end as at that."""
        time_s = float(min(max(0.0, time_s), self.timeline.end_s))
        index = self.timeline.index_at(time_s)
        span, recipe = self.timeline.spans[index], self.plan.spec.recipe
        done = self._done_in(span, time_s)
        step = span.step + done
        last = self._last_step(index, done)
        spent = self._spent_by(index, time_s)
        kept_s = self._kept_s[index]
        if span.phase is Phase.TRAINING:
            kept_s += time_s - span.start_s
        per_node = min(self.plan.spec.cluster.gpus_per_node, self.plan.spec.cluster.gpus)
        return JobState(
            time_s=time_s,
            phase=span.phase,
            attempt=span.attempt,
            step=step,
            total_steps=recipe.total_steps,
            epoch=min(recipe.epochs, step // recipe.steps_per_epoch + 1),
            tokens=step * recipe.tokens_per_step,
            samples=step * recipe.global_batch_size,
            last=last,
            validation=self._last_validation(time_s),
            checkpoint=self._last_checkpoint(time_s),
            restarts=span.attempt - 1,
            faults=self._faults_by(time_s),
            steps_lost=self._steps_lost_by(time_s),
            nan_steps=self._nan_steps[index] + _astray(self.timeline, span, done),
            goodput=kept_s / time_s if time_s else 0.0,
            is_hung=span.phase is Phase.HANG,
            is_down=span.phase is Phase.DOWN,
            since_step_s=time_s - (last.end_s if last else 0.0),
            spent_s=spent,
            lost_s=max(0.0, spent["steps"] - kept_s),
            nodes_down=silent_nodes(self.timeline, span, time_s, per_node),
        )

    # What was done last.

    def _done_in(self, span: Span, time_s: float) -> int:
        """Steps completed in a span by a moment of it."""
        if span.phase is not Phase.TRAINING or not span.steps:
            return 0
        near = self.steps.in_progress(span, np.array([time_s]))
        return int(near.number[0]) + int(time_s >= near.end_s[0])

    def _last_step(self, index: int, done: int) -> LastStep | None:
        span, number = self.timeline.spans[index], done - 1
        if number < 0:
            before = self._trained_before[index]
            if before < 0:
                return None
            span = self.timeline.spans[before]
            number = span.steps - 1
        return self._of(self.steps.columns(span, number, 1))

    def _of(self, column: StepColumns) -> LastStep:
        plan, step = self.plan, int(column.step[0])
        flops_per_s = column.tokens_per_s[0] * plan.flops_per_token
        scale = None
        if plan.spec.recipe.precision == "fp16":
            scale = int(fp16_loss_scale(column.step)[0])
        return LastStep(
            step=step,
            end_s=float(column.end_s[0]),
            loss=float(column.loss[0]),
            grad_norm=float(column.grad_norm[0]),
            learning_rate=float(column.learning_rate[0]),
            step_time_s=float(column.step_time_s[0]),
            tokens_per_s=float(column.tokens_per_s[0]),
            mfu=float(column.mfu[0]),
            tflops_per_gpu=float(flops_per_s / plan.spec.cluster.gpus / TERA),
            eta_s=float(column.eta_s[0]),
            loss_scale=scale,
        )

    def _last_validation(self, time_s: float) -> LastValidation | None:
        made = self.timeline.validated
        number = bisect_right(made, time_s, key=lambda result: result.end_s)
        if not number:
            return None
        result = made[number - 1]
        loss, best = (math.nan if x is None else x for x in (result.loss, result.best))
        return LastValidation(result.step, result.end_s, loss, best)

    def _last_checkpoint(self, time_s: float) -> LastCheckpoint | None:
        number = bisect_right(self._saves, time_s, key=lambda span: span.end_s)
        if not number:
            return None
        span = self._saves[number - 1]
        return LastCheckpoint(span.step, span.end_s, span.duration_s, self.plan.checkpoint_bytes)

    @cached_property
    def _saves(self) -> list[Span]:
        """Checkpoints that were written to their end."""
        spans = self.timeline.spans
        return [span for span in spans if span.phase is Phase.CHECKPOINT and not span.cut]

    @cached_property
    def _trained_before(self) -> list[int]:
        """Index of the last span with steps before each span, -1 for none."""
        last, found = -1, []
        for index, span in enumerate(self.timeline.spans):
            found.append(last)
            if span.phase is Phase.TRAINING and span.steps:
                last = index
        return found

    # What adds up.

    @cached_property
    def _spent_before(self) -> F64:
        """Time spent before each span, by SPENT, shape (spans, 7)."""
        spans = self.timeline.spans
        rows = np.zeros((len(spans) + 1, len(SPENT)))
        column = {phase: SPENT.index(spent) for phase, spent in _SPENT_IN.items()}
        for index, span in enumerate(spans[:-1], 1):
            rows[index, column[span.phase]] = span.duration_s
        return np.cumsum(rows, axis=0)

    def _spent_by(self, index: int, time_s: float) -> Mapping[Spent, float]:
        span = self.timeline.spans[index]
        spent = dict(zip(SPENT, self._spent_before[index].tolist(), strict=True))
        if (doing := _SPENT_IN.get(span.phase)) is not None:
            spent[doing] += time_s - span.start_s
        return MappingProxyType(spent)

    @cached_property
    def _kept_s(self) -> list[float]:
        """Time before each span spent on steps that count by then.

        A strike takes what came after the checkpoint that the run goes back to, as
        `timeline.counted_spans` has it for the whole run.
        """
        spans, incidents = self.timeline.spans, self.timeline.incidents
        standing: list[tuple[int, float]] = []  # steps before a span, time kept up to its end
        kept = []
        for index, span in enumerate(spans):
            struck = _strike_before(spans, incidents, index)
            if struck is not None:
                while standing and standing[-1][0] >= struck.checkpoint_step:
                    standing.pop()
            before = standing[-1][1] if standing else 0.0
            kept.append(before)
            if span.phase is Phase.TRAINING:
                standing.append((span.step, before + span.duration_s))
        return kept

    @cached_property
    def _nan_steps(self) -> list[int]:
        """Steps without a loss done before each span."""
        total, found = 0, []
        for span in self.timeline.spans:
            found.append(total)
            total += _astray(self.timeline, span, span.steps)
        return found

    # What has befallen it.

    @cached_property
    def _onsets(self) -> tuple[list[float], list[Mapping[str, int]]]:
        """Onsets of the incidents in order, and how many of each kind there were by each."""
        made = sorted(self.timeline.incidents, key=lambda incident: incident.time_s)
        counts: list[Mapping[str, int]] = [MappingProxyType({})]
        for incident in made:
            name = incident.kind.name
            known = {**counts[-1], name: counts[-1].get(name, 0) + 1}
            counts.append(MappingProxyType(known))
        return [incident.time_s for incident in made], counts

    def _faults_by(self, time_s: float) -> Mapping[str, int]:
        onsets, counts = self._onsets
        return counts[bisect_right(onsets, time_s)]

    @cached_property
    def _losses(self) -> tuple[list[float], list[int]]:
        """When steps were lost, and how many by then."""
        made = [i for i in self.timeline.incidents if i.strike_s is not None]
        made.sort(key=lambda incident: incident.strike_s or 0.0)
        lost = np.cumsum([0, *(incident.steps_lost for incident in made)]).tolist()
        return [incident.strike_s or 0.0 for incident in made], lost

    def _steps_lost_by(self, time_s: float) -> int:
        struck, lost = self._losses
        return lost[bisect_right(struck, time_s)]


def _strike_before(
    spans: tuple[Span, ...], incidents: tuple[Incident, ...], index: int
) -> Incident | None:
    """The incident that ended a launch right before span `index`."""
    span = spans[index]
    if not span.incident or (index and spans[index - 1].incident):
        return None
    incident = incidents[span.incident - 1]
    return incident if incident.strike_s is not None else None


def _astray(timeline: Timeline, span: Span, done: int) -> int:
    """How many of the first `done` steps of a span have no loss."""
    if not span.effects or not done:
        return 0
    effects = timeline.effects_of(span)
    first = min((e.since_step for e in effects if e.effect == "loss-nan"), default=math.inf)
    return max(0, int(span.step + done - max(first - 1, span.step))) if first < math.inf else 0
