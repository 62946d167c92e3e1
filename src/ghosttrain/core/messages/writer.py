"""Writer: who writes a line, where and when, and how each program stamps it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.identity import agent_process_id, host_name, process_id, thread_id, uptime_s
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import Cluster, Gpu
from ghosttrain.core.timeline import Timeline

PYTHON = "/opt/venv/bin/python3"
DOMAIN = "cluster"  # of the full host names
_AGENT_FILE = "elastic/multiprocessing/api.py"
# What the watchdog of a rank says, one after the other: a rank is late with all of it alike.
_WATCHDOG = (MessageKind.WATCHDOG_STATUS, MessageKind.WATCHDOG_TEARDOWN)


@dataclass(frozen=True, slots=True)
class Writer:
    """A rank, or a node's system, at the moment it writes.

    Attributes:
        local: The rank's GPU in its node.
        spares: Physical node at the places that spares have taken.
        booted_s: Run time at which the writer's node was last booted, None: before the run.
    """

    plan: Plan
    seed: int
    fault: int
    attempt: int
    step: int
    rank: int
    node: int
    local: int
    spares: Mapping[int, int]
    time_s: float
    booted_s: float | None = None

    @property
    def gpu(self) -> Gpu:
        """The card."""
        return self.plan.spec.gpu

    @property
    def cluster(self) -> Cluster:
        """The machines."""
        return self.plan.spec.cluster

    @property
    def machine(self) -> int:
        """The writer's physical node."""
        return self.machine_of(self.rank)

    def machine_of(self, rank: int) -> int:
        """Physical node of any rank."""
        node = rank // self.cluster.gpus_per_node
        return self.spares.get(node, node)

    @property
    def host(self) -> str:
        """Short host name."""
        return host_name(self.cluster, self.machine)

    @property
    def pid(self) -> int:
        """Process number of the rank."""
        return process_id(self.machine, self.local, self.attempt)

    @property
    def agent_pid(self) -> int:
        """Process number of the node's launcher."""
        return agent_process_id(self.machine, self.attempt)

    @property
    def tid(self) -> int:
        """Number of the thread in which NCCL reports."""
        return thread_id(self.machine, self.local, self.attempt)

    @property
    def local_ranks(self) -> range:
        """Ranks of the node."""
        first = self.node * self.cluster.gpus_per_node
        return range(first, min(first + self.cluster.gpus_per_node, self.cluster.gpus))

    def draw(self, name: str, below: int) -> int:
        """A whole number of this fault at this place: the same each time it is asked for."""
        return drawn(below, name, self.seed, self.fault, self.attempt, self.machine, self.local)

    def moment(self, after_s: float = 0.0) -> tuple[datetime, int]:
        """Date (UTC) and microsecond of `after_s` after the writer's time."""
        micro = math.floor((self.time_s + after_s) * 1e6)
        second, micro = divmod(micro, 1_000_000)
        return datetime.fromtimestamp(self.plan.spec.start_unix_s + second, UTC), micro

    def stamp(self, form: str = "%Y-%m-%d %H:%M:%S", after_s: float = 0.0) -> str:
        """The writer's time in a strftime form."""
        return self.moment(after_s)[0].strftime(form)

    def kernel_stamp(self, after_s: float = 0.0) -> str:
        """`[449410.332316] `: seconds since the node was booted (Linux, kernel/printk)."""
        booted_s = self.booted_s
        if booted_s is None:
            booted_s = -uptime_s(self.cluster, self.machine)
        up_s = self.time_s - booted_s + after_s
        second, micro = divmod(math.floor(up_s * 1e6), 1_000_000)
        return f"[{second:5d}.{micro:06d}] "

    def torch_prefix(self, line: int, after_s: float = 0.0) -> str:
        """`[rank59]:[E308 10:52:40.418230114 ProcessGroupNCCL.cpp:629] `.

        PyTorch's logger prints month x 100 + day, so that January to September have three digits
        (published logs of 2024 to 2026; only builds with glog have the leading 0).
        """
        date, micro = self.moment(after_s)
        nano = 1000 * micro + self.draw(f"nanosecond {line}", 1000)
        day = 100 * date.month + date.day
        at = f"{day} {date:%H:%M:%S}.{nano:09d}"
        return f"[rank{self.rank}]:[E{at} ProcessGroupNCCL.cpp:{line}] "

    def agent_prefix(
        self, level: str, line: int, after_s: float = 0.0, file: str = _AGENT_FILE
    ) -> str:
        """`W0308 10:52:41.118000 31790 torch/distributed/...api.py:900] `: milliseconds, padded."""
        date, micro = self.moment(after_s)
        at = f"{date:%m%d %H:%M:%S}.{micro // 1000:03d}000"
        return f"{level}{at} {self.agent_pid} torch/distributed/{file}:{line}] "


def drawn(below: int, *words: str | int) -> int:
    """A whole number in [0, below), a pure function of `words`."""
    text = "/".join(str(word) for word in words)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % below


def launch_writer(
    plan: Plan, timeline: Timeline, seed: int, *, attempt: int, step: int, rank: int, time_s: float
) -> Writer:
    """A rank, or the agent of its node, while a launch begins."""
    per_node = plan.spec.cluster.gpus_per_node
    return Writer(
        plan=plan,
        seed=seed,
        fault=0,
        attempt=attempt,
        step=step,
        rank=rank,
        node=rank // per_node,
        local=rank % per_node,
        spares=dict(timeline.spares(attempt)),
        time_s=time_s,
    )


def message_time_s(event: MessageLogged | WatchdogTimedOut, rank: int | None = None) -> float:
    """When `rank` writes it: the first (None) at the event's time, the others spread behind it."""
    first = event.reporter if isinstance(event, WatchdogTimedOut) else event.rank
    if rank is None or rank == first or not event.spread_s:
        return event.time_s
    kind = "watchdog"
    if isinstance(event, MessageLogged) and event.message not in _WATCHDOG:
        kind = event.message.value
    share = (1 + drawn(1_000_000, "spread", kind, event.fault, event.attempt, rank)) / 1_000_000
    return event.time_s + share * event.spread_s


def writer_of(
    event: MessageLogged | WatchdogTimedOut,
    plan: Plan,
    seed: int,
    rank: int | None,
) -> Writer:
    """Who writes `event`, or writes it at `rank`'s place; the node's first rank where none does."""
    per_node = plan.spec.cluster.gpus_per_node
    if isinstance(event, WatchdogTimedOut):
        first, node = event.reporter, event.reporter // per_node
    else:
        node = event.node
        first = node * per_node if event.rank is None else event.rank
        if event.rank is None and rank is not None and rank // per_node == node:
            rank = None
    if rank is not None and rank != first:
        node = rank // per_node
        time_s = message_time_s(event, rank)
    else:
        rank, time_s = first, event.time_s
    return Writer(
        plan=plan,
        seed=seed,
        fault=event.fault,
        attempt=event.attempt,
        step=event.step,
        rank=rank,
        node=node,
        local=rank % per_node,
        spares=dict(event.spares),
        time_s=time_s,
    )
