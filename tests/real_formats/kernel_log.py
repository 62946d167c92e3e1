"""Kernel logs: the driver's Xid lines (NVIDIA, "XID Errors"), NICs, oom-killer, machine checks."""

from __future__ import annotations

from tests.real_formats.lines import Findings, Grammar, Line

_STAMP = r"\[ *(?P<stamp>\d+\.\d{6})\] "
_PCI = r"(?P<pci>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})"
_PROCESS = r"(?:pid='?(?P<pid><unknown>|\d+)'?, name=(?:<unknown>|\w+), )?"
KINDS = {
    "boot": _STAMP + r"Linux version \S+.*",
    "xid": _STAMP + rf"NVRM: Xid \(PCI:{_PCI}\): (?P<xid>\d+), {_PROCESS}(?P<text>.*)",
    "off-bus": _STAMP + rf"NVRM: GPU {_PCI}\.0: GPU has fallen off the bus\.",
    "serial": _STAMP + rf"NVRM: GPU {_PCI}\.0: GPU serial number is (?P<serial>\d{{13}})\.",
    "sxid": _STAMP + r"nvidia-nvswitch(?P<switch>\d): SXid \(PCI:\S+\): (?P<sxid>\d+), .*",
    "link": _STAMP + r"(?:mlx5_core|efa|cxi_ss1|hfi1|bnxt_en) \S+ \S+: Link (?P<state>up|down)",
    "oom-invoked": _STAMP + r"python3 invoked oom-killer: .*",
    "oom-kill": _STAMP + r"oom-kill:constraint=CONSTRAINT_NONE,.*,pid=(?P<pid>\d+),uid=\d+",
    "oom-killed": _STAMP + r"Out of memory: Killed process (?P<pid>\d+) \(python3\) total-vm:"
    r"(?P<vm>\d+)kB, anon-rss:(?P<rss>\d+)kB, .*",
    "mce": _STAMP + r"mce: \[Hardware Error\]: .*",
    "panic": _STAMP + r"Kernel panic - not syncing: .*",
    "edac": _STAMP + r"EDAC MC\d+: .*",
    "nvme": _STAMP + r"nvme nvme\d: .*",
    "aer": _STAMP + r"pcieport \S+: AER: .*",
    "thermal": _STAMP + r"CPU\d+: Package temperature is above threshold, cpu clock is throttled "
    r"\(total events = \d+\)",
}
GRAMMAR = Grammar(KINDS)


def read(text: str, findings: Findings) -> list[Line]:
    """The lines; stamps grow from boot to boot."""
    lines = GRAMMAR.read(text, findings)
    last = -1.0
    killed = ""
    for line in lines:
        at = float(line["stamp"])
        if line.kind == "boot":
            findings.expect(at == 0, line, "a boot is moment 0")
            last = -1.0
        findings.expect(at >= last, line, f"time goes back from {last}")
        last = at
        width = max(12, len(line["stamp"]))  # printk: "[%5lu.%06lu]"
        findings.expect(line.text[1 : width + 1] == f"{at:12.6f}", line, "width of the stamp")
        if line.kind == "oom-kill":
            killed = line["pid"]
        if line.kind == "oom-killed":
            findings.expect(line["pid"] == killed, line, f"chosen was {killed}")
            findings.expect(int(line["rss"]) < int(line["vm"]), line, "resident above virtual")
    return lines
