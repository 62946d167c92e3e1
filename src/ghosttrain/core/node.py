"""Node: what a node's own exporter reads at any moments of a run.

The values follow from the phase, the steps and the faults, as everything else; the job's nodes do
alike but for the air they breathe, the time they booted, and what each is by itself
(`variety.py`). Counters count from a node's boot.

Shapes: K = moments, ascending; N = nodes of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters import Moments
from ghosttrain.core.counters.moments import rounded, summed
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import Phase
from ghosttrain.core.laws import host
from ghosttrain.core.telemetry import TelemetrySource
from ghosttrain.core.timeline import Span, silent_nodes
from ghosttrain.core.variety import NodeTrait, Variety

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_LOAD_S = 60.0  # time constant of load1 (Linux, kernel/sched/loadavg.c)
_LOAD_MEMORY_S = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class NodeTelemetry:
    """A block of moments.

    Attributes:
        time_s: Moments, shape (K,).
        attempt: Launch at each, shape (K,).
        columns: By field, float64, shape (K, N).
        down: At each moment the nodes of which nothing answers; their values mean nothing.
    """

    time_s: F64
    attempt: I64
    columns: Mapping[str, F64]
    down: tuple[tuple[int, ...], ...]


class _Rates(NamedTuple):
    """What a node counts in each second of a span, and in each step."""

    user_s: float
    system_s: float
    iowait_s: float
    eth_tx: float
    eth_rx: float
    disk: float


class NodeSource:
    """Computes the node metrics of one run."""

    def __init__(self, telemetry: TelemetrySource) -> None:
        self.telemetry, self.plan = telemetry, telemetry.plan
        self.timeline, self.counters = telemetry.timeline, telemetry.counters
        self.per_node, self.starts_s = telemetry.per_node, telemetry.starts_s
        self.nodes = -(-telemetry.gpus // self.per_node)
        self.threads = host.threads(self.plan.spec.gpu, self.per_node)
        self.variety: Variety = telemetry.signals.variety

    def at(self, times_s: F64, fields: Sequence[str] | None = None) -> NodeTelemetry:
        """Node metrics at ascending moments; `fields` of NODE_FIELDS, None for all.

        Raises:
            SpecError: If the moments do not ascend or there is no such field.
        """
        names = tuple(NODE_FIELDS) if fields is None else tuple(fields)
        if unknown := [name for name in names if name not in NODE_FIELDS]:
            raise SpecError(
                f"no field of a node is named {', '.join(unknown)}; "
                f"there are {', '.join(sorted(NODE_FIELDS))}"
            )
        blocks = [_Block(self, at) for at in self.telemetry.moments(times_s)]
        columns = {
            name: np.concatenate(
                [np.empty((0, self.nodes)), *(NODE_FIELDS[name](block) for block in blocks)]
            )
            for name in names
        }
        return NodeTelemetry(
            np.asarray(times_s, np.float64),
            np.array([b.at.span.attempt for b in blocks for _ in b.at.time_s], np.int64),
            MappingProxyType(columns),
            tuple(nodes for block in blocks for nodes in block.down),
        )

    def rates(self, span: Span) -> _Rates:
        """What a node counts in a second of a span."""
        plan, doing = self.plan, self.counters.spans.fleet.doing(span)
        busy = host.busy_threads(doing, self.per_node)
        base = host.MANAGEMENT_BYTES_PER_S
        tx = rx = base
        whole_s = span.due_s - span.start_s
        match span.phase:
            case Phase.CHECKPOINT if whole_s > 0:
                tx += plan.checkpoint_bytes / self.nodes / whole_s
            case Phase.EXPORT if whole_s > 0:
                tx += plan.export_bytes / self.nodes / whole_s
            case Phase.WEIGHTS if whole_s > 0:
                rx += self.counters.spans.loaded_bytes(span) / self.nodes / whole_s
            case _:
                pass
        disk = host.LOCAL_LOG_BYTES_PER_S if host.has_ranks(doing) else 0.0
        return _Rates(busy.user, busy.system, busy.iowait, tx, rx, disk)

    @cached_property
    def sums(self) -> F64:
        """What a node has counted before each span, shape (spans + 1, fields of _Rates)."""
        spans = self.timeline.spans
        rows = np.array([self.rates(span) for span in spans])
        return summed(rows * np.array([span.duration_s for span in spans])[:, None])


class _Block:
    """Moments of one span."""

    def __init__(self, source: NodeSource, at: Moments) -> None:
        self.source, self.at = source, at
        self.shape = len(at.time_s), source.nodes

    @cached_property
    def down(self) -> tuple[tuple[int, ...], ...]:
        """Nodes that do not answer at each moment."""
        source = self.source
        return tuple(
            silent_nodes(source.timeline, self.at.span, time_s, source.per_node)
            for time_s in self.at.time_s.tolist()
        )

    @cached_property
    def booted(self) -> tuple[I64, F64]:
        """First span of which each node has counted, and when it booted, shape (N,) each."""
        since = self.source.counters.boots.since(self.at.span.attempt)
        every = slice(None, None, self.source.per_node)
        first, up_s = since.span[every], since.up_s[every]
        return first, self.source.starts_s[first] - up_s

    def trait(self, name: NodeTrait) -> F64:
        """A trait of the nodes, shape (N,)."""
        spares = self.source.timeline.spares(self.at.span.attempt)
        return self.source.variety.node_trait(name, spares)

    @property
    def up_s(self) -> F64:
        """Time since each node's boot."""
        return np.asarray(self.at.time_s[:, None] - self.booted[1])

    def counted(self, name: str, trait: NodeTrait) -> F64:
        """A counter of what a node does more or less of, by its trait."""
        return np.asarray(self.by_law(name) * self.trait(trait))

    def management_and(self, name: str) -> F64:
        """A counter of the management network: what is moved over it is as the job has it."""
        more = (self.trait("management") - 1) * host.MANAGEMENT_BYTES_PER_S
        return np.asarray(self.by_law(name) + more * self.up_s)

    def by_law(self, name: str) -> F64:
        """A counter since a node's boot: what it did idle before, and since."""
        source, column = self.source, _Rates._fields.index(name)
        first, booted_s = self.booted
        sums, rate = source.sums[:, column], source.rates(self.at.span)[column]
        now = sums[self.at.span_index] + rate * (self.at.time_s - self.at.span.start_s)
        idle = _IDLE[column] * (source.starts_s[first] - booted_s)
        return np.asarray(now[:, None] - sums[first] + idle)

    def port_bytes(self) -> F64:
        """Sent, and as much received, by the port of the fabric beside each node's first GPU."""
        spans, volume = self.source.counters.spans, self.source.telemetry.signals.volume
        _, steps = spans.inside(self.at)
        sums, before = spans.sums.steps, spans.sums.steps[self.booted[0]]
        done = (sums[self.at.span_index] + steps)[:, None] - before
        trait = self.source.counters.link_trait(self.at.span, "network")
        of_port = volume.network_bytes * trait[:: self.source.per_node]
        return np.asarray(rounded(done * of_port), np.float64)

    def same(self, value: float) -> F64:
        """The same of all nodes."""
        return np.full(self.shape, value)

    @property
    def busy(self) -> host.Busy:
        """Busy threads now."""
        doing = self.source.counters.spans.fleet.doing(self.at.span)
        return host.busy_threads(doing, self.source.per_node)

    @property
    def idle_s(self) -> F64:
        """Idle time of all threads since the boot."""
        busy = sum(self.counted(counter, trait) for counter, trait in _CPU.items())
        return np.asarray(self.source.threads * self.up_s - busy)

    @property
    def busy_frac(self) -> F64:
        """Share of the threads that run something now."""
        busy = self.busy.user * self.trait("user") + self.busy.system * self.trait("system")
        return np.repeat(busy[None, :] / self.source.threads, self.shape[0], axis=0)

    @property
    def available_bytes(self) -> F64:
        """Memory that processes could still get: page cache counts as available."""
        doing, gpus = self.source.counters.spans.fleet.doing(self.at.span), self.source.per_node
        used = float(host.SYSTEM_BYTES) + (host.RANK_BYTES * gpus if host.has_ranks(doing) else 0)
        own = used * self.trait("memory") * self.source.variety.wander("memory", self.at.time_s)
        if self.at.span.phase is Phase.CHECKPOINT:  # staged in host memory
            own += self.source.plan.checkpoint_bytes / self.source.nodes
        return np.asarray(np.maximum(0.02, 1 - own / self.total_bytes) * self.total_bytes)

    @property
    def total_bytes(self) -> float:
        """Memory of a node."""
        return host.RAM_BYTES_PER_GPU * self.source.per_node

    @property
    def load1(self) -> F64:
        """Runnable and waiting threads, smoothed over a minute."""
        source, at_s = self.source, self.at.time_s[:, None]
        first = source.timeline.index_at(float(self.at.time_s[0]) - _LOAD_MEMORY_S)
        near = source.timeline.spans[first : self.at.span_index + 1]
        busy = [
            sum(host.busy_threads(source.counters.spans.fleet.doing(span), source.per_node))
            for span in near
        ]
        starts = np.array([span.start_s for span in near])
        ends = np.array([span.end_s for span in near])
        felt = _felt(at_s - ends) - _felt(at_s - starts)
        load = np.add.accumulate(felt * np.array(busy), axis=1)[:, -1]
        own = self.trait("user") * source.variety.wander("load", self.at.time_s)
        return np.asarray(load[:, None] * own)


