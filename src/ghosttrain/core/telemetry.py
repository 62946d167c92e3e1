"""Telemetry: what drivers and exporters read of all GPUs at any moments of a run.

One simulated state: temperature, power, utilisation and memory are those of `Run.fleet(at)`, clocks
and activity those of `signals.py`, as NVML and DCGM report them (whole degrees, MHz, MiB and
percent; power with its fraction). Counters are integrals in closed form (`counters.py`), so that a
moment costs the same on the first and on the last day.

Shapes: K = moments, ascending; G = GPUs of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters import CounterSource, Moments
from ghosttrain.core.counters.moments import rounded, same_of_all
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import FleetSamples, Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.laws.telemetry import (
    AT_LIMIT_FRAC,
    has_memory_sensor,
    memory_copy_frac,
    memory_temp_c,
    reserved_mib,
)
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import Activity, SignalSource
from ghosttrain.core.steps import StepSource
from ghosttrain.core.timeline import Timeline, moments_by_span, silent_nodes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Column = NDArray[Any]  # float32 or int64, shape (K, G)

# Bits of DCGM_FI_DEV_CLOCK_THROTTLE_REASONS (nvml.h: nvmlClocksEventReason*).
CLOCK_IDLE: Final = 0x1
CLOCK_SW_POWER_CAP: Final = 0x4
CLOCK_HW_SLOWDOWN: Final = 0x8
CLOCK_SW_THERMAL: Final = 0x20
CLOCK_HW_THERMAL: Final = 0x40
_SETTLES_BELOW_C = 1.5  # a GPU this near its slow-down temperature is slowed by the hardware


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """A block of moments.

    Attributes:
        time_s: Moments, shape (K,).
        attempt: Launch at each, shape (K,).
        columns: By field, float32 or int64, shape (K, G); to be read, not written to.
        lost: At each moment the GPUs that do not answer; their values mean nothing.
        nodes_down: At each moment the nodes of which nothing answers.
    """

    time_s: F64
    attempt: I64
    columns: Mapping[str, Column]
    lost: tuple[tuple[int, ...], ...]
    nodes_down: tuple[tuple[int, ...], ...]

    def part(self, start: int, stop: int) -> Telemetry:
        """Moments [start, stop)."""
        at = slice(start, stop)
        columns = {name: column[at] for name, column in self.columns.items()}
        return Telemetry(
            self.time_s[at], self.attempt[at], columns, self.lost[at], self.nodes_down[at]
        )


class TelemetrySource:
    """Computes the telemetry of one run."""

    def __init__(
        self,
        plan: Plan,
        timeline: Timeline,
        fleet: FleetSource,
        steps: StepSource,
        signals: SignalSource,
    ) -> None:
        self.plan, self.timeline, self.fleet, self.steps = plan, timeline, fleet, steps
        self.signals, self.starts_s = signals, np.asarray(timeline.starts_s)
        self.counters = CounterSource(plan, timeline, fleet, signals)
        cluster = plan.spec.cluster
        self.gpus, self.per_node = cluster.gpus, min(cluster.gpus_per_node, cluster.gpus)

    def at(self, times_s: F64, fields: Sequence[str] | None = None) -> Telemetry:
        """Telemetry at ascending moments; only what `fields` need is computed (None: all).

        Raises:
            SpecError: If the moments do not ascend or there is no such field.
        """
        times = np.asarray(times_s, np.float64).reshape(-1)
        names = tuple(FIELDS) if fields is None else tuple(fields)
        _refuse_fields(names)
        blocks = [_Block(self, moments) for moments in self.moments(times)]
        columns = {
            name: _joined([FIELDS[name](block) for block in blocks], self.gpus) for name in names
        }
        return Telemetry(
            times,
            np.concatenate([np.full(len(b.at.time_s), b.at.span.attempt) for b in blocks])
            if blocks
            else np.empty(0, np.int64),
            MappingProxyType(columns),
            tuple(lost for block in blocks for lost in block.lost),
            tuple(nodes for block in blocks for nodes in block.silent),
        )

    def moments(self, times_s: F64) -> Iterator[Moments]:
        """Ascending moments by the span that holds them, with the steps in progress.

        Raises:
            SpecError: If they do not ascend.
        """
        times = np.asarray(times_s, np.float64).reshape(-1)
        _refuse_times(times)
        for index, low, high in moments_by_span(self.timeline, self.starts_s, times):
            span, part = self.timeline.spans[index], times[low:high]
            if span.phase is not Phase.TRAINING or not span.steps:
                yield Moments(index, span, part)
                continue
            yield Moments(index, span, part, self.steps.in_progress(span, part))


class _Block:
    """Moments of one span, and what several fields of theirs need."""

    def __init__(self, source: TelemetrySource, at: Moments) -> None:
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
    def sm_active(self) -> F32:
        """SM_ACTIVE."""
        return self.source.signals.active(self.samples, "sm")

    def within_sm(self, name: Activity) -> F32:
        """Activity of a pipe, which no SM has while it is idle."""
        column = self.source.signals.active(self.samples, name)
        return np.asarray(np.minimum(column, self.sm_active))

    @cached_property
    def dram_active(self) -> F32:
        """DRAM_ACTIVE."""
        return self.source.signals.active(self.samples, "dram")

    @cached_property
    def used_mib(self) -> I64:
        """Framebuffer in use."""
        return _whole(self.samples.memory_gib * np.float32(1024))

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

    def rate(self, per_gpu: F64) -> I64:
        """A rate that all GPUs have, bytes/s."""
        return same_of_all(rounded(per_gpu), self.gpus)

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
        return _whole(memory_temp_c(self.samples.temp_c, inlet))

    @property
    def reserved_mib(self) -> I64:
        """Framebuffer kept by driver and firmware."""
        held = self.source.fleet.traits(self.at.span.attempt).memory_gib
        return np.broadcast_to(reserved_mib(self.source.plan.spec.gpu, held), self.shape)

    @property
    def free_mib(self) -> I64:
        """Framebuffer left."""
        return np.asarray(self.source.plan.spec.gpu.memory_mib - self.reserved_mib - self.used_mib)


_Law = Callable[[_Block], Column]


def _pipe(name: Activity) -> _Law:
    return lambda block: block.within_sm(name)


def _sign(name: str) -> _Law:
    return lambda block: block.sign(name)


def _counter(name: str) -> _Law:
    return lambda block: getattr(block.source.counters, name)(block.at)


def _mark(name: str) -> _Law:
    return lambda block: getattr(block.source.counters.marks, name)(block.at)


FIELDS: Final[Mapping[str, _Law]] = MappingProxyType(
    {
        "gpu_temp_c": lambda b: _whole(b.samples.temp_c),
        "memory_temp_c": lambda b: b.memory_temp_c,
        "power_w": lambda b: b.samples.power_w,
        "power_limit_w": lambda b: b.limit_w,
        "energy_mj": _counter("energy_mj"),
        "sm_clock_mhz": lambda b: _whole(b.source.signals.clock_mhz(b.samples)),
        "mem_clock_mhz": lambda b: b.constant(b.source.plan.spec.gpu.memory_mhz),
        "clock_event_reasons": lambda b: b.clock_reasons,
        "gpu_util_pct": lambda b: _whole(b.samples.util_pct),
        "mem_copy_util_pct": lambda b: np.minimum(
            _whole(memory_copy_frac(b.dram_active) * np.float32(100)), _whole(b.samples.util_pct)
        ),
        "enc_util_pct": lambda b: b.constant(0),
        "dec_util_pct": lambda b: b.constant(0),
        "fb_used_mib": lambda b: b.used_mib,
        "fb_free_mib": lambda b: b.free_mib,
        "fb_reserved_mib": lambda b: b.reserved_mib,
        "fb_total_mib": lambda b: b.constant(b.source.plan.spec.gpu.memory_mib),
        "xid": _sign("xid"),
        "pcie_replays": _sign("pcie-replay"),
        "ecc_sbe_volatile": _sign("ecc-corrected"),
        "ecc_dbe_volatile": _sign("ecc-uncorrected"),
        "ecc_sbe_aggregate": _mark("ecc_sbe_aggregate"),
        "ecc_dbe_aggregate": _mark("ecc_dbe_aggregate"),
        "uncorrectable_remapped_rows": _mark("uncorrectable_remapped_rows"),
        "correctable_remapped_rows": lambda b: b.constant(0),
        "row_remap_failure": _mark("row_remap_failure"),
        "row_remap_pending": _mark("row_remap_pending"),
        "retired_sbe": lambda b: b.constant(0),
        "retired_dbe": lambda b: b.constant(0),
        "retired_pending": lambda b: b.constant(0),
        "nvlink_total_kib": _counter("nvlink_total_kib"),
        "nvlink_total_mb_per_s": lambda b: b.rate(
            2 * b.source.signals.traffic(b.samples)[0] / 1024e3
        ),
        "nvlink_tx_bytes_per_s": lambda b: b.rate(b.source.signals.traffic(b.samples)[0]),
        "nvlink_rx_bytes_per_s": lambda b: b.rate(b.source.signals.traffic(b.samples)[0]),
        "nvlink_crc_flit_errors": _sign("nvlink-crc"),
        "nvlink_crc_data_errors": lambda b: b.constant(0),
        "nvlink_replay_errors": lambda b: b.constant(0),
        "nvlink_recovery_errors": lambda b: b.constant(0),
        "pcie_tx_bytes_per_s": lambda b: b.rate(b.source.counters.spans.pcie_rates(b.at)[0]),
        "pcie_rx_bytes_per_s": lambda b: b.rate(b.source.counters.spans.pcie_rates(b.at)[1]),
        "pcie_tx_bytes": _counter("pcie_tx_bytes"),
        "pcie_rx_bytes": _counter("pcie_rx_bytes"),
        "power_violation_ns": _counter("power_violation_ns"),
        "thermal_violation_ns": _counter("thermal_violation_ns"),
        "sync_boost_violation_ns": lambda b: b.constant(0),
        "board_limit_violation_ns": lambda b: b.constant(0),
        "low_util_violation_ns": lambda b: b.constant(0),
        "reliability_violation_ns": lambda b: b.constant(0),
        "vgpu_license": lambda b: b.constant(0),
        "gr_active_frac": lambda b: b.samples.util_pct / np.float32(100),
        "sm_active_frac": lambda b: b.sm_active,
        "sm_occupancy_frac": _pipe("occupancy"),
        "tensor_active_frac": _pipe("tensor"),
        "dram_active_frac": lambda b: b.dram_active,
        "fp64_active_frac": lambda b: b.same_float(0.0),
        "fp32_active_frac": _pipe("fp32"),
        "fp16_active_frac": _pipe("fp16"),
    }
)


def _whole(values: F32) -> I64:
    return np.rint(values).astype(np.int64)


def _joined(parts: list[Column], gpus: int) -> Column:
    if not parts:
        return np.empty((0, gpus), np.float32)
    if len(parts) == 1:
        return parts[0]
    if any(part.strides[1] for part in parts):
        return np.concatenate(parts)
    return same_of_all(np.concatenate([part[:, 0] for part in parts]), gpus)


def _refuse_times(times: F64) -> None:
    if not (np.isfinite(times) & (times >= 0)).all():
        raise SpecError("moments of telemetry must be finite run seconds from 0 on")
    if (np.diff(times) < 0).any():
        raise SpecError("moments of telemetry must ascend: sort them")


def _refuse_fields(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in FIELDS]
    if unknown:
        raise SpecError(
            f"no field of telemetry is named {', '.join(unknown)}; "
            f"there are {', '.join(sorted(FIELDS))}"
        )
