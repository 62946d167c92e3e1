"""The notation of promtool's unit tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.testing.promtool_series import notation


@pytest.mark.parametrize(
    ("values", "scrapes", "shown"),
    [
        ([(0, b"1"), (1, b"2"), (2, b"3")], 3, "1 2 3"),
        ([(0, b"1"), (1, b"1"), (2, b"1")], 3, "1x2"),
        ([(0, b"1")], 3, "1 stale"),
        ([(2, b"1")], 3, "_x2 1"),
        ([(1, b"1")], 2, "_ 1"),
        ([(0, b"1"), (2, b"1")], 3, "1 stale 1"),
        ([(0, b"1"), (4, b"2")], 6, "1 stale _x2 2 stale"),
        ([(0, b"NaN"), (1, b"NaN")], 2, "NaN NaN"),
        ([(0, b"-1.5"), (1, b"-1.5"), (2, b"1e+06")], 3, "-1.5x1 1e+06"),
    ],
)
def test_values_are_written_as_promtool_reads_them(values, scrapes, shown):
    assert notation(values, scrapes) == shown


def read(shown: str) -> list[str]:
    """What promtool makes of it, by the page cited in the module."""
    found: list[str] = []
    for word in shown.split():
        value, times, count = word.partition("x")
        several = int(count) + (value != "_") if times else 1
        found += [value] * several
    return found


@given(
    st.lists(st.one_of(st.none(), st.sampled_from(["0", "1", "NaN", "2.5"])), min_size=1).filter(
        any
    )
)
def test_every_scrape_has_its_value(scraped):
    values = [(k, word.encode()) for k, word in enumerate(scraped) if word is not None]
    got = read(notation(values, len(scraped)))
    for k, word in enumerate(scraped):
        before = k > 0 and scraped[k - 1] is not None
        if word is not None:
            assert got[k] == word
        elif before:
            assert got[k] == "stale"
        elif k < len(got):
            assert got[k] == "_"
