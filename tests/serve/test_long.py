"""A server that runs for long: its memory stays, and so does the cost of a scrape."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ghosttrain import catalog
from ghosttrain.core.run import simulate
from ghosttrain.core.spec import Faults
from ghosttrain.exporters.prometheus.dcgm import Dialect, chosen_metrics, known_metrics
from ghosttrain.serve.collection import Collector, Wanted
from ghosttrain.serve.live import LiveRun
from tests.exporters.runs import small_spec
from tests.serve.servers import Clock, serving

pytestmark = pytest.mark.slow

MIB = 1 << 20


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def long_run():
    """Months with a fault every few hours."""
    spec = small_spec()
    kind = replace(catalog.fault_kind("gpu-fault"), rate_per_1000_gpu_days=200.0)
    recipe = replace(spec.recipe, steps_per_epoch=2_000_000, checkpoint_interval_steps=500)
    return simulate(replace(spec, recipe=recipe, faults=Faults(drawn=(kind,))), 7)


def test_memory_is_flat_over_10_000_scrapes():
    """All over the run, every third of a new collection: whole pages, nodes, both formats."""
    accept = ("text/plain", "application/openmetrics-text")
    run = long_run()
    with serving(run) as found:
        found.collector.live.change_speed(run.end_s / 4e3)

        def scrape(count: int) -> None:
            for number in range(count):
                found.clock.pass_(0.399)
                path = ("/metrics", "/node/1/metrics", "/job/metrics")[number % 3]
                answer = found.get(path, headers={"Accept": accept[number % 2]})
                assert answer.status_code in (200, 503)

        scrape(1000)
        before = resident_bytes()
        scrape(9000)
        grown = resident_bytes() - before
        assert found.get("/api/v1/state").json()["time_s"] > 0.9 * run.end_s
    assert grown < 4 * MIB, f"{grown / MIB:.1f} MiB"


def test_a_scrape_costs_the_same_in_the_first_hour_and_after_months():
    run = long_run()
    clock = Clock()
    live = LiveRun(run, clock=clock)
    metrics = chosen_metrics("all", known_metrics())
    collector = Collector(live, metrics, Dialect.of(), clock=clock)

    def taken_s(at_s: float) -> float:
        collector.change(lambda one: one.seek(at_s))
        times = []
        for _ in range(60):
            clock.pass_(5.0)
            begun = time.perf_counter()
            collector.page(Wanted("all"))
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    taken_s(1000.0)
    pairs = [(taken_s(3600.0), taken_s(0.95 * run.end_s)) for _ in range(5)]
    early = statistics.median(pair[0] for pair in pairs)
    late = statistics.median(pair[1] for pair in pairs)
    assert late < 1.5 * early, f"{1000 * early:.2f} and {1000 * late:.2f} ms"
