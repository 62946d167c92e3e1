"""all_reduce_perf's table, by NVIDIA/nccl-tests: src/common.cu, src/all_reduce.cu."""

from __future__ import annotations

from tests.real_formats.lines import Findings, Grammar, Line

_PART = (
    r"  (?P<{0}time>[ \d.]{{7}})  (?P<{0}alg>[ ]*\d+\.\d\d)  (?P<{0}bus>[ ]*\d+\.\d\d)"
    r"  (?P<{0}wrong>[ ]*\d+)"
)
KINDS = {
    "version": r"# nccl-tests version \d+\.\d+\.\d+ nccl-headers=(?P<headers>\d+) "
    r"nccl-library=(?P<library>\d+)",
    "starting": r"# Collective test starting: all_reduce_perf",
    "arguments": r"# nThread 1 nGpus 1 minBytes (?P<first>\d+) maxBytes (?P<last>\d+) step: "
    r"(?P<factor>\d+)\(factor\) warmup iters: \d+ iters: \d+ agg iters: 1 validation: 1 graph: 0 "
    r"unalign: 0",
    "hash": r"#",
    "using": r"# Using devices",
    "device": r"#  Rank (?P<rank>[ ]?\d|\d{2,}) Group [ ]?(?P<group>\d+) Pid (?P<pid>[ ]*\d+) on "
    r"(?P<host>[ ]*[\w-]+) device (?P<dev>[ ]?\d|\d{2,}) "
    r"\[(?P<pci>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})\] (?P<name>.+)",
    "head-1": r"# +out-of-place +in-place +",
    "head-2": r"# +size +count +type +redop +root( +time +algbw +busbw +#wrong){2} ?",
    "head-3": r"# +\(B\) +\(elements\)( +\(us\) +\(GB/s\) +\(GB/s\)){2} +",
    "row": r"(?P<size>(?=[ \d]{12,})[ ]*\d+)  (?P<count>(?=[ \d]{12,})[ ]*\d+)     float     sum"
    r"      -1" + _PART.format("out_") + _PART.format("in_"),
    "wrong": r"# Out of bounds values : 0 OK",
    "average": r"# Avg bus bandwidth    : (?P<value>[\d.]+) ",
    "concluded": r"# Collective test concluded: all_reduce_perf",
    "blank": r"",
}
GRAMMAR = Grammar(KINDS)


def read(text: str, findings: Findings) -> list[Line]:
    """The lines; bandwidths follow from sizes and times, the average from the rows."""
    lines = GRAMMAR.read(text, findings)
    ranks = [line for line in lines if line.kind == "device"]
    findings.expect([int(r["rank"]) for r in ranks] == list(range(len(ranks))), None, "ranks")
    n = len(ranks)
    rows = [line for line in lines if line.kind == "row"]
    buses = []
    arguments = next(line for line in lines if line.kind == "arguments")
    size = int(arguments["first"])
    for line in rows:
        findings.expect(int(line["size"]) == size, line, f"{size} is due")
        size *= int(arguments["factor"])
        findings.expect(int(line["count"]) * 4 == int(line["size"]), line, "count of floats")
        for side in ("out_", "in_"):
            time_us, alg, bus = (float(line[side + name]) for name in ("time", "alg", "bus"))
            exact = int(line["size"]) / time_us / 1e3
            half = 0.005 + exact * 0.05 / time_us if "." in line[side + "time"] else 0.01 * exact
            findings.expect(abs(exact - alg) < half + 1e-9, line, f"algbw is {exact}")
            findings.expect(abs(2 * (n - 1) / n * exact - bus) < 2 * half + 1e-9, line, "busbw")
            shown = line[side + "time"]
            digits = 2 if time_us < 9999.995 else 1 if time_us < 99999.95 else 0
            findings.expect(shown == f"{time_us:7.{digits}f}", line, "decimals of the time")
            buses.append(bus)
    average = float(next(line for line in lines if line.kind == "average")["value"])
    findings.expect(abs(sum(buses) / len(buses) - average) < 0.01, None, "average bandwidth")
    return lines
