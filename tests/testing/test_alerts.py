"""What rules make of a run, by promtool's own engine."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ghosttrain.core.errors import InputFileError, SpecError, WorldError
from ghosttrain.testing import Alert, RunServer, serving
from ghosttrain.testing.alerts import Scrapes, scraped
from ghosttrain.testing.server import METRICS, _chosen
from tests.exporters.runs import run_with
from tests.real.prometheus import program
from tests.terminal import ROOT

LOST = """\
groups:
  - name: gpus
    rules:
      - alert: GpuLost
        expr: count by (instance) (DCGM_FI_DEV_GPU_TEMP) < 8
        for: 1m
"""
ANY_LOST = """\
groups:
  - name: gpus
    rules:
      - {alert: GpuLost, expr: count(DCGM_FI_DEV_GPU_TEMP) < 16}
"""


@pytest.fixture(scope="module")
def server():
    with serving(run_with(("gpu-off-bus", 200.0, 9))) as found:
        yield found


def test_series_are_those_of_the_targets(server: RunServer):
    run = server.run
    series = scraped(run, _chosen(METRICS), [100.0, 190.0, 210.0])
    of = {key: values for key, values in series.items() if key.startswith(b"DCGM_FI_DEV_GPU_TEMP")}
    assert len(of) == 16
    assert sum(len(values) == 2 for values in of.values()) == 1  # the GPU that is lost
    for key in of:
        host = key.split(b'Hostname="')[1].split(b'"')[0]
        assert b'instance="%b"' % host in key
        assert b'job="ghosttrain"' in key
    up = {key: values for key, values in series.items() if key.startswith(b"up{")}
    assert len(up) == 3
    assert {value for values in up.values() for _, value in values} == {b"1"}
    (step,) = [values for key, values in series.items() if key.startswith(b"ghosttrain_step{")]
    assert [float(value) for _, value in step] == [run.job(at).step for at in (100.0, 190.0, 210.0)]


def test_a_node_that_is_down_is_not_up_and_its_series_end():
    run = run_with(("node-crash", 200.0, 9))
    down = next(s for s in run.timeline.spans if s.phase == "down")
    series = scraped(run, _chosen(METRICS), [100.0, down.start_s + 1.0])
    (up,) = [v for key, v in series.items() if key.startswith(b"up{") and b'node="1"' in key]
    assert up == [(0, b"1"), (1, b"0")]
    assert {len(v) for key, v in series.items() if b"DCGM" in key and b'node="1"' in key} == {1}


@pytest.mark.parametrize(
    ("scrapes", "told"),
    [
        (Scrapes(0.0, 100.0, 0.5), "every 0.5 s: give whole seconds"),
        (Scrapes(0.0, 100.0, 1.5), "give whole seconds"),
        (Scrapes(100.0, 100.0, 15.0), "no moment lies there"),
        (Scrapes(0.0, 1e6, 15.0), "66,667 scrapes: 20,000 are the most"),
    ],
)
def test_moments_that_cannot_be_are_told(scrapes, told):
    with pytest.raises(SpecError) as caught:
        scrapes.times_s()
    assert told in str(caught.value)


def test_moments_begin_with_the_window_and_end_before_its_end():
    assert Scrapes(10.0, 40.0, 15.0).times_s() == [10.0, 25.0]
    assert Scrapes(10.0, 40.5, 15.0).times_s() == [10.0, 25.0, 40.0]


def test_without_promtool_it_says_what_is_missing(server: RunServer, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorldError, match="it comes with Prometheus"):
        server.alerts(LOST)


def test_a_file_that_is_not_there_is_told(server: RunServer, tmp_path: Path):
    path = tmp_path / "rules.yml"
    for asked in (path, str(path), [path]):
        with pytest.raises(InputFileError, match="cannot be read as rules: No such file"):
            server.alerts(asked)
    path.write_bytes(b"groups: \xff")
    with pytest.raises(InputFileError, match="it is no UTF-8"):
        server.alerts(path)


@pytest.mark.real
def test_an_alert_fires_after_its_time_and_clears_with_its_cause(server: RunServer):
    program("promtool")
    server.at("10s")
    (alert,) = server.alerts(LOST, every=15)
    (truth,) = server.labels
    # Lost at 200 s, seen at the scrape of 210 s, and for a minute from there.
    assert (alert.name, alert.labels, alert.start_s) == ("GpuLost", {"instance": "gpu-0001"}, 270.0)
    assert truth.mitigated_s is not None
    assert alert.stop_s == math.ceil(truth.mitigated_s / 15.0) * 15.0
    assert server.time_s == 10.0


@pytest.mark.real
def test_the_window_moves_with_its_start(server: RunServer, tmp_path: Path):
    program("promtool")
    path = tmp_path / "it's rules.yml"
    path.write_text(LOST)
    alerts = server.alerts(path, start="100s", stop="290s", every=15)
    assert alerts == [Alert("GpuLost", {"instance": "gpu-0001"}, 265.0, None)]
    assert server.alerts(str(path), start="100s", stop="290s", every=15) == alerts
    assert server.alerts([path], start="100s", stop="200s", every=10) == []


@pytest.mark.real
def test_labels_are_read_whatever_is_in_them(server: RunServer):
    program("promtool")
    odd = "a 'quoted' {\"word\", = \\ x}, got: é"
    rules = ANY_LOST.replace("16}", f"16, labels: {{odd: {json.dumps(odd)}}}}}")
    (alert,) = server.alerts(rules, start="180s", stop="230s", every=10)
    assert alert.labels == {"odd": odd}


@pytest.mark.real
def test_rules_read_what_others_record_and_alerts_may_come_again(tmp_path: Path):
    program("promtool")
    records, alerts = tmp_path / "a.yml", tmp_path / "b.yml"
    records.write_text(
        "groups:\n- name: zulu # first\n  rules:\n"
        "  - {record: node:gpus, expr: count by (node) (DCGM_FI_DEV_GPU_TEMP)}\n"
    )
    alerts.write_text(
        "groups:\n- name: 'alpha'\n  rules:\n"
        "  - {alert: Few, expr: node:gpus < 8, labels: {team: on call}}\n"
    )
    run = run_with(("gpu-off-bus", 200.0, 9), ("gpu-off-bus", 1120.0, 2))
    with serving(run) as server:
        found = server.alerts([records, alerts], start="2min", every=10)
        assert [(a.labels["node"], a.labels["team"]) for a in found] == [
            ("1", "on call"),
            ("0", "on call"),
        ]
        for alert, truth in zip(found, server.labels, strict=True):
            assert alert.start_s == math.ceil(truth.onset_s / 10) * 10
        # Merged over nodes it is one alert that comes twice.
        merged = server.alerts(ANY_LOST, start="2min", every=10)
        assert [(alert.start_s, alert.labels) for alert in merged] == [
            (alert.start_s, {}) for alert in found
        ]


@pytest.mark.real
@pytest.mark.parametrize("text", ["groups: nonsense\n", LOST.replace("count by", "cuont by")])
def test_rules_that_promtool_refuses_are_told(server: RunServer, text: str):
    program("promtool")
    with pytest.raises(InputFileError, match="promtool: "):
        server.alerts(text, stop="1min")


@pytest.mark.real
def test_rules_that_never_fire_find_nothing():
    program("promtool")
    with serving(run_with()) as server:
        assert server.alerts(LOST, start="2min") == []


@pytest.mark.real
def test_the_rules_of_the_kits_are_read(server: RunServer):
    program("promtool")
    rules = sorted(
        (ROOT / "kits" / "prometheus" / "rules").glob("*.yml"),
        key=lambda path: (path.stem != "thresholds", path.stem != "recording", path.stem),
    )
    fired = server.alerts(rules, start="100s", stop="600s", every=15)
    lost = [alert for alert in fired if alert.name == "GpuLost"]
    assert [alert.labels["Hostname"] for alert in lost] == ["gpu-0001"]
    assert lost[0].start_s >= 200.0
