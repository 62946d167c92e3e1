"""The figures and their intervals."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from ghosttrain.cli import score as command
from ghosttrain.core.rng import Stream
from ghosttrain.scoring import matching as rules
from ghosttrain.scoring import score as figures
from ghosttrain.scoring.predictions import Alarm
from ghosttrain.scoring.score import Estimate, score
from tests.scoring.truths import alarms, incident, truth

# 20 incidents of 100 s, 1000 s apart.
MANY = [incident(n, 1000.0 * n, 1000.0 * n + 100.0) for n in range(1, 21)]


def found_at(delays):
    """Alarms so long after the onsets of the first incidents."""
    return alarms(*(1000.0 * n + d for n, d in enumerate(delays, 1)))


def test_the_defaults_of_the_command_are_those_of_the_rules():
    assert command.GRACE_S == rules.GRACE_S
    assert command.RESAMPLES == figures.RESAMPLES


def test_counts_and_shares():
    known = truth(*MANY, incident(21, 500.0, 700.0, benign=True), end_s=30_000.0)
    told = alarms(600, 1010, 1020, 2030, 3040, 450, 21_500)
    result = score(known, told)
    assert (result.incidents, result.lookalikes, result.alarms) == (20, 1, 7)
    assert (result.found, result.repeats) == (3, 1)
    assert (result.false_alarms, result.benign_alarms) == (3, 1)
    assert result.recall.value == pytest.approx(3 / 20)
    assert result.precision.value == pytest.approx(3 / 6)
    assert result.f1.value == pytest.approx(2 * 0.15 * 0.5 / 0.65)
    assert result.median_s.value == 30.0
    assert result.p90_s.value == pytest.approx(38.0)
    clean_days = (30_000 - 20 * 160) / 86400
    assert result.false_per_day == pytest.approx(3 / clean_days)


def test_shares_of_class_and_entity_are_of_those_that_name_one():
    known = truth(*MANY[:4], end_s=30_000.0)
    told = [
        Alarm(1, 1010.0, "gpu-off-bus", "gpu 9"),
        Alarm(2, 2010.0, "hbm-ecc", "node 1"),
        Alarm(3, 3010.0, None, "gpu 1"),
        Alarm(4, 4010.0),
        Alarm(5, 9000.0, "hbm-ecc", "gpu 9"),
    ]
    result = score(known, told)
    assert (result.class_right.value, result.class_right.of) == (0.5, 2)
    assert result.entity_exact.value == pytest.approx(1 / 3)
    assert result.entity_exact.of == 3
    assert result.entity_near.value == pytest.approx(1 / 3)
    by_name = {c.name: c for c in result.classes}
    assert [*by_name] == ["gpu-off-bus", "hbm-ecc"]
    off_bus, ecc = by_name["gpu-off-bus"], by_name["hbm-ecc"]
    assert (off_bus.incidents, off_bus.found, off_bus.named, off_bus.right) == (4, 4, 1, 1)
    assert off_bus.median_s == 10.0
    assert (ecc.incidents, ecc.found, ecc.named, ecc.right) == (0, 0, 2, 0)
    assert ecc.recall == Estimate()


def test_no_alarms():
    result = score(truth(*MANY, end_s=30_000.0), [])
    assert result.recall.value == 0.0
    assert result.precision == Estimate()
    assert result.f1.value == 0.0
    assert result.median_s == Estimate()
    # None of 20: the exact upper bound is 1 - 0.025^(1/20).
    assert result.recall.high == pytest.approx(0.1684, abs=1e-4)


def test_no_incidents():
    result = score(truth(end_s=3600.0), alarms(10, 1000))
    assert result.recall == Estimate()
    assert (result.precision.value, result.false_per_day) == (0.0, 48.0)
    empty = score(truth(), [])
    assert (empty.recall, empty.precision, empty.f1) == (Estimate(),) * 3


def test_the_threshold_leaves_out_the_less_confident_and_keeps_those_that_do_not_say():
    told = [Alarm(1, 1010.0, confidence=0.4), Alarm(2, 2010.0, confidence=0.5), Alarm(3, 3010.0)]
    result = score(truth(*MANY, end_s=30_000.0), told, threshold=0.5)
    assert (result.alarms, result.left_out, result.found) == (2, 1, 2)


def test_all_found_has_the_exact_bound_in_place_of_a_point():
    result = score(truth(*MANY[:5], end_s=30_000.0), found_at([10.0] * 5))
    assert result.recall.value == result.precision.value == 1.0
    assert result.recall.low == pytest.approx(0.4782, abs=1e-4)  # 0.025^(1/5)
    assert result.f1.low == pytest.approx(2 * 0.4782 / 1.4782, abs=1e-4)
    assert result.recall.high == 1.0
    assert (result.median_s.low, result.median_s.high) == (None, None), "five times are too few"


def test_intervals_hold_the_value_and_come_again_with_the_seed():
    known = truth(*MANY, end_s=30_000.0)
    told = [*found_at(range(1, 13)), *alarms(25_000, 25_500, 26_000)]
    result = score(known, told, seed=3)
    for field in ("recall", "precision", "f1", "median_s", "p90_s"):
        e = getattr(result, field)
        assert e.low < e.value < e.high, field
    assert score(known, told, seed=3).recall == result.recall
    assert score(known, told, seed=4).precision != result.precision


def test_the_interval_of_recall_is_about_the_binomial_one():
    """12 of 20: a normal interval of the share is 0.6 +- 1.96 sqrt(0.24 / 20) = 0.39 to 0.81."""
    told = found_at([5.0] * 12)
    recall = score(truth(*MANY, end_s=30_000.0), told, resamples=20_000).recall
    assert recall.low == pytest.approx(0.385, abs=0.03)
    assert recall.high == pytest.approx(0.815, abs=0.03)


def test_intervals_cover_what_they_are_to_cover():
    """Of detectors that find each incident with probability 0.7, nine in ten or more intervals of
    recall hold 0.7 (percentile intervals of 20 units are a little short of 95 %)."""
    known = truth(*MANY, end_s=30_000.0)
    covered = 0
    for trial in range(200):
        luck = Stream(trial, "test").uniform(0, 20)
        told = alarms(*(1000.0 * n + 5 for n in range(1, 21) if luck[n - 1] < 0.7))
        recall = score(known, told, resamples=500, seed=trial).recall
        assert recall.low is not None
        assert recall.high is not None
        covered += recall.low <= 0.7 <= recall.high
    assert 180 <= covered <= 198


def test_a_burst_of_false_alarms_is_one_unit():
    """Forty alarms with one cause say no more of the precision's spread than one would."""
    known = truth(*MANY, end_s=30_000.0)
    found = [1000.0 * n + 5 for n in range(1, 11)]
    burst = score(known, alarms(*found, *(25_000.0 + s for s in range(10)))).precision
    apart = score(known, alarms(*found, *(22_000.0 + 500 * s for s in range(10)))).precision
    assert burst.value == apart.value == 0.5
    assert burst.low is not None
    assert burst.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert burst.high - burst.low > 1.2 * (apart.high - apart.low)
    lookalike = truth(*MANY, incident(30, 22_000.0, 29_000.0, benign=True), end_s=30_000.0)
    same = score(lookalike, alarms(*found, *(22_000.0 + 500 * s for s in range(10)))).precision
    assert (same.low, same.high) == (burst.low, burst.high)


