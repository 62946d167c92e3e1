"""What one rank's NCCL writes while communicators come to be, with NCCL_DEBUG=INFO.

Texts, their order and who writes what are those of NCCL 2.27.3 under PyTorch, as its source has
them (NVIDIA/nccl, src/init.cc, bootstrap.cc, graph/rings.cc, transport/net.cc, transport/p2p.cc)
and published logs of that version show them. Rings connect when a collective first needs them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ghosttrain.core.identity import ip_address, nic_name, pci_bus_id
from ghosttrain.core.messages import Writer
from ghosttrain.core.messages.writer import drawn
from ghosttrain.exporters.machine.nccl_graph import NONE
from ghosttrain.exporters.machine.nccl_groups import Communicator

_MOST_LINE = 127  # characters of a ring (src/graph/rings.cc: line[128])
# CUDA of a driver branch (NVIDIA, CUDA Toolkit release notes, table of driver versions).
_CUDA = {535: 12020, 545: 12030, 550: 12040, 555: 12050, 560: 12060, 565: 12070, 570: 12080}
_CUDA |= {575: 12090, 580: 13000, 590: 13010}
_CUDA_OLDEST, _CUDA_BUILD = 12020, "12.9"
_CORES = 112  # of a host of two sockets with two threads a core; Grace has 72 and one
_GRACE_CORES = 72
_NET_CHUNK, _NVLINK_CHUNK = 131072, 524288  # bytes (NCCL_P2P_NET_CHUNKSIZE, _NVL_CHUNKSIZE)
_NVLS_CHANNELS, _NVLS_BUFFER = 16, 1 << 20  # bytes: 8 steps of NCCL_NVLS_CHUNKSIZE
_P2P_CHANNELS, _P2P_PER_PEER = 16, 2  # across nodes
_P2P_LOCAL, _P2P_SLOW = 32, 2  # in a node, over NVLink and over PCIe
# Shares of an initialisation as the timings of published 2.27 logs have them, seconds: the
# bootstrap is what is left.
_WORLD_S = {"kernels": 0.17, "alloc": 0.05, "allgathers": 0.02, "topo": 0.31}
_WORLD_S |= {"graphs": 0.01, "connections": 0.02, "rest": 0.01}
_SPLIT_S = {"alloc": 0.01, "allgathers": 0.01, "topo": 0.01, "rest": 0.01}
_TIMED = ["kernels", "alloc", "bootstrap", "allgathers", "topo", "graphs", "connections", "rest"]
_PROXIES_BEHIND = 410  # thread numbers of the proxies, behind those of all ranks


@dataclass(frozen=True, slots=True)
class Net:
    """The network as NCCL names it: its plugin, the kind of its links, what finds devices."""

    name: str
    link: str = ""
    provider: str = ""

    @classmethod
    def of(cls, writer: Writer) -> Net:
        """That of the writer's cluster."""
        match writer.cluster.fabric.kind:
            case "InfiniBand" | "Omni-Path":
                return cls("IB", link="IB")
            case "RoCE":
                return cls("IB", link="RoCE")
            case "EFA":
                return cls("Libfabric", provider="efa")
            case "Slingshot":
                return cls("Libfabric", provider="cxi")
            case _:
                return cls("Socket")


