"""What nvidia-smi prints of a moment, as pure functions of a block of telemetry.

Formats: `nvidia-smi --help-query-gpu` and the manual of driver 570; a GPU that is lost while it
logs keeps its row, as published logs have it, and each value of it is `[GPU is lost]` (dmon: `-`).

Shapes: K = moments of the block, G = GPUs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ghosttrain.core.spec import Gpu, RunSpec

if TYPE_CHECKING:
    from ghosttrain.core.telemetry import Telemetry

QUERY_FIELDS = (
    "power_w",
    "gpu_temp_c",
    "memory_temp_c",
    "gpu_util_pct",
    "mem_copy_util_pct",
    "fb_used_mib",
    "fb_total_mib",
    "sm_clock_mhz",
    "mem_clock_mhz",
    "power_limit_w",
    "ecc_dbe_volatile",
    "clock_event_reasons",
)
QUERY_HEADER = (
    "index, timestamp, power.draw [W], temperature.gpu, temperature.memory, utilization.gpu [%], "
    "utilization.memory [%], memory.used [MiB], memory.total [MiB], clocks.current.sm [MHz], "
    "clocks.current.memory [MHz], power.limit [W], ecc.errors.uncorrected.volatile.total, "
    "clocks_event_reasons.active"
)
DMON_FIELDS = (
    "power_w",
    "gpu_temp_c",
    "memory_temp_c",
    "gpu_util_pct",
    "mem_copy_util_pct",
    "mem_clock_mhz",
    "sm_clock_mhz",
)
DMON_HEADER = (
    "# gpu   pwr gtemp mtemp    sm   mem   enc   dec   jpg   ofa  mclk  pclk",
    "# Idx     W     C     C     %     %     %     %     %     %   MHz   MHz",
)
_QUERIED = (
    "%d, %s, %.2f W, %d, %s, %d %%, %d %%, %d MiB, %d MiB, %d MHz, %d MHz, %.2f W, %s, 0x%016X"
)
_LOST = "%d, %s" + 12 * ", [GPU is lost]"
# Encoder, decoder, JPEG and optical flow are 0: training uses none of them.
_WATCHED = "%5d %5d %5d %5s %5d %5d     0     0     0     0 %5d %5d"
_WATCHED_LOST = "%5d" + 11 * "     -"


def has_memory_sensor(gpu: Gpu) -> bool:
    """Whether the driver tells the memory's temperature: of stacked memory, not of GDDR."""
    name = gpu.product_name
    gddr = gpu.arch in ("Ada", "Turing") or "RTX" in name or name in ("NVIDIA A10", "NVIDIA A40")
    return not gddr


def has_ecc(gpu: Gpu) -> bool:
    """Whether uncorrected errors are counted: GeForce cards have no ECC."""
    return "GeForce" not in gpu.product_name


def query_rows(block: Telemetry, moment: int, ranks: Sequence[int], spec: RunSpec) -> list[str]:
    """The CSV rows of some GPUs at one moment of the block."""
    at = query_stamp(float(block.time_s[moment]), spec.start_unix_s)
    columns = _values(block, moment, ranks, QUERY_FIELDS)
    if not has_memory_sensor(spec.gpu):
        columns[2] = ["N/A"] * len(ranks)
    if not has_ecc(spec.gpu):
        columns[-2] = ["[N/A]"] * len(ranks)
    local = [rank % spec.cluster.gpus_per_node for rank in ranks]
    rows = [_QUERIED % row for row in zip(local, itertools.repeat(at), *columns)]
    for n in _lost_among(block, moment, ranks):
        rows[n] = _LOST % (local[n], at)
    return rows


def query_stamp(time_s: float, start_unix_s: int) -> str:
    """`2026/03/08 10:31:44.412`."""
    second, milli = divmod(round(time_s * 1000), 1000)
    date = datetime.fromtimestamp(start_unix_s + second, UTC)
    return f"{date:%Y/%m/%d %H:%M:%S}.{milli:03d}"


def dmon_rows(block: Telemetry, moment: int, ranks: Sequence[int], spec: RunSpec) -> list[str]:
    """The rows of `nvidia-smi dmon` of some GPUs at one moment of the block."""
    columns = _values(block, moment, ranks, DMON_FIELDS)
    columns[0] = [round(power_w) for power_w in columns[0]]
    if not has_memory_sensor(spec.gpu):
        columns[2] = ["-"] * len(ranks)
    local = [rank % spec.cluster.gpus_per_node for rank in ranks]
    rows = [_WATCHED % row for row in zip(local, *columns, strict=True)]
    for n in _lost_among(block, moment, ranks):
        rows[n] = _WATCHED_LOST % local[n]
    return rows


def _values(
    block: Telemetry, moment: int, ranks: Sequence[int], fields: Sequence[str]
) -> list[list[Any]]:
    """Columns of some GPUs at a moment."""
    rows = (block.columns[name][moment] for name in fields)
    if len(ranks) == len(block.columns[fields[0]][moment]):
        return [row.tolist() for row in rows]
    return [row[list(ranks)].tolist() for row in rows]


def _lost_among(block: Telemetry, moment: int, ranks: Sequence[int]) -> list[int]:
    """Positions in `ranks` of those that do not answer."""
    lost = frozenset(block.lost[moment])
    return [n for n, rank in enumerate(ranks) if rank in lost] if lost else []
