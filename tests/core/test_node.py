"""Nodes: counters that agree with the traffic and the time, air that agrees with the warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import WarningKind, WarningRaised
from ghosttrain.core.identity import uptime_s
from ghosttrain.core.node import NODE_FIELDS
from ghosttrain.core.run import simulate
from ghosttrain.core.signals import SignalSource
from tests.core.test_counters import grid, relaunched
from tests.core.test_telemetry import fault, runs_and_moments, steady, struck
from tests.strategies import seeds, specs

COUNTERS = [metric.field for metric in catalog.metrics("node") if metric.kind == "counter"]


@given(specs(faults=True), seeds)
def test_counters_never_decrease_while_a_node_is_up(spec, seed):
    run = simulate(spec, seed)
    block = run.nodes(grid(run, most=100))
    same = np.diff(block.columns["boot_time_unix_s"], axis=0) == 0
    for name in COUNTERS:
        steps = np.diff(block.columns[name], axis=0)[same]
        assert (steps >= -1e-6 * np.abs(block.columns[name]).max() * 1e-6).all(), name


@given(runs_and_moments(), st.sampled_from(sorted(NODE_FIELDS)))
def test_what_is_asked_together_does_not_show(asked, field):
    run, times = asked
    block = run.nodes(times)
    for k in range(len(times)):
        alone = run.nodes(times[k : k + 1], [field])
        assert np.array_equal(alone.columns[field], block.columns[field][k : k + 1])
        assert alone.down[0] == block.down[k] == run.nodes_down(float(times[k]))


def test_threads_are_busy_or_idle():
    run = struck(fault("node-reboot", 900.0))
    times = np.linspace(0.0, run.end_s, 50)
    columns = run.nodes(times).columns
    names = ("cpu_user_s", "cpu_system_s", "cpu_iowait_s", "cpu_idle_s")
    up_s = times[:, None] + run.spec.start_unix_s - columns["boot_time_unix_s"]
    total = sum(columns[name] for name in names)
    assert total == pytest.approx(columns["cpu_threads"] * up_s, rel=1e-9)
    assert (columns["cpu_busy_frac"] < 0.5).all()


def test_ports_count_what_the_signals_say_they_send():
    run = steady()
    start, stop = (float(run.steps(s, s).end_s[0]) for s in (500, 1500))
    sent = np.diff(
        run.nodes(np.array([start, stop]), ["port_tx_bytes"]).columns["port_tx_bytes"], axis=0
    )
    rates = [
        SignalSource(run.plan, run.seed).at(run.fleet(float(t)), 0).network_bytes_per_s[0]
        for t in np.linspace(start, stop, 400)
    ]
    assert sent[0, 0] / (stop - start) == pytest.approx(np.mean(rates), rel=0.005)
    volume = run._signals.volume.network_bytes * run._signals.variety.gpu_trait("network", ())
    assert sent[0] == pytest.approx(1000 * volume[::8], rel=1e-9)


def test_a_reboot_is_seen_in_the_boot_time_and_a_spare_brings_its_own():
    rebooted = struck(fault("kernel-panic", 900.0))
    _, back_s = relaunched(rebooted)
    start = rebooted.spec.start_unix_s
    booted = rebooted.nodes(np.array([0.0, back_s + 1]), ["boot_time_unix_s"]).columns
    cluster = rebooted.spec.cluster
    assert booted["boot_time_unix_s"][0, 2] == pytest.approx(start - uptime_s(cluster, 2))
    assert booted["boot_time_unix_s"][1, 2] == pytest.approx(start + back_s - 60)
    assert (np.delete(np.diff(booted["boot_time_unix_s"], axis=0)[0], 2) == 0).all()
    swapped = struck(fault("host-crash", 900.0))
    _, back_s = relaunched(swapped)
    after = swapped.nodes(np.array([back_s + 1]), ["boot_time_unix_s"]).columns["boot_time_unix_s"]
    assert after[0, 2] == pytest.approx(start - uptime_s(cluster, 8))


def test_the_inlet_is_the_one_that_warnings_name():
    run = steady()
    warned = [
        event
        for event in run.events(0.0, math.inf)
        if isinstance(event, WarningRaised) and event.kind is WarningKind.WARM_INLET
    ]
    assert warned
    for event in warned:
        assert event.node is not None
        shown = run.nodes(np.array([event.time_s]), ["inlet_temp_c"]).columns["inlet_temp_c"]
        assert shown[0, event.node] == pytest.approx(event.value, abs=1e-3)


def test_hot_air_is_in_the_inlets_of_its_rack():
    run = struck(fault("hot-inlet", 600.0, severity=20.0, duration_s=2000.0))
    effect = run.timeline.effects[0]
    late = np.array([0.5 * (effect.since_s + effect.until_s)])
    shown, usual = (
        r.nodes(late, ["inlet_temp_c"]).columns["inlet_temp_c"][0] for r in (run, struck())
    )
    rack = slice(effect.first_gpu // 8, (effect.first_gpu + effect.gpus - 1) // 8 + 1)
    assert (shown - usual)[rack] == pytest.approx(effect.level(float(late[0])), abs=0.5)
    assert np.delete(shown - usual, np.r_[rack]) == pytest.approx(0, abs=0.5)


def test_a_checkpoint_leaves_over_the_network_and_is_staged_in_memory():
    run = struck()
    save = next(span for span in run.timeline.spans if span.phase == "checkpoint")
    ends = np.array([save.start_s + 1e-3, save.end_s - 1e-3])
    columns = run.nodes(ends).columns
    sent = np.diff(columns["network_tx_bytes"], axis=0)[0]
    assert sent == pytest.approx(np.full(8, run.plan.checkpoint_bytes / 8), rel=0.01)
    training = run.nodes(np.array([save.start_s - 1.0]), ["memory_available_bytes"]).columns
    assert (columns["memory_available_bytes"][0] < training["memory_available_bytes"][0]).all()


def test_unknown_fields_are_refused():
    with pytest.raises(SpecError, match="load2"):
        steady().nodes(np.array([1.0]), ["load2"])


def test_each_node_metric_shows_a_field():
    assert {metric.field for metric in catalog.metrics("node")} <= set(NODE_FIELDS)
    names = [(metric.name, metric.labels) for metric in catalog.metrics("node")]
    assert len(set(names)) == len(names)
