"""What faults cost, against published clusters, the limits of the formulas, and counted draws."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.laws.goodput import (
    PUBLISHED_FAULTS,
    PUBLISHED_PER_1000_GPU_DAYS,
    FaultCost,
    FaultLoad,
    async_stall_s,
    daly_interval_s,
    detection_s,
    effective_time_ratio,
    fault_load,
    host_w_per_gpu,
    mean_between_faults_s,
    segment_cost,
    young_interval_s,
)
from ghosttrain.core.units import DAY_S, HOUR_S
from tests.strategies import PROCESS_KIND, WATCHDOG_KIND

means = st.floats(600.0, 1e8)
segments = st.floats(1.0, 1e5)
launches = st.floats(0.0, 3600.0)


def load_of(mean_between_s: float, *, down_s: float = 0.0) -> FaultLoad:
    return FaultLoad(1 / mean_between_s, 0.0, down_s, down_s**2)


# ---------------------------------------------------------------------------- published values


def test_llama_3_was_interrupted_every_3_1_hours():
    """arXiv:2407.21783, table 5: 419 unexpected ones in 54 days, 3.79 in 1,000 node-days."""
    mean_s = mean_between_faults_s(PUBLISHED_PER_1000_GPU_DAYS, 16384)
    assert mean_s == pytest.approx(54 * DAY_S / 419)
    assert mean_between_faults_s(3.79 / 8, 16384) == pytest.approx(mean_s, rel=0.002)
    load = fault_load(PUBLISHED_FAULTS, gpus=16384, watchdog_timeout_s=600.0)
    assert load.mean_between_s == pytest.approx(3.093 * HOUR_S, rel=0.01)


def test_a_research_cluster_of_16384_gpus_fails_every_1_8_hours():
    """Kokolis 2024 (arXiv:2410.21680): 6.50 failures in 1,000 node-days."""
    assert mean_between_faults_s(6.50 / 8, 16384) == pytest.approx(1.8 * HOUR_S, rel=0.03)


def test_llama_3_trained_more_than_nine_tenths_of_the_time():
    """Published: over 0.90; saves every 10 min that stall 3 s, 12 min to be back are ours."""
    ratio = effective_time_ratio(600.0, 3.0, load_of(3.09 * HOUR_S, down_s=720.0), 0.0)
    assert ratio > 0.90
    first_order = (1 - 3 / 603) * 3.09 / (3.09 + 0.2 + 600 / 2 / 3600)
    assert first_order == pytest.approx(0.911, abs=0.001)
    assert ratio == pytest.approx(first_order, abs=0.004)


def test_bloom_would_have_saved_best_every_1_9_hours():
    """BigScience tr11: 40 s a checkpoint, a fault a week; they chose about 3 hours."""
    assert daly_interval_s(40.0, 7 * DAY_S) == pytest.approx(1.9 * HOUR_S, rel=0.03)
    assert young_interval_s(40.0, 7 * DAY_S) == pytest.approx(1.93 * HOUR_S, rel=0.01)


# ---------------------------------------------------------------------------- the closed form


@given(mean=means, segment=segments, launch=launches, down=st.floats(0.0, 3600.0))
def test_the_parts_add_up_to_daly_s_form(mean, segment, launch, down):
    cost = segment_cost(segment, load_of(mean, down_s=down), launch)
    if not math.isfinite(cost.total_s):
        assert (segment + launch) / mean > 300
        return
    whole = (mean + down) * math.exp(launch / mean) * math.expm1(segment / mean)
    assert segment + cost.total_s == pytest.approx(whole, rel=1e-9)
    assert min(cost.faults, cost.repair_s, cost.launch_s) >= 0
    assert cost.replay_s >= -1e-9 * segment


@given(stall=st.floats(0.1, 300.0), mean=st.floats(3600.0, 1e7))
def test_no_other_interval_is_better_than_the_best(stall, mean):
    """Daly's series leaves out high orders: within 0.1 % of the time where stalls are rare."""
    load = load_of(mean)
    best_s = daly_interval_s(stall, mean)
    best = effective_time_ratio(best_s, stall, load, 0.0)
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert effective_time_ratio(factor * best_s, stall, load, 0.0) < best + 1e-3


def test_a_walk_through_drawn_faults_takes_as_long():
    """The closed form against counting: 4,000 segments with faults drawn one by one."""
    draw = random.Random(7)
    mean, segment, launch, down, count = 5000.0, 900.0, 240.0, 500.0, 4000
    times = []
    for _ in range(count):
        spent, needed = 0.0, segment
        while (up := draw.expovariate(1 / mean)) < needed:
            spent += up + down
            needed = segment + launch
        times.append(spent + needed)
    average = sum(times) / count
    error = math.sqrt(sum((t - average) ** 2 for t in times)) / count
    cost = segment_cost(segment, load_of(mean, down_s=down), launch)
    assert abs(average - segment - cost.total_s) < 4 * error


