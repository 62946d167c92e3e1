"""A page of `/metrics`: the GPUs, then the job; for all nodes, one node, or the job alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.exporters.prometheus.dcgm import Dialect
from ghosttrain.exporters.prometheus.gpu_page import GpuPages
from ghosttrain.exporters.prometheus.job import Playing, families, info, written
from ghosttrain.exporters.prometheus.node_page import NodePages
from ghosttrain.exporters.prometheus.quirks import USUAL, Quirks, quirky_telemetry

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.job import JobState
    from ghosttrain.core.node import NodeTelemetry
    from ghosttrain.core.run import Run
    from ghosttrain.core.telemetry import Telemetry

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The state of a run at one moment: what a page is made of.

    Attributes:
        telemetry: The GPUs, one moment.
        nodes: The nodes, likewise.
        job: The job.
        playing: How fast, how far, which run.
    """

    telemetry: Telemetry
    nodes: NodeTelemetry
    job: JobState
    playing: Playing

    @property
    def down(self) -> tuple[int, ...]:
        """Nodes that do not answer."""
        return self.telemetry.nodes_down[0]


def moment_of(
    run: Run, metrics: Sequence[Metric], playing: Playing, quirks: Quirks = USUAL
) -> Moment:
    """The state of `run` at `playing.time_s`, as far as `metrics` need it."""
    of_nodes, of_gpus = parted(metrics)
    return Moment(
        quirky_telemetry(run, playing.time_s, _fields(of_gpus), quirks),
        run.nodes(np.array([playing.time_s]), _fields(of_nodes)),
        run.job(playing.time_s),
        playing,
    )


def parted(metrics: Sequence[Metric]) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
    """Those of nodes, and those of GPUs."""
    of_nodes = tuple(metric for metric in metrics if "node" in metric.lists)
    return of_nodes, tuple(metric for metric in metrics if "node" not in metric.lists)


def _fields(metrics: Sequence[Metric]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(metric.field for metric in metrics))


class Pages:
    """The pages about one run."""

    def __init__(self, run: Run, metrics: Sequence[Metric], dialect: Dialect) -> None:
        self.run, self.metrics = run, tuple(metrics)
        self._info = info(run)
        of_nodes, of_gpus = parted(metrics)
        self._gpus = GpuPages(run, of_gpus, dialect)
        self._nodes = NodePages(run, of_nodes)

    def whole(self, moment: Moment, *, openmetrics: bool = False) -> list[bytes]:
        """All nodes and the job, in pieces."""
        return [*self._machines(moment, None, openmetrics), self._job(moment, openmetrics)]

    def node(self, moment: Moment, node: int, *, openmetrics: bool = False) -> list[bytes]:
        """One node, as its own exporters would say it; and that it is simulated."""
        about = written([self._info], openmetrics=openmetrics)
        return [*self._machines(moment, node, openmetrics), about]

    def job(self, moment: Moment, *, openmetrics: bool = False) -> list[bytes]:
        """The job alone."""
        return [self._job(moment, openmetrics)]

    def _machines(self, moment: Moment, node: int | None, openmetrics: bool) -> list[bytes]:
        gpus = self._gpus.render(moment.telemetry, node=node, openmetrics=openmetrics)
        return [*gpus, self._nodes.render(moment.nodes, node=node, openmetrics=openmetrics)]

    def _job(self, moment: Moment, openmetrics: bool) -> bytes:
        said = families(self.run, moment.job, moment.playing)
        return written([self._info, *said], openmetrics=openmetrics)


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics 1.0 to plain text."""
    best = {"openmetrics": 0.0, "text": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        quality = _quality(parameters)
        if kind == "application/openmetrics-text":
            if all(p in ("version=1.0.0", "version=0.0.1") for p in parameters if "version" in p):
                best["openmetrics"] = max(best["openmetrics"], quality)
        elif kind in ("text/plain", "text/*", "*/*"):
            best["text"] = max(best["text"], quality)
    return best["openmetrics"] > 0 and best["openmetrics"] >= best["text"]


def wants_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip."""
    for part in accept_encoding.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name in ("gzip", "*"):
            return _quality(parameters) > 0
    return False


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
