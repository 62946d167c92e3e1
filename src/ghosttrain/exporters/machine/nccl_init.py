"""How communicators come to be, in the words of one rank: the world, then groups split from it."""

from __future__ import annotations

import math

from ghosttrain.core.identity import pci_bus_id
from ghosttrain.core.messages.writer import drawn
from ghosttrain.exporters.machine.nccl_graph import NONE
from ghosttrain.exporters.machine.nccl_groups import Communicator
from ghosttrain.exporters.machine.nccl_rank import NcclRank, cuda_version

NVLS_CHANNELS = 16
P2P_PER_PEER = 2  # channels, across nodes
_CUDA_BUILD = "12.9"  # NCCL's wheels of 2.27
_MOST_LINE = 127  # characters of a ring (src/graph/rings.cc: line[128])
_NET_CHUNK, _NVLINK_CHUNK = 131072, 524288  # bytes (NCCL_P2P_NET_CHUNKSIZE, _NVL_CHUNKSIZE)
_P2P_CHANNELS = 16  # across nodes
_P2P_LOCAL, _P2P_SLOW = 32, 2  # in a node, over NVLink and over PCIe
# Shares of an initialisation as the timings of published 2.27 logs have them, seconds: the
# bootstrap is what is left.
_WORLD_S = {"kernels": 0.17, "alloc": 0.05, "allgathers": 0.02, "topo": 0.31}
_WORLD_S |= {"graphs": 0.01, "connections": 0.02, "rest": 0.01}
_SPLIT_S = {"alloc": 0.01, "allgathers": 0.01, "topo": 0.01, "rest": 0.01}
_TIMED = ["kernels", "alloc", "bootstrap", "allgathers", "topo", "graphs", "connections", "rest"]


def opening_lines(nccl: NcclRank, world: Communicator) -> list[str]:
    """The library loads, finds the network and begins."""
    w = nccl.writer
    boot = f"Bootstrap: Using {nccl.out_of_band}"
    driver = f"cudaDriverVersion {cuda_version(w.cluster.driver)}"
    first = [boot, driver] if w.rank == 0 else [driver, boot]  # rank 0 makes the unique ID
    version = f"NCCL version {w.cluster.nccl}+cuda{_CUDA_BUILD}"
    opening = [*first, version, "Comm config Blocking set to 1"]
    return [
        *(nccl.line(text, w.pid) for text in opening),
        *nccl.lines(nccl.network_texts()),
        *nccl.lines(nccl.assigned_texts()),
        nccl.line(f"{_world_text(nccl, world)} - Init START"),
    ]


def world_lines(nccl: NcclRank, world: Communicator, total_s: float) -> list[str]:
    """The world comes to be within `total_s`."""
    rank = nccl.writer.rank
    parts = _parts(total_s, _WORLD_S)
    name = "ncclCommInitRankConfig"
    return [
        nccl.line("RAS client listening socket at ::1<28028>"),
        nccl.line(_bootstrap_text(nccl, parts["bootstrap"])),
        *_graph_lines(nccl, world, rank, first=True),
        nccl.line("TUNER/Plugin: Could not find: libnccl-tuner.so. Using internal tuner plugin."),
        nccl.line(f"{_world_text(nccl, world)} - Init COMPLETE"),
        nccl.line(_timings_text(name, rank, world.size, total_s, parts)),
    ]


def split_lines(nccl: NcclRank, comm: Communicator, world: Communicator) -> list[str]:
    """A group is split from the world."""
    rank = comm.members.index(nccl.writer.rank)
    color = comm.identifier(nccl.writer.seed, 0) >> 33  # 31 bits, as PyTorch hashes the ranks
    split = (
        f"ncclCommSplit comm {_place_text(nccl, comm, rank)} parent {nccl.address(world)} "
        f"splitCount {comm.number} color {color} key {rank}"
    )
    total_s = 0.04 + 0.02 * math.log2(comm.size)  # estimated: nothing is bootstrapped anew
    parts = _parts(total_s, _SPLIT_S)
    return [
        nccl.line("Comm config Blocking set to 1", nccl.writer.pid),
        *nccl.lines(nccl.assigned_texts()),
        nccl.line(f"{split}- Init START"),  # NCCL 2.27 has no blank there
        *_graph_lines(nccl, comm, rank, first=False),
        nccl.line(f"{split} - Init COMPLETE"),
        nccl.line(_timings_text("ncclCommSplit", rank, comm.size, total_s, parts)),
    ]


def _world_text(nccl: NcclRank, world: Communicator) -> str:
    w = nccl.writer
    known = f"0x{world.identifier(w.seed, w.attempt):x}"
    return f"ncclCommInitRankConfig comm {_place_text(nccl, world, w.rank)} commId {known}"


