"""Where messages are written: by which ranks, on a node up for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import BOOTED_BEFORE_S, Timeline, incident_nodes

_OF_ALL_WAITING = (MessageKind.WATCHDOG_STATUS, MessageKind.WATCHDOG_TEARDOWN)


def ranks_that_write(
    event: MessageLogged | WatchdogTimedOut, plan: Plan, timeline: Timeline
) -> Sequence[int]:
    """The ranks that write `event`, in order; the first rank of each node where no rank does.

    Ranks that waited, and peers of a rank that is gone, are all but those of one place; all
    others are neighbours.
    """
    gpus = plan.spec.cluster.gpus
    per_node = plan.spec.cluster.gpus_per_node
    if isinstance(event, WatchdogTimedOut) or event.message in _OF_ALL_WAITING:
        missing = gpus - (
            event.waiting_ranks if isinstance(event, WatchdogTimedOut) else event.ranks
        )
        at = timeline.incidents[event.fault - 1]
        return _all_but(gpus, at.rank if missing == 1 else at.gpu, missing)
    if event.message is MessageKind.NCCL_ABORTED:
        missing = gpus - event.ranks
        at = timeline.incidents[event.fault - 1]
        gone = int(event.value) // per_node * per_node
        return _all_but(gpus, at.gpu if missing != per_node else gone, missing)[: event.ranks]
    if event.rank is None:
        first = event.node * per_node
        return range(first, min(first + event.ranks * per_node, gpus), per_node)
    return range(event.rank, min(event.rank + event.ranks, gpus))


def _all_but(gpus: int, first: int, count: int) -> list[int]:
    return [rank for rank in range(gpus) if not first <= rank < first + count]


class Boot(NamedTuple):
    """That a node was booted in its place: where, when, and when the next launch began."""

    machine: int
    time_s: float
    relaunch_s: float


def boots(timeline: Timeline, gpus_per_node: int) -> list[Boot]:
    """The boots of nodes that stay in their places, in order."""
    found = []
    for incident in timeline.incidents:
        relaunch_s = incident.relaunch_s
        if incident.kind.recovery != "reboot" or relaunch_s is None or incident.swapped:
            continue
        spares = dict(timeline.spares(incident.strike_attempt))
        found += [
            Boot(spares.get(node, node), relaunch_s - BOOTED_BEFORE_S, relaunch_s)
            for node in incident_nodes(incident, gpus_per_node)
        ]
    return sorted(found, key=lambda boot: boot.time_s)


def booted_s(found: Sequence[Boot], machine: int, at_s: float) -> float | None:
    """When physical node `machine`, as it is at a moment, was booted; None: before the run.

    It says nothing until the launch that uses it again.
    """
    times = [boot.time_s for boot in found if boot.machine == machine and boot.relaunch_s <= at_s]
    return times[-1] if times else None
