"""JobLog: what logs that are the output of a whole job have in common.

A launch prints its start-up, steps print a line now and then, validations and checkpoints theirs,
and where something breaks ranks, torchrun and Slurm write into the same output. A dialect says in
which words. What only the simulator knows (that a fault begins, how long a repair will take) is
never in such a log.

A log may begin in mid-run: what is printed is then what was seen, facts of the launch come from
the run's timeline, and means are over those steps of the first interval that were seen.
"""

from __future__ import annotations

import abc
import math

from ghosttrain.core.events import (
    CheckpointSaved,
    Event,
    MessageKind,
    MessageLogged,
    Phase,
    PhaseStarted,
    RunAborted,
    RunFinished,
    RunRestarted,
    RunStarted,
    StepsCompleted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.messages import time_limit_lines
from ghosttrain.exporters.dialects.dates import Dates
from ghosttrain.exporters.dialects.job_output import said_in_job
from ghosttrain.exporters.dialects.launches import Moments, moments_of
from ghosttrain.exporters.dialects.line_queue import LineQueue
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.writing import Asked

Rows = list[tuple[float, str]]  # run times, and what is printed then: a line or several
# Of no trainer of these: what a check finds that is switched off, the operators' notes, and what
# trainers say of every save anyway.
_UNSAID = (MessageKind.NAN_LOSS, MessageKind.ROLLBACK, MessageKind.STORAGE_SLOW)
_NO_PROCESSES = (Phase.DOWN, Phase.EXPORT, Phase.DONE)  # of the trainer


class JobLog(abc.ABC):
    """Turns the events of one run into a trainer's log.

    Args:
        asked: The run, and the steps between two lines.

    Attributes:
        program: What tracebacks go through, where it is not Megatron-LM.
    """

    program: Program | None = None

    def __init__(self, asked: Asked) -> None:
        run = asked.run
        self.plan, self.timeline, self.seed = run.plan, run.timeline, run.seed
        self.output_path = run.output_path
        self.every = asked.log_interval
        self.dates = Dates(run.spec.start_unix_s)
        self._queue = LineQueue()
        self._has_begun = False

    # What a dialect says.

    @abc.abstractmethod
    def start_up(self, launch: Moments) -> Rows:
        """What a launch prints before its first step."""

    @abc.abstractmethod
    def begin(self, launch: Moments, step: int, time_s: float) -> None:
        """Be ready for the steps of a launch; `step` is the last completed one."""

    @abc.abstractmethod
    def steps(self, event: StepsCompleted) -> Rows:
        """What steps print, in order."""

    @abc.abstractmethod
    def validation_started(self, event: PhaseStarted) -> Rows:
        """What is printed when a validation begins."""

    @abc.abstractmethod
    def validated(self, event: ValidationCompleted) -> Rows:
        """What is printed when it is over."""

    @abc.abstractmethod
    def checkpoint_started(self, event: PhaseStarted) -> Rows:
        """What is printed when a checkpoint begins."""

    @abc.abstractmethod
    def saved(self, event: CheckpointSaved) -> Rows:
        """What is printed when it is complete."""

    @abc.abstractmethod
    def trained(self, time_s: float) -> Rows:
        """What is printed when the last step is done, validated and saved."""

    def message(self, event: MessageLogged | WatchdogTimedOut) -> Rows:
        """What is written of it into the job's output."""
        if isinstance(event, MessageLogged) and event.message in _UNSAID:
            return []
        return list(said_in_job(event, self.plan, self.timeline, self.seed, self.program))

    # The course of a run.

    def accept(self, event: Event) -> bytes:
        """The lines that are due by this event, each with its newline."""
        if not self._has_begun:
            self._join(event)
        until_s = event.time_s
        if isinstance(event, StepsCompleted):
            rows = self.steps(event)
            until_s = float(event.end_s[-1])
            if not self._queue:
                return _encoded([text for _, text in rows])
        else:
            rows = self._other(event)
        for time_s, text in rows:
            self._queue.put(time_s, text)
        if isinstance(event, RunFinished):
            self._queue.drop_launch()
            until_s = math.inf
        lines = _encoded(self._queue.take(until_s))
        if isinstance(event, RunAborted):
            self._queue.drop_launch()
        return lines

    def close(self) -> bytes:
        """Nothing: a line that is not due yet is not written."""
        return b""

    def _other(self, event: Event) -> Rows:
        match event:
            case RunStarted():
                return self._launched(1)
            case RunRestarted():
                return self._launched(event.attempt)
            case PhaseStarted(phase=Phase.VALIDATION):
                return self.validation_started(event)
            case PhaseStarted(phase=Phase.CHECKPOINT):
                return self.checkpoint_started(event)
            case PhaseStarted(phase=Phase.EXPORT):  # by another program, when training is over
                return self.trained(event.time_s)
            case ValidationCompleted():
                return self.validated(event)
            case CheckpointSaved():
                return self.saved(event)
            case MessageLogged() | WatchdogTimedOut():
                return self.message(event)
            case RunFinished():
                lines = time_limit_lines(self.plan, self.timeline, self.seed)
                return [(event.time_s, line) for line in lines]
            case _:
                return []

    def _launched(self, attempt: int) -> Rows:
        launch = moments_of(self.timeline, self.plan, attempt)
        self.begin(launch, launch.step, launch.start_s)
        for time_s, text in self.start_up(launch):
            self._queue.put(time_s, text, of_launch=True)
        return []

    def _join(self, event: Event) -> None:
        """Take up the launch that runs when the first event comes, if one does."""
        self._has_begun = True
        if isinstance(event, RunStarted | RunRestarted):
            return
        span = self.timeline.spans[self.timeline.index_at(event.time_s)]
        is_steps = isinstance(event, StepsCompleted)
        if span.phase in _NO_PROCESSES and not is_steps:
            return
        attempt = event.attempt if isinstance(event, StepsCompleted) else span.attempt
        launch = moments_of(self.timeline, self.plan, attempt)
        step = int(event.step[0]) - 1 if isinstance(event, StepsCompleted) else span.step
        self.begin(launch, step, event.time_s)
        for time_s, text in self.start_up(launch):
            if time_s >= event.time_s and not is_steps:
                self._queue.put(time_s, text, of_launch=True)


def _encoded(texts: list[str]) -> bytes:
    return "".join([f"{text}\n" for text in texts]).encode()
