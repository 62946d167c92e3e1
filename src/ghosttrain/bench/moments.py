"""Benchmarks of telemetry by moment: how many, and whether the run's age shows in the cost."""

from __future__ import annotations

import numpy as np

from ghosttrain.bench.core import large_spec
from ghosttrain.bench.result import Result, in_turn, seconds
from ghosttrain.core.events import Phase
from ghosttrain.core.rng import F64
from ghosttrain.core.run import Run, simulate

_FIELDS = ("power_w", "gpu_temp_c", "gpu_util_pct", "fb_used_mib")
_MOMENTS = 32
_EVERY_S = 15.0
_PAIRS = 21  # timed in turn: their medians stand against bursts of other work


def bench_moments() -> list[Result]:
    """Moments of the large run against raw normals, and at its end against its beginning."""
    run = simulate(large_spec(), 1)
    return [_rate(run), _age(run, _FIELDS, "4 metrics"), _age(run, None, "all fields")]


def _rate(run: Run) -> Result:
    """GPU-moments a second, over drawing as many rows of four raw normals."""
    gpus, times = run.spec.cluster.gpus, _moments_near(run, 0.5 * run.end_s)
    run.telemetry(times, _FIELDS)
    generator = np.random.Generator(np.random.Philox(1))
    out = np.empty((_MOMENTS, len(_FIELDS), gpus), np.float32)
    taken, raw = in_turn(
        lambda: seconds(lambda: run.telemetry(times, _FIELDS)),
        lambda: seconds(lambda: generator.standard_normal(dtype=np.float32, out=out)),
        _PAIRS,
    )
    rate, drawn = (_MOMENTS * gpus / each / 1e6 for each in (taken, raw))
    return Result(
        "moments of 16,384 GPUs x 4 metrics, GPU-moments/s over raw Philox normals",
        raw / taken,
        "x",
        1.0,
        False,
        f"{rate:.1f} against {drawn:.1f} M GPU-moments/s",
    )


def _age(run: Run, fields: tuple[str, ...] | None, name: str) -> Result:
    """Cost of a block of moments on the last day over that of one on the second."""
    early, late = (_moments_near(run, share * run.end_s) for share in (0.02, 0.98))
    for times in (early, late):
        run.telemetry(times, fields)  # sums over spans are made once
    old, young = in_turn(
        lambda: seconds(lambda: run.telemetry(late, fields)),
        lambda: seconds(lambda: run.telemetry(early, fields)),
        _PAIRS,
    )
    days = run.end_s / 86400
    note = f"{1000 * old:.1f} against {1000 * young:.1f} ms for {_MOMENTS} moments"
    return Result(
        f"{name} at the end of a run of {days:.0f} days over its second day",
        old / young,
        "x",
        1.2,
        True,
        note,
    )


def _moments_near(run: Run, time_s: float) -> F64:
    """Moments in the first long enough training span after `time_s`."""
    index = run.timeline.index_at(time_s)
    needed_s = (_MOMENTS + 1) * _EVERY_S
    span = next(
        span
        for span in run.timeline.spans[index:]
        if span.phase is Phase.TRAINING and span.duration_s > needed_s
    )
    return np.asarray(span.start_s + _EVERY_S * np.arange(1, _MOMENTS + 1), np.float64)
