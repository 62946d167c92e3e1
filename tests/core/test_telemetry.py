"""Telemetry: the numbers of every other face, whatever moments are asked for together."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core import identity
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import Phase
from ghosttrain.core.laws.telemetry import has_memory_sensor, memory_temp_c, training_pipes
from ghosttrain.core.node import NODE_FIELDS
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.spec import Faults, InjectedFault
from ghosttrain.core.telemetry import (
    CLOCK_HW_THERMAL,
    CLOCK_IDLE,
    CLOCK_SW_POWER_CAP,
    CLOCK_SW_THERMAL,
    FIELDS,
)
from tests.strategies import machine_spec, moments, seeds, specs

BASE = machine_spec("llama-3-8b", "h100-sxm", 64)
SIGNS = {
    "xid": "xid",
    "pcie_replays": "pcie-replay",
    "ecc_sbe_volatile": "ecc-corrected",
    "ecc_dbe_volatile": "ecc-uncorrected",
    "nvlink_crc_flit_errors": "nvlink-crc",
}
INTEGRALS = [name for name in FIELDS if name.endswith(("_mj", "_ns", "_kib", "_bytes"))]


def fault(
    name: str,
    at_s: float,
    gpu: int = 17,
    *,
    severity: float | None = None,
    duration_s: float | None = None,
) -> InjectedFault:
    kind = catalog.fault_kind(name)
    return InjectedFault(kind, at_s, gpu, severity=severity, duration_s=duration_s)


def struck(*faults: InjectedFault, seed: int = 7, steps: int = 1500) -> Run:
    recipe = replace(
        BASE.recipe,
        seq_len=8192,
        global_batch_size=128,
        steps_per_epoch=steps,
        checkpoint_interval_steps=200,
    )
    return simulate(replace(BASE, recipe=recipe, faults=Faults(injected=faults)), seed)


@cache
def steady() -> Run:
    return struck(steps=3000)


@st.composite
def runs_and_moments(draw, most=8):
    """A run and ascending moments of it: anywhere, at edges of spans, close together."""
    run = simulate(draw(specs()), draw(seeds))
    edges = [span.start_s for span in run.timeline.spans]
    times = draw(st.lists(moments(run, edges), min_size=1, max_size=most))
    times += [times[0] + 0.25 * k for k in range(draw(st.integers(0, 3)))]
    return run, np.array(sorted(max(0.0, t) for t in times))


# The same numbers on every face.


@given(runs_and_moments())
def test_a_moment_shows_what_the_fleet_and_its_signals_show(asked):
    run, times = asked
    block = run.telemetry(times)
    source, gpus = SignalSource(run.plan, run.seed), run.spec.cluster.gpus
    per_node = min(gpus, run.spec.cluster.gpus_per_node)
    for k, time_s in enumerate(times.tolist()):
        samples = run.fleet(time_s)
        signals = source.at(samples, 0)
        down = run.nodes_down(time_s)
        assert block.nodes_down[k] == down
        silent = {node * per_node + local for node in down for local in range(per_node)}
        assert set(block.lost[k]) == set(samples.lost) | silent
        here = np.setdiff1d(np.arange(gpus), block.lost[k])
        row = {name: column[k][here] for name, column in block.columns.items()}
        same = {
            "gpu_temp_c": np.rint(samples.temp_c[0]),
            "power_w": samples.power_w[0],
            "gpu_util_pct": np.rint(samples.util_pct[0]),
            "fb_used_mib": np.rint(samples.memory_gib[0] * 1024),
            "sm_clock_mhz": np.rint(signals.sm_clock_mhz),
            "sm_active_frac": signals.sm_active,
            "tensor_active_frac": signals.tensor_active,
            "dram_active_frac": signals.dram_active,
            "nvlink_tx_bytes_per_s": signals.nvlink_bytes_per_s,
        }
        for name, values in same.items():
            close = {"rtol": 1e-6} if name.startswith("nvlink") else {"rtol": 0, "atol": 0}
            np.testing.assert_allclose(row[name], values[here], err_msg=name, **close)
        for field, sign in SIGNS.items():
            shown = np.zeros(gpus, np.int64)
            for name, gpu, value in signals.signs:
                shown[gpu] += value if name == sign else 0
            assert (row[field] == shown[here]).all(), field


@given(runs_and_moments(), st.integers(0, 7), st.sampled_from(sorted(FIELDS)))
def test_what_is_asked_together_does_not_show(asked, cut, field):
    """A block of moments is its moments one by one, and a field itself without the others."""
    run, times = asked
    block = run.telemetry(times)
    for k in range(len(times)):
        alone = run.telemetry(times[k : k + 1])
        assert alone.lost[0] == block.lost[k]
        assert alone.attempt[0] == block.attempt[k]
        for name in FIELDS:
            assert alone.columns[name].tobytes() == block.columns[name][k : k + 1].tobytes(), name
    cut = min(cut, len(times))
    parts = [run.telemetry(part, [field]).columns[field] for part in (times[:cut], times[cut:])]
    assert np.array_equal(np.concatenate(parts), block.columns[field])
    part = block.part(cut, len(times))
    assert np.array_equal(part.columns[field], block.columns[field][cut:])
    assert part.lost == block.lost[cut:]


@given(runs_and_moments())
def test_columns_have_their_shapes_and_values_their_ranges(asked):
    run, times = asked
    block, gpu = run.telemetry(times), run.spec.gpu
    columns, answering = block.columns, np.ones((len(times), run.spec.cluster.gpus), bool)
    for k, lost in enumerate(block.lost):
        answering[k, list(lost)] = False
    for name, column in columns.items():
        assert column.shape == answering.shape
        assert column.dtype in (np.float32, np.int64), name
        assert np.isfinite(column).all()
        if name.endswith("_frac"):
            assert ((column >= 0) & (column <= 1)).all()
        elif name.endswith("_pct"):
            assert ((column >= 0) & (column <= 100)).all()
        else:
            assert (column[answering] >= 0).all(), name
    total = columns["fb_used_mib"] + columns["fb_free_mib"] + columns["fb_reserved_mib"]
    assert (total == gpu.memory_mib).all()
    assert (total == columns["fb_total_mib"]).all()
    util, gr, sm, tensor = (
        columns[name]
        for name in ("gpu_util_pct", "gr_active_frac", "sm_active_frac", "tensor_active_frac")
    )
    assert (np.abs(util - 100 * gr) <= 0.5001).all()
    assert (gr >= sm).all()
    assert (sm >= tensor).all()
    for pipe in ("sm_occupancy_frac", "fp64_active_frac", "fp32_active_frac", "fp16_active_frac"):
        assert (columns[pipe] <= sm).all(), pipe
    assert (columns["mem_copy_util_pct"] <= util).all()
    if has_memory_sensor(gpu):
        assert (columns["memory_temp_c"] >= columns["gpu_temp_c"])[answering].all()
    else:
        assert (columns["memory_temp_c"] == 0).all()
    assert ((columns["fb_reserved_mib"] >= 300) & (columns["fb_reserved_mib"] <= 480)).all()


def test_moments_after_the_end_are_idle():
    run = steady()
    late_s = run.end_s + 3600.5
    block = run.telemetry(np.array([late_s]))
    assert (block.columns["power_w"] == run.fleet(late_s).power_w).all()
    assert block.columns["power_w"].mean() == pytest.approx(run.spec.gpu.loaded_idle_w, rel=0.02)


def test_no_moments_give_no_rows():
    block = steady().telemetry(np.array([]))
    assert block.columns["power_w"].shape == (0, 64)
    assert block.lost == ()


@pytest.mark.parametrize(
    ("times", "fields", "said"),
    [
        ([2.0, 1.0], None, "ascend"),
        ([1.0, math.nan], None, "finite"),
        ([math.inf], None, "finite"),
        ([-1.0], None, "from 0 on"),
        ([1.0], ["gpu_tmp_c"], "gpu_tmp_c"),
    ],
)
def test_what_cannot_be_asked_is_refused(times, fields, said):
    with pytest.raises(SpecError, match=said):
        steady().telemetry(np.array(times), fields)


# Laws.


def training_times(run: Run, count: int = 200) -> np.ndarray:
    return np.linspace(0.3 * run.end_s, 0.6 * run.end_s, count)


def test_the_tensor_cores_are_busy_by_the_mfu_and_the_clock():
    """TENSOR_ACTIVE counts cycles of the actual clock, MFU the peak's."""
    run = steady()
    block = run.telemetry(training_times(run), ["tensor_active_frac", "sm_clock_mhz"])
    gpu, mfu = run.spec.gpu, run.steps(800, 1700).mfu.mean()
    expected = mfu * gpu.boost_mhz / block.columns["sm_clock_mhz"].mean()
    assert block.columns["tensor_active_frac"].mean() == pytest.approx(expected, rel=0.06)


