"""Timeline: what happened when, as records. `history.py` draws it.

A run is a row of spans that touch: initialisation phases, training stretches, validations,
checkpoints, hangs, downtime, export. Their number grows with faults and stops, not with steps
or GPUs; what holds in a span (pace, effects of faults) holds in all of it. Inside a training
span the end of executed step e is `start_s + step_time_s * (clock(e + 1) - clock(first))`.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import AbortReason, Phase
from ghosttrain.core.laws.faults import ActiveEffect, ActiveSign
from ghosttrain.core.laws.pace import PaceClock
from ghosttrain.core.plan import (
    BUILD_MODEL_S,
    CACHED_DATASET_SHARE,
    Plan,
)
from ghosttrain.core.spec import FaultKind

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# A server with eight GPUs takes minutes through its firmware's tests; estimated: four.
REBOOT_S = 240.0
BOOTED_BEFORE_S = 60.0  # a node that was rebooted is up so long before the launch that uses it
INIT_PHASES = (
    Phase.WEIGHTS,
    Phase.TOKENIZER,
    Phase.DATASET,
    Phase.NCCL,
    Phase.GPUS,
    Phase.ALL_REDUCE_TEST,
)


class Span(NamedTuple):
    """A stretch of the run in one phase; a tuple, as a month has some ten thousands.

    Attributes:
        attempt: Launch it belongs to, from 1.
        step: Last completed step at its start.
        steps: Steps completed inside (training only).
        ordinal: Executed steps before it.
        factor: Step time over the undisturbed one (training only).
        slow: The part of `factor` that effects of faults make, 1 for none.
        cut: Whether a fault or the time limit ended it before its time.
        incident: Number of the fault that caused it (hang, downtime), 0 for none.
        step_time_s: Length of a step of pace 1 (training only).
        due_s: When it would have ended undisturbed (not training): what happens inside is placed
            by it, so that being cut later changes nothing that came before.
        effects: Indices into the timeline's effects: those in force.
        signs: Indices into the timeline's signs that have come by then.
        skipped_batches: Batches of data left out so far.
    """

    phase: Phase
    start_s: float
    end_s: float
    attempt: int
    step: int
    steps: int = 0
    ordinal: int = 0
    factor: float = 1.0
    slow: float = 1.0
    cut: bool = False
    incident: int = 0
    step_time_s: float = 0.0
    due_s: float = 0.0
    effects: tuple[int, ...] = ()
    signs: tuple[int, ...] = ()
    skipped_batches: int = 0

    @property
    def duration_s(self) -> float:
        """Length of the span."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Incident:
    """A fault and what it did to the run. Times are None where that never came.

    Attributes:
        time_s: Onset.
        gpu, gpus: First GPU and number of GPUs it sits at (all for what all share).
        rank: The rank it shows at first.
        node: Node of the first GPU.
        attempt, step: Launch and last completed step at the onset.
        severity: In the unit of the kind's effect.
        hangs: Whether the peers wait for the watchdog.
        shown_s: Start of the first span in which its effect is felt.
        strike_s: When it ended the processes (or had them end).
        strike_step, strike_attempt: Last completed step and launch then.
        asked_s: When operators asked the run to save and end.
        reason: Why the processes ended.
        detected_s: When the run or its operators noticed.
        mitigated_s: When the cause was gone.
        cleared_s: When the run was back where it had been.
        checkpoint_step: Step the run went back to, -1 where it went back to none.
        unreadable: Newer checkpoints that could not be read: step, and when that was found.
        swapped: Whether a spare took its node's place.
        relaunch_s: When the launch after it began.
        skipped_batches: Batches of data left out because of it.
        lost_s: Time lost to it.
    """

    number: int
    kind: FaultKind
    time_s: float
    gpu: int
    gpus: int
    rank: int
    node: int
    attempt: int
    step: int
    severity: float
    hangs: bool = False
    shown_s: float | None = None
    strike_s: float | None = None
    strike_step: int = 0
    strike_attempt: int = 0
    asked_s: float | None = None
    reason: AbortReason = "fault"
    detected_s: float | None = None
    mitigated_s: float | None = None
    cleared_s: float | None = None
    relaunch_s: float | None = None
    checkpoint_step: int = -1
    unreadable: tuple[tuple[int, float], ...] = ()
    swapped: bool = False
    skipped_batches: int = 0
    lost_s: float = 0.0

    @property
    def steps_lost(self) -> int:
        """Steps that were done again."""
        return self.strike_step - self.checkpoint_step if self.checkpoint_step >= 0 else 0


