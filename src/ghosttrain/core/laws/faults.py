"""What effects of faults change: pace, power, temperature, clocks, loss, counters.

Everything is closed: a value at a moment or a step follows from the effect's onset and
severity alone. A synchronous job goes at the pace of its slowest rank; whoever waits for it
spins in a collective: full GPU_UTIL, idle tensor cores, a fraction of the power.

Sources: power against clock, P ~ f^2.4, and the third of its limit that a GPU draws while it spins
(Patel et al. 2024, arXiv:2308.12908; BigScience tr11 chronicles: "GPUs spinning at 100 %");
loss spikes after BLOOM-176B's of 2022-04-12 (bigscience tr11 logs: gradient norm .24, .95, 2.4,
15.9, 145, 960 before and at the peak, loss 2.20 to 5.10, back after 31 steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.compute import StepTime
from ghosttrain.core.laws.thermal import PHASE_LEVELS, heat_left
from ghosttrain.core.spec import Effect, Gpu, Sign

F64 = NDArray[np.float64]

WAITING_LEVEL = PHASE_LEVELS["hang"]  # of the dynamic power, while spinning in a collective
CLOCK_EXPONENT = 2.4  # of power against clock near the limit
THROTTLE_MARGIN_C = 1.0  # a throttled GPU settles so far below its slow-down temperature
_PREHEAT_C = 6.5  # of the air that the last GPU of a chassis breathes, at full load

_COMPUTE = ("gemm_s", "attention_s", "memory_bound_s", "recompute_s", "optimizer_s")

LOSS_EFFECTS: tuple[Effect, ...] = (
    "loss-spike",
    "stuck-spike",
    "loss-bump",
    "loss-nan",
    "divergence",
    "corruption",
)
HEAT_EFFECTS: tuple[Effect, ...] = ("hot-air", "weak-cooling")
CLOCK_EFFECTS: tuple[Effect, ...] = ("slow-compute", "power-cap", *HEAT_EFFECTS)
COMPUTE_EFFECTS: tuple[Effect, ...] = (*CLOCK_EFFECTS, "slow-host")
IDLE_EFFECTS: tuple[Effect, ...] = ("slow-host", "late-data")  # its GPUs have nothing to run
NETWORK_EFFECTS: tuple[Effect, ...] = ("slow-link", "slow-network")
APART_EFFECTS: tuple[Effect, ...] = (*CLOCK_EFFECTS, *IDLE_EFFECTS)  # on the GPUs they sit at
RAMP_PARTS = 6  # stretches of even pace that a growing effect is cut into
PACE_EFFECTS: tuple[Effect, ...] = (*COMPUTE_EFFECTS, *NETWORK_EFFECTS, "late-data")


@dataclass(frozen=True, slots=True)
class ActiveEffect:
    """An effect of an incident.

    Attributes:
        incident: Number of the incident.
        first_gpu, gpus: Where.
        severity: Once it is fully there, in the effect's unit.
        since_s, until_s: Onset and end.
        ramp_s: Time from the onset to the full severity.
        since_step: First step it touches.
    """

    incident: int
    effect: Effect
    first_gpu: int
    gpus: int
    severity: float
    since_s: float
    until_s: float
    ramp_s: float
    since_step: int

    def level(self, time_s: float) -> float:
        """Severity at a moment within it."""
        if self.ramp_s <= 0:
            return self.severity
        return self.severity * min(1.0, max(0.0, (time_s - self.since_s) / self.ramp_s))

    def stretch_level(self, start_s: float) -> float:
        """Severity that sets the pace of a stretch from `start_s`: that in its middle."""
        return self.level(start_s + self.ramp_s / (2 * RAMP_PARTS))


@dataclass(frozen=True, slots=True)
class ActiveSign:
    """A counter or mark of GPUs that an incident moves, from `since_s` to `until_s`.

    It counts `start` and `per_hour` more each hour. It stays when the incident is over, until the
    GPU is reset or swapped (`gone_s`). The name is that of the kind's sign, or "xid".
    """

    incident: int
    name: Sign | Literal["xid"]
    first_gpu: int
    gpus: int
    start: float
    per_hour: float
    since_s: float
    until_s: float
    gone_s: float

    def value(self, time_s: float) -> int:
        """What it shows at a moment."""
        if not self.since_s <= time_s < self.gone_s:
            return 0
        hours = (min(time_s, self.until_s) - self.since_s) / 3600
        return int(self.start + self.per_hour * hours)


# Pace.


def compute_share(step: StepTime) -> float:
    """Share of a step that goes with the speed of a GPU's own kernels."""
    return math.fsum(getattr(step, name) for name in _COMPUTE) / step.total_s


def compute_extra(effect: Effect, severity: float, gpu: Gpu, power_w: float, air_c: float) -> float:
    """How much longer an affected GPU's kernels take, as a share of their time.

    Args:
        effect: One of COMPUTE_EFFECTS.
        severity: In its unit.
        gpu: The card.
        power_w: What it draws while training, undisturbed.
        air_c: Inlet air of the cluster.
    """
    if effect in ("slow-compute", "slow-host"):
        return severity
    allowed_w = power_w
    if effect == "power-cap":
        allowed_w = (1 - severity) * gpu.tdp_w
    else:
        load = power_w / gpu.tdp_w
        inlet_c = air_c + _PREHEAT_C * load + (severity if effect == "hot-air" else 0.0)
        growth = 1 + severity if effect == "weak-cooling" else 1.0
        room_c = gpu.slowdown_c - THROTTLE_MARGIN_C - inlet_c
        allowed_w = room_c / (growth * gpu.thermal_resistance_c_per_w)
    allowed_w = max(allowed_w, gpu.loaded_idle_w + 0.1 * (gpu.tdp_w - gpu.loaded_idle_w))
    return max(0.0, math.pow(power_w / allowed_w, 1 / CLOCK_EXPONENT) - 1)


