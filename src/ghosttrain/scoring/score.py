"""The figures of a detector, each with a 95 % bootstrap interval.

The interval says how much a figure would move were there another run of the same kind. What is
drawn again is what the run gave to judge by, its units: incidents found (with the alarm that
found them), incidents missed, and bursts of false alarms. Alarms that follow one another within
the grace, or fell for the same benign incident, are a burst: they have one cause. All figures of
one draw come from the same units, so that precision, recall and F1 move together.
"""

# Shapes: U = units (found ones first, fastest first), F = found, K = columns, R = resamples.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.rng import Stream
from ghosttrain.scoring.matching import GRACE_S, Matching, Verdict, match, place_of
from ghosttrain.scoring.predictions import Alarm
from ghosttrain.scoring.truth import Truth

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

RESAMPLES = 2000
QUANTILES = (0.5, 0.9)
MISS = 0.05  # share of the intervals that miss
# Under so many times the smallest and the largest do not hold the median with 95 %: 1 - 2 / 2^5
# is 94 %, and a bootstrap cannot reach beyond them.
FEW_TIMES = 6
_MOST_CELLS = 1 << 22  # of a block of resamples


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval; None where there is nothing to tell it by.

    `of` is how many it is a share, or a median, of.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    of: int = 0


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class's incidents, and the alarms that name it (repeats left out).

    Attributes:
        incidents: How many there were.
        found: How many were found, whatever class the alarm named.
        recall: Share of them.
        median_s: Median time to detect.
        named: Alarms that name the class.
        right: Those of them that found an incident of it.
    """

    name: str
    incidents: int
    found: int
    recall: Estimate
    median_s: float | None
    named: int
    right: int


@dataclass(frozen=True, slots=True)
class Score:
    """How well a detector did on a run.

    Attributes:
        incidents: Real ones; `lookalikes` are the benign ones.
        alarms: All that count; `left_out` were below the threshold of confidence.
        false_alarms: Those that found nothing real, `benign_alarms` of them at lookalikes.
        false_per_day: Per day of the time outside of all incidents.
        class_right: Share of the alarms that found an incident and name a class.
        entity_exact, entity_near: The same of those that name an entity.
    """

    matching: Matching
    incidents: int
    lookalikes: int
    alarms: int
    left_out: int
    found: int
    repeats: int
    false_alarms: int
    benign_alarms: int
    false_per_day: float | None
    recall: Estimate
    precision: Estimate
    f1: Estimate
    median_s: Estimate
    p90_s: Estimate
    class_right: Estimate
    entity_exact: Estimate
    entity_near: Estimate
    classes: tuple[ClassScore, ...]


def score(
    truth: Truth,
    alarms: Sequence[Alarm],
    *,
    grace_s: float = GRACE_S,
    threshold: float | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Score a detector's alarms.

    Args:
        truth: What was wrong.
        alarms: What the detector said.
        grace_s: How long after an incident was cleared an alarm still hits it.
        threshold: Alarms that are less confident are left out; those without a confidence stay.
        seed: Of the bootstrap.
        resamples: How many of them, at least 1.
    """
    counted = [a for a in alarms if threshold is None or _confidence(a) >= threshold]
    matching = match(truth, counted, grace_s)
    found, false = matching.of("found"), [*matching.of("benign"), *matching.of("false")]
    units = Units(matching, _bursts(false, grace_s))
    boot = Bootstrap(units, seed, resamples)
    lookalikes = sum(i.benign for i in truth.incidents)
    days = matching.clean_s / 86400
    return Score(
        matching=matching,
        incidents=len(truth.incidents) - lookalikes,
        lookalikes=lookalikes,
        alarms=len(counted),
        left_out=len(alarms) - len(counted),
        found=len(found),
        repeats=len(matching.of("repeat")),
        false_alarms=len(false),
        benign_alarms=len(matching.of("benign")),
        false_per_day=len(false) / days if days > 0 else None,
        recall=boot.share("found", "found", "missed"),
        precision=boot.share("found", "found", "false"),
        f1=boot.f1(),
        median_s=boot.time_quantile(0.5),
        p90_s=boot.time_quantile(0.9),
        class_right=boot.share("class right", "class right", "class wrong"),
        entity_exact=boot.share("entity exact", "entity exact", "entity near", "entity wrong"),
        entity_near=boot.share("entity near", "entity exact", "entity near", "entity wrong"),
        classes=tuple(_class_scores(truth, matching, boot)),
    )


