"""Pending: lines that are due later than the event that brings them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator

from ghosttrain.exporters.writing import Chunk


class Pending:
    """Lines of several files in the order of their times, those of one time as they came.

    Events come in order of time and no line is due before its event: what is due before the next
    event can be written, however the events are batched.
    """

    def __init__(self) -> None:
        self._lines: list[tuple[float, int, str, str]] = []
        self._count = 0

    def add(self, time_s: float, file: str, lines: Iterable[str]) -> None:
        """Keep lines that `file` gets at `time_s`."""
        for line in lines:
            heapq.heappush(self._lines, (time_s, self._count, file, line))
            self._count += 1

    def before(self, time_s: float) -> Iterator[Chunk]:
        """Give away what is due before `time_s`, at once where one file follows itself."""
        due = self._taken(time_s)
        for file, rows in itertools.groupby(due, key=lambda row: row[2]):
            yield file, "".join(f"{row[3]}\n" for row in rows).encode()

    def _taken(self, time_s: float) -> Iterator[tuple[float, int, str, str]]:
        while self._lines and self._lines[0][0] < time_s:
            yield heapq.heappop(self._lines)