def test_activity_follows_the_steps_timeline_not_the_utilisation():
    """While a step waits, utilisation stays at its full and the pipes idle."""
    at_s = float(steady().steps(300, 300).end_s[0])
    slow = struck(fault("straggler-gpu", at_s, severity=0.5, duration_s=3000.0))
    quiet = struck()
    late = np.linspace(at_s + 900, at_s + 1000, 40)
    names = ["gpu_util_pct", "tensor_active_frac", "sm_occupancy_frac", "fp32_active_frac"]
    peers = np.arange(64) != 17
    ours, theirs = (
        {n: r.telemetry(late, names).columns[n][:, peers].mean() for n in names}
        for r in (slow, quiet)
    )
    assert ours["gpu_util_pct"] > 0.99 * theirs["gpu_util_pct"]
    for name in names[1:]:
        assert ours[name] < 0.9 * theirs[name], name


def test_pipes_sum_the_parts_of_the_step():
    step = steady().plan.step_time
    occupancy, fp32, fp16 = training_pipes(step)
    assert 0.1 < occupancy < 0.4
    assert 0.01 < fp32 < 0.2
    assert 0.0 <= fp16 < 0.05


def test_memory_is_warmer_than_the_die_and_more_so_under_load():
    """`nvidia-smi dmon` of a busy H100: die 61 C, memory 72."""
    shown = memory_temp_c(np.array([[61.0], [30.0]], np.float32), np.array([21.0, 21.0]))
    assert shown[0, 0] == pytest.approx(72, abs=1)
    assert 33 < shown[1, 0] < 37


