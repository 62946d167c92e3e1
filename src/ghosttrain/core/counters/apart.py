"""What effects of faults add to the counters of the GPUs they set apart.

Shapes: G = GPUs of the run; N = training spans an effect holds in. The three rates are watts, share
of time at the power limit, share of time too hot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters.moments import summed
from ghosttrain.core.counters.spans import POWER_LEVELS, between, training_level
from ghosttrain.core.events import Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.laws.faults import APART_EFFECTS, HEAT_EFFECTS, ActiveEffect, waiting_level
from ghosttrain.core.laws.telemetry import mean_cut, share_at_limit
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.timeline import Span, Timeline

F64 = NDArray[np.float64]

# Sums of the effects that are over are kept after so many of them, but not more often than this: a
# sum is as large as the cluster.
_TOGETHER, _MOST_KEPT = 32, 8


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
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


class ApartSums:
    """Sums over the effects of one run."""

    def __init__(
        self, plan: Plan, timeline: Timeline, fleet: FleetSource, signals: SignalSource
    ) -> None:
        self.plan, self.timeline, self.fleet, self.signals = plan, timeline, fleet, signals
        self.gpus = plan.spec.cluster.gpus
        self._per_node = min(plan.spec.cluster.gpus_per_node, self.gpus)

    @cached_property
    def _effects(self) -> list[Apart]:
        """What each effect adds, in order of the span it is over with."""
        spans_of: dict[int, list[int]] = {}
        wanted = [effect.effect in APART_EFFECTS for effect in self.timeline.effects]
        for index, span in enumerate(self.timeline.spans):
            if span.effects and span.phase is Phase.TRAINING and span.steps:
                for i in span.effects:
                    if wanted[i]:
                        spans_of.setdefault(i, []).append(index)
        made = [self._summed(self.timeline.effects[i], at) for i, at in spans_of.items()]
        return sorted(made, key=lambda apart: apart.spans[-1])

    @cached_property
    def _together(self) -> int:
        return max(_TOGETHER, -(-len(self._effects) // _MOST_KEPT))

    @cached_property
    def _over_at(self) -> list[int]:
        return [apart.spans[-1] for apart in self._effects]

    @cached_property
    def _over_sums(self) -> list[F64]:
        """Sums of the first 0, n, 2 n ... effects that are over, (3, G) each; n: `_together`."""
        total = np.zeros((3, self.gpus))
        kept = []
        for number, apart in enumerate(self._effects):
            if number % self._together == 0:
                kept.append(total.copy())
            total[:, gpus_of(apart.effect)] += apart.sums[-1]
        return [*kept, total]

    @cached_property
    def _alive_at(self) -> dict[int, list[Apart]]:
        """Effects that have begun and are not over, by span."""
        alive: dict[int, list[Apart]] = {}
        for apart in self._effects:
            for index in range(apart.spans[0], apart.spans[-1] + 1):
                alive.setdefault(index, []).append(apart)
        return alive

    def _summed(self, effect: ActiveEffect, spans: list[int]) -> Apart:
        all_spans = self.timeline.spans
        rates = np.array([self._rates(effect, all_spans[i]) for i in spans])
        lengths = np.array([all_spans[i].duration_s for i in spans])
        return Apart(effect, spans, rates, summed(rates * lengths[:, None, None]))

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
        at_limit = share_at_limit(mean, sd, limit_w) - self._usually_at_limit(dynamic, sd, span)
        hot = self.throttling(span)
        too_hot = np.full(effect.gpus, float(effect in hot))
        # Where several hold, the last one tells: shares of one time do not add up.
        later = self.timeline.effects_of(span)
        later = later[later.index(effect) + 1 :]
        at_limit[_covered(effect, (e for e in later if e.effect in APART_EFFECTS))] = 0.0
        too_hot[_covered(effect, (e for e in later if e in hot))] = 0.0
        return np.array([watts, at_limit, too_hot])

    def _usually_at_limit(self, dynamic: F64, sd: F64, span: Span) -> F64:
        """Share at the limit that is counted for all GPUs alike in a span."""
        gpu = self.plan.spec.gpu
        low, share = between(np.array([training_level(span)]))
        below, above = (
            share_at_limit(gpu.loaded_idle_w + POWER_LEVELS[at] * dynamic, sd, gpu.tdp_w)
            for at in (low[0], low[0] + 1)
        )
        return np.asarray((1 - share[0]) * below + share[0] * above)

    def throttling(self, span: Span) -> list[ActiveEffect]:
        """Effects that make GPUs so hot in a training span that they lower their clock."""
        apart = self.signals.apart(self.fleet.condition(span))
        return [effect for effect, extra in apart if extra and effect.effect in HEAT_EFFECTS]

    def by(self, index: int) -> F64:
        """What effects have added by the start of a span, shape (3, G)."""
        over = bisect_right(self._over_at, index - 1)
        kept = over // self._together
        total = self._over_sums[kept].copy()
        for apart in self._effects[kept * self._together : over]:
            total[:, gpus_of(apart.effect)] += apart.sums[-1]
        for apart in self._alive_at.get(index, ()):
            before = bisect_right(apart.spans, index - 1)
            total[:, gpus_of(apart.effect)] += apart.sums[before]
        return total

    def of_node(self, node: int, index: int) -> F64:
        """The same of the GPUs of one node, shape (3, GPUs of the node)."""
        low = node * self._per_node
        total = np.zeros((3, self._per_node))
        for apart in self._effects_at.get(node, ()):
            first = apart.effect.first_gpu
            here = slice(max(0, first - low), first + apart.effect.gpus - low)
            there = slice(max(0, low - first), low + self._per_node - first)
            before = bisect_right(apart.spans, index - 1)
            total[:, here] += apart.sums[before][:, there]
        return total

    @cached_property
    def _effects_at(self) -> dict[int, list[Apart]]:
        """Effects by the nodes they sit at."""
        found: dict[int, list[Apart]] = {}
        for apart in self._effects:
            effect = apart.effect
            last = (effect.first_gpu + effect.gpus - 1) // self._per_node
            for node in range(effect.first_gpu // self._per_node, last + 1):
                found.setdefault(node, []).append(apart)
        return found

    def during(self, index: int) -> Iterator[tuple[ActiveEffect, F64]]:
        """Effects in force in a span, and what they add."""
        for apart in self._alive_at.get(index, ()):
            at = bisect_right(apart.spans, index) - 1
            if at >= 0 and apart.spans[at] == index:
                yield apart.effect, apart.rates[at]


def _covered(effect: ActiveEffect, others: Iterable[ActiveEffect]) -> NDArray[np.bool_]:
    """Which GPUs of an effect others sit at too, shape (GPUs,)."""
    covered = np.zeros(effect.gpus, np.bool_)
    for other in others:
        first = other.first_gpu - effect.first_gpu
        covered[max(0, first) : max(0, first + other.gpus)] = True
    return covered


def gpus_of(effect: ActiveEffect) -> slice:
    """The GPUs an effect sits at."""
    return slice(effect.first_gpu, effect.first_gpu + effect.gpus)
