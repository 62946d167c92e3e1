"""Variety: GPUs and nodes of one job differ, by little, and each in its own way."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from ghosttrain.core.events import Phase, StepsCompleted
from ghosttrain.core.node import NODE_FIELDS
from ghosttrain.core.run import Run
from ghosttrain.core.signals import SignalSource
from tests.core.test_counters import relaunched
from tests.core.test_telemetry import fault, steady, struck

F64 = NDArray[np.float64]

ACTIVE = ("sm_active_frac", "tensor_active_frac", "dram_active_frac", "sm_occupancy_frac")
PIPES = (*ACTIVE, "fp32_active_frac")
RATES = ("nvlink_tx_bytes_per_s", "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s")
NODE_GAUGES = ("load1", "cpu_busy_frac", "memory_available_bytes")
NODE_COUNTERS = ("cpu_user_s", "cpu_system_s", "disk_written_bytes", "port_tx_bytes")


def five_minutes(run: Run) -> F64:
    """Scrapes of a steady stretch, every 15 s."""
    return np.asarray(0.5 * run.end_s + 15.0 * np.arange(20), np.float64)


def quiet_span(run: Run) -> F64:
    """Just after the start and just before the end of a training span in the middle of a run."""
    spans = [s for s in run.timeline.spans if s.phase is Phase.TRAINING and s.steps > 100]
    span = spans[len(spans) // 2]
    return np.array([span.start_s + 70, span.end_s - 1])


def spread(values: F64) -> F64:
    return np.asarray(values.std(axis=-1) / values.mean(axis=-1))


@pytest.mark.parametrize("name", [*PIPES, *RATES])
def test_no_two_gpus_and_no_two_samples_are_alike_and_all_are_near(name):
    column = steady().telemetry(five_minutes(steady()), [name]).columns[name].astype(np.float64)
    assert all(len(set(row)) > 50 for row in column.tolist())
    assert all(len(set(row)) >= 16 for row in column.T.tolist())  # a lane has 256 levels
    assert (spread(column) > 0.002).all()
    assert (spread(column) < 0.012).all()


@pytest.mark.parametrize("name", ["sm_active_frac", "sm_occupancy_frac", *RATES])
def test_means_of_five_minutes_are_within_half_a_percent_of_the_peers(name):
    """What rules for stragglers compare; a trait is at most 2.5 sd, its noise averages out."""
    column = steady().telemetry(five_minutes(steady()), [name]).columns[name]
    means = column.mean(axis=0, dtype=np.float64)
    away = np.abs(means / np.median(means) - 1)
    assert np.quantile(away, 0.9) < 0.005
    assert away.max() < 0.008


def test_a_trait_stays_and_noise_does_not():
    """The means of two stretches correlate over the GPUs; of two samples hardly."""
    run = steady()
    first, second = (
        run.telemetry(
            np.asarray(run.end_s * share + 10.0 * np.arange(60), np.float64), ["sm_active_frac"]
        ).columns["sm_active_frac"]
        for share in (0.4, 0.7)
    )
    means = np.corrcoef(first.mean(axis=0), second.mean(axis=0))[0, 1]
    samples = np.corrcoef(first[0], second[0])[0, 1]
    assert means > 0.8
    assert samples < 0.6


def test_all_ranks_do_the_same_work_whatever_their_clock():
    """TENSOR_ACTIVE times the clock is work per time: MFU times the boost clock."""
    run = steady()
    steps = run.steps(801, 1800)
    times = steps.end_s - 0.5 * steps.step_time_s
    block = run.telemetry(times, ["tensor_active_frac", "sm_clock_mhz"]).columns
    tensor, clock = (block[n].astype(np.float64) for n in ("tensor_active_frac", "sm_clock_mhz"))
    work = (tensor * clock).mean(axis=0)
    assert work.mean() == pytest.approx(steps.mfu.mean() * run.spec.gpu.boost_mhz, rel=0.003)
    assert spread(work) < 0.002
    assert spread(clock.mean(axis=0)) > 0.003
    assert np.corrcoef(tensor.mean(axis=0), clock.mean(axis=0))[0, 1] < -0.9


def test_a_card_that_keeps_its_boost_clock_varies_too():
    run = steady()
    source = SignalSource(run.plan, run.seed)
    samples = run.fleet(0.5 * run.end_s)
    same = np.full_like(samples.power_w, run.spec.gpu.sustained_mhz)
    tensor = source.active(samples, "tensor", same)[0]
    assert len(set(tensor.tolist())) > 50


def test_nothing_is_still_nothing_in_a_hang():
    run = struck(fault("nccl-hang", 900.0))
    hang = next(span for span in run.timeline.spans if span.phase is Phase.HANG)
    times = np.linspace(hang.start_s + 1, hang.end_s - 1, 20)
    columns = run.telemetry(times, ["tensor_active_frac", "sm_active_frac", *RATES[:1]]).columns
    assert (columns["tensor_active_frac"] == 0).all()
    assert (columns["nvlink_tx_bytes_per_s"] == 0).all()
    assert (columns["sm_active_frac"] > 0.1).all()


def test_another_seed_has_other_cards():
    runs = [struck(seed=seed) for seed in (7, 8)]
    shown = [run.telemetry(five_minutes(run), ["sm_active_frac"]).columns for run in runs]
    means = [columns["sm_active_frac"].mean(axis=0) for columns in shown]
    assert abs(np.corrcoef(*means)[0, 1]) < 0.5


def test_a_spare_brings_its_own_traits_and_the_others_keep_theirs():
    run = struck(fault("gpu-off-bus", 900.0))
    assert run.timeline.spares(2) == ((2, 8),)
    variety = run._signals.variety
    before, after = (variety.gpu_trait("sm", run.timeline.spares(a)) for a in (1, 2))
    node = np.zeros(64, bool)
    node[16:24] = True
    assert (before[~node] == after[~node]).all()
    assert (before[node] != after[node]).all()
    of_nodes = [variety.node_trait("user", run.timeline.spares(a)) for a in (1, 2)]
    assert np.flatnonzero(of_nodes[0] != of_nodes[1]).tolist() == [2]
    _, back_s = relaunched(run)
    samples = run.fleet(back_s + 400.0)
    assert samples.conditions[0].spares == ((2, 8),)


def test_counters_go_on_without_a_leap_where_a_trait_goes_with_its_card():
    run = struck(fault("gpu-off-bus", 900.0), fault("gpu-fault", 1800.0))
    names = ["nvlink_total_kib", "pcie_tx_bytes"]
    times = np.linspace(0.0, run.end_s, 400)
    columns = run.telemetry(times, names).columns
    others = np.r_[0:16, 24:64]
    for name in names:
        assert (np.diff(columns[name][:, others], axis=0) >= 0).all()


def test_the_log_and_a_scrape_at_its_moment_agree():
    """Samples in events know as much as those asked for by their time."""
    run = struck(fault("gpu-off-bus", 900.0))
    source = SignalSource(run.plan, run.seed)
    seen = 0
    for event in run.events(0.0, math.inf, sample_every=100):
        if not isinstance(event, StepsCompleted) or event.fleet is None:
            continue
        for k, time_s in enumerate(event.fleet.time_s.tolist()):
            logged = source.at(event.fleet, k)
            block = run.telemetry(np.array([math.nextafter(time_s, 0.0)]), list(ACTIVE[:3]))
            for name in ACTIVE[:3]:
                values = getattr(logged, name.removesuffix("_frac"))
                assert block.columns[name][0] == pytest.approx(values, rel=2e-3), name
            seen += 1
    assert seen > 5


# Nodes.


@pytest.mark.parametrize("name", NODE_GAUGES)
def test_nodes_differ_by_some_percent(name):
    column = steady().nodes(five_minutes(steady()), [name]).columns[name]
    assert all(len(set(row)) == 8 for row in column.tolist())
    assert (spread(column) < 0.08).all()
    assert (spread(column) > 0.0005).all()


@pytest.mark.parametrize("name", ["load1", "memory_available_bytes"])
def test_a_node_wanders_slowly(name):
    start_s, stop_s = quiet_span(steady()).tolist()
    times = np.arange(start_s, stop_s, 0.5)
    column = steady().nodes(times, [name]).columns[name]
    steps, whole = np.abs(np.diff(column, axis=0)).max(), np.ptp(column, axis=0).max()
    assert whole > 0
    assert steps < 0.1 * whole


@pytest.mark.parametrize("name", NODE_COUNTERS)
def test_counters_of_nodes_differ_as_their_rates(name):
    run = steady()
    edges = 0.5 * run.end_s + np.array([0.0, 300.0, 600.0])
    counted = np.diff(run.nodes(edges, [name]).columns[name], axis=0)
    assert (spread(counted) > 0.0005).all()
    assert (spread(counted) < 0.1).all()
    assert counted[0] / counted[0].mean() == pytest.approx(counted[1] / counted[1].mean(), rel=1e-6)


def test_what_all_nodes_have_in_common_stays_so():
    columns = steady().nodes(five_minutes(steady())).columns
    assert (columns["memory_total_bytes"] == columns["memory_total_bytes"][0, 0]).all()
    assert (columns["cpu_threads"] == columns["cpu_threads"][0, 0]).all()
    assert (columns["memory_available_bytes"] < columns["memory_total_bytes"]).all()
    assert set(columns) == set(NODE_FIELDS)


def test_busy_threads_are_the_rate_of_the_seconds_counted():
    run = steady()
    edges = quiet_span(run)
    columns = run.nodes(edges).columns
    moved = sum(np.diff(columns[n], axis=0)[0] for n in ("cpu_user_s", "cpu_system_s"))
    threads = columns["cpu_threads"][0]
    rate = moved / (edges[1] - edges[0]) / threads
    assert rate == pytest.approx(columns["cpu_busy_frac"][0], rel=1e-6)


def test_ports_carry_what_the_traits_of_their_gpus_say():
    run = steady()
    for first, second in pairwise((0.3, 0.5, 0.7)):
        times = run.end_s * np.array([first, second])
        ports = np.diff(run.nodes(times, ["port_tx_bytes"]).columns["port_tx_bytes"], axis=0)[0]
        trait = run._signals.variety.gpu_trait("network", ())[::8]
        assert ports / ports.mean() == pytest.approx(trait / trait.mean(), rel=1e-6)
