"""Rings and trees of a communicator, in the shapes that NCCL gives them.

A ring enters each node (NVLink domain) at the GPU of its channel's NIC and walks the others
downwards, as published logs of 8-GPU nodes show: `0 7 6 5 4 3 2 1 8 15 ...`. Trees are NCCL's
double binary tree of nodes (NVIDIA/nccl, src/graph/trees.cc), each node a chain behind its head.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

NONE = -1  # where there is no neighbour


@dataclass(frozen=True, slots=True)
class Graph:
    """Who is whose neighbour.

    Attributes:
        starts: First rank of each node, and the number of ranks; ranks of a node are consecutive.
        channels: Rings, and trees, there are.
    """

    starts: tuple[int, ...]
    channels: int

    @property
    def nodes(self) -> int:
        """Nodes it spans."""
        return len(self.starts) - 1

    def place(self, rank: int) -> tuple[int, int]:
        """Node of a rank, and its position there."""
        node = bisect_right(self.starts, rank) - 1
        return node, rank - self.starts[node]

    def size(self, node: int) -> int:
        """Ranks of a node."""
        return self.starts[node + 1] - self.starts[node]

    def entry(self, node: int, channel: int) -> int:
        """The rank where a ring enters a node, which is the head of its tree too."""
        return self.starts[node] + channel % self.size(node)

    def exit(self, node: int, channel: int) -> int:
        """The rank where a ring leaves a node."""
        return self.starts[node] + (channel + 1) % self.size(node)

    def previous(self, rank: int, channel: int) -> int:
        """Whom a rank receives from on a ring."""
        node, position = self.place(rank)
        if rank == self.entry(node, channel):
            return self.exit((node - 1) % self.nodes, channel)
        return self.starts[node] + (position + 1) % self.size(node)

    def next(self, rank: int, channel: int) -> int:
        """Whom a rank sends to on a ring."""
        node, position = self.place(rank)
        if rank == self.exit(node, channel):
            return self.entry((node + 1) % self.nodes, channel)
        return self.starts[node] + (position - 1) % self.size(node)

    def ring(self, channel: int) -> Iterator[int]:
        """The ranks of a ring, from rank 0 on."""
        rank = 0
        for _ in range(self.starts[-1]):
            yield rank
            rank = self.next(rank, channel)

    def tree(self, rank: int, channel: int) -> tuple[int, tuple[int, ...]]:
        """The rank above and those below on a tree; channels of the second half have the other."""
        node, position = self.place(rank)
        size = self.size(node)
        down = []
        if (position + 1) % size != channel % size:  # not the chain's last
            down.append(self.starts[node] + (position + 1) % size)
        if rank != self.entry(node, channel):
            return self.starts[node] + (position - 1) % size, tuple(down)
        second = self.channels > 1 and channel >= self.channels // 2
        above, below = (_second_tree if second else binary_tree)(self.nodes, node)
        down += [self.entry(child, channel) for child in below]
        return (NONE if above == NONE else self.entry(above, channel)), tuple(down)


def binary_tree(nodes: int, node: int) -> tuple[int, list[int]]:
    """The node above and those below one, of the tree whose root is 0 (ncclGetBtree)."""
    bit = 1
    while bit < nodes and not bit & node:
        bit *= 2
    if node == 0:
        return NONE, ([bit // 2] if nodes > 1 else [])
    above = (node ^ bit) | (bit * 2)
    if above >= nodes:
        above = node ^ bit
    low = bit // 2
    below = [node - low] if low else []
    while low and node + low >= nodes:
        low //= 2
    if low:
        below.append(node + low)
    return above, below


def _second_tree(nodes: int, node: int) -> tuple[int, list[int]]:
    """The tree in which leaves of the first are inside: mirrored, or shifted by one if odd."""

    def there(at: int) -> int:
        if at == NONE:
            return NONE
        return (at + 1) % nodes if nodes % 2 else nodes - 1 - at

    seen = (node - 1) % nodes if nodes % 2 else nodes - 1 - node
    above, below = binary_tree(nodes, seen)
    return there(above), [there(at) for at in below]
