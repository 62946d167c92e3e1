"""FleetFrame: the GPUs at one moment as the whole numbers people read, and their health.

Shapes: G = GPUs, N = nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ghosttrain.views.renderables.byte_cells import Ints, rounded

if TYPE_CHECKING:
    from ghosttrain.core.events import FleetSamples
    from ghosttrain.core.spec import Gpu

OK, WARM, BAD, LOST = 0, 1, 2, 3
Health = NDArray[np.uint8]

WARM_BELOW_SLOWDOWN_C, BAD_BELOW_SLOWDOWN_C = 10, 3
WARM_MEMORY_FRAC, BAD_MEMORY_FRAC = 0.93, 0.97

UTIL_MAX, TEMP_MAX, MEMORY_MAX, POWER_MAX = 100, 199, 999, 9999


def gpu_label(gpu: Gpu) -> str:
    """Short name of the card: `H100-SXM`."""
    return gpu.name.upper()


def gpu_health(temp_c: Ints, memory_frac: NDArray[np.float32], slowdown_c: float) -> Health:
    """OK, WARM or BAD by temperature and memory; any shape."""
    warm = temp_c >= slowdown_c - WARM_BELOW_SLOWDOWN_C
    warm |= memory_frac > WARM_MEMORY_FRAC
    bad = temp_c >= slowdown_c - BAD_BELOW_SLOWDOWN_C
    bad |= memory_frac > BAD_MEMORY_FRAC
    return warm.view(np.uint8) + (bad & warm).view(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class FleetFrame:
    """One sample, rounded; GPUs that are lost have health LOST and values one past the largest.

    Attributes:
        step: Last completed step.
        util_pct, temp_c, memory_gib, power_w: Shape (G,).
        health: Shape (G,).
        mean: Utilisation, temperature, memory and power, mean of the GPUs that answer.
    """

    step: int
    gpus_per_node: int
    util_pct: Ints
    temp_c: Ints
    memory_gib: Ints
    power_w: Ints
    health: Health
    mean: tuple[float, float, float, float]

    @classmethod
    def of(cls, samples: FleetSamples, *, k: int, gpu: Gpu, gpus_per_node: int) -> FleetFrame:
        """Sample `k` of `samples`."""
        raw = (samples.util_pct[k], samples.temp_c[k], samples.memory_gib[k], samples.power_w[k])
        tops = (UTIL_MAX, TEMP_MAX, MEMORY_MAX, POWER_MAX)
        util, temp, memory, power = (rounded(v, top) for v, top in zip(raw, tops, strict=True))
        health = gpu_health(temp, raw[2] / np.float32(gpu.memory_gib), gpu.slowdown_c)
        alive = max(1, temp.size - len(samples.lost))
        util_mean, temp_mean, memory_mean, power_mean = (
            float(v.sum(dtype=np.float64)) / alive for v in raw
        )
        if samples.lost:
            index = list(samples.lost)
            health[index] = LOST
            for column, top in zip((util, temp, memory, power), tops, strict=True):
                column[index] = top + 1
        return cls(
            int(samples.step[k]),
            gpus_per_node,
            util,
            temp,
            memory,
            power,
            health,
            (util_mean, temp_mean, memory_mean, power_mean),
        )

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return int(self.temp_c.size)

    @property
    def nodes(self) -> int:
        """Number of nodes, the last one possibly not full."""
        return -(-self.gpus // self.gpus_per_node)

    @property
    def node_starts(self) -> Ints:
        """First GPU of each node, shape (N,)."""
        return np.arange(0, self.gpus, self.gpus_per_node)
