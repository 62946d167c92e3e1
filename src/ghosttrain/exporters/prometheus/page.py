"""A page of `/metrics`: the GPUs, then the job; for all nodes, one node, or the job alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghosttrain.exporters.prometheus.dcgm import Dialect
from ghosttrain.exporters.prometheus.gpu_page import GpuPages
from ghosttrain.exporters.prometheus.job import Playing, families, info, written

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.job import JobState
    from ghosttrain.core.run import Run
    from ghosttrain.core.telemetry import Telemetry

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The state of a run at one moment: what a page is made of.

    Attributes:
        telemetry: The GPUs, one moment.
        job: The job.
        playing: How fast, how far, which run.
        down: Nodes that do not answer.
    """

    telemetry: Telemetry
    job: JobState
    playing: Playing
    down: tuple[int, ...] = ()


def moment_of(run: Run, metrics: Sequence[Metric], playing: Playing) -> Moment:
    """The state of `run` at `playing.time_s`, as far as `metrics` need it."""
    import numpy as np

    at_s = playing.time_s
    fields = tuple(dict.fromkeys(metric.field for metric in metrics))
    telemetry = run.telemetry(np.array([at_s]), fields)
    return Moment(telemetry, run.job(at_s), playing, telemetry.nodes_down[0])


class Pages:
    """The pages about one run."""

    def __init__(self, run: Run, metrics: Sequence[Metric], dialect: Dialect) -> None:
        self.run, self.metrics = run, tuple(metrics)
        self._gpus = GpuPages(run, metrics, dialect)

    def whole(self, moment: Moment, *, openmetrics: bool = False) -> list[bytes]:
        """All nodes and the job, in pieces."""
        return [*self._gpu_pieces(moment, None, openmetrics), self._job(moment, openmetrics)]

    def node(self, moment: Moment, node: int, *, openmetrics: bool = False) -> list[bytes]:
        """One node, as its own exporter would say it; and that it is simulated."""
        about = written([info(self.run)], openmetrics=openmetrics)
        return [*self._gpu_pieces(moment, node, openmetrics), about]

    def job(self, moment: Moment, *, openmetrics: bool = False) -> list[bytes]:
        """The job alone."""
        return [self._job(moment, openmetrics)]

    def _gpu_pieces(self, moment: Moment, node: int | None, openmetrics: bool) -> list[bytes]:
        return self._gpus.render(
            moment.telemetry, down=moment.down, node=node, openmetrics=openmetrics
        )

    def _job(self, moment: Moment, openmetrics: bool) -> bytes:
        said = families(self.run, moment.job, moment.playing)
        return written(said, openmetrics=openmetrics)


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
