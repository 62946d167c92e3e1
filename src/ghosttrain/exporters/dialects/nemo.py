"""NeMo 2 (nemo_toolkit 2.4.0 on lightning 2.5.5): the output of `llm.pretrain`.

What the lines mean (nemo/lightning/pytorch/callbacks/progress_printer.py). A line comes after
each step that the log interval divides, named by the step before (they count from 0). Its values
are sums over the steps since the last line divided by the log interval, also where there were
fewer, as after a launch in between; but `global_step` is the last one's. So `consumed_samples`
lags, and is lower still in the first line of a run, whose first step has none; `val_loss` is there
from the first validation of a launch on. Values have four digits. A loss that is no number makes
the line's `nan`. Validation says how far it is at each log interval.

Assumed: checkpoints are not asynchronous and named by consumed samples; only the last is kept;
the check for gradients that are no numbers is off; the callbacks for preemption and for the times
of steps are on. A launch starts by torchrun.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ghosttrain.core.events import (
    CheckpointSaved,
    MessageLogged,
    Phase,
    PhaseStarted,
    StepsCompleted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.exporters.dialects.interval import F64, I64, PER_NAT, PER_SECOND, Interval, whole
from ghosttrain.exporters.dialects.job_log import JobLog, Rows
from ghosttrain.exporters.dialects.job_output import unreadable_step
from ghosttrain.exporters.dialects.launches import Moments
from ghosttrain.exporters.dialects.megatron_arguments import habits_of
from ghosttrain.exporters.dialects.nemo_start import StartUp, checkpoint_path
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.writing import Asked

_LINE = (
    "Training epoch 0, iteration %d/%d | lr: %s | global_batch_size: %s | global_step: %d"
    " | reduced_train_loss: %s | train_step_timing in s: %s%s%s"
)
_PER_RATE = 1e15  # parts of a learning rate that sums are made of
_SITE = "/opt/venv/lib/python3.12/site-packages"
_TRAINER = f"{_SITE}/lightning/pytorch/trainer/trainer.py"
_LOOPS = f"{_SITE}/lightning/pytorch/loops"
_STRATEGY = f"{_SITE}/nemo/lightning/pytorch/strategies/megatron_strategy.py"
_IN_STEP = (
    (_TRAINER, 1011, "_run", "results = self._run_stage()"),
    (_TRAINER, 1055, "_run_stage", "self.fit_loop.run()"),
    (f"{_LOOPS}/fit_loop.py", 458, "advance", "self.epoch_loop.run(self._data_fetcher)"),
)
PROGRAM = Program(
    name="pretrain.py",
    main=(
        ("/workspace/pretrain.py", 58, "<module>", "llm.pretrain("),
        (f"{_SITE}/nemo/collections/llm/api.py", 180, "pretrain", "return train("),
        (f"{_SITE}/nemo/collections/llm/api.py", 135, "train", "trainer.fit(model, data)"),
        (_TRAINER, 598, "_fit_impl", "self._run(model, ckpt_path=ckpt_path)"),
    ),
    step=(
        *_IN_STEP,
        (
            _STRATEGY,
            724,
            "training_step",
            "out = self.model.training_step(dataloader_iter, *args, **kwargs)",
        ),
    ),
    load=(
        (
            _TRAINER,
            998,
            "_run",
            "self._checkpoint_connector._restore_modules_and_callbacks(ckpt_path)",
        ),
        (_STRATEGY, 970, "load_checkpoint", "checkpoint = self.checkpoint_io.load_checkpoint("),
        (
            f"{_SITE}/nemo/lightning/io/pl.py",
            296,
            "load_checkpoint",
            "checkpoint = dist_checkpointing.load(",
        ),
    ),
    save=(
        *_IN_STEP,
        (
            f"{_SITE}/nemo/lightning/io/pl.py",
            201,
            "save_checkpoint",
            "async_save_request = dist_checkpointing.save(",
        ),
    ),
    data=(
        *_IN_STEP,
        (
            f"{_SITE}/megatron/core/datasets/gpt_dataset.py",
            177,
            "__getitem__",
            "text, _ = self._query_document_sample_shuffle_indices(idx)",
        ),
    ),
    shard="checkpoints/step_{step}/__{rank}_0.distcp",
)
# A step's folder until it has the name that its samples give it.
_FOLDER = re.compile(r"(?<=')[^']*/step_(\d+)(?=/)")


class NemoLog(JobLog):
    """Turns the events of one run into the output of NeMo 2."""

    program = PROGRAM

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._habits = habits_of(self.plan, f"{self.output_path}/checkpoints")
        self._start = StartUp(self.plan, self.seed, self.dates, self._habits, asked.run.output_path)
        self._interval = Interval(9)
        self._validated: float | None = None  # loss, as long as this launch knows one
        self._joined = False  # whether the first line's interval was seen in part only
        self._has_saved = False

    def start_up(self, launch: Moments) -> Rows:
        """From the trainer to the state machine's warnings."""
        return self._start.rows(launch)

    def begin(self, launch: Moments, step: int, time_s: float) -> None:
        """A launch begins, or is taken up at its last completed `step`."""
        self._interval.reset()
        self._validated = None
        self._joined = step != launch.step
        self._has_saved = any(
            span.phase is Phase.CHECKPOINT and span.start_s < time_s
            for span in self.timeline.spans
            if span.attempt == launch.attempt
        )

    # Steps.

    def steps(self, event: StepsCompleted) -> Rows:
        """A line of those that are due."""
        printed = np.flatnonzero(event.step % self.every == 0)
        totals = self._interval.totals(
            self._summands(event), printed, np.ones(len(printed), np.bool_)
        )
        if not printed.size:
            return []
        divisors = np.full(len(printed), float(self.every))
        if self._joined:
            divisors[0] = totals[8][0]
            self._joined = False
        texts = self._lines(event.step[printed], totals, divisors)
        return list(zip(event.end_s[printed].tolist(), texts, strict=True))

    def _summands(self, event: StepsCompleted) -> I64:
        """What each step adds to the sums of its interval, shape (9, S)."""
        is_nan = ~np.isfinite(event.loss)
        ones = np.ones(len(event.step), np.int64)
        known = ones * (self._validated is not None)
        validated = np.full(len(ones), self._validated or 0.0)
        return np.stack(
            (
                whole(event.learning_rate, _PER_RATE),
                whole(event.loss, PER_NAT),
                whole(event.step_time_s, PER_SECOND),
                event.step * (event.step > 1),
                is_nan.astype(np.int64),
                whole(validated, PER_NAT),
                np.isnan(validated).astype(np.int64),
                known,
                ones,
            )
        )

    def _lines(self, steps: I64, totals: I64, divisors: F64) -> list[str]:
        """The lines of printed steps: sums by their divisors, shapes (P,), (9, P), (P,)."""
        recipe = self.plan.spec.recipe
        rates = (totals[0] / _PER_RATE / divisors).tolist()
        losses = np.where(totals[4] > 0, np.nan, totals[1] / PER_NAT / divisors).tolist()
        times = (totals[2] / PER_SECOND / divisors).tolist()
        samples = (totals[3] * recipe.global_batch_size / divisors).tolist()
        validations = np.where(totals[6] > 0, np.nan, totals[5] / PER_NAT / divisors).tolist()
        last = recipe.total_steps - 1
        columns: tuple[list[Any], ...] = (
            (steps - 1).tolist(),
            [last] * len(steps),
            [_shown(rate) for rate in rates],
            [recipe.global_batch_size] * len(steps),
            (steps - 1).tolist(),
            [_shown(loss) for loss in losses],
            [_shown(time_s) for time_s in times],
            [
                f" | consumed_samples: {_shown(count)}" if total else ""
                for count, total in zip(samples, totals[3].tolist(), strict=True)
            ],
            [
                f" | val_loss: {_shown(loss)}" if has else ""
                for loss, has in zip(validations, totals[7].tolist(), strict=True)
            ],
        )
        return [_LINE % row for row in zip(*columns, strict=True)]

    # Stops.

    def validation_started(self, event: PhaseStarted) -> Rows:
        """Nothing."""
        del event
        return []

    def validated(self, event: ValidationCompleted) -> Rows:
        """How far it was at each log interval; its loss comes with the steps."""
        self._validated = event.loss
        total = self._habits.eval_iters
        return [
            (event.time_s, f"Validation: iteration {batch}/{total}")
            for batch in range(self.every, total + 1, self.every)
        ]

    def checkpoint_started(self, event: PhaseStarted) -> Rows:
        """The strategy, the first time; before it the signal that a job is told to end by."""
        lines = []
        if self._is_last(event.time_s):
            lines += [
                "Received signal 15, initiating graceful stop",
                "Preemption detected, saving checkpoint and exiting",
            ]
        if not self._has_saved:
            self._has_saved = True
            strategy = "FullyParallelSaveStrategyWrapper(torch_dist, 1)"
            lines.append(f"Using {strategy} dist-ckpt save strategy.")
        return [(event.time_s, self._start.info(event.time_s, line)) for line in lines]

    def _is_last(self, time_s: float) -> bool:
        """Whether the job ends in good order when this checkpoint is complete."""
        index = self.timeline.index_at(time_s)
        rest = self.timeline.spans[index : index + 2]
        return len(rest) > 1 and not rest[0].cut and rest[1].phase is Phase.DOWN

    def saved(self, event: CheckpointSaved) -> Rows:
        """How long it took, and where it is."""
        now, iteration = event.time_s, event.step - 1
        begun = self.dates.unix(now - event.duration_s)
        path = checkpoint_path(self.plan, self._habits.folder, event.step)
        texts = (
            f"Global Checkpoint Save : Rank: 0 : Iteration: {iteration} : "
            f"Start time: {begun}s : Save duration: {event.duration_s:.3f}s",
            f"Successfully saved checkpoint from iteration {iteration:7d} to {path}",
        )
        return [(now, self._start.info(now, text)) for text in texts]

    def trained(self, time_s: float) -> Rows:
        """`Trainer.fit` stopped."""
        total = self.plan.spec.recipe.total_steps
        return [(time_s, f"`Trainer.fit` stopped: `max_steps={total}` reached.")]

    def message(self, event: MessageLogged | WatchdogTimedOut) -> Rows:
        """What the job's processes write of a fault."""
        rows = [
            (time_s, _FOLDER.sub(self._weights_folder, text))
            for time_s, text in super().message(event)
        ]
        step = unreadable_step(event)
        if step is not None:
            path = checkpoint_path(self.plan, self._habits.folder, step)
            told = f"Restoring states from the checkpoint path at {path}"
            rows.insert(0, (event.time_s, told))
        return rows

    def _weights_folder(self, found: re.Match[str]) -> str:
        return f"{checkpoint_path(self.plan, self._habits.folder, int(found[1]))}/weights"


def _shown(value: float) -> str:
    """Four digits; whole numbers whole."""
    return str(int(value)) if value.is_integer() else f"{value:.4}"


def nemo_log(asked: Asked) -> NemoLog:
    """What makes the log."""
    return NemoLog(asked)
