"""The job: what a training job says of itself at any moment.

What it did last (a step, a validation, a checkpoint), what has befallen it, and how its time was
spent, as counters. Everything that adds up is summed over the spans once; a moment costs a
bisection, whenever it lies.
"""

from ghosttrain.core.job.source import JobSource
from ghosttrain.core.job.state import (
    SPENT,
    JobState,
    LastCheckpoint,
    LastStep,
    LastValidation,
    Spent,
)

__all__ = [
    "SPENT",
    "JobSource",
    "JobState",
    "LastCheckpoint",
    "LastStep",
    "LastValidation",
    "Spent",
]
