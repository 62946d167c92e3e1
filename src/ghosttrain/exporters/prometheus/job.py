"""The job's part of a page: what the training run itself would say, in base units.

Names follow Prometheus: `_total` for what only grows, `_ratio` for 0..1, `_seconds`, `_bytes`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ghosttrain.core.events import Phase

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from ghosttrain.core.job import JobState
    from ghosttrain.core.run import Run

SIMULATED = "(simulated)"


@dataclass(frozen=True, slots=True)
class Playing:
    """How a run is played.

    Attributes:
        speed: Run seconds per wall second, 0 while it is paused.
        time_s: Run time of what is shown.
        run: Number of the run, from 1, among those played.
    """

    speed: float
    time_s: float
    run: int = 1


def spec_hash(run: Run) -> str:
    """Twelve hex digits that are the same for the same spec, whatever its date."""
    spec = replace(run.spec, start_unix_s=0, chosen=(), notes=())
    return hashlib.blake2b(repr(spec).encode(), digest_size=6).hexdigest()


def info(run: Run) -> Metric:
    """What says that all of it is simulated, and which run it is."""
    from prometheus_client.metrics_core import InfoMetricFamily

    from ghosttrain import __version__

    spec = run.spec
    labels = {
        "simulated": "true",
        "model": spec.model.name,
        "gpu": spec.gpu.name,
        "gpus": str(spec.cluster.gpus),
        "seed": str(run.seed),
        "spec_hash": spec_hash(run),
        "version": __version__,
    }
    return InfoMetricFamily("ghosttrain", f"Which run this is {SIMULATED}.", labels)


def families(run: Run, job: JobState, playing: Playing, *, down: Sequence[int]) -> Iterator[Metric]:
    """All that is said about the job; what is not known yet is left out."""
    yield info(run)
    yield from _known(_playing(playing))
    yield _phases(job)
    yield from _known(_progress(run, job))
    yield from _known(_training(job))
    yield from _known(_resilience(run, job, down))


# Name without suffix, kind, unit, help, value.
Row = tuple[str, str, str, str, float | None]


def _playing(playing: Playing) -> list[Row]:
    return [
        ("speed", "gauge", "", "Run seconds per wall second, 0 while paused", playing.speed),
        ("run_time_seconds", "gauge", "seconds", "Time since the run began", playing.time_s),
        ("run_number", "gauge", "", "Which of the runs played one after the other", playing.run),
    ]


def _progress(run: Run, job: JobState) -> list[Row]:
    recipe = run.spec.recipe
    return [
        ("step", "gauge", "", "Last completed step", job.step),
        ("steps", "counter", "", "Steps done, those done again included", _done(job)),
        ("planned_steps", "gauge", "", "Steps of the whole run", recipe.total_steps),
        ("epoch", "gauge", "", "Epoch in progress", job.epoch),
        ("tokens", "gauge", "", "Tokens seen up to the last completed step", job.tokens),
        ("eta_seconds", "gauge", "seconds", "Time to the end at the current pace", job.eta_s),
    ]


def _done(job: JobState) -> int:
    """Steps done so far: it only grows, as what goes back is counted as lost."""
    return job.step + job.steps_lost


def _training(job: JobState) -> list[Row]:
    return [
        ("loss", "gauge", "", "Training loss of the last step", job.loss),
        ("grad_norm", "gauge", "", "Norm of the gradient of the last step", job.grad_norm),
        ("learning_rate", "gauge", "", "Learning rate of the last step", job.learning_rate),
        ("step_time_seconds", "gauge", "seconds", "Duration of the last step", job.step_time_s),
        ("tokens_per_second", "gauge", "", "Tokens per second, last step", job.tokens_per_s),
        ("mfu_ratio", "gauge", "ratio", "Model FLOPs utilization, last step", job.mfu),
        ("tflops_per_gpu", "gauge", "", "Model TFLOP/s per GPU, last step", job.tflops_per_gpu),
        ("validation_loss", "gauge", "", "Loss of the last validation", job.validation_loss),
    ]


def _resilience(run: Run, job: JobState, down: Sequence[int]) -> list[Row]:
    nodes = run.spec.cluster.nodes
    return [
        ("attempt", "gauge", "", "Launch of the job, from 1", job.attempt),
        ("restarts", "counter", "", "Launches after the first", job.restarts),
        ("faults", "counter", "", "Faults that have come", job.faults),
        ("steps_lost", "counter", "", "Steps that had to be done again", job.steps_lost),
        ("goodput_ratio", "gauge", "ratio", "Share of time in steps that count", job.goodput),
        ("nodes", "gauge", "", "Nodes of the job", nodes),
        ("nodes_down", "gauge", "", "Nodes of the job that do not answer", len(down)),
    ]


def _phases(job: JobState) -> Metric:
    """What the run does: 1 for that, 0 for everything else."""
    from prometheus_client.metrics_core import GaugeMetricFamily

    help_text = f"What the run is doing: 1 for that {SIMULATED}."
    family = GaugeMetricFamily("ghosttrain_phase", help_text, labels=["phase"])
    for phase in Phase:
        family.add_metric([phase.value], float(phase == job.phase))
    return family


def _known(rows: Iterable[Row]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    for name, kind, unit, about, value in rows:
        if value is None or math.isnan(value):
            continue
        made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        yield made(f"ghosttrain_{name}", f"{about} {SIMULATED}.", value=float(value), unit=unit)


def written(metrics: Iterable[Metric], *, openmetrics: bool) -> bytes:
    """The families as text; that of OpenMetrics with the end of the page."""
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.openmetrics import exposition as openmetrics_exposition

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    if openmetrics:
        return openmetrics_exposition.generate_latest(registry)
    return exposition.generate_latest(registry)


class _Once:
    """A collector of ready families."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics

    def describe(self) -> Iterable[Metric]:
        return ()
