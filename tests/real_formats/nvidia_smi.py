"""nvidia-smi's CSV, dmon and table, by `nvidia-smi --help-query-gpu` and outputs of driver 570."""

from __future__ import annotations

import re

from tests.real_formats.lines import Findings, Grammar, Line, moment_of

_LOST = r"\[GPU is lost\]"
_NA = r"\[N/A\]"


def _value(name: str, pattern: str) -> str:
    return rf"(?P<{name}>{pattern}|{_LOST}|{_NA})"


_FIELDS = (
    ("index", "index", r"\d+"),
    ("timestamp", "timestamp", r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}"),
    ("power.draw [W]", "power", r"\d+\.\d\d W"),
    ("temperature.gpu", "temp", r"\d+"),
    ("temperature.memory", "memory_temp", r"\d+|N/A"),
    ("utilization.gpu [%]", "util", r"\d+ %"),
    ("utilization.memory [%]", "memory_util", r"\d+ %"),
    ("memory.used [MiB]", "used", r"\d+ MiB"),
    ("memory.total [MiB]", "total", r"\d+ MiB"),
    ("clocks.current.sm [MHz]", "sm", r"\d+ MHz"),
    ("clocks.current.memory [MHz]", "mem", r"\d+ MHz"),
    ("power.limit [W]", "limit", r"\d+\.\d\d W"),
    ("ecc.errors.uncorrected.volatile.total", "ecc", r"\d+"),
    ("clocks_event_reasons.active", "reasons", r"0x[0-9a-f]{16}"),
)
CSV = Grammar(
    {
        "header": re.escape(", ".join(title for title, _, _ in _FIELDS)).replace(r"\ ", " "),
        "row": ", ".join(_value(name, pattern) for _, name, pattern in _FIELDS),
    }
)
_IDLE, _POWER_CAP, _SW_THERMAL, _HW_THERMAL = 0x1, 0x4, 0x20, 0x40


def read_csv(text: str, findings: Findings, *, cards: int = 8) -> list[Line]:
    """Rows of a query: a header, then one row a card a moment, in order."""
    lines = CSV.read(text, findings)
    findings.expect(bool(lines) and lines[0].kind == "header", None, "no header")
    moments: dict[str, list[int]] = {}
    errors: dict[str, int] = {}
    last = ""
    for line in lines[1:]:
        findings.expect(line.kind == "row", line, "a second header")
        if line.kind != "row":
            continue
        moments.setdefault(line["timestamp"], []).append(int(line["index"]))
        findings.expect(line["timestamp"] >= last, line, "time goes back")
        last = line["timestamp"]
        if is_lost(line):
            lost = [name for _, name, _ in _FIELDS[2:] if "lost" not in line[name]]
            findings.expect(not lost, line, f"a lost card tells {lost}")
            continue
        _row(line, errors, findings)
    for at, indices in moments.items():
        findings.expect(indices == list(range(cards)), None, f"at {at} cards {indices}")
    return lines


def is_lost(line: Line) -> bool:
    return "lost" in line["power"]


def amount(line: Line, name: str) -> float:
    return float(line[name].split()[0])


def time_s(line: Line) -> float:
    return moment_of(line["timestamp"], "%Y/%m/%d %H:%M:%S.%f").timestamp()


def _row(line: Line, errors: dict[str, int], findings: Findings) -> None:
    power, limit = amount(line, "power"), amount(line, "limit")
    findings.expect(amount(line, "used") <= amount(line, "total"), line, "more than the card has")
    findings.expect(0 <= amount(line, "util") <= 100, line, "utilisation")
    findings.expect(power < 1.06 * limit, line, "far above the limit")
    findings.expect(20 <= amount(line, "temp") < 100, line, "temperature")
    if line["memory_temp"] not in ("N/A", "[N/A]"):
        findings.expect(amount(line, "memory_temp") < 110, line, "temperature of the memory")
    reasons = int(line["reasons"], 16)
    if reasons & _IDLE:
        findings.expect(amount(line, "util") == 0, line, "idle and busy")
    if reasons & _POWER_CAP:
        findings.expect(power > 0.9 * limit, line, "capped far below the limit")


DMON = Grammar(
    {
        "names": r"# gpu   pwr gtemp mtemp    sm   mem   enc   dec   jpg   ofa  mclk  pclk",
        "units": r"# Idx     W     C     C     %     %     %     %     %     %   MHz   MHz",
        "row": "".join(
            rf"(?P<{name}>(?=[ \d-]{{5}}){'' if first else ' '}[ ]{{0,4}}(?:\d+|-))"
            for first, name in [(True, "gpu")]
        )
        + "".join(
            rf" (?P<{name}>(?=[ \d-]{{5}})[ ]{{0,4}}(?:\d+|-))"
            for name in [
                "pwr",
                "gtemp",
                "mtemp",
                "sm",
                "mem",
                "enc",
                "dec",
                "jpg",
                "ofa",
                "mclk",
                "pclk",
            ]
        ),
    }
)


def read_dmon(text: str, findings: Findings, *, cards: int = 8) -> list[Line]:
    """Rows of dmon, behind headers; a moment is a row for each card."""
    lines = DMON.read(text, findings)
    findings.expect([line.kind for line in lines[:2]] == ["names", "units"], None, "no header")
    rows = [line for line in lines if line.kind == "row"]
    for n, line in enumerate(rows):
        findings.expect(int(line["gpu"]) == n % cards, line, "order of cards")
        findings.expect(len(line.text) == 6 * 12 - 1, line, "width")
    return lines


TABLE_ROW = re.compile(
    r"\| N/A  +(?P<temp>\d+)C    P0 +(?P<power>\d+)W / +(?P<limit>\d+)W \| +(?P<used>\d+)MiB / +"
    r"(?P<total>\d+)MiB \| +(?P<util>\d+)%      Default \|"
)
TABLE_NAME = re.compile(
    r"\| {1,3}(?P<index>\d+)  (?P<name>NVIDIA .{22}) +On  \|   "
    r"(?P<bus>[0-9A-F]{8}:[0-9A-F]{2}:00\.0) Off \| +(?P<ecc>\d+|N/A|Off) \|"
)
