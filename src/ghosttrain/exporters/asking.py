"""What an export is asked for, in users' words: a window, a cadence, some of the GPUs."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from ghosttrain.core.errors import SpecError
from ghosttrain.core.run import Run
from ghosttrain.core.spec import Cluster
from ghosttrain.exporters.metric_choice import metrics_of
from ghosttrain.exporters.writing import TELEMETRY_EVERY_S, Asked
from ghosttrain.inputs.durations import parse_duration

# The board's power sensor is read anew every 100 ms on A100 and H100 (Yang et al., "Part-time
# Power Measurements: nvidia-smi's Lack of Attention", arXiv:2312.02741).
_LEAST_EVERY_S = 0.1
_ROUNDED_UP_S = 60.0  # a duration copied from a screen may be rounded up to whole minutes
_RANGE = re.compile(r"(node\s*=\s*)?(\d{1,12})(?:\s*-\s*(\d{1,12}))?", re.ASCII | re.IGNORECASE)
_STEP = re.compile(r"step\s*=\s*(\d{1,15})", re.ASCII | re.IGNORECASE)


def asked_of(
    run: Run,
    *,
    log_interval: int = 10,
    start: str | None = None,
    stop: str | None = None,
    every: str | None = None,
    gpus: str | None = None,
    metrics: str | None = None,
) -> Asked:
    """What the words ask for; None where they ask nothing.

    Args:
        start, stop: Moments, as `moment_of` reads them.
        every: A duration.
        gpus: Ranks, as `ranks_of` reads them.
        metrics: Fields, as `metrics_of` reads them.

    Raises:
        SpecError: If there can be no such window, cadence or choice.
    """
    start_s = 0.0 if start is None else moment_of(run, start, "--from")
    stop_s = math.inf if stop is None else moment_of(run, stop, "--to-time")
    end_s = run.end_s
    if start_s >= stop_s:
        raise SpecError(
            f"--from {start or '0s'} is not before --to-time {stop}: nothing is between"
        )
    if start_s > end_s:
        raise SpecError(f"--from {start} is after the end: the run takes {duration_words(end_s)}")
    if end_s + _ROUNDED_UP_S < stop_s < math.inf:
        raise SpecError(
            f"--to-time {stop} is after the end: the run takes {duration_words(end_s)};"
            " without --to-time all of it is written"
        )
    return Asked(
        run,
        log_interval=log_interval,
        start_s=start_s,
        stop_s=math.inf if stop_s >= end_s else stop_s,
        every_s=TELEMETRY_EVERY_S if every is None else _cadence_s(every),
        gpus=None if gpus is None else ranks_of(run.spec.cluster, gpus),
        metrics=None if metrics is None else metrics_of(metrics),
    )


def moment_of(run: Run, text: str, flag: str) -> float:
    """Run time that `text` means: 2h10min or 0 since the start, step=200 (its end), a date.

    Raises:
        SpecError: If it means none.
    """
    word = text.strip()
    if found := _STEP.fullmatch(word):
        return _end_of_step_s(run, int(found[1]), f"{flag} {text}")
    if re.fullmatch(r"\d{4}-\d\d-\d\d([T ].*)?", word, re.ASCII):
        return _since_start_s(run, word, f"{flag} {text}")
    if re.fullmatch(r"0+(\.0+)?\s*(s|min|m|h|d)?", word, re.ASCII | re.IGNORECASE):
        return 0.0
    try:
        return parse_duration(word)
    except SpecError:
        raise SpecError(
            f"{flag} {text!r} is no moment: give run time as in 2h10min, step=200, or a date as in"
            " 2026-01-01T02:10:00Z"
        ) from None


def _end_of_step_s(run: Run, step: int, asked: str) -> float:
    try:
        return float(run.steps(step, step).end_s[0])
    except SpecError:
        done = run.timeline.spans[-1].step
        raise SpecError(f"{asked}: no such step: the run has 1 to {done:,}") from None


def _since_start_s(run: Run, text: str, asked: str) -> float:
    try:
        date = datetime.fromisoformat(text)
        unix_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise SpecError(f"{asked}: no such date") from None
    since_s = unix_s - run.spec.start_unix_s
    if since_s < 0:
        first = datetime.fromtimestamp(run.spec.start_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise SpecError(f"{asked} is before the run: it starts at {first}")
    return since_s


def _cadence_s(text: str) -> float:
    every_s = parse_duration(text)
    if every_s < _LEAST_EVERY_S:
        raise SpecError(f"--every {text}: give {_LEAST_EVERY_S:g} s or more: GPUs tell no faster")
    return every_s


def ranks_of(cluster: Cluster, text: str) -> tuple[int, ...]:
    """Ranks that `text` chooses, ascending: as in 0-63,128 or node=3 or node=0-1,17.

    Raises:
        SpecError: If it chooses none, or some that do not exist.
    """
    chosen: set[int] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        found = _RANGE.fullmatch(word)
        if not found:
            raise SpecError(
                f"--select-gpus {word!r} is no choice: give ranks as in 0-63,128, or node=3"
            )
        first, last = int(found[2]), int(found[3] or found[2])
        there, size, what = cluster.gpus, 1, "GPU"
        if found[1]:
            there, size, what = cluster.nodes, cluster.gpus_per_node, "node"
        if first > last:
            raise SpecError(f"--select-gpus {word}: {first} comes after {last}")
        if last >= there:
            raise SpecError(f"--select-gpus {word}: no such {what}: there are 0 to {there - 1:,}")
        chosen.update(range(first * size, min((last + 1) * size, cluster.gpus)))
    if not chosen:
        raise SpecError(f"--select-gpus {text!r} chooses none of the {cluster.gpus:,} GPUs")
    return tuple(sorted(chosen))


def duration_words(time_s: float) -> str:
    """A run time as users write it, rounded up to seconds: 26h3min20s."""
    seconds = math.ceil(time_s)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    parts = ((hours, "h"), (minutes, "min"), (seconds % 60, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
