from __future__ import annotations

import pytest

from ghosttrain.views.renderables.numbers import (
    binary_size,
    count,
    duration,
    long_duration,
    percent,
    perplexity,
    short_time,
    size,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (1012, "16m52s"),
        (3599.7, "1h00m"),
        (6600, "1h50m"),
        (86399.9, "1d00h"),
        (273600, "3d04h"),
        (99 * 86400, "99d00h"),
        (float("inf"), "0s"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41, "41s"), (461, "7m 41s"), (7661, "2h 07m 41s"), (90061, "1d 01h 01m")],
)
def test_long_durations(seconds, text):
    assert long_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12e-6, "12 us"), (0.00597, "5.97 ms"), (2.5, "2.5s"), (61, "1m01s")],
)
def test_short_times(seconds, text):
    assert short_time(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (128000, "128.0 K"),
        (1.0486e9, "1.05 B"),
        (8030261248, "8.03 B"),
        (1.5e13, "15.00 T"),
    ],
)
def test_counts(number, text):
    assert count(number) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (436e6, "436 MB"), (16.06e9, "16.1 GB"), (112.4e9, "112 GB"), (999.9e6, "1.0 GB")],
)
def test_sizes(size_bytes, text):
    assert size(size_bytes) == text


def test_whole_powers_of_two_keep_their_names():
    assert binary_size(2**30) == "1 GiB"
    assert binary_size(10**9) == "1.0 GB"


@pytest.mark.parametrize(
    ("frac", "shown"), [(0, 0), (0.1367, 14), (0.999, 99), (1, 100), (1.2, 100), (-1, 0)]
)
def test_only_what_is_done_is_100_percent(frac, shown):
    assert percent(frac) == shown


def test_perplexity_of_a_hopeless_loss_is_a_number():
    assert perplexity(1e6) > perplexity(2.0) > 7.38
