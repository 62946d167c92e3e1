"""LineQueue: lines known now and due later.

A launch prints its start-up over minutes, and hundreds of ranks say the same within a second; but
an event tells of all of it at once. The queue gives lines in order of their times, so that the log
is the same whatever windows its events came in.
"""

from __future__ import annotations

import heapq


class LineQueue:
    """Lines that are due later, in order of time; those of equal times as they were put."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, int, str, bool]] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._rows)

    def put(self, time_s: float, text: str, *, of_launch: bool = False) -> None:
        """Add one line or several, without the last newline.

        Args:
            time_s: When it is printed.
            text: What is printed.
            of_launch: Whether it is a launch's own, which never comes when the launch is over.
        """
        self._count += 1
        heapq.heappush(self._rows, (time_s, self._count, text, of_launch))

    def take(self, until_s: float) -> list[str]:
        """What is due until then, in order."""
        due = []
        while self._rows and self._rows[0][0] <= until_s:
            due.append(heapq.heappop(self._rows)[2])
        return due

    def drop_launch(self) -> None:
        """Forget what the present launch would have printed."""
        self._rows = [row for row in self._rows if not row[3]]
        heapq.heapify(self._rows)
