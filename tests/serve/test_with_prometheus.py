"""A real Prometheus scrapes a real server; promtool reads its pages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.exporters.runs import run_with
from tests.exporters.test_gpu_page import PUBLISHED
from tests.real.prometheus import PrometheusServer, promtool
from tests.serve.servers import serving

pytestmark = pytest.mark.real

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: rehearsal
    http_sd_configs: [{{url: "http://127.0.0.1:{port}/sd", refresh_interval: 1s}}]
  - job_name: whole
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
# The page we quote has no counter. Those of etc/default-counters.csv earn these by their names:
# DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION the first, DCGM_FI_DEV_PCIE_REPLAY_COUNTER both.
ALSO_OF_COUNTERS = {
    'counter metrics should have "_total" suffix',
    "metric name should not include type 'counter'",
}


def complaints(page: str) -> set[str]:
    """What promtool's linter finds, without the names of metrics."""
    done = promtool("check", "metrics", stdin=page.encode())
    assert done.returncode in (0, 3), done.stderr  # 3: the linter only
    return {line.partition(" ")[2] for line in (done.stdout + done.stderr).splitlines() if line}


def wait_for(found: Callable[[], bool], wall_s: float = 20.0) -> None:
    until = time.monotonic() + wall_s
    while not found():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)


def test_promtool_finds_no_more_than_in_a_published_page():
    with serving(metrics="all") as found:
        gpus = found.get("/node/0/metrics").text
        job = found.get("/job/metrics").text
    known = complaints(PUBLISHED) | ALSO_OF_COUNTERS
    assert complaints(PUBLISHED), "dcgm-exporter's own page is not free of them"
    lines = [line for line in gpus.splitlines() if re.match(r"(# \w+ )?DCGM_", line)]
    assert complaints("\n".join(lines) + "\n") <= known
    assert complaints(job) == set(), "ours are all as the linter wants them"


def test_a_real_prometheus_discovers_scrapes_and_sees_a_node_go_down(tmp_path):
    run = run_with(("node-crash", 200.0, 9))
    with serving(run, interval_s=0.2) as found:
        found.go_to(150.0)
        with PrometheusServer(tmp_path, CONFIG.format(port=found.port)) as server:

            def up() -> dict[str, str]:
                answers = server.query('up{job="ghosttrain"}')
                return {a["metric"]["instance"]: a["value"][1] for a in answers}

            def collect() -> bool:
                found.clock.pass_(0.5)  # the wall clock of the server under test
                return len(up()) == 3

            wait_for(collect)
            wait_for(lambda: set(up().values()) == {"1"})
            assert {"gpu-0000", "gpu-0001"} < set(up())
            # What it stored is what the page says, for every GPU, over the node's own page.
            page = found.get("/metrics", headers={"Accept": "text/plain"}).text
            said = {
                (host, gpu): float(value)
                for gpu, host, value in re.findall(
                    r'^DCGM_FI_DEV_FB_RESERVED\{gpu="(\d)".*Hostname="([^"]+)".*\} (\S+)$',
                    page,
                    re.MULTILINE,
                )
            }
            stored = {
                (a["metric"]["Hostname"], a["metric"]["gpu"]): float(a["value"][1])
                for a in server.query('DCGM_FI_DEV_FB_RESERVED{job="ghosttrain"}')
            }
            assert stored == said
            assert len(stored) == 16
            wait_for(lambda: bool(server.query('ghosttrain_info{job="whole"}')))
            (info,) = server.query('ghosttrain_info{job="whole"}')
            assert info["metric"]["simulated"] == "true"
            (energy, *_) = server.get(
                "metadata", metric="DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
            ).values()
            assert {entry["type"] for entry in energy} == {"unknown"}
            down = next(s for s in run.timeline.spans if s.phase == "down")
            found.go_to(down.start_s + 1.0)
            wait_for(lambda: up().get("gpu-0001") == "0")
            assert up()["gpu-0000"] == "1"
            told = "ghosttrain_nodes_down"  # by targets that have their own times of scraping
            wait_for(lambda: {a["value"][1] for a in server.query(told)} == {"1"})
            targets = server.get("targets")["activeTargets"]
            errors = {t["labels"]["instance"]: t["lastError"] for t in targets}
            assert "503" in errors["gpu-0001"]
