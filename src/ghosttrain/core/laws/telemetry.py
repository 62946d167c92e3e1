"""What a GPU's driver and DCGM report beside power, temperature and the step's own activity.

Sources: what each field counts is NVIDIA's (NVML API reference; DCGM field identifiers,
dcgmlib/dcgm_fields.h). How large it is follows from the step's timeline by the tables below; what
they hold is estimated where no source stands beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.compute import StepTime
from ghosttrain.core.spec import Gpu

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Share of an SM's 64 warps that a spinning collective holds: NCCL's kernels have up to 640
# threads, 20 warps, on the few SMs they take (NVIDIA/nccl, src/include/device.h).
SPINNING_OCCUPANCY = 20 / 64
# Of each part of a step: resident warps over all SMs, and cycles of the FP32 and FP16 pipes.
# Tensor-core kernels hold 8 to 12 of 64 warps, by their registers (3 warp groups of 4 in CUTLASS's
# and FlashAttention-3's kernels for Hopper); streaming kernels fill the SM. FP32: softmax,
# normalisation, the optimizer; the FP16 pipe does what little is left in half precision.
_PIPES = {
    "gemm": (0.17, 0.02, 0.00),
    "attention": (0.19, 0.22, 0.01),
    "memory_bound": (0.62, 0.10, 0.03),
    "recompute": (0.20, 0.06, 0.01),
    "tensor_comm": (0.06, 0.01, 0.00),
    "context_comm": (0.06, 0.01, 0.00),
    "expert_comm": (0.06, 0.01, 0.00),
    "pipeline_comm": (0.03, 0.00, 0.00),
    "bubble": (0.015, 0.00, 0.00),
    "data_comm": (0.06, 0.02, 0.00),
    "optimizer": (0.62, 0.14, 0.00),
    "host": (0.0, 0.0, 0.0),
    "straggler": (0.015, 0.00, 0.00),
}
# A memory that is read moves 70 % of its peak (STREAM-like kernels reach 90 %, tiled ones half):
# NVML counts the time in which it is read or written, DRAM_ACTIVE the cycles in which data moves.
_STREAMING_FRAC = 0.7
# HBM stacks sit beside the die under one cold plate: 4 degrees above it when idle, and a sixth of
# the die's own rise more (an H100 at 61 C shows its memory at 72, as `nvidia-smi dmon -s p` does).
_MEMORY_OVER_DIE_C, _MEMORY_OF_RISE = 4.0, 0.17
_SLOWEST_GDDR_MHZ = 4500
_RESERVED_MIB = 480
AT_LIMIT_FRAC = 0.97  # of its limit: a GPU there has its clock held down by its power


def training_pipes(step: StepTime) -> tuple[float, float, float]:
    """SM_OCCUPANCY, PIPE_FP32_ACTIVE and PIPE_FP16_ACTIVE in an undisturbed step, 0..1."""
    shares = step.shares()
    occupancy, fp32, fp16 = (
        math.fsum(shares[part] * duty[i] for part, duty in _PIPES.items()) for i in range(3)
    )
    return occupancy, fp32, fp16


def memory_copy_frac(dram_active: F32) -> F32:
    """Share of time in which memory is read or written (NVML's memory utilisation), 0..1."""
    return np.asarray(np.minimum(np.float32(1), dram_active / np.float32(_STREAMING_FRAC)))


def memory_temp_c(temp_c: F32, inlet_c: F64) -> F32:
    """Temperature of the memory from that of the die, shape (K, G); `inlet_c` has shape (K,)."""
    below = (_MEMORY_OVER_DIE_C - _MEMORY_OF_RISE * inlet_c).astype(np.float32)[:, None]
    return np.asarray(temp_c * np.float32(1 + _MEMORY_OF_RISE) + below)


def has_memory_sensor(gpu: Gpu) -> bool:
    """Whether the card tells its memory's temperature: HBM does; with GDDR DCGM shows 0 (a T4).

    HBM is clocked at 0.9 to 4 GHz as NVML counts it, GDDR from 5 on.
    """
    return gpu.memory_mhz < _SLOWEST_GDDR_MHZ


def reserved_mib(gpu: Gpu, used_gib: F32) -> I64:
    """Framebuffer that driver and firmware keep on GPUs that hold `used_gib` while training.

    What DCGM shows is 447 MiB on a T4, 470 on an L4, 608 on an L40S: taken as 480 on all. The
    memory law leaves a card 307 MiB at least, where it is that full.
    """
    left = gpu.memory_mib - np.rint(used_gib * np.float32(1024)).astype(np.int64)
    return np.asarray(np.minimum(_RESERVED_MIB, left))


# Power at its limit. A reading is normally distributed about its mean, and cut at a ceiling.


def normal_cdf(x: F64) -> F64:
    """Standard normal distribution function, to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    z = np.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = 0.254829592 + t * (
        -0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))
    )
    tail = 0.5 * t * series * np.exp(-z * z)
    return np.asarray(np.where(x > 0, 1 - tail, tail))


def mean_cut(mean: F64, sd: F64, ceiling: float) -> F64:
    """What a ceiling takes from the mean of normally distributed readings, in their unit."""
    z = (mean - ceiling) / sd
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return np.asarray(sd * (z * normal_cdf(z) + density))


def share_at_limit(mean: F64, sd: F64, limit: float) -> F64:
    """Share of time in which a GPU draws what its limit allows, 0..1."""
    return normal_cdf((mean - AT_LIMIT_FRAC * limit) / sd)


# Traffic over PCIe.

# A packet of 256 bytes has 24 of header, framing and checksum (PCI Express 5.0, sections 2.2, 3.5).
_PCIE_OVERHEAD = 280 / 256
# Token and label of a sequence's position, 64-bit integers each, as PyTorch's loaders have them.
_TOKEN_BYTES = 16
# Launches, semaphores and polls: some thousand kernels a second of about 1 KB; estimated.
_COMMAND_BYTES_PER_S = 2e6
_IDLE_BYTES_PER_S = 2e4


@dataclass(frozen=True, slots=True)
class PcieVolume:
    """What one GPU sends (tx) and receives (rx) over PCIe, with headers.

    Attributes:
        step_tx_bytes, step_rx_bytes: In a step: batches, and what the network card behind the
            same switch reads from and writes to its memory (GPUDirect RDMA).
        busy_bytes_per_s, idle_bytes_per_s: Either way, with and without kernels running.
    """

    step_tx_bytes: float
    step_rx_bytes: float
    busy_bytes_per_s: float = _COMMAND_BYTES_PER_S
    idle_bytes_per_s: float = _IDLE_BYTES_PER_S


def pcie_volume(network_bytes: float, tokens: float) -> PcieVolume:
    """PCIe traffic of a GPU that sends `network_bytes` and reads `tokens` in a step."""
    over = _PCIE_OVERHEAD
    return PcieVolume(over * network_bytes, over * (network_bytes + _TOKEN_BYTES * tokens))


def copied_bytes(size_bytes: float, gpus: int) -> float:
    """What one GPU moves when `size_bytes` are copied between host and all GPUs, with headers."""
    return _PCIE_OVERHEAD * size_bytes / gpus
