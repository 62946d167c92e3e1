"""Checks a log: its format is told by its first lines, its invariants by what comes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import BinaryIO, Literal

import numpy as np

from ghosttrain.checking.classic_log import ClassicReader, looks_classic
from ghosttrain.checking.findings import Report, Violation
from ghosttrain.checking.history import History
from ghosttrain.checking.invariants import (
    Invariant,
    invariants_after,
    invariants_before,
    name_of,
)
from ghosttrain.checking.jsonl_log import JsonlReader, looks_like_jsonl
from ghosttrain.checking.lines import RawLine, raw_lines
from ghosttrain.checking.observations import LogEnded, RunBegan, Seen, Unreadable

Format = Literal["jsonl", "classic"]
LINES_TO_TELL = 200
EXPECTED = (
    "expected the events of `ghosttrain run --format jsonl` (one JSON object a line) or a "
    "classic log (lines such as `[2026-01-01 00:00:00] INFO    Run: …`)"
)
_MAGIC = {
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"(\xb5/\xfd": "zstd-compressed: unpack it first",
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16: convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16: convert it to UTF-8 first",
}


class UnknownFormatError(Exception):
    """The lines are neither of the logs we know; the message says what was found and expected."""


@dataclass(slots=True)
class FileReport:
    """What the check of one file came to."""

    format: Format
    runs: int = 0
    steps: int = 0
    lines: int = 0
    report: Report = field(default_factory=Report)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is violated."""
        return not self.report.total

    def violations(self) -> list[Violation]:
        """The first violations of each invariant, in order of their lines."""
        return self.report.by_line()


def check_lines(stream: BinaryIO, *, complete: bool = False) -> FileReport:
    """Check the log in `stream`, line by line.

    Args:
        stream: Bytes of a JSONL event log or of a classic log.
        complete: Whether a run that has begun must also end.

    Raises:
        UnknownFormatError: If it is neither.
    """
    lines = raw_lines(stream)
    head = list(islice(lines, LINES_TO_TELL))
    log_format = format_of(head)
    every = chain(head, lines)
    reader = JsonlReader() if log_format == "jsonl" else ClassicReader()
    seen = reader.observations(every)
    return check_observations(seen, log_format, complete=complete)


def format_of(head: list[RawLine]) -> Format:
    """The format told by the first lines.

    Raises:
        UnknownFormatError: If it is none of ours.
    """
    if not any(line.data.strip() for line in head):
        what = "empty" if not head else "only empty lines"
        raise UnknownFormatError(f"{what}; {EXPECTED}")
    for magic, what in _MAGIC.items():
        if head[0].data.startswith(magic):
            raise UnknownFormatError(f"{what}; {EXPECTED}")
    for line in head:
        if looks_like_jsonl(line.data):
            return "jsonl"
        if looks_classic(line.data):
            return "classic"
    if any(b"\0" in line.data for line in head):
        raise UnknownFormatError(f"binary data; {EXPECTED}")
    first = next(line for line in head if line.data.strip())
    text = first.data[:60].decode("utf-8", "replace").strip()
    raise UnknownFormatError(f"line {first.number} is {text!r}; {EXPECTED}")


def check_observations(
    observations: Iterable[Seen], log_format: Format, *, complete: bool
) -> FileReport:
    """Hold every invariant against what the log says."""
    result = FileReport(log_format)
    report, history = result.report, History()
    for seen in observations:
        if isinstance(seen, Unreadable):
            report.add(Violation(seen.line, seen.rule, seen.text))
        if isinstance(seen, (RunBegan, LogEnded)):
            _end_of_run(seen, history, result, complete=complete)
        if isinstance(seen, LogEnded):
            result.lines = seen.line
        # What a log divides by zero or takes the root of is told, not warned of.
        with np.errstate(all="ignore"):
            _hold(invariants_before(seen), seen, history, report)
            history.learn(seen)
            _hold(invariants_after(seen), seen, history, report)
    result.runs, result.steps = history.runs, history.steps_seen
    return result


def _hold(invariants: Iterable[Invariant], seen: Seen, history: History, report: Report) -> None:
    for invariant in invariants:
        for finding in invariant(seen, history):
            report.take(name_of(invariant), finding)


def _end_of_run(
    seen: RunBegan | LogEnded, history: History, result: FileReport, *, complete: bool
) -> None:
    """Note a run that has not ended where another begins or the file is over."""
    truncated = isinstance(seen, LogEnded) and seen.truncated
    if truncated and not history.is_open:
        result.notes.append(f"line {seen.line} has no end")
    if history.runs and not history.begins_here:
        result.notes.append("the log begins in mid-run: some invariants could not be checked")
    if not history.is_open:
        if history.runs:
            result.report.exercised.add("runs-are-complete")
        return
    total = history.facts.total_steps
    of = f" of {total.value:,.0f}" if total is not None else ""
    at = f"step {history.step or 0:,}{of}"
    where = "the log ends" if isinstance(seen, LogEnded) else "another run begins"
    cut = ", in the middle of a line" if truncated else ""
    if history.interrupted:
        result.notes.append(f"run {history.runs} was interrupted at {at}")
    elif complete:
        text = f"{where} at {at}{cut}, expected the run's end (run_finished, summary)"
        result.report.add(Violation(seen.line, "runs-are-complete", text))
    else:
        result.notes.append(f"run {history.runs} is not complete: {where} at {at}{cut}")
