"""How dcgm-exporter writes: which labels and which metrics, in which order, by release.

Source: NVIDIA/dcgm-exporter, internal/pkg/rendermetrics/render_metrics.go (the template),
internal/pkg/collector/gpu_collector.go (values and labels), etc/*.csv (the lists).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ghosttrain.core.errors import SpecError, nearest

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric

# DCGM and exporter, as releases are named. The last one whose label is `Hostname`; later ones
# say `hostname` (NVIDIA/dcgm-exporter, pull request 655, May 2026).
RELEASED = "4.5.3-4.8.2"
Mapping = Literal["none", "kubernetes", "slurm"]
MAPPINGS: tuple[Mapping, ...] = ("none", "kubernetes", "slurm")

_RELEASE = re.compile(r"(?:\d+\.\d+\.\d+-)?(\d+)\.(\d+)\.(\d+)", re.ASCII)
_OLDEST = (4, 0, 0)  # before DCGM 4 some labels were others (no pci_bus_id, no err_msg of Xid 0)
_LAST_WITH_CAPITAL = (4, 8, 2)
# What DCGM puts there is a rate; see docs/decisions/0010-counters-of-telemetry.md.
_GAUGE_LATER = "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"

# Field numbers: a page's families are sorted by them, as Go's templates walk maps by key and the
# number is a key's first field. Source: NVIDIA/go-dcgm, pkg/dcgm/const_fields.go.
FIELD_NUMBERS = {
    "DCGM_FI_DEV_SM_CLOCK": 100,
    "DCGM_FI_DEV_MEM_CLOCK": 101,
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 112,
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 112,
    "DCGM_FI_DEV_MEMORY_TEMP": 140,
    "DCGM_FI_DEV_GPU_TEMP": 150,
    "DCGM_FI_DEV_POWER_USAGE": 155,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 156,
    "DCGM_FI_DEV_POWER_USAGE_INSTANT": 157,
    "DCGM_FI_DEV_SLOWDOWN_TEMP": 158,
    "DCGM_FI_DEV_SHUTDOWN_TEMP": 159,
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": 160,
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": 164,
    "DCGM_FI_DEV_PSTATE": 190,
    "DCGM_FI_DEV_PCIE_TX_THROUGHPUT": 200,
    "DCGM_FI_DEV_PCIE_RX_THROUGHPUT": 201,
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 202,
    "DCGM_FI_DEV_GPU_UTIL": 203,
    "DCGM_FI_DEV_MEM_COPY_UTIL": 204,
    "DCGM_FI_DEV_ENC_UTIL": 206,
    "DCGM_FI_DEV_DEC_UTIL": 207,
    "DCGM_FI_DEV_XID_ERRORS": 230,
    "DCGM_FI_DEV_PCIE_LINK_GEN": 237,
    "DCGM_FI_DEV_PCIE_LINK_WIDTH": 238,
    "DCGM_FI_DEV_POWER_VIOLATION": 240,
    "DCGM_FI_DEV_THERMAL_VIOLATION": 241,
    "DCGM_FI_DEV_SYNC_BOOST_VIOLATION": 242,
    "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION": 243,
    "DCGM_FI_DEV_LOW_UTIL_VIOLATION": 244,
    "DCGM_FI_DEV_RELIABILITY_VIOLATION": 245,
    "DCGM_FI_DEV_FB_TOTAL": 250,
    "DCGM_FI_DEV_FB_FREE": 251,
    "DCGM_FI_DEV_FB_USED": 252,
    "DCGM_FI_DEV_FB_RESERVED": 253,
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 310,
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 311,
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": 312,
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": 313,
    "DCGM_FI_DEV_RETIRED_SBE": 390,
    "DCGM_FI_DEV_RETIRED_DBE": 391,
    "DCGM_FI_DEV_RETIRED_PENDING": 392,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": 393,
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": 394,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": 395,
    "DCGM_FI_DEV_ROW_REMAP_PENDING": 396,
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": 409,
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": 419,
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": 429,
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": 439,
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": 449,
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS": 526,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 1001,
    "DCGM_FI_PROF_SM_ACTIVE": 1002,
    "DCGM_FI_PROF_SM_OCCUPANCY": 1003,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 1004,
    "DCGM_FI_PROF_DRAM_ACTIVE": 1005,
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": 1006,
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": 1007,
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": 1008,
    "DCGM_FI_PROF_PCIE_TX_BYTES": 1009,
    "DCGM_FI_PROF_PCIE_RX_BYTES": 1010,
    "DCGM_FI_PROF_NVLINK_TX_BYTES": 1011,
    "DCGM_FI_PROF_NVLINK_RX_BYTES": 1012,
}  # fmt: skip

# `err_msg` of DCGM_FI_DEV_XID_ERRORS, for the Xids that our faults bring.
# Source: NVIDIA/dcgm-exporter, internal/pkg/collector/xid_errors.go.
XID_WORDS = {
    0: "No Error",
    13: "Graphics Engine Exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing",
    45: "Preemptive cleanup, due to previous errors"
    " -- Most likely to see when running multiple cuda",
    48: "Double Bit ECC Error",
    63: "ECC page retirement or row remapping recording event",
    64: "ECC page retirement or row remapper recording failure",
    74: "NVLINK Error",
    79: "GPU has fallen off the bus",
    92: "High single-bit ECC error rate",
    94: "Contained ECC error",
    95: "Uncontained ECC error",
    119: "GSP RPC Timeout",
    120: "GSP Error",
    140: "Unrecovered ECC Error",
    145: "NVLINK: RLW Error",
    149: "NVLINK: NETIR Error",
    154: "GPU Recovery Action Changed",
}  # fmt: skip
UNKNOWN_XID = "Unknown Error"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a release of dcgm-exporter labels what it says.

    Attributes:
        host_label: Name of the label with the host's name.
        mapping: What it was told about who uses the GPUs: nothing, pods, or jobs of Slurm.
    """

    host_label: str = "Hostname"
    mapping: Mapping = "none"

    @classmethod
    def of(cls, release: str = RELEASED, mapping: Mapping = "none") -> Dialect:
        """The dialect of a release, named as in 4.5.3-4.8.2 or by the exporter's part, 4.8.2.

        Raises:
            SpecError: If it is no release, or one whose labels were others still.
        """
        found = _RELEASE.fullmatch(release.strip())
        version = tuple(map(int, found.groups())) if found else ()
        if version < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise SpecError(
                f"dcgm-exporter {release!r}: give a release from {oldest} on, as in {RELEASED}"
            )
        return cls("Hostname" if version <= _LAST_WITH_CAPITAL else "hostname", mapping)

    def kind(self, metric: Metric) -> str:
        """The type of a metric. What is later than the catalogue's release calls one a gauge."""
        is_later = self.host_label == "hostname"
        return "gauge" if is_later and metric.name == _GAUGE_LATER else metric.kind


