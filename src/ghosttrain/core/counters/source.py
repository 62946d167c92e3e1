"""CounterSource: the counters of one run, by field."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters.apart import ApartSums, gpus_of
from ghosttrain.core.counters.boots import Boots, Since
from ghosttrain.core.counters.marks import Marks
from ghosttrain.core.counters.moments import Moments, rounded
from ghosttrain.core.counters.spans import POWER_LEVELS, SpanSums, between, training_level
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.laws.telemetry import mean_cut, share_at_limit
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import Link, SignalSource
from ghosttrain.core.timeline import Span, Timeline

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_EDGE_S: Final = 1e-3  # what a GPU counts in it is more than any rounding


class CounterSource:
    """Computes the counters of one run; each takes moments of one span and gives (K, G)."""

    def __init__(
        self, plan: Plan, timeline: Timeline, fleet: FleetSource, signals: SignalSource
    ) -> None:
        self.plan, self.timeline = plan, timeline
        self.fleet, self.signals = fleet, signals
        self.gpus = plan.spec.cluster.gpus
        self.spans = SpanSums(plan, timeline, fleet, signals)
        self.apart = ApartSums(plan, timeline, fleet, signals)
        self.boots = Boots(plan, timeline, self.apart)
        self.marks = Marks(plan, timeline, self.boots.launches)
        self._dynamic = lru_cache(maxsize=4)(self._dynamic_and_limits)

    def energy_mj(self, at: Moments) -> I64:
        """Energy since the driver was loaded: the integral of the mean power."""
        return self._joined(at, self._energy_mj)

    def _energy_mj(self, at: Moments) -> I64:
        since, steps = self.spans.inside(at)
        dynamic, cut, _ = self._dynamic(at.span.attempt)
        sums, begun = self.spans.sums, self.boots.since(at.span.attempt)
        # From the run's start on, then less what was before the driver: so it never decreases.
        base_j = sums.base_j[at.span_index] + self.fleet.base_w(at.span) * since
        level_s = sums.level_s[at.span_index] + self.spans.level_s(at, since, steps)
        own = begun.energy_j - sums.base_j[begun.span] - sums.level_s[begun.span] * dynamic
        own -= self._at_levels(at.span_index, begun, cut)
        own += self._apart_until(at.span_index, begun)[0]
        total = level_s[:, None] * dynamic
        total += base_j[:, None]
        total += own
        if at.steps is not None:
            total -= since[:, None] * self._now(at, cut)
            for effect, rates in self.apart.during(at.span_index):
                total[:, gpus_of(effect)] += since[:, None] * rates[0]
        total *= 1000.0
        return rounded(total)

    def power_violation_ns(self, at: Moments) -> I64:
        """Time with the clock held down by the power limit."""
        return self._joined(at, self._power_violation_ns)

    def _power_violation_ns(self, at: Moments) -> I64:
        return self._violation_ns(at, 1, self._dynamic(at.span.attempt)[2])

    def thermal_violation_ns(self, at: Moments) -> I64:
        """Time with the clock held down by the temperature."""
        return self._joined(at, self._thermal_violation_ns)

    def _thermal_violation_ns(self, at: Moments) -> I64:
        return self._violation_ns(at, 2, None)

    def _joined(self, at: Moments, law: Callable[[Moments], I64]) -> I64:
        """Values by a law that at the end of a span are not above those the next begins with.

        Sums and what a span adds to them are rounded apart; by one in the last digit a counter
        would fall there.
        """
        values, spans = law(at), self.timeline.spans
        late = at.time_s > at.span.end_s - _EDGE_S
        if late.any() and at.span_index + 1 < len(spans):
            after = spans[at.span_index + 1]
            if after.attempt == at.span.attempt:
                begin = law(Moments(at.span_index + 1, after, np.array([after.start_s])))
                values[late] = np.minimum(values[late], begin)
        return values

    def _violation_ns(self, at: Moments, which: int, shares: F64 | None) -> I64:
        """Time at a limit: a share of the time in steps by their power level, and effects."""
        since, _ = self.spans.inside(at)
        begun = self.boots.since(at.span.attempt)
        first = self._apart_until(at.span_index, begun)[which]
        if shares is not None:
            first = first + self._at_levels(at.span_index, begun, shares)
        total = np.repeat(first[None, :], len(since), axis=0)
        if at.steps is not None:
            if shares is not None:
                total += since[:, None] * self._now(at, shares)
            for effect, rates in self.apart.during(at.span_index):
                total[:, gpus_of(effect)] += since[:, None] * rates[which]
        return rounded(1e9 * np.maximum(total, 0.0))

    def _at_levels(self, index: int, begun: Since, values: F64) -> F64:
        """Time by power level times a value at each, up to span `index`, shape (G,)."""
        sums = self.spans.sums.at_level_s
        total = np.zeros(self.gpus)
        # One after the other: a matrix product rounds differently for other shapes.
        for level in range(len(POWER_LEVELS)):
            if sums[-1, level]:
                total += (sums[index, level] - sums[begun.span, level]) * values[level]
        return total

    def _now(self, at: Moments, values: F64) -> F64:
        """A value by power level in a training span, shape (G,)."""
        low, share = between(np.array([training_level(at.span)]))
        return np.asarray((1 - share[0]) * values[low[0]] + share[0] * values[low[0] + 1])

    def _dynamic_and_limits(self, attempt: int) -> tuple[F64, F64, F64]:
        """Dynamic power of each GPU, (G,), and by level what its limit takes and how often."""
        gpu = self.plan.spec.gpu
        dynamic = self.fleet.traits(attempt).dynamic_w.astype(np.float64)
        sd = self.fleet.power_sd_w(dynamic)
        means = [gpu.loaded_idle_w + level * dynamic for level in POWER_LEVELS.tolist()]
        cut = np.array([mean_cut(mean, sd, self.fleet.ceiling_w) for mean in means])
        shares = np.array([share_at_limit(mean, sd, gpu.tdp_w) for mean in means])
        return dynamic, cut, shares

    def pcie_tx_bytes(self, at: Moments) -> I64:
        """Sent over PCIe."""
        return self._bytes(at, self.spans.sums.tx_bytes, 0)

    def pcie_rx_bytes(self, at: Moments) -> I64:
        """Received over PCIe."""
        return self._bytes(at, self.spans.sums.rx_bytes, 1)

    def _bytes(self, at: Moments, sums: F64, which: int) -> I64:
        since, steps = self.spans.inside(at)
        now = self.spans.pcie_bytes(at.span, since, steps)[which]
        return self._since_boot(at, "network", sums, sums[at.span_index] + np.asarray(now))

    def nvlink_total_kib(self, at: Moments) -> I64:
        """Sent and received: NVML's NVLINK_THROUGHPUT_DATA_TX and _RX count KiB."""
        _, steps = self.spans.inside(at)
        sums, per_step = self.spans.sums.steps, 2 * self.signals.volume.nvlink_bytes / 1024
        now = (sums[at.span_index] + steps) * per_step
        return self._since_boot(at, "nvlink", sums * per_step, now)

    def _since_boot(self, at: Moments, link: Link, sums: F64, now: F64) -> I64:
        """What the law counts, times each GPU's trait, since the driver of each was loaded."""
        trait = self.link_trait(at.span, link)
        if not self.boots.by(at.span.attempt):
            return rounded(now[:, None] * trait)
        return rounded((now[:, None] - sums[self.boots.since(at.span.attempt).span]) * trait)

    def link_trait(self, span: Span, link: Link) -> F64:
        """What each GPU's link carries over what the law has it carry, shape (G,)."""
        return self.signals.variety.gpu_trait(link, self.timeline.spares(span.attempt))

    def _apart_until(self, index: int, begun: Since) -> F64:
        """What effects have added by the start of span `index` since the driver was loaded."""
        return self.apart.by(index) - begun.apart
