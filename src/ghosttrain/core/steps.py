"""Dense values per step: time, loss, gradient norm, learning rate, pace to the end.

Shapes: S = steps in the window. Everything is a pure function of (seed, step) or, for times,
of (seed, executed ordinal) and the span that holds the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.faults import (
    LOSS_EFFECTS,
    ActiveEffect,
    bounded_excess,
    grad_norm_factor,
    loss_excess,
)
from ghosttrain.core.laws.loss import GRAD_TAPS, learning_rate_ratio, tail_table
from ghosttrain.core.laws.pace import PaceClock
from ghosttrain.core.plan import Plan, checkpoint_steps, validation_steps
from ghosttrain.core.rng import F32, Stream, normal_from_lanes
from ghosttrain.core.timeline import Span, Timeline
from ghosttrain.core.units import TERA

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Bursts of the gradient norm in a public 124M log: 0.28 % of steps above 1.5 times the trend,
# 0.09 % above twice, the largest 7.4 times. A block of steps shares at most one; at the lower
# end half of them drown in the noise.
BURST_BLOCK = 270
_BURST_SHARE = 0.9
_SMALLEST_BURST, _LARGEST_BURST, _BURST_POWER = 1.5, 8.0, -0.61
_WARNED_BURST = 2.0
_SPARSE_STEPS = 2048  # between moments: so many a block of the pace clock costs
_LOSS_LINK = 0.17  # of log gradient norm with the loss's normal draw: 0.15 with the loss itself


@dataclass(frozen=True, slots=True, eq=False)
class StepColumns:
    """Consecutive steps of one span, in columns of shape (S,)."""

    step: I64
    end_s: F64
    step_time_s: F64
    loss: F64
    grad_norm: F64
    learning_rate: F64
    tokens_per_s: F64
    mfu: F64
    eta_s: F64


class Progress(NamedTuple):
    """Steps in progress at some moments of a training span, shape (K,) each.

    Attributes:
        number: Positions in the span.
        factor: Lengths over the undisturbed step.
        begin_s, end_s: Starts and ends.
    """

    number: I64
    factor: F64
    begin_s: F64
    end_s: F64


class StepSource:
    """Computes the steps of one run."""

    def __init__(self, plan: Plan, timeline: Timeline, seed: int, pace: PaceClock) -> None:
        self.plan, self.timeline, self.pace = plan, timeline, pace
        self._loss = Stream(seed, "loss")
        self._slow = Stream(seed, "grad_norm.slow")
        self._burst = Stream(seed, "grad_norm.burst")
        recipe = plan.spec.recipe
        validations, saves = validation_steps(recipe), checkpoint_steps(recipe)
        self._validations = np.asarray(validations, dtype=np.int64)
        self._saves = np.asarray(sorted({*validations, *saves}), dtype=np.int64)
        self._white = (1 - sum(tap * tap for tap in GRAD_TAPS) - _LOSS_LINK**2) ** 0.5
        self._tail = tail_table(plan.loss_curve.tail)
        self._flops_per_s = plan.spec.cluster.gpus * plan.peak_tflops * TERA / plan.flops_per_token

    def columns(self, span: Span, first: int, count: int) -> StepColumns:
        """Steps number `first` to `first + count - 1` of a training span (0 is its first)."""
        plan = self.plan
        step = np.arange(span.step + first + 1, span.step + first + count + 1)
        ordinal = span.ordinal + first
        scale = span.step_time_s
        step_time = self.pace.factors(ordinal, ordinal + count) * scale
        end = self.end_s(span, first, count)
        loss, grad_norm = self.loss_and_grad_norm(span, int(step[0]), count)
        ratio = learning_rate_ratio(plan.spec.recipe, step.astype(np.float64))
        tokens_per_s = plan.spec.recipe.tokens_per_step / step_time
        return StepColumns(
            step=step,
            end_s=end,
            step_time_s=step_time,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=plan.spec.recipe.peak_learning_rate * ratio,
            tokens_per_s=tokens_per_s,
            mfu=tokens_per_s / self._flops_per_s,
            eta_s=self.eta_s(step, span.slow),
        )

    def end_s(self, span: Span, first: int, count: int) -> F64:
        """Ends of steps number `first` to `first + count - 1` of a training span, shape (S,)."""
        ordinal = span.ordinal + first
        clock = self.pace.ends(ordinal, ordinal + count) - self.pace.at(span.ordinal)
        # The last step may round past its span's end.
        return np.minimum(clock * span.step_time_s + span.start_s, span.end_s)

    def in_progress(self, span: Span, time_s: F64) -> Progress:
        """Steps in progress at ascending moments of a training span that has steps.

        At its end a step is still in progress. After the last one, in a span that was cut, it is
        the last.
        """
        first, last = (self._guessed(span, float(at)) for at in (time_s[0], time_s[-1]))
        if last - first <= _SPARSE_STEPS * len(time_s):
            return self._progress(span, time_s, first, last)
        parts = []
        for k, at in enumerate(time_s.tolist()):
            near = self._guessed(span, at)
            parts.append(self._progress(span, time_s[k : k + 1], near, near))
        return Progress(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _guessed(self, span: Span, time_s: float) -> int:
        """Position of the step in progress, right but for rounding."""
        clock = (time_s - span.start_s) / span.step_time_s + self.pace.at(span.ordinal)
        return max(0, min(self.pace.completed(clock) - span.ordinal, span.steps - 1))

    def _progress(self, span: Span, time_s: F64, first: int, last: int) -> Progress:
        """Steps in progress, which are from `first` to `last` but for rounding."""
        first, last = max(0, first - 2), min(span.steps - 1, last + 1)
        ends = self.end_s(span, first, last - first + 1)
        at = np.minimum(ends.searchsorted(time_s, side="left"), last - first)
        ordinal = span.ordinal + first
        factors = self.pace.factors(ordinal, span.ordinal + last + 1) * span.step_time_s
        begins = np.concatenate([[span.start_s if first == 0 else np.nan], ends[:-1]])
        return Progress(at + first, factors[at] / self.plan.step_time.total_s, begins[at], ends[at])

    def loss(self, span: Span, first_step: int, count: int) -> F64:
        """Training loss of steps [first_step, first_step + count) of a training span."""
        lanes = self._loss.lanes(first_step + span.skipped_batches, count)
        step = np.arange(first_step, first_step + count, dtype=np.float64)
        loss = self.plan.loss_curve.loss(step, _loss_draws(lanes, self._tail)[1])
        return loss + self._excess(span, step) if span.effects else loss

    def _excess(self, span: Span, step: F64) -> F64:
        """Nats that effects of faults add at `step`, within what a lost model can come to."""
        total = np.zeros_like(step)
        for effect in self._loss_effects(span):
            total += loss_excess(effect.effect, effect.severity, step - effect.since_step)
        vocabulary = self.plan.spec.model.vocab_size
        return bounded_excess(total, self.plan.loss_curve.mean(step), vocabulary)

    def _loss_effects(self, span: Span) -> list[ActiveEffect]:
        effects = self.timeline.effects_of(span)
        return [effect for effect in effects if effect.effect in LOSS_EFFECTS]

    def mean_loss(self, parts: Iterable[tuple[Span, int, int]]) -> float:
        """Mean of the losses of `count` steps from `first_step` on, of each of some spans."""
        chunk = 8192  # whatever the length of an epoch, little memory
        sums, steps = [], 0
        for span, first_step, count in parts:
            sums += [
                self.loss(span, first_step + done, min(chunk, count - done)).sum()
                for done in range(0, count, chunk)
            ]
            steps += count
        return float(np.sum(sums)) / steps

    def loss_and_grad_norm(self, span: Span, first_step: int, count: int) -> tuple[F64, F64]:
        """Loss and gradient norm of steps [first_step, first_step + count) of a training span."""
        curve = self.plan.loss_curve
        batch = first_step + span.skipped_batches
        lanes = self._loss.lanes(batch, count)
        step = np.arange(first_step, first_step + count, dtype=np.float64)
        z_normal, z_loss = _loss_draws(lanes, self._tail)
        loss = curve.loss(step, z_loss)
        memory = len(GRAD_TAPS) - 1
        slow_lanes = self._slow.lanes(batch, count + memory)
        innovation = normal_from_lanes(slow_lanes[:, 0], slow_lanes[:, 1])
        white = normal_from_lanes(slow_lanes[:count, 2], slow_lanes[:count, 3])
        z = self._white * white + _LOSS_LINK * z_normal
        for lag, tap in enumerate(GRAD_TAPS):
            z += tap * innovation[memory - lag : memory - lag + count]
        grad_norm = curve.grad_norm_trend(step) * np.exp(curve.grad_noise_sd(step) * z)
        at, size = self._all_bursts(first_step, first_step + count)
        grad_norm[at - first_step] *= size
        if span.effects:
            loss += self._excess(span, step)
            for effect in self._loss_effects(span):
                since = step - effect.since_step
                grad_norm *= grad_norm_factor(effect.effect, effect.severity, since)
        return loss, grad_norm

    def bursts(self, start: int, stop: int) -> tuple[I64, F64]:
        """Steps in [start, stop) whose gradient norm at least doubles, and by which factor."""
        step, size = self._all_bursts(start, stop)
        large = size >= _WARNED_BURST
        return step[large], size[large]

    def _all_bursts(self, start: int, stop: int) -> tuple[I64, F64]:
        """Steps in [start, stop) whose gradient norm bursts, and by which factor (1.5 to 8)."""
        first = start // BURST_BLOCK
        count = (stop - 1) // BURST_BLOCK - first + 1
        u = self._burst.uniform(4 * first, 4 * count).reshape(count, 4)
        step = ((np.arange(first, first + count) + u[:, 0]) * BURST_BLOCK).astype(np.int64)
        size = np.minimum(1 + (_SMALLEST_BURST - 1) * (1 - u[:, 1]) ** _BURST_POWER, _LARGEST_BURST)
        settled = step > max(50, self.plan.spec.recipe.warmup_steps)
        here = (u[:, 2] < _BURST_SHARE) & (step >= start) & (step < stop) & settled
        return step[here], size[here]

    def eta_s(self, step: I64, slow: float) -> F64:
        """Time to the end of the run after `step`: steps at the present pace, planned stops."""
        plan, phases = self.plan, self.plan.phases
        total = plan.spec.recipe.total_steps
        validations = len(self._validations) - np.searchsorted(self._validations, step, "left")
        saves = len(self._saves) - np.searchsorted(self._saves, step, "left")
        stops = validations * phases.validation_s + saves * phases.checkpoint_s + phases.export_s
        return np.asarray((total - step) * plan.step_time.total_s * slow + stops)


def _loss_draws(lanes: NDArray[np.uint16], tail: F32) -> tuple[F64, F64]:
    """Standard normal of each step's lanes, alone and with the tail of the noise."""
    normal = normal_from_lanes(lanes[:, 0], lanes[:, 1])
    return normal, normal + tail.take(lanes[:, 2], mode="clip")
