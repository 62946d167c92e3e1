"""Since when GPUs have counted: drivers are loaded at a boot, spares bring their own counts.

Shapes: G = GPUs of the run.
"""

from __future__ import annotations

from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters.apart import ApartSums
from ghosttrain.core.identity import uptime_s
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import BOOTED_BEFORE_S, Timeline, incident_nodes

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Since(NamedTuple):
    """Since when GPUs have counted.

    Attributes:
        span: Span at whose start their sums begin, shape (G,).
        energy_j: What they had counted by then, shape (G,).
        up_s: How long their node had been up by then, shape (G,).
        apart: What effects had added in their places by then, shape (3, G).
    """

    span: I64
    energy_j: F64
    up_s: F64
    apart: F64


class Boots:
    """When the nodes of one run booted."""

    def __init__(self, plan: Plan, timeline: Timeline, apart: ApartSums) -> None:
        self.plan, self.timeline = plan, timeline
        self.gpus = plan.spec.cluster.gpus
        self._per_node = min(plan.spec.cluster.gpus_per_node, self.gpus)
        self._apart = cache(apart.of_node)
        self._booted = lru_cache(maxsize=4)(self._booted_by)
        self.since = lru_cache(maxsize=4)(self._counted_by)

    def by(self, attempt: int) -> dict[int, tuple[int, float]]:
        """Nodes rebooted or swapped by `attempt`: first span after it, and when they booted."""
        return self._booted(attempt)

    def _booted_by(self, attempt: int) -> dict[int, tuple[int, float]]:
        cluster, spans = self.plan.spec.cluster, self.timeline.spans
        found: dict[int, tuple[int, float]] = {}
        for made, index, nodes in self._reboots:
            for node in nodes if made <= attempt else ():
                if found.get(node, (0, 0.0))[0] <= index:
                    found[node] = index, spans[index].start_s - BOOTED_BEFORE_S
        for made, node, spare in self.timeline.swaps:
            launched = self.launches.get(made)
            if launched is None or made > attempt or found.get(node, (0, 0.0))[0] > launched:
                continue
            found[node] = launched, -uptime_s(cluster, spare)
        return found

    @cached_property
    def launches(self) -> dict[int, int]:
        """Index of the first span of each launch."""
        first: dict[int, int] = {}
        for index, span in enumerate(self.timeline.spans):
            first.setdefault(span.attempt, index)
        return first

    @cached_property
    def _reboots(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Launches after a reboot: attempt, index of its first span, nodes."""
        found = []
        for incident in self.timeline.incidents:
            if incident.kind.recovery != "reboot" or incident.relaunch_s is None:
                continue
            index = self.launches.get(incident.strike_attempt + 1)
            if index is not None:
                found.append(
                    (incident.strike_attempt + 1, index, incident_nodes(incident, self._per_node))
                )
        return found

    @cached_property
    def _up_s(self) -> F64:
        """How long each node had been up when the run began, shape (nodes,)."""
        cluster, nodes = self.plan.spec.cluster, -(-self.gpus // self._per_node)
        return np.array([uptime_s(cluster, node) for node in range(nodes)])

    def _counted_by(self, attempt: int) -> Since:
        """Since when each GPU has counted, and what it had counted by then."""
        per_node, up_s = self._per_node, self._up_s.copy()
        first = np.zeros(len(up_s), np.int64)
        apart = np.zeros((3, len(up_s) * per_node))
        for node, (index, booted_s) in self._booted(attempt).items():
            first[node] = index
            up_s[node] = self.timeline.spans[index].start_s - booted_s
            apart[:, node * per_node : (node + 1) * per_node] = self._apart(node, index)
        idle_j = self.plan.spec.gpu.idle_w * up_s
        cut = slice(0, self.gpus)
        return Since(
            np.repeat(first, per_node)[cut],
            np.repeat(idle_j, per_node)[cut],
            np.repeat(up_s, per_node)[cut],
            apart[:, cut],
        )
