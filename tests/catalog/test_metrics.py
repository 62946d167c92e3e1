"""Metrics: dcgm-exporter's names in its order, and how each is printed."""

from __future__ import annotations

import re

from ghosttrain import catalog

# NVIDIA/dcgm-exporter, etc/default-counters.csv: what is not commented out, in its order.
DEFAULT = """
SM_CLOCK MEM_CLOCK MEMORY_TEMP GPU_TEMP POWER_USAGE TOTAL_ENERGY_CONSUMPTION PCIE_REPLAY_COUNTER
GPU_UTIL MEM_COPY_UTIL ENC_UTIL DEC_UTIL XID_ERRORS FB_FREE FB_USED FB_RESERVED
NVLINK_BANDWIDTH_TOTAL VGPU_LICENSE_STATUS UNCORRECTABLE_REMAPPED_ROWS CORRECTABLE_REMAPPED_ROWS
ROW_REMAP_FAILURE
"""
PROFILING = "GR_ENGINE_ACTIVE PIPE_TENSOR_ACTIVE DRAM_ACTIVE PCIE_TX_BYTES PCIE_RX_BYTES"


def test_the_default_list_is_the_exporters_in_its_order():
    names = [f"DCGM_FI_DEV_{name}" for name in DEFAULT.split()]
    names += [f"DCGM_FI_PROF_{name}" for name in PROFILING.split()]
    assert [metric.name for metric in catalog.metrics("default")] == names


def test_lists_divide_the_metrics():
    metrics = catalog.metrics()
    profiling = re.compile("DCGM_FI_PROF_(?!.*_TOTAL)")
    assert set(catalog.metrics("profiling")) == {m for m in metrics if profiling.match(m.name)}
    for metric in metrics:
        assert sum(name in metric.lists for name in ("default", "extra", "further")) == 1
    assert not set(metrics) & set(catalog.metrics("node"))
    assert len({metric.name for metric in metrics}) == len(metrics)


def test_what_dcgm_keeps_as_a_double_has_six_decimals():
    for metric in catalog.metrics():
        is_double = metric.field.endswith(("_frac", "_w"))
        assert metric.decimals == (6 if is_double else 0), metric.name
        assert metric.kind == ("counter" if is_counter(metric.field) else "gauge"), metric.name
        assert metric.help
        assert metric.source


def is_counter(field: str) -> bool:
    counted = ("energy_mj", "pcie_replays", "nvlink_total_kib", "pcie_tx_bytes", "pcie_rx_bytes")
    return (
        field in counted
        or field.endswith(("_violation_ns", "_volatile", "_aggregate", "_errors", "remapped_rows"))
        or field.startswith("retired_")
    )