def _confidence(alarm: Alarm) -> float:
    return 1.0 if alarm.confidence is None else alarm.confidence


def _bursts(false: Sequence[Verdict], grace_s: float) -> list[list[Verdict]]:
    """False alarms that follow one another within the grace, or fell for the same incident."""
    bursts: list[list[Verdict]] = []
    of_lookalike: dict[int, list[Verdict]] = {}
    last: Verdict | None = None
    for verdict in sorted(false, key=lambda v: v.alarm.start_s):
        same = of_lookalike.get(verdict.incident.number) if verdict.incident else None
        if same is not None:
            burst = same
        elif last is not None and verdict.alarm.start_s - last.alarm.start_s <= grace_s:
            burst = bursts[-1]
        else:
            burst = []
            bursts.append(burst)
        burst.append(verdict)
        if verdict.incident:
            of_lookalike[verdict.incident.number] = burst
        last = verdict
    return bursts


class Units:
    """The units as a table: one row each, a column for what each of them counts for.

    Attributes:
        columns: Position of each column by name.
        table: Shape (U, K).
        times_s: Times to detect of the found ones, ascending, shape (F,).
    """

    def __init__(self, matching: Matching, bursts: Sequence[Sequence[Verdict]]) -> None:
        found = sorted(matching.of("found"), key=_time_to_detect_s)
        rows: list[dict[str, int]] = [_found_row(verdict) for verdict in found]
        rows += [{"missed": 1, f"missed {i.kind}": 1} for i in matching.missed]
        rows += [{"false": len(burst)} for burst in bursts]
        self.times_s = np.array([_time_to_detect_s(v) for v in found], dtype=np.float64)
        self.columns = {name: k for k, name in enumerate(sorted({n for row in rows for n in row}))}
        self.table = np.zeros((len(rows), len(self.columns)))
        for at, row in enumerate(rows):
            for name, number in row.items():
                self.table[at, self.columns[name]] = number

    def column(self, sums: F64, name: str) -> F64:
        """A column of sums, shape (..., K); 0 where no unit has any of it."""
        at = self.columns.get(name)
        return np.zeros(sums.shape[:-1]) if at is None else sums[..., at]


def _time_to_detect_s(verdict: Verdict) -> float:
    assert verdict.incident is not None, "found means found something"
    return verdict.alarm.start_s - verdict.incident.onset_s


def _found_row(verdict: Verdict) -> dict[str, int]:
    alarm, incident = verdict.alarm, verdict.incident
    assert incident is not None, "found means found something"
    row = {"found": 1, f"found {incident.kind}": 1}
    if alarm.kind is not None:
        row["class right" if alarm.kind == incident.kind else "class wrong"] = 1
    if (place := place_of(alarm, incident)) is not None:
        row[f"entity {place}"] = 1
    return row


