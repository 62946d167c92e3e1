"""RankZeroLog: a log whose lines come with their events, as one rank and the launcher print them.

Where many ranks write the same, the first of them stands for all; `job_log.py` is for programs
whose logs are the output of the whole job.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import ClassVar

from ghosttrain.core.events import Event, MessageLogged, RunFinished, WatchdogTimedOut
from ghosttrain.core.messages import time_limit_lines
from ghosttrain.exporters.dialects.job_output import job_lines, unreadable_step
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.writing import Asked


class RankZeroLog(abc.ABC):
    """Turns the events of one run into the log of one rank.

    Args:
        asked: The run, and the steps between two lines.

    Attributes:
        program: What tracebacks go through.
    """

    program: ClassVar[Program]

    def __init__(self, asked: Asked) -> None:
        run = asked.run
        self._plan, self._timeline, self._seed = run.plan, run.timeline, run.seed
        self._every = asked.log_interval

    @abc.abstractmethod
    def lines(self, event: Event) -> Iterator[str]:
        """The lines that `event` adds."""

    @abc.abstractmethod
    def loading(self, step: int, time_s: float) -> str:
        """What is said before the checkpoint of `step` is read."""

    def accept(self, event: Event) -> bytes:
        """The lines that `event` adds, each with its newline."""
        return "".join(f"{line}\n" for line in self.lines(event)).encode()

    def close(self) -> bytes:
        """Nothing: every line has been given."""
        return b""

    def job(self, event: MessageLogged | WatchdogTimedOut | RunFinished) -> Iterator[str]:
        """What others than the program write into the job's output."""
        if isinstance(event, RunFinished):
            yield from time_limit_lines(self._plan, self._timeline, self._seed)
            return
        if (step := unreadable_step(event)) is not None:
            yield self.loading(step, event.time_s)
        yield from job_lines(event, self._plan, self._seed, self.program)
