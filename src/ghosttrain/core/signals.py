"""Signals: what else the telemetry of the GPUs says, from a sample and its conditions.

A sample holds what every screen shows; the rest follows from it when somebody asks. Whoever waits
has full GPU_UTIL and idle tensor cores; a throttled GPU has a low clock; a GPU that does not
answer has nothing. Counters and marks (ECC errors, Xids) are sparse: most GPUs have none.

Shapes: G = GPUs of the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import Condition, FleetSamples, Phase
from ghosttrain.core.laws.faults import (
    CLOCK_EFFECTS,
    IDLE_EFFECTS,
    ActiveEffect,
    ActiveSign,
    slowed_level,
)
from ghosttrain.core.laws.thermal import sm_clock_mhz, training_activity
from ghosttrain.core.laws.volume import step_volume
from ghosttrain.core.plan import Plan
from ghosttrain.core.slowdown import Slowdown

F32 = NDArray[np.float32]

# Shares of time in which SMs and memory are active outside of steps. A spinning collective keeps
# some SMs busy (NCCL takes 8 to 24 of 132, and they only poll); a validation is a forward pass.
_ACTIVITY: dict[Phase, tuple[float, float]] = {
    Phase.WEIGHTS: (0.02, 0.05),
    Phase.ALL_REDUCE_TEST: (0.15, 0.20),
    Phase.HANG: (0.12, 0.01),
    Phase.CHECKPOINT: (0.01, 0.04),
    Phase.EXPORT: (0.01, 0.03),
}
# SM clock without a process, as `nvidia-smi` shows it: H100 345, A100 210 MHz; others estimated.
_IDLE_MHZ = {"Hopper": 345.0, "Ampere": 210.0}
_OTHER_IDLE_MHZ = 300.0
_VALIDATION_SHARE = 0.95  # of the activity while training: no optimizer, less traffic
_WAITING_SM = 0.12  # of a step spent spinning
# Ceilings of what a DCGM ratio can be beside GPU_UTIL, which counts any kernel.
_MOST_ACTIVE = 0.99


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """Telemetry of all GPUs at a moment; shape (G,) where not said otherwise.

    Attributes:
        sm_clock_mhz: SM clock.
        sm_active, tensor_active, dram_active: Shares of cycles (0..1), as DCGM's PROF fields.
        nvlink_bytes_per_s, network_bytes_per_s: Sent, and as much received.
        signs: Counters and marks above 0: (name, GPU, value).
    """

    sm_clock_mhz: F32
    sm_active: F32
    tensor_active: F32
    dram_active: F32
    nvlink_bytes_per_s: F32
    network_bytes_per_s: F32
    signs: tuple[tuple[str, int, int], ...]


def shown_signs(signs: Iterable[ActiveSign], time_s: float) -> tuple[tuple[str, int, int], ...]:
    """(name, GPU, value) of what shows at a moment, by name: counts add up, the last Xid stays."""
    shown: dict[tuple[str, int], int] = {}
    for sign in signs:
        if value := sign.value(time_s):
            key = sign.name, sign.first_gpu
            shown[key] = value if sign.name == "xid" else shown.get(key, 0) + value
    return tuple((name, gpu, value) for (name, gpu), value in sorted(shown.items()))


class SignalSource:
    """Computes the signals of one run's samples."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._slowdown = Slowdown(plan)
        gpu, recompute = plan.spec.gpu, plan.layout.recompute
        sm, memory = training_activity(plan.step_time)
        # PIPE_TENSOR_ACTIVE counts cycles of the actual clock, MFU the peak's; with full
        # recomputation a third more products are done than MFU counts.
        tensor = plan.mfu * gpu.boost_mhz / gpu.sustained_mhz
        tensor *= 4 / 3 if recompute == "full" else 1.0
        self._sm = min(_MOST_ACTIVE, sm)
        self._tensor = min(tensor, 0.97 * self._sm)
        self._memory = min(_MOST_ACTIVE, memory)
        self._volume = step_volume(
            plan.spec.model, plan.params, plan.spec.recipe, plan.layout, gpu, plan.spec.cluster
        )

    def at(self, samples: FleetSamples, k: int) -> Signals:
        """The signals of sample `k`."""
        plan, condition = self.plan, samples.conditions[k]
        gpus = plan.spec.cluster.gpus
        time_s, step_s = float(samples.time_s[k]), float(samples.step_time_s[k])
        factor = step_s / plan.step_time.total_s if step_s else 0.0
        sm, tensor, memory = self._activity(condition, factor)
        columns = [np.full(gpus, value, np.float32) for value in (sm, tensor, memory)]
        clock = sm_clock_mhz(plan.spec.gpu, samples.power_w[k])
        if condition.phase is Phase.DOWN:  # no context holds it up
            clock[:] = _IDLE_MHZ.get(plan.spec.gpu.arch, _OTHER_IDLE_MHZ)
        rates = [0.0, 0.0]
        if condition.phase is Phase.TRAINING and step_s:
            rates = [self._volume.nvlink_bytes / step_s, self._volume.network_bytes / step_s]
        columns += [np.full(gpus, rate, np.float32) for rate in rates]
        if condition.phase is Phase.TRAINING:
            for effect in condition.effects:
                if effect.effect in (*CLOCK_EFFECTS, *IDLE_EFFECTS):
                    self._set_apart(effect, condition, factor, columns, clock, samples.power_w[k])
        for column in (clock, *columns):
            column[list(samples.lost)] = 0.0
        # A share of a step is never above that of any kernel.
        np.minimum(columns[0], samples.util_pct[k] / 100, out=columns[0])
        np.minimum(columns[1], columns[0], out=columns[1])
        signs = shown_signs(condition.signs, time_s)
        return Signals(clock, columns[0], columns[1], columns[2], columns[3], columns[4], signs)

    def _activity(self, condition: Condition, factor: float) -> tuple[float, float, float]:
        """SM, tensor and memory activity of most GPUs."""
        if condition.phase is Phase.TRAINING and factor:
            work = min(1.0, 1 / factor)
            sm = self._sm * work + _WAITING_SM * (1 - work)
            return sm, self._tensor * work, self._memory * work
        if condition.phase is Phase.VALIDATION:
            share = _VALIDATION_SHARE
            return share * self._sm, share * self._tensor, share * self._memory
        sm, memory = _ACTIVITY.get(condition.phase, (0.0, 0.0))
        return sm, 0.0, memory

    def _set_apart(
        self,
        effect: ActiveEffect,
        condition: Condition,
        factor: float,
        columns: list[F32],
        clock: F32,
        power_w: F32,
    ) -> None:
        """GPUs that the others wait for: busier at a lower clock, or with nothing to run."""
        at = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
        if effect.effect in IDLE_EFFECTS:
            for column, active in zip(
                columns, (self._sm, self._tensor, self._memory), strict=False
            ):
                column[at] = active * min(1.0, 1 / factor)
            return
        level = effect.stretch_level(condition.since_s)
        extra = self._slowdown.kernel_extra(effect.effect, level)
        if not extra:
            return
        work = min(1.0, (1 + extra) / factor)
        columns[0][at] = min(_MOST_ACTIVE, self._sm * work + _WAITING_SM * (1 - work))
        columns[1][at] = min(self._tensor * work, 0.97 * _MOST_ACTIVE)
        columns[2][at] = min(_MOST_ACTIVE, self._memory * work)
        gpu = self.plan.spec.gpu
        # The clock it would have at the power it would draw, and so much slower.
        dynamic_w = (power_w[at] - gpu.loaded_idle_w) / float(slowed_level(extra, factor))
        clock[at] = sm_clock_mhz(gpu, gpu.loaded_idle_w + dynamic_w) / (1 + extra)