def known_metrics() -> tuple[Metric, ...]:
    """All metrics a page may have: those of GPUs, then those of nodes."""
    from ghosttrain import catalog

    return (*catalog.metrics(), *catalog.metrics("node"))


def chosen_metrics(words: str, rows: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics that `words` name, in the order of a page.

    Args:
        words: By commas: lists (default, profiling, node and so on), all, or names of metrics.
        rows: Those there are.

    Raises:
        SpecError: If a word is neither a list nor a metric.
    """
    lists = {name for row in rows for name in row.lists}
    asked = [word for part in words.split(",") if (word := part.strip())]
    for word in asked:
        if word != "all" and word not in lists and word not in {row.name for row in rows}:
            raise SpecError(_unknown(word, [*sorted(lists), "all", *(row.name for row in rows)]))
    if not asked:
        raise SpecError(f"--metrics {words!r} names none: give lists, as in default,node, or names")
    found = [r for r in rows if "all" in asked or r.name in asked or set(r.lists) & set(asked)]
    last = 1 + max(FIELD_NUMBERS.values())
    return tuple(sorted(found, key=lambda row: FIELD_NUMBERS.get(row.name, last)))


def _unknown(word: str, known: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in known}
    near = nearest(word.casefold()[:80], folded)
    hint = f"did you mean {folded[near]}?" if near else "see `ghosttrain list metrics`"
    return f"unknown metric {word[:80]!r}: {hint}"
