"""Which telemetry a table has, by names of ours or of DCGM, and how its values are written."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError, nearest
from ghosttrain.core.telemetry import FIELDS

# What a GPU's cell in the show has, too: how busy, how warm, how hungry, how full it is.
DEFAULT_METRICS = ("gpu_util_pct", "gpu_temp_c", "power_w", "fb_used_mib")
_NARROW = ("_pct", "_c")  # up to some hundreds
_WIDE_GAUGES = ("_bytes_per_s", "_kib", "_bytes", "_mj", "_ns")  # beyond 32 bits
_DECIMALS = {"_w": 1, "_frac": 3}  # what nvidia-smi shows of watts; profiling counts per mille


class MetricColumn(NamedTuple):
    """A field of telemetry as a column of a table."""

    field: str
    type: str

    def quantised(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values as the column has them, shape as given."""
        if self.type != "float":
            return values.astype(np.dtype(self.type))
        for suffix, decimals in _DECIMALS.items():
            if self.field.endswith(suffix):
                # Scaled by hand: np.round of float32 is many times as slow.
                scale = np.float32(10**decimals)
                return np.rint(values * scale) / scale
        return values.astype(np.float32)


def chosen_metrics(names: tuple[str, ...] | None) -> list[MetricColumn]:
    """The columns asked for, the usual ones for None."""
    return [metric_column(name) for name in (DEFAULT_METRICS if names is None else names)]


def metrics_of(text: str) -> tuple[str, ...]:
    """Fields that `text` names by commas: gpu_temp_c, or DCGM_FI_DEV_GPU_TEMP.

    Raises:
        SpecError: If there is none, or no such.
    """
    dcgm = {m.name.casefold(): m.field for m in catalog.metrics() if m.field in FIELDS}
    chosen: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name = dcgm.get(word.casefold(), word.casefold())
        if name not in FIELDS:
            near = nearest(word.casefold(), [*FIELDS, *dcgm])
            hint = f"did you mean {near}?" if near else "`ghosttrain list metrics` has them"
            raise SpecError(f"--metrics: unknown metric {word!r}: {hint}")
        chosen.append(name)
    if not chosen:
        raise SpecError(f"--metrics {text!r} names none: give some as in power_w,gpu_temp_c")
    return tuple(dict.fromkeys(chosen))


def metric_column(field: str) -> MetricColumn:
    """A field as a column: the narrowest type that holds what it says."""
    if field.endswith(tuple(_DECIMALS)):
        return MetricColumn(field, "float")
    if field.endswith(_NARROW):
        return MetricColumn(field, "int16")
    counters = {m.field for m in catalog.metrics() if m.kind == "counter"}
    is_wide = field in counters or field.endswith(_WIDE_GAUGES)
    return MetricColumn(field, "int64" if is_wide else "int32")
