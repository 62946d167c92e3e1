"""Screen: owns the terminal. Log lines scroll; the pinned lines stay the last below them.

One write per frame. Every line is cut to the width, never wrapped. Between frames the cursor,
hidden, stands behind the last pinned line, so all moves are relative to it. When the size
changes, what is visible is drawn anew from the last entries: no stale copies stay, whether or
not the terminal re-flows its lines.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from ghosttrain.views.renderables.line import Line
from ghosttrain.views.show.terminal import NARROWEST_WITH_BARS, Echo, Terminal, write_all

Entry = Line | Callable[[int, int], Sequence[Line]]
"""A log line, or what draws its lines for a width and a height (as the GPU grid does)."""

RING_ENTRIES = 300
RING_ROWS = 600  # rows kept in any case; more only as entries are taller than they were

# In a frame: drawn at once where the terminal knows how (2026), and never wrapped (7), should
# the terminal have become narrower since its size was asked for.
FRAME_START = "\x1b[?2026h\x1b[?7l"
FRAME_END = "\x1b[?7h\x1b[?2026l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
# Erase from the home position, not with 2J: that one moves the screen, bars too, into scrollback.
CLEAR = "\x1b[H\x1b[J"


class Screen:
    """The terminal, for as long as the show runs. Use as a context manager, or close() it."""

    def __init__(
        self,
        terminal: Terminal,
        *,
        write: Callable[[int, memoryview], int] = os.write,
        size: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.terminal = terminal
        self._write = write
        self._ask_size = size or terminal.size
        self._ring: deque[tuple[Entry, int]] = deque(maxlen=RING_ENTRIES)
        self._ring_rows = 0
        self._pending: list[Entry] = []
        self._pinned: list[str] = []  # rows as they stand on the terminal
        self._drawn_size: tuple[int, int] | None = None
        self._started = self._closed = self._torn = False
        self._echo = Echo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal, as it says now."""
        return self._ask_size()

    def log(self, *entries: Entry) -> None:
        """Have `entries` scroll by with the next frame."""
        self._pending.extend(entries)

    def adopt(self, *lines: Line) -> None:
        """Remember `lines`, which are on the terminal already, for when it is drawn anew."""
        for line in lines:
            self._remember(line, 1)

    def adopt_pinned(self, rows: Sequence[str]) -> None:
        """Take over `rows`, which stand below the adopted lines, the cursor behind the last."""
        self._pinned = list(rows)

    def draw(self, pinned: Entry | None = None) -> None:
        """Write what is new, and `pinned` as the last lines, if anything of it changed."""
        if self._closed:
            return
        size = self._ask_size()
        columns, lines = size
        if not self.terminal.moves:
            self._write_frame(self._scrolled_by(columns, lines), plain=True)
            return
        bars: list[str] = []
        if pinned is not None and columns >= NARROWEST_WITH_BARS:
            bars = self._rows(pinned, columns, lines)[: max(0, lines - 1)]
        resized = self._drawn_size is not None and size != self._drawn_size
        fresh = self._scrolled_by(columns, max(1, lines - len(bars)))
        if resized:
            frame = self._anew(columns, lines, bars)
        elif fresh or len(bars) != len(self._pinned):
            frame = self._to_first_pinned() + "\x1b[J" + _stacked(fresh, bars)
        elif bars != self._pinned:
            frame = self._changed(bars)
        else:
            frame = ""
        if not self._started:
            self._start()
            frame = HIDE_CURSOR + frame
        if frame:
            self._write_frame([frame])
        self._pinned, self._drawn_size = bars, size

    def suspend(self) -> None:
        """Take the pinned lines off and give the terminal back; the next draw goes on below."""
        if self._started and not self._closed:
            self._write_frame([self._to_first_pinned(), "\x1b[J", SHOW_CURSOR])
            self._echo.restore()
            self._pinned, self._drawn_size, self._started = [], None, False

    def close(self) -> None:
        """Leave the terminal as it was found, the cursor on a line of its own. Idempotent."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if not self._started and not self._pinned:
            return
        ending = FRAME_END + "\x1b[0m"
        if self._torn:  # interrupted within a frame: where the cursor is, nobody knows
            ending += "\r\n\x1b[J"
        elif self._pinned:
            ending += "\r\n"
        try:
            write_all(self.terminal.fd, (ending + SHOW_CURSOR).encode(), write=self._write)
        finally:
            self._echo.restore()

    def _start(self) -> None:
        self._started = True
        self._echo.mute()
        atexit.register(self.close)

    def _scrolled_by(self, columns: int, height: int) -> list[str]:
        """The rows of the pending entries, which from now on are in the ring."""
        rows: list[str] = []
        for entry in self._pending:
            drawn = self._rows(entry, columns, height)
            self._remember(entry, len(drawn))
            rows += drawn
        self._pending.clear()
        return rows

    def _remember(self, entry: Entry, rows: int) -> None:
        if len(self._ring) == RING_ENTRIES:
            self._ring_rows -= self._ring[0][1]
        self._ring.append((entry, rows))
        self._ring_rows += rows
        while self._ring_rows - self._ring[0][1] > RING_ROWS:
            self._ring_rows -= self._ring.popleft()[1]

    def _rows(self, entry: Entry, columns: int, height: int) -> list[str]:
        lines = (entry,) if isinstance(entry, Line) else entry(columns, height)
        fit = self._fit(columns)
        color = self.terminal.color
        return [fit(line).ansi(color=color) for line in lines]

    def _fit(self, columns: int) -> Callable[[Line], Line]:
        if not self.terminal.is_tty:
            return lambda line: line
        return lambda line: line.fit(columns)

    def _to_first_pinned(self) -> str:
        up = len(self._pinned) - 1
        return f"\x1b[{up}A\r" if up > 0 else "\r"

    def _changed(self, bars: list[str]) -> str:
        """Overwrites the pinned rows that changed; as many as there are, at least one."""
        out, at = [], len(bars) - 1
        for row in range(len(bars)):
            if bars[row] != self._pinned[row]:
                out += [_moved(row - at), "\r", bars[row]]
                at = row
                if _cells(bars[row]) < _cells(self._pinned[row]):
                    out.append("\x1b[K")
        out.append(_moved(len(bars) - 1 - at))
        return "".join(out)

    def _anew(self, columns: int, lines: int, bars: list[str]) -> str:
        """Clears the visible screen and fills it from the ring."""
        room = lines - max(1, len(bars)) if lines > 1 else 1
        rows: list[str] = []
        height = max(1, lines - len(bars))
        for entry, _ in reversed(self._ring):
            if len(rows) >= room:
                break
            rows[:0] = self._rows(entry, columns, height)
        return CLEAR + _stacked(rows[max(0, len(rows) - room) :], bars)

    def _write_frame(self, parts: Iterable[str], *, plain: bool = False) -> None:
        text = "".join(f"{row}\n" for row in parts) if plain else "".join(parts)
        if not text:
            return
        if not plain:
            text = FRAME_START + text + FRAME_END
        self._torn = True
        write_all(self.terminal.fd, self.terminal.encode(text), write=self._write)
        self._torn = False


def _stacked(fresh: list[str], bars: list[str]) -> str:
    """Log rows, each ended; behind them the pinned rows, the last one not ended."""
    return "".join(f"{row}\r\n" for row in fresh) + "\r\n".join(bars)


def _moved(rows: int) -> str:
    if rows == 0:
        return ""
    return f"\x1b[{rows}B" if rows > 0 else f"\x1b[{-rows}A"


def _cells(row: str) -> int:
    """Cells of a row with SGR sequences, none of which holds an 'm' but at its end."""
    return sum(
        len(part.partition("m")[2]) if i else len(part) for i, part in enumerate(row.split("\x1b["))
    )