@dataclass(frozen=True, slots=True)
class Validations:
    """Losses of all planned validations, in order of their steps, without effects of faults."""

    step: tuple[int, ...]
    loss: tuple[float, ...]

    def index(self, step: int) -> int:
        """Position of the validation at `step`."""
        return bisect_left(self.step, step)

    def has(self, step: int) -> bool:
        """Whether there is a validation at `step`."""
        index = self.index(step)
        return index < len(self.step) and self.step[index] == step


@dataclass(frozen=True, slots=True)
class Validated:
    """A validation that was made: `best` is the least loss that stands, itself included.

    A loss that is no number is None: NaN is not equal to itself, and timelines are compared.
    """

    end_s: float
    step: int
    loss: float | None
    best: float | None
    improved: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """Spans in order, incidents, validations; `completed` is False at the time limit."""

    spans: tuple[Span, ...]
    incidents: tuple[Incident, ...]
    effects: tuple[ActiveEffect, ...]
    signs: tuple[ActiveSign, ...]
    validated: tuple[Validated, ...]
    completed: bool
    swaps: tuple[tuple[int, int, int], ...]  # first attempt, node, the spare there; in order
    starts_s: tuple[float, ...] = field(repr=False, compare=False)

    @property
    def end_s(self) -> float:
        """Run time of the last event."""
        return self.spans[-1].end_s

    def index_at(self, time_s: float) -> int:
        """Index of the span that holds `time_s` (its start belongs to it)."""
        return max(0, bisect_right(self.starts_s, time_s) - 1)

    def counted(self) -> list[Span]:
        """The training spans that count at the end of the run."""
        back_to = {
            made.strike_attempt: made.checkpoint_step
            for made in self.incidents
            if made.strike_s is not None
        }
        trained = (span for span in self.spans if span.phase is Phase.TRAINING)
        return counted_spans(trained, back_to)

    def validated_at(self, end_s: float) -> Validated:
        """The validation that ended at `end_s`."""
        return self.validated[bisect_left(self.validated, end_s, key=lambda v: v.end_s)]

    def spares(self, attempt: int) -> tuple[tuple[int, int], ...]:
        """(node, physical node) of the places that spares have taken in `attempt`, by node."""
        taken = {node: spare for made, node, spare in self.swaps if made <= attempt}
        return tuple(sorted(taken.items()))

    def effects_of(self, span: Span) -> tuple[ActiveEffect, ...]:
        """The effects in force during `span`."""
        return tuple(self.effects[i] for i in span.effects)

    def signs_of(self, span: Span) -> tuple[ActiveSign, ...]:
        """The signs that have come by `span`, or that come in it."""
        return tuple(self.signs[i] for i in self.sign_indices(span))

    def sign_indices(self, span: Span) -> tuple[int, ...]:
        """Indices of the signs that have come by `span`, or that come in it.

        A sign ends no span: it shows when it comes, in the middle of a step. Signs stand in the
        order in which they came.
        """
        first = bisect_right(self.signs, span.start_s, key=lambda sign: sign.since_s)
        last = bisect_right(self.signs, span.end_s, key=lambda sign: sign.since_s)
        return (*span.signs, *(i for i in range(first, last) if i not in span.signs))


def pace_clock(plan: Plan, seed: int) -> PaceClock:
    """The pace of this run's steps."""
    spec = plan.spec
    return PaceClock(seed, gpus=spec.cluster.gpus, total_steps=spec.recipe.total_steps)


