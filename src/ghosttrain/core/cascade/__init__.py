"""What incidents make the run tell: the fault, who says what in which order, the label.

The order is that of real failures: the kernel first, then the rank that is hit, then its agent and
its peers, the scheduler, the operators. A hang is silent until the watchdog. Nothing here is dense:
an incident is worth a dozen events, and of a window only what its incidents tell is worked out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ghosttrain.core.cascade.course import while_it_lasts
from ghosttrain.core.cascade.endings import attempt_ends
from ghosttrain.core.cascade.labels import entity_words, first_said_s, label
from ghosttrain.core.cascade.speaker import Said, Speaker
from ghosttrain.core.events import (
    FaultOccurred,
    IncidentLabelled,
    MessageLogged,
    WatchdogTimedOut,
)
from ghosttrain.core.laws.faults import ActiveEffect
from ghosttrain.core.plan import Plan
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.timeline import Incident, Timeline

__all__ = ["Aside", "Cascade", "entity_words"]

Aside = FaultOccurred | Said | IncidentLabelled
_ORDER: tuple[type[Aside], ...] = (
    WatchdogTimedOut,
    FaultOccurred,
    MessageLogged,
    IncidentLabelled,
)


class Cascade:
    """All that the incidents of a run make it tell.

    Args:
        plan: What was planned.
        timeline: What happened.
        seed: Of the run.
        done_at: The last completed step at a moment.
    """

    def __init__(
        self, plan: Plan, timeline: Timeline, seed: int, done_at: Callable[[float], int]
    ) -> None:
        self._speaking = plan, timeline, seed, done_at, Slowdown(plan)
        self._timeline = timeline
        self._told: dict[int, list[Aside]] = {}
        incidents, end_s = timeline.incidents, timeline.end_s
        self._from_s = np.array([i.time_s for i in incidents])
        self._until_s = np.array([end_s if i.cleared_s is None else i.cleared_s for i in incidents])
        self._effects: dict[int, list[ActiveEffect]] = {}
        for effect in timeline.effects:
            self._effects.setdefault(effect.incident, []).append(effect)

    def between(self, start_s: float, stop_s: float) -> list[Aside]:
        """What is told in [start_s, stop_s), in order."""
        if not len(self._from_s):
            return []
        open_then = (self._from_s < stop_s) & (self._until_s >= start_s)
        told = [
            event
            for at in np.flatnonzero(open_then).tolist()
            for event in self._of(at)
            if start_s <= event.time_s < stop_s
        ]
        return sorted(told, key=lambda e: (e.time_s, _ORDER.index(type(e))))

    def _of(self, at: int) -> list[Aside]:
        """What the incident at an index tells, as far as the run goes."""
        if at not in self._told:
            end_s = self._timeline.end_s
            self._told[at] = [
                e
                for e in self._events(self._timeline.incidents[at])
                if e.time_s < end_s or isinstance(e, IncidentLabelled)
            ]
        return self._told[at]

    def _events(self, incident: Incident) -> Iterator[Aside]:
        yield _occurred(incident)
        effects = self._effects.get(incident.number, [])
        speaker = Speaker(incident, effects, *self._speaking)
        said = [*while_it_lasts(speaker), *attempt_ends(speaker)]
        yield from said
        yield label(speaker, first_said_s(said))


def _occurred(incident: Incident) -> FaultOccurred:
    kind = incident.kind
    return FaultOccurred(
        time_s=incident.time_s,
        fault=incident.number,
        kind=kind.name,
        xid=kind.xids[0] if kind.xids else 0,
        node=incident.node,
        gpu=incident.gpu,
        gpus=incident.gpus,
        severity=incident.severity,
        step=incident.step,
        attempt=incident.attempt,
    )
