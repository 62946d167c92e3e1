"""Signals: what else the telemetry of the GPUs says, from a sample and its conditions.

A sample holds what every screen shows; the rest follows from it when somebody asks. Whoever waits
has full GPU_UTIL and idle tensor cores; a throttled GPU has a low clock; a GPU that does not
answer has nothing. Counters and marks (ECC errors, Xids) are sparse: most GPUs have none.

Shapes: G = GPUs of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

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
from ghosttrain.core.laws.telemetry import SPINNING_OCCUPANCY, training_pipes
from ghosttrain.core.laws.thermal import sm_clock_mhz, training_activity
from ghosttrain.core.laws.volume import step_volume
from ghosttrain.core.plan import Plan
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.variety import Variety

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Activity = Literal["sm", "tensor", "dram", "occupancy", "fp32", "fp16"]
Link = Literal["nvlink", "network"]

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


@dataclass(frozen=True, slots=True)
class _Pipe:
    """One of the shares of time or cycles that DCGM counts, 0..1.

    Attributes:
        training: In an undisturbed step.
        waiting: While a step waits in a collective.
        most: Ceiling of a GPU that is busier than the others because it is slower.
        phases: Outside of steps and validations.
    """

    training: float
    waiting: float
    most: float
    phases: Mapping[Phase, float]


class SignalSource:
    """Computes the signals of one run's samples.

    Shapes: K = samples under one condition (of one span), G = GPUs of the run.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.variety = Variety(plan, seed)
        self._slowdown = Slowdown(plan)
        gpu, recompute = plan.spec.gpu, plan.layout.recompute
        sm, memory = training_activity(plan.step_time)
        # PIPE_TENSOR_ACTIVE counts cycles of the actual clock, MFU the peak's; with full
        # recomputation a third more products are done than MFU counts.
        tensor = plan.mfu * gpu.boost_mhz / gpu.sustained_mhz
        tensor *= 4 / 3 if recompute == "full" else 1.0
        sm, memory = min(_MOST_ACTIVE, sm), min(_MOST_ACTIVE, memory)
        tensor = min(tensor, 0.97 * sm)
        spinning = {phase: shares[0] for phase, shares in _ACTIVITY.items()}
        streaming = {phase: shares[1] for phase, shares in _ACTIVITY.items()}
        resident = {phase: share * SPINNING_OCCUPANCY for phase, share in spinning.items()}
        occupancy, fp32, fp16 = training_pipes(plan.step_time)
        waiting_occupancy = _WAITING_SM * SPINNING_OCCUPANCY
        none: Mapping[Phase, float] = {}
        self._pipes: dict[Activity, _Pipe] = {
            "sm": _Pipe(sm, _WAITING_SM, _MOST_ACTIVE, spinning),
            "tensor": _Pipe(tensor, 0.0, 0.97 * _MOST_ACTIVE, none),
            "dram": _Pipe(memory, 0.0, _MOST_ACTIVE, streaming),
            "occupancy": _Pipe(occupancy, waiting_occupancy, _MOST_ACTIVE, resident),
            "fp32": _Pipe(fp32, 0.0, _MOST_ACTIVE, none),
            "fp16": _Pipe(fp16, 0.0, _MOST_ACTIVE, none),
        }
        self.volume = step_volume(
            plan.spec.model, plan.params, plan.spec.recipe, plan.layout, gpu, plan.spec.cluster
        )

    def at(self, samples: FleetSamples, k: int) -> Signals:
        """The signals of sample `k`."""
        one = samples.part(k, k + 1)
        sm, clock = self.active(one, "sm"), self.clock_mhz(one)
        tensor = np.minimum(self.active(one, "tensor", clock), sm)
        nvlink, network = self.traffic(one)
        return Signals(
            clock[0],
            sm[0],
            tensor[0],
            self.active(one, "dram")[0],
            self.carried(one, "nvlink", nvlink)[0],
            self.carried(one, "network", network)[0],
            shown_signs(one.conditions[0].signs, float(one.time_s[0])),
        )

    def clock_mhz(self, samples: FleetSamples) -> F32:
        """SM clock of samples under one condition, shape (K, G)."""
        gpu, condition = self.plan.spec.gpu, samples.conditions[0]
        clock = sm_clock_mhz(gpu, samples.power_w)
        if condition.phase is Phase.DOWN:  # no context holds it up
            clock[:] = _IDLE_MHZ.get(gpu.arch, _OTHER_IDLE_MHZ)
        factor = self._factor(samples)
        for effect, extra in self.apart(condition):
            if not extra:
                continue
            at = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
            # The clock it would have at the power it would draw, and so much slower.
            drawn = slowed_level(extra, factor).astype(np.float32)[:, None]
            dynamic_w = (samples.power_w[:, at] - np.float32(gpu.loaded_idle_w)) / drawn
            slower = np.float32(1 + extra)
            clock[:, at] = sm_clock_mhz(gpu, gpu.loaded_idle_w + dynamic_w) / slower
        return self._answering(samples, clock)

    def active(self, samples: FleetSamples, name: Activity, clock_mhz: F32 | None = None) -> F32:
        """A share of time or cycles of samples under one condition, 0..1, shape (K, G).

        SM activity is never above the share in which any kernel runs; that the tensor cores, the
        other pipes and the occupancy are never above SM activity is the caller's: it has both.

        Args:
            samples: The samples.
            name: Which.
            clock_mhz: Their `clock_mhz`, where the caller has it already.
        """
        pipe = self._pipes[name]
        out = self._of_all(samples, name, self.variety.of_gpus(samples, name))
        if name == "tensor" and self._is_computing(samples):
            # All ranks of a synchronous job do the same work in the same time: at a higher clock
            # it takes a smaller share of the cycles.
            clock = self.clock_mhz(samples) if clock_mhz is None else clock_mhz
            out *= np.float32(self.plan.spec.gpu.sustained_mhz) / np.maximum(clock, np.float32(1))
        if pipe.training > 0.8 * pipe.most or name == "tensor":
            np.minimum(out, np.float32(pipe.most), out=out)
        out = self._answering(samples, out)
        if name == "sm":
            np.minimum(out, samples.util_pct / 100, out=out)
        return out

    def _of_all(self, samples: FleetSamples, name: Activity, of_gpus: F32) -> F32:
        """The law's share (of tensor cores at the sustained clock) times `of_gpus`."""
        pipe, condition = self._pipes[name], samples.conditions[0]
        factor = self._factor(samples)
        out = self._share(pipe, condition, factor).astype(np.float32)[:, None] * of_gpus
        for effect, extra in self.apart(condition):
            at = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
            if effect.effect in IDLE_EFFECTS:
                own = pipe.training * np.minimum(1.0, 1 / factor)
            elif extra and name != "tensor":  # of that the clock tells
                work = np.minimum(1.0, (1 + extra) / factor)
                own = np.minimum(pipe.most, pipe.training * work + pipe.waiting * (1 - work))
            else:
                continue
            out[:, at] = own.astype(np.float32)[:, None] * of_gpus[:, at]
        return out

    @staticmethod
    def _is_computing(samples: FleetSamples) -> bool:
        return samples.conditions[0].phase in (Phase.TRAINING, Phase.VALIDATION)

    def traffic(self, samples: FleetSamples) -> tuple[F64, F64]:
        """Bytes/s that a GPU sends over NVLink and over the network by the law, (K,) each."""
        step_s = samples.step_time_s
        if samples.conditions[0].phase is not Phase.TRAINING or not step_s[0]:
            return np.zeros(len(step_s)), np.zeros(len(step_s))
        return self.volume.nvlink_bytes / step_s, self.volume.network_bytes / step_s

    def carried(self, samples: FleetSamples, link: Link, bytes_per_s: F64) -> F32:
        """Bytes/s that each GPU's link carries where the law has `bytes_per_s`, shape (K, G)."""
        rate = bytes_per_s.astype(np.float32)[:, None] * self.variety.of_gpus(samples, link)
        return self._answering(samples, rate)

    def apart(self, condition: Condition) -> list[tuple[ActiveEffect, float]]:
        """Effects that set GPUs apart in a step, and how much longer kernels take there."""
        if condition.phase is not Phase.TRAINING:
            return []
        extra, since_s = self._slowdown.kernel_extra, condition.since_s
        return [
            (effect, extra(effect.effect, effect.stretch_level(since_s)) if clocked else 0.0)
            for effect in condition.effects
            if (clocked := effect.effect in CLOCK_EFFECTS) or effect.effect in IDLE_EFFECTS
        ]

    def _factor(self, samples: FleetSamples) -> F64:
        """Step time over the undisturbed one, 0 outside steps, shape (K,)."""
        return samples.step_time_s / self.plan.step_time.total_s

    def _share(self, pipe: _Pipe, condition: Condition, factor: F64) -> F64:
        """What most GPUs have, shape (K,)."""
        if condition.phase is Phase.TRAINING and factor[0]:
            work = np.minimum(1.0, 1 / factor)
            return np.asarray(pipe.training * work + pipe.waiting * (1 - work))
        if condition.phase is Phase.VALIDATION:
            return np.full(len(factor), _VALIDATION_SHARE * pipe.training)
        return np.full(len(factor), pipe.phases.get(condition.phase, 0.0))

    @staticmethod
    def _answering(samples: FleetSamples, column: F32) -> F32:
        """The column with nothing from GPUs that do not answer."""
        column[:, list(samples.lost)] = 0.0
        return column