def test_cards_with_hbm_tell_its_temperature():
    telling = {name for name in catalog.names("gpu") if has_memory_sensor(catalog.gpu(name))}
    assert {"h100-sxm", "b200", "a30", "v100-32gb-sxm2"} <= telling
    assert not telling & {"t4", "l4", "l40s", "a10", "a40", "rtx-4090", "rtx-5090"}


def test_a_power_cap_lowers_the_limit_of_its_rack_and_sets_its_bit():
    run = struck(fault("power-cap", 600.0, 17, severity=0.3, duration_s=1200.0))
    effect = run.timeline.effects[0]
    times = np.linspace(effect.since_s + effect.ramp_s + 60, effect.until_s - 60, 50)
    block = run.telemetry(times, ["power_limit_w", "power_w", "clock_event_reasons"])
    rack = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
    inside = np.zeros(64, bool)
    inside[rack] = True
    limit = block.columns["power_limit_w"]
    assert limit[:, inside] == pytest.approx(np.full((50, inside.sum()), 0.7 * 700), rel=1e-6)
    assert (limit[:, ~inside] == 700).all()
    assert (block.columns["power_w"] <= 1.031 * limit).all()
    capped = (block.columns["clock_event_reasons"] & CLOCK_SW_POWER_CAP) > 0
    assert capped[:, inside].mean() > 0.95
    assert capped[:, ~inside].mean() < 0.05


def test_heat_that_throttles_sets_the_thermal_bits():
    run = struck(fault("fan-failure", 600.0, 17, severity=1.2, duration_s=2000.0))
    effect = run.timeline.effects[0]
    late = np.array([effect.since_s + effect.ramp_s + 600])
    block = run.telemetry(late, ["clock_event_reasons", "gpu_temp_c"])
    node = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
    reasons = block.columns["clock_event_reasons"][0]
    assert (reasons[node] & CLOCK_SW_THERMAL).all()
    assert not (np.delete(reasons, np.r_[node]) & CLOCK_SW_THERMAL).any()
    hot = block.columns["gpu_temp_c"][0, node] >= run.spec.gpu.slowdown_c - 1
    assert ((reasons[node] & CLOCK_HW_THERMAL) > 0)[hot].all()


def test_gpus_without_a_process_are_idle():
    run = struck(fault("hbm-ecc", 900.0))
    down = next(span for span in run.timeline.spans if span.phase is Phase.DOWN)
    block = run.telemetry(np.array([0.5 * (down.start_s + down.end_s)]))
    row = {name: column[0] for name, column in block.columns.items()}
    assert (row["clock_event_reasons"] == CLOCK_IDLE).all()
    assert (row["fb_used_mib"] == 0).all()
    assert (row["gpu_util_pct"] == 0).all()
    assert row["power_w"].mean() == pytest.approx(run.spec.gpu.idle_w, rel=0.05)


