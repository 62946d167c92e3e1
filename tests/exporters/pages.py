"""Hand-made states of a small fleet, and readers of the pages made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ghosttrain.core.events import Phase
from ghosttrain.core.job import JobState, LastStep
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.prometheus.dcgm import Dialect
from ghosttrain.exporters.prometheus.gpu_page import GpuPages
from tests.exporters.runs import small_spec

# A line about a GPU: name, labels in order, value. Go writes integers bare, doubles with %f.
GPU_LINE = re.compile(
    r"^(?P<name>DCGM_FI_\w+)\{(?P<labels>[a-zA-Z_]+=\"[^\"]*\"(?:,[a-zA-Z_]+=\"[^\"]*\")*)\}"
    r" (?P<value>-?\d+(?:\.\d{6})?)$"
)


@dataclass(frozen=True)
class Row:
    """A row of the catalogue, as far as a page needs it."""

    name: str
    field: str
    kind: str
    help: str
    lists: tuple[str, ...] = ("default",)
    decimals: int = 0


TEMP = Row("DCGM_FI_DEV_GPU_TEMP", "gpu_temp_c", "gauge", "GPU temperature (in C).")
POWER = Row("DCGM_FI_DEV_POWER_USAGE", "power_w", "gauge", "Power draw (in W).", decimals=6)
ENERGY = Row(
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "energy_mj", "counter",
    "Total energy consumption since boot (in mJ).",
)  # fmt: skip
UTIL = Row("DCGM_FI_DEV_GPU_UTIL", "gpu_util_pct", "gauge", "GPU utilization (in %).")
XID = Row("DCGM_FI_DEV_XID_ERRORS", "xid", "gauge", "Value of the last XID error encountered.")
TENSOR = Row(
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "tensor_active_frac", "gauge",
    "Ratio of cycles the tensor (HMMA) pipe is active.", ("profiling",), 6,
)  # fmt: skip
ROWS: tuple[Any, ...] = (TEMP, POWER, ENERGY, UTIL, XID, TENSOR)


@dataclass
class State:
    """Telemetry of one moment."""

    columns: dict[str, Any]
    lost: tuple[tuple[int, ...], ...] = ((),)
    attempt: Any = field(default_factory=lambda: np.array([1]))
    nodes_down: tuple[tuple[int, ...], ...] = ((),)


@cache
def small_run() -> Run:
    return simulate(small_spec(), 7)


def state(gpus: int = 16, **changes: Any) -> Any:
    """Telemetry whose values tell which GPU they are of."""
    g = np.arange(gpus)[None]
    columns: dict[str, Any] = {
        "gpu_temp_c": 40 + g,
        "power_w": (600 + g + 0.424).astype(np.float32),
        "energy_mj": 10**12 + g,
        "gpu_util_pct": 100 - g,
        "xid": 0 * g,
        "tensor_active_frac": (0.5 + g / 1000).astype(np.float32),
    }
    columns.update(changes.pop("columns", {}))
    return State(columns, **changes)


def page(
    telemetry: Any, *, rows: Any = ROWS, run: Any = None, release: str = "", **how: Any
) -> str:
    dialect = Dialect.of(release or "4.5.3-4.8.2", how.pop("mapping", "none"))
    pages = GpuPages(run or small_run(), rows, dialect)
    return b"".join(pages.render(telemetry, **how)).decode()


LAST = LastStep(40, 178.0, 3.25, 0.5, 2e-4, 4.5, 116508.4, 0.41, 405.0, 90.0, None)


def job_state(**changes: Any) -> JobState:
    """A job in its 41st step; `last` None is one before its first."""
    values: dict[str, Any] = {
        "time_s": 180.0, "phase": Phase.TRAINING, "attempt": 1, "step": 40, "total_steps": 60,
        "epoch": 1, "tokens": 40 * 524288, "samples": 40 * 64, "validation": None,
        "last": LAST,
        "checkpoint": None, "restarts": 0, "faults": {}, "steps_lost": 0, "nan_steps": 0,
        "goodput": 0.8, "is_hung": False, "is_down": False, "since_step_s": 2.0,
        "spent_s": {"init": 31.0, "steps": 149.0}, "lost_s": 0.0, "nodes_down": (),
    }  # fmt: skip
    return JobState(**values | changes)
