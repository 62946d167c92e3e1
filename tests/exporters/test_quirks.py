"""What exporters differ in where a GPU has erred or is gone."""

from __future__ import annotations

import numpy as np
import pytest

from ghosttrain.core.errors import SpecError
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.prometheus.quirks import (
    USUAL,
    XID_SHOWN_S,
    Quirks,
    quirks_of,
    quirky_telemetry,
)
from tests.exporters.runs import run_with, small_spec

FIELDS = ("xid", "power_w", "gpu_temp_c", "energy_mj")
GPU = 9


def struck_by(kind: str) -> Run:
    return run_with((kind, 200.0, GPU))


@pytest.mark.parametrize(
    ("text", "quirks"),
    [
        ("sticky-xid,lost-vanish", USUAL),
        (" Lost-Vanish ", Quirks(sticky_xid=False)),
        ("sticky-xid,sticky-xid", Quirks(lost_vanish=False)),
        ("none", Quirks(sticky_xid=False, lost_vanish=False)),
    ],
)
def test_quirks_by_name(text, quirks):
    assert quirks_of(text) == quirks


def test_unknown_quirks_are_refused_with_those_there_are():
    with pytest.raises(SpecError, match="unknown quirk 'sticky': there are sticky-xid, lost-va"):
        quirks_of("sticky")


def test_an_xid_stays_or_goes_after_a_minute():
    run = struck_by("row-remap-pending")
    (incident,) = run.timeline.incidents
    fading = Quirks(sticky_xid=False)
    for later_s, shown in ((1.0, True), (XID_SHOWN_S - 1, True), (XID_SHOWN_S + 1, False)):
        at_s = incident.time_s + later_s
        usual = quirky_telemetry(run, at_s, FIELDS).columns["xid"][0]
        assert np.flatnonzero(usual).tolist() == [GPU]
        found = quirky_telemetry(run, at_s, FIELDS, fading).columns["xid"][0]
        assert np.flatnonzero(found).tolist() == ([GPU] if shown else [])


def test_a_lost_gpu_vanishes_or_repeats_what_it_said_last():
    run = struck_by("gpu-off-bus")
    (incident,) = run.timeline.incidents
    assert incident.strike_s is not None
    before = run.telemetry(np.array([np.nextafter(incident.strike_s, 0.0)]), FIELDS)
    stays = Quirks(lost_vanish=False)
    at_s = incident.strike_s + 45.0
    assert quirky_telemetry(run, at_s, FIELDS).lost == ((GPU,),)
    found = quirky_telemetry(run, at_s, FIELDS, stays)
    usual = run.telemetry(np.array([at_s]), FIELDS)
    assert found.lost == ((),)
    others = [gpu for gpu in range(run.spec.cluster.gpus) if gpu != GPU]
    for name in FIELDS:
        assert found.columns[name][0, GPU] == before.columns[name][0, GPU]
        assert (found.columns[name][0, others] == usual.columns[name][0, others]).all()
    assert found.columns["power_w"][0, GPU] > 0


def test_a_node_that_is_gone_repeats_nothing():
    run = struck_by("host-crash")
    (incident,) = run.timeline.incidents
    assert incident.strike_s is not None
    found = quirky_telemetry(run, incident.strike_s + 20.0, FIELDS, Quirks(lost_vanish=False))
    assert found.nodes_down == ((1,),)
    assert found.lost == (tuple(range(8, 16)),)


def test_without_faults_no_quirk_shows():
    run = simulate(small_spec(), 7)
    none = quirky_telemetry(run, 300.0, FIELDS, Quirks(sticky_xid=False, lost_vanish=False))
    usual = quirky_telemetry(run, 300.0, FIELDS)
    assert all((none.columns[name] == usual.columns[name]).all() for name in FIELDS)
