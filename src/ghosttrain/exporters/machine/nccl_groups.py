"""Communicators of a run: the world, and the groups of its parallel layout.

Ranks are laid out as Megatron-LM does it (core/parallel_state.py, order tp-cp-ep-dp-pp): tensor
parallel neighbours are consecutive, pipeline stages furthest apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ghosttrain.core.laws.network import ring_channels
from ghosttrain.core.plan import Plan
from ghosttrain.exporters.machine.nccl_graph import Graph


@dataclass(frozen=True)
class Communicator:
    """Ranks that talk to one another.

    Attributes:
        name: "world", "dp", "cp", "tp", "pp" or "ep".
        members: Their ranks in the world, ascending; their own ranks are positions in this.
        number: 0 for the world, then 1, 2, ... in the order in which they are split from it.
    """

    name: str
    members: Sequence[int]
    number: int
    plan: Plan

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.members)

    @cached_property
    def graph(self) -> Graph:
        """Its rings and trees."""
        spec = self.plan.spec
        domain = max(spec.cluster.gpus_per_node, spec.gpu.nvlink_domain)
        inside = [rank // domain for rank in self.members]
        starts = [n for n in range(1, self.size) if inside[n] != inside[n - 1]]
        return Graph((0, *starts, self.size), ring_channels(spec.gpu))

    def identifier(self, seed: int, attempt: int) -> int:
        """A number of 64 bits that all members know it by."""
        text = f"{seed}/{attempt}/{self.name}/{self.members[0]}/{self.size}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def world(plan: Plan) -> Communicator:
    """The communicator of all ranks."""
    return Communicator("world", range(plan.spec.cluster.gpus), 0, plan)


def groups_of(plan: Plan, rank: int) -> list[Communicator]:
    """The groups of a rank that are neither the world nor the rank alone."""
    layout, gpus = plan.layout, plan.spec.cluster.gpus
    tensor, context = layout.tensor_parallel, layout.context_parallel
    data = layout.data_parallel * context  # gradients are reduced over both
    shapes = (
        ("dp", tensor, data),
        ("cp", tensor, context),
        ("tp", 1, tensor),
        ("pp", tensor * data, layout.pipeline_parallel),
        ("ep", tensor, layout.expert_parallel),
    )
    kept = [
        (name, _members(rank, stride, size))
        for name, stride, size in shapes
        if 1 < size < gpus and stride * size <= gpus
    ]
    return [
        Communicator(name, members, number, plan) for number, (name, members) in enumerate(kept, 1)
    ]


def _members(rank: int, stride: int, size: int) -> range:
    whole = stride * size
    first = rank // whole * whole + rank % stride
    return range(first, first + whole, stride)
