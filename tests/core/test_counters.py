"""Counters: integrals of what the gauges show, never less but where a driver was loaded anew."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.counters.spans import SpanSums
from ghosttrain.core.events import Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.identity import uptime_s
from ghosttrain.core.laws.telemetry import mean_cut, normal_cdf, share_at_limit
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.telemetry import CLOCK_SW_POWER_CAP, CLOCK_SW_THERMAL
from tests.core.test_telemetry import INTEGRALS, fault, steady, struck
from tests.strategies import machine_spec, seeds, specs

KEPT = ["ecc_sbe_aggregate", "ecc_dbe_aggregate", "uncorrectable_remapped_rows"]
NEVER_LESS = [*INTEGRALS, *KEPT]


def grid(run: Run, most: int = 300) -> np.ndarray:
    """Moments all over a run, and right before and after edges of spans."""
    edges = np.array([span.start_s for span in run.timeline.spans])[:200]
    times = [np.linspace(0.0, 1.02 * run.end_s, most), edges, np.nextafter(edges, np.inf)]
    times.append(np.maximum(0.0, np.nextafter(edges, -np.inf)))
    return np.sort(np.concatenate(times))


def since_boot(run: Run, times: np.ndarray, gpus: int) -> np.ndarray:
    """Boot time of each GPU's node at each moment, (K, G): which tells machines apart too."""
    booted = run.nodes(times, ["boot_time_unix_s"]).columns["boot_time_unix_s"]
    per_node = min(gpus, run.spec.cluster.gpus_per_node)
    return np.repeat(booted, per_node, axis=1)[:, :gpus]


@given(specs(faults=True), seeds)
def test_counters_never_decrease_while_the_same_driver_runs(spec, seed):
    run = simulate(spec, seed)
    times = grid(run)
    block = run.telemetry(times, NEVER_LESS)
    same = np.diff(since_boot(run, times, spec.cluster.gpus), axis=0) == 0
    for name, column in block.columns.items():
        assert (np.diff(column, axis=0)[same] >= 0).all(), name


@given(specs(faults=True), seeds, st.floats(0.05, 0.95))
def test_counters_know_nothing_of_the_future(spec, seed, share):
    """A run that ends earlier has counted the same until then."""
    run = simulate(spec, seed)
    limit_s = max(60.0, share * run.end_s)
    short = simulate(replace(spec, time_limit_s=min(limit_s, spec.time_limit_s)), seed)
    last = short.timeline.spans[short.timeline.index_at(short.end_s - 1e-6)]
    times = np.linspace(0.0, 0.999 * last.start_s, 20)
    ours, theirs = (r.telemetry(times).columns for r in (short, run))
    for name, column in ours.items():
        assert np.array_equal(column, theirs[name]), name


# Integrals.


def energy_against_power(run: Run, start_s: float, stop_s: float) -> np.ndarray:
    """Energy of each GPU over a window against its mean power in it, as a share of it less 1."""
    steps = (stop_s - start_s) / run.plan.step_time.total_s
    times = np.linspace(start_s, stop_s, 4 * int(steps) + 1)
    block = run.telemetry(times, ["power_w", "energy_mj"])
    energy_w = np.diff(block.columns["energy_mj"][[0, -1]], axis=0)[0] / (stop_s - start_s) / 1000
    middles = 0.5 * (times[1:] + times[:-1])
    power = run.telemetry(middles, ["power_w"]).columns["power_w"].astype(np.float64)
    return np.asarray(energy_w / power.mean(axis=0) - 1)


QUIET_WINDOWS = [(300.0, 2300.0), (900.0, 2500.0), (1500.0, 5000.0), (0.0, 5300.0)]


@pytest.mark.parametrize(("start_s", "stop_s"), QUIET_WINDOWS)
def test_energy_is_the_integral_of_power(start_s, stop_s):
    """Some hundred steps and more: a reading swings by 2 % from step to step."""
    error = energy_against_power(steady(), start_s, stop_s)
    assert abs(error.mean()) < 0.003
    assert np.abs(error).max() < 0.007  # a GPU's drift lasts for a hundred steps


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("straggler-gpu", {"severity": 0.15}),
        ("power-cap", {"severity": 0.3, "duration_s": 2400.0}),
        ("power-cap", {"severity": 0.1, "duration_s": 2400.0}),
        ("fan-failure", {"severity": 1.2, "duration_s": 2400.0}),
        ("hot-inlet", {"severity": 28.0, "duration_s": 2400.0}),
        ("slow-node", {"severity": 0.15, "duration_s": 2400.0}),
        ("loader-stall", {"severity": 1.0, "duration_s": 2400.0}),
        ("gpu-fault", {}),
        ("hbm-ecc", {}),
    ],
)
def test_energy_is_the_integral_of_power_under_faults(name, asked):
    """Of the GPUs that a fault sets apart as of the others."""
    run = struck(fault(name, 600.0, **asked), steps=1800)
    error = energy_against_power(run, 500.0, 3000.0)
    made = run.timeline.incidents[0]
    apart = slice(made.gpu, made.gpu + made.gpus)
    assert abs(error.mean()) < 0.005
    assert abs(error[apart].mean()) < (0.007 if made.gpus == 1 else 0.005)


