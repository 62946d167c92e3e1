"""The pace of steps: statistics of public step-time logs, and a clock one can turn back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.laws.pace import BLOCK, HICCUP_BLOCK, WARM_INLET, PaceClock
from tests.strategies import seeds

# GPUs and the published range of the robust CV of step times (public logs: MLPerf
# GPT-3 and Llama-3.1-405B, 512 to 8,192 H100, and smaller runs).
SPREADS = [(8, 0.0008, 0.003), (512, 0.0008, 0.005), (2048, 0.0025, 0.005), (8192, 0.003, 0.0105)]


def clock(seed=3, gpus=64, total_steps=10**6):
    return PaceClock(seed, gpus=gpus, total_steps=total_steps)


@pytest.mark.parametrize(("gpus", "low", "high"), SPREADS)
def test_spread_and_tail_are_those_of_public_logs(gpus, low, high):
    t = clock(gpus=gpus).factors(0, 20_000)
    median = np.median(t)
    assert low <= 1.4826 * np.median(np.abs(t / median - 1)) <= high
    assert 1.002 < np.quantile(t, 0.99) / median < 1.11
    assert 1.05 < t.max() / median < 3.4
    assert t.mean() == pytest.approx(1.0, abs=0.005)
    assert t.min() > 0.9


def test_neighbouring_steps_are_nearly_independent():
    t = np.minimum(clock().factors(0, 20_000), 1.02)
    for lag in (1, 2, 5, 10):
        assert abs(np.corrcoef(t[lag:], t[:-lag])[0, 1]) < 0.1


@given(seed=seeds, start=st.integers(0, 40_000), count=st.integers(1, 3000))
def test_any_window_in_any_order_is_the_same(seed, start, count):
    far_first = clock(seed)
    far_first.at(50_000)
    window = clock(seed).factors(start, start + count)
    assert far_first.factors(start, start + count).tobytes() == window.tobytes()
    ends = clock(seed).ends(start, start + count)
    assert far_first.ends(start, start + count).tobytes() == ends.tobytes()
    single = [clock(seed).factors(e, e + 1)[0] for e in (start, start + count - 1)]
    assert single == [window[0], window[-1]]


@given(seed=seeds, start=st.integers(0, 40_000), count=st.integers(1, 3000))
def test_the_clock_is_the_sum_of_the_factors(seed, start, count):
    c = clock(seed)
    factors, ends = c.factors(start, start + count), c.ends(start, start + count)
    assert ends == pytest.approx(c.at(start) + np.cumsum(factors), abs=1e-6)
    assert np.all(np.diff(ends) > 0)
    assert c.at(start + count) == pytest.approx(ends[-1], abs=1e-6)
    assert c.at(0) == 0.0


@given(seed=seeds, ordinal=st.integers(1, 60_000), share=st.floats(0.01, 0.99))
def test_completed_is_the_inverse_of_the_clock(seed, ordinal, share):
    c = clock(seed)
    before, after = c.at(ordinal), c.at(ordinal + 1)
    assert c.completed(before + share * (after - before)) == ordinal
    # At an end itself rounding may be off by one: who needs it exactly compares the ends.
    assert c.completed(float(c.ends(ordinal - 1, ordinal)[0])) in (ordinal - 1, ordinal)
    assert c.completed(0.0) == c.completed(-5.0) == 0


@given(seed=seeds, total=st.integers(1, 500))
def test_every_run_of_any_length_has_a_hiccup_and_two_hundred_steps_have_one(seed, total):
    """The show promises a warning with a cause at least once a run."""
    c = clock(seed, total_steps=total)
    assert len(c.hiccups(0, min(total, HICCUP_BLOCK)).ordinal) == 1
    many = c.hiccups(0, 40 * HICCUP_BLOCK)
    assert (many.ordinal // HICCUP_BLOCK).tolist() == list(range(40))


@given(seed=seeds, start=st.integers(0, 5000), count=st.integers(0, 2000))
def test_hiccups_of_a_window_are_those_of_the_whole(seed, start, count):
    c = clock(seed)
    whole, part = c.hiccups(0, 8000), c.hiccups(start, start + count)
    inside = (whole.ordinal >= start) & (whole.ordinal < start + count)
    for name in ("ordinal", "kind", "delay", "warmth_c", "node_share"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[inside])


def test_a_hiccup_lengthens_its_step_by_its_delay():
    c = clock()
    late = c.hiccups(0, 20 * BLOCK)
    slow = late.kind != WARM_INLET
    assert np.all(late.delay[slow] >= 0.02)
    assert np.all(late.delay[~slow] == 0)
    assert np.all((late.warmth_c > 0) == ~slow)
    factors = c.factors(0, 20 * BLOCK)[late.ordinal]
    assert factors == pytest.approx(1 + late.delay, abs=0.02)


def test_a_million_steps_keep_little():
    """The blocks in memory are few; the clock keeps some bytes a thousand steps."""
    c = clock()
    for start in range(0, 1_000_000, 50_000):
        c.ends(start, start + 10)
    assert len(c._blocks) <= 8
    assert len(c._starts) < 3000
