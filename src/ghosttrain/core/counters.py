"""Counters: what GPUs have counted by a moment, in closed form.

A counter is its gauge's integral by the law, without the gauge's noise: energy is that of the mean
power. Sums over spans are made once; a moment adds what its span has brought by then, so that it
costs the same wherever it lies.

**What survives what.** All counters outlive a restart of the processes. Energy, bytes and violation
times count from the load of the driver: they start anew where a node was rebooted, and where a
spare took its place (which brings its own count, from before the run). Volatile ECC counts, the
last Xid and link errors end with a reset of the GPU too (recovery "reset"). Aggregate ECC counts
and remapped rows are kept on the board and leave with it.

Shapes: K = moments of one span, ascending; G = GPUs of the run; P = spans.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.identity import uptime_s
from ghosttrain.core.laws.faults import (
    APART_EFFECTS,
    HEAT_EFFECTS,
    WAITING_LEVEL,
    ActiveEffect,
    waiting_level,
)
from ghosttrain.core.laws.telemetry import copied_bytes, mean_cut, pcie_volume, share_at_limit
from ghosttrain.core.laws.thermal import PHASE_LEVELS
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.steps import Progress
from ghosttrain.core.timeline import Span, Timeline, incident_nodes

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Levels of power at which what the limit does is known; linear between them.
_GRID: Final = np.array([0.0, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.9625, 0.975, 0.9875, 1.0])
BOOTED_BEFORE_S: Final = 60.0  # a rebooted node is up so long before the launch that uses it


class Moments(NamedTuple):
    """Moments of one span, ascending, shape (K,), and the steps in progress then if any."""

    span_index: int
    span: Span
    time_s: F64
    steps: Progress | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Sums up to the start of each span (and past the last), shape (P + 1,) or (P + 1, grid).

    Attributes:
        base_j: Energy without load.
        level_s: Power level times time: energy over `dynamic_w`.
        at_level_s: Time in steps by power level.
        steps: Steps done, parts and repeated ones included.
        tx_bytes, rx_bytes: Sent and received over PCIe by each GPU.
    """

    base_j: F64
    level_s: F64
    at_level_s: F64
    steps: F64
    tx_bytes: F64
    rx_bytes: F64


@dataclass(frozen=True, slots=True, eq=False)
class _Apart:
    """What an effect adds to the counters of the GPUs it sets apart.

    Attributes:
        effect: Which.
        spans: Indices of the training spans it holds in, shape (N,).
        rates: In each of them: watts, share of time at the limit, share of time too hot, shape
            (N, 3, GPUs of the effect).
        sums: Times the spans' lengths, up to each and past the last, (N + 1, 3, GPUs).
    """

    effect: ActiveEffect
    spans: list[int]
    rates: F64
    sums: F64


