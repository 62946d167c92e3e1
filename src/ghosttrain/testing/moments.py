"""Moments of a run as tests say them: run time, a step, a date, a point of an incident."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ghosttrain.core.errors import SpecError
from ghosttrain.exporters.asking import duration_words, moment_of
from ghosttrain.inputs.durations import parse_duration

if TYPE_CHECKING:
    from ghosttrain.core.events import IncidentLabelled
    from ghosttrain.core.run import Run

When = float | str

POINTS = ("onset", "effect", "detected", "mitigated", "cleared")


def run_time_s(run: Run, when: When) -> float:
    """Run time of a moment: seconds, "2h10min", "step=200", or a date.

    Raises:
        SpecError: If it is none, or the run is over by then.
    """
    if isinstance(when, str):
        time_s = moment_of(run, when, "at")
    elif isinstance(when, bool) or not math.isfinite(when) or when < 0:
        raise SpecError(f"at {when!r}: give seconds from 0, or words as in 2h10min")
    else:
        time_s = float(when)
    if time_s > run.end_s:
        raise SpecError(
            f"at {when} is after the end: the run takes {duration_words(run.end_s)}"
            f" ({run.end_s:,.3f} s)"
        )
    return time_s


def distance_s(words: When) -> float:
    """Seconds of a distance: a number, or words as in "2min" or "-90s"."""
    if not isinstance(words, str):
        if isinstance(words, bool) or not math.isfinite(words):
            raise SpecError(f"plus {words!r}: give seconds, or words as in 2min or -90s")
        return float(words)
    text = words.strip()
    if text in ("0", "0s"):
        return 0.0
    sign = -1.0 if text.startswith("-") else 1.0
    return sign * parse_duration(text.lstrip("+-") if text[:1] in "+-" else text)


def labels_of(run: Run) -> tuple[IncidentLabelled, ...]:
    """What was truly wrong, by the incidents' numbers."""
    return tuple(sorted(run.labels(), key=lambda label: label.incident))


def incident_time_s(run: Run, number: int, point: str) -> float:
    """Run time of a point of an incident.

    Args:
        run: The run.
        number: Of the incident, from 1.
        point: One of POINTS ("effect" is the first signal that shows it), or the name of a signal.

    Raises:
        SpecError: If there is no such incident, or it never came to that.
    """
    labels = {label.incident: label for label in run.labels()}
    if number not in labels:
        has = f"incidents 1 to {len(labels)}" if labels else "none: ask for faults"
        raise SpecError(f"no incident {number}: the run has {has}")
    label = labels[number]
    there = points_of(label)
    if point in there:
        return there[point]
    what = f"incident {number} ({label.kind})"
    if point in POINTS:
        raise SpecError(f"{what} never comes to {point!r}: it has {', '.join(there)}")
    raise SpecError(f"{what} has no {point!r}: give one of {', '.join(there)}")


def points_of(label: IncidentLabelled) -> dict[str, float]:
    """The points of an incident that there are, and the signals that show it, with run times."""
    effect_s = min((time_s for _, time_s in label.signals), default=None)
    points = zip(
        POINTS,
        (label.onset_s, effect_s, label.detected_s, label.mitigated_s, label.cleared_s),
        strict=True,
    )
    return {name: at for name, at in points if at is not None} | dict(label.signals)
