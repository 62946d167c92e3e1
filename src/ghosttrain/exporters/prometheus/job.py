"""The job's part of a page: what the training run itself would say, in base units.

Names follow Prometheus: `_total` for what only grows, `_ratio` for 0..1, `_seconds`, `_bytes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ghosttrain.core.events import Phase

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from ghosttrain.core.job import JobState
    from ghosttrain.core.run import Run

SIMULATED = "(simulated)"

Kind = Literal["gauge", "counter"]


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


def families(run: Run, job: JobState, playing: Playing) -> Iterator[Metric]:
    """All that is said about the job; what is not known yet is left out."""
    yield _phases(job)
    rows = (_playing(playing), _progress(run, job), _last(job), _saved(job), _resilience(run, job))
    yield from _known(row for part in rows for row in part)
    yield _by("faults", "counter", "Faults that have come, by kind", "kind", job.faults)
    yield _by("spent_seconds", "counter", "Time spent, by what on", "on", job.spent_s)


# Name without suffix, kind, unit, help, value.
Row = tuple[str, Kind, str, str, float | None]


def _playing(playing: Playing) -> list[Row]:
    return [
        ("speed", "gauge", "", "Run seconds per wall second, 0 while paused", playing.speed),
        ("run_time_seconds", "gauge", "seconds", "Time since the run began", playing.time_s),
        ("run_number", "gauge", "", "Which of the runs played one after the other", playing.run),
    ]


def _progress(run: Run, job: JobState) -> list[Row]:
    since_s = job.since_step_s if job.last else None
    return [
        ("attempt", "gauge", "", "Launch of the job, from 1", job.attempt),
        ("step", "gauge", "", "Last completed step", job.step),
        ("planned_steps", "gauge", "", "Steps of the whole run", job.total_steps),
        ("epoch", "gauge", "", "Epoch in progress, from 1", job.epoch),
        ("tokens", "gauge", "", "Tokens seen up to the last completed step", job.tokens),
        ("samples", "gauge", "", "Sequences seen up to the last completed step", job.samples),
        ("steps", "counter", "", "Steps begun and done, again or not", _done(run, job)),
        ("since_step_seconds", "gauge", "seconds", "Time since the last step", since_s),
    ]


def _done(run: Run, job: JobState) -> int:
    """Steps done so far, in all launches: those that were gone back behind stay in it."""
    span = run.span_at(job.time_s)
    return span.ordinal + (job.step - span.step if span.phase is Phase.TRAINING else 0)


def _last(job: JobState) -> list[Row]:
    last = job.last
    if last is None:
        return []
    return [
        ("loss", "gauge", "", "Training loss of the last step", last.loss),
        ("grad_norm", "gauge", "", "Norm of the gradient of the last step", last.grad_norm),
        ("learning_rate", "gauge", "", "Learning rate of the last step", last.learning_rate),
        ("step_time_seconds", "gauge", "seconds", "Duration of the last step", last.step_time_s),
        ("tokens_per_second", "gauge", "", "Tokens per second, last step", last.tokens_per_s),
        ("mfu_ratio", "gauge", "ratio", "Model FLOPs utilization, last step", last.mfu),
        ("tflops_per_gpu", "gauge", "", "Model TFLOP/s of a GPU, last step", last.tflops_per_gpu),
        ("eta_seconds", "gauge", "seconds", "Time left, as said after the last step", last.eta_s),
        ("loss_scale", "gauge", "", "Scale of the loss in FP16 training", last.loss_scale),
    ]


def _saved(job: JobState) -> list[Row]:
    rows: list[Row] = []
    if (made := job.validation) is not None:
        rows += [
            ("validation_loss", "gauge", "", "Loss of the last validation", made.loss),
            ("best_validation_loss", "gauge", "", "Least loss of a validation", made.best_loss),
        ]
    if (saved := job.checkpoint) is not None:
        size, taken_s = float(saved.size_bytes), saved.duration_s
        rows += [
            ("checkpoint_step", "gauge", "", "Step of the last checkpoint", saved.step),
            ("checkpoint_size_bytes", "gauge", "bytes", "Size of the last checkpoint", size),
            ("checkpoint_write_seconds", "gauge", "seconds", "Time the last one took", taken_s),
        ]
    return rows


def _resilience(run: Run, job: JobState) -> list[Row]:
    nodes = run.spec.cluster.nodes
    return [
        ("restarts", "counter", "", "Launches after the first", job.restarts),
        ("steps_lost", "counter", "", "Steps that have to be done again", job.steps_lost),
        ("nan_steps", "counter", "", "Steps whose loss is no number", job.nan_steps),
        ("lost_seconds", "counter", "seconds", "Time spent on steps that are lost", job.lost_s),
        ("goodput_ratio", "gauge", "ratio", "Share of time in steps that count", job.goodput),
        ("nodes", "gauge", "", "Nodes of the job", nodes),
        ("nodes_down", "gauge", "", "Nodes that do not answer", len(job.nodes_down)),
    ]


def _phases(job: JobState) -> Metric:
    """What the run does: 1 for that, 0 for everything else."""
    from prometheus_client.metrics_core import GaugeMetricFamily

    help_text = f"What the run is doing: 1 for that {SIMULATED}."
    family = GaugeMetricFamily("ghosttrain_phase", help_text, labels=["phase"])
    for phase in Phase:
        family.add_metric([phase.value], float(phase == job.phase))
    return family


def _by(name: str, kind: Kind, about: str, label: str, values: Mapping[Any, float]) -> Metric:
    """A family with a sample for each key."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    family = made(f"ghosttrain_{name}", f"{about} {SIMULATED}.", labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], float(value))
    return family


def _known(rows: Iterable[Row]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    for name, kind, unit, about, value in rows:
        if value is None:
            continue
        made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        yield made(f"ghosttrain_{name}", f"{about} {SIMULATED}.", value=float(value), unit=unit)


def written(metrics: Iterable[Metric], *, openmetrics: bool) -> bytes:
    """The families as text; that of OpenMetrics with the end of the page."""
    from prometheus_client import CollectorRegistry, exposition
    from prometheus_client.openmetrics import exposition as openmetrics_exposition

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    text: bytes
    if openmetrics:
        text = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call] # theirs
    else:
        text = exposition.generate_latest(registry)
    return text


class _Once:
    """A collector of ready families."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics

    def describe(self) -> Iterable[Metric]:
        return ()
