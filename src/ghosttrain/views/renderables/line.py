"""Line: styled text of one terminal row, cut rather than wrapped.

Drawings return lines; whoever owns the terminal fits them to its width and writes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Style names used by every drawing, and their SGR codes. Colour only where it means something.
SGR = {
    "": "",
    "dim": "2",
    "bold": "1",
    "green": "32",
    "yellow": "33",
    "red": "31",
    "cyan": "36",
    "bold green": "1;32",
    "bold red": "1;31",
    "bold yellow": "1;33",
    "bold cyan": "1;36",
}

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Line:
    """One row as (text, style) pieces; styles are keys of SGR or raw SGR codes."""

    pieces: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, *pieces: str | tuple[str, str]) -> Line:
        """Line of pieces, plain strings having no style."""
        return Line(tuple((p, "") if isinstance(p, str) else p for p in pieces))

    @property
    def text(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.pieces)

    def __len__(self) -> int:
        """Cells taken: every character drawn by ghosttrain is one cell wide."""
        return sum(len(text) for text, _ in self.pieces)

    def fit(self, width: int, *, ellipsis: str = "…") -> Line:
        """The line cut to `width` cells, its last cell an ellipsis where something was cut."""
        if len(self) <= width:
            return self
        room = max(0, width - len(ellipsis))
        kept: list[tuple[str, str]] = []
        for text, style in self.pieces:
            if room <= 0:
                break
            kept.append((text[:room], style))
            room -= len(text)
        return Line((*kept, (ellipsis[: max(0, width)], "dim")))

    def ansi(self, *, color: bool) -> str:
        """The line for a terminal, with SGR sequences if `color`."""
        if not color:
            return self.text
        out = []
        for text, style in self.pieces:
            code = SGR.get(style, style)
            out.append(f"\x1b[{code}m{text}\x1b[0m" if code else text)
        return "".join(out)


class Raw(Line):
    """A row drawn by a fast path: text with its SGR sequences in it, and the cells it takes.

    A map of 16,384 GPUs is cheap only while nobody looks at single pieces.
    """

    __slots__ = ("cells", "rendered")

    rendered: str
    cells: int

    def __init__(self, rendered: str, cells: int | None = None) -> None:
        object.__setattr__(self, "pieces", ())
        object.__setattr__(self, "rendered", rendered)
        object.__setattr__(self, "cells", len(self.text) if cells is None else cells)

    @property
    def text(self) -> str:
        """The text without styles."""
        return _ESCAPES.sub("", self.rendered)

    def __len__(self) -> int:
        return self.cells

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raw) and other.rendered == self.rendered

    def __hash__(self) -> int:
        return hash(self.rendered)

    def fit(self, width: int, *, ellipsis: str = "…") -> Line:
        """The row, or its plain text cut to `width`."""
        if self.cells <= width:
            return self
        return Line.of(self.text).fit(width, ellipsis=ellipsis)

    def ansi(self, *, color: bool) -> str:
        """The row as drawn, or its plain text."""
        return self.rendered if color else self.text
