"""Forecast: what a planned run will take with faults: time and its interval, cost, energy, loss.

A plan is of an undisturbed run. Where the spec asks for faults the forecast is of those; where
it asks for none it tells what faults at published rates would add, since whoever pays for a
cluster has them. It is arithmetic like the plan, with the same step time, stops and phases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ghosttrain.core.laws.goodput import (
    NINE_IN_TEN,
    POWER_USAGE_EFFECTIVENESS,
    PUBLISHED_FAULTS,
    PUBLISHED_RATE_LOG_SD,
    STEP_TIME_ERROR,
    FaultCost,
    FaultLoad,
    async_stall_s,
    daly_interval_s,
    effective_time_ratio,
    fault_load,
    host_w_per_gpu,
    segment_cost,
)
from ghosttrain.core.laws.thermal import phase_power_w, training_power_w
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import FaultKind
from ghosttrain.core.units import HOUR_S

Basis = Literal["published", "drawn", "injected"]
CauseName = Literal["step_time", "phases", "faults", "fault_rate"]
CONFIDENCE = 0.90  # of the interval of the duration
LIKELY = 0.05  # faults expected in a run: with fewer nine runs in ten and more have none
_PHASE_LOG_SD = 0.12  # of the length of a launch's phases and of a stop, as the timeline draws it
_FIRST_STEP_SD_S = 5.4  # of what the first step of a launch takes longer, likewise
_NEGLIGIBLE_LOG_SD = 0.001  # a cause of less is not told
_JOULES_PER_MWH = 3.6e9
_MILESTONES = (0.25, 0.5, 0.75, 1.0)  # of the steps: where the loss is told


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason why the run may take longer or shorter: its interval by itself, and its source."""

    name: CauseName
    low_s: float
    high_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Saving:
    """How often the run saves its state, and how often it best would.

    Attributes:
        interval_s: Training and validation between two saves.
        stall_s: What a save holds up.
        best_interval_s: Daly's; infinite where no faults come by chance.
        best_gain: Share of the run's time that the best interval would give back.
        async_stall_s: What an asynchronous save would hold up.
        async_gain: Share of the run's time that asynchronous saves would give back.
    """

    interval_s: float
    stall_s: float
    best_interval_s: float
    best_gain: float
    async_stall_s: float
    async_gain: float


