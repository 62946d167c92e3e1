"""A log of a window whose lines tell of intervals: what went before its first line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghosttrain.core.run import Run
    from ghosttrain.exporters.writing import Asked, LogWriter


def look_back(writer: LogWriter, asked: Asked, lines: int) -> None:
    """Let a writer see what its window's first line depends on: the last `lines` lines before it.

    What it says of that belongs to the window before. The cost is that of some intervals, not of
    the history: what a launch averages from its beginning on begins there.
    """
    begin_s = _lines_before_s(asked.run, asked.start_s, asked.log_interval, lines)
    for event in asked.run.events(begin_s, asked.start_s, sample_every=asked.log_interval):
        writer.accept(event)


def _lines_before_s(run: Run, start_s: float, log_interval: int, lines: int) -> float:
    """A moment ahead of the last logged steps before `start_s`, or of its launch."""
    now = run.job(start_s)
    logged = now.step - now.step % log_interval - (lines - 1) * log_interval
    back_s = (lines + 1) * log_interval * run.plan.step_time.total_s
    while (begin_s := max(0.0, start_s - back_s)) > 0.0:
        then = run.job(begin_s)
        if then.attempt != now.attempt or then.step < logged:
            break
        back_s *= 2
    return begin_s
