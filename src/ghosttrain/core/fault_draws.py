"""Which faults come when: those asked for, and those drawn at their rates.

A kind has a stream of its own, drawn day by day, so that no kind's draws depend on another's
and a run that ends early draws no later day.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ghosttrain.core.identity import nodes_per_rack
from ghosttrain.core.plan import Plan
from ghosttrain.core.rng import Stream, normal_quantile
from ghosttrain.core.spec import FaultKind, RunSpec
from ghosttrain.core.units import DAY_S

_DAY_WORDS = 256  # kept for one day of a kind: half for moments, half for places
_DAYS_TOGETHER = 32  # drawn by one call


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that is to come: when, what, on which GPU; what is None is drawn later.

    One that is asked for waits for the processes if they are down; one that is drawn does not.
    """

    time_s: float
    kind: FaultKind
    gpu: int
    severity: float | None = None
    duration_s: float | None = None
    is_asked: bool = False


def draw_faults(plan: Plan, seed: int) -> Iterator[Strike]:
    """All faults with a moment, in order of time, up to the day of the time limit."""
    faults, gpus = plan.spec.faults, plan.spec.cluster.gpus
    days = math.ceil(plan.spec.time_limit_s / DAY_S)
    places = Stream(seed, "faults.injected")
    asked = [
        Strike(
            f.at_s,
            f.kind,
            _place(f.gpu, places, f.at_s, gpus),
            f.severity,
            f.duration_s,
            is_asked=True,
        )
        for f in faults.injected
        if not f.at_step
    ]
    asked.sort(key=lambda strike: (strike.time_s, strike.kind.name))
    streams: list[Iterator[Strike]] = [iter(asked)]
    streams += [_poisson(kind, seed, gpus, days) for kind in faults.drawn]
    return heapq.merge(*streams, key=lambda strike: strike.time_s)


def faults_by_step(plan: Plan, seed: int) -> list[tuple[int, Strike]]:
    """(step, fault) of those that come when a step is first in progress, in order of the step."""
    places, gpus = Stream(seed, "faults.injected"), plan.spec.cluster.gpus
    asked = [
        (
            f.at_step,
            Strike(
                0.0,
                f.kind,
                _place(f.gpu, places, f.at_step, gpus),
                f.severity,
                f.duration_s,
                is_asked=True,
            ),
        )
        for f in plan.spec.faults.injected
        if f.at_step
    ]
    asked.sort(key=lambda fault: (fault[0], fault[1].kind.name))
    return asked


def touched_gpus(spec: RunSpec, kind: FaultKind, gpu: int) -> tuple[int, int]:
    """First GPU and number of GPUs that a fault of `kind` at `gpu` touches."""
    cluster = spec.cluster
    match kind.scope:
        case "gpu":
            return gpu, 1
        case "node" | "rack":
            nodes = 1 if kind.scope == "node" else nodes_per_rack(spec.gpu, cluster)
            size = nodes * cluster.gpus_per_node
            first = gpu // size * size
            return first, min(size, cluster.gpus - first)
        case _:
            return 0, cluster.gpus


def _place(gpu: int | None, stream: Stream, at: float, gpus: int) -> int:
    """The GPU asked for, or one drawn by the moment (or step) of the fault."""
    if gpu is not None:
        return gpu
    return int(stream.uniform(int(at * 1000), 1)[0] * gpus)


def _poisson(kind: FaultKind, seed: int, gpus: int, days: int) -> Iterator[Strike]:
    """Poisson faults of one kind within so many days, day by day."""
    stream = Stream(seed, f"faults.{kind.name}")
    mean = kind.rate_per_1000_gpu_days * gpus / 1000
    for first in range(0, days, _DAYS_TOGETHER):
        many = min(_DAYS_TOGETHER, days - first)
        drawn = stream.uniform(first * _DAY_WORDS, many * _DAY_WORDS).reshape(many, _DAY_WORDS)
        for day, share in enumerate(drawn[:, 0].tolist(), first):
            count = min(_poisson_quantile(share, mean), _DAY_WORDS // 2 - 1)
            if not count:
                continue
            u = drawn[day - first]
            times = np.sort((day + u[2 : 2 + count]) * DAY_S)
            places = u[_DAY_WORDS // 2 : _DAY_WORDS // 2 + count]
            for time_s, place in zip(times.tolist(), places.tolist(), strict=True):
                yield Strike(time_s, kind, int(place * gpus))


def _poisson_quantile(u: float, mean: float) -> int:
    """Smallest n whose Poisson distribution function reaches u."""
    if mean > 60:  # normal approximation, exact enough where counts are large
        return max(0, round(mean + math.sqrt(mean) * float(normal_quantile(np.array([u]))[0])))
    n, term = 0, math.exp(-mean)
    total = term
    while total < u and n < 400:
        n += 1
        term *= mean / n
        total += term
    return n
