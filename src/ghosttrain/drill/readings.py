"""What the run has shown between two moments: steps in columns, telemetry in means.

Nothing here looks beyond the moment it is asked for: a player cannot read ahead.

Shapes: S = steps, G = GPUs of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import FleetSampled, FleetSamples, Phase, StepsCompleted, join_steps
from ghosttrain.core.run import Run
from ghosttrain.core.signals import SignalSource

F64 = NDArray[np.float64]

NO_SAMPLES = 10**9  # steps between samples: none but that of step 1
_SAMPLES = 12  # of a stretch: their mean has a third of the noise of one

# Name, unit and format of what a GPU's telemetry says, in the order it is shown.
COLUMNS = {
    "util": ("GPU util", "%", ".1f"),
    "sm": ("SM active", "%", ".1f"),
    "tensor": ("tensor active", "%", ".1f"),
    "dram": ("DRAM active", "%", ".1f"),
    "clock": ("SM clock", "MHz", ".0f"),
    "power": ("power", "W", ".0f"),
    "temp": ("temperature", "C", ".1f"),
    "memory": ("memory", "GiB", ".2f"),
    "nvlink": ("NVLink", "GB/s", ".2f"),
    "network": ("network", "GB/s", ".2f"),
}
COUNTERS = {
    "ecc-corrected": "ECC corrected",
    "ecc-uncorrected": "ECC uncorrected",
    "row-remap": "rows to remap",
    "nvlink-crc": "NVLink CRC",
    "pcie-replay": "PCIe replays",
    "xid": "last Xid",
}


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """Means over a stretch.

    Attributes:
        columns: By the names of COLUMNS, shape (G,); NaN for a GPU that never answered.
        counters: (name, GPU, value) at the end of the stretch, of those above 0.
        lost: GPUs that do not answer at its end.
    """

    columns: dict[str, F64]
    counters: tuple[tuple[str, int, int], ...]
    lost: tuple[int, ...]


class Readings:
    """Reads one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._signals = SignalSource(run.plan, run.seed)
        spans = run.timeline.spans
        trained = (span.start_s for span in spans if span.phase is Phase.TRAINING)
        self.training_s = next(trained, 0.0)

    def steps(self, start_s: float, stop_s: float) -> StepsCompleted | None:
        """Steps that ended in [start_s, stop_s), repeated ones too; None if there were none."""
        events = self.run.events(start_s, stop_s, sample_every=NO_SAMPLES)
        parts = [event for event in events if isinstance(event, StepsCompleted)]
        return join_steps(parts) if parts else None

    def done(self, now_s: float) -> int:
        """Last completed step."""
        span = self.run.span_at(now_s)
        if span.phase is not Phase.TRAINING or not span.steps:
            return span.step
        steps = self.steps(span.start_s, now_s)
        return span.step if steps is None else max(span.step, int(steps.step[-1]))

    def telemetry(self, start_s: float, stop_s: float) -> Telemetry:
        """Means over [start_s, stop_s); at its end where nothing was sampled in it."""
        step_s = self.run.plan.step_time.total_s
        every = max(1, int((stop_s - start_s) / step_s / _SAMPLES))
        sums = {name: np.zeros(self.run.spec.cluster.gpus) for name in COLUMNS}
        answered = np.zeros(self.run.spec.cluster.gpus)
        for samples, k in self._samples(start_s, stop_s, every):
            values = self._values(samples, k)
            for name, value in values.items():
                sums[name] += np.nan_to_num(value)
            answered += np.isfinite(values["power"])
        now = self.at(stop_s)
        if not answered.any():
            return now
        with np.errstate(invalid="ignore"):  # a GPU that never answered has no mean
            columns = {name: total / answered for name, total in sums.items()}
        return Telemetry(columns, now.counters, now.lost)

    def at(self, time_s: float) -> Telemetry:
        """One sample."""
        samples = self.run.fleet(time_s)
        signs = self._signals.at(samples, 0).signs
        return Telemetry(self._values(samples, 0), signs, samples.lost)

    def usual(self, before_s: float) -> Telemetry | None:
        """The run's first quiet stretch: warm, past the slow first steps; None if too early."""
        start_s = self.training_s + self.warm_s
        stop_s = start_s + 100 * self.run.plan.step_time.total_s
        return self.telemetry(start_s, stop_s) if stop_s <= before_s else None

    @property
    def warm_s(self) -> float:
        """How long GPUs take to be as warm as they get, but no more than a tenth of the run."""
        return min(600.0, 0.1 * self.run.plan.run_s)

    def _samples(
        self, start_s: float, stop_s: float, every: int
    ) -> Iterator[tuple[FleetSamples, int]]:
        for event in self.run.events(start_s, stop_s, sample_every=every):
            if isinstance(event, FleetSampled):
                yield event.samples, 0
            elif isinstance(event, StepsCompleted) and event.fleet is not None:
                for k in range(len(event.fleet.step)):
                    yield event.fleet, k

    def _values(self, samples: FleetSamples, k: int) -> dict[str, F64]:
        signals = self._signals.at(samples, k)
        raw = {
            "util": samples.util_pct[k],
            "sm": 100 * signals.sm_active,
            "tensor": 100 * signals.tensor_active,
            "dram": 100 * signals.dram_active,
            "clock": signals.sm_clock_mhz,
            "power": samples.power_w[k],
            "temp": samples.temp_c[k],
            "memory": samples.memory_gib[k],
            "nvlink": signals.nvlink_bytes_per_s / 1e9,
            "network": signals.network_bytes_per_s / 1e9,
        }
        values = {name: value.astype(np.float64) for name, value in raw.items()}
        for value in values.values():
            value[list(samples.lost)] = np.nan
        return values


def robust_z(values: F64) -> F64:
    """Distance of each value from the median, in robust standard deviations.

    The deviation is taken as a thousandth of the median at least: of values that hardly differ
    the one that differs a little does not stand out.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return np.full_like(values, np.nan)
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle)))  # of a normal distribution
    return np.asarray((values - middle) / max(spread, 1e-3 * abs(middle), 1e-9))
