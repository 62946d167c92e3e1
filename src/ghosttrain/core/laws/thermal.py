"""Power while training, and how temperature follows power.

Sources: power split, idle levels and thermal resistance fitted on AcmeTrace (Hu et al. 2024,
NSDI) A100 telemetry: 58 C at 404 W, 8 to 15 s for the die and about 90 s for the heat sink.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.compute import StepTime
from ghosttrain.core.spec import Gpu

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MEMORY_OF_HEAT_S = 600.0  # what lies further back has faded
_RESPONSE = ((0.6, 12.0), (0.4, 90.0))  # weight and time constant of die and heat sink
_FADED = sum(weight * math.exp(-MEMORY_OF_HEAT_S / tau) for weight, tau in _RESPONSE)

# What each part of a step keeps busy: (SMs, tensor cores, memory), 0..1.
_DUTIES = {
    "gemm": (0.97, 1.0, 0.35),
    "attention": (0.90, 0.55, 0.15),
    "memory_bound": (0.85, 0.0, 0.80),
    "recompute": (0.95, 0.8, 0.40),
    "tensor_comm": (0.20, 0.0, 0.15),
    "context_comm": (0.20, 0.0, 0.15),
    "expert_comm": (0.20, 0.0, 0.15),
    "pipeline_comm": (0.10, 0.0, 0.05),
    "bubble": (0.05, 0.0, 0.02),
    "data_comm": (0.20, 0.0, 0.15),
    "optimizer": (0.85, 0.0, 0.80),
    "host": (0.0, 0.0, 0.0),
    "straggler": (0.05, 0.0, 0.02),
}

# Power between loaded idle (0) and training (1) in each phase of a run; -1: no process. A hung
# collective spins: full utilisation, a third of the power.
PHASE_LEVELS = {
    "weights": 0.04,
    "tokenizer": 0.0,
    "dataset": 0.0,
    "nccl": 0.02,
    "gpus": 0.0,
    "all_reduce_test": 0.25,
    "training": 1.0,
    "validation": 0.78,
    "checkpoint": 0.06,
    "hang": 0.18,
    "down": -1.0,
    "export": 0.03,
    "done": 0.0,
}


def phase_power_w(gpu: Gpu, training_w: float, phase: str) -> float:
    """Mean power of one GPU in a phase, by the name of `core.events.Phase`."""
    level = PHASE_LEVELS[phase]
    if level < 0:
        return gpu.idle_w
    return gpu.loaded_idle_w + level * (training_w - gpu.loaded_idle_w)


def training_power_w(gpu: Gpu, step: StepTime) -> float:
    """Mean power of one GPU over an undisturbed step, at most its limit.

    0.30 of the dynamic range goes with busy SMs, 0.55 with tensor cores, 0.15 with memory; a
    healthy dense run comes out at 85 to 102 % of the limit, as published.
    """
    shares = step.shares()
    sm, tensor, memory = (
        sum(shares[part] * duty[i] for part, duty in _DUTIES.items()) for i in range(3)
    )
    dynamic = 0.30 * sm + 0.55 * tensor / 0.85 + 0.15 * memory / 0.7
    return min(gpu.tdp_w, gpu.loaded_idle_w + (gpu.tdp_w - gpu.loaded_idle_w) * dynamic)


def training_activity(step: StepTime) -> tuple[float, float]:
    """Shares of an undisturbed step in which SMs and memory are active (0..1).

    As DCGM's SM_ACTIVE and DRAM_ACTIVE count them: mean over SMs and cycles.
    """
    shares = step.shares()
    sm, _, memory = (
        sum(shares[part] * duty[i] for part, duty in _DUTIES.items()) for i in range(3)
    )
    return sm, memory


def busy_share(step: StepTime) -> float:
    """Share of a step in which any kernel runs: what GPU_UTIL counts, 0..1."""
    return 1 - step.shares()["host"]


def sm_clock_mhz(gpu: Gpu, power_w: F32) -> F32:
    """SM clock at a power, MHz, shape of `power_w`: from boost when idle to sustained at TDP.

    A card near its power limit lowers its clock (dense BF16 on an H100 runs at 1,400 to 1,750
    of 1,980 MHz); one that never meets it, as the A100, stays at its boost clock.
    """
    level = np.clip((power_w - gpu.loaded_idle_w) / (gpu.tdp_w - gpu.loaded_idle_w), 0, 1)
    return np.asarray(gpu.boost_mhz - (gpu.boost_mhz - gpu.sustained_mhz) * level**1.5, np.float32)


def heat_left(age_s: F64) -> F64:
    """Share of a heating that is still felt `age_s` after it ended.

    1 before it and at 0; exactly 0 from MEMORY_OF_HEAT_S on, so that spans further back can be
    left out without a trace in the last digit.
    """
    age = np.maximum(age_s, 0.0)
    left = np.asarray(sum(weight * np.exp(-age / tau) for weight, tau in _RESPONSE))
    return np.where(age < MEMORY_OF_HEAT_S, (left - _FADED) / (1 - _FADED), 0.0)


def heat_level(time_s: F64, starts_s: F64, ends_s: F64, levels: F64) -> F64:
    """Power level the temperature has come to, between 0 (idle) and 1 (training).

    A moment's value does not depend on the other moments asked for, to the last bit.

    Args:
        time_s: Moments, shape (K,).
        starts_s: Starts of the spans of the last MEMORY_OF_HEAT_S, in order, shape (P,).
        ends_s: Their ends, shape (P,).
        levels: Their power levels, shape (P,).
    """
    felt = heat_left(time_s - ends_s[:, None]) - heat_left(time_s - starts_s[:, None])
    # Added one after the other: a matrix product rounds differently for other shapes.
    return np.asarray(np.add.accumulate(felt * levels[:, None])[-1])
