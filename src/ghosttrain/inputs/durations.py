"""Durations as people write them: 2h10min, 90s, 1d."""

from __future__ import annotations

import math
import re

from ghosttrain.core.errors import SpecError

_UNITS_S = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds of a duration like 2h10min, 90s or 1d; a bare number is seconds.

    Raises:
        SpecError: If it is no duration, or not above 0 and finite.
    """
    word = text.strip().lower().replace(" ", "")
    total_s, position = 0.0, 0
    if re.fullmatch(r"\d+(\.\d+)?", word, re.ASCII):
        total_s, position = float(word), len(word)
    seen: list[float] = []
    while position < len(word) and (part := _PART.match(word, position)):
        unit_s = _UNITS_S[part[2]]
        if seen and unit_s >= seen[-1]:  # 5min2h is a slip, not a duration
            break
        seen.append(unit_s)
        total_s += float(part[1]) * unit_s
        position = part.end()
    if position < len(word) or not 0 < total_s < math.inf:
        raise SpecError(f"duration {text!r} makes no sense: give one above 0, as in 2h10min or 90s")
    return total_s
