"""The characters drawings are made of: Unicode, or ASCII where the locale has nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """A set of one-cell characters.

    Attributes:
        dot: A GPU that is well, in colour.
        ramp: Eight or fewer heights from low to high.
        half_block: Upper half of a cell, "" where there is none.
        separator: Between facts of one line.
        times: Between a count and what is counted.
    """

    unicode: bool
    dot: str
    ramp: str
    half_block: str
    separator: str
    times: str
    ellipsis: str
    check: str
    degree: str

    def plain(self, text: str) -> str:
        """`text`, written in Unicode, in these glyphs."""
        return text if self.unicode else text.translate(_TO_ASCII)


_TO_ASCII = str.maketrans(
    {
        "·": "|",
        "×": "x",
        "…": "~",
        "✔": "+",
        "°": "",
        "–": "-",
        "—": "-",
        "→": ">",
        "ä": "a",
        "é": "e",
    }
)

UNICODE = Glyphs(True, "●", "▁▂▃▄▅▆▇█", "▀", "·", "×", "…", "✔", "°")
ASCII = Glyphs(False, "*", ".-=#", "", "|", "x", "~", "+", "")
