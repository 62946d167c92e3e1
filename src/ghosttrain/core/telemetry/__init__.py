"""Telemetry: what drivers and exporters read of all GPUs at any moments of a run.

One simulated state: temperature, power, utilisation and memory are those of `Run.fleet(at)`, clocks
and activity those of `signals.py`, as NVML and DCGM report them (whole degrees, MHz, MiB and
percent; power with its fraction). Counters are integrals in closed form (`counters.py`), so that a
moment costs the same on the first and on the last day.

Shapes: K = moments, ascending; G = GPUs of the run.
"""

from ghosttrain.core.telemetry.block import (
    CLOCK_HW_SLOWDOWN,
    CLOCK_HW_THERMAL,
    CLOCK_IDLE,
    CLOCK_SW_POWER_CAP,
    CLOCK_SW_THERMAL,
)
from ghosttrain.core.telemetry.fields import FIELDS
from ghosttrain.core.telemetry.source import Telemetry, TelemetrySource

__all__ = [
    "CLOCK_HW_SLOWDOWN",
    "CLOCK_HW_THERMAL",
    "CLOCK_IDLE",
    "CLOCK_SW_POWER_CAP",
    "CLOCK_SW_THERMAL",
    "FIELDS",
    "Telemetry",
    "TelemetrySource",
]
