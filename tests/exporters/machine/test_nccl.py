"""NCCL's log: lines of the real library, neighbours that agree, launches as the run had them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from ghosttrain import catalog
from ghosttrain.core.events import MessageKind, MessageLogged, Phase, PhaseEnded
from ghosttrain.core.identity import host_name, process_id
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import ParallelRequest
from ghosttrain.exporters.machine.nccl import nccl_log
from ghosttrain.exporters.machine.nccl_graph import Graph, binary_tree
from ghosttrain.exporters.machine.nccl_groups import groups_of
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import KINDS, faulty_run, files_of
from tests.exporters.runs import small_spec

PREFIX = re.compile(
    r"^(?:\[[\d\- :.]+\] )?(?P<host>[\w.\-]+):(?P<pid>\d+):(?P<tid>\d+) \[(?P<dev>\d+)\] "
    r"(?:[\w./]+:\d+ )?NCCL (?P<level>INFO|WARN) (?P<text>.*)$"
)
COMM = r"comm 0x55[0-9a-f]{10} rank \d+ nranks \d+ cudaDev \d+ nvmlDev \d+ busId [0-9a-f]+"
CHANNEL = re.compile(
    r"Channel (?P<channel>\d\d)/(?P<conn>\d) : (?P<source>\d+)\[(?P<from_dev>\d+)\] -> "
    r"(?P<to>\d+)\[(?P<to_dev>\d+)\](?: \[(?P<way>send|receive)\])? via (?P<via>\S+)$"
)
TREE = re.compile(r"\[(\d+)\] (-?\d+)/(-?\d+)/(-?\d+)->(\d+)->(-?\d+)")
TIMINGS = re.compile(
    r"Init timings - (?P<name>\w+): rank \d+ nranks \d+ total (?P<total>\d+\.\d\d) \(kernels "
    r"(?P<parts>\d+\.\d\d, alloc \d+\.\d\d, bootstrap \d+\.\d\d, allgathers \d+\.\d\d, topo "
    r"\d+\.\d\d, graphs \d+\.\d\d, connections \d+\.\d\d, rest \d+\.\d\d)\)$"
)
START = re.compile(rf"ncclCommInitRankConfig {COMM} commId 0x[0-9a-f]+ - Init START$")
TEXTS = (
    START,
    TIMINGS,
    CHANNEL,
    re.compile(rf"ncclCommInitRankConfig {COMM} commId 0x[0-9a-f]+ - Init COMPLETE$"),
    re.compile(
        rf"ncclCommSplit {COMM} parent 0x55[0-9a-f]{{10}} splitCount \d color \d+ key \d+"
        r"(?:- Init START| - Init COMPLETE)$"
    ),
    re.compile(r"Bootstrap: Using \w+:[\d.]+<0>$"),
    re.compile(r"cudaDriverVersion 1\d0\d0$"),
    re.compile(r"NCCL version 2\.\d+\.\d+\+cuda\d+\.\d+$"),
    re.compile(r"Comm config Blocking set to 1$"),
    re.compile(
        r"NET/Plugin: (?:Could not find: libnccl-net\.so\. |Loaded net plugin \w+ \(v10\))$"
    ),
    re.compile(r"NET/Plugin: Failed to find ncclCollNetPlugin_v\d+ symbol\.$"),
    re.compile(r"Successfully loaded external plugin libnccl-net\.so$"),
    re.compile(r"NET/OFI (?:Initializing|Using|Configuring|Setting|Selected) .+$"),
    re.compile(r"NET/IB : Using (?:\[\d\]\w+:1/(?:IB|RoCE) )*\[RO\]; OOB \w+:[\d.]+<0>$"),
    re.compile(r"NET/IB : No device found\.$"),
    re.compile(r"NET/Socket : Using (?:\[\d\]\w+:[\d.]+<0> ?)+$"),
    re.compile(r"Initialized NET plugin \w+$|Assigned NET plugin \w+ to comm$"),
    re.compile(r"Using network (?:IB|Socket|Libfabric)$"),
    re.compile(r"DMA-BUF is available on GPU device \d$"),
    re.compile(r"RAS client listening socket at ::1<28028>$"),
    re.compile(r"Bootstrap timings total [\d.]+ \((?:\w+ \d+\.\d{6}(?:, )?){5}\)$"),
    re.compile(r"Setting affinity for GPU \d to \d+-\d+(?:,\d+-\d+)?$"),
    re.compile(r"NVLS multicast support is (?:not )?available on dev \d \(NVLS_NCHANNELS \d+\)$"),
    re.compile(
        r"comm 0x\w+ rank \d+ nRanks \d+ nNodes \d+ localRanks \d+ localRank \d+ MNNVL [01]$"
    ),
    re.compile(r"Channel \d\d/\d\d :(?: +\d+)+(?:[\d ]*\.\.\.)?$"),
    re.compile(r"Trees(?: \[\d+\] -?\d+/-?\d+/-?\d+->\d+->-?\d+)+$"),
    re.compile(r"P2P Chunksize set to (?:131072|524288)$"),
    re.compile(r"PROFILER/Plugin: Could not find: libnccl-profiler\.so\. $"),
    re.compile(r"Check P2P Type isAllDirectP2p [01] directMode 0$"),
    re.compile(r"\[Proxy (?:Service|Service UDS|Progress)\] Device \d CPU core \d+$"),
    re.compile(r"threadThresholds 8/8/64 \| \d+/8/64 \| 512 \| 512$"),
    re.compile(
        r"\d+ coll channels, \d+ collnet channels, \d+ nvls channels, \d+ p2p channels, "
        r"\d+ p2p channels per peer$"
    ),
    re.compile(r"CC Off, workFifoBytes 1048576$"),
    re.compile(r"TUNER/Plugin: Could not find: libnccl-tuner\.so\. Using internal tuner plugin\.$"),
    re.compile(r"Connected all rings, use ring PXN [01] GDR [01]$"),
    re.compile(r"Connected (?:all trees|NVLS tree)$"),
    re.compile(r"NVLS comm 0x\w+ headRank \d+ nHeads \d+ nvlsRanks \d+ buffSize 1048576 .+$"),
)


def found(line: str) -> re.Match[str]:
    match = PREFIX.match(line)
    assert match is not None, line
    return match


@cache
def lines_of(run: Run, gpus: tuple[int, ...] | None = None) -> list[str]:
    (text,) = files_of(Asked(run, gpus=gpus), "nccl").values()
    return text.splitlines()


@cache
def made_run(gpu: str = "h100-sxm", gpus: int = 16, fabric: str = "", **layout: Any) -> Run:
    card, base = catalog.gpu(gpu), small_spec()
    cluster = catalog.cluster(card, gpus)
    if fabric:
        cluster = replace(cluster, fabric=replace(cluster.fabric, kind=fabric))  # type: ignore[arg-type]
    return simulate(
        replace(
            base,
            model=catalog.model("llama-3.2-1b"),
            gpu=card,
            cluster=cluster,
            recipe=replace(base.recipe, seq_len=1024, global_batch_size=2 * gpus),
            parallel=ParallelRequest(**layout),
        ),
        7,
    )


def launch(lines: list[str], pid: int) -> list[str]:
    """The texts of one process."""
    return [m["text"] for line in lines if int((m := found(line))["pid"]) == pid]


def assert_known(lines: list[str]) -> None:
    for line in lines:
        match = found(line)
        if match["level"] == "INFO":
            assert any(pattern.match(match["text"]) for pattern in TEXTS), line


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_one_of_nccls(kind: str):
    assert_known(lines_of(faulty_run(kind), (0, 8, 16, 17, 63)))


@pytest.mark.parametrize(
    ("gpu", "gpus", "fabric", "says"),
    [
        ("h100-sxm", 16, "InfiniBand", "NET/IB : Using [0]mlx5_0:1/IB"),
        ("h100-sxm", 16, "RoCE", "NET/IB : Using [0]mlx5_0:1/RoCE"),
        ("h100-sxm", 16, "Ethernet", "NET/Socket : Using [0]eth0:10.16.0.1<0>"),
        ("h100-sxm", 16, "EFA", "NET/OFI Selected provider is efa, fabric is efa (found 8 nics)"),
        ("a100-40gb-sxm", 16, "Slingshot", "NET/OFI Selected provider is cxi, fabric is cxi"),
        ("a100-80gb-sxm", 16, "Omni-Path", "NET/IB : Using [0]hfi1_0:1/IB"),
        ("rtx-4090", 8, "Ethernet", "via SHM/direct/direct"),
        ("gb200", 8, "", "nNodes 1 localRanks 8 localRank 0 MNNVL 1"),
        ("h100-sxm", 1, "", "nranks 1 cudaDev 0 nvmlDev 0 busId 1b000"),
    ],
)
def test_every_machine_has_its_own_lines(gpu: str, gpus: int, fabric: str, says: str):
    lines = lines_of(made_run(gpu, gpus, fabric))
    assert_known(lines)
    assert any(says in line for line in lines), says


def test_a_rank_says_it_in_the_order_of_the_library():
    run = faulty_run("loss-bump")
    texts = launch(lines_of(run), process_id(0, 0, 1))
    order = [
        "Bootstrap: Using",
        "cudaDriverVersion",
        "NCCL version",
        "NET/IB : Using",
        "Using network IB",
        "Init START",
        "Setting affinity",
        "NVLS multicast",
        "nRanks 64 nNodes 8 localRanks 8",
        "Channel 00/16 :",
        "Trees [0]",
        "P2P Chunksize",
        "[Proxy Service]",
        "threadThresholds 8/8/64 | 512/8/64",
        "16 coll channels",
        "CC Off",
        "TUNER/Plugin",
        "Init COMPLETE",
        "Init timings",
        "Channel 00/0 :",
        "Connected all rings",
        "Connected NVLS tree",
    ]
    at = [next(n for n, text in enumerate(texts) if word in text) for word in order]
    assert at == sorted(at)


@pytest.mark.parametrize("kind", ["gpu-off-bus", "node-reboot", "switch-down"])
def test_timings_add_up_to_the_phase_of_that_launch(kind: str):
    run = faulty_run(kind)
    spans = [
        event
        for event in run.events(0.0, float("inf"))
        if isinstance(event, PhaseEnded) and event.phase is Phase.NCCL
    ]
    assert len(spans) == 2
    lines = lines_of(run)
    for event in spans:
        pids = {process_id(m, n, event.attempt) for m in range(12) for n in range(8)}
        told = [
            m for line in lines if int(found(line)["pid"]) in pids and (m := TIMINGS.search(line))
        ]
        assert {m["total"] for m in told} == {f"{event.duration_s:.2f}"}
        for m in told:
            parts = [round(100 * float(part)) for part in re.findall(r"\d+\.\d\d", m["parts"])]
            assert sum(parts) == round(100 * float(m["total"]))


def test_each_launch_is_of_the_hosts_it_has():
    run = faulty_run("gpu-off-bus")
    spares = dict(run.timeline.spares(2))
    starts = [found(line) for line in lines_of(run) if line.endswith("Init START")]
    assert len(starts) == 128
    for attempt, mine in ((1, starts[:64]), (2, starts[64:])):
        for rank, match in enumerate(mine):
            node, local = divmod(rank, 8)
            machine = spares.get(node, node) if attempt == 2 else node
            assert match["host"] == host_name(run.spec.cluster, machine)
            assert int(match["pid"]) == process_id(machine, local, attempt)
            assert int(match["dev"]) == local
            assert f" rank {rank} nranks 64 cudaDev {local} " in match["text"]
    ids = {text.split("commId ")[1] for text in (m["text"] for m in starts)}
    assert len(ids) == 2


def test_what_one_rank_sends_the_other_receives_and_rings_are_closed():
    lines = [found(line) for line in lines_of(faulty_run("loss-bump"))]
    pairs: dict[str, set[tuple[int, int, int]]] = {"send": set(), "receive": set(), "local": set()}
    for line in lines:
        if not (m := CHANNEL.match(line["text"])):
            continue
        source, to = int(m["source"]), int(m["to"])
        assert int(m["from_dev"]) == source % 8
        assert int(m["to_dev"]) == to % 8
        assert int(line["dev"]) == (to if m["way"] == "receive" else source) % 8
        pairs[m["way"] or "local"].add((int(m["channel"]), source, to))
    assert pairs["send"] == pairs["receive"]
    graph = Graph(tuple(range(0, 65, 8)), 16)
    joined = pairs["send"] | pairs["local"]
    for channel in range(16):
        ring = list(graph.ring(channel))
        assert sorted(ring) == list(range(64))
        assert all(
            (channel, one, other) in joined
            for one, other in zip(ring, [*ring[1:], ring[0]], strict=True)
        )
    told = [line["text"] for line in lines if line["text"].startswith("Channel 03/16 :")]
    assert [int(r) for r in told[0].split(":")[1].split()[:30]] == list(graph.ring(3))[:30]
    assert all(len(text) == 127 for text in told)
    assert all(text.endswith("...") for text in told)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 8, 9, 16, 37])
def test_trees_have_one_root_and_everybody_else_a_parent_that_knows_it(nodes: int):
    graph = Graph(tuple(range(0, 4 * nodes + 1, 4)), 8)
    for channel in range(8):
        below = {rank: graph.tree(rank, channel)[1] for rank in range(4 * nodes)}
        roots = []
        for rank in range(4 * nodes):
            up, down = graph.tree(rank, channel)
            assert len(down) <= 3
            if up == -1:
                roots.append(rank)
            else:
                assert rank in below[up]
            assert all(graph.tree(child, channel)[0] == rank for child in down)
        assert len(roots) == 1


def test_trees_are_those_of_a_published_log():
    """Four nodes of four GPUs, two channels (NCCL 2.27.3, NCCL_DEBUG=INFO, rank 0 to 3)."""
    graph = Graph((0, 4, 8, 12, 16), 2)
    assert graph.tree(0, 0) == (-1, (1, 8))
    assert binary_tree(4, 0) == (-1, [2])
    assert binary_tree(4, 3) == (2, [])
    # One GPU a node: `[0] 2/-1/-1->0->-1 [1] -1/-1/-1->0->1`.
    alone = Graph((0, 1, 2, 3, 4), 2)
    assert alone.tree(0, 0) == (-1, (2,))
    assert alone.tree(0, 1) == (1, ())


def test_trees_told_are_those_of_the_graph():
    for line in lines_of(faulty_run("loss-bump")):
        text = found(line)["text"]
        if not text.startswith("Trees"):
            continue
        seen = {tuple(map(int, m)) for m in TREE.findall(text)}
        assert len(seen) == 16
        graph = Graph(tuple(range(0, 65, 8)), 16)
        for channel, a, b, c, rank, up in seen:
            assert graph.tree(rank, channel) == (up, tuple(r for r in (a, b, c) if r != -1))


def test_groups_of_the_layout_are_split_from_the_world():
    run = made_run(gpus=32, tensor_parallel=4, pipeline_parallel=2)
    assert run.plan.layout.data_parallel == 4
    members = {g.name: list(g.members) for g in groups_of(run.plan, 5)}
    assert members == {"dp": [1, 5, 9, 13], "tp": [4, 5, 6, 7], "pp": [5, 21]}
    lines = lines_of(run)
    assert_known(lines)
    begun = [line for line in lines if line.endswith("Init START") and "Split" in line]
    assert len(begun) == 3 * 32
    colors: dict[str, int] = {}
    for line in begun:
        split = re.search(r"nranks (\d+) .* splitCount (\d) color (\d+) key", line)
        assert split is not None
        colors[split[3]] = colors.get(split[3], 0) + 1
        assert colors[split[3]] <= int(split[1])
    assert sorted(colors.values()) == [2] * 16 + [4] * 16
    sent = {
        m["text"].replace("[send]", "") for line in lines if "[send]" in (m := found(line))["text"]
    }
    assert any("Channel 00/1 : 0[0] -> 1[0]  via NET/IB/0/GDRDMA/Shared" in text for text in sent)


def test_of_many_ranks_those_of_the_first_node_or_the_chosen_ones():
    run = made_run(gpus=128)
    hosts = {found(line)["host"] for line in lines_of(run)}
    assert hosts == {"gpu-0000"}
    chosen = [found(line) for line in lines_of(run, gpus=(9, 120))]
    assert {(m["host"], m["dev"]) for m in chosen} == {("gpu-0001", "1"), ("gpu-0015", "0")}


@pytest.mark.parametrize("kind", ["nic-down", "link-down", "switch-down"])
def test_warnings_are_those_of_the_ranks_that_write_them(kind: str):
    run = faulty_run(kind)
    said = [
        event
        for event in run.events(0.0, float("inf"))
        if isinstance(event, MessageLogged)
        and event.message in (MessageKind.NCCL_PORT_ERROR, MessageKind.NCCL_RETRY_EXCEEDED)
    ]
    warned = [m for line in lines_of(run) if (m := found(line))["level"] == "WARN"]
    assert said
    assert len(warned) == sum(event.ranks for event in said)


def test_a_launch_that_ends_in_the_phase_never_completes():
    run = faulty_run("loss-bump")
    log = nccl_log(Asked(run))
    text = ""
    for event in run.events(0.0, 200.0):
        if isinstance(event, PhaseEnded) and event.phase is Phase.NCCL:
            break
        text += log.accept(event).decode()
    text += log.close().decode()
    assert text.count("Init START") == 64
    assert "Init COMPLETE" not in text