def test_what_never_finishes_takes_for_ever():
    assert segment_cost(1e6, load_of(100.0), 0.0).total_s == math.inf
    assert effective_time_ratio(1e6, 1.0, load_of(100.0), 0.0) == 0.0


def test_without_faults_nothing_is_lost_to_them():
    none = fault_load([], gpus=8, watchdog_timeout_s=600.0)
    assert none.mean_between_s == math.inf
    assert segment_cost(600.0, none, 60.0) == FaultCost()
    assert daly_interval_s(10.0, none.mean_between_s) == math.inf
    assert effective_time_ratio(90.0, 10.0, none, 60.0) == 0.9


# ---------------------------------------------------------------------------- loads


def test_a_load_is_the_mean_of_its_kinds_by_their_rates():
    rare = replace(WATCHDOG_KIND, rate_per_1000_gpu_days=0.1, downtime_sigma=0.0)
    often = replace(PROCESS_KIND, rate_per_1000_gpu_days=0.3, downtime_sigma=0.0)
    load = fault_load([rare, often], gpus=1000, watchdog_timeout_s=600.0)
    assert load.per_s * DAY_S == pytest.approx(0.4)
    seen_s = 29 / math.log(30)  # log-uniform between 1 and 30 s
    assert load.hang_s == pytest.approx(0.25 * 600 + 0.75 * seen_s)
    assert load.repair_s == pytest.approx(0.25 * 300 + 0.75 * 90)
    assert load.down_square_s2 > load.down_s**2


def test_kinds_that_end_no_launch_are_no_load():
    slow = replace(PROCESS_KIND, course="slow", effect="slow-compute", recovery="self")
    alone = fault_load([WATCHDOG_KIND], gpus=1000, watchdog_timeout_s=600.0)
    assert fault_load([WATCHDOG_KIND, slow], gpus=1000, watchdog_timeout_s=600.0) == alone
    assert fault_load([slow], gpus=1000, watchdog_timeout_s=600.0).mean_between_s == math.inf


def test_realistic_faults_load_a_cluster_as_the_published_table_and_what_is_rolled_back():
    """In 1,000 GPU-days 0.4736 of the table, 0.012 of losses gone astray, 0.002 of full disks."""
    kinds = catalog.realistic_faults(catalog.gpu("h100"))
    load = fault_load(kinds, gpus=1000, watchdog_timeout_s=600.0)
    assert load.per_s * DAY_S == pytest.approx(419 / 884.736 + 0.014, rel=1e-9)


@pytest.mark.parametrize(
    "kind",
    [
        WATCHDOG_KIND,
        PROCESS_KIND,
        replace(PROCESS_KIND, hang_share=0.3),
        replace(PROCESS_KIND, detect_low_s=20.0, detect_high_s=20.0),
        replace(PROCESS_KIND, detect_low_s=0.0, detect_high_s=40.0),
        replace(PROCESS_KIND, detect_low_s=10.0, detect_high_s=600.0, hang_share=0.5),
    ],
)
def test_detection_is_that_of_drawn_faults(kind):
    """Against 40,000 strikes drawn as the history draws them: mean and variance."""
    draw = random.Random(3)
    low, high = kind.detect_low_s, kind.detect_high_s
    times = []
    for _ in range(40_000):
        u = draw.random()
        hangs = kind.course == "hang" or draw.random() < kind.hang_share
        seen = low * (high / low) ** u if low else u * high
        times.append(600.0 if hangs else seen)
    mean, variance = detection_s(kind, 600.0)
    average = math.fsum(times) / len(times)
    squares = [(t - average) ** 2 for t in times]
    assert mean == pytest.approx(average, abs=4 * math.sqrt(variance / len(times)) + 1e-9)
    assert variance == pytest.approx(math.fsum(squares) / len(times), rel=0.05, abs=1e-6)


def test_what_is_asked_for_need_not_be_detected():
    asked = replace(PROCESS_KIND, course="stop", hang_share=0.0)
    assert detection_s(asked, 600.0) == (0.0, 0.0)


def test_a_server_takes_what_nodes_have_been_seen_to_take():
    """1.6 kW for 8 A100, 2.2 kW for 8 H100 (MLPerf power logs: 7.0 kW with the GPUs at 600 W)."""
    nodes = {name: 8 * host_w_per_gpu(catalog.gpu(name)) for name in ("a100-80gb-sxm", "h100-sxm")}
    assert nodes == pytest.approx({"a100-80gb-sxm": 1600.0, "h100-sxm": 2200.0}, rel=0.05)


def test_an_asynchronous_save_stalls_for_seconds():
    """BLOOM wrote 2.3 TiB in 40 s; 6.4 GB a GPU would have been copied in less than two."""
    assert async_stall_s(2.46e12 / 384) < 2.5
