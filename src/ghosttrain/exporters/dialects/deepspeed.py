"""DeepSpeed 0.16.9 under Megatron-DeepSpeed (microsoft, 2024): pretrain_gpt.py, launch to exit.

What the lines mean. DeepSpeed's own come where the number of steps is a multiple of
steps_per_print, which is the log interval: `step=N` with the learning rate of that step and how
many steps the launch has skipped; and of the engine's throughput timer, which counts the steps of a
launch: RunningAvgSamplesPerSec leaves out the launch's first two, CurrSamplesPerSec is the last
step's. A pipeline's engine has `steps: N loss:` instead, the last step's loss and the mean time.

The trainer's ` iteration N/` has means since its last line: of the loss, absent where a step had
none, and of the time, with validations and checkpoints in it (its timer runs on). Its TFLOPs
are of its own formula (deepspeed_setup). Skipped steps it does not see: its two counts stay 0.

wall_clock_breakdown is off, its default. A launch starts by torchrun.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import (
    CheckpointSaved,
    MessageKind,
    MessageLogged,
    PhaseStarted,
    StepsCompleted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.laws.loss_scale import loss_scale
from ghosttrain.core.messages.writer import drawn
from ghosttrain.core.units import GIB, TERA
from ghosttrain.exporters.dialects import deepspeed_setup as setup
from ghosttrain.exporters.dialects.deepspeed_start import (
    CHECKPOINT_ENGINE,
    LOG_DIST,
    StartUp,
    model_file,
    optimizer_file,
)
from ghosttrain.exporters.dialects.interval import PER_NAT, PER_SECOND, Interval, whole
from ghosttrain.exporters.dialects.job_log import JobLog, Rows
from ghosttrain.exporters.dialects.job_output import unreadable_step
from ghosttrain.exporters.dialects.launches import Moments
from ghosttrain.exporters.dialects.megatron_arguments import habits_of
from ghosttrain.exporters.dialects.megatron_memory import paged_mib, reporting_ranks
from ghosttrain.exporters.dialects.megatron_words import timers_lines, validation_lines
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.writing import Asked

_STEP = f"[%s] [INFO] [{LOG_DIST}] [Rank 0] step=%d, skipped=%d, lr=[%r, %r], mom=%s"
_SPEED = (
    "[%s] [INFO] [timer.py:264:stop] epoch=0/micro_step=%d/global_step=%d, "
    "RunningAvgSamplesPerSec=%r, CurrSamplesPerSec=%r, MemAllocated=%sGB, MaxMemAllocated=%sGB"
)
_PIPELINE = "steps: %d loss: %0.4f iter time (s): %0.3f samples/sec: %0.3f"
_TRAINER = (
    " iteration %8d/%8d | consumed samples: %12d | consumed tokens: %12d |"
    " elapsed time per iteration (ms): %.1f | learning rate: %.3E | global batch size: %5d |%s"
    " loss scale: %.1f |%s actual seqlen: %5d | number of skipped iterations:   0 |"
    " number of nan iterations:   0 | samples per second: %.3f |"
    " tokens per gpu per second (tgs): %.3f | TFLOPs: %.2f |"
)
_UNTIMED_STEPS = 2  # of a launch
_TIME_EPSILON = 1e-6
_BLOCK = 512  # bytes
_OWN = "/workspace/Megatron-DeepSpeed"
_SITE = "/opt/venv/lib/python3.12/site-packages/deepspeed/runtime"
_TRAINING = f"{_OWN}/megatron/training.py"
# Numbers of lines: the engine's are the release's, the trainer's of no particular revision.
PROGRAM = Program(
    name="pretrain_gpt.py",
    main=(
        (
            f"{_OWN}/pretrain_gpt.py",
            356,
            "<module>",
            "pretrain(train_valid_test_datasets_provider,",
        ),
    ),
    step=(
        (_TRAINING, 205, "pretrain", "iteration = train(forward_step_func,"),
        (_TRAINING, 1294, "train", "train_step(forward_step_func,"),
    ),
    load=(
        (_TRAINING, 151, "pretrain", "model, optimizer, opt_param_scheduler ="),
        (_TRAINING, 648, "setup_model_and_optimizer", "args.iteration = load_checkpoint(model,"),
        (f"{_OWN}/megatron/checkpointing.py", 553, "load_checkpoint", "loaded_dir, state_dict ="),
        (f"{_SITE}/engine.py", 2980, "load_checkpoint", "load_path, client_states ="),
        (
            f"{_SITE}/checkpoint_engine/torch_checkpoint_engine.py",
            28,
            "load",
            "partition = torch.load(path, map_location=map_location, weights_only=False)",
        ),
    ),
    save=(
        (_TRAINING, 205, "pretrain", "iteration = train(forward_step_func,"),
        (_TRAINING, 1378, "train", "save_checkpoint_and_time(iteration, model, optimizer,"),
        (f"{_OWN}/megatron/checkpointing.py", 304, "save_checkpoint", "model[0].save_checkpoint("),
        (
            f"{_SITE}/engine.py",
            3335,
            "save_checkpoint",
            "self._save_zero_checkpoint(save_dir, tag)",
        ),
        (
            f"{_SITE}/engine.py",
            3696,
            "_save_zero_checkpoint",
            "self.checkpoint_engine.save(zero_sd, zero_checkpoint_name)",
        ),
    ),
    data=(
        (_TRAINING, 205, "pretrain", "iteration = train(forward_step_func,"),
        (
            f"{_OWN}/megatron/data/gpt_dataset.py",
            227,
            "__getitem__",
            "sample = self.indexed_dataset.get(",
        ),
    ),
    shard="",  # by the run's precision
    is_sharded=False,
)


class DeepSpeedLog(JobLog):
    """Turns the events of one run into the output of Megatron-DeepSpeed."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        part = optimizer_file(self.plan, "checkpoints/global_step{step}")
        self.program = replace(PROGRAM, shard=part.replace("rank_0_", "rank_{rank}_", 1))
        self._habits = habits_of(self.plan, f"{self.output_path}/checkpoints")
        self._start = StartUp(self.plan, self.seed, self.dates, self._habits, self.every)
        self._has_pipeline = setup.has_pipeline(self.plan)
        self._flops_per_gpu = setup.flops_per_step(self.plan) / self.plan.spec.cluster.gpus
        beta2 = self.plan.spec.recipe.beta2
        self._momenta = f"[(0.9, {beta2}), (0.9, {beta2})]"
        self._interval = Interval(4)
        self._timed = Interval(2)  # time and number of the launch's steps, but the first two
        self._since_s = 0.0  # end of the trainer's last line
        self._loaded_step = 0
        self._skipped = 0
        self._reports_memory = False

    def start_up(self, launch: Moments) -> Rows:
        """From the accelerator to `[before the start of training step]`."""
        return self._start.rows(launch)

    def begin(self, launch: Moments, step: int, time_s: float) -> None:
        """A launch begins, or is taken up at its last completed `step`."""
        self._interval.reset()
        self._timed.reset()
        self._since_s = max(time_s, launch.training_s)
        self._loaded_step = launch.step
        self._skipped = 0  # nobody goes on from a checkpoint behind such steps
        self._reports_memory = step // self.every == launch.step // self.every

    # Steps.

    def steps(self, event: StepsCompleted) -> Rows:
        """DeepSpeed's lines, then the trainer's."""
        own = event.step - self._loaded_step  # steps of this launch
        is_due = event.step % self.every == 0
        is_timed = own > _UNTIMED_STEPS
        if not self._has_begun_steps(event):
            self._since_s = float(event.end_s[0] - event.step_time_s[0])
        has_speed = (own % self.every == 0) & is_timed & (not self._has_pipeline)
        is_nan = ~np.isfinite(event.loss)
        time = whole(event.step_time_s, PER_SECOND)
        ones = np.ones(len(event.step), np.int64)
        printed = np.flatnonzero(is_due)
        speeds = np.flatnonzero(has_speed)
        totals = self._interval.totals(
            np.stack((time, whole(event.loss, PER_NAT), is_nan.astype(np.int64), ones)),
            printed,
            np.ones(len(printed), np.bool_),
        )
        timed = self._timed.totals(
            np.stack((time * is_timed, ones * is_timed)), speeds, np.zeros(len(speeds), np.bool_)
        )
        skipped = self._skipped + np.cumsum(is_nan)
        self._skipped = int(skipped[-1])
        rows = [
            *self._step_lines(event, printed, skipped),
            *self._speed_lines(event, speeds, timed),
            *self._pipeline_lines(event, printed, totals),
            *self._trainer_lines(event, printed, totals),
        ]
        rows.sort(key=lambda row: row[0])  # stable: of one step in the order above
        return rows

    def _has_begun_steps(self, event: StepsCompleted) -> bool:
        """Whether the interval began before these steps: not where the log begins with them."""
        return self._since_s < float(event.end_s[0])

    def _step_lines(
        self, event: StepsCompleted, printed: NDArray[np.intp], skipped: NDArray[np.int64]
    ) -> Rows:
        times = event.end_s[printed]
        rates = event.learning_rate[printed].tolist()
        columns = (
            self.dates.millis(times),
            event.step[printed].tolist(),
            skipped[printed].tolist(),
            rates,
            rates,
            [self._momenta] * len(rates),
        )
        return _rows(times, _STEP, columns)

    def _speed_lines(
        self, event: StepsCompleted, speeds: NDArray[np.intp], timed: NDArray[np.int64]
    ) -> Rows:
        if not speeds.size:
            return []
        layout, memory = self.plan.layout, self.plan.stage_memory[0]
        times = event.end_s[speeds]
        own = event.step[speeds] - self._loaded_step
        batch = self.plan.spec.recipe.global_batch_size
        columns: tuple[list[Any], ...] = (
            self.dates.millis(times),
            (own * layout.micro_batches).tolist(),
            own.tolist(),
            (batch * timed[1] / (timed[0] / PER_SECOND)).tolist(),
            (batch / (event.step_time_s[speeds] + _TIME_EPSILON)).tolist(),
            [round(memory.states_gib, 2)] * len(own),
            [round(memory.allocated_gib, 2)] * len(own),
        )
        return _rows(times, _SPEED, columns)

    def _pipeline_lines(
        self, event: StepsCompleted, printed: NDArray[np.intp], totals: NDArray[np.int64]
    ) -> Rows:
        if not self._has_pipeline:
            return []
        batch = self.plan.spec.recipe.global_batch_size
        mean_s = totals[0] / PER_SECOND / totals[3]
        columns: tuple[list[Any], ...] = (
            event.step[printed].tolist(),
            event.loss[printed].tolist(),
            mean_s.tolist(),
            (batch / mean_s).tolist(),
        )
        return _rows(event.end_s[printed], _PIPELINE, columns)

    def _trainer_lines(
        self, event: StepsCompleted, printed: NDArray[np.intp], totals: NDArray[np.int64]
    ) -> Rows:
        if not printed.size:
            return []
        recipe = self.plan.spec.recipe
        times, step = event.end_s[printed], event.step[printed]
        elapsed_s = np.diff(times, prepend=self._since_s)
        self._since_s = float(times[-1])
        mean_s = elapsed_s / totals[3]
        samples = step * recipe.global_batch_size
        per_second = recipe.global_batch_size / mean_s
        tokens_per_gpu = per_second * recipe.seq_len / self.plan.spec.cluster.gpus
        means = (totals[1] / PER_NAT / totals[3]).tolist()
        nans = totals[2].tolist()
        norms = event.grad_norm[printed].tolist()
        columns: tuple[list[Any], ...] = (
            step.tolist(),
            [recipe.total_steps] * len(step),
            samples.tolist(),
            (samples * recipe.seq_len).tolist(),
            (1000 * mean_s).tolist(),
            event.learning_rate[printed].tolist(),
            [recipe.global_batch_size] * len(step),
            [
                "" if nan else f" lm loss: {mean:.6E} |"
                for mean, nan in zip(means, nans, strict=True)
            ],
            loss_scale(recipe.precision, step).tolist(),
            [self._norms(norm) for norm in norms],
            [recipe.seq_len] * len(step),
            per_second.tolist(),
            tokens_per_gpu.tolist(),
            (self._flops_per_gpu / (mean_s * TERA)).tolist(),
        )
        rows = _rows(times, _TRAINER, columns)
        if self._reports_memory:
            self._reports_memory = False
            rows[0] = (rows[0][0], "\n".join((rows[0][1], *self._memory(int(step[0])))))
        return rows

    def _norms(self, norm: float) -> str:
        """Only a pipeline's engine tells the trainer."""
        return f" grad norm: {norm:.3f} | num zeros: 0.0 |" if self._has_pipeline else ""

    def _memory(self, step: int) -> list[str]:
        """Once a launch; the numbers as they are."""
        lines = []
        for rank, stage in reporting_ranks(self.plan):
            memory = self.plan.stage_memory[stage]
            held, most = _mebibytes(memory.states_gib), _mebibytes(memory.allocated_gib)
            cached = paged_mib(memory.reserved_gib)
            lines.append(
                f"[Rank {rank}] (after {step} iterations) memory (MB) | allocated: {held}"
                f" | max allocated: {most} | reserved: {cached} | max reserved: {cached}"
            )
        return lines

    # Stops.

    def validation_started(self, event: PhaseStarted) -> Rows:
        """Nothing."""
        del event
        return []

    def validated(self, event: ValidationCompleted) -> Rows:
        """The loss between dashes."""
        return [(event.time_s, "\n".join(validation_lines(event)))]

    def checkpoint_started(self, event: PhaseStarted) -> Rows:
        """`saving checkpoint` of the trainer, then what the engine begins with."""
        now, name = event.time_s, f"global_step{event.step}"
        path = model_file(self.plan, f"{self._habits.folder}/{name}")
        told = self._start
        lines = (
            f"saving checkpoint at iteration {event.step:7d} to {self._habits.folder}",
            told.rank_0(now, f"[Torch] Checkpoint {name} is about to be saved!"),
            told.rank_0(now, f"Saving model checkpoint: {path}"),
            told.info(now, f"{CHECKPOINT_ENGINE}:21:save", f"[Torch] Saving {path}..."),
        )
        return [(now, "\n".join(lines))]

    def saved(self, event: CheckpointSaved) -> Rows:
        """The engine's shards, `successfully saved checkpoint`, its timer."""
        now, told = event.time_s, self._start
        name = f"global_step{event.step}"
        folder = f"{self._habits.folder}/{name}"
        begun_s = now - 0.7 * event.duration_s
        lines = [self._written(begun_s, model_file(self.plan, folder))]
        if setup.has_zero_files(self.plan):
            path = optimizer_file(self.plan, folder)
            kind = "zero" if setup.zero_stage(self.plan) else "bf16_zero"
            what = f"{kind} checkpoint saved {path}"
            lines += [
                told.info(begun_s, f"{CHECKPOINT_ENGINE}:21:save", f"[Torch] Saving {path}..."),
                self._written(now, path),
                told.info(now, "engine.py:3701:_save_zero_checkpoint", what),
            ]
        ready = f"[Torch] Checkpoint {name} is ready now!"
        took_ms = 1000 * event.duration_s
        least = 1 - drawn(1000, "deepspeed", "save", self.seed, event.step) / 1e7
        lines += [
            told.info(now, f"{CHECKPOINT_ENGINE}:33:commit", ready),
            f"  successfully saved checkpoint at iteration {event.step:7d} to "
            f"{self._habits.folder}",
            *timers_lines(("save-checkpoint", took_ms * least, took_ms), logger=""),
        ]
        return [(now, "\n".join(lines))]

    def _written(self, time_s: float, path: str) -> str:
        return self._start.info(time_s, f"{CHECKPOINT_ENGINE}:23:save", f"[Torch] Saved {path}.")

    def trained(self, time_s: float) -> Rows:
        """`[exiting program at iteration N]`."""
        total = self.plan.spec.recipe.total_steps
        return [
            (
                time_s,
                f"[exiting program at iteration {total}] datetime: {self.dates.second(time_s)} ",
            )
        ]

    def message(self, event: MessageLogged | WatchdogTimedOut) -> Rows:
        """What the job's processes write of a fault."""
        if isinstance(event, MessageLogged) and event.message is MessageKind.SIGTERM:
            at = self.dates.second(event.time_s)
            return [(event.time_s, f"[exiting program after receiving SIGTERM.] datetime: {at} ")]
        rows = super().message(event)
        step = unreadable_step(event)
        if step is not None:
            path = model_file(self.plan, f"{self._habits.folder}/global_step{step}")
            text = f"[Torch] Loading checkpoint from {path}..."
            line = self._start.info(event.time_s, f"{CHECKPOINT_ENGINE}:27:load", text)
            rows.insert(0, (event.time_s, line))
        return rows


def _mebibytes(size_gib: float) -> float:
    """Of whole blocks, as the allocator gives them out."""
    return int(size_gib * GIB) // _BLOCK * _BLOCK / 2**20


def _rows(times: NDArray[np.float64], line: str, columns: tuple[list[Any], ...]) -> Rows:
    """Lines of the steps that end at these times."""
    texts = [line % row for row in zip(*columns, strict=True)]
    return list(zip(times.tolist(), texts, strict=True))


def deepspeed_log(asked: Asked) -> DeepSpeedLog:
    """What makes the log."""
    return DeepSpeedLog(asked)