@given(specs(faults=True), seeds)
def test_energy_follows_power_in_any_run(spec, seed):
    """Within 0.5 %, and what a reading's swing leaves of so few steps."""
    run = simulate(spec, seed)
    times = np.linspace(0.0, run.end_s, 801)
    block = run.telemetry(0.5 * (times[1:] + times[:-1]), ["power_w"])
    energy = run.telemetry(times, ["energy_mj"]).columns["energy_mj"]
    width_s = times[1] - times[0]
    same = np.diff(since_boot(run, times, spec.cluster.gpus), axis=0) == 0
    here = same.all(axis=1) & np.array([not lost for lost in block.lost])
    edges = np.array([span.start_s for span in run.timeline.spans])
    here &= np.searchsorted(edges, times[:-1]) == np.searchsorted(edges, times[1:])
    if here.sum() < 20:
        return  # short spans: nothing between their edges
    watts = np.diff(energy, axis=0)[here].mean() / width_s / 1000
    drawn = block.columns["power_w"][here].mean(dtype=np.float64)
    # All moments of a step have one reading, and a launch's first step is most of a short run.
    _, moments_of = np.unique(block.columns["power_w"][here, 0], return_counts=True)
    swing = 0.018 * spec.gpu.tdp_w * np.sqrt(((moments_of / here.sum()) ** 2).sum())
    assert watts == pytest.approx(drawn, rel=0.005, abs=4 * swing)


@pytest.mark.parametrize(
    ("counter", "rates"),
    [
        ("pcie_tx_bytes", ["pcie_tx_bytes_per_s"]),
        ("pcie_rx_bytes", ["pcie_rx_bytes_per_s"]),
        ("nvlink_total_kib", ["nvlink_tx_bytes_per_s", "nvlink_rx_bytes_per_s"]),
    ],
)
def test_bytes_are_the_integral_of_the_traffic(counter, rates):
    run = struck(fault("gpu-fault", 900.0), fault("slow-node", 1500.0, severity=0.1))
    times = np.linspace(100.0, 2600.0, 20_001)
    counted = np.diff(run.telemetry(times[[0, -1]], [counter]).columns[counter], axis=0)[0]
    middles = 0.5 * (times[1:] + times[:-1])
    block = run.telemetry(middles, rates)
    moved = sum(block.columns[name].sum(axis=0, dtype=np.float64) for name in rates)
    unit = 1024 if counter.endswith("_kib") else 1
    assert counted * unit == pytest.approx(moved * (times[1] - times[0]), rel=2e-3)
    # GPUs differ by some tenths of a percent, in counter and gauge alike: only noise is between.
    ratio = counted / moved
    assert np.std(ratio) / np.mean(ratio) < 1.5e-4
    assert np.std(counted) / np.mean(counted) > 1e-3


def test_time_at_the_limit_is_the_share_of_moments_at_it():
    run = struck(fault("power-cap", 600.0, severity=0.2, duration_s=1200.0))
    times = np.linspace(300.0, 2300.0, 8001)
    names = ["power_violation_ns", "clock_event_reasons"]
    columns = run.telemetry(times, names).columns
    share = np.diff(columns["power_violation_ns"][[0, -1]], axis=0)[0] / 1e9 / 2000.0
    seen = ((columns["clock_event_reasons"] & CLOCK_SW_POWER_CAP) > 0).mean(axis=0)
    assert share == pytest.approx(seen, abs=0.03)
    assert share.max() > 0.5
    assert share.min() < 0.1


def test_time_too_hot_is_the_share_of_moments_with_that_reason():
    run = struck(fault("fan-failure", 600.0, severity=1.2, duration_s=1200.0))
    times = np.linspace(300.0, 2300.0, 8001)
    names = ["thermal_violation_ns", "clock_event_reasons"]
    columns = run.telemetry(times, names).columns
    share = np.diff(columns["thermal_violation_ns"][[0, -1]], axis=0)[0] / 1e9 / 2000.0
    seen = ((columns["clock_event_reasons"] & CLOCK_SW_THERMAL) > 0).mean(axis=0)
    assert share == pytest.approx(seen, abs=0.002)
    assert share[16:24].min() > 0.3
    assert np.delete(share, np.s_[16:24]).max() == 0


