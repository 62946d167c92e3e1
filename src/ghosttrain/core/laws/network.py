"""Collective times from message size, algorithm and fabric (alpha-beta form).

Sources: nccl-tests doc/PERFORMANCE.md (bus bandwidth); nccl src/graph/tuning.cc (base and hop
latencies of each algorithm and protocol, microseconds); stas00/ml-engineering network tables
(bus bandwidth of rings and NVLS inside a node).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ghosttrain.core.spec import Cluster, Gpu
from ghosttrain.core.units import GB, MIB

CollectiveOp = Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all"]

_RAMP_S = 50e-6  # start-up of the pipeline of chunks, fitted on measured all-reduce sweeps
_RAMP_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective: what it moves, over whom, how long it takes alone on the fabric.

    Attributes:
        size_bytes: Bytes by the nccl-tests definition (the whole buffer of one rank).
        ranks: Members of the group.
        nodes: NVLink domains the group spans.
        duration_s: Unoverlapped kernel duration.
        busbw_gbs: Bus bandwidth: size / time x 2(n-1)/n for all-reduce, (n-1)/n for the others.
    """

    op: CollectiveOp
    size_bytes: float
    ranks: int
    nodes: int
    algorithm: str
    duration_s: float
    busbw_gbs: float


def bus_factor(op: CollectiveOp, ranks: int) -> float:
    """Bytes each link carries per byte of message (nccl-tests doc/PERFORMANCE.md)."""
    share = (ranks - 1) / ranks
    return 2 * share if op == "all_reduce" else share


def ring_channels(gpu: Gpu) -> int:
    """Channels NCCL opens: 16 on NVSwitch with NVLS, 24 over NVLink without, 4 over PCIe."""
    if gpu.nvls_busbw_gbs:
        return 16
    return 24 if gpu.nvlink_gbs else 4


def nic_bytes_per_s(cluster: Cluster) -> float:
    """What one NIC delivers to a collective, one direction, bytes/s."""
    return cluster.nic_gbps / 8 * GB * cluster.fabric.efficiency


def collective(
    op: CollectiveOp,
    size_bytes: float,
    *,
    ranks: int,
    stride: int,
    gpu: Gpu,
    cluster: Cluster,
) -> Collective:
    """The collective by its fastest algorithm.

    Args:
        op: What is done.
        size_bytes: Whole buffer of one rank.
        ranks: Members; with 1 the time is 0.
        stride: Distance between neighbouring members in global ranks: members at most
            `nvlink_domain / stride` to a domain share its NICs.
        gpu: Whose NVLink is used inside a node.
        cluster: Whose NICs are used between nodes.
    """
    if ranks <= 1:
        return Collective(op, size_bytes, 1, 1, "none", 0.0, 0.0)
    domain = max(cluster.gpus_per_node, gpu.nvlink_domain)
    local = max(1, min(ranks, domain // stride))
    nodes = -(-ranks // local)
    factor = bus_factor(op, ranks)
    link = gpu.ring_busbw_gbs * GB
    if nodes > 1:
        link = min(link, nic_bytes_per_s(cluster) * local)
    steps = (2 if op == "all_reduce" else 1) * (ranks - 1)
    network_steps = steps * (nodes - 1) // max(1, ranks - 1) if nodes > 1 else 0
    net_hop = 12.0 + cluster.fabric.hop_latency_us

    def ring(base_us: float, hop_us: float, net_us: float, bandwidth: float) -> float:
        latency = base_us + (steps - network_steps) * hop_us + network_steps * net_us
        return latency * 1e-6 + size_bytes * factor / bandwidth

    # LL moves 4 bytes of data in 8 with a flag each hop: low latency, an eighth of the bandwidth.
    candidates = [
        ("ring LL", ring(6.6, 0.6, 2.7, link / 8)),
        ("ring", ring(8.4, 3.4, net_hop, link)),
    ]
    if op == "all_reduce" and nodes > 1:
        latency = 8.4 + 2 * ((local - 1) * 4.0 + math.log2(nodes) * net_hop)
        candidates.append(("tree", latency * 1e-6 + size_bytes * factor / (0.92 * link)))
    if op == "all_reduce" and gpu.nvls_busbw_gbs and local >= 5:
        latency = 25.0 + (2 * math.log2(nodes) * 18.0 if nodes > 1 else 0.0)
        nvls = gpu.nvls_busbw_gbs * GB
        if nodes > 1:
            nvls = min(nvls, nic_bytes_per_s(cluster) * local)
        name = "NVLS" if nodes == 1 else "NVLSTree"
        candidates.append((name, latency * 1e-6 + size_bytes * factor / nvls))
    algorithm, duration = min(candidates, key=lambda pair: pair[1])
    duration += _RAMP_S * size_bytes / (size_bytes + _RAMP_BYTES)
    busbw = size_bytes * factor / duration / GB
    return Collective(op, size_bytes, ranks, nodes, algorithm, duration, busbw)
