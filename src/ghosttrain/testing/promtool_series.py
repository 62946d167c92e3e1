"""Series in the notation of promtool's unit tests.

Source: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/ : `_` where
nothing was scraped, `stale` where a series ends, `VxN` for a value and N more of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

GONE, ENDS = b"_", b"stale"


def notation(values: Sequence[tuple[int, bytes]], scrapes: int) -> str:
    """The values of a series.

    Args:
        values: (number of the scrape, value) of the scrapes that had it, ascending.
        scrapes: How many there are.
    """
    return " ".join(_word(value, count) for value, count in _runs(values, scrapes))


def _runs(values: Sequence[tuple[int, bytes]], scrapes: int) -> Iterator[tuple[bytes, int]]:
    for value, several in groupby(_filled(values, scrapes)):
        yield value, len(list(several))


def _filled(values: Sequence[tuple[int, bytes]], scrapes: int) -> Iterator[bytes]:
    """What there is at each scrape, up to the last that says something."""
    following = 0
    for k, value in values:
        if k > following:
            if following:
                yield ENDS
            yield from [GONE] * (k - following - bool(following))
        yield value
        following = k + 1
    if following < scrapes:
        yield ENDS


def _word(value: bytes, count: int) -> str:
    text = value.decode()
    if count == 1:
        return text
    if value == GONE:
        return f"_x{count}"  # which is N of them, not one and N more
    if text in ("NaN", "+Inf", "-Inf"):  # which cannot be counted
        return " ".join([text] * count)
    return f"{text}x{count - 1}"