def _place_text(nccl: NcclRank, comm: Communicator, rank: int) -> str:
    w = nccl.writer
    bus = int(f"{pci_bus_id(w.gpu, w.local)}.0".replace(":", "").replace(".", ""), 16)
    return (
        f"{nccl.address(comm)} rank {rank} nranks {comm.size} cudaDev {w.local} "
        f"nvmlDev {w.local} busId {bus:x}"
    )


def _bootstrap_text(nccl: NcclRank, total_s: float) -> str:
    parts = [1e-6 * (50 + drawn(200, name, *nccl.who)) for name in ("create", "send", "recv")]
    create, send, receive = (min(part, total_s / 4) for part in parts)
    ring = total_s - create - send - receive
    return (
        f"Bootstrap timings total {total_s:.6f} (create {create:.6f}, send {send:.6f}, "
        f"recv {receive:.6f}, ring {ring:.6f}, delay 0.000000)"
    )


def _graph_lines(nccl: NcclRank, comm: Communicator, rank: int, *, first: bool) -> list[str]:
    """What is found out of the machine, the rings and trees made of it, how much is opened."""
    proxy = nccl.proxy_thread(comm)
    texts = [*_machine_texts(nccl, comm, rank), *_ring_texts(nccl, comm, rank)]
    if first:
        texts.append("PROFILER/Plugin: Could not find: libnccl-profiler.so. ")
    ending = [f"threadThresholds 8/8/64 | {8 * comm.size}/8/64 | 512 | 512"]
    ending.append(_channels_text(nccl, comm))
    if rank == 0:
        direct = int(nccl.has_nvlink and comm.graph.nodes == 1)
        texts.append(f"Check P2P Type isAllDirectP2p {direct} directMode 0")
        ending.append("CC Off, workFifoBytes 1048576")
    return [
        *nccl.lines(texts),
        nccl.line(f"[Proxy Service] {nccl.on_core('service', comm)}", proxy),
        nccl.line(f"[Proxy Service UDS] {nccl.on_core('uds', comm)}", proxy + 1),
        *nccl.lines(ending),
    ]


def _machine_texts(nccl: NcclRank, comm: Communicator, rank: int) -> list[str]:
    local = nccl.writer.local
    node, position = comm.graph.place(rank)
    is_there = "" if nccl.has_nvls else "not "
    channels = NVLS_CHANNELS if nccl.has_nvls else 0
    return [
        f"Setting affinity for GPU {local} to {nccl.cores}",
        f"NVLS multicast support is {is_there}available on dev {local} (NVLS_NCHANNELS {channels})",
        f"comm {nccl.address(comm)} rank {rank} nRanks {comm.size} nNodes {comm.graph.nodes} "
        f"localRanks {comm.graph.size(node)} localRank {position} MNNVL {int(nccl.is_mnnvl)}",
    ]


def _ring_texts(nccl: NcclRank, comm: Communicator, rank: int) -> list[str]:
    channels = range(comm.graph.channels)
    rings = [_ring_text(comm, channel) for channel in channels] if rank == 0 else []
    trees = " ".join(_tree_text(comm, rank, channel) for channel in channels)
    local_chunk = _NVLINK_CHUNK if nccl.has_nvlink else _NET_CHUNK
    chunk = _NET_CHUNK if comm.graph.nodes > 1 else local_chunk
    return [*rings, f"Trees {trees}", f"P2P Chunksize set to {chunk}"]


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


def _channels_text(nccl: NcclRank, comm: Communicator) -> str:
    n = comm.graph.channels
    nvls = NVLS_CHANNELS if nccl.has_nvls else 0
    p2p, per_peer = _P2P_CHANNELS, P2P_PER_PEER
    if comm.graph.nodes == 1:
        p2p = per_peer = _P2P_LOCAL if nccl.has_nvlink else _P2P_SLOW
    return (
        f"{n} coll channels, {n} collnet channels, {nvls} nvls channels, {p2p} p2p channels, "
        f"{per_peer} p2p channels per peer"
    )


def _parts(total_s: float, usual_s: dict[str, float]) -> dict[str, float]:
    """Where the time went, in whole hundredths that add up to those of `total_s`."""
    whole = round(100 * total_s)
    usual = round(100 * sum(usual_s.values()))
    scale = min(1.0, whole / usual)
    parts = {name: int(100 * scale * s + 1e-6) for name, s in usual_s.items()}
    parts["bootstrap"] = whole - sum(parts.values())
    return {name: parts.get(name, 0) / 100 for name in _TIMED}


def _timings_text(name: str, rank: int, ranks: int, total_s: float, parts: dict[str, float]) -> str:
    spent = ", ".join(f"{part} {parts[part]:.2f}" for part in _TIMED)
    return f"Init timings - {name}: rank {rank} nranks {ranks} total {total_s:.2f} ({spent})"
