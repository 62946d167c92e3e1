"""Dense values per GPU: utilisation, temperature, memory, power.

Shapes: K = samples, G = GPUs of the run. A sample inside a training span belongs to the step
in progress (at a step's end, to that step), so that `fleet(at)` and the samples taken at steps
are the same numbers. Each GPU has traits drawn once for its place in the cluster; all share
the motion of the step; slow drift and white noise are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import Condition, FleetSamples, Phase
from ghosttrain.core.laws.faults import (
    APART_EFFECTS,
    HEAT_EFFECTS,
    IDLE_EFFECTS,
    ActiveEffect,
    felt_share,
    idle_level,
    slowed_level,
    waiting_level,
)
from ghosttrain.core.laws.memory import CONTEXT_GIB
from ghosttrain.core.laws.pace import WARM_INLET, PaceClock
from ghosttrain.core.laws.thermal import (
    MEMORY_OF_HEAT_S,
    PHASE_LEVELS,
    busy_share,
    heat_level,
    phase_power_w,
    training_power_w,
)
from ghosttrain.core.plan import Plan
from ghosttrain.core.rng import Stream, lanes_at, normal_table
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.timeline import Span, Timeline, lost_gpus, physical_nodes
from ghosttrain.core.units import DAY_S

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# GPU_UTIL in a phase; which share of their memory the processes hold there (-1: there are none).
_PHASES: dict[Phase, tuple[float, float]] = {
    Phase.WEIGHTS: (3.0, 0.0),
    Phase.TOKENIZER: (0.0, 0.3),
    Phase.DATASET: (0.0, 0.3),
    Phase.NCCL: (2.0, 0.3),
    Phase.GPUS: (0.0, 0.3),
    Phase.ALL_REDUCE_TEST: (96.0, 0.35),
    Phase.TRAINING: (100.0, 1.0),
    Phase.VALIDATION: (96.0, 1.0),
    Phase.CHECKPOINT: (4.0, 1.0),
    Phase.HANG: (100.0, 1.0),
    Phase.DOWN: (0.0, -1.0),
    Phase.EXPORT: (2.0, 1.0),
    Phase.DONE: (0.0, 1.0),
}
DRIFT_STEPS = 64  # executed steps between knots of a GPU's slow drift
_WARMTH_S = 300.0  # a warm inlet lasts this long to either side of its peak
_CHUNK_BYTES = 1 << 17  # of one metric: all that a chunk needs stays in L2
_TRAIT_FIELDS = 4
# A reading of power catches a phase of the step, and all GPUs go through the phases together:
# readings of two GPUs correlate by 0.7 to 0.95 in published telemetry (0.016^2 to 0.018^2 here).
_COMMON_POWER_SD, _OWN_POWER_SD = 0.016, 0.008  # of TDP
_DRIFT = 0.008  # of the dynamic power: standard deviation of a GPU's slow drift
_CEILING = 1.03  # of TDP: what a reading catches above the limit before the clock is lowered
_NOISY = 3  # metrics with noise of their own: power, utilisation, temperature


@dataclass(frozen=True, slots=True, eq=False)
class Traits:
    """What makes each GPU itself, shape (G,), float32."""

    dynamic_w: F32  # power over loaded idle while training
    ohm_c_per_w: F32
    inlet_c: F32  # inlet and pre-heated air, without the cluster's common part
    memory_gib: F32
    util_pct: F32


class FleetSource:
    """Computes samples of the GPUs of one run."""

    def __init__(self, plan: Plan, timeline: Timeline, seed: int, pace: PaceClock) -> None:
        self.plan, self.timeline, self.pace = plan, timeline, pace
        spec = plan.spec
        self.gpus = spec.cluster.gpus
        self._per_node = min(spec.cluster.gpus_per_node, self.gpus)
        self._noise = Stream(seed, "fleet.noise")
        self._idle_noise = Stream(seed, "fleet.noise.idle")
        self._common = Stream(seed, "fleet.common")
        self._drift = Stream(seed, "fleet.drift")
        self._traits = Stream(seed, "fleet.traits")
        self._nodes = Stream(seed, "fleet.nodes")
        self._slowdown = Slowdown(plan)
        self._words = -(-self.gpus // 4) * 4  # words with a lane to spare for every GPU
        self._noise_words = -(-_NOISY * self.gpus // 16) * 4  # of a sample, whole counters
        self.training_w = training_power_w(spec.gpu, plan.step_time)
        self._busy_pct = 100 * busy_share(plan.step_time)
        self._warmth_steps = max(1, round(_WARMTH_S / plan.step_time.total_s))
        self.traits = lru_cache(maxsize=2)(self._draw_traits)
        self._knots = lru_cache(maxsize=4)(self._draw_knots)

    def during_steps(self, span: Span, numbers: I64, end_s: F64, factors: F64) -> FleetSamples:
        """Samples at the ends of steps of a training span.

        Args:
            span: The span.
            numbers: Positions of the steps in it, ascending from 0, shape (K,).
            end_s: Their ends, shape (K,).
            factors: Their pace factors times the span's, shape (K,).
        """
        ordinals = span.ordinal + numbers
        step_time_s = factors * self.plan.step_time.total_s
        samples = self._empty(
            span.step + numbers + 1, end_s, step_time_s, self.condition(span), ordinals
        )
        heat = self._heat(end_s)
        common = self.common_inlet_c(end_s)
        # A longer step is longer by waiting: the work in it is the same.
        pace = waiting_level(factors).astype(np.float32)
        swing = self._swing(ordinals)
        warmth = self._warmth(ordinals)
        rows = max(1, _CHUNK_BYTES // (4 * self.gpus))
        for start in range(0, len(ordinals), rows):
            part = slice(start, start + rows)
            self._fill(samples, part, ordinals, span, heat, common, pace, swing, warmth)
        for effect in self._recent_effects(end_s):
            self._heat_apart(samples, effect, span.attempt, heat)
        for effect in self.timeline.effects_of(span):
            self._work_apart(samples, effect, span, factors)
        return samples

    def outside_steps(self, span: Span, at_s: F64) -> FleetSamples:
        """Samples at ascending moments of a span that is no training span, shape (K,)."""
        condition = self.condition(span)
        # A step that a fault cuts short is one all the same.
        step_time_s = np.full(len(at_s), span.step_time_s)
        draw = at_s.astype(np.int64)
        samples = self._empty(np.full(len(at_s), span.step), at_s, step_time_s, condition, draw)
        doing = condition.phase
        level, (util, held) = PHASE_LEVELS[doing], _PHASES[doing]
        gpu, traits = self.plan.spec.gpu, self.traits(span.attempt)
        lanes = lanes_at(self._idle_noise, draw, self._words)
        z = normal_table().take(lanes.reshape(len(at_s), self._words, 4)[:, : self.gpus])
        base = gpu.loaded_idle_w if level >= 0 else gpu.idle_w
        samples.power_w[:] = base + max(level, 0.0) * traits.dynamic_w + 1.5 * z[..., 0]
        np.maximum(samples.power_w, 0.8 * gpu.idle_w, out=samples.power_w)
        wander = 1.5 if 0 < util < 100 else 0.0
        np.clip(util + wander * z[..., 1], 0, 100, out=samples.util_pct)
        self._memory(samples.memory_gib, traits, held)
        heat = self._heat(at_s)
        inlet = self.common_inlet_c(at_s).astype(np.float32)[:, None]
        warm = gpu.loaded_idle_w + heat.astype(np.float32)[:, None] * traits.dynamic_w
        samples.temp_c[:] = inlet + traits.inlet_c + traits.ohm_c_per_w * warm
        samples.temp_c[:] += 0.3 * z[..., 2]
        for effect in self._recent_effects(at_s):
            self._heat_apart(samples, effect, span.attempt, heat)
        return self._without_lost(samples, span)

    def doing(self, span: Span) -> Phase:
        """What the GPUs do: hung before training or beside it, what they did when it struck."""
        if span.phase is not Phase.HANG:
            return span.phase
        struck = self.timeline.spans[self.timeline.index_at(span.start_s) - 1].phase
        return Phase.HANG if struck in (Phase.TRAINING, Phase.VALIDATION) else struck

    def inlet_c(self, node: int, time_s: float, ordinal: int, attempt: int) -> tuple[float, float]:
        """Inlet temperature of a node and what it would be without a warm spell."""
        first = node * self._per_node
        common = self.common_inlet_c(np.array([time_s]))[0]
        usual = float(common + self.traits(attempt).inlet_c[first])
        event = self._warmth(np.array([ordinal]))
        extra = event[0, node] if event is not None else 0.0
        return usual + float(extra), usual

    def inlets_c(self, span: Span, at_s: F64, numbers: I64 | None) -> F64:
        """Inlet temperature of each node at moments of a span, shape (K, nodes).

        Args:
            span: The span.
            at_s: Ascending moments of it, shape (K,).
            numbers: The steps in progress then, if there are any, shape (K,).
        """
        usual = self.traits(span.attempt).inlet_c[:: self._per_node].astype(np.float64)
        inlet = self.common_inlet_c(at_s)[:, None] + usual
        warmth = None if numbers is None else self._warmth(span.ordinal + numbers)
        if warmth is not None:
            inlet += warmth[:, : inlet.shape[1]]
        for effect in self.timeline.effects_of(span):
            if effect.effect == "hot-air":
                last = (effect.first_gpu + effect.gpus - 1) // self._per_node
                at = slice(effect.first_gpu // self._per_node, last + 1)
                inlet[:, at] += np.array([[effect.level(t)] for t in at_s.tolist()])
        return inlet

    def mean_util_pct(self) -> float:
        """Mean utilisation over all GPUs while training: some may have had nothing to run."""
        base = float(self.traits(1).util_pct.mean())
        total = busy = 0.0
        for span in self.timeline.spans:
            if span.phase is Phase.TRAINING:
                idle = sum(
                    effect.gpus / self.gpus * (1 - float(idle_level(span.slow)))
                    for effect in self.timeline.effects_of(span)
                    if effect.effect in IDLE_EFFECTS
                )
                total += span.duration_s
                busy += span.duration_s * (1 - idle)
        return base * busy / total if total else base

    def peak_memory_gib(self) -> float:
        """The most that a GPU held in the run; spares have memory of their own."""
        spans, context = self.timeline.spans, np.float32(CONTEXT_GIB)
        # A first step that the time limit cut short nobody has seen.
        seen = spans[:-1] if spans[-2].steps else spans[:-2]
        held: dict[int, float] = {}  # by attempt, as a share of what training holds
        for span in seen:
            share = _PHASES[self.doing(span)][1]
            held[span.attempt] = max(share, held.get(span.attempt, 0.0))
        full = {attempt: self.traits(attempt).memory_gib.max() for attempt in held}
        return max(float(context + held[a] * (full[a] - context)) for a in held)

    @property
    def ceiling_w(self) -> float:
        """The most a reading of power shows while training."""
        return _CEILING * self.plan.spec.gpu.tdp_w

    def base_w(self, span: Span) -> float:
        """Power of a GPU over a span without its dynamic part."""
        gpu = self.plan.spec.gpu
        return gpu.loaded_idle_w if PHASE_LEVELS[self.doing(span)] >= 0 else gpu.idle_w

    def power_sd_w(self, dynamic_w: F64) -> F64:
        """Standard deviation of readings of power while training, by the dynamic power."""
        tdp_w = self.plan.spec.gpu.tdp_w
        return np.sqrt(
            (_COMMON_POWER_SD * tdp_w) ** 2
            + (_OWN_POWER_SD * tdp_w) ** 2
            + (_DRIFT * dynamic_w) ** 2
        )

    def dynamic_w(self, attempt: int, first: int, gpus: int) -> F64:
        """`Traits.dynamic_w` of some GPUs, without drawing those of all, shape (gpus,)."""
        per_node = self._per_node
        physical = physical_nodes(self.timeline, self.plan.spec.cluster.nodes, attempt)
        low, high = first // per_node, (first + gpus - 1) // per_node + 1
        z = np.concatenate([self._gpu_traits(node) for node in physical[low:high].tolist()])
        start = first - low * per_node
        return self._dynamic_w(z[start : start + gpus, 0]).astype(np.float32).astype(np.float64)

    def _gpu_traits(self, physical: int) -> F64:
        """Draws of the GPUs of a physical node, shape (GPUs to a node, fields)."""
        words = _TRAIT_FIELDS * self._per_node
        return self._traits.normal(words * physical, words).reshape(-1, _TRAIT_FIELDS)

    def _dynamic_w(self, z: F64) -> F64:
        return (self.training_w - self.plan.spec.gpu.loaded_idle_w) * (1 + 0.02 * z)

    def mean_power_w(self, span: Span) -> float:
        """Mean power of a GPU over a span."""
        gpu, doing = self.plan.spec.gpu, self.doing(span)
        if doing is not Phase.TRAINING:
            return phase_power_w(gpu, self.training_w, doing)
        dynamic = self.training_w - gpu.loaded_idle_w
        return gpu.loaded_idle_w + self._level(span) * dynamic

    def _level(self, span: Span) -> float:
        """Power of most GPUs in a span, between loaded idle (0) and undisturbed training (1)."""
        doing = self.doing(span)
        level = max(0.0, PHASE_LEVELS[doing])
        return level * float(waiting_level(span.slow)) if doing is Phase.TRAINING else level

    def condition(self, span: Span) -> Condition:
        """What the GPUs are under in a span."""
        timeline = self.timeline
        effects, signs = timeline.effects_of(span), timeline.signs_of(span)
        spares = timeline.spares(span.attempt)
        return Condition(self.doing(span), span.start_s, effects, signs, spares)

    def _empty(
        self, step: I64, time_s: F64, step_time_s: F64, condition: Condition, draw: I64
    ) -> FleetSamples:
        # One allocation: from 4 MiB on NumPy asks for huge pages, which are cheaper to touch.
        util, temp, memory, power = np.empty((4, len(step), self.gpus), np.float32)
        conditions = (condition,) * len(step)
        return FleetSamples(
            step, time_s, util, temp, memory, power, (), step_time_s, conditions, draw
        )

    # GPUs that a fault sets apart.

    def _recent_effects(self, time_s: F64) -> list[ActiveEffect]:
        """Effects on the work or the cooling of some GPUs in the last ten minutes."""
        indices = sorted({i for span in self._near(time_s) for i in span.effects})
        effects = [self.timeline.effects[i] for i in indices]
        return [effect for effect in effects if effect.effect in APART_EFFECTS]

    def _work_apart(
        self, samples: FleetSamples, effect: ActiveEffect, span: Span, factors: F64
    ) -> None:
        """Power of GPUs that the others wait for: at a lower clock, or with nothing to run."""
        if effect.effect not in APART_EFFECTS:
            return
        gpu, at = self.plan.spec.gpu, slice(effect.first_gpu, effect.first_gpu + effect.gpus)
        # In a launch's first steps all wait alike for the compilation.
        factors = factors * span.slow / span.factor
        own = self._apart_level(effect, span, factors)
        dynamic = self.traits(span.attempt).dynamic_w[at]
        more = (own - waiting_level(factors)).astype(np.float32)[:, None]
        samples.power_w[:, at] += more * dynamic
        if effect.effect in IDLE_EFFECTS:
            samples.util_pct[:, at] *= own.astype(np.float32)[:, None]
        elif effect.effect == "power-cap":
            cap = np.float32((1 - effect.stretch_level(span.start_s)) * gpu.tdp_w)
            np.minimum(samples.power_w[:, at], cap, out=samples.power_w[:, at])

    def apart_level(self, effect: ActiveEffect, span: Span) -> F64:
        """Mean dynamic power of the GPUs an effect sets apart in a training span."""
        return self._apart_level(effect, span, span.slow)

    def _apart_level(self, effect: ActiveEffect, span: Span, factor: F64 | float) -> F64:
        """Dynamic power of the GPUs an effect sets apart, in steps `factor` times as long."""
        if effect.effect in IDLE_EFFECTS:
            return idle_level(factor)
        level = effect.stretch_level(span.start_s)
        return slowed_level(self._slowdown.kernel_extra(effect.effect, level), factor)

    def _heat_apart(
        self, samples: FleetSamples, effect: ActiveEffect, attempt: int, heat: F64
    ) -> None:
        """Temperature of GPUs that draw another power than most, or are cooled worse."""
        gpu, traits = self.plan.spec.gpu, self.traits(attempt)
        at = slice(effect.first_gpu, effect.first_gpu + effect.gpus)
        ohm, dynamic = traits.ohm_c_per_w[at], traits.dynamic_w[at]
        own = self._heat(samples.time_s, effect)
        temp = samples.temp_c[:, at]
        temp += (own - heat).astype(np.float32)[:, None] * ohm * dynamic
        if effect.effect not in HEAT_EFFECTS:
            return
        grown = np.array([effect.level(min(t, effect.until_s)) for t in samples.time_s.tolist()])
        grown *= felt_share(samples.time_s, effect.since_s, effect.until_s)
        if effect.effect == "hot-air":
            temp += grown.astype(np.float32)[:, None]
        else:
            watts = np.float32(gpu.loaded_idle_w) + own.astype(np.float32)[:, None] * dynamic
            temp += grown.astype(np.float32)[:, None] * ohm * watts
        np.minimum(temp, np.float32(gpu.slowdown_c), out=temp)  # there it throttles itself

    def _fill(
        self,
        samples: FleetSamples,
        part: slice,
        ordinals: I64,
        span: Span,
        heat: F64,
        common: F64,
        pace: F32,
        swing: F32,
        warmth: F32 | None,
    ) -> None:
        """Values of the samples of `part`."""
        gpu, traits = self.plan.spec.gpu, self.traits(span.attempt)
        z = self._white(ordinals[part])
        power, temp = samples.power_w[part], samples.temp_c[part]
        mean = self._drifting(ordinals[part])
        mean += np.float32(1)
        mean *= traits.dynamic_w
        np.multiply(mean, traits.ohm_c_per_w, out=temp)
        temp *= heat[part, None].astype(np.float32)
        temp += traits.inlet_c + np.float32(gpu.loaded_idle_w) * traits.ohm_c_per_w
        temp += common[part, None].astype(np.float32)
        z[:, 2] *= np.float32(0.35)
        temp += z[:, 2]
        mean *= pace[part, None]
        np.multiply(z[:, 0], np.float32(_OWN_POWER_SD * gpu.tdp_w), out=power)
        power += swing[part, None]
        power += mean
        power += np.float32(gpu.loaded_idle_w)
        np.minimum(power, np.float32(self.ceiling_w), out=power)
        np.multiply(z[:, 1], np.float32(0.8), out=samples.util_pct[part])
        samples.util_pct[part] += traits.util_pct
        np.clip(samples.util_pct[part], 0, 100, out=samples.util_pct[part])
        if warmth is not None:
            nodes = np.repeat(warmth[part], self._per_node, axis=1)
            temp += nodes[:, : self.gpus]
        self._training_memory(samples.memory_gib[part], ordinals[part], span, traits)

    def _swing(self, ordinals: I64) -> F32:
        """Power all GPUs have above their mean at each sample, W, shape (K,)."""
        lanes = lanes_at(self._common, ordinals, 1)[:, 0]
        scale = np.float32(_COMMON_POWER_SD * self.plan.spec.gpu.tdp_w)
        return np.asarray(normal_table().take(lanes, mode="clip") * scale)

    def _white(self, ordinals: I64) -> F32:
        """White noise of each sample, shape (K, 3, G): a fixed run of words per executed step."""
        lanes = lanes_at(self._noise, ordinals, self._noise_words)[:, : _NOISY * self.gpus]
        used = lanes.reshape(len(ordinals), _NOISY, self.gpus)
        return normal_table().take(used, mode="clip")

    def _drifting(self, ordinals: I64) -> F32:
        """Slow drift of the power at each sample, shape (K, G): smooth between knots."""
        knot, inside = np.divmod(ordinals, DRIFT_STEPS)
        angle = (inside * (0.5 * np.pi / DRIFT_STEPS)).astype(np.float32)[:, None]
        first, last = int(knot[0]), int(knot[-1]) + 1
        if last == first + 1:
            before, after = self._knots(first, 2)
            return np.asarray(before * np.cos(angle) + after * np.sin(angle))
        if last - first <= len(ordinals) + 8:
            knots = self._knots(first, last - first + 1)
            before, after = knots[knot - first], knots[knot - first + 1]
        else:
            pairs = np.stack([self._knots(k, 2) for k in knot.tolist()])
            before, after = pairs[:, 0], pairs[:, 1]
        return np.asarray(before * np.cos(angle) + after * np.sin(angle))

    def _draw_knots(self, first: int, count: int) -> F32:
        """Slow drift of every GPU's power at knots [first, first + count), shape (count, G)."""
        words = -(-self.gpus // 16) * 4
        lanes = self._drift.lanes(first * words, count * words).reshape(count, 4 * words)
        drift = normal_table().take(lanes[:, : self.gpus], mode="clip")
        drift *= np.float32(_DRIFT)
        return drift

    def _draw_traits(self, attempt: int) -> Traits:
        """Traits of the GPUs that run in `attempt`; a spare node brings its own."""
        spec, gpus, per_node = self.plan.spec, self.gpus, self._per_node
        physical = physical_nodes(self.timeline, spec.cluster.nodes, attempt)
        most = int(physical.max()) + 1
        z_node = self._nodes.normal(0, 4 * most).reshape(most, 4)[physical]
        z_gpu = self._traits.normal(0, _TRAIT_FIELDS * per_node * most)
        z = z_gpu.reshape(most, per_node, _TRAIT_FIELDS)[physical].reshape(-1, _TRAIT_FIELDS)[:gpus]
        local = np.arange(gpus) % per_node
        # Half of the chassis breathes air the other half has warmed.
        preheat = np.where(local >= per_node / 2, 5.0, 0.0) + 0.5 * (local % max(1, per_node // 2))
        if per_node < 4:
            preheat = np.zeros(gpus)
        load = (self.training_w - spec.gpu.loaded_idle_w) / max(1.0, spec.gpu.tdp_w)
        inlet = preheat * load + np.repeat(z_node[:, 0], per_node)[:gpus]
        aged = np.where(z[:, 1] > 2.05, 1.10, 1.0)  # 2 % have tired thermal paste
        memory = np.array([stage.used_gib for stage in self.plan.stage_memory])
        ranks_per_stage = max(1, gpus // len(memory))
        stage = np.minimum(np.arange(gpus) // ranks_per_stage, len(memory) - 1)
        dynamic = self._dynamic_w(z[:, 0])
        held = memory[stage] + 0.08 * np.abs(z[:, 2])
        usable = spec.gpu.memory_gib - 0.3
        return Traits(
            dynamic_w=dynamic.astype(np.float32),
            ohm_c_per_w=(
                spec.gpu.thermal_resistance_c_per_w * aged * (1 + 0.03 * np.clip(z[:, 1], -3, 3))
            ).astype(np.float32),
            inlet_c=inlet.astype(np.float32),
            memory_gib=np.minimum(held, usable).astype(np.float32),
            util_pct=np.minimum(self._busy_pct - 0.4 + 0.3 * z[:, 3], 99.8).astype(np.float32),
        )

    def _memory(self, out: F32, traits: Traits, held: float) -> None:
        """Memory of all GPUs in a phase: the share `held` of the plateau, -1 for no process."""
        if held < 0:
            out[:] = 0.0
            return
        np.multiply(traits.memory_gib - np.float32(CONTEXT_GIB), np.float32(held), out=out)
        out += np.float32(CONTEXT_GIB)

    def _training_memory(self, out: F32, ordinals: I64, span: Span, traits: Traits) -> None:
        """Memory while training: flat, once the first two steps of a launch are done."""
        out[:] = traits.memory_gib
        if span.factor > 1.0:  # a launch's first steps
            out[ordinals < self._launch_ordinal(span) + 2] *= np.float32(0.985)

    def _launch_ordinal(self, span: Span) -> int:
        return min(s.ordinal for s in self.timeline.spans if s.attempt == span.attempt)

    def lost(self, span: Span) -> tuple[int, ...]:
        """GPUs that do not answer during `span`."""
        return lost_gpus(self.timeline, span)

    def _near(self, time_s: F64) -> tuple[Span, ...]:
        """Spans of the ten minutes before the first moment, and up to the last."""
        first = self.timeline.index_at(float(time_s[0]) - MEMORY_OF_HEAT_S)
        last = self.timeline.index_at(float(time_s[-1]))
        return self.timeline.spans[first : last + 1]

    def _heat(self, time_s: F64, effect: ActiveEffect | None = None) -> F64:
        """Power level the temperatures have come to, from the spans of the last ten minutes.

        With an `effect`, that of the GPUs it sets apart.
        """
        near = self._near(time_s)
        levels = np.array([self._level_under(span, effect) for span in near])
        starts = np.array([s.start_s for s in near])
        ends = np.array([s.end_s for s in near])
        return heat_level(time_s, starts, ends, levels)

    def _level_under(self, span: Span, effect: ActiveEffect | None) -> float:
        """Power level in a span of most GPUs, or of those an effect sets apart."""
        is_apart = (
            effect is not None
            and span.phase is Phase.TRAINING
            and effect in (self.timeline.effects_of(span))
        )
        if effect is None or not is_apart:
            return self._level(span)
        return float(self.apart_level(effect, span))

    def common_inlet_c(self, time_s: F64) -> F64:
        """Inlet temperature common to all nodes: warmest in the afternoon."""
        spec = self.plan.spec
        hour = (time_s + spec.start_unix_s) / DAY_S
        return np.asarray(spec.cluster.inlet_c - 1.5 * np.cos(2 * np.pi * (hour - 0.125)))

    def _warmth(self, ordinals: I64) -> F32 | None:
        """Degrees each node's inlet is warmer at each sample, shape (K, nodes); None if none."""
        reach = self._warmth_steps
        spells = self.pace.hiccups(int(ordinals[0]) - reach, int(ordinals[-1]) + reach + 1)
        warm = np.flatnonzero(spells.kind == WARM_INLET)
        if not len(warm):
            return None
        nodes = self.plan.spec.cluster.nodes
        out = np.zeros((len(ordinals), nodes), np.float32)
        for i in warm.tolist():
            away = (ordinals - spells.ordinal[i]) / reach
            bump = np.where(np.abs(away) < 1, 0.5 * (1 + np.cos(np.pi * away)), 0.0)
            node = int(spells.node_share[i] * nodes)
            spell = (spells.warmth_c[i] * bump).astype(np.float32)
            # Where steps are short many spells overlap: the warmest is felt, not their sum.
            np.maximum(out[:, node], spell, out=out[:, node])
        return out

    def _without_lost(self, samples: FleetSamples, span: Span) -> FleetSamples:
        """The samples with the values of GPUs that do not answer set to 0."""
        lost = lost_gpus(self.timeline, span)
        for column in (samples.util_pct, samples.temp_c, samples.memory_gib, samples.power_w):
            column[:, list(lost)] = 0.0
        return replace(samples, lost=lost)
