"""What Hugging Face's Trainer logs, as dicts: its log_history, entry by entry.

The definitions are those of transformers 4.57 and 5 (src/transformers/trainer.py):

- loss: mean over the steps since the last entry. A loss that is no number is not in it: with
  logging_nan_inf_filter, which is on, the mean so far takes its place, micro-batch by micro-batch,
  and an interval without a single number comes to 0.
- grad_norm: of the last step, before clipping, a 32-bit float.
- learning_rate: the rate the last step was made with (it is read before the scheduler moves on;
  releases before 4.48 read it behind).
- epoch: epochs done, with the share of the one in progress.
- eval_runtime, ..._per_second: speed_metrics, rounded to 4 and 3 decimals.
- train_loss: summed losses of this launch by all steps of the run; train_samples_per_second: all
  samples of the run by the time of this launch (so after a restart both are off, as they are).

An interval of which the first steps were not seen counts those that were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ghosttrain.core.events import StepsCompleted, ValidationCompleted
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import Timeline
from ghosttrain.exporters.dialects.launches import launch_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of Trainer.log: values in their order, without epoch and step, which follow."""

    step: int
    epoch: float
    values: dict[str, float]

    @property
    def logged(self) -> dict[str, float]:
        """As callbacks get it: the values, then the epoch."""
        return {**self.values, "epoch": self.epoch}


class TrainerHistory:
    """Follows one run and says what its Trainer logs."""

    def __init__(self, plan: Plan, timeline: Timeline, every: int) -> None:
        self._plan, self._timeline, self._every = plan, timeline, every
        self._attempt = 0
        self._since: list[float] = []  # losses of the steps since the last entry
        self._total = 0.0  # of the losses this launch has logged
        self.step = 0

    def steps(self, event: StepsCompleted) -> Iterator[Entry]:
        """The entries of a batch of steps: one at each multiple of the interval."""
        if event.attempt != self._attempt:
            self._attempt, self._since, self._total = event.attempt, [], 0.0
        losses = event.loss.tolist()
        begun = 0
        for at in np.flatnonzero(event.step % self._every == 0).tolist():
            self._since += losses[begun : at + 1]
            begun = at + 1
            total = filtered_sum(self._since, self._plan.layout.micro_batches)
            self._total += total
            values = {
                "loss": total / len(self._since),
                "grad_norm": float(np.float32(event.grad_norm[at])),
                "learning_rate": float(event.learning_rate[at]),
            }
            self._since = []
            yield Entry(int(event.step[at]), self.epoch(int(event.step[at])), values)
        self._since += losses[begun:]
        self.step = int(event.step[-1])

    def epoch(self, step: int) -> float:
        """TrainerState.epoch after `step`."""
        per_epoch = self._plan.spec.recipe.steps_per_epoch
        before = (step - 1) // per_epoch
        return before + (step - before * per_epoch) / per_epoch

    def validation(self, event: ValidationCompleted) -> Entry:
        """The entry of a validation."""
        samples, batches = self.validation_size(event.tokens)
        values = {
            "eval_loss": float(np.float32(event.loss)),
            "eval_runtime": round(event.duration_s, 4),
            "eval_samples_per_second": round(samples / event.duration_s, 3),
            "eval_steps_per_second": round(batches / event.duration_s, 3),
        }
        return Entry(event.step, self.epoch(event.step), values)

    def validation_size(self, tokens: int) -> tuple[int, int]:
        """Samples of a validation, and the batches each rank works through."""
        recipe, layout = self._plan.spec.recipe, self._plan.layout
        samples = max(1, round(tokens / recipe.seq_len))
        return samples, -(-samples // (layout.micro_batch_size * layout.data_parallel))

    def end(self, attempt: int, time_s: float) -> Entry:
        """The entry that ends training in launch `attempt` at a moment."""
        began_s = launch_of(self._timeline, self._plan, attempt).training_s
        runtime_s = max(time_s - began_s, 1e-4)
        recipe = self._plan.spec.recipe
        samples = recipe.global_batch_size * recipe.total_steps
        total = self._total + filtered_sum(self._since, self._plan.layout.micro_batches)
        values = {
            "train_runtime": round(runtime_s, 4),
            "train_samples_per_second": round(samples / runtime_s, 3),
            "train_steps_per_second": round(recipe.total_steps / runtime_s, 3),
            "total_flos": self.total_flos(self.step),
            "train_loss": total / max(self.step, 0.001),
        }
        return Entry(self.step, self.epoch(self.step), values)

    def total_flos(self, step: int) -> float:
        """6 per parameter but the embeddings' and token (PreTrainedModel.floating_point_ops)."""
        counts = self._plan.params
        matrices = counts.total - counts.embedding
        return float(6 * matrices * step * self._plan.spec.recipe.tokens_per_step)


def filtered_sum(losses: Sequence[float], micro_batches: int) -> float:
    """Sum of the losses of an interval as logging_nan_inf_filter makes it.

    Args:
        losses: Of its steps, in order.
        micro_batches: Of each step: each of a lost step adds the mean so far once.
    """
    if all(map(math.isfinite, losses)):
        return math.fsum(losses)
    total = 0.0
    for done, loss in enumerate(losses):
        if math.isfinite(loss):
            total += loss
        else:
            total *= (1 + 1 / (1 + done)) ** micro_batches
    return total
