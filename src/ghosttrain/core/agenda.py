"""Agenda: what is still to happen to a run, in order of time.

Faults to come are taken one by one from the draw. What follows from those that have come (an
effect that grows or ends, operators who lose patience) is pushed by `history.py`.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Literal, NamedTuple

from ghosttrain.core.fault_draws import Strike, draw_faults
from ghosttrain.core.incidents import OpenIncident
from ghosttrain.core.plan import Plan

Action = Literal["strike", "kill", "stop", "clear", "end", "edge"]


class Change(NamedTuple):
    """Something that is to happen: a fault to come, or the next stage of one that has."""

    time_s: float
    order: int
    what: Strike | Action
    owner: OpenIncident | None

    @property
    def is_hard(self) -> bool:
        """Whether processes die of it."""
        if isinstance(self.what, Strike):
            kind = self.what.kind
            return kind.course in ("crash", "hang") and not kind.lead_high_s
        return self.what in ("strike", "kill")


class Agenda:
    """What is to happen, in order of time."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self._faults = (Change(s.time_s, -1, s, None) for s in draw_faults(plan, seed))
        self._next = next(self._faults, None)
        self._stages: list[Change] = []
        self._order = itertools.count()

    def peek(self) -> Change | None:
        """The next change."""
        stages = self._stages
        while stages and (owner := stages[0].owner) is not None and owner.is_over:
            heapq.heappop(stages)  # a launch has settled it
        fault = self._next
        if fault is not None and (not stages or fault.time_s <= stages[0].time_s):
            return fault
        return stages[0] if stages else None

    def pop(self, change: Change) -> None:
        """Take the change that `peek` gave off the agenda."""
        if change.order < 0:
            self._next = next(self._faults, None)
        else:
            heapq.heappop(self._stages)

    def push(self, at_s: float, what: Strike | Action, owner: OpenIncident | None = None) -> None:
        """Something more is to happen."""
        heapq.heappush(self._stages, Change(at_s, next(self._order), what, owner))