def test_where_effects_overlap_time_is_counted_once():
    both = (
        fault("fan-failure", 600.0, severity=1.2, duration_s=1500.0),
        fault("hot-inlet", 600.0, severity=28.0, duration_s=1500.0),
        fault("straggler-gpu", 600.0, severity=0.15),
    )
    run = struck(*both)
    times = np.linspace(300.0, 2300.0, 401)
    names = ["thermal_violation_ns", "power_violation_ns"]
    for name, column in run.telemetry(times, names).columns.items():
        rate = np.diff(column, axis=0) / 1e9 / (times[1] - times[0])
        assert rate.min() >= 0, name
        assert rate.max() <= 1 + 1e-6, name


# A planted error in a law is found.


def test_an_error_in_the_energy_of_a_step_is_found(monkeypatch):
    honest = SpanSums._level_s
    monkeypatch.setattr(SpanSums, "_level_s", lambda s, t, n: 1.02 * honest(s, t, n))
    error = energy_against_power(struck(steps=3000), 900.0, 2500.0)
    assert abs(error.mean()) > 0.01


def test_an_error_in_the_power_of_a_gpu_set_apart_is_found(monkeypatch):
    honest = FleetSource.apart_level
    monkeypatch.setattr(
        FleetSource, "apart_level", lambda self, effect, span: 1.05 * honest(self, effect, span)
    )
    run = struck(fault("slow-node", 600.0, severity=0.15, duration_s=2400.0), steps=1800)
    assert abs(energy_against_power(run, 700.0, 2500.0)[16:24].mean()) > 0.01


# What a limit does to readings.


def test_the_laws_of_a_limit_are_those_of_drawn_readings():
    rng = np.random.Generator(np.random.Philox(5))
    for mean in (600.0, 690.0, 720.0, 760.0):
        drawn = mean + 12.0 * rng.standard_normal(400_000)
        cut = mean_cut(np.array([mean]), np.array([12.0]), 721.0)[0]
        assert cut == pytest.approx(mean - np.minimum(drawn, 721.0).mean(), abs=0.1)
        share = share_at_limit(np.array([mean]), np.array([12.0]), 700.0)[0]
        assert share == pytest.approx((drawn >= 0.97 * 700.0).mean(), abs=0.003)
    assert normal_cdf(np.array([0.0, 1.959964]))[1] == pytest.approx(0.975, abs=1e-6)


# Resets, swaps, reboots.


def relaunched(run: Run, number: int = 0) -> tuple[float, float]:
    made = run.timeline.incidents[number]
    assert made.strike_s is not None
    assert made.relaunch_s is not None
    return made.strike_s, made.relaunch_s


def counted(run: Run, times: list[float], name: str, gpu: int = 17) -> list[int]:
    return [int(value) for value in run.telemetry(np.array(times), [name]).columns[name][:, gpu]]


def test_a_restart_of_the_processes_resets_nothing():
    run = struck(fault("gpu-fault", 900.0))
    struck_s, back_s = relaunched(run)
    for name in INTEGRALS:
        before, after = counted(run, [struck_s - 1, back_s + 1], name)
        assert after >= before, name
    assert counted(run, [struck_s + 1, back_s + 60], "xid") == [43, 43]


def test_a_reset_of_a_gpu_ends_its_volatile_counts_and_keeps_its_boards():
    run = struck(fault("hbm-ecc", 900.0))
    struck_s, back_s = relaunched(run)
    times = [struck_s - 1, struck_s + 1, back_s + 1]
    assert counted(run, times, "ecc_dbe_volatile") == [0, 1, 0]
    assert counted(run, times, "ecc_dbe_aggregate") == [0, 1, 1]
    assert counted(run, times, "uncorrectable_remapped_rows") == [0, 1, 1]
    assert counted(run, times, "row_remap_pending") == [0, 1, 0]
    assert counted(run, times, "xid") == [0, 94, 0]
    before, after = counted(run, [struck_s, back_s + 1], "energy_mj")
    assert after > before


def test_a_row_that_cannot_be_remapped_leaves_with_its_card():
    run = struck(fault("hbm-remap-failed", 900.0))
    struck_s, back_s = relaunched(run)
    times = [struck_s - 1, struck_s + 1, back_s + 1]
    assert counted(run, times, "row_remap_failure") == [0, 1, 0]
    assert counted(run, times, "ecc_dbe_aggregate") == [0, 1, 0]


