"""How a communicator's ranks connect when it is first used, in the words of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ghosttrain.exporters.machine.nccl_graph import NONE
from ghosttrain.exporters.machine.nccl_groups import Communicator
from ghosttrain.exporters.machine.nccl_init import NVLS_CHANNELS, P2P_PER_PEER
from ghosttrain.exporters.machine.nccl_rank import NcclRank

_NVLS_BUFFER = 1 << 20  # bytes: 8 steps of NCCL_NVLS_CHUNKSIZE

Pair = tuple[int, int, int]  # channel, sender, receiver


def connected_lines(nccl: NcclRank, comm: Communicator, algorithm: str = "ring") -> list[str]:
    """The rings, and what else the algorithm of a collective needs."""
    if comm.size == 1:
        return []
    thread = nccl.connecting_thread(comm)
    rank = comm.members.index(nccl.writer.rank)
    rings = set(_ring_pairs(comm, rank))
    lines = []
    if comm.graph.nodes > 1:
        lines.append(nccl.line(f"[Proxy Progress] {nccl.on_core('progress', comm)}", thread + 1))
    texts = _pair_texts(nccl, comm, rank, rings)
    pxn = int(any("(" in text for text in texts))
    texts.append(f"Connected all rings, use ring PXN {pxn} GDR {int(nccl.has_gdr)}")
    if algorithm.startswith("NVLS"):
        texts.append(_nvls_text(nccl, comm, rank))
    if algorithm in ("tree", "NVLSTree"):
        trees = [pair for pair in _tree_pairs(comm, rank) if pair not in rings]
        if algorithm == "NVLSTree":  # inside a node it is the switch that sums
            trees = [pair for pair in trees if not _is_inside(comm, pair)]
        texts += _pair_texts(nccl, comm, rank, trees)
        texts.append(f"Connected {'all trees' if algorithm == 'tree' else 'NVLS tree'}")
    return lines + [nccl.line(text, thread) for text in texts]


def peer_lines(nccl: NcclRank, comm: Communicator) -> list[str]:
    """Connections to single peers: the stages next to it, or all experts' ranks."""
    rank = comm.members.index(nccl.writer.rank)
    peers = [peer for peer in range(comm.size) if peer != rank]
    if comm.name == "pp":
        peers = [peer for peer in peers if abs(peer - rank) == 1]
    channels = range(min(P2P_PER_PEER, comm.graph.channels))
    pairs = [(channel, peer, rank) for peer in peers for channel in channels]
    pairs += [(channel, rank, peer) for peer in peers for channel in channels]
    texts = _pair_texts(nccl, comm, rank, pairs, connection=1)
    return [nccl.line(text, nccl.connecting_thread(comm)) for text in texts]


def _ring_pairs(comm: Communicator, rank: int) -> Iterator[Pair]:
    """Those the rank is one of."""
    graph = comm.graph
    for channel in range(graph.channels):
        yield channel, graph.previous(rank, channel), rank
        yield channel, rank, graph.next(rank, channel)


def _tree_pairs(comm: Communicator, rank: int) -> Iterator[Pair]:
    for channel in range(comm.graph.channels):
        up, down = comm.graph.tree(rank, channel)
        for other in (*down, *([up] if up != NONE else [])):
            yield channel, other, rank
            yield channel, rank, other


def _is_inside(comm: Communicator, pair: Pair) -> bool:
    _, source, to = pair
    return comm.graph.place(source)[0] == comm.graph.place(to)[0]


def _pair_texts(
    nccl: NcclRank, comm: Communicator, rank: int, pairs: Iterable[Pair], connection: int = 0
) -> list[str]:
    """What is received over the network, then sent over it, then written inside the node."""
    received, sent, local = [], [], []
    for pair in sorted(pairs):
        channel, source, to = pair
        ends = f"{_named(nccl, comm, source)} -> {_named(nccl, comm, to)}"
        head = f"Channel {channel:02d}/{connection} : {ends}"
        if _is_inside(comm, pair):
            if source == rank:  # who receives says nothing
                local.append(f"{head} via {_inside(nccl, comm, source, to)}")
            continue
        via = _across(nccl, comm, channel, rank, connection)
        if to == rank:
            received.append(f"{head} [receive] via {via}")
        else:
            sent.append(f"{head} [send] via {via}")
    return received + sent + local


def _named(nccl: NcclRank, comm: Communicator, rank: int) -> str:
    return f"{rank}[{_device(nccl, comm, rank)}]"


def _device(nccl: NcclRank, comm: Communicator, rank: int) -> int:
    return comm.members[rank] % nccl.writer.cluster.gpus_per_node


def _inside(nccl: NcclRank, comm: Communicator, source: int, to: int) -> str:
    if not nccl.has_nvlink:
        return "SHM/direct/direct"
    per_node = nccl.writer.cluster.gpus_per_node
    same_host = comm.members[source] // per_node == comm.members[to] // per_node
    return "P2P/CUMEM" if same_host else "P2P/MNNVL"


def _across(nccl: NcclRank, comm: Communicator, channel: int, rank: int, connection: int) -> str:
    """The rank's own NIC, or that of the ring's entry, reached through the rank there (PXN)."""
    at = rank
    if not connection:
        at = comm.graph.entry(comm.graph.place(rank)[0], channel)
    proxy = f"({at})" if at != rank and nccl.has_nvlink else ""
    gdr = "/GDRDMA" if nccl.has_gdr else ""
    shared = "/Shared" if connection else ""
    return f"NET/{nccl.net}/{_device(nccl, comm, at)}{proxy}{gdr}{shared}"


def _nvls_text(nccl: NcclRank, comm: Communicator, rank: int) -> str:
    node, position = comm.graph.place(rank)
    heads = comm.graph.size(node)
    each = 2 * NVLS_CHANNELS * _NVLS_BUFFER
    return (
        f"NVLS comm {nccl.address(comm)} headRank {position} nHeads {heads} nvlsRanks {heads} "
        f"buffSize {_NVLS_BUFFER} nvlsPerRankSize {each} nvlsTotalSize {each * heads}"
    )
