"""Slowdown: how much longer a step takes under the effects in force.

Of causes of one sort the worst counts: a synchronous job waits for its slowest rank, its slowest
link, its latest loader. Causes of different sorts add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from ghosttrain.core.laws.faults import (
    COMPUTE_EFFECTS,
    NETWORK_EFFECTS,
    compute_extra,
    compute_share,
)
from ghosttrain.core.laws.layout import layout_step_time
from ghosttrain.core.laws.thermal import training_power_w
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import Effect

_LINK_GRAIN = 0.02  # of the lost bandwidth: the step time is planned anew for each


class Slowdown:
    """Step time under effects, by the laws that planned it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._share = compute_share(plan.step_time)
        self._power_w = training_power_w(plan.spec.gpu, plan.step_time)
        self._known: dict[tuple[Effect, float], float] = {}
        self._link = lru_cache(maxsize=64)(self._planned_with_link)

    def kernel_extra(self, effect: Effect, severity: float) -> float:
        """How much longer the kernels of an affected GPU take, as a share; 0 if they do not."""
        if effect not in COMPUTE_EFFECTS:
            return 0.0
        spec = self.plan.spec
        return compute_extra(effect, severity, spec.gpu, self._power_w, spec.cluster.inlet_c)

    def extra(self, effect: Effect, severity: float) -> float:
        """How much longer a step takes by this effect alone, as a share of the step."""
        key = effect, severity
        if key not in self._known:
            self._known[key] = self._extra(effect, severity)
        return self._known[key]

    def _extra(self, effect: Effect, severity: float) -> float:
        if effect in COMPUTE_EFFECTS:
            return self._share * self.kernel_extra(effect, severity)
        if effect == "slow-link":
            return self._link(round(severity / _LINK_GRAIN))
        return severity if effect in ("slow-network", "late-data") else 0.0

    @staticmethod
    def factor(extras: Iterable[tuple[Effect, float]]) -> float:
        """Step time over the undisturbed one, from what each effect in force makes alone."""
        worst: dict[Effect, float] = {}
        for effect, extra in extras:
            sort = effect
            if effect in COMPUTE_EFFECTS:
                sort = "slow-compute"
            elif effect in NETWORK_EFFECTS:
                sort = "slow-network"
            worst[sort] = max(worst.get(sort, 0.0), extra)
        return 1 + sum(worst.values())

    def _planned_with_link(self, grains: int) -> float:
        """The step planned with links that have lost so much of their bandwidth.

        One slow rail is enough: every ring that crosses it goes at its pace.
        """
        left = max(0.02, 1 - grains * _LINK_GRAIN)
        plan = self.plan
        cluster = replace(plan.spec.cluster, nic_gbps=left * plan.spec.cluster.nic_gbps)
        spec = replace(plan.spec, cluster=cluster)
        slower = layout_step_time(spec, plan.params, plan.layout).total_s
        return max(0.0, slower / plan.step_time.total_s - 1)
