"""Launches of a run: from when to when, and what each of them did before it trained.

The run's initialisation is a row of phases. A trainer does the same work in its own order; each
part takes here what it takes in the run, the first and last moment are the run's. `Launch` has the
phases; `Moments` has them in the order of Megatron-LM and its kin: the processes start (every rank
reports its GPU), tokenizer, communicators, then the model and its weights, then the data.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from ghosttrain.core.events import Phase
from ghosttrain.core.plan import BUILD_MODEL_S, Plan
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


@dataclass(frozen=True, slots=True)
class Moments:
    """One launch, moments as run times.

    Attributes:
        attempt: Its number, from 1.
        step: Step of the checkpoint it starts from, 0 for none.
        start_s: The processes are started.
        program_s: All of them run.
        tokenizer_s: The tokenizer is there.
        network_s: The communicators are there and have been used once.
        built_s: The model is built, its weights are not read yet.
        model_s: Weights (and optimizer) are there.
        training_s: The data too: the first step begins.
    """

    attempt: int
    step: int
    start_s: float
    program_s: float
    tokenizer_s: float
    network_s: float
    built_s: float
    model_s: float
    training_s: float


def moments_of(timeline: Timeline, plan: Plan, attempt: int) -> Moments:
    """The launch with that number."""
    launch = launch_of(timeline, plan, attempt)
    took = launch.phases_s
    program_s = launch.start_s + took[Phase.GPUS]
    tokenizer_s = program_s + took[Phase.TOKENIZER]
    network_s = tokenizer_s + took[Phase.NCCL] + took[Phase.ALL_REDUCE_TEST]
    model_s = network_s + took[Phase.WEIGHTS]
    training_s = launch.training_s
    if math.isinf(training_s):  # it never trains
        training_s = launch.start_s + sum(took.values())
    return Moments(
        attempt=attempt,
        step=launch.step,
        start_s=launch.start_s,
        program_s=program_s,
        tokenizer_s=tokenizer_s,
        network_s=network_s,
        built_s=network_s + min(BUILD_MODEL_S, 0.5 * took[Phase.WEIGHTS]),
        model_s=model_s,
        training_s=max(training_s, model_s),
    )
