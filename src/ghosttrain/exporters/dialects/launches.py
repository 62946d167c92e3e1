"""Launches of a run: from when to when, and what each of them did before it trained."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from ghosttrain.core.events import Phase
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import INIT_PHASES, Timeline, expected_init_s


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch.

    Attributes:
        step: Last completed step when it began: 0, or that of its checkpoint.
        start_s: When its processes began.
        training_s: When its first step began, infinite where none did.
        phases_s: How long each phase of its initialisation took; what a fault cut short counts
            as long as it would have taken.
    """

    attempt: int
    step: int
    start_s: float
    training_s: float
    phases_s: Mapping[Phase, float]


def launch_of(timeline: Timeline, plan: Plan, attempt: int) -> Launch:
    """The launch with that number."""
    spans = timeline.spans
    first = bisect_left(spans, attempt, key=lambda span: span.attempt)
    step = spans[first].step
    phases_s = {phase: expected_init_s(plan, phase, attempt, step) for phase in INIT_PHASES}
    training_s = math.inf
    for span in spans[first : first + len(INIT_PHASES) + 1]:
        if span.attempt != attempt:
            break
        if span.phase is Phase.TRAINING:
            training_s = span.start_s
            break
        if span.phase in phases_s:
            phases_s[span.phase] = span.due_s - span.start_s
    return Launch(attempt, step, spans[first].start_s, training_s, phases_s)


def attempt_at(timeline: Timeline, time_s: float) -> int:
    """The launch that is under way at a moment."""
    return timeline.spans[timeline.index_at(time_s)].attempt