class Bootstrap:
    """Figures of the units, and of as many units drawn from them again and again.

    Draw d of resample r is word r * U + d of the stream "score".
    """

    def __init__(self, units: Units, seed: int, resamples: int) -> None:
        self._units = units
        self._total = units.table.sum(axis=0)
        sums, times = [], []
        for counts in _drawn_counts(len(units.table), seed, resamples):
            sums.append(counts @ units.table)
            times.append([_quantiles(units.times_s, counts, q) for q in QUANTILES])
        self._sums = np.concatenate(sums) if sums else np.zeros((0, len(self._total)))
        self._times = np.concatenate(times, axis=1) if times else np.zeros((len(QUANTILES), 0))

    def share(self, part: str, *whole: str) -> Estimate:
        """Share of the column `part` in the sum of the columns `whole`, which has it."""
        units = self._units
        of = sum(units.column(units.table, name) > 0 for name in whole)
        return self._estimate(part, whole, int(np.sum(of)))

    def f1(self) -> Estimate:
        """Harmonic mean of precision and recall: 2 j / (1 + j) with the share j found of all."""
        j = self.share("found", "found", "missed", "false")
        return Estimate(_f1(j.value), _f1(j.low), _f1(j.high), j.of)

    def time_quantile(self, q: float) -> Estimate:
        """One of the QUANTILES of the time to detect."""
        times_s = self._units.times_s
        if not len(times_s):
            return Estimate()
        value = float(np.quantile(times_s, q))
        if len(times_s) < FEW_TIMES:
            return Estimate(value, of=len(times_s))
        low, high = _bounds(self._times[QUANTILES.index(q)])
        return Estimate(value, low, high, len(times_s))

    def _estimate(self, part: str, whole: Sequence[str], units: int) -> Estimate:
        def ratio(sums: F64) -> F64:
            top = self._units.column(sums, part)
            bottom = np.sum([self._units.column(sums, name) for name in whole], axis=0)
            with np.errstate(invalid="ignore"):
                return np.asarray(top / bottom)

        value = float(ratio(self._total))
        if math.isnan(value):
            return Estimate()
        of = int(sum(self._units.column(self._total, name) for name in whole))
        # All or none: every draw would say the same. The exact (Clopper-Pearson) bound does not.
        if value in (0.0, 1.0):
            far = (MISS / 2) ** (1 / units)
            low, high = (far, 1.0) if value else (0.0, 1 - far)
            return Estimate(value, low, high, of)
        return Estimate(value, *_bounds(ratio(self._sums)), of)


def _f1(j: float | None) -> float | None:
    return None if j is None else 2 * j / (1 + j)


def _bounds(draws: F64) -> tuple[float | None, float | None]:
    """Between which the middle of the draws lies; those without a value are left out."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None, None
    low, high = np.quantile(draws, (MISS / 2, 1 - MISS / 2)).tolist()
    return low, high


def _drawn_counts(units: int, seed: int, resamples: int) -> Iterator[F64]:
    """How often each unit is drawn, in blocks of shape (some of R, U)."""
    if not units:
        return
    stream = Stream(seed, "score")
    most = max(1, _MOST_CELLS // units)
    for first in range(0, resamples, most):
        rows = min(most, resamples - first)
        drawn = stream.uniform(first * units, rows * units).reshape(rows, units)
        cells = (drawn * units).astype(np.int64) + np.arange(rows)[:, None] * units
        counts: I64 = np.bincount(cells.ravel(), minlength=rows * units)
        yield counts.reshape(rows, units).astype(np.float64)


def _quantiles(times_s: F64, counts: F64, q: float) -> F64:
    """Quantile of the times, ascending, each as often as drawn, linear between neighbours.

    Args:
        times_s: Shape (F,).
        counts: Shape (R, U), the found units first.

    Returns:
        Shape (R,); NaN where none was drawn.
    """
    if not len(times_s):
        return np.full(len(counts), np.nan)
    up_to = np.cumsum(counts[:, : len(times_s)], axis=1)
    total = up_to[:, -1]
    at = q * (total - 1)
    below = np.floor(at)
    low = (up_to <= below[:, None]).sum(axis=1)
    high = (up_to <= np.ceil(at)[:, None]).sum(axis=1)
    last = len(times_s) - 1
    values = times_s[np.minimum(low, last)]
    values = values + (times_s[np.minimum(high, last)] - values) * (at - below)
    return np.where(total > 0, values, np.nan)


def _class_scores(truth: Truth, matching: Matching, boot: Bootstrap) -> Iterator[ClassScore]:
    """The classes that occurred or were named, by name."""
    judged = [v for v in matching.verdicts if v.outcome != "repeat"]
    real = [i for i in truth.incidents if not i.benign]
    names = {i.kind for i in real} | {v.alarm.kind for v in judged if v.alarm.kind is not None}
    found = matching.of("found")
    for name in sorted(names):
        times_s = [_time_to_detect_s(v) for v in found if v.incident and v.incident.kind == name]
        named = [v for v in judged if v.alarm.kind == name]
        right = [v for v in named if v.outcome == "found" and v.incident]
        yield ClassScore(
            name=name,
            incidents=sum(i.kind == name for i in real),
            found=len(times_s),
            recall=boot.share(f"found {name}", f"found {name}", f"missed {name}"),
            median_s=float(np.median(times_s)) if times_s else None,
            named=len(named),
            right=sum(v.incident is not None and v.incident.kind == name for v in right),
        )
