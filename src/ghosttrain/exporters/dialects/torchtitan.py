"""torchtitan's log, as rank 0 prints it (with pipelines: the first rank that sees the loss).

The format is that of torchtitan 0.2.2 as it stood in May 2026 (pytorch/torchtitan,
torchtitan/components/metrics.py, checkpoint.py, trainer.py, tools/utils.py), without colours
(metrics.disable_color_printing) and without the `[rank0]:` that torchrun can put in front. Each
line is `[titan] ` and Python's asctime, `- root - `, level and text. Of a step it prints

    step: {step:2}  loss: {loss:8.5f}  grad_norm: {norm:7.4f}  memory: {GiB:5.2f}GiB({pct:.2f}%)
    tps: {tps:,}  tflops: {tflops:,.2f}  mfu: {mfu:.2f}%

in one line, at step 1 and at each multiple of the log interval. The loss is the step's, mean over
all ranks; tps are tokens since the last such line by the time since it and by GPUs, so that
stops between them count, and at the first line of a launch all since its metrics were set up; mfu
is against torchtitan's own table of peaks, `N/A` with products in 8 bits or less. Memory is the
most the allocator has reserved since.

A log that begins in the middle of a run counts the first interval from the first step it sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.core.events import (
    F64,
    I64,
    CheckpointSaved,
    Event,
    MessageLogged,
    Phase,
    PhaseStarted,
    RunAborted,
    RunFinished,
    StepsCompleted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.exporters.dialects.dates import Dates
from ghosttrain.exporters.dialects.launches import Launch, attempt_at, launch_of
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.dialects.rank_zero_log import RankZeroLog
from ghosttrain.exporters.dialects.torchtitan_facts import TitanFacts
from ghosttrain.exporters.dialects.torchtitan_start import (
    Said,
    load_text,
    metrics_begin_s,
    start_lines,
)

if TYPE_CHECKING:
    from ghosttrain.exporters.writing import Asked

GC_EVERY = 50  # steps between collections (torchtitan/config, Training.gc_freq)
_GC_S, _SAVED_GC_S = 0.01, 0.03  # what a collection takes; invented, logs have 0.00 to 0.1
_SLEEP_S, _TEAR_DOWN_S = 2.0, 0.2  # at the end; the second is invented

_TITAN = "/workspace/torchtitan/torchtitan"
_SITE = "/opt/venv/lib/python3.12/site-packages"
PROGRAM = Program(
    name="torchtitan.train",
    main=(
        (f"{_TITAN}/train.py", 61, "<module>", "main()"),
        (f"{_TITAN}/train.py", 46, "main", "trainer.train()"),
        (
            f"{_SITE}/torch/distributed/elastic/multiprocessing/errors/__init__.py",
            362,
            "wrapper",
            "return f(*args, **kwargs)",
        ),
    ),
    step=(
        (f"{_TITAN}/trainer.py", 762, "train", "self.train_step(data_iterator)"),
        (f"{_TITAN}/trainer.py", 682, "train_step", "loss = self.forward_backward_step("),
    ),
    load=(
        (
            f"{_TITAN}/trainer.py",
            739,
            "train",
            "self.checkpointer.load(step=config.checkpoint.load_step)",
        ),
        (f"{_TITAN}/components/checkpoint.py", 631, "load", "self.dcp_load("),
        (f"{_TITAN}/components/checkpoint.py", 517, "dcp_load", "dcp.load("),
    ),
    save=(
        (f"{_TITAN}/trainer.py", 767, "train", "self.checkpointer.save("),
        (f"{_TITAN}/components/checkpoint.py", 571, "save", "self.dcp_save("),
        (f"{_TITAN}/components/checkpoint.py", 448, "dcp_save", "ret = dcp.save("),
    ),
    data=(
        (f"{_TITAN}/trainer.py", 762, "train", "self.train_step(data_iterator)"),
        (f"{_TITAN}/trainer.py", 660, "train_step", "input_dict, labels = next(data_iterator)"),
        (f"{_TITAN}/trainer.py", 508, "batch_generator", "batch = next(data_iterator)"),
    ),
    shard="checkpoint/step-{step}/__{rank}_0.distcp",
)


class TitanLog(RankZeroLog):
    """Turns the events of a run into torchtitan's log."""

    program = PROGRAM

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._facts = TitanFacts.of(asked.run.plan, asked.run.output_path)
        self._dates = Dates(asked.run.spec.start_unix_s)
        self._told_s: float | None = None  # lines to come at moments until then are out
        self._to_come: list[Said] = []
        self._launch: Launch | None = None
        self._last_log_s: float | None = None
        self._steps_since = 0

    def lines(self, event: Event) -> Iterator[str]:
        """What was due until the event, then its own."""
        if self._told_s is None:
            self._join(event.time_s)
        elif isinstance(event, PhaseStarted) and event.phase is Phase.WEIGHTS:
            self._begin(event.attempt)
        until_s = event.time_s
        if isinstance(event, RunFinished) and event.reason == "completed":
            until_s = math.inf
        yield from self._due(until_s)
        match event:
            case StepsCompleted():
                yield from self._steps(event)
            case ValidationCompleted():
                yield self._validation(event)
            case PhaseStarted(phase=Phase.CHECKPOINT):
                yield from self._saving(event)
            case CheckpointSaved():
                yield from self._saved(event)
            case PhaseStarted(phase=Phase.EXPORT):
                yield from self._end(event.time_s)
            case RunAborted():
                self._to_come = []
            case MessageLogged() | WatchdogTimedOut() | RunFinished():
                yield from self.job(event)

    def loading(self, step: int, time_s: float) -> str:
        """The line before it is read."""
        return self._info(time_s, load_text(f"{self._facts.folder}/step-{step}"))

    # Beginnings and ends.

    def _join(self, time_s: float) -> None:
        """Begin with a launch that is perhaps under way."""
        self._told_s = math.nextafter(time_s, -math.inf)
        self._begin(attempt_at(self._timeline, time_s))
        if self._last_log_s is not None and time_s > self._last_log_s:
            self._last_log_s = None  # nobody has seen what was logged last

    def _begin(self, attempt: int) -> None:
        launch = launch_of(self._timeline, self._plan, attempt)
        self._launch, self._steps_since = launch, 0
        self._last_log_s = metrics_begin_s(launch)
        self._to_come = start_lines(launch, self._facts)

    def _due(self, until_s: float) -> Iterator[str]:
        """What is to come until a moment, and what was due before the log began is not said."""
        if not self._to_come:
            return
        assert self._told_s is not None
        for said in self._to_come:
            if self._told_s < said.time_s <= until_s:
                yield self._line(said.time_s, said.text, said.level)
        self._to_come = [said for said in self._to_come if said.time_s > until_s]
        self._told_s = until_s

    def _end(self, time_s: float) -> Iterator[str]:
        if self._facts.metrics_rank == 0:
            yield self._info(time_s, "Sleeping 2 seconds for other ranks to complete")
            time_s += _SLEEP_S
        self._to_come = [
            Said(time_s, "Training completed"),
            Said(time_s + _TEAR_DOWN_S, "Process group destroyed"),
        ]

    # Steps and stops.

    def _steps(self, event: StepsCompleted) -> Iterator[str]:
        facts, step = self._facts, event.step
        logged = (step % self._every == 0) | (step == 1)
        collected = step % GC_EVERY == 0
        at = np.flatnonzero(logged)
        if self._last_log_s is None:
            self._last_log_s = float(event.end_s[0] - event.step_time_s[0])
        ends = event.end_s[at]
        counts = np.diff(at, prepend=-1 - self._steps_since)
        tps = np.zeros(len(step))
        tps[at] = self._tps(counts, np.diff(ends, prepend=self._last_log_s))
        said = np.flatnonzero(logged | collected)
        columns = (step, event.end_s, event.step_time_s, event.loss, event.grad_norm, tps, logged)
        rows = zip(*(column[said].tolist() for column in columns), strict=True)
        for number, end_s, took_s, loss, grad_norm, pace, is_logged in rows:
            if number % GC_EVERY == 0:
                yield self._gc(end_s - took_s, "Performing periodic GC collection", _GC_S)
            if is_logged:
                memory_gib = self._memory_gib(number)
                yield self._info(end_s, facts.step_text(number, loss, grad_norm, memory_gib, pace))
            if number == 1:
                yield self._info(end_s, facts.timeouts_text)
        if len(at):
            self._last_log_s = float(ends[-1])
            self._steps_since = len(step) - 1 - int(at[-1])
        else:
            self._steps_since += len(step)

    def _tps(self, steps: I64, time_s: F64) -> F64:
        """Tokens per second and GPU of so many steps in that time."""
        spec = self._plan.spec
        return np.asarray(steps * spec.recipe.tokens_per_step / (time_s * spec.cluster.gpus))

    def _memory_gib(self, step: int) -> float:
        """The most reserved since the last line."""
        assert self._launch is not None, "a log begins with a launch"
        return self._facts.reserved_gib(step, self._launch.step)

    def _validation(self, event: ValidationCompleted) -> str:
        """Its line; its tokens count with those of the steps since the last line."""
        recipe = self._plan.spec.recipe
        began_s = event.time_s - event.duration_s
        since_s = event.time_s - (began_s if self._last_log_s is None else self._last_log_s)
        tokens = self._steps_since * recipe.tokens_per_step + event.tokens
        tps = tokens / (since_s * self._plan.spec.cluster.gpus)
        self._last_log_s, self._steps_since = event.time_s, 0
        memory_gib = self._memory_gib(event.step)
        text = self._facts.validation_text(event.step, event.loss, memory_gib, tps)
        return self._info(event.time_s, text)

    def _saving(self, event: PhaseStarted) -> Iterator[str]:
        text = "Saving the checkpoint (or staging if async is enabled)."
        yield self._info(event.time_s, text)
        if event.step == self._plan.spec.recipe.total_steps:
            text = f"Saving a full checkpoint at last step, step {event.step}."
            yield self._info(event.time_s, text)

    def _saved(self, event: CheckpointSaved) -> Iterator[str]:
        yield self._gc(
            event.time_s - _SAVED_GC_S, "GC collection invoked by checkpointer.", _SAVED_GC_S
        )
        if event.step == self._plan.spec.recipe.total_steps:
            return  # the last save says only how it begins
        yield self._info(
            event.time_s,
            "Finished saving the checkpoint (or staging if async is enabled) "
            f"in {event.duration_s:.2f} seconds.",
        )

    # Frames of lines.

    def _gc(self, began_s: float, reason: str, took_s: float) -> str:
        return self._info(began_s + took_s, f"[GC] {reason} took {took_s:.2f} seconds")

    def _info(self, time_s: float, text: str) -> str:
        return self._line(time_s, text, "INFO")

    def _line(self, time_s: float, text: str, level: str) -> str:
        return f"[titan] {self._dates.milli(time_s)} - root - {level} - {text}"


def torchtitan_log(asked: Asked) -> TitanLog:
    """What makes the log."""
    return TitanLog(asked)
