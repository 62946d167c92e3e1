"""Names of machines and parts: one place, so that every face names the same machine.

PCI bus numbers are those of HGX baseboards as `nvidia-smi` shows them on DGX H100 and A100.
"""

from __future__ import annotations

import hashlib

from ghosttrain.core.spec import Cluster, Gpu

_HOPPER_BUS = (0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)
_AMPERE_BUS = (0x07, 0x0F, 0x47, 0x4E, 0x87, 0x90, 0xB7, 0xBD)


def host_name(cluster: Cluster, node: int) -> str:
    """Short host name of physical node `node` (spares follow the cluster's own nodes)."""
    width = max(4, len(str(cluster.nodes)))
    return f"{cluster.host_prefix}-{node:0{width}d}"


def pci_bus_id(gpu: Gpu, local: int) -> str:
    """PCI address of GPU `local` of a node without function, such as 0000:1b:00."""
    buses = _AMPERE_BUS if gpu.arch == "Ampere" else _HOPPER_BUS
    domain, slot = divmod(local, len(buses))
    return f"{domain:04x}:{buses[slot]:02x}:00"


def process_id(node: int, local: int, attempt: int) -> int:
    """Process number of the worker on a GPU in an attempt."""
    digest = hashlib.blake2b(f"{node}/{attempt}".encode(), digest_size=4).digest()
    return 20000 + int.from_bytes(digest, "little") % 40000 + local
