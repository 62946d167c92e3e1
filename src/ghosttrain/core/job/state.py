"""JobState: the job at a moment, as a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ghosttrain.core.events import Phase

Spent = Literal["init", "steps", "validation", "checkpoint", "hang", "down", "export"]
SPENT: Final[tuple[Spent, ...]] = (
    "init",
    "steps",
    "validation",
    "checkpoint",
    "hang",
    "down",
    "export",
)


@dataclass(frozen=True, slots=True)
class LastStep:
    """The step that was done last; NaN where it has no value.

    Attributes:
        step, end_s: Which, and when it ended.
        step_time_s: Its length.
        tflops_per_gpu: Model FLOPs of a GPU and second, TFLOP/s.
        eta_s: Time left as the run says it after this step.
        loss_scale: Of FP16 training, else None.
    """

    step: int
    end_s: float
    loss: float
    grad_norm: float
    learning_rate: float
    step_time_s: float
    tokens_per_s: float
    mfu: float
    tflops_per_gpu: float
    eta_s: float
    loss_scale: int | None


@dataclass(frozen=True, slots=True)
class LastValidation:
    """The validation that was made last; a loss that is no number is NaN."""

    step: int
    end_s: float
    loss: float
    best_loss: float


@dataclass(frozen=True, slots=True)
class LastCheckpoint:
    """The checkpoint that was written last."""

    step: int
    end_s: float
    duration_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class JobState:
    """The job at a moment.

    Attributes:
        time_s: The moment; after the end of the run, its end.
        phase: What the job does; "done" from its end on.
        attempt: Launch, from 1.
        step: Last completed step that stands: after a launch that of its checkpoint.
        total_steps: Steps asked for.
        epoch: Epoch of the step in progress, from 1; the last one at the end.
        tokens, samples: Consumed by the steps up to `step`.
        last: The step done last in this or an earlier launch; None before the first.
        validation, checkpoint: Made last, None before the first.
        restarts: Launches after the first.
        faults: How many have begun, by the name of their kind (those that did).
        steps_lost: Steps that had to be, or have to be, done again.
        nan_steps: Steps done whose loss is no number.
        goodput: Share of the time until now that went into steps which still count, 0..1.
        is_hung, is_down: Whether a collective never returns; whether the processes are gone.
        since_step_s: Time since the last step ended, since the start before the first one.
        spent_s: Time until now, by what the job did.
        lost_s: Of the time spent on steps, that on steps gone back behind.
        nodes_down: Nodes of which nothing answers.
    """

    time_s: float
    phase: Phase
    attempt: int
    step: int
    total_steps: int
    epoch: int
    tokens: int
    samples: int
    last: LastStep | None
    validation: LastValidation | None
    checkpoint: LastCheckpoint | None
    restarts: int
    faults: Mapping[str, int]
    steps_lost: int
    nan_steps: int
    goodput: float
    is_hung: bool
    is_down: bool
    since_step_s: float
    spent_s: Mapping[Spent, float]
    lost_s: float
    nodes_down: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Training loss of the step done last, NaN before the first."""
        return self.last.loss if self.last else math.nan

    @property
    def grad_norm(self) -> float:
        """Its gradient norm."""
        return self.last.grad_norm if self.last else math.nan

    @property
    def learning_rate(self) -> float:
        """Its learning rate."""
        return self.last.learning_rate if self.last else math.nan

    @property
    def step_time_s(self) -> float:
        """Its length."""
        return self.last.step_time_s if self.last else math.nan

    @property
    def tokens_per_s(self) -> float:
        """Its tokens over its length."""
        return self.last.tokens_per_s if self.last else math.nan

    @property
    def mfu(self) -> float:
        """Its model FLOPs utilisation, 0..1."""
        return self.last.mfu if self.last else math.nan

    @property
    def tflops_per_gpu(self) -> float:
        """Its model FLOPs of a GPU and second, TFLOP/s."""
        return self.last.tflops_per_gpu if self.last else math.nan

    @property
    def eta_s(self) -> float:
        """Time left as the run says it after it."""
        return self.last.eta_s if self.last else math.nan

    @property
    def loss_scale(self) -> int | None:
        """Its loss scale where the precision needs one."""
        return self.last.loss_scale if self.last else None
