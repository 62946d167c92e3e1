"""Durations: what people write, and what makes no sense."""

from __future__ import annotations

import pytest

from ghosttrain.core.errors import SpecError
from ghosttrain.inputs.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h10min", 7800),
        ("90s", 90),
        ("1d", 86400),
        ("1.5h", 5400),
        ("1h 30m", 5400),
        ("45", 45),
        ("0.25s", 0.25),
        ("1d2h3min4s", 93784),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["0", "0s", "-5s", "", "h", "5min2h", "1h1h", "nan", "inf", "1e5", "2h10", "ten", "9" * 400],
)
def test_durations_that_make_no_sense(text):
    with pytest.raises(SpecError, match="makes no sense"):
        parse_duration(text)