class NcclRank:
    """NCCL in one rank of one launch."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self._net = writer, Net.of(writer)
        gpu = writer.gpu
        self._has_nvls = bool(gpu.nvls_busbw_gbs)
        self._has_nvlink = bool(gpu.nvlink_gbs)
        self._has_gdr = self._net.name != "Socket" and "GeForce" not in gpu.product_name

    def line(self, text: str, thread: int | None = None) -> str:
        """A line of the thread that initialises, or of another."""
        w = self.writer
        tid = w.tid if thread is None else thread
        return f"{w.host}:{w.pid}:{tid} [{w.local}] NCCL INFO {text}"

    def _lines(self, texts: Iterable[str]) -> list[str]:
        return [self.line(text) for text in texts]

    # Up to the start of the world's initialisation.

    def opening_lines(self, world: Communicator) -> list[str]:
        """The library loads, finds the network and begins."""
        w = self.writer
        boot = f"Bootstrap: Using {self._management}:{ip_address(w.machine)}<0>"
        driver = f"cudaDriverVersion {cuda_version(w.cluster.driver)}"
        first = [boot, driver] if w.rank == 0 else [driver, boot]
        version = f"NCCL version {w.cluster.nccl}+cuda{_CUDA_BUILD}"
        opening = [*first, version, "Comm config Blocking set to 1"]
        lines = [self.line(text, w.pid) for text in opening]
        lines += self._lines(self._network_texts())
        lines += self._lines(self._assigned_texts())
        return [*lines, self.line(f"{self._world_text(world)} - Init START")]

    @property
    def _management(self) -> str:
        return "bond0" if self._net.name == "Socket" else "eth0"

    def _network_texts(self) -> Iterator[str]:
        w, net = self.writer, self._net
        oob = f"OOB {self._management}:{ip_address(w.machine)}<0>"
        nics = range(min(w.cluster.gpus_per_node, w.cluster.gpus))
        if net.name == "Libfabric":
            yield from self._libfabric_texts(len(nics))
        else:
            yield "NET/Plugin: Could not find: libnccl-net.so. "
        if net.name == "IB":
            used = " ".join(f"[{n}]{nic_name(w.cluster, n)}:1/{net.link}" for n in nics)
            yield f"NET/IB : Using {used} [RO]; {oob}"
        elif net.name == "Socket":
            used = " ".join(
                f"[{n}]{nic_name(w.cluster, n)}:{ip_address(w.machine, n)}<0>" for n in nics
            )
            yield "NET/IB : No device found."
            yield f"NET/IB : Using [RO]; {oob}"
            yield f"NET/Socket : Using {used}"
        yield f"Initialized NET plugin {net.name}"

    def _libfabric_texts(self, nics: int) -> Iterator[str]:
        """The plugin of AWS, which HPE's machines use too (aws-ofi-nccl 1.16)."""
        yield "NET/Plugin: Loaded net plugin Libfabric (v10)"
        for version in range(10, 5, -1):
            yield f"NET/Plugin: Failed to find ncclCollNetPlugin_v{version} symbol."
        yield "Successfully loaded external plugin libnccl-net.so"
        yield "NET/OFI Initializing aws-ofi-nccl 1.16.2"
        yield "NET/OFI Using Libfabric version 2.1"
        provider = self._net.provider
        found = f"NET/OFI Selected provider is {provider}, fabric is {provider} (found {nics} nics)"
        if provider == "efa":
            yield "NET/OFI Configuring AWS-specific options"
            yield "NET/OFI Setting provider_filter to efa"
            yield found
            yield "NET/OFI Using transport protocol RDMA (platform set)"
        else:
            yield found
            yield "NET/OFI Using transport protocol SENDRECV"

    def _assigned_texts(self) -> Iterator[str]:
        yield f"Assigned NET plugin {self._net.name} to comm"
        yield f"Using network {self._net.name}"
        if self._has_gdr:
            yield f"DMA-BUF is available on GPU device {self.writer.local}"

    def _world_text(self, world: Communicator) -> str:
        known = f"0x{world.identifier(self.writer.seed, self.writer.attempt):x}"
        place = self._place_text(world, self.writer.rank)
        return f"ncclCommInitRankConfig comm {place} commId {known}"

    def _place_text(self, comm: Communicator, rank: int) -> str:
        w = self.writer
        bus = int(f"{pci_bus_id(w.gpu, w.local)}.0".replace(":", "").replace(".", ""), 16)
        return (
            f"{self.address(comm)} rank {rank} nranks {comm.size} cudaDev {w.local} "
            f"nvmlDev {w.local} busId {bus:x}"
        )

    def address(self, comm: Communicator) -> str:
        """Where the rank keeps the communicator."""
        high = 0x5500 + drawn(256, "heap", *self._who)
        at = drawn(1 << 28, "comm", *self._who) + comm.number * 0x6C8C2
        return f"0x{high << 32 | (at << 4) & 0xFFFFFFFF:x}"

    @property
    def _who(self) -> tuple[str | int, ...]:
        w = self.writer
        return w.seed, w.attempt, w.machine, w.local

    # From there to its end.

    def world_lines(self, world: Communicator, total_s: float) -> list[str]:
        """The world comes to be within `total_s`."""
        rank = self.writer.rank
        parts = _parts(total_s, _WORLD_S)
        lines = self._lines(
            ["RAS client listening socket at ::1<28028>", self._bootstrap_text(parts["bootstrap"])]
        )
        lines += self._graph_lines(world, rank, first=True)
        tuner = "TUNER/Plugin: Could not find: libnccl-tuner.so. Using internal tuner plugin."
        name = "ncclCommInitRankConfig"
        complete = f"{self._world_text(world)} - Init COMPLETE"
        return lines + self._lines(
            [tuner, complete, _timings_text(name, rank, world.size, total_s, parts)]
        )

    def split_lines(self, comm: Communicator, world: Communicator) -> list[str]:
        """A group is split from the world."""
        rank = comm.members.index(self.writer.rank)
        color = comm.identifier(self.writer.seed, 0) >> 33  # 31 bits, as PyTorch hashes the ranks
        split = (
            f"ncclCommSplit comm {self._place_text(comm, rank)} parent {self.address(world)} "
            f"splitCount {comm.number} color {color} key {rank}"
        )
        total_s = 0.04 + 0.02 * math.log2(comm.size)  # estimated: nothing is bootstrapped anew
        parts = _parts(total_s, _SPLIT_S)
        begin = [*self._assigned_texts(), f"{split}- Init START"]  # NCCL 2.27 has no blank there
        return [
            self.line("Comm config Blocking set to 1", self.writer.pid),
            *self._lines(begin),
            *self._graph_lines(comm, rank, first=False),
            self.line(f"{split} - Init COMPLETE"),
            self.line(_timings_text("ncclCommSplit", rank, comm.size, total_s, parts)),
        ]

    def _bootstrap_text(self, total_s: float) -> str:
        parts = [1e-6 * (50 + drawn(200, name, *self._who)) for name in ("create", "send", "recv")]
        create, send, receive = (min(part, total_s / 4) for part in parts)
        ring = total_s - create - send - receive
        return (
            f"Bootstrap timings total {total_s:.6f} (create {create:.6f}, send {send:.6f}, "
            f"recv {receive:.6f}, ring {ring:.6f}, delay 0.000000)"
        )

    def _graph_lines(self, comm: Communicator, rank: int, *, first: bool) -> list[str]:
        w, graph = self.writer, comm.graph
        node, position = graph.place(rank)
        across = graph.nodes > 1
        texts = [
            f"Setting affinity for GPU {w.local} to {self._cores}",
            f"NVLS multicast support is {'' if self._has_nvls else 'not '}available on dev "
            f"{w.local} (NVLS_NCHANNELS {_NVLS_CHANNELS if self._has_nvls else 0})",
            f"comm {self.address(comm)} rank {rank} nRanks {comm.size} nNodes {graph.nodes} "
            f"localRanks {graph.size(node)} localRank {position} MNNVL {int(self._is_mnnvl)}",
        ]
        if rank == 0:
            texts += [_ring_text(comm, channel) for channel in range(graph.channels)]
        texts.append(f"Trees {' '.join(_tree_text(comm, rank, c) for c in range(graph.channels))}")
        local_chunk = _NVLINK_CHUNK if self._has_nvlink else _NET_CHUNK
        texts.append(f"P2P Chunksize set to {_NET_CHUNK if across else local_chunk}")
        if first:
            texts.append("PROFILER/Plugin: Could not find: libnccl-profiler.so. ")
        if rank == 0:
            direct = int(self._has_nvlink and not across)
            texts.append(f"Check P2P Type isAllDirectP2p {direct} directMode 0")
        proxy = w.tid + _PROXIES_BEHIND + 2 * comm.number
        ending = [f"threadThresholds 8/8/64 | {8 * comm.size}/8/64 | 512 | 512"]
        ending.append(self._channels_text(comm))
        if rank == 0:
            ending.append("CC Off, workFifoBytes 1048576")
        return [
            *self._lines(texts),
            self.line(f"[Proxy Service] {self._on_core('service', comm)}", proxy),
            self.line(f"[Proxy Service UDS] {self._on_core('uds', comm)}", proxy + 1),
            *self._lines(ending),
        ]

    def _on_core(self, what: str, comm: Communicator) -> str:
        socket, cores = self._socket
        core = socket * cores + drawn(cores, what, comm.number, *self._who)
        return f"Device {self.writer.local} CPU core {core}"

    @property
    def _is_mnnvl(self) -> bool:
        return self.writer.gpu.nvlink_domain > self.writer.cluster.gpus_per_node

    @property
    def _socket(self) -> tuple[int, int]:
        """The socket of the GPU, and the cores of each."""
        w = self.writer
        socket = int(2 * w.local >= w.cluster.gpus_per_node > 1)
        return socket, (_GRACE_CORES if self._is_mnnvl else _CORES // 2)

    @property
    def _cores(self) -> str:
        socket, cores = self._socket
        first = socket * cores
        if self._is_mnnvl:
            return f"{first}-{first + cores - 1}"
        twin = first + 2 * cores
        return f"{first}-{first + cores - 1},{twin}-{twin + cores - 1}"

    def _channels_text(self, comm: Communicator) -> str:
        n = comm.graph.channels
        nvls = _NVLS_CHANNELS if self._has_nvls else 0
        p2p, per_peer = _P2P_CHANNELS, _P2P_PER_PEER
        if comm.graph.nodes == 1:
            p2p = per_peer = _P2P_LOCAL if self._has_nvlink else _P2P_SLOW
        return (
            f"{n} coll channels, {n} collnet channels, {nvls} nvls channels, {p2p} p2p channels, "
            f"{per_peer} p2p channels per peer"
        )

    # When it is first used.

    def connected_lines(self, comm: Communicator, algorithm: str = "ring") -> list[str]:
        """The rings, and what else the algorithm of a collective needs."""
        if comm.size == 1:
            return []
        thread = self.writer.tid + _PROXIES_BEHIND + 40 + 4 * comm.number
        rank = comm.members.index(self.writer.rank)
        made = set(self._ring_pairs(comm, rank))
        lines = []
        if comm.graph.nodes > 1:
            progress = f"[Proxy Progress] {self._on_core('progress', comm)}"
            lines.append(self.line(progress, thread + 1))
        texts = self._pair_texts(comm, rank, made)
        pxn = int(any("(" in text for text in texts))
        texts.append(f"Connected all rings, use ring PXN {pxn} GDR {int(self._has_gdr)}")
        if algorithm in ("tree", "NVLSTree"):
            pairs = [p for p in self._tree_pairs(comm, rank) if p not in made]
            if algorithm == "NVLSTree":
                across = comm.graph.place
                pairs = [p for p in pairs if across(p[1])[0] != across(p[2])[0]]
                texts.append(self._nvls_text(comm, rank))
            texts += self._pair_texts(comm, rank, pairs)
            texts.append(f"Connected {'all trees' if algorithm == 'tree' else 'NVLS tree'}")
        elif algorithm == "NVLS":
            texts.append(self._nvls_text(comm, rank))
        return lines + [self.line(text, thread) for text in texts]

    def peer_lines(self, comm: Communicator) -> list[str]:
        """Connections to single peers: the stages next to it, or all experts' ranks."""
        rank = comm.members.index(self.writer.rank)
        peers = [p for p in range(comm.size) if p != rank]
        if comm.name == "pp":
            peers = [p for p in peers if abs(p - rank) == 1]
        thread = self.writer.tid + _PROXIES_BEHIND + 40 + 4 * comm.number
        channels = range(min(_P2P_PER_PEER, comm.graph.channels))
        pairs = [(c, p, rank) for p in peers for c in channels]
        pairs += [(c, rank, p) for p in peers for c in channels]
        texts = self._pair_texts(comm, rank, pairs, connection=1)
        return [self.line(text, thread) for text in texts]

    def _ring_pairs(self, comm: Communicator, rank: int) -> Iterator[tuple[int, int, int]]:
        """(channel, sender, receiver) that the rank is one of."""
        graph = comm.graph
        for channel in range(graph.channels):
            yield channel, graph.previous(rank, channel), rank
        for channel in range(graph.channels):
            yield channel, rank, graph.next(rank, channel)

    def _tree_pairs(self, comm: Communicator, rank: int) -> Iterator[tuple[int, int, int]]:
        for channel in range(comm.graph.channels):
            up, down = comm.graph.tree(rank, channel)
            for other in (*down, *([up] if up != NONE else [])):
                yield channel, other, rank
                yield channel, rank, other

    def _pair_texts(
        self,
        comm: Communicator,
        rank: int,
        pairs: Iterable[tuple[int, int, int]],
        connection: int = 0,
    ) -> list[str]:
        """What is received over the network, then sent over it, then written inside the node."""
        graph = comm.graph
        received, sent, local = [], [], []
        for channel, source, to in sorted(pairs):
            inside = graph.place(source)[0] == graph.place(to)[0]
            head = f"Channel {channel:02d}/{connection} : {self._named(comm, source)} -> "
            head += self._named(comm, to)
            if inside and source == rank:
                local.append(f"{head} via {self._inside(comm, source, to)}")
            elif not inside and to == rank:
                via = self._across(comm, channel, rank, connection)
                received.append(f"{head} [receive] via {via}")
            elif not inside:
                via = self._across(comm, channel, rank, connection)
                sent.append(f"{head} [send] via {via}")
        return received + sent + local

    def _named(self, comm: Communicator, rank: int) -> str:
        return f"{rank}[{self._device(comm, rank)}]"

    def _device(self, comm: Communicator, rank: int) -> int:
        return comm.members[rank] % self.writer.cluster.gpus_per_node

    def _inside(self, comm: Communicator, source: int, to: int) -> str:
        if not self._has_nvlink:
            return "SHM/direct/direct"
        per_node = self.writer.cluster.gpus_per_node
        same_host = comm.members[source] // per_node == comm.members[to] // per_node
        return "P2P/CUMEM" if same_host else "P2P/MNNVL"

    def _across(self, comm: Communicator, channel: int, rank: int, connection: int) -> str:
        """The rank's own NIC, or that of the ring's entry, reached through the rank there (PXN)."""
        at = rank
        if not connection:
            at = comm.graph.entry(comm.graph.place(rank)[0], channel)
        proxy = f"({at})" if at != rank and self._has_nvlink else ""
        gdr = "/GDRDMA" if self._has_gdr else ""
        shared = "/Shared" if connection else ""
        return f"NET/{self._net.name}/{self._device(comm, at)}{proxy}{gdr}{shared}"

    def _nvls_text(self, comm: Communicator, rank: int) -> str:
        node, position = comm.graph.place(rank)
        heads = comm.graph.size(node)
        each = 2 * _NVLS_CHANNELS * _NVLS_BUFFER
        return (
            f"NVLS comm {self.address(comm)} headRank {position} nHeads {heads} nvlsRanks {heads} "
            f"buffSize {_NVLS_BUFFER} nvlsPerRankSize {each} nvlsTotalSize {each * heads}"
        )


def cuda_version(driver: str) -> int:
    """The CUDA a driver brings, as its API numbers it: 12080 is 12.8."""
    branch = driver.split(".")[0]
    return _CUDA.get(int(branch) if branch.isdigit() else 0, _CUDA_OLDEST)


def _ring_text(comm: Communicator, channel: int) -> str:
    width = len(str(comm.size - 1))
    text = f"Channel {channel:02d}/{comm.graph.channels:02d} :"
    for rank in comm.graph.ring(channel):
        text += f" {rank:{width}d}"
        if len(text) > _MOST_LINE:
            return text[: _MOST_LINE - 3] + "..."
    return text


def _tree_text(comm: Communicator, rank: int, channel: int) -> str:
    up, down = comm.graph.tree(rank, channel)
    three = [*down, NONE, NONE, NONE][:3]
    return f"[{channel}] {'/'.join(map(str, three))}->{rank}->{up}"


def _parts(total_s: float, usual_s: dict[str, float]) -> dict[str, float]:
    """Where the time went, in whole hundredths that add up to those of `total_s`."""
    whole = round(100 * total_s)
    usual = round(100 * sum(usual_s.values()))
    scale = min(1.0, whole / usual)
    parts = {name: int(100 * scale * s + 1e-6) for name, s in usual_s.items()}
    left = whole - sum(parts.values())
    parts["bootstrap"] = parts.get("bootstrap", 0) + left
    return {name: parts.get(name, 0) / 100 for name in _TIMED}


def _timings_text(name: str, rank: int, ranks: int, total_s: float, parts: dict[str, float]) -> str:
    spent = ", ".join(f"{part} {parts[part]:.2f}" for part in _TIMED)
    return f"Init timings - {name}: rank {rank} nranks {ranks} total {total_s:.2f} ({spent})"
