"""FIELDS: the columns of telemetry by name, and the law of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters.moments import rounded
from ghosttrain.core.laws.telemetry import memory_copy_frac
from ghosttrain.core.signals import Activity
from ghosttrain.core.telemetry.block import Block, whole

Column = NDArray[Any]  # float32 or int64, shape (K, G)
_Law = Callable[[Block], Column]


def _pipe(name: Activity) -> _Law:
    return lambda block: block.within_sm(name)


def _sign(name: str) -> _Law:
    return lambda block: block.sign(name)


def _counter(name: str) -> _Law:
    return lambda block: getattr(block.source.counters, name)(block.at)


def _mark(name: str) -> _Law:
    return lambda block: getattr(block.source.counters.marks, name)(block.at)


FIELDS: Final[Mapping[str, _Law]] = MappingProxyType(
    {
        "gpu_temp_c": lambda b: whole(b.samples.temp_c),
        "memory_temp_c": lambda b: b.memory_temp_c,
        "power_w": lambda b: b.samples.power_w,
        "power_limit_w": lambda b: b.limit_w,
        "energy_mj": _counter("energy_mj"),
        "sm_clock_mhz": lambda b: whole(b.clock_mhz),
        "mem_clock_mhz": lambda b: b.constant(b.source.plan.spec.gpu.memory_mhz),
        "clock_event_reasons": lambda b: b.clock_reasons,
        "gpu_util_pct": lambda b: whole(b.samples.util_pct),
        "mem_copy_util_pct": lambda b: np.minimum(
            whole(memory_copy_frac(b.dram_active) * np.float32(100)), whole(b.samples.util_pct)
        ),
        "enc_util_pct": lambda b: b.constant(0),
        "dec_util_pct": lambda b: b.constant(0),
        "fb_used_mib": lambda b: b.used_mib,
        "fb_free_mib": lambda b: b.free_mib,
        "fb_reserved_mib": lambda b: b.reserved_mib,
        "fb_total_mib": lambda b: b.constant(b.source.plan.spec.gpu.memory_mib),
        "xid": _sign("xid"),
        "pcie_replays": _sign("pcie-replay"),
        "ecc_sbe_volatile": _sign("ecc-corrected"),
        "ecc_dbe_volatile": _sign("ecc-uncorrected"),
        "ecc_sbe_aggregate": _mark("ecc_sbe_aggregate"),
        "ecc_dbe_aggregate": _mark("ecc_dbe_aggregate"),
        "uncorrectable_remapped_rows": _mark("uncorrectable_remapped_rows"),
        "correctable_remapped_rows": lambda b: b.constant(0),
        "row_remap_failure": _mark("row_remap_failure"),
        "row_remap_pending": _mark("row_remap_pending"),
        "retired_sbe": lambda b: b.constant(0),
        "retired_dbe": lambda b: b.constant(0),
        "retired_pending": lambda b: b.constant(0),
        "nvlink_total_kib": _counter("nvlink_total_kib"),
        "nvlink_total_mb_per_s": lambda b: rounded(b.nvlink_bytes_per_s * np.float32(2 / 1024e3)),
        "nvlink_tx_bytes_per_s": lambda b: rounded(b.nvlink_bytes_per_s),
        "nvlink_rx_bytes_per_s": lambda b: rounded(b.nvlink_bytes_per_s),
        "nvlink_crc_flit_errors": _sign("nvlink-crc"),
        "nvlink_crc_data_errors": lambda b: b.constant(0),
        "nvlink_replay_errors": lambda b: b.constant(0),
        "nvlink_recovery_errors": lambda b: b.constant(0),
        "pcie_tx_bytes_per_s": lambda b: b.pcie_bytes_per_s(0),
        "pcie_rx_bytes_per_s": lambda b: b.pcie_bytes_per_s(1),
        "pcie_tx_bytes": _counter("pcie_tx_bytes"),
        "pcie_rx_bytes": _counter("pcie_rx_bytes"),
        "power_violation_ns": _counter("power_violation_ns"),
        "thermal_violation_ns": _counter("thermal_violation_ns"),
        "sync_boost_violation_ns": lambda b: b.constant(0),
        "board_limit_violation_ns": lambda b: b.constant(0),
        "low_util_violation_ns": lambda b: b.constant(0),
        "reliability_violation_ns": lambda b: b.constant(0),
        "vgpu_license": lambda b: b.constant(0),
        "gr_active_frac": lambda b: b.samples.util_pct / np.float32(100),
        "sm_active_frac": lambda b: b.sm_active,
        "sm_occupancy_frac": _pipe("occupancy"),
        "tensor_active_frac": _pipe("tensor"),
        "dram_active_frac": lambda b: b.dram_active,
        "fp64_active_frac": lambda b: b.same_float(0.0),
        "fp32_active_frac": _pipe("fp32"),
        "fp16_active_frac": _pipe("fp16"),
    }
)
