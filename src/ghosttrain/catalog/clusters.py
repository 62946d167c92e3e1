"""Clusters: a machine built around a GPU type, or one of the named ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ghosttrain.core.errors import SpecError
from ghosttrain.core.spec import Cluster, Fabric, Gpu

# Write bandwidth of the file system by size, GB/s: up to so many nodes, so much.
# NVIDIA DGX SuperPOD reference architecture (DGX H100), "better": 20 for one unit of 32 nodes, 80
# for four; "best" 250. Above 2,000 nodes: 2 TB/s sustained, arXiv:2407.21783, section 3.3.1.
# Below, a filer of a few GB/s; in between, estimated.
_STORAGE_GBS: Final = ((1, 5.0), (8, 10.0), (32, 20.0), (128, 80.0), (512, 250.0), (2000, 500.0))
_HYPERSCALE_STORAGE_GBS: Final = 2000.0

# Of one node: 2 ("good") to 4 ("better") GB/s written in the same table, 4 with Hopper's PCIe 5.
_NODE_STORAGE_GBS: Final = 2.5
_PCIE5_NODE_STORAGE_GBS: Final = 4.0
_PCIE5_ARCHS: Final = ("Hopper", "Blackwell")

# Blackwell Ultra came with the R580 driver branch; the record's default is R570.
_R580: Final = "580.82.07"


@dataclass(frozen=True, slots=True)
class ClusterPreset:
    """A named cluster, one row of clusters.toml; 0: as the GPU's usual machine, or by size."""

    name: str
    gpu: str
    gpus: int
    fabric: str
    gpus_per_node: int = 0
    nic_gbps: float = 0.0
    storage_gbs: float = 0.0
    node_storage_gbs: float = 0.0
    source: str = ""


def default_fabric(gpu: Gpu) -> str:
    """Key of the fabric that machines with this GPU usually have, by the speed of its NIC."""
    if gpu.vendor == "AMD":
        return "roce-400g" if gpu.nic_gbps >= 400 else "slingshot-11"
    if gpu.arch == "Volta":
        return "infiniband-edr"
    for least, fabric in (
        (800, "infiniband-xdr"),
        (400, "infiniband-ndr"),
        (200, "infiniband-hdr"),
        (50, "ethernet-100g"),
        (25, "ethernet-25g"),
    ):
        if gpu.nic_gbps >= least:
            return fabric
    return "ethernet-10g"


def build_cluster(
    gpu: Gpu, gpus: int, *, fabric: Fabric, port_gbps: float, gpus_per_node: int | None
) -> Cluster:
    """A cluster of the GPU's usual machines.

    Args:
        gpu: Says how many sit in a node and what NIC each has.
        gpus: GPUs in use, at least 1; the last node may be partly used.
        fabric: What joins the nodes.
        port_gbps: Its line rate: a GPU gets no more, and no more than its machine has for it.
        gpus_per_node: Where the machine is not the usual one.

    Raises:
        SpecError: If a count is below 1.
    """
    per_node = gpu.gpus_per_node if gpus_per_node is None else gpus_per_node
    for what, count in (("gpus", gpus), ("gpus_per_node", per_node)):
        if count < 1:
            raise SpecError(f"{what} is {count}: a cluster needs at least 1")
    nodes = -(-gpus // per_node)
    pcie5 = gpu.arch in _PCIE5_ARCHS
    built = Cluster(
        name=f"{nodes} node{'s' if nodes > 1 else ''} of {per_node} {gpu.name}",
        gpus=gpus,
        gpus_per_node=per_node,
        fabric=fabric,
        nic_gbps=min(gpu.nic_gbps, port_gbps),
        storage_gbs=storage_gbs(nodes),
        node_storage_gbs=_PCIE5_NODE_STORAGE_GBS if pcie5 else _NODE_STORAGE_GBS,
        source="the GPU's usual machine; storage: NVIDIA DGX SuperPOD reference architecture",
    )
    return replace(built, driver=_R580) if "B300" in gpu.product_name else built


def storage_gbs(nodes: int) -> float:
    """Write bandwidth of the file system that usually comes with so many nodes, GB/s."""
    for most, bandwidth in _STORAGE_GBS:
        if nodes <= most:
            return bandwidth
    return _HYPERSCALE_STORAGE_GBS