class CounterSource:
    """Computes the counters of one run."""

    def __init__(
        self, plan: Plan, timeline: Timeline, fleet: FleetSource, signals: SignalSource
    ) -> None:
        self.plan, self.timeline, self.fleet, self.signals = plan, timeline, fleet, signals
        spec = plan.spec
        self.gpus = spec.cluster.gpus
        self._per_node = min(spec.cluster.gpus_per_node, self.gpus)
        self._step_s = plan.step_time.total_s
        tokens = spec.recipe.tokens_per_step / self.gpus
        self._pcie = pcie_volume(signals.volume.network_bytes, tokens)
        self._since = lru_cache(maxsize=4)(self._counted_since)
        self._dynamic = lru_cache(maxsize=4)(self._dynamic_and_limits)
        self._boots = lru_cache(maxsize=4)(self._booted_by)
        self._apart_of = cache(self._apart_of_node)

    def column(self, at: Moments, name: str) -> NDArray[Any]:
        """A counter at moments of one span, shape (K, G)."""
        return np.asarray(getattr(self, f"_{name}")(at), np.int64)

    # Sums over spans.

    @cached_property
    def sums(self) -> _Sums:
        """Sums over the spans."""
        spans = self.timeline.spans
        rows = np.array([self._of_span(span) for span in spans])
        weights = np.zeros((len(spans), len(_GRID)))
        trained = rows[:, 6] > 0
        low, share = _between(rows[trained, 1] / rows[trained, 6])
        at = np.flatnonzero(trained)
        weights[at, low] = (1 - share) * rows[trained, 6]
        weights[at, low + 1] = share * rows[trained, 6]
        columns = [_summed(rows[:, i]) for i in range(5)]
        return _Sums(
            base_j=columns[0],
            level_s=columns[1],
            at_level_s=_summed(weights),
            steps=columns[2],
            tx_bytes=columns[3],
            rx_bytes=columns[4],
        )

    def _of_span(self, span: Span) -> tuple[float, ...]:
        """What a span adds to the sums, and for how long it trained."""
        gpu, length = self.plan.spec.gpu, span.duration_s
        level = PHASE_LEVELS[self.fleet.doing(span)]
        base_w = gpu.loaded_idle_w if level >= 0 else gpu.idle_w
        level_s, steps, trained_s = max(0.0, level) * length, 0.0, 0.0
        if span.phase is Phase.TRAINING and span.steps:
            steps, trained_s = self._steps_of(span), length
            level_s = self._level_s(length, steps)
        tx, rx = self._pcie_of(span, length, steps)
        return base_w * length, level_s, steps, tx, rx, length, trained_s

    def _steps_of(self, span: Span) -> float:
        """Steps done in a training span, with the part of one that a fault cut short."""
        if not span.cut:
            return float(span.steps)
        pace = self.fleet.pace
        clock = pace.at(span.ordinal + span.steps) - pace.at(span.ordinal)
        left_s = span.duration_s - clock * span.step_time_s
        return span.steps + max(0.0, left_s) / (span.factor * self._step_s)

    def _level_s(self, trained_s: Any, steps: Any) -> Any:
        """Power level times time, of a time in which so many steps were done.

        A step that takes longer is longer by waiting: `waiting_level` over its length.
        """
        return WAITING_LEVEL * trained_s + (1 - WAITING_LEVEL) * self._step_s * steps

    def _pcie_of(self, span: Span, length: Any, steps: Any) -> tuple[Any, Any]:
        """Bytes sent and received by a GPU in the first `length` seconds of a span."""
        pcie, plan = self._pcie, self.plan
        if span.phase in (Phase.TRAINING, Phase.VALIDATION):
            base = pcie.busy_bytes_per_s * length
            return base + pcie.step_tx_bytes * steps, base + pcie.step_rx_bytes * steps
        base = pcie.idle_bytes_per_s * length
        whole_s = span.due_s - span.start_s
        if whole_s <= 0:
            return base, base
        share = length / whole_s
        match span.phase:
            case Phase.CHECKPOINT:
                return base + share * copied_bytes(plan.checkpoint_bytes, self.gpus), base
            case Phase.EXPORT:
                return base + share * copied_bytes(plan.export_bytes, self.gpus), base
            case Phase.WEIGHTS:
                return base, base + share * copied_bytes(self._loaded_bytes(span), self.gpus)
            case _:
                return base, base

    def _loaded_bytes(self, span: Span) -> float:
        """What is read at a launch: a checkpoint, a base model, or nothing."""
        if span.step:
            return float(self.plan.checkpoint_bytes)
        return float(self.plan.export_bytes) if self.plan.spec.recipe.continued_loss else 0.0

    # A moment in its span.

    def _in_span(self, at: Moments) -> tuple[F64, F64]:
        """Time since the span's start and steps done since, shape (K,) each."""
        since = np.clip(at.time_s - at.span.start_s, 0.0, at.span.duration_s)
        if at.steps is None:
            return since, np.zeros_like(since)
        length = at.steps.factor * self._step_s
        done = at.steps.number + np.maximum(0.0, at.time_s - at.steps.begin_s) / length
        sums = self.sums.steps
        return since, np.minimum(done, sums[at.span_index + 1] - sums[at.span_index])

    def _level_in(self, at: Moments, since: F64, steps: F64) -> F64:
        """Power level times time since the span's start, shape (K,)."""
        if at.steps is not None:
            return np.asarray(self._level_s(since, steps))
        return np.asarray(max(0.0, PHASE_LEVELS[self.fleet.doing(at.span)]) * since)

    # Energy and the power limit.

    def _energy_mj(self, at: Moments) -> I64:
        since, steps = self._in_span(at)
        dynamic, cut, _ = self._dynamic(at.span.attempt)
        sums, begun = self.sums, self._since(at.span.attempt)
        first = sums.base_j[at.span_index] - sums.base_j[begun.span] + begun.energy_j
        first = first + (sums.level_s[at.span_index] - sums.level_s[begun.span]) * dynamic
        first -= self._at_levels(at.span_index, begun, cut)
        first += self._apart_until(at.span_index, begun)[0]
        power = self.fleet.base_w(at.span)
        total = first + (power * since)[:, None]
        total += self._level_in(at, since, steps)[:, None] * dynamic
        if at.steps is not None:
            total -= since[:, None] * self._now(at, cut)
            for effect, rates in self._apart_now(at.span_index):
                total[:, _gpus_of(effect)] += since[:, None] * rates[0]
        total *= 1000.0
        return _rounded(total)

    def _power_violation_ns(self, at: Moments) -> I64:
        return self._violation_ns(at, 1, self._dynamic(at.span.attempt)[2])

    def _thermal_violation_ns(self, at: Moments) -> I64:
        return self._violation_ns(at, 2, None)

    def _violation_ns(self, at: Moments, which: int, shares: F64 | None) -> I64:
        """Time at a limit: a share of the time in steps by their power level, and effects."""
        since, _ = self._in_span(at)
        begun = self._since(at.span.attempt)
        first = self._apart_until(at.span_index, begun)[which]
        if shares is not None:
            first = first + self._at_levels(at.span_index, begun, shares)
        total = np.repeat(first[None, :], len(since), axis=0)
        if at.steps is not None:
            if shares is not None:
                total += since[:, None] * self._now(at, shares)
            for effect, rates in self._apart_now(at.span_index):
                total[:, _gpus_of(effect)] += since[:, None] * rates[which]
        return _rounded(1e9 * np.maximum(total, 0.0))

    def _at_levels(self, index: int, begun: _Since, values: F64) -> F64:
        """Time by power level times a value at each, up to span `index`, shape (G,)."""
        sums = self.sums.at_level_s
        total = np.zeros(self.gpus)
        for level in range(len(_GRID)):  # one after the other: the same bits whatever the block
            if sums[-1, level]:
                total += (sums[index, level] - sums[begun.span, level]) * values[level]
        return total

    def _now(self, at: Moments, values: F64) -> F64:
        """A value by power level in a training span, shape (G,)."""
        sums = self.sums
        length = at.span.duration_s
        level_s = sums.level_s[at.span_index + 1] - sums.level_s[at.span_index]
        low, share = _between(np.array([level_s / length]))
        return np.asarray((1 - share[0]) * values[low[0]] + share[0] * values[low[0] + 1])

    def _dynamic_and_limits(self, attempt: int) -> tuple[F64, F64, F64]:
        """Dynamic power of each GPU, (G,), and by level what its limit takes and how often."""
        gpu = self.plan.spec.gpu
        dynamic = self.fleet.traits(attempt).dynamic_w.astype(np.float64)
        sd = self.fleet.power_sd_w(dynamic)
        means = [gpu.loaded_idle_w + level * dynamic for level in _GRID.tolist()]
        cut = np.array([mean_cut(mean, sd, self.fleet.ceiling_w) for mean in means])
        shares = np.array([share_at_limit(mean, sd, gpu.tdp_w) for mean in means])
        return dynamic, cut, shares

    # GPUs that effects of faults set apart.

    @cached_property
    def _effects(self) -> list[_Apart]:
        """What each effect adds, in order of the span it is over with."""
        spans_of: dict[int, list[int]] = {}
        wanted = [effect.effect in APART_EFFECTS for effect in self.timeline.effects]
        for index, span in enumerate(self.timeline.spans):
            if span.effects and span.phase is Phase.TRAINING and span.steps:
                for i in span.effects:
                    if wanted[i]:
                        spans_of.setdefault(i, []).append(index)
        made = [self._apart(self.timeline.effects[i], at) for i, at in spans_of.items()]
        return sorted(made, key=lambda apart: apart.spans[-1])

    @cached_property
    def _over_at(self) -> list[int]:
        return [apart.spans[-1] for apart in self._effects]

    @cached_property
    def _over_sums(self) -> list[F64]:
        """Sums of the first 0, _TOGETHER, 2 x _TOGETHER ... effects that are over, (3, G) each."""
        total = np.zeros((3, self.gpus))
        kept = []
        for number, apart in enumerate(self._effects):
            if number % _TOGETHER == 0:
                kept.append(total.copy())
            total[:, _gpus_of(apart.effect)] += apart.sums[-1]
        return [*kept, total]

    @cached_property
    def _alive_at(self) -> dict[int, list[_Apart]]:
        """Effects that have begun and are not over, by span."""
        alive: dict[int, list[_Apart]] = {}
        for apart in self._effects:
            for index in range(apart.spans[0], apart.spans[-1] + 1):
                alive.setdefault(index, []).append(apart)
        return alive

    def _apart(self, effect: ActiveEffect, spans: list[int]) -> _Apart:
        all_spans = self.timeline.spans
        rates = np.array([self._rates(effect, all_spans[i]) for i in spans])
        lengths = np.array([all_spans[i].duration_s for i in spans])
        return _Apart(effect, spans, rates, _summed(rates * lengths[:, None, None]))

    def _rates(self, effect: ActiveEffect, span: Span) -> F64:
        """Watts, share at the limit and share too hot that an effect adds, shape (3, GPUs)."""
        gpu, fleet = self.plan.spec.gpu, self.fleet
        dynamic = fleet.dynamic_w(span.attempt, effect.first_gpu, effect.gpus)
        sd = fleet.power_sd_w(dynamic)
        usual, own = float(waiting_level(span.slow)), float(fleet.apart_level(effect, span))
        mean, limit_w = gpu.loaded_idle_w + own * dynamic, gpu.tdp_w
        watts = (own - usual) * dynamic
        if effect.effect == "power-cap":
            limit_w = (1 - effect.stretch_level(span.start_s)) * gpu.tdp_w
            watts = watts - mean_cut(mean, sd, limit_w)
        at_limit = share_at_limit(mean, sd, limit_w)
        at_limit -= share_at_limit(gpu.loaded_idle_w + usual * dynamic, sd, gpu.tdp_w)
        too_hot = np.full(effect.gpus, float(effect in self.throttling(span)))
        return np.array([watts, at_limit, too_hot])

    def throttling(self, span: Span) -> list[ActiveEffect]:
        """Effects that make GPUs so hot in a training span that they lower their clock."""
        apart = self.signals.apart(self.fleet.condition(span))
        return [effect for effect, extra in apart if extra and effect.effect in HEAT_EFFECTS]

    def _apart_until(self, index: int, begun: _Since) -> F64:
        """What effects have added by the start of span `index` since the driver was loaded."""
        return self._apart_by(index) - begun.apart

    def _apart_by(self, index: int) -> F64:
        """What effects have added by the start of a span, shape (3, G)."""
        over = bisect_right(self._over_at, index - 1)
        kept = over // _TOGETHER
        total = self._over_sums[kept].copy()
        for apart in self._effects[kept * _TOGETHER : over]:
            total[:, _gpus_of(apart.effect)] += apart.sums[-1]
        for apart in self._alive_at.get(index, ()):
            before = bisect_right(apart.spans, index - 1)
            total[:, _gpus_of(apart.effect)] += apart.sums[before]
        return total

    def _apart_of_node(self, node: int, index: int) -> F64:
        """The same of the GPUs of one node, shape (3, GPUs of the node)."""
        low, high = node * self._per_node, (node + 1) * self._per_node
        total = np.zeros((3, self.gpus))
        for apart in self._effects_at.get(node, ()):
            before = bisect_right(apart.spans, index - 1)
            total[:, _gpus_of(apart.effect)] += apart.sums[before]
        return total[:, low:high]

    @cached_property
    def _effects_at(self) -> dict[int, list[_Apart]]:
        """Effects by the nodes they sit at."""
        found: dict[int, list[_Apart]] = {}
        for apart in self._effects:
            effect = apart.effect
            last = (effect.first_gpu + effect.gpus - 1) // self._per_node
            for node in range(effect.first_gpu // self._per_node, last + 1):
                found.setdefault(node, []).append(apart)
        return found

    def _apart_now(self, index: int) -> Iterator[tuple[ActiveEffect, F64]]:
        """Effects in force in a span, and what they add."""
        for apart in self._alive_at.get(index, ()):
            at = bisect_right(apart.spans, index) - 1
            if at >= 0 and apart.spans[at] == index:
                yield apart.effect, apart.rates[at]

    # Since when a GPU has counted.

    def boots(self, attempt: int) -> dict[int, tuple[int, float]]:
        """Nodes rebooted or swapped by `attempt`: first span after it, and when they booted."""
        return self._boots(attempt)

    def _booted_by(self, attempt: int) -> dict[int, tuple[int, float]]:
        cluster, spans = self.plan.spec.cluster, self.timeline.spans
        found: dict[int, tuple[int, float]] = {}
        for made, index, nodes in self._reboots:
            if made <= attempt:
                for node in nodes:
                    found[node] = index, spans[index].start_s - BOOTED_BEFORE_S
        for made, node, spare in self.timeline.swaps:
            launched = self.launches.get(made)
            if launched is None or made > attempt or found.get(node, (0, 0.0))[0] > launched:
                continue
            found[node] = launched, -uptime_s(cluster, spare)
        return found

    @cached_property
    def launches(self) -> dict[int, int]:
        """Index of the first span of each launch."""
        first: dict[int, int] = {}
        for index, span in enumerate(self.timeline.spans):
            first.setdefault(span.attempt, index)
        return first

    @cached_property
    def _reboots(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Launches after a reboot: attempt, index of its first span, nodes."""
        found = []
        for incident in self.timeline.incidents:
            if incident.kind.recovery != "reboot" or incident.relaunch_s is None:
                continue
            index = self.launches.get(incident.strike_attempt + 1)
            if index is not None:
                found.append(
                    (incident.strike_attempt + 1, index, incident_nodes(incident, self._per_node))
                )
        return found

    @cached_property
    def _up_s(self) -> F64:
        """How long each node had been up when the run began, shape (nodes,)."""
        cluster, nodes = self.plan.spec.cluster, -(-self.gpus // self._per_node)
        return np.array([uptime_s(cluster, node) for node in range(nodes)])

    def _counted_since(self, attempt: int) -> _Since:
        """Since when each GPU has counted, and what it had counted by then."""
        per_node, up_s = self._per_node, self._up_s.copy()
        first = np.zeros(len(up_s), np.int64)
        apart = np.zeros((3, len(up_s) * per_node))
        for node, (index, booted_s) in self._boots(attempt).items():
            first[node] = index
            up_s[node] = self.timeline.spans[index].start_s - booted_s
            apart[:, node * per_node : (node + 1) * per_node] = self._apart_of(node, index)
        idle_j = self.plan.spec.gpu.idle_w * up_s
        cut = slice(0, self.gpus)
        return _Since(
            np.repeat(first, per_node)[cut], np.repeat(idle_j, per_node)[cut], apart[:, cut]
        )

    # Traffic.

    def pcie_rates(self, at: Moments) -> tuple[F64, F64]:
        """Bytes/s sent and received over PCIe by each GPU, shape (K,) each."""
        one = np.ones(len(at.time_s))
        per_s = np.zeros_like(one)
        if at.steps is not None:
            per_s = 1 / (at.steps.factor * self._step_s)
        tx, rx = self._pcie_of(at.span, one, per_s)
        return np.asarray(tx), np.asarray(rx)

    def _pcie_tx_bytes(self, at: Moments) -> I64:
        return self._bytes(at, self.sums.tx_bytes, 0)

    def _pcie_rx_bytes(self, at: Moments) -> I64:
        return self._bytes(at, self.sums.rx_bytes, 1)

    def _bytes(self, at: Moments, sums: F64, which: int) -> I64:
        since, steps = self._in_span(at)
        now = self._pcie_of(at.span, since, steps)[which]
        first = sums[at.span_index] - sums[self._since(at.span.attempt).span]
        return _rounded(first + np.asarray(now)[:, None])

    def _nvlink_total_kib(self, at: Moments) -> I64:
        """Sent and received: NVML's NVLINK_THROUGHPUT_DATA_TX and _RX count KiB."""
        _, steps = self._in_span(at)
        sums, per_step = self.sums.steps, 2 * self.signals.volume.nvlink_bytes / 1024
        first = sums[at.span_index] - sums[self._since(at.span.attempt).span]
        return _rounded((first + steps[:, None]) * per_step)

    # Errors.

    def signs(self, at: Moments, name: str) -> I64:
        """A counter or mark that incidents move, by the signs that show in the span."""
        out = np.zeros((len(at.time_s), self.gpus), np.int64)
        if not at.span.signs:
            return out
        table = self._signs
        which = np.array(at.span.signs)
        which = which[table.name[which] == name]
        values = table.values(which, at.time_s, table.gone_s[which])
        gpus = table.gpu[which]
        if name == "xid":  # the last one stays
            for column, gpu in zip(values.T, gpus.tolist(), strict=True):
                out[:, gpu] = np.where(column > 0, column, out[:, gpu])
        else:
            np.add.at(out.T, gpus, values.T)
        return out

    @cached_property
    def _signs(self) -> _Signs:
        """All signs there ever were, as columns."""
        signs = self.timeline.signs
        numbers = np.array(
            [(s.first_gpu, s.start, s.per_hour, s.since_s, s.until_s, s.gone_s) for s in signs]
        ).reshape(-1, 6)
        left = [self._swapped_after(s.first_gpu, s.since_s) for s in signs]
        names = np.array([s.name for s in signs], dtype="U16")
        gpu, start, per_hour, since, until, gone = numbers.T
        return _Signs(
            names, gpu.astype(np.int64), start, per_hour, since, until, gone, np.array(left)
        )

    @cached_property
    def _swaps_of(self) -> dict[int, list[float]]:
        """When spares came to each node, in order."""
        found: dict[int, list[float]] = {}
        for made, node, _ in self.timeline.swaps:
            if (index := self.launches.get(made)) is not None:
                found.setdefault(node, []).append(self.timeline.spans[index].start_s)
        return found

    def _swapped_after(self, gpu: int, time_s: float) -> float:
        """When the node that holds a GPU at a moment was swapped; infinite: never."""
        swaps = self._swaps_of.get(gpu // self._per_node, [])
        at = bisect_right(swaps, time_s)
        return swaps[at] if at < len(swaps) else math.inf

    def _kept_on_board(self, at: Moments, name: str) -> I64:
        """What a sign has counted over resets, until its GPU left, shape (K, G)."""
        out = np.zeros((len(at.time_s), self.gpus), np.int64)
        table = self._signs
        which = np.flatnonzero((table.name == name) & (table.since_s <= at.time_s[-1]))
        values = table.values(which, at.time_s, table.left_s[which])
        np.add.at(out.T, table.gpu[which], values.T)
        return out

    def _ecc_sbe_aggregate(self, at: Moments) -> I64:
        return self._kept_on_board(at, "ecc-corrected")

    def _ecc_dbe_aggregate(self, at: Moments) -> I64:
        return self._kept_on_board(at, "ecc-uncorrected")

    def _uncorrectable_remapped_rows(self, at: Moments) -> I64:
        return self._marked(at, self._remaps)

    def _row_remap_pending(self, at: Moments) -> I64:
        return np.minimum(self._marked(at, self._pending), 1)

    def _row_remap_failure(self, at: Moments) -> I64:
        return np.minimum(self._marked(at, self._remap_failures), 1)

    def _marked(self, at: Moments, marks: F64) -> I64:
        """Number of marks (GPU, from, until) of each GPU at each moment, shape (K, G)."""
        out = np.zeros((len(at.time_s), self.gpus), np.int64)
        here = marks[marks[:, 1] <= at.time_s[-1]]
        there = (at.time_s >= here[:, 1:2]) & (at.time_s < here[:, 2:3])
        np.add.at(out.T, here[:, 0].astype(np.int64), there.astype(np.int64))
        return out

    @cached_property
    def _remaps(self) -> F64:
        """Rows remapped for uncorrectable errors (Xid 63): counted at once, on the board."""
        return self._xid_marks(63, is_pending=False)

    @cached_property
    def _pending(self) -> F64:
        """Rows remapped, but not before the next reset of their GPU."""
        return self._xid_marks(63, is_pending=True)

    @cached_property
    def _remap_failures(self) -> F64:
        """Rows that could not be remapped (Xid 64)."""
        return self._xid_marks(64, is_pending=False)

    def _xid_marks(self, xid: int, *, is_pending: bool) -> F64:
        """GPU, from when and until when incidents with this Xid leave their mark, (marks, 3)."""
        rows = []
        for made in self.timeline.incidents:
            struck_s = made.time_s if made.kind.course == "sign" else made.strike_s
            if xid in made.kind.xids and struck_s is not None:
                until_s = self._swapped_after(made.gpu, struck_s)
                if is_pending and made.kind.recovery in ("reset", "reboot"):
                    until_s = min(until_s, made.relaunch_s or math.inf)
                rows.append((float(made.gpu), struck_s, until_s))
        return np.array(rows).reshape(-1, 3)


@dataclass(frozen=True, slots=True, eq=False)
class _Signs:
    """Signs in columns, as `ActiveSign`; `left_s` is when a sign's GPU was swapped."""

    name: NDArray[np.str_]
    gpu: I64
    start: F64
    per_hour: F64
    since_s: F64
    until_s: F64
    gone_s: F64
    left_s: F64

    def values(self, which: I64, time_s: F64, end_s: F64) -> I64:
        """What signs `which` show at moments, gone from `end_s` on, shape (K, signs)."""
        at = time_s[:, None]
        hours = (np.minimum(at, self.until_s[which]) - self.since_s[which]) / 3600
        counted = (self.start[which] + self.per_hour[which] * hours).astype(np.int64)
        return np.where((at >= self.since_s[which]) & (at < end_s), counted, 0)


class _Since(NamedTuple):
    """Since when GPUs have counted.

    Attributes:
        span: Span at whose start their sums begin, shape (G,).
        energy_j: What they had counted by then, shape (G,).
        apart: What effects had added in their places by then, shape (3, G).
    """

    span: I64
    energy_j: F64
    apart: F64


_TOGETHER = 32  # effects that are over, whose sum is kept


def _summed(rows: F64) -> F64:
    """Sums before each row and past the last one."""
    return np.concatenate([np.zeros((1, *rows.shape[1:])), np.cumsum(rows, axis=0)])


def _between(level: F64) -> tuple[I64, F64]:
    """Position of levels on the grid: the point below, and the share of the one above."""
    low = np.clip(_GRID.searchsorted(level, side="right") - 1, 0, len(_GRID) - 2)
    share = (level - _GRID[low]) / (_GRID[low + 1] - _GRID[low])
    return low, np.clip(share, 0.0, 1.0)


def _rounded(values: F64) -> I64:
    return np.asarray(np.rint(values), np.int64)


def _gpus_of(effect: ActiveEffect) -> slice:
    return slice(effect.first_gpu, effect.first_gpu + effect.gpus)
