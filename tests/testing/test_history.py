"""The past of a run as a Prometheus would hold it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ghosttrain.core.errors import SpecError
from ghosttrain.core.run import simulate
from ghosttrain.testing import RunServer, serving
from tests.exporters.runs import run_with
from tests.real.prometheus import PrometheusServer, promtool

BEFORE_MIDNIGHT = 1767225600 + 86400 - 60  # a minute into the run it is another day
TEMPERATURE = re.compile(
    r'^DCGM_FI_DEV_GPU_TEMP\{gpu="(\d)".*,instance="([^"]+)".*\} (\S+) (\S+)$', re.MULTILINE
)


@pytest.fixture(scope="module")
def server():
    run = run_with(("gpu-off-bus", 200.0, 9))
    late = simulate(replace(run.spec, start_unix_s=BEFORE_MIDNIGHT), run.seed)
    with serving(late) as found:
        yield found


def test_a_moment_of_it_is_the_page_of_the_moment(server: RunServer):
    told = {
        (host, gpu, float(at)): float(value)
        for gpu, host, value, at in TEMPERATURE.findall(server.history(0, "300s", every="30s"))
    }
    shown = {}
    for time_s in range(0, 300, 30):
        server.at(time_s)
        for sample in server.scrape().samples("DCGM_FI_DEV_GPU_TEMP"):
            key = (sample.labels["Hostname"], sample.labels["gpu"], server.unix_s)
            shown[key] = sample.value
    assert told == shown
    assert len(shown) == 10 * 16 - 3  # one is lost from 200 s on


def test_it_is_one_text_across_midnight(server: RunServer):
    lines = server.history(every=20).splitlines()
    assert lines.count("# EOF") == 1
    assert lines[-1] == "# EOF"
    declared = [line for line in lines if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    stamps = [float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")]
    assert stamps == sorted(stamps)
    assert stamps[0] < BEFORE_MIDNIGHT + 60 < stamps[-1]


def test_a_window_is_a_part_of_the_whole(server: RunServer):
    whole = server.history(every=20).splitlines()
    part = server.history("1min", "2min", every=20).splitlines()
    assert {line for line in part if line[0] != "#"} <= set(whole)
    stamps = {float(line.rsplit(" ", 1)[1]) for line in part if line[0] != "#"}
    assert stamps == {BEFORE_MIDNIGHT + at for at in (60, 80, 100)}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"start": "9d"}, "at 9d is after the end"),
        ({"stop": "9d"}, "at 9d is after the end"),
        ({"start": "61s", "stop": "62s"}, "no multiple of 15 s lies there"),
        ({"start": "2min", "stop": "1min"}, "no multiple of 15 s lies there"),
        ({"every": 0}, "every 0 s: give a time above 0"),
        ({"every": "often"}, "duration 'often' makes no sense"),
    ],
)
def test_windows_that_cannot_be_are_told(server: RunServer, how, told):
    with pytest.raises(SpecError) as caught:
        server.history(**how)
    assert told in str(caught.value)


@pytest.mark.real
def test_promtool_makes_blocks_of_it_that_prometheus_reads(server: RunServer, tmp_path):
    path = tmp_path / "history.om"
    path.write_text(server.history(every=20), encoding="utf-8")
    storage = tmp_path / "data"
    done = promtool("tsdb", "create-blocks-from", "openmetrics", path, storage)
    assert done.returncode == 0, done.stderr
    run = server.run
    with PrometheusServer(tmp_path, "global: {}\n", storage=storage) as prometheus:
        for time_s in (40.0, 120.0, 220.0):
            at = run.spec.start_unix_s + time_s
            (step,) = prometheus.query("ghosttrain_step", at)
            assert float(step["value"][1]) == run.job(time_s).step
            (count,) = prometheus.query(f"count(timestamp(DCGM_FI_DEV_GPU_TEMP) == {at})", at)
            assert float(count["value"][1]) == (16 if time_s < 200.0 else 15)
