"""Block: moments of one span, and what several fields of theirs need."""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters import CounterSource, Moments
from ghosttrain.core.counters.moments import rounded
from ghosttrain.core.events import FleetSamples, Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.laws.telemetry import (
    AT_LIMIT_FRAC,
    has_memory_sensor,
    memory_temp_c,
    reserved_mib,
)
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import Activity, SignalSource
from ghosttrain.core.timeline import Timeline, silent_nodes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Bits of DCGM_FI_DEV_CLOCK_THROTTLE_REASONS (nvml.h: nvmlClocksEventReason*).
CLOCK_IDLE: Final = 0x1
CLOCK_SW_POWER_CAP: Final = 0x4
CLOCK_HW_SLOWDOWN: Final = 0x8
CLOCK_SW_THERMAL: Final = 0x20
CLOCK_HW_THERMAL: Final = 0x40
_SETTLES_BELOW_C = 1.5  # a GPU this near its slow-down temperature is slowed by the hardware


class Sources(NamedTuple):
    """What telemetry is computed from."""

    plan: Plan
    timeline: Timeline
    fleet: FleetSource
    signals: SignalSource
    counters: CounterSource

    @property
    def gpus(self) -> int:
        """GPUs of the run."""
        return self.plan.spec.cluster.gpus

    @property
    def per_node(self) -> int:
        """GPUs of a node."""
        return min(self.plan.spec.cluster.gpus_per_node, self.gpus)


class Block:
    """Moments of one span, and what several fields of theirs need."""

    def __init__(self, source: Sources, at: Moments) -> None:
        self.source, self.at = source, at
        self.gpus = source.gpus
        self.shape = len(at.time_s), source.gpus

    @cached_property
    def samples(self) -> FleetSamples:
        """The GPUs as every other face shows them."""
        at, fleet = self.at, self.source.fleet
        if at.steps is None:
            return fleet.outside_steps(at.span, at.time_s)
        return fleet.during_steps(at.span, at.steps.number, at.time_s, at.steps.factor)

    @cached_property
    def silent(self) -> tuple[tuple[int, ...], ...]:
        """Nodes that do not answer at each moment."""
        source = self.source
        if not self.at.span.incident:
            return ((),) * self.shape[0]
        return tuple(
            silent_nodes(source.timeline, self.at.span, time_s, source.per_node)
            for time_s in self.at.time_s.tolist()
        )

    @cached_property
    def lost(self) -> tuple[tuple[int, ...], ...]:
        """GPUs that do not answer at each moment."""
        per_node, gone = self.source.per_node, self.source.fleet.lost(self.at.span)
        whole = {
            nodes: tuple(
                sorted({*gone, *(n * per_node + i for n in nodes for i in range(per_node))})
            )
            for nodes in set(self.silent)
        }
        return tuple(whole[nodes] for nodes in self.silent)

    @cached_property
    def clock_mhz(self) -> F32:
        """SM clock before it is rounded."""
        return self.source.signals.clock_mhz(self.samples)

    @cached_property
    def sm_active(self) -> F32:
        """SM_ACTIVE."""
        return self.source.signals.active(self.samples, "sm")

    def within_sm(self, name: Activity) -> F32:
        """Activity of a pipe, which no SM has while it is idle."""
        clock = self.clock_mhz if name == "tensor" else None
        column = self.source.signals.active(self.samples, name, clock)
        return np.asarray(np.minimum(column, self.sm_active))

    @cached_property
    def dram_active(self) -> F32:
        """DRAM_ACTIVE."""
        return self.source.signals.active(self.samples, "dram")

    @cached_property
    def used_mib(self) -> I64:
        """Framebuffer in use."""
        return whole(self.samples.memory_gib * np.float32(1024))

    @cached_property
    def limit_w(self) -> F32:
        """Power limit in force."""
        gpu = self.source.plan.spec.gpu
        limit = np.full(self.gpus, gpu.tdp_w, np.float32)
        for effect in self.source.timeline.effects_of(self.at.span):
            if effect.effect == "power-cap":
                level = effect.stretch_level(self.at.span.start_s)
                at = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
                np.minimum(limit[at], np.float32((1 - level) * gpu.tdp_w), out=limit[at])
        return np.broadcast_to(limit, self.shape)

    @cached_property
    def clock_reasons(self) -> I64:
        """Why clocks are below what was asked for, a mask of bits."""
        gpu, samples = self.source.plan.spec.gpu, self.samples
        at_limit = samples.power_w >= np.float32(AT_LIMIT_FRAC) * self.limit_w
        reasons = np.where(at_limit, CLOCK_SW_POWER_CAP, 0)
        if samples.conditions[0].phase is Phase.DOWN:
            return np.full(self.shape, CLOCK_IDLE)
        for effect in self.source.counters.apart.throttling(self.at.span):
            at = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
            hot = samples.temp_c[:, at] >= gpu.slowdown_c - _SETTLES_BELOW_C
            reasons[:, at] |= CLOCK_SW_THERMAL
            reasons[:, at] |= np.where(hot, CLOCK_HW_SLOWDOWN | CLOCK_HW_THERMAL, 0)
        return np.asarray(reasons, np.int64)

    @cached_property
    def nvlink_bytes_per_s(self) -> F32:
        """Sent over NVLink, and as much received."""
        signals = self.source.signals
        return signals.carried(self.samples, "nvlink", signals.traffic(self.samples)[0])

    def pcie_bytes_per_s(self, which: int) -> I64:
        """Sent (0) or received (1) over PCIe: most of it is the network card's."""
        rate = self.source.counters.spans.pcie_rates(self.at)[which]
        return rounded(self.source.signals.carried(self.samples, "network", rate))

    def constant(self, value: int) -> I64:
        """The same of all GPUs."""
        return np.broadcast_to(np.int64(value), self.shape)

    def same_float(self, value: float) -> F32:
        """The same of all GPUs."""
        return np.broadcast_to(np.float32(value), self.shape)

    def sign(self, name: str) -> I64:
        """A counter or mark that incidents move, 0 for most GPUs."""
        return self.source.counters.marks.signs(self.at, name)

    @property
    def memory_temp_c(self) -> I64:
        """Temperature of the memory."""
        if not has_memory_sensor(self.source.plan.spec.gpu):
            return self.constant(0)
        inlet = self.source.fleet.common_inlet_c(self.at.time_s)
        return whole(memory_temp_c(self.samples.temp_c, inlet))

    @property
    def reserved_mib(self) -> I64:
        """Framebuffer kept by driver and firmware."""
        held = self.source.fleet.traits(self.at.span.attempt).memory_gib
        return np.broadcast_to(reserved_mib(self.source.plan.spec.gpu, held), self.shape)

    @property
    def free_mib(self) -> I64:
        """Framebuffer left."""
        return np.asarray(self.source.plan.spec.gpu.memory_mib - self.reserved_mib - self.used_mib)


def whole(values: F32) -> I64:
    """As NVML reports what it keeps as integers."""
    return np.rint(values).astype(np.int64)
