"""The invariants, by what they look at; each is one function, its name is the invariant's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ghosttrain.checking.findings import Finding, Findings, equal, within
from ghosttrain.checking.history import History
from ghosttrain.checking.invariants.course import COURSE_INVARIANTS
from ghosttrain.checking.invariants.fleet import COLLECTIVE_INVARIANTS, FLEET_INVARIANTS
from ghosttrain.checking.invariants.incidents import INCIDENT_INVARIANTS
from ghosttrain.checking.invariants.labels import LABEL_INVARIANTS
from ghosttrain.checking.invariants.plan import NEWS_INVARIANTS, PLAN_INVARIANTS
from ghosttrain.checking.invariants.standstills import (
    STANDSTILL_INVARIANTS,
    STEP_STANDSTILL_INVARIANTS,
)
from ghosttrain.checking.invariants.steps import STEP_INVARIANTS
from ghosttrain.checking.invariants.summary import SUMMARY_INVARIANTS
from ghosttrain.checking.observations import (
    CollectiveBlock,
    FactsLearnt,
    FleetBlock,
    Observation,
    RunBegan,
    Seen,
    StepBlock,
)

Invariant = Callable[[Any, History], Findings]
CLOCK_SLACK_S = 1e-6


def name_of(invariant: Invariant) -> str:
    """`ppl-is-exp-of-loss` of the function of that name."""
    return invariant.__name__.replace("_", "-")


def times_never_decrease(seen: Seen, h: History) -> Findings:
    """The time of a row is not before that of the row before."""
    last = h.time
    if isinstance(seen, StepBlock) and seen.has("time_s"):
        time = seen["time_s"]
        first = [last.value if last is not None else -math.inf]
        before = np.concatenate([first, time.value[:-1]])
        yield within(seen.line, "time", time.value + CLOCK_SLACK_S, before, math.inf, _LATER)
    elif isinstance(seen, Observation) and seen.time is not None and last is not None:
        earlier = (seen.get("row_time_s") or last).value
        yield within(seen.line, "time", seen.time.value + CLOCK_SLACK_S, earlier, math.inf, _LATER)
    elif isinstance(seen, FleetBlock) and len(seen.line) > 1:
        later, before = seen.time.value[1:] + CLOCK_SLACK_S, seen.time.value[:-1]
        yield within(seen.line[1:], "time", later, before, math.inf, _LATER)


_LATER = "not before the last row"


def runs_begin_at_zero(seen: Seen, _: History) -> Findings:
    """A run's own clock begins at 0."""
    if isinstance(seen, RunBegan) and seen.says_simulated is not None:
        yield equal(seen.line, "time of run_started", seen.time.value, 0.0, seen.time.half)


def invariants_before(seen: Seen) -> Iterator[Invariant]:
    """Those that compare what is seen with what was seen before."""
    yield times_never_decrease
    match seen:
        case FactsLearnt():
            yield from NEWS_INVARIANTS
        case RunBegan():
            yield runs_begin_at_zero
        case StepBlock():
            yield from STEP_INVARIANTS
            yield from STEP_STANDSTILL_INVARIANTS
        case FleetBlock():
            yield from FLEET_INVARIANTS
        case CollectiveBlock():
            yield from COLLECTIVE_INVARIANTS
        case Observation(kind="run_finished"):
            yield from SUMMARY_INVARIANTS
            yield from LABEL_INVARIANTS
        case Observation():
            yield from COURSE_INVARIANTS
            yield from INCIDENT_INVARIANTS
            yield from STANDSTILL_INVARIANTS
            yield from LABEL_INVARIANTS
        case _:
            return


def invariants_after(seen: Seen) -> Iterator[Invariant]:
    """Those that look at all that is known, what is seen included."""
    if isinstance(seen, (RunBegan, FactsLearnt)):
        yield from PLAN_INVARIANTS


__all__ = ["Finding", "History", "Invariant", "invariants_after", "invariants_before", "name_of"]