@dataclass(frozen=True, slots=True)
class LossMilestone:
    """The mean training loss of the step numbered `step`."""

    step: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a planned run will take.

    Attributes:
        basis: Which faults are counted: those of published rates, where the spec asks for none;
            those it draws (and injects); those it injects.
        load: Faults that come by chance, of the whole cluster.
        fault_cost: What all faults add.
        checkpoint_s: What all saves hold up.
        duration_s: Expected; infinite where faults would never let the run finish.
        low_s: Lower end of the interval of CONFIDENCE.
        high_s: Its upper end.
        causes: Reasons of the interval.
        usd: Rent of the GPUs, 0 where the price is unknown.
        gpu_mwh: Energy of the GPUs.
        facility_mwh: With their servers and the cooling.
        host_w_per_gpu: Power of a GPU's share of its server.
        power_usage_effectiveness: Power of the building over that of its servers.
    """

    basis: Basis
    load: FaultLoad
    fault_cost: FaultCost
    checkpoint_s: float
    duration_s: float
    low_s: float
    high_s: float
    causes: tuple[Cause, ...]
    saving: Saving
    gpu_hours: float
    usd: float
    gpu_mwh: float
    facility_mwh: float
    host_w_per_gpu: float
    power_usage_effectiveness: float
    losses: tuple[LossMilestone, ...]

    @property
    def lost_share(self) -> float:
        """Share of the duration that faults and checkpoints take."""
        if math.isinf(self.duration_s):
            return 1.0
        return (self.checkpoint_s + self.fault_cost.total_s) / self.duration_s


def forecast(plan: Plan) -> Forecast:
    """What the run will take."""
    spec = plan.spec
    basis = _basis(plan)
    load = _load(plan, PUBLISHED_FAULTS if basis == "published" else spec.faults.drawn)
    chance = _chance_cost(plan, load)
    asked = _injected_cost(plan)
    fault_cost = chance + asked
    duration_s = plan.run_s + fault_cost.total_s
    causes, log_sd = _causes(plan, basis, load, fault_cost, duration_s)
    gpu_hours = duration_s * spec.cluster.gpus / HOUR_S
    gpu_mwh = _gpu_joules(plan, fault_cost) * spec.cluster.gpus / _JOULES_PER_MWH
    host_mwh = host_w_per_gpu(spec.gpu) * gpu_hours / 1e6
    return Forecast(
        basis=basis,
        load=load,
        fault_cost=fault_cost,
        checkpoint_s=plan.saves * plan.phases.checkpoint_s,
        duration_s=duration_s,
        low_s=duration_s * math.exp(-NINE_IN_TEN * log_sd),
        high_s=duration_s * math.exp(NINE_IN_TEN * log_sd),
        causes=causes,
        saving=_saving(plan, load),
        gpu_hours=gpu_hours,
        usd=gpu_hours * spec.gpu.usd_per_gpu_hour if spec.gpu.usd_per_gpu_hour else 0.0,
        gpu_mwh=gpu_mwh,
        facility_mwh=POWER_USAGE_EFFECTIVENESS * (gpu_mwh + host_mwh),
        host_w_per_gpu=host_w_per_gpu(spec.gpu),
        power_usage_effectiveness=POWER_USAGE_EFFECTIVENESS,
        losses=_losses(plan),
    )


def _basis(plan: Plan) -> Basis:
    faults = plan.spec.faults
    if faults.drawn:
        return "drawn"
    return "injected" if faults.injected else "published"


def _load(plan: Plan, kinds: Iterable[FaultKind]) -> FaultLoad:
    spec = plan.spec
    timeout_s = spec.faults.watchdog_timeout_s
    return fault_load(kinds, gpus=spec.cluster.gpus, watchdog_timeout_s=timeout_s)


def _work_s(plan: Plan) -> float:
    """Training and validation of the undisturbed run."""
    steps_s = plan.spec.recipe.total_steps * plan.step_time.total_s
    return steps_s + plan.stops[0] * plan.phases.validation_s


def _segment_s(plan: Plan) -> float:
    """Time from one save to the next, itself included."""
    return _work_s(plan) / max(1, plan.saves) + plan.phases.checkpoint_s


def _chance_cost(plan: Plan, load: FaultLoad) -> FaultCost:
    """What faults of this load add to the run: to its first launch, its segments, its export."""
    launch_s = plan.relaunch_s
    first = segment_cost(plan.init_s + plan.warm_up_s, load, 0.0)
    # What a fault cuts off the first launch is launched again, not replayed.
    first = FaultCost(first.faults, first.hang_s, first.repair_s, first.replay_s)
    segment = segment_cost(_segment_s(plan), load, launch_s)
    export = segment_cost(plan.phases.export_s, load, launch_s)
    return first + segment.times(max(1, plan.saves)) + export


def _injected_cost(plan: Plan) -> FaultCost:
    """What the faults asked for add that end a launch, each with half a segment to do again."""
    cost = FaultCost()
    steps = plan.spec.recipe.total_steps
    for fault in plan.spec.faults.injected:
        comes = fault.at_step <= steps if fault.at_step else fault.at_s < plan.run_s
        if comes and fault.kind.ends_launch:
            one = _load(plan, [replace(fault.kind, rate_per_1000_gpu_days=1.0)])
            hang_s, repair_s = one.hang_s, one.repair_s
            cost += FaultCost(1.0, hang_s, repair_s, plan.relaunch_s, _segment_s(plan) / 2)
    return cost


def _causes(
    plan: Plan, basis: Basis, load: FaultLoad, cost: FaultCost, duration_s: float
) -> tuple[tuple[Cause, ...], float]:
    """The causes of the interval, and the sd of the log duration that they make together."""
    if math.isinf(duration_s):
        return (), 0.0
    by_law = math.log1p(STEP_TIME_ERROR) / NINE_IN_TEN
    by_law *= (_work_s(plan) + cost.replay_s) / duration_s
    off = f"{100 * STEP_TIME_ERROR:.0f} %"
    parts: list[tuple[CauseName, float, str]] = [
        ("step_time", by_law, f"of published runs 90 % are within {off}"),
        ("phases", _phase_sd_s(plan) / duration_s, "their lengths vary by 12 %"),
    ]
    if cost.faults >= LIKELY:
        chance = _chance_sd_s(plan, load, cost, is_poisson=basis != "injected") / duration_s
        parts.append(("faults", chance, "their number, moments and repairs"))
    if cost.faults >= LIKELY and basis == "published":
        rate = PUBLISHED_RATE_LOG_SD * cost.total_s / duration_s
        parts.append(("fault_rate", rate, "2.3 to 6.5 in 1,000 node-days elsewhere"))
    causes = tuple(
        Cause(
            name,
            duration_s * math.exp(-NINE_IN_TEN * log_sd),
            duration_s * math.exp(NINE_IN_TEN * log_sd),
            why,
        )
        for name, log_sd, why in parts
        if log_sd >= _NEGLIGIBLE_LOG_SD
    )
    return causes, math.hypot(*(log_sd for _, log_sd, _ in parts))


def _chance_sd_s(plan: Plan, load: FaultLoad, cost: FaultCost, *, is_poisson: bool) -> float:
    """Sd of what all faults cost: a number of them, by chance or not, each with its own cost."""
    mean_s = cost.total_s / cost.faults if is_poisson else 0.0
    down_var = max(0.0, load.down_square_s2 - load.down_s**2)
    return math.sqrt(cost.faults * (mean_s**2 + down_var + _segment_s(plan) ** 2 / 12))


def _phase_sd_s(plan: Plan) -> float:
    """Sd of what launch, stops and export take together."""
    p = plan.phases
    once = (p.weights_s, p.tokenizer_s, p.dataset_s, p.gpus_s, p.nccl_s, p.all_reduce_test_s)
    stops = math.sqrt(plan.saves) * p.checkpoint_s, math.sqrt(plan.stops[0]) * p.validation_s
    lengths = (*once, *stops, p.export_s)
    return math.hypot(_FIRST_STEP_SD_S, *(_PHASE_LOG_SD * length_s for length_s in lengths))


def _saving(plan: Plan, load: FaultLoad) -> Saving:
    stall_s, launch_s = plan.phases.checkpoint_s, plan.relaunch_s
    interval_s = _segment_s(plan) - stall_s
    best_s = daly_interval_s(stall_s, load.mean_between_s)
    copy_s = min(stall_s, async_stall_s(plan.checkpoint_bytes / plan.spec.cluster.gpus))
    reached = effective_time_ratio(interval_s, stall_s, load, launch_s)
    best = 0.0
    if best_s < _work_s(plan):
        best = effective_time_ratio(best_s, stall_s, load, launch_s)
    return Saving(
        interval_s=interval_s,
        stall_s=stall_s,
        best_interval_s=best_s,
        best_gain=max(0.0, best - reached),
        async_stall_s=copy_s,
        async_gain=max(0.0, effective_time_ratio(interval_s, copy_s, load, launch_s) - reached),
    )


def _gpu_joules(plan: Plan, cost: FaultCost) -> float:
    """Energy of one GPU over the run."""
    p, gpu = plan.phases, plan.spec.gpu
    seconds = {
        "weights": p.weights_s,
        "tokenizer": p.tokenizer_s,
        "dataset": p.dataset_s + cost.launch_s,
        "nccl": p.nccl_s,
        "gpus": p.gpus_s,
        "all_reduce_test": p.all_reduce_test_s,
        "training": plan.spec.recipe.total_steps * plan.step_time.total_s
        + plan.warm_up_s
        + cost.replay_s,
        "validation": plan.stops[0] * p.validation_s,
        "checkpoint": plan.saves * p.checkpoint_s,
        "hang": cost.hang_s,
        "down": cost.repair_s,
        "export": p.export_s,
    }
    training_w = training_power_w(gpu, plan.step_time)
    return math.fsum(s * phase_power_w(gpu, training_w, name) for name, s in seconds.items())


def _losses(plan: Plan) -> tuple[LossMilestone, ...]:
    recipe = plan.spec.recipe
    steps = sorted({max(1, round(share * recipe.total_steps)) for share in _MILESTONES})
    means = plan.loss_curve.mean(np.array(steps, dtype=np.float64)).tolist()
    means[-1] = plan.loss_curve.final_loss()
    return tuple(
        LossMilestone(step, step * recipe.tokens_per_step, loss)
        for step, loss in zip(steps, means, strict=True)
    )
