"""Moments of launches: when each does what before its first step.

The run's initialisation is a row of phases. A trainer does the same work in its own order: its
processes start (every rank reports its GPU), tokenizer, communicators, then the model and its
weights, then the data. Each part takes here what it takes in the run; the moments at the ends of
the parts follow the trainer's order, first and last are the run's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ghosttrain.core.events import Phase
from ghosttrain.core.plan import BUILD_MODEL_S, Plan
from ghosttrain.core.timeline import Timeline
from ghosttrain.exporters.dialects.launches import launch_of


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
