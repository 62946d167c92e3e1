"""Scalars: what a trainer tells its experiment tracker, before any tracker's format.

A tag set turns events into columns of tagged values, by the definitions of one framework. It
holds no run and no clock, so that it can be pickled between two events.

Shapes: R = moments of a block, T = its tags, L = log steps, n = steps between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import Event, Phase, StepsCompleted, TrainingStarted, join_steps

if TYPE_CHECKING:
    from ghosttrain.core.run import Run

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NO_SAMPLES = 10**15  # steps between samples of the fleet, for whoever wants none of them


@dataclass(frozen=True, slots=True, eq=False)
class Scalars:
    """Values of some tags at some moments.

    Attributes:
        tags: T of them.
        step: Where the values stand on the tracker's axis, shape (R,).
        time_s: When they were told, run time, shape (R,).
        values: Shape (R, T).
        nan_is_absent: Whether a value that is no number is not told at all.
    """

    tags: tuple[str, ...]
    step: I64
    time_s: F64
    values: F64
    nan_is_absent: bool = False


def block(
    step: I64, time_s: F64, columns: Mapping[str, F64 | I64], *, nan_is_absent: bool = False
) -> Scalars:
    """Scalars of columns of shape (R,) by their tags."""
    values = np.column_stack([np.asarray(c, np.float64) for c in columns.values()])
    has_none = nan_is_absent and bool(np.isnan(values).any())
    return Scalars(tuple(columns), step, time_s, values, nan_is_absent=has_none)


def moment(step: int, time_s: float, values: dict[str, float]) -> Scalars:
    """Scalars of one moment."""
    row = np.array([list(values.values())], dtype=np.float64)
    return Scalars(tuple(values), np.array([step]), np.array([time_s]), row)


class TagSet(Protocol):
    """What one framework tells its tracker.

    Attributes:
        steps_back: How many earlier steps of a launch it must have seen to begin in its middle.
    """

    steps_back: int

    def accept(self, event: Event) -> Sequence[Scalars]:
        """What `event` adds; told in the order of time, at equal times in that of the blocks."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Stretches of steps that each end with a log step.

    Attributes:
        steps: All their steps in columns.
        starts: Where in them each stretch begins, shape (L,).
        ends: Where each one's last step is, shape (L,).
        elapsed_s: Since the last log step, launch or `reset_clock`, shape (L,).
        timed: Steps in that time: fewer than in the stretch where the clock was reset, shape (L,).
    """

    steps: StepsCompleted
    starts: I64
    ends: I64
    elapsed_s: F64
    timed: I64

    @property
    def counts(self) -> I64:
        """Steps of each stretch, shape (L,)."""
        return self.ends - self.starts + 1

    @property
    def step(self) -> I64:
        """The log steps, shape (L,)."""
        return self.steps.step[self.ends]

    @property
    def end_s(self) -> F64:
        """When they ended, shape (L,)."""
        return self.steps.end_s[self.ends]

    def mean(self, column: F64) -> F64:
        """Means of a column of the steps over each stretch, shape (L,)."""
        return np.add.reduceat(column, self.starts) / self.counts


class IntervalLog:
    """Collects steps until the next one that is logged: multiples of `every`.

    Sums are taken over whole stretches at once: batches of events change no bit of them.

    Args:
        every: Steps between two log steps.
        first_too: Whether step 1 is one as well.
    """

    def __init__(self, every: int, *, first_too: bool = False) -> None:
        self._every, self._first_too = every, first_too
        self._pending: StepsCompleted | None = None
        self._since_s = 0.0
        self._untimed = 0  # pending steps from before the clock was reset

    @property
    def since_s(self) -> float:
        """From when the time of the stretch in progress counts."""
        return self._since_s

    @property
    def waiting(self) -> int:
        """Steps since then."""
        return 0 if self._pending is None else len(self._pending.step) - self._untimed

    def launched(self, time_s: float) -> None:
        """Training begins anew: what was pending is lost with its processes."""
        self._pending, self._since_s, self._untimed = None, time_s, 0

    def reset_clock(self, time_s: float) -> None:
        """The time of the stretch in progress counts from here, and the steps in it."""
        self._since_s = time_s
        self._untimed = 0 if self._pending is None else len(self._pending.step)

    def accept(self, event: StepsCompleted) -> Intervals | None:
        """The stretches that `event` completes, None for none."""
        bare = replace(event, fleet=None, collectives=None)
        steps = bare if self._pending is None else join_steps([self._pending, bare])
        is_logged = steps.step % self._every == 0
        if self._first_too:
            is_logged |= steps.step == 1
        ends = np.flatnonzero(is_logged)
        if not len(ends):
            self._pending = steps
            return None
        done = int(ends[-1]) + 1
        self._pending = steps.part(done, len(steps.step)) if done < len(steps.step) else None
        starts = np.concatenate(([0], ends[:-1] + 1))
        closed_s = steps.end_s[ends]
        elapsed_s = np.diff(closed_s, prepend=self._since_s)
        timed = ends - starts + 1
        timed[0] -= self._untimed
        self._since_s, self._untimed = float(closed_s[-1]), 0
        return Intervals(steps.part(0, done), starts, ends, elapsed_s, timed)


def caught_up(tags: TagSet, run: Run, start_s: float) -> TagSet:
    """`tags`, having seen what it must know of the time before `start_s`.

    That is when the launch in progress began to train, and its steps since the log step before the
    last one at least.
    """
    if start_s <= 0:
        return tags
    spans, at = run.timeline.spans, run.timeline.index_at(start_s)
    launch, reached = spans[at].attempt, spans[at].step
    while at and spans[at - 1].attempt == launch and spans[at].step > reached - tags.steps_back:
        at -= 1
    for span in spans[:at]:
        if span.attempt == launch and span.phase is Phase.TRAINING:
            tags.accept(TrainingStarted(span.start_s, launch, span.step))
            break
    for event in run.events(spans[at].start_s, start_s, sample_every=NO_SAMPLES):
        tags.accept(event)
    return tags