def test_resampled_quantiles_are_those_of_numpy():
    times_s = np.array([1.0, 2.0, 4.0, 8.0])
    counts = np.array([[1, 1, 1, 1, 9], [0, 3, 0, 2, 0], [0, 0, 0, 0, 5], [1, 0, 0, 0, 0]])
    for q in (0.5, 0.9):
        found = figures._quantiles(times_s, counts.astype(float), q)
        for row, value in zip(counts, found, strict=True):
            drawn = np.repeat(times_s, row[:4])
            assert value == pytest.approx(np.quantile(drawn, q)) if len(drawn) else np.isnan(value)


def test_blocks_of_resamples_do_not_show(monkeypatch):
    known = truth(*MANY, end_s=30_000.0)
    told = [*found_at(range(1, 13)), *alarms(25_000, 26_000)]
    whole = score(known, told)
    monkeypatch.setattr(figures, "_MOST_CELLS", 100)
    assert dataclasses.astuple(score(known, told)) == dataclasses.astuple(whole)


def test_many_alarms_take_seconds():
    known = truth(*(incident(n, 10.0 * n, 10.0 * n + 1) for n in range(500)), end_s=1e6)
    told = alarms(*np.linspace(0, 1e6, 20_000))
    before = time.perf_counter()
    score(known, told, grace_s=1.0)
    assert time.perf_counter() - before < 15
