"""The kit as somebody starts it: `ghosttrain serve`, and a Prometheus that asks it for targets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kits import files
from tests.kits.evaluation import RULES
from tests.kits.files import PROMETHEUS
from tests.real.prometheus import PrometheusServer

pytestmark = pytest.mark.real

GPUS, PER_NODE, PER_RACK = 512, 8, 4
# A rack is capped for some seconds: of the faults the one that is over soonest by itself.
FAULT = "power-cap@40min:9=0.3~20s"
EVERY_S = 2
SHORT = "2s"  # for `for:` clauses, which are of minutes
PATIENCE_WALL_S = 90.0
MOST_SERIES = 100
VARIABLES = ("job", "node", "gpu")  # lists of all there are, to choose from
# Panels of what has not come: no alert fires, no GPU has an Xid or an error.
NOTHING_YET = {
    "Alerts in time",
    "Alerts: where",
    "GPUs with an Xid",
    "Memory errors in an hour",
    "NVLink, bad flits a second",
    "Launched again",
}


@pytest.fixture
def served() -> Iterator[str]:
    """Where the fleet answers, some seconds before its fault."""
    words = f"serve llama-3-8b --gpus {GPUS} --seed 5 --faults {FAULT} --at incident:1-10s"
    process = subprocess.Popen(
        [sys.executable, "-m", "ghosttrain", *words.split(), "--port", "0", "--metrics", "all"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        told = "".join(iter(process.stdout.readline, "Ctrl-C ends it.\n"))
        found = re.search(r"(http://\S+)/sd", told)
        assert found, told
        yield found[1]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture
def server(served: str, tmp_path: Path) -> Iterator[PrometheusServer]:
    """The kit's configuration and rules, but quick."""
    (tmp_path / "rules").mkdir()
    for path in RULES.glob("*.yml"):
        rules = re.sub(r"for: \d+m", f"for: {SHORT}", path.read_text())
        (tmp_path / "rules" / path.name).write_text(rules)
    config = (PROMETHEUS / "prometheus.yml").read_text()
    config = config.replace("http://127.0.0.1:9400", served).replace("15s", f"{EVERY_S}s")
    with PrometheusServer(tmp_path, config) as running:
        yield running


def test_a_promised_alert_fires_and_clears_on_a_fleet_that_is_scraped(
    served: str, server: PrometheusServer
) -> None:
    nodes = GPUS // PER_NODE
    until(lambda: len(server.query("up == 1")) == nodes + 1, "all targets up")
    assert len(server.query("DCGM_FI_DEV_GPU_TEMP")) == GPUS
    assert firing(server, "GpuPowerCapped") == set()
    panels_show_something(server)

    until(lambda: len(firing(server, "GpuPowerCapped")) == PER_RACK, "the alert to fire")
    first = 9 // (PER_NODE * PER_RACK) * PER_RACK
    assert firing(server, "GpuPowerCapped") == {
        f"gpu-{first + node:04d}" for node in range(PER_RACK)
    }
    assert state(served)["speed"] == 1.0

    until(lambda: not firing(server, "GpuPowerCapped"), "the alert to clear")
    # It did not clear for want of data.
    assert len(server.query("up == 1")) == nodes + 1
    assert len(server.query("DCGM_FI_DEV_POWER_MGMT_LIMIT == 700")) == GPUS


def panels_show_something(server: PrometheusServer) -> None:
    """Each panel of the dashboard has something to show, and no more than a chart can hold."""
    shown: dict[str, int] = {}
    for title, expr in files.panel_expressions():
        shown[title] = shown.get(title, 0) + len(server.query(expr))
    assert {title for title, series in shown.items() if not series} == NOTHING_YET
    assert max(series for title, series in shown.items() if title not in VARIABLES) <= MOST_SERIES


def firing(server: PrometheusServer, alert: str) -> set[str]:
    """Host names for which an alert fires."""
    alerts = server.get("alerts")["alerts"]
    return {
        found["labels"]["Hostname"]
        for found in alerts
        if found["labels"]["alertname"] == alert and found["state"] == "firing"
    }


def state(served: str) -> Any:
    """What the server says of itself."""
    with urllib.request.urlopen(f"{served}/api/v1/state", timeout=10) as answer:
        return json.load(answer)


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for the real clock: the fleet is played at real speed."""
    end = time.monotonic() + PATIENCE_WALL_S
    while time.monotonic() < end:
        if is_so():
            return
        time.sleep(0.5)
    raise AssertionError(f"waited {PATIENCE_WALL_S:.0f} s for {what}")