def _felt(age_s: F64) -> F64:
    """Share of a load that is still felt `age_s` after it ended; 0 from _LOAD_MEMORY_S on."""
    left = np.exp(-np.maximum(age_s, 0.0) / _LOAD_S)
    return np.asarray(np.where(age_s < _LOAD_MEMORY_S, left, 0.0))


_IDLE = _Rates(
    host.SYSTEM.user, host.SYSTEM.system, 0.0, *(2 * (host.MANAGEMENT_BYTES_PER_S,)), 0.0
)
_CPU: Final[Mapping[str, NodeTrait]] = MappingProxyType(
    {"user_s": "user", "system_s": "system", "iowait_s": "iowait"}
)
_Law = Callable[[_Block], Any]


def _counted(name: str, trait: NodeTrait) -> _Law:
    return lambda block: block.counted(name, trait)


def _moved(name: str) -> _Law:
    return lambda block: block.management_and(name)


NODE_FIELDS: Final[Mapping[str, _Law]] = MappingProxyType(
    {
        "cpu_threads": lambda b: b.same(b.source.threads),
        "load1": lambda b: b.load1,
        "cpu_busy_frac": lambda b: b.busy_frac,
        "cpu_user_s": _counted("user_s", "user"),
        "cpu_system_s": _counted("system_s", "system"),
        "cpu_iowait_s": _counted("iowait_s", "iowait"),
        "cpu_idle_s": lambda b: b.idle_s,
        "memory_total_bytes": lambda b: b.same(b.total_bytes),
        "memory_available_bytes": lambda b: b.available_bytes,
        "port_tx_bytes": lambda b: b.port_bytes(),
        "port_rx_bytes": lambda b: b.port_bytes(),
        "network_tx_bytes": _moved("eth_tx"),
        "network_rx_bytes": _moved("eth_rx"),
        "disk_written_bytes": _counted("disk", "disk"),
        "boot_time_unix_s": lambda b: np.repeat(
            b.source.plan.spec.start_unix_s + b.booted[1][None, :], b.shape[0], axis=0
        ),
        "inlet_temp_c": lambda b: b.source.telemetry.fleet.inlets_c(
            b.at.span, b.at.time_s, None if b.at.steps is None else b.at.steps.number
        ),
    }
)
