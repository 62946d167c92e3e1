"""Speaker: an incident and what is needed to tell of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.laws.faults import ActiveEffect
from ghosttrain.core.plan import Plan
from ghosttrain.core.rng import Stream
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.timeline import Incident, Span, Timeline

Said = MessageLogged | WatchdogTimedOut


class Speaker:
    """One incident, its run, and the making of its messages.

    Attributes:
        victim: The rank that fails first, or the first whose GPU is hit.
        has_lost_nodes: Whether whole nodes are gone, with their kernels and agents.
    """

    def __init__(
        self,
        incident: Incident,
        effects: Sequence[ActiveEffect],
        plan: Plan,
        timeline: Timeline,
        seed: int,
        done_at: Callable[[float], int],
        slowdown: Slowdown,
    ) -> None:
        self.incident, self.kind, self.effects = incident, incident.kind, effects
        self.plan, self.timeline, self.slowdown = plan, timeline, slowdown
        self.done_at = done_at
        self.gpus = plan.spec.cluster.gpus
        self.per_node = min(plan.spec.cluster.gpus_per_node, self.gpus)
        self.has_lost_nodes = self.kind.takes_gpus and self.kind.scope != "gpu"
        self.victim = incident.rank
        if self.kind.scope == "storage":
            self.victim = 0  # who writes
        elif self.kind.scope in ("gpu", "rack") or self.has_lost_nodes:
            self.victim = incident.gpu
        self.u: list[float] = (
            Stream(seed, "faults.telling").uniform(4 * incident.number, 4).tolist()
        )

    def say(
        self,
        time_s: float,
        message: MessageKind,
        *,
        rank: int | None = None,
        ranks: int = 1,
        node: int | None = None,
        spread_s: float = 0.0,
        code: int = 0,
        value: float = 0.0,
    ) -> MessageLogged:
        """The message at that moment; of a node (the incident's) where no `rank` is given."""
        if node is None:
            node = self.incident.node if rank is None else rank // self.per_node
        return MessageLogged(
            time_s=time_s,
            message=message,
            fault=self.incident.number,
            step=self.done_at(time_s),
            attempt=self.span_at(time_s).attempt,
            node=node,
            rank=rank,
            ranks=ranks,
            spread_s=spread_s,
            code=code,
            value=value,
            spares=self.spares(time_s),
        )

    def span_at(self, time_s: float) -> Span:
        """The span that holds a moment."""
        return self.timeline.spans[self.timeline.index_at(time_s)]

    def spares(self, time_s: float) -> tuple[tuple[int, int], ...]:
        """Places that spares have taken by then, with the physical nodes there."""
        return self.timeline.spares(self.span_at(time_s).attempt)

    @property
    def nodes(self) -> int:
        """Nodes the incident sits on."""
        return -(-self.incident.gpus // self.per_node)

    def rank_elsewhere(self) -> int | None:
        """The first rank of the next node that the incident does not sit on, None without one."""
        i = self.incident
        last = i.gpu + i.gpus - 1 if i.gpus < self.gpus else self.victim
        rank = (last // self.per_node + 1) * self.per_node % self.gpus
        return None if rank // self.per_node == self.victim // self.per_node else rank