def test_pcie_carries_a_checkpoint_out_and_the_weights_in():
    run = struck(fault("gpu-fault", 900.0))
    spans = run.timeline.spans
    save = next(span for span in spans if span.phase is Phase.CHECKPOINT)
    load = next(s for s in spans if s.phase is Phase.WEIGHTS and s.attempt == 2 and s.step)
    for span, sent, other in ((save, "tx", "rx"), (load, "rx", "tx")):
        names = [f"pcie_{way}_bytes" for way in (sent, other)]
        ends = np.array([span.start_s + 1e-3, span.end_s - 1e-3])
        counted = run.telemetry(ends, names).columns
        moved = np.diff(counted[names[0]], axis=0)[0]
        whole = run.plan.checkpoint_bytes / 64
        assert moved == pytest.approx(np.full(64, whole * 280 / 256), rel=0.01)
        assert (np.diff(counted[names[1]], axis=0) < 0.01 * whole).all()


# Who answers.


def test_a_gpu_off_the_bus_is_lost_until_its_node_is_swapped():
    run = struck(fault("gpu-off-bus", 900.0))
    struck_s = run.timeline.incidents[0].strike_s
    back_s = run.timeline.incidents[0].relaunch_s
    assert struck_s is not None
    assert back_s is not None
    times = np.array([struck_s - 1, struck_s + 1, back_s - 1, back_s + 1])
    block = run.telemetry(times, ["power_w"])
    assert block.lost == ((), (17,), (17,), ())
    assert block.nodes_down == ((), (), (), ())
    assert run.timeline.spares(2) == ((2, 8),)


@pytest.mark.parametrize("name", ["host-crash", "kernel-panic", "node-reboot"])
def test_a_dead_node_answers_nothing_until_the_next_launch(name):
    run = struck(fault(name, 900.0))
    made = run.timeline.incidents[0]
    assert made.strike_s is not None
    assert made.relaunch_s is not None
    for time_s, down in ((made.strike_s - 1, ()), (made.strike_s + 1, (2,))):
        assert run.nodes_down(time_s) == down
    assert run.nodes_down(made.relaunch_s - 1) == (2,)
    assert run.nodes_down(made.relaunch_s + 1) == ()
    lost = run.telemetry(np.array([made.strike_s + 1]), ["power_w"]).lost[0]
    assert lost == tuple(range(16, 24))


def test_a_node_rebooted_for_one_gpu_is_silent_while_it_boots():
    run = struck(fault("gsp-timeout", 900.0))
    made = run.timeline.incidents[0]
    assert made.relaunch_s is not None
    assert made.strike_s is not None
    assert run.nodes_down(made.strike_s + 1) == ()
    assert run.nodes_down(made.relaunch_s - 200) == (2,)
    lost = run.telemetry(np.array([made.strike_s + 1, made.relaunch_s - 200]), ["xid"]).lost
    assert lost == ((17,), tuple(range(16, 24)))


# Names.


def test_uuids_and_bus_addresses_are_spelled_as_the_driver_does():
    cluster, gpu = BASE.cluster, BASE.gpu
    uuids = {identity.gpu_uuid(cluster, n, i) for n in range(9) for i in range(8)}
    assert len(uuids) == 72
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", u) for u in uuids)
    assert identity.gpu_uuid(cluster, 3, 1) == identity.gpu_uuid(cluster, 3, 1)
    addresses = [identity.dcgm_pci_bus_id(gpu, local) for local in range(8)]
    assert addresses[0] == "00000000:1B:00.0"
    assert len(set(addresses)) == 8


def test_each_metric_shows_a_field_and_each_field_is_in_a_metric():
    shown = {metric.field for metric in catalog.metrics()}
    assert shown <= set(FIELDS)
    # What DCGM itself shows under the name of the counter: see docs/telemetry.md.
    assert set(FIELDS) - shown == {"nvlink_total_mb_per_s"}


def test_each_field_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text("utf-8")
    missing = [name for name in (*FIELDS, *NODE_FIELDS) if f"`{name}`" not in page]
    assert not missing
    code = page.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/telemetry.md", "exec"), {})  # as it stands there
