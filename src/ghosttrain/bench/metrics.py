"""Benchmarks of `/metrics`: pages against the join of ready lines and against prometheus_client."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain import catalog
from ghosttrain.bench.core import spec_of
from ghosttrain.bench.result import Result, in_turn, seconds
from ghosttrain.core.events import Phase
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.prometheus.dcgm import Dialect, chosen_metrics
from ghosttrain.exporters.prometheus.gpu_page import GpuPages

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from ghosttrain.core.telemetry import Telemetry

SERIES = (15, 5)  # of the default list: from its head, from its end (the profiling metrics)


def bench_metrics() -> list[Result]:
    """A page of 16,384 GPUs and one of 64: rendering, the library, and the way from the run."""
    found = []
    for gpus, model, pairs in ((16384, "llama-3.1-405b", 5), (64, "llama-3-8b", 41)):
        page = _Pages(gpus, model)
        found += page.results(pairs)
    return found


class _Pages:
    """A fleet in the middle of training, its telemetry computed."""

    def __init__(self, gpus: int, model: str) -> None:
        self.gpus = gpus
        self.run = simulate(spec_of(model, gpus, 400), 1)
        found, (head, end) = chosen_metrics("default", catalog.metrics()), SERIES
        self.metrics = (*found[:head], *found[-end:])
        self.pages = GpuPages(self.run, self.metrics, Dialect.of())
        # Seconds apart, as two collections are: in turn, so that each page is a new one.
        middle = _middle(self.run)
        self.moments = itertools.cycle([self.at(middle + 7.0 * number) for number in range(5)])
        self.telemetry = next(self.moments)

    def at(self, time_s: float) -> Telemetry:
        fields = [metric.field for metric in self.metrics]
        return self.run.telemetry(np.array([time_s]), fields)

    def results(self, pairs: int) -> list[Result]:
        pieces = self.pages.render(self.telemetry)
        lines = b"".join(pieces).splitlines(keepends=True)
        what = f"a page of {self.gpus:,} GPUs x {len(self.metrics)} series"
        ours, joined = in_turn(self._rendered, lambda: seconds(lambda: b"".join(lines)), pairs)
        drawn, library = in_turn(self._rendered, self._by_library, 1 if self.gpus > 1000 else 5)
        size = sum(map(len, pieces)) / 1e6
        note = f"{1000 * ours:.2f} against {1000 * joined:.2f} ms, {size:.1f} MB"
        results = [
            Result(f"{what} over joining its ready lines", ours / joined, "x", 1.0, True, note)
        ]
        if self.gpus < 1000:  # so few ready lines stay in the processor's cache
            results = []
        note = f"{1000 * drawn:.2f} against {1000 * library:.1f} ms"
        results.append(
            Result(
                f"{what}, prometheus_client's time over ours", library / drawn, "x", 20, False, note
            )
        )
        return [*results, self._from_the_run(what)]

    def _rendered(self) -> float:
        telemetry = next(self.moments)
        return seconds(lambda: self.pages.render(telemetry))

    def _by_library(self) -> float:
        """prometheus_client over a custom collector of the same values, labels made beforehand."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self))
        return seconds(lambda: generate_latest(registry))

    def _from_the_run(self, what: str) -> Result:
        """Telemetry and rendering together: what the first scraper of a collection waits for."""
        middle = _middle(self.run)
        moments = (middle + 3.0 * number for number in itertools.count())

        def whole() -> float:
            return seconds(lambda: self.pages.render(self.at(next(moments))))

        def alone() -> float:
            return seconds(lambda: self.at(next(moments)))

        taken, telemetry = in_turn(whole, alone, 5)
        note = f"{1000 * telemetry:.1f} ms of it telemetry"
        return Result(f"{what}, from the run to the page", 1000 * taken, "ms", 1000, True, note)


class _Collector:
    """The same families for the library."""

    def __init__(self, pages: _Pages) -> None:
        self._pages = pages
        spec = pages.run.spec
        names = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "driver")
        self._names = names
        self._labels = [
            (
                str(gpu % 8),
                f"GPU-{gpu:032x}",
                "00000000:1B:00.0",
                f"nvidia{gpu % 8}",
                spec.gpu.product_name,
                f"gpu-{gpu // 8:04d}",
                spec.cluster.driver,
            )
            for gpu in range(pages.gpus)
        ]

    def collect(self) -> Iterable[Family]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        for row in self._pages.metrics:
            made = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family = made(row.name, row.help, labels=self._names)
            values = self._pages.telemetry.columns[row.field][0].tolist()
            for labels, value in zip(self._labels, values, strict=True):
                family.add_metric(labels, value)
            yield family


def _middle(run: Run) -> float:
    """A moment in the middle of the longest training stretch."""
    trained = [span for span in run.timeline.spans if span.phase is Phase.TRAINING]
    longest = max(trained, key=lambda span: span.duration_s)
    return 0.5 * (longest.start_s + longest.end_s)
