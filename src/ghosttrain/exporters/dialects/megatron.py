"""Megatron-LM: `pretrain_gpt.py` of release core_v0.17.0, its output from launch to exit.

What the lines mean (megatron/training/training.py, training_log): a line comes after the first
step of a launch and after each that the log interval divides. `elapsed time per iteration` and
`lm loss` are means over the steps since the last line but the first one of the launch, which begins
no new interval; validations and checkpoints do not count. Steps whose loss is no number are
skipped: they are in no mean of the loss, and counted. The throughput is that of Megatron's own
formula (megatron_model). `grad norm` is that of the last step, and absent where it was skipped.

Options assumed beside those of the run: --log-throughput, --no-check-for-nan-in-loss-and-grad
with a constant loss scale of 1 (so that such steps are skipped, not fatal), --rerun-mode disabled,
--exit-signal-handler, --exit-interval at the last step, no auxiliary loss of experts.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import (
    CheckpointSaved,
    MessageLogged,
    Phase,
    PhaseStarted,
    StepsCompleted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.laws.loss_scale import loss_scale
from ghosttrain.core.messages.writer import drawn
from ghosttrain.core.units import TERA
from ghosttrain.exporters.dialects import megatron_arguments as arguments
from ghosttrain.exporters.dialects.interval import PER_NAT, PER_SECOND, Interval, whole
from ghosttrain.exporters.dialects.job_log import JobLog, Rows
from ghosttrain.exporters.dialects.launches import Moments
from ghosttrain.exporters.dialects.megatron_memory import (
    emptied_memory_lines,
    memory_lines,
    theory_lines,
)
from ghosttrain.exporters.dialects.megatron_model import flops_per_step
from ghosttrain.exporters.dialects.megatron_start import StartUp, first_place
from ghosttrain.exporters.dialects.megatron_words import timers_lines, validation_lines
from ghosttrain.exporters.writing import Asked

_LINE = (
    " [%s] iteration %8d/%8d | consumed samples: %12d | elapsed time per iteration (ms): %.1f |"
    " throughput per GPU (TFLOP/s/GPU): %.1f | learning rate: %.6E | global batch size: %5d |"
    "%s loss scale: %.1f |%s number of skipped iterations: %3d | number of nan iterations: %3d |"
)
_LOADED = re.compile(r"/step_\d{7}(?= at iteration)")
_REPORTED_SAVES = 3  # with memory before and after, each launch
_MODE = (
    "WARNING:megatron.core.rerun_state_machine:Setting RerunStateMachine mode RerunMode.DISABLED"
)


class MegatronLog(JobLog):
    """Turns the events of one run into the output of Megatron-LM."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._habits = arguments.habits_of(self.plan, f"{self.output_path}/checkpoints")
        self._start = StartUp(self.plan, self.seed, self.dates, self._habits, self.every)
        self._interval = Interval(4)
        self._flops_per_gpu = flops_per_step(self.plan) / self.plan.spec.cluster.gpus
        self._loaded_step = 0
        self._is_first = False  # whether the launch has printed no step yet
        self._reports_memory = False
        self._has_loss = False  # whether a loss has been summed up in this launch
        self._saves = 0  # of this launch

    def start_up(self, launch: Moments) -> Rows:
        """From the arguments to `[before the start of training step]`."""
        return self._start.rows(launch)

    def begin(self, launch: Moments, step: int, time_s: float) -> None:
        """A launch begins, or is taken up at its last completed `step`."""
        self._interval.reset()
        self._loaded_step = launch.step
        self._is_first = step == launch.step
        # Memory is told with the first line, and with the next one whose step is a later one.
        self._reports_memory = step // self.every * self.every <= launch.step + 1
        self._has_loss = not self._is_first
        self._saves = sum(
            span.phase is Phase.CHECKPOINT and span.end_s <= time_s and not span.cut
            for span in self.timeline.spans
            if span.attempt == launch.attempt
        )

    # Steps.

    def steps(self, event: StepsCompleted) -> Rows:
        """The lines that are due, memory behind the first two."""
        is_due = event.step % self.every == 0
        begins_new = np.ones(len(event.step), np.bool_)
        if self._is_first:
            begins_new[0] = False
            is_due[0] = True
            self._is_first = False
        is_nan = ~np.isfinite(event.loss)
        values = np.stack(
            (
                whole(event.step_time_s, PER_SECOND),
                whole(event.loss, PER_NAT),
                is_nan.astype(np.int64),
                np.ones(len(event.step), np.int64),
            )
        )
        printed = np.flatnonzero(is_due)
        totals = self._interval.totals(values, printed, begins_new[printed])
        had_loss, self._has_loss = self._has_loss, self._has_loss or not is_nan.all()
        if not printed.size:
            return []
        lost = self._losses(totals, had_loss)
        texts = self._lines(event, printed, totals, lost)
        rows = zip(event.end_s[printed].tolist(), texts, strict=True)
        if not self._reports_memory:
            return list(rows)
        steps = event.step[printed].tolist()
        return [self._with_memory(row, step) for row, step in zip(rows, steps, strict=True)]

    def _losses(self, totals: NDArray[np.int64], had_loss: bool) -> list[str]:
        """The field of each line; a mean of no steps is 0, absent where there never was one."""
        counted = totals[3] - totals[2]
        means = totals[1] / PER_NAT / np.maximum(1, counted)
        seen = np.logical_or(had_loss, np.cumsum(counted) > 0)
        return [
            f" lm loss: {mean:.6E} |" if has else ""
            for mean, has in zip(means.tolist(), seen.tolist(), strict=True)
        ]

    def _lines(
        self,
        event: StepsCompleted,
        printed: NDArray[np.intp],
        totals: NDArray[np.int64],
        losses: list[str],
    ) -> list[str]:
        recipe = self.plan.spec.recipe
        step = event.step[printed]
        mean_s = totals[0] / PER_SECOND / totals[3]
        norms = event.grad_norm[printed].tolist()
        columns: tuple[list[Any], ...] = (
            self.dates.micros(event.end_s[printed]),
            step.tolist(),
            [recipe.total_steps] * len(step),
            (step * recipe.global_batch_size).tolist(),
            (mean_s * 1e3).tolist(),
            (self._flops_per_gpu / (mean_s * TERA)).tolist(),
            event.learning_rate[printed].tolist(),
            [recipe.global_batch_size] * len(step),
            losses,
            loss_scale(recipe.precision, step).tolist(),
            [f" grad norm: {norm:.3f} |" if math.isfinite(norm) else "" for norm in norms],
            totals[2].tolist(),
            totals[2].tolist(),
        )
        return [_LINE % row for row in zip(*columns, strict=True)]

    def _with_memory(self, row: tuple[float, str], step: int) -> tuple[float, str]:
        """A line, and behind it what memory is in use, as long as that is told."""
        if not self._reports_memory:
            return row
        self._reports_memory = step <= self._loaded_step + 1
        memory = memory_lines(self.plan, f"after {step} iterations")
        return row[0], "\n".join((row[1], *theory_lines(self.plan), *memory))

    # Stops.

    def validation_started(self, event: PhaseStarted) -> Rows:
        """The state machine that does steps again is switched off meanwhile."""
        return [(event.time_s, _MODE)]

    def validated(self, event: ValidationCompleted) -> Rows:
        """Its timer, then the loss between dashes."""
        took_ms = 1000 * event.duration_s
        timers = timers_lines(("evaluate", took_ms * self._least("evaluate", event.step), took_ms))
        return [(event.time_s, "\n".join((*timers, _MODE, *validation_lines(event))))]

    def checkpoint_started(self, event: PhaseStarted) -> Rows:
        """`saving checkpoint`, memory before the first three."""
        form = arguments.checkpoint_format(self.plan)
        lines = [
            f"[{self.dates.micro(event.time_s)}] saving checkpoint at iteration {event.step:7d} "
            f"to {self._habits.folder} in {form} format"
        ]
        if arguments.has_distributed_optimizer(self.plan):
            kind = "fsdp_dtensor" if form == "fsdp_dtensor" else "dp_reshardable"
            lines.append(f"Storing distributed optimizer sharded state of type {kind}")
        return [(event.time_s, "\n".join((*self._saving("before", event.step), *lines)))]

    def saved(self, event: CheckpointSaved) -> Rows:
        """`successfully saved checkpoint`, memory, its timer."""
        took_ms = 1000 * event.duration_s
        line = (
            f"  [{self.dates.micro(event.time_s)}] successfully saved checkpoint from iteration "
            f"{event.step:7d} to {self._habits.folder} {first_place(self.plan)}"
        )
        memory = self._saving("after", event.step)
        self._saves += 1
        least = self._least("save", event.step)
        timers = timers_lines(("save-checkpoint", took_ms * least, took_ms))
        return [(event.time_s, "\n".join((line, *memory, *timers)))]

    def _saving(self, when: str, step: int) -> list[str]:
        if self._saves >= _REPORTED_SAVES:
            return []
        return emptied_memory_lines(self.plan, f"{when} save_checkpoint for iteration {step}")

    def _least(self, name: str, step: int) -> float:
        """Share of the slowest rank's time that the fastest needs: all wait for one another."""
        return 1 - drawn(1000, "megatron", name, self.seed, step) / 1e7

    def trained(self, time_s: float) -> Rows:
        """`[exiting program at iteration N]`."""
        total = self.plan.spec.recipe.total_steps
        at = self.dates.micro(time_s)
        return [(time_s, f"[exiting program at iteration {total}] datetime: {at} ")]

    def message(self, event: MessageLogged | WatchdogTimedOut) -> Rows:
        """What the job's processes write of a fault, with Megatron's names of folders."""
        return [(time_s, _renamed(text)) for time_s, text in super().message(event)]


def _renamed(text: str) -> str:
    """Folders of checkpoints by Megatron's names: of one, and where it looks for them."""
    return _LOADED.sub("", text).replace("/step_", "/iter_")


def megatron_log(asked: Asked) -> MegatronLog:
    """What makes the log."""
    return MegatronLog(asked)