def expected_init_s(plan: Plan, phase: Phase, attempt: int, checkpoint_step: int) -> float:
    """Planned duration of an initialisation phase; later launches find caches warm."""
    p = plan.phases
    match phase:
        case Phase.WEIGHTS:
            return p.checkpoint_load_s + BUILD_MODEL_S if checkpoint_step else p.weights_s
        case Phase.TOKENIZER:
            return p.tokenizer_s
        case Phase.DATASET:
            return p.dataset_s if attempt == 1 else CACHED_DATASET_SHARE * p.dataset_s
        case Phase.NCCL:
            return p.nccl_s
        case Phase.GPUS:
            return p.gpus_s
        case Phase.ALL_REDUCE_TEST:
            return p.all_reduce_test_s
        case _:
            raise AssertionError(phase)


def lost_gpus(timeline: Timeline, span: Span) -> tuple[int, ...]:
    """GPUs that do not answer during `span`: what a fault took, until it is swapped or reset."""
    if not span.incident:
        return ()
    incident = timeline.incidents[span.incident - 1]
    if not incident.kind.takes_gpus:
        return ()
    return tuple(range(incident.gpu, incident.gpu + incident.gpus))


def silent_nodes(
    timeline: Timeline, span: Span, time_s: float, gpus_per_node: int
) -> tuple[int, ...]:
    """Nodes of which nothing answers at a moment of `span`: no exporter, no ping.

    A host that has crashed, panicked, lost its power or reset itself is silent from the strike
    until the launch after it, in which it is back or a spare stands in its place. A node that is
    rebooted for a fault of one of its GPUs is silent for REBOOT_S before that launch.
    """
    if not span.incident:
        return ()
    incident = timeline.incidents[span.incident - 1]
    since_s = silent_since_s(incident)
    if since_s is None or time_s < since_s:
        return ()
    return incident_nodes(incident, gpus_per_node)


def silent_since_s(incident: Incident) -> float | None:
    """From when on the nodes of an incident are silent, until the next launch; None: never."""
    if incident.strike_s is None:
        return None
    if incident.kind.takes_gpus and incident.kind.scope != "gpu":
        return incident.strike_s
    if incident.kind.recovery != "reboot" or incident.relaunch_s is None:
        return None
    return max(incident.detected_s or incident.strike_s, incident.relaunch_s - REBOOT_S)


def incident_nodes(incident: Incident, gpus_per_node: int) -> tuple[int, ...]:
    """The nodes an incident's GPUs sit in."""
    last = (incident.gpu + incident.gpus - 1) // gpus_per_node
    return tuple(range(incident.gpu // gpus_per_node, last + 1))


def moments_by_span(
    timeline: Timeline, starts_s: F64, time_s: F64
) -> Iterator[tuple[int, int, int]]:
    """Ascending moments by span: (index of the span, first moment, moment after its last).

    At the end of a step that ends its span a moment belongs to that step. `starts_s` are the
    timeline's, as an array that the caller keeps.
    """
    spans, starts = timeline.spans, starts_s
    index = np.maximum(starts.searchsorted(time_s, side="right") - 1, 0)
    for k in np.flatnonzero((time_s == starts[index]) & (index > 0)).tolist():
        before = spans[index[k] - 1]
        if before.steps and not before.cut:
            index[k] -= 1
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(time_s)]
    for low, high in itertools.pairwise(edges):
        if high > low:
            yield int(index[low]), low, high


def counted_spans(trained: Iterable[Span], back_to: Mapping[int, int]) -> list[Span]:
    """The training spans nobody went back behind; `back_to` says to which step, by launch.

    A launch may go back further than it began: work of earlier ones is lost then.
    """
    trained = list(trained)
    least, kept_below = math.inf, {}
    for attempt in range(max([span.attempt for span in trained] + [*back_to], default=0), 0, -1):
        least = min(least, back_to.get(attempt, math.inf))
        kept_below[attempt] = least
    return [span for span in trained if span.step < kept_below[span.attempt]]


def physical_nodes(timeline: Timeline, nodes: int, attempt: int) -> I64:
    """Physical node of each node of the ranks in `attempt`: spares where nodes were swapped."""
    physical = np.arange(nodes)
    for node, spare in timeline.spares(attempt):
        physical[node] = spare
    return physical
