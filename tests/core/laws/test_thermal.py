"""Power and temperature against published telemetry, and how heat comes and goes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.laws.thermal import (
    MEMORY_OF_HEAT_S,
    busy_share,
    heat_left,
    heat_level,
    sm_clock_mhz,
    training_power_w,
)
from tests.strategies import planned, specs


def test_g2_an_a100_at_its_90th_percentile_of_load():
    """58 °C at 404 W (AcmeTrace Kalos); 6 %."""
    gpu, cluster = catalog.gpu("a100-80gb-sxm"), catalog.cluster("a100-80gb-sxm", 8)
    found = cluster.inlet_c + gpu.thermal_resistance_c_per_w * 404
    assert found == pytest.approx(58, rel=0.06)


@pytest.mark.parametrize(
    ("gpu", "low_c", "high_c"),
    [("h100-sxm", 60, 68), ("gb200", 45, 62), ("b200", 62, 72)],  # vendors' air and liquid
)
def test_settled_temperatures_at_full_power(gpu, low_c, high_c):
    card = catalog.gpu(gpu)
    inlet = catalog.cluster(card, 8).inlet_c
    assert low_c <= inlet + card.thermal_resistance_c_per_w * card.tdp_w <= high_c


@given(spec=specs(faults=False))
def test_training_draws_more_than_idle_and_no_more_than_the_limit(spec):
    step = planned(spec).step_time
    watts = training_power_w(spec.gpu, step)
    assert spec.gpu.loaded_idle_w < watts <= spec.gpu.tdp_w
    assert 0 < busy_share(step) < 1


@pytest.mark.parametrize(
    ("model", "gpu", "gpus"),
    [("llama-3-8b", "h100-sxm", 64), ("llama-2-7b", "a100-80gb-sxm", 64)],
)
def test_a_healthy_dense_run_draws_85_to_102_per_cent_of_the_limit(model, gpu, gpus):
    """H100 560 to 690 W, A100 340 to 408 W at 45 to 55 % MFU."""
    from tests.core.laws.test_compute import run_plan

    plan = run_plan(model, gpu, gpus, seq_len=4096, batch=512)
    assert 0.8 <= training_power_w(plan.spec.gpu, plan.step_time) / plan.spec.gpu.tdp_w <= 1.02


def test_heat_fades_fast_at_the_die_and_slowly_in_the_heat_sink():
    age = np.array([-5.0, 0.0, 12.0, 90.0, MEMORY_OF_HEAT_S, 1e9])
    left = heat_left(age)
    assert left[:2].tolist() == [1.0, 1.0]
    assert left[2] == pytest.approx(0.6 / np.e + 0.4 * np.exp(-12 / 90), abs=1e-3)
    assert left[3] == pytest.approx(0.4 / np.e, abs=2e-3)
    assert left[4:].tolist() == [0.0, 0.0]


spans = st.lists(
    st.tuples(st.floats(0.5, 900), st.sampled_from((0.0, 0.18, 0.78, 1.0))), min_size=1, max_size=12
)


@given(parts=spans, moments=st.lists(st.floats(0, 5000), min_size=1, max_size=20))
def test_a_moments_heat_depends_on_no_other_moment_and_on_no_older_span(parts, moments):
    """Bit for bit: or windows would not add up."""
    ends = np.cumsum([duration for duration, _ in parts])
    starts = np.concatenate([[0.0], ends[:-1]])
    levels = np.array([level for _, level in parts])
    whole = heat_level(np.array(moments), starts, ends, levels)
    for at, level in zip(moments, whole, strict=True):
        near = ends > at - MEMORY_OF_HEAT_S
        if near.any():
            alone = heat_level(np.array([at]), starts[near], ends[near], levels[near])
            assert alone.tobytes() == level.tobytes()
        else:
            assert level == 0.0
    assert np.all((whole >= 0) & (whole <= 1))


def test_heat_comes_to_its_level_and_goes_again():
    starts, ends, levels = np.array([0.0]), np.array([2000.0]), np.array([1.0])
    rise = heat_level(np.array([0.0, 30.0, 120.0, 1999.0]), starts, ends, levels)
    assert rise[0] == 0.0
    assert 0.6 < rise[1] < rise[2] < rise[3] == 1.0
    fall = heat_level(np.array([2000.0, 2060.0, 2300.0, 2600.0]), starts, ends, levels)
    assert fall[0] == 1.0
    assert 0.15 < fall[1] < 0.3
    assert fall[3] == 0.0


def test_a_power_limited_card_lowers_its_clock():
    h100, a100 = catalog.gpu("h100-sxm"), catalog.gpu("a100-80gb-sxm")
    power = np.array([50, 300, 600, 700, 720], np.float32)
    clock = sm_clock_mhz(h100, power)
    assert clock[0] == h100.boost_mhz
    assert np.all(np.diff(clock) <= 0)
    assert 1400 <= clock[-1] <= 1755  # dense BF16, as measured
    assert np.all(sm_clock_mhz(a100, power) == a100.boost_mhz)
