"""The frame of a log line: timestamp, level, text."""

from __future__ import annotations

from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.run_card import RunCard

_LEVELS = {"INFO": "green", "WARNING": "yellow", "ERROR": "red"}
_LEVEL_WIDTH = 7


def log_line(
    card: RunCard, time_s: float, *pieces: str | tuple[str, str], level: str = "INFO"
) -> Line:
    """`[2026-11-23 12:41:07] INFO    ` and the pieces, in the card's glyphs."""
    body = [(p, "") if isinstance(p, str) else p for p in pieces]
    if not card.glyphs.unicode:
        body = [(card.glyphs.plain(text), style) for text, style in body]
    head = ((card.stamp(time_s), "dim"), (f" {level:<{_LEVEL_WIDTH}} ", _LEVELS[level]))
    return Line((*head, *body))
