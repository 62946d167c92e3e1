"""NCCL in one rank of one launch: who writes, on which machine, over which network.

Texts, their order and who writes what are those of NCCL 2.27.3 under PyTorch, as its source has
them (NVIDIA/nccl, src/init.cc, bootstrap.cc, graph/rings.cc, transport/net.cc, transport/p2p.cc)
and published logs of that version show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from ghosttrain.core.identity import ip_address, nic_name
from ghosttrain.core.messages import Writer
from ghosttrain.core.messages.writer import drawn
from ghosttrain.exporters.machine.nccl_groups import Communicator

# CUDA of a driver branch (NVIDIA, CUDA Toolkit release notes, table of driver versions).
_CUDA = {535: 12020, 545: 12030, 550: 12040, 555: 12050, 560: 12060, 565: 12070, 570: 12080}
_CUDA |= {575: 12090, 580: 13000, 590: 13010}
_CUDA_OLDEST = 12020
_CORES = 112  # of a host of two sockets with two threads a core; Grace has 72 and one
_GRACE_CORES = 72
_PROXIES_BEHIND = 410  # numbers of threads that serve and connect, behind those of all ranks
_NET_NAMES = {"EFA": "Libfabric", "Slingshot": "Libfabric", "Ethernet": "Socket"}  # else IB


class NcclRank:
    """Who writes, and what its machine has."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        gpu = writer.gpu
        self.net = _NET_NAMES.get(writer.cluster.fabric.kind, "IB")
        self.has_nvls = bool(gpu.nvls_busbw_gbs)
        self.has_nvlink = bool(gpu.nvlink_gbs)
        self.has_gdr = self.net != "Socket" and "GeForce" not in gpu.product_name
        self.is_mnnvl = gpu.nvlink_domain > writer.cluster.gpus_per_node

    def line(self, text: str, thread: int | None = None) -> str:
        """A line of the thread that initialises, or of another."""
        w = self.writer
        tid = w.tid if thread is None else thread
        return f"{w.host}:{w.pid}:{tid} [{w.local}] NCCL INFO {text}"

    def lines(self, texts: Iterable[str]) -> list[str]:
        """Lines of the thread that initialises."""
        return [self.line(text) for text in texts]

    @cached_property
    def who(self) -> tuple[int, int, int, int]:
        """What sets this process apart from all others of the run."""
        w = self.writer
        return w.seed, w.attempt, w.machine, w.local

    def address(self, comm: Communicator) -> str:
        """Where the rank keeps the communicator."""
        high = 0x5500 + drawn(256, "heap", *self.who)
        at = drawn(1 << 28, "comm", *self.who) + comm.number * 0x6C8C2
        return f"0x{high << 32 | (at << 4) & 0xFFFFFFFF:x}"

    def proxy_thread(self, comm: Communicator) -> int:
        """Number of the thread that serves a communicator's proxies; the next one is UDS's."""
        return self.writer.tid + _PROXIES_BEHIND + 2 * comm.number

    def connecting_thread(self, comm: Communicator) -> int:
        """Number of the thread that connects it; the next one progresses its network."""
        return self.writer.tid + _PROXIES_BEHIND + 40 + 4 * comm.number

    def on_core(self, what: str, comm: Communicator) -> str:
        """Where one of these threads runs."""
        socket, cores = self._socket
        core = socket * cores + drawn(cores, what, comm.number, *self.who)
        return f"Device {self.writer.local} CPU core {core}"

    @property
    def cores(self) -> str:
        """The cores of the GPU's socket."""
        socket, cores = self._socket
        first = socket * cores
        if self.is_mnnvl:
            return f"{first}-{first + cores - 1}"
        twin = first + 2 * cores
        return f"{first}-{first + cores - 1},{twin}-{twin + cores - 1}"

    @property
    def _socket(self) -> tuple[int, int]:
        """The socket of the GPU, and the cores of each."""
        w = self.writer
        socket = int(2 * w.local >= w.cluster.gpus_per_node > 1)
        return socket, (_GRACE_CORES if self.is_mnnvl else _CORES // 2)

    # The network.

    @property
    def out_of_band(self) -> str:
        """The host's own port and address, by which ranks find one another."""
        port = "bond0" if self.net == "Socket" else "eth0"
        return f"{port}:{ip_address(self.writer.machine)}<0>"

    def network_texts(self) -> Iterator[str]:
        """How it finds the network."""
        w = self.writer
        nics = range(min(w.cluster.gpus_per_node, w.cluster.gpus))
        if self.net == "Libfabric":
            yield from self._libfabric_texts(len(nics))
        else:
            yield "NET/Plugin: Could not find: libnccl-net.so. "
        if self.net == "IB":
            link = "RoCE" if w.cluster.fabric.kind == "RoCE" else "IB"
            used = " ".join(f"[{n}]{nic_name(w.cluster, n)}:1/{link}" for n in nics)
            yield f"NET/IB : Using {used} [RO]; OOB {self.out_of_band}"
        elif self.net == "Socket":
            used = " ".join(
                f"[{n}]{nic_name(w.cluster, n)}:{ip_address(w.machine, n)}<0>" for n in nics
            )
            yield "NET/IB : No device found."
            yield f"NET/IB : Using [RO]; OOB {self.out_of_band}"
            yield f"NET/Socket : Using {used}"
        yield f"Initialized NET plugin {self.net}"

    def _libfabric_texts(self, nics: int) -> Iterator[str]:
        """The plugin of AWS, which HPE's machines use too (aws-ofi-nccl 1.16)."""
        yield "NET/Plugin: Loaded net plugin Libfabric (v10)"
        for version in range(10, 5, -1):
            yield f"NET/Plugin: Failed to find ncclCollNetPlugin_v{version} symbol."
        yield "Successfully loaded external plugin libnccl-net.so"
        yield "NET/OFI Initializing aws-ofi-nccl 1.16.2"
        yield "NET/OFI Using Libfabric version 2.1"
        is_efa = self.writer.cluster.fabric.kind == "EFA"
        provider = "efa" if is_efa else "cxi"
        if is_efa:
            yield "NET/OFI Configuring AWS-specific options"
            yield "NET/OFI Setting provider_filter to efa"
        yield f"NET/OFI Selected provider is {provider}, fabric is {provider} (found {nics} nics)"
        protocol = "RDMA (platform set)" if is_efa else "SENDRECV"
        yield f"NET/OFI Using transport protocol {protocol}"

    def assigned_texts(self) -> Iterator[str]:
        """Which network a communicator gets."""
        yield f"Assigned NET plugin {self.net} to comm"
        yield f"Using network {self.net}"
        if self.has_gdr:
            yield f"DMA-BUF is available on GPU device {self.writer.local}"


def cuda_version(driver: str) -> int:
    """The CUDA a driver brings, as its API numbers it: 12080 is 12.8."""
    branch = driver.split(".")[0]
    return _CUDA.get(int(branch) if branch.isdigit() else 0, _CUDA_OLDEST)
