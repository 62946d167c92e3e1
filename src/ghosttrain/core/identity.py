"""Names of machines and parts: one place, so that every face names the same machine.

PCI bus numbers are those of HGX baseboards as `nvidia-smi` shows them on DGX H100 and A100.
"""

from __future__ import annotations

import hashlib

from ghosttrain.core.spec import Cluster, Gpu
from ghosttrain.core.units import DAY_S

_HOPPER_BUS = (0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)
_AMPERE_BUS = (0x07, 0x0F, 0x47, 0x4E, 0x87, 0x90, 0xB7, 0xBD)
_AIR_COOLED_NODES = 4
# Estimated: the agent starts before its workers, NCCL's threads after all of them.
_AGENT_AHEAD, _THREADS_BEHIND, _THREADS_SPREAD = 40, 120, 400
_NIC_NAMES = {
    "InfiniBand": "mlx5_",
    "RoCE": "mlx5_",
    "EFA": "rdmap",
    "Slingshot": "cxi",
    "Omni-Path": "hfi1_",
}
_MANAGEMENT_SUBNET, _FABRIC_SUBNET = 4, 16  # second byte of addresses in 10.0.0.0/8
_HOSTS_PER_BYTE = 250


def host_name(cluster: Cluster, node: int) -> str:
    """Short host name of physical node `node` (spares follow the cluster's own nodes)."""
    width = max(4, len(str(cluster.nodes)))
    return f"{cluster.host_prefix}-{node:0{width}d}"


def pci_bus_id(gpu: Gpu, local: int) -> str:
    """PCI address of GPU `local` of a node without function, such as 0000:1b:00."""
    buses = _AMPERE_BUS if gpu.arch == "Ampere" else _HOPPER_BUS
    domain, slot = divmod(local, len(buses))
    return f"{domain:04x}:{buses[slot]:02x}:00"


def dcgm_pci_bus_id(gpu: Gpu, local: int) -> str:
    """The same as NVML spells it, with a domain of 8 digits and in capitals: 00000000:1B:00.0."""
    domain, bus, slot = pci_bus_id(gpu, local).split(":")
    return f"{domain:0>8}:{bus}:{slot}.0".upper()


def gpu_uuid(cluster: Cluster, node: int, local: int) -> str:
    """UUID of GPU `local` of physical node `node`, as NVML prints it: GPU-8-4-4-4-12."""
    words = f"uuid/{cluster.host_prefix}/{node}/{local}"
    digest = hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
    parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:])
    return "GPU-" + "-".join(parts)


def nodes_per_rack(gpu: Gpu, cluster: Cluster) -> int:
    """Nodes that share a rack: behind one switch, in one cooling loop, never more than there are.

    Where NVLink joins several nodes they are one rack (18 trays of four in NVL72). Else four:
    estimated: an HGX server draws about 10 kW, an air-cooled rack is fed and cooled for 40 kW.
    """
    joined = gpu.nvlink_domain // cluster.gpus_per_node
    return min(joined if joined > 1 else _AIR_COOLED_NODES, cluster.nodes)


def process_id(node: int, local: int, attempt: int) -> int:
    """Process number of the worker on a GPU in an attempt."""
    return _first_process(node, attempt) + local


def agent_process_id(node: int, attempt: int) -> int:
    """Process number of the launcher of a node's workers: it is there before them."""
    return _first_process(node, attempt) - _AGENT_AHEAD - _digest("agent", node, attempt) % 32


def thread_id(node: int, local: int, attempt: int) -> int:
    """Number of the thread of a worker in which NCCL reports, behind those of all workers."""
    ahead = _THREADS_BEHIND + _digest("thread", node, local, attempt) % _THREADS_SPREAD
    return process_id(node, local, attempt) + ahead


def job_id(seed: int, attempt: int) -> int:
    """Number of the scheduler's job: each launch is one, some of others come between."""
    ahead = sum(1 + _digest("job", seed, earlier) % 40 for earlier in range(1, attempt))
    return 40000 + _digest("job", seed) % 50000 + ahead


def nic_name(cluster: Cluster, local: int) -> str:
    """Name of the network device of GPU `local`, as the fabric's user-space library has it."""
    return f"{_NIC_NAMES.get(cluster.fabric.kind, 'eth')}{local}"


def nic_pci_address(gpu: Gpu, local: int) -> str:
    """PCI address of the network card behind the same switch as GPU `local`, with function."""
    domain, bus, _ = pci_bus_id(gpu, local).split(":")
    return f"{domain}:{int(bus, 16) - 3:02x}:00.0"


def ip_address(node: int, local: int | None = None) -> str:
    """IPv4 address of a node's management port, or of the network card of one of its GPUs."""
    subnet = _MANAGEMENT_SUBNET if local is None else _FABRIC_SUBNET + local
    high, low = divmod(node, _HOSTS_PER_BYTE)
    return f"10.{subnet}.{high}.{low + 1}"


def serial_number(cluster: Cluster, node: int, local: int) -> int:
    """Serial number of a GPU as its driver prints it: 13 digits, of the board's own."""
    return 1_650_000_000_000 + _digest("serial", cluster.host_prefix, node, local) % 99_999_999_999


def uptime_s(cluster: Cluster, node: int) -> float:
    """How long a node had been up when the run began; estimated: rebooted within two months."""
    return 2 * DAY_S + _digest("boot", cluster.host_prefix, node) % int(58 * DAY_S * 1000) / 1000


def _first_process(node: int, attempt: int) -> int:
    digest = hashlib.blake2b(f"{node}/{attempt}".encode(), digest_size=4).digest()
    return 20000 + int.from_bytes(digest, "little") % 40000


def _digest(*words: str | int) -> int:
    text = "/".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
