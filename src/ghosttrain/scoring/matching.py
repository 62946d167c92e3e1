"""Which alarm found which incident.

An alarm hits an incident if it begins between the onset and `grace` after it was cleared. Alarms
are taken in order of time. Each is credited to one incident it hits: the one its class and
entity fit best, among equals one that nobody has found yet, then the one whose time runs out
first, then the one that began last. If that incident is already found, it is a repeat. An alarm
that hits benign incidents only, or nothing, is false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ghosttrain.scoring.predictions import Alarm
from ghosttrain.scoring.truth import Incident, Truth

Outcome = Literal["found", "repeat", "benign", "false"]
Place = Literal["exact", "near", "wrong"]

GRACE_S = 60.0
_CREDIT = {"exact": 2, "near": 1, "wrong": 0, None: 0}


@dataclass(frozen=True, slots=True)
class Verdict:
    """An alarm, what became of it, and the incident it is credited to or, if benign, fell for."""

    alarm: Alarm
    outcome: Outcome
    incident: Incident | None = None


@dataclass(frozen=True, slots=True)
class Matching:
    """The verdicts in order of time; incidents nobody found; time outside of all incidents."""

    verdicts: tuple[Verdict, ...]
    missed: tuple[Incident, ...]
    clean_s: float

    def of(self, outcome: Outcome) -> list[Verdict]:
        """The verdicts of one outcome."""
        return [verdict for verdict in self.verdicts if verdict.outcome == outcome]


def match(truth: Truth, alarms: Sequence[Alarm], grace_s: float = GRACE_S) -> Matching:
    """Credit the alarms to the incidents."""
    real = Windows([i for i in truth.incidents if not i.benign], grace_s)
    lookalikes = Windows([i for i in truth.incidents if i.benign], grace_s)
    found: set[int] = set()
    verdicts = []
    for alarm in sorted(alarms, key=lambda a: (a.start_s, a.line)):
        hit = real.open_at(alarm.start_s)
        if hit:
            at = max(hit, key=lambda at: real.rank(at, alarm, is_found=at in found))
            verdicts.append(
                Verdict(alarm, "repeat" if at in found else "found", real.incidents[at])
            )
            found.add(at)
        elif fallen := lookalikes.open_at(alarm.start_s):
            at = max(fallen, key=lambda at: lookalikes.rank(at, alarm, is_found=False))
            verdicts.append(Verdict(alarm, "benign", lookalikes.incidents[at]))
        else:
            verdicts.append(Verdict(alarm, "false"))
    covered_s = real.covered_s(truth.start_s, truth.end_s)
    clean_s = truth.end_s - truth.start_s - covered_s
    missed = tuple(i for at, i in enumerate(real.incidents) if at not in found)
    return Matching(tuple(verdicts), missed, clean_s)


class Windows:
    """Incidents, and from when to when an alarm hits each."""

    def __init__(self, incidents: Sequence[Incident], grace_s: float) -> None:
        self.incidents = incidents
        self._start_s = np.array([i.onset_s for i in incidents], dtype=np.float64)
        self._end_s = np.array(
            [np.inf if i.cleared_s is None else i.cleared_s + grace_s for i in incidents],
            dtype=np.float64,
        )

    def open_at(self, time_s: float) -> list[int]:
        """Positions of the incidents that an alarm at `time_s` hits."""
        is_open = (self._start_s <= time_s) & (time_s <= self._end_s)
        return [int(at) for at in np.flatnonzero(is_open)]

    def rank(self, at: int, alarm: Alarm, *, is_found: bool) -> tuple[float, ...]:
        """How well the alarm fits; the largest wins."""
        incident = self.incidents[at]
        credit = 2 * (alarm.kind == incident.kind) + _CREDIT[place_of(alarm, incident)]
        return credit, not is_found, -float(self._end_s[at]), incident.onset_s, -at

    def covered_s(self, start_s: float, end_s: float) -> float:
        """Time between two moments in at least one of the windows."""
        covered_s, until_s = 0.0, start_s
        for at in np.argsort(self._start_s, kind="stable"):
            onset_s, stop_s = float(self._start_s[at]), min(float(self._end_s[at]), end_s)
            if stop_s > until_s:
                covered_s += max(0.0, stop_s - max(onset_s, until_s))
                until_s = stop_s
        return covered_s


def place_of(alarm: Alarm, incident: Incident) -> Place | None:
    """How well an alarm names what broke; near is the node of the GPU that did."""
    if alarm.entity is None:
        return None
    if alarm.entity == incident.entity:
        return "exact"
    is_gpu = incident.entity.startswith("gpu ")
    return "near" if is_gpu and alarm.entity == f"node {incident.node}" else "wrong"
