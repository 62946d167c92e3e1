"""Tests of alerts: they fire when a GPU falls off its bus, and clear when it is mended.

    pip install 'ghosttrain[serve]' pytest
    pytest examples/test_alert.py

The first two evaluate the rules with `promtool`, over an hour and a half of run time, in seconds.
The last has a real Prometheus scrape the server, in real time. Both programs come with Prometheus.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus here")

RULES = """\
groups:
  - name: gpus
    rules:
      - alert: GpuLost
        expr: count by (instance) (DCGM_FI_DEV_GPU_TEMP) < 8
        for: 1m
      - alert: TrainingStalled
        expr: rate(ghosttrain_steps_total[2m]) == 0 and ghosttrain_step > 0
        for: 2m
"""
# Which run: 16 GPUs on two nodes; after 20 minutes GPU 1 of node 1 is gone.
RUN = "llama-3-8b --gpus 16 --steps 400"
FAULT = "gpu-off-bus@20min:9"


@needs_promtool
def test_a_lost_gpu_is_told_soon_and_not_for_ever(ghosttrain_server):
    """Each alert fires within minutes of the fault, and ends before the run has caught up."""
    server = ghosttrain_server(RUN, faults=FAULT)
    (truth,) = server.labels
    fired = server.alerts(RULES, every="15s")
    assert {alert.name for alert in fired} == {"GpuLost", "TrainingStalled"}
    for alert in fired:
        assert truth.onset_s < alert.start_s < truth.onset_s + 300
        assert alert.stop_s is not None
        assert alert.stop_s < truth.cleared_s
    (lost,) = [alert for alert in fired if alert.name == "GpuLost"]
    assert lost.labels == {"instance": "gpu-0001"}
    assert lost.start_s < truth.detected_s  # sooner than the job's own watchdog


@needs_promtool
def test_nothing_is_told_of_a_run_without_faults(ghosttrain_server):
    """Whoever is on call sleeps."""
    assert ghosttrain_server(RUN).alerts(RULES, start="5min") == []


@needs_prometheus
def test_prometheus_itself_fires_and_clears(ghosttrain_server, tmp_path: Path):
    """From the scrape to the alert: the server stands still wherever the test puts it."""
    server = ghosttrain_server(RUN, faults=FAULT)
    server.to_incident(1, "onset", plus="-1min")
    rules = RULES.replace("for: 1m", "for: 2s")  # Prometheus goes by the wall clock: be quick
    with prometheus(tmp_path, rules, discovery=f"{server.url}/sd") as url:
        wait_until(lambda: query(url, "count(DCGM_FI_DEV_GPU_TEMP)") == 16)
        server.to_incident(1, "effect", plus="10s")
        wait_until(lambda: query(url, f"count({LOST})") == 1)
        server.to_incident(1, "cleared")
        wait_until(lambda: query(url, f"count({LOST})") is None)


LOST = 'ALERTS{alertname="GpuLost",alertstate="firing",instance="gpu-0001"}'


@contextmanager
def prometheus(folder: Path, rules: str, *, discovery: str) -> Iterator[str]:
    """The address of a Prometheus that scrapes the targets of `discovery` each second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(CONFIG.format(discovery=discovery))
    flags = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]
    command = ["prometheus", *flags, f"--web.listen-address={address}"]
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: rehearsal
    http_sd_configs: [{{url: "{discovery}", refresh_interval: 1s}}]
"""


def query(url: str, expression: str) -> float | None:
    """The value of an expression of one series; None for none, and while nobody answers."""
    words = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{words}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(found[0]["value"][1]) if found else None


def wait_until(is_so: Callable[[], bool], wall_s: float = 30.0) -> None:
    """Look until it is so."""
    end = time.monotonic() + wall_s
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)