def test_a_reboot_starts_the_counters_of_its_node_anew():
    run = struck(fault("node-reboot", 900.0))
    struck_s, back_s = relaunched(run)
    before, after = counted(run, [struck_s - 1, back_s + 1], "energy_mj")
    idle_w = run.spec.gpu.idle_w
    assert after < 1e-3 * before
    assert after == pytest.approx(61_000 * idle_w, rel=0.05)  # it has been up for a minute
    elsewhere = counted(run, [struck_s - 1, back_s + 1], "energy_mj", gpu=3)
    assert elsewhere[1] > elsewhere[0]
    assert counted(run, [back_s + 1], "nvlink_total_kib") == [0]


def test_what_effects_added_before_a_reboot_is_gone_with_it():
    """On a GPU of its own, on a node, on a rack that a node is a part of."""
    earlier = (
        fault("power-cap", 200.0, 17, severity=0.3, duration_s=300.0),
        fault("slow-node", 250.0, 17, severity=0.15, duration_s=300.0),
        fault("straggler-gpu", 300.0, 17, severity=0.1, duration_s=200.0),
    )
    run = struck(*earlier, fault("node-reboot", 900.0))
    _, back_s = relaunched(run, 3)
    block = run.telemetry(np.array([back_s]), ["energy_mj", "power_violation_ns"])
    node = slice(16, 24)
    assert (block.columns["energy_mj"][0, node] == round(60_000 * run.spec.gpu.idle_w)).all()
    assert (block.columns["power_violation_ns"][0, node] == 0).all()
    assert block.columns["power_violation_ns"][0, 8:16].min() > 1e11  # the rest of the rack


def test_a_spare_brings_a_count_from_before_the_run():
    run = struck(fault("gpu-off-bus", 900.0))
    _, back_s = relaunched(run)
    (spare,) = (physical for _, physical in run.timeline.spares(2))
    idle_w, up_s = run.spec.gpu.idle_w, uptime_s(run.spec.cluster, spare)
    assert counted(run, [back_s], "energy_mj") == [round(1000 * idle_w * (up_s + back_s))]
    late = run.end_s - 1
    fresh, old = (counted(run, [late], "nvlink_total_kib", gpu=g)[0] for g in (17, 3))
    assert 0 < fresh < old


def test_many_swaps_and_effects_add_up_to_the_same_whenever_it_is_asked():
    """Sums kept of effects that are over are those of adding them up one by one."""
    spec = machine_spec("llama-3-8b", "h100-sxm", 64)
    recipe = replace(spec.recipe, seq_len=8192, global_batch_size=128, steps_per_epoch=6000)
    names = ("straggler-gpu", "power-cap", "slow-node", "loader-stall", "fan-failure", "gpu-fault")
    faults = tuple(
        replace(fault(names[k % 6], 100.0 + 90.0 * k, (13 * k) % 64), duration_s=80.0)
        for k in range(80)
    )
    run = simulate(replace(spec, recipe=recipe, faults=replace(spec.faults, injected=faults)), 3)
    source = run._telemetry.counters.apart
    assert len(source._effects) > 40
    for index in range(0, len(run.timeline.spans), 17):
        naive = np.zeros((3, 64))
        for apart in source._effects:
            at = slice(apart.effect.first_gpu, apart.effect.first_gpu + apart.effect.gpus)
            for span, rates in zip(apart.spans, apart.rates, strict=True):
                if span < index:
                    naive[:, at] += rates * run.timeline.spans[span].duration_s
        np.testing.assert_allclose(source.by(index), naive, rtol=1e-9, atol=1e-6)


def test_the_last_xid_stays():
    run = struck(fault("row-remap-pending", 600.0), fault("gpu-fault", 900.0))
    struck_s, _ = relaunched(run, 1)
    assert counted(run, [500.0, struck_s - 1, struck_s + 1, run.end_s], "xid") == [0, 63, 43, 43]


def test_spans_with_one_edge_in_common_agree_there():
    """The value at an edge is the same from both sides, but where a driver was loaded."""
    run = struck(fault("gpu-fault", 900.0), fault("power-cap", 300.0, severity=0.3))
    for before, after in pairwise(run.timeline.spans[:40]):
        if before.phase is Phase.DOWN or after.duration_s == 0:
            continue
        edge = after.start_s
        times = np.array([np.nextafter(edge, 0), edge, np.nextafter(edge, np.inf)])
        energy = run.telemetry(times, ["energy_mj"]).columns["energy_mj"]
        assert (np.ptp(energy, axis=0) <= 5).all(), (before.phase, after.phase)
