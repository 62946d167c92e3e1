"""Variety: in what GPUs and nodes of one job differ though they do the same.

No two cards of a fleet show the same activity to the last digit: a physical GPU has a trait of its
own, which leaves with it when its node is swapped, and each sample has noise of its own. A trait is
a factor about 1; counters have it too, the noise they have not. Both are pure functions of (seed,
name, place); what is 0 stays 0.

How large they are is estimated: ratios that DCGM shows of the GPUs of a synchronous job lie within
some tenths of a percent of one another (they do the same work in the same time), hosts within some
percent (their agents and interrupts are their own).

Shapes: K = moments, ascending; G = GPUs of the run; N = nodes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import FleetSamples, Phase
from ghosttrain.core.plan import Plan
from ghosttrain.core.rng import Stream, lanes_at, normal_quantile, normal_table

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

Spares = tuple[tuple[int, int], ...]  # (node, physical node) of places that spares have taken
GpuTrait = Literal["sm", "tensor", "dram", "occupancy", "fp32", "fp16", "nvlink", "network"]
NodeTrait = Literal["user", "system", "iowait", "memory", "management", "disk"]
Wander = Literal["load", "memory"]

# Standard deviation of a trait, as a share of the value.
_OF_GPU: Final[dict[GpuTrait, float]] = {
    "sm": 0.0015,
    "tensor": 0.001,  # beside that of the clock: see `signals.py`
    "dram": 0.003,
    "occupancy": 0.002,
    "fp32": 0.003,
    "fp16": 0.003,
    "nvlink": 0.002,  # places in rings and trees: who is a leaf, who sends a chunk more
    "network": 0.002,
}
_OF_NODE: Final[dict[NodeTrait, float]] = {
    "user": 0.03,
    "system": 0.04,
    "iowait": 0.05,
    "memory": 0.02,
    "management": 0.05,
    "disk": 0.05,
}
_MOST_SD = 2.5  # a card further off is a fault, and faults are drawn elsewhere
# DCGM averages a ratio over the interval it is read in, which holds no whole number of steps.
_SAMPLE_SD = 0.003
_LANES: Final[dict[GpuTrait, int]] = {
    "sm": 0,
    "occupancy": 0,  # of the same kernels at the same time
    "tensor": 1,
    "dram": 2,
    "fp32": 2,  # softmax, normalisation, the optimizer: kernels that stream
    "fp16": 2,
    "nvlink": 3,
    "network": 3,
}
_USED_LANES = 4
# Slow changes of a node: what else runs on it comes and goes within minutes.
_WANDER: Final[dict[Wander, float]] = {"load": 0.02, "memory": 0.004}
_KNOT_S = 60.0


class Variety:
    """Traits and noise of one run. Not safe to share between threads."""

    def __init__(self, plan: Plan, seed: int) -> None:
        cluster = plan.spec.cluster
        self.seed, self.gpus = seed, cluster.gpus
        self.per_node = min(cluster.gpus_per_node, cluster.gpus)
        self.nodes = -(-self.gpus // self.per_node)
        self._in_steps = Stream(seed, "variety.noise")
        self._outside = Stream(seed, "variety.noise.idle")
        self._words = -(-_USED_LANES * self.gpus // 32) * 4  # of a sample, whole counters
        self._node_words = -(-self.nodes // 16) * 4
        self.gpu_trait = lru_cache(maxsize=2 * len(_OF_GPU))(self._draw_gpu_trait)
        self.node_trait = lru_cache(maxsize=2 * len(_OF_NODE))(self._draw_node_trait)
        self._drawn: WeakKeyDictionary[FleetSamples, _Noise] = WeakKeyDictionary()
        self._wandering = cache(self._open_wander)

    def of_gpus(self, samples: FleetSamples, name: GpuTrait) -> F32:
        """What a rate or share is multiplied with at samples under one condition, shape (K, G)."""
        noise = self._drawn.get(samples)
        if noise is None:
            noise = self._drawn[samples] = _Noise(self._lanes(samples))
        trait = self.gpu_trait(name, samples.conditions[0].spares)
        return noise.of(_LANES[name]) * trait.astype(np.float32)

    def wander(self, name: Wander, times_s: F64) -> F64:
        """What a gauge of each node is multiplied with, smooth between knots, shape (K, N)."""
        knots, inside = np.divmod(times_s, _KNOT_S)
        angle = (0.5 * np.pi / _KNOT_S * inside)[:, None]
        before, after = (
            normal_table().take(self._knots(name, knots.astype(np.int64) + i)).astype(np.float64)
            for i in (0, 1)
        )
        return np.asarray(1 + _WANDER[name] * (before * np.cos(angle) + after * np.sin(angle)))

    def _knots(self, name: Wander, knots: I64) -> U16:
        return lanes_at(self._wandering(name), knots, self._node_words)[:, : self.nodes]

    def _open_wander(self, name: Wander) -> Stream:
        return Stream(self.seed, f"variety.wander.{name}")

    def _lanes(self, samples: FleetSamples) -> U8:
        """Lanes of samples, shape (K, lanes, G): eight bits are enough for some tenths."""
        is_in_steps = samples.conditions[0].phase is Phase.TRAINING
        stream = self._in_steps if is_in_steps else self._outside
        drawn = lanes_at(stream, samples.draw, self._words).view(np.uint8)
        lanes = drawn[:, : _USED_LANES * self.gpus]
        return lanes.reshape(len(lanes), _USED_LANES, self.gpus)

    def _draw_gpu_trait(self, name: GpuTrait, spares: Spares) -> F64:
        """A trait of the GPUs at their places, shape (G,)."""
        stream = Stream(self.seed, f"variety.gpu.{name}")
        return _factors(stream, self.nodes, self.per_node, spares, _OF_GPU[name])[: self.gpus]

    def _draw_node_trait(self, name: NodeTrait, spares: Spares) -> F64:
        """A trait of the nodes at their places, shape (N,)."""
        stream = Stream(self.seed, f"variety.node.{name}")
        return _factors(stream, self.nodes, 1, spares, _OF_NODE[name])


class _Noise:
    """Noise of some samples, each lane made once: several fields share one."""

    def __init__(self, lanes: U8) -> None:
        self._lanes = lanes
        self._made: dict[int, F32] = {}

    def of(self, lane: int) -> F32:
        """Factors about 1, shape (K, G), not to be written to."""
        if lane not in self._made:
            self._made[lane] = _noise_table().take(self._lanes[:, lane], mode="clip")
        return self._made[lane]


@cache
def _noise_table() -> F32:
    """Factors of a sample, by a lane."""
    return (1 + _SAMPLE_SD * normal_quantile((np.arange(256) + 0.5) / 256)).astype(np.float32)


def _factors(stream: Stream, nodes: int, width: int, spares: Spares, sd: float) -> F64:
    """Traits of `width` parts of each node; a spare brings its own."""
    physical = np.arange(nodes)
    for node, spare in spares:
        physical[node] = spare
    drawn = stream.normal(0, width * (int(physical.max()) + 1)).reshape(-1, width)[physical]
    return np.asarray(1 + sd * np.clip(drawn.ravel(), -_MOST_SD, _MOST_SD))
