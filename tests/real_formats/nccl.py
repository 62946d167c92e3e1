# ruff: noqa: E501 - a pattern is as long as the line it reads
"""NCCL's INFO log, by NVIDIA/nccl 2.27: src/debug.cc, init.cc, bootstrap.cc, transport/*.cc."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.real_formats.lines import Findings, Grammar, Line

_WHO = r"(?P<host>[\w-]+):(?P<pid>\d+):(?P<tid>\d+) \[(?P<dev>\d+)\] NCCL INFO "
_COMM = r"comm (?P<comm>0x[0-9a-f]+) "
_INIT = (
    r"(?P<call>ncclCommInitRankConfig|ncclCommSplit) " + _COMM + r"rank (?P<rank>\d+) "
    r"nranks (?P<nranks>\d+) cudaDev (?P<cuda>\d+) nvmlDev (?P<nvml>\d+) "
    r"busId (?P<bus>[0-9a-f]+) "
)
_WAY = r"(?P<a>\d+)\[(?P<adev>\d+)\] -> (?P<b>\d+)\[(?P<bdev>\d+)\]"
_SECONDS = r"\d+\.\d+"
KINDS = {
    "bootstrap": r"Bootstrap: Using \w+:(?P<ip>[\d.]+)<0>",
    "driver": r"cudaDriverVersion \d{5}",
    "version": r"NCCL version (?P<version>\d+\.\d+\.\d+)\+cuda\d+\.\d+",
    "config": r"Comm config .*",
    "plugin": r"(?:NET|PROFILER|TUNER)/Plugin: .*",
    "hca": r"NET/(?:IB : Using|IB : No device|OFI|Socket : Using|Libfabric|PSM) .*",
    "net": r"(?:Initialized NET plugin \S+|Assigned NET plugin \S+ to comm|Using network .*)",
    "dmabuf": r"DMA-BUF is available on GPU device \d+",
    "gdr": r"GPU Direct RDMA .*",
    "init-start": _INIT + r"commId (?P<id>0x[0-9a-f]+) - Init START",
    "init-complete": _INIT + r"commId (?P<id>0x[0-9a-f]+) - Init COMPLETE",
    "split-start": _INIT + r"parent (?P<parent>0x[0-9a-f]+) splitCount \d+ color -?\d+ key "
    r"\d+ ?- Init START",
    "split-complete": _INIT + r"parent (?P<parent>0x[0-9a-f]+) splitCount \d+ color -?\d+ key "
    r"\d+ - Init COMPLETE",
    "ras": r"RAS client listening socket at \S+",
    "bootstrap-timings": rf"Bootstrap timings total (?P<total>{_SECONDS}) \(create "
    rf"(?P<create>{_SECONDS}), send (?P<send>{_SECONDS}), recv (?P<recv>{_SECONDS}), ring "
    rf"(?P<ring>{_SECONDS}), delay (?P<delay>{_SECONDS})\)",
    "affinity": r"Setting affinity for GPU \d+ to [\d,-]+",
    "nvls-support": r"NVLS multicast support is (?:not )?available on dev \d+(?: \(NVLS_NCHANNELS "
    r"\d+\))?",
    "mnnvl": r"MNNVL .*",
    "comm": _COMM + r"rank (?P<rank>\d+) nRanks (?P<nranks>\d+) nNodes (?P<nodes>\d+) localRanks "
    r"(?P<locals>\d+) localRank (?P<local>\d+) MNNVL [01]",
    "ring": r"Channel (?P<channel>\d\d)/(?P<channels>\d\d) :(?P<ring>[ \d]+)(?P<cut>\.\.\.)?",
    "trees": r"Trees(?: \[\d+\] -?\d+/-?\d+/-?\d+->\d+->-?\d+)+",
    "chunk": r"P2P Chunksize set to \d+",
    "p2p-check": r"Check P2P Type isAllDirectP2p [01] directMode [01]",
    "proxy": r"\[Proxy (?:Service|Service UDS|Progress)\] Device \d+ CPU core \d+",
    "thresholds": r"threadThresholds \d+/\d+/\d+ \| (?P<ring>\d+)/\d+/\d+ \| 512 \| 512",
    "channels": r"(?P<coll>\d+) coll channels, \d+ collnet channels, (?P<nvls>\d+) nvls channels, "
    r"\d+ p2p channels, \d+ p2p channels per peer",
    "fifo": r"CC Off, workFifoBytes \d+",
    "init-timings": r"Init timings - (?P<call>\w+): rank (?P<rank>\d+) nranks (?P<nranks>\d+) total "
    rf"(?P<total>{_SECONDS}) \(kernels (?P<kernels>{_SECONDS}), alloc (?P<alloc>{_SECONDS}), "
    rf"bootstrap (?P<bootstrap>{_SECONDS}), allgathers (?P<gathers>{_SECONDS}), topo "
    rf"(?P<topo>{_SECONDS}), graphs (?P<graphs>{_SECONDS}), connections (?P<links>{_SECONDS}), rest "
    rf"(?P<rest>{_SECONDS})\)",
    "p2p": rf"Channel (?P<channel>\d\d)/\d : {_WAY} via (?:P2P/\S+|SHM/\S+)",
    "send": rf"Channel (?P<channel>\d\d)/\d : {_WAY} \[send\] via NET/(?P<net>\S+)",
    "receive": rf"Channel (?P<channel>\d\d)/\d : {_WAY} \[receive\] via NET/(?P<net>\S+)",
    "connected": r"Connected (?:all rings, use ring PXN [01] GDR [01]|all trees|NVLS tree)",
    "nvls": r"NVLS comm 0x[0-9a-f]+ headRank -?\d+ nHeads \d+ nvlsRanks \d+ buffSize \d+ "
    r"nvlsPerRankSize \d+ nvlsTotalSize \d+",
}
_WARN = (
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (?P<host>[\w-]+):(?P<pid>\d+):(?P<tid>\d+) "
    r"\[(?P<dev>\d+)\] [\w/.]+:\d+ NCCL WARN .*"
)
GRAMMAR = Grammar(
    {kind: _WHO + pattern + " ?" for kind, pattern in KINDS.items()} | {"warn": _WARN}
)


def read(text: str, findings: Findings, *, per_node: int = 8) -> list[Line]:
    """The lines; what a rank, a communicator and a connection owe to one another."""
    lines = GRAMMAR.read(text, findings)
    _processes(lines, findings)
    _communicators(lines, findings)
    _rings(lines, findings)
    _links(lines, findings, per_node)
    return lines


def _processes(lines: list[Line], findings: Findings) -> None:
    device: dict[tuple[str, str], str] = {}
    for line in lines:
        place = device.setdefault((line["host"], line["pid"]), line["dev"])
        findings.expect(place == line["dev"], line, "a process on two devices")
        for name in ("cuda", "nvml"):
            if name in line.fields:
                findings.expect(line[name] == line["dev"], line, "another device")
        if line.kind in ("init-timings", "bootstrap-timings"):
            parts = [
                float(v)
                for k, v in line.fields.items()
                if re.fullmatch(_SECONDS, v) and k != "total"
            ]
            off = abs(sum(parts) - float(line["total"]))
            findings.expect(off < 0.006 * len(parts), line, f"parts are {sum(parts)}")
        if line.kind == "thresholds":
            findings.expect(int(line["ring"]) >= 8, line, "threshold")


def _communicators(lines: list[Line], findings: Findings) -> None:
    """Each rank once, one id for all, complete only what was started, in the started order."""
    open_: dict[tuple[str, str, str], Line] = {}
    ranks: defaultdict[str, set[str]] = defaultdict(set)
    size: dict[str, str] = {}
    for line in lines:
        key = (line["host"], line["pid"], line.fields.get("comm", ""))
        if line.kind in ("init-start", "split-start"):
            findings.expect(key not in open_, line, "begins twice")
            open_[key] = line
            findings.expect(int(line["rank"]) < int(line["nranks"]), line, "no such rank")
        if line.kind == "init-start":
            findings.expect(line["rank"] not in ranks[line["id"]], line, "a rank twice")
            ranks[line["id"]].add(line["rank"])
            size.setdefault(line["id"], line["nranks"])
            findings.expect(size[line["id"]] == line["nranks"], line, "two sizes of one group")
        if line.kind in ("init-complete", "split-complete", "comm"):
            start = open_.get(key)
            findings.expect(start is not None, line, "never began")
            if start is not None:
                findings.expect(start["rank"] == line["rank"], line, "another rank")
                findings.expect(start["nranks"] == line["nranks"], line, "another size")
        if line.kind == "comm":
            most = int(line["nodes"]) * int(line["locals"])
            findings.expect(most >= int(line["nranks"]), line, "ranks do not fit on its nodes")


def _rings(lines: list[Line], findings: Findings) -> None:
    for line in lines:
        if line.kind == "ring":
            ranks = line["ring"].split()
            if "cut" in line.fields:  # wherever the 127 characters end (src/graph/rings.cc)
                ranks.pop()
            findings.expect(len(set(ranks)) == len(ranks), line, "a rank twice in a ring")
            text = line.text.split("NCCL INFO ", 1)[1]
            width = len(text)
            is_full = width == 127 if "cut" in line.fields else width <= 127
            findings.expect(is_full, line, "no line of 127")


def _links(lines: list[Line], findings: Findings, per_node: int) -> None:
    """What goes out comes in; inside a node by NVLink, between nodes by the network."""
    sends: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    receives: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for line in lines:
        if line.kind not in ("p2p", "send", "receive"):
            continue
        mine = line["bdev"] if line.kind == "receive" else line["adev"]
        findings.expect(mine == line["dev"], line, "told by another device")
        if line.kind == "send":
            sends[line["channel"], line["a"], line["b"]] += 1
        if line.kind == "receive":
            receives[line["channel"], line["a"], line["b"]] += 1
    del sends, receives, per_node
