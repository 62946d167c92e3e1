"""Lines of dcgm-exporter (NVIDIA/dcgm-exporter: internal/pkg/rendermetrics) and Prometheus text."""

from __future__ import annotations

import re
from functools import cache

from tests.real_formats.lines import Findings, Grammar, Line

_LABEL = r"[a-zA-Z_]\w*=\"(?:[^\"\\\n]|\\[\\\"n])*\""
_VALUE = r"(?:[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|NaN|\+Inf|-Inf)"
KINDS = {
    "help": r"# HELP (?P<name>[a-zA-Z_:]\w*) (?P<text>.*)",
    "type": r"# TYPE (?P<name>[a-zA-Z_:]\w*) (?P<type>counter|gauge|untyped|info|stateset|unknown)",
    "unit": r"# UNIT (?P<name>\S+) \w+",
    "sample": rf"(?P<name>[a-zA-Z_:]\w*)(?:\{{(?P<labels>{_LABEL}(?:,{_LABEL})*)\}})? "
    rf"(?P<value>{_VALUE})(?: (?P<time>\d+\.\d{{3}}))?",
    "end": r"# EOF",
}
GRAMMAR = Grammar(KINDS)
_ORDER = ["gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname"]
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUS = re.compile(r"[0-9A-F]{8}:[0-9A-F]{2}:[0-9A-F]{2}\.0")
_FRACTIONS = ("_ACTIVE", "_OCCUPANCY")
# DCGM's DOUBLE fields, which Go prints with %f (dcgm_fields.h).
_DOUBLES = ("POWER_USAGE", "POWER_MGMT_LIMIT")


def labels_of(line: Line) -> dict[str, str]:
    """Labels in the order they stand in."""
    return _labels(line.fields.get("labels", ""))


@cache
def _labels(text: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', text))


def read(text: str, findings: Findings, *, is_history: bool = False) -> list[Line]:
    """The lines; a family's are together behind its HELP and TYPE, no series is there twice.

    Args:
        is_history: Many moments, one behind the other, as promtool makes blocks of.
    """
    lines = GRAMMAR.read(text, findings)
    helped, typed = "", ""
    seen: set[tuple[str, str, str]] = set()
    for line in lines:
        if line.kind == "help":
            helped = line["name"]
        elif line.kind == "type":
            findings.expect(line["name"] == helped, line, "TYPE without its HELP")
            typed = line["name"]
        elif line.kind == "sample":
            base = line["name"].removesuffix("_total").removesuffix("_info")
            known = typed.removesuffix("_total").removesuffix("_info")
            findings.expect(is_history or base == known, line, f"stands among {typed}")
            key = line["name"], line.fields.get("labels", ""), line.fields.get("time", "")
            findings.expect(key not in seen, line, "a series twice")
            seen.add(key)
            if line["name"].startswith("DCGM_FI_"):
                _gpu(line, findings)
    return lines


def _gpu(line: Line, findings: Findings) -> None:
    labels, name = labels_of(line), line["name"]
    findings.expect(list(labels)[: len(_ORDER)] == _ORDER, line, "order of the labels")
    findings.expect(labels["device"] == f"nvidia{labels['gpu']}", line, "device")
    findings.expect(bool(_UUID.fullmatch(labels["UUID"])), line, "UUID")
    findings.expect(bool(_BUS.fullmatch(labels["pci_bus_id"])), line, "PCI address")
    is_double = name.endswith(_DOUBLES) or (
        name.startswith("DCGM_FI_PROF") and name.endswith(_FRACTIONS)
    )
    form = r"\d+\.\d{6}" if is_double else r"\d+"
    findings.expect(bool(re.fullmatch(form, line["value"])), line, "decimals")
    if name.endswith(_FRACTIONS):
        findings.expect(0 <= float(line["value"]) <= 1, line, "no fraction")


def by_gpu(
    lines: list[Line],
) -> dict[tuple[str, str, str], dict[str, tuple[float, dict[str, str]]]]:
    """{(host, gpu, time): {name: (value, labels)}} of all samples about GPUs."""
    found: dict[tuple[str, str, str], dict[str, tuple[float, dict[str, str]]]] = {}
    for line in lines:
        if line.kind == "sample" and line["name"].startswith("DCGM_FI_"):
            labels = labels_of(line)
            key = labels["Hostname"], labels["gpu"], line.fields.get("time", "")
            found.setdefault(key, {})[line["name"]] = float(line["value"]), labels
    return found