# Power.


def waiting_level(factor: F64 | float) -> F64:
    """Dynamic power of a GPU whose step takes `factor` times as long by waiting, 0..1."""
    return np.asarray(WAITING_LEVEL + (1 - WAITING_LEVEL) / np.asarray(factor))


def slowed_level(extra: float, factor: F64 | float) -> F64:
    """Dynamic power of a GPU whose kernels take 1 + `extra` as long: lower clock, less waiting."""
    busy = np.minimum(1.0, (1 + extra) / np.asarray(factor))
    clock = 1 / (1 + extra)
    return np.asarray(WAITING_LEVEL * (1 - busy) + (busy * clock**CLOCK_EXPONENT))


def idle_level(factor: F64 | float) -> F64:
    """Dynamic power of a GPU that has nothing to run while the others wait for it."""
    return np.asarray(1 / np.asarray(factor))


def felt_share(time_s: F64, since_s: float, until_s: float) -> F64:
    """Share of a lasting warming that a GPU's temperature has taken on, 0..1, shape (K,)."""
    gone = heat_left(time_s - until_s) if math.isfinite(until_s) else np.ones_like(time_s)
    return np.asarray(gone - heat_left(time_s - since_s))


# Loss.

_RISE = (0.007, 0.14, 0.014, 0.05, 1.0)  # of the height, from the first touched step to the peak
_PEAK = len(_RISE) - 1
# The height falls to 45 % in a step, to 20 % in three, and to 2 % in thirty.
_FALL = ((0.50, 0.6), (0.46, 3.5))  # weight and steps
_TAIL, _TAIL_STEPS, _TAIL_END_STEPS = 0.04, 20.0, 400.0
_STUCK = 0.15  # of the height stays of a spike that does not heal: operators see that and go back
_GRAD_PER_NAT = 1400.0  # the peak of the gradient norm over its trend: 4,000 at 2.9 nats
SPIKE_OVER_STEPS = 60  # after so many steps a spike has sunk into the noise
SPIKE_GONE_STEPS = 2500  # and its tail below a tenth of a millinat
BUMP_STEPS, _BUMP_CENTRE, _BUMP_WIDTH = 130, 60.0, 25.0
_DIVERGENCE_STEPS, _CORRUPTION_STEPS = 150.0, 400.0


def loss_excess(effect: Effect, severity: float, since: F64) -> F64:
    """Nats over the undisturbed loss, `since` steps after the first touched one (from 0)."""
    k = np.maximum(since, 0.0)
    match effect:
        case "loss-spike" | "stuck-spike":
            rise = np.array(_RISE)[np.minimum(k, _PEAK).astype(np.int64)]
            after = np.maximum(k - _PEAK, 0.0)
            fall = sum(weight * np.exp(-after / steps) for weight, steps in _FALL)
            tail = _TAIL * np.exp(-after / _TAIL_END_STEPS) / (1 + after / _TAIL_STEPS)
            stuck = _STUCK * -np.expm1(-after / 3) if effect == "stuck-spike" else 0.0
            excess = severity * np.where(k < _PEAK, rise, fall + tail + stuck)
        case "loss-bump":
            excess = severity * np.exp(-(((k - _BUMP_CENTRE) / _BUMP_WIDTH) ** 2))
        case "divergence":
            excess = severity * -np.expm1(-k / _DIVERGENCE_STEPS)
        case "corruption":
            excess = severity * -np.expm1(-k / _CORRUPTION_STEPS)
        case "loss-nan":
            excess = np.full_like(k, np.nan)
        case _:
            excess = np.zeros_like(k)
    return np.asarray(np.where(since >= 0, excess, 0.0))


def bounded_excess(excess: F64, mean_loss: F64, vocab_size: int) -> F64:
    """Nats over the mean loss, at most those of a model that knows nothing (and 0.3 more)."""
    return np.minimum(excess, np.maximum(math.log(vocab_size) - mean_loss, 0.0) + 0.3)


def grad_norm_factor(effect: Effect, severity: float, since: F64) -> F64:
    """Gradient norm over the undisturbed one: it leads a spike of the loss."""
    k = np.maximum(since, 0.0)
    match effect:
        case "loss-spike" | "stuck-spike":
            peak = 1 + _GRAD_PER_NAT * severity
            rise = peak ** (np.minimum(k + 1, _PEAK + 1) / (_PEAK + 1))
            after = np.maximum(k - _PEAK, 0.0)
            left = 1.0 if effect == "stuck-spike" else 0.0
            factor = np.where(k <= _PEAK, rise, 1 + left + 0.4 * peak * np.exp(-after / 4))
        case "divergence":
            factor = 1 + 12 * severity * -np.expm1(-k / 40)
        case "corruption":
            factor = 1 + 6 * severity * -np.expm1(-k / 60)
        case "loss-nan":
            factor = np.full_like(k, np.nan)
        case _:
            factor = np.ones_like(k)
    return np.asarray(np.where(since >= 0, factor, 1.0))
