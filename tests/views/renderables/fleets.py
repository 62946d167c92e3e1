"""Cards and samples of fleets for the tests of drawings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from ghosttrain import catalog
from ghosttrain.core.events import Condition, Event, FleetSamples, Phase, RunStarted
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, Gpu, InjectedFault, Recipe, RunSpec
from ghosttrain.views.renderables.run_card import RunCard

H100: Gpu = catalog.gpu("h100-sxm")
H200: Gpu = catalog.gpu("h200-sxm")
GB200: Gpu = catalog.gpu("gb200")


def even_fleet(
    gpus: int,
    *,
    util: float = 99,
    temp: float = 61,
    memory: float = 65.2,
    power: float = 612,
    count: int = 1,
    step: int = 410,
    lost: tuple[int, ...] = (),
    temps: Mapping[int, float] | None = None,
) -> FleetSamples:
    """Samples of GPUs that are all alike, but for those in `temps` and `lost`."""

    def filled(value: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        column = np.full((count, gpus), value, np.float32)
        column[:, list(lost)] = 0
        return column

    temp_c = filled(temp)
    for gpu, value in (temps or {}).items():
        temp_c[:, gpu] = value
    return FleetSamples(
        np.arange(step, step + 10 * count, 10),
        24.7 * np.arange(count, dtype=np.float64),
        filled(util),
        temp_c,
        filled(memory),
        filled(power),
        lost,
        np.full(count, 2.47),
        (Condition(Phase.TRAINING, 0.0),) * count,
        np.arange(step, step + 10 * count, 10),
    )


def random_fleet(gpus: int, *, seed: int = 0, count: int = 1, step: int = 410) -> FleetSamples:
    """Samples of a fleet with everything in it, from idle to the edge."""
    rng = np.random.default_rng(seed)

    def between(low: float, high: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.uniform(low, high, (count, gpus)).astype(np.float32)

    lost = tuple(int(g) for g in range(gpus) if rng.random() < 0.05)
    util, temp, memory, power = (
        between(*limits) for limits in ((0, 100), (25, 99), (0, 190), (0, 1400))
    )
    for column in (util, temp, memory, power):
        column[:, list(lost)] = 0
    step_column = np.arange(step, step + 10 * count, 10)
    time_column = 24.7 * np.arange(count, dtype=np.float64)
    step_time = np.full(count, 2.47)
    conditions = (Condition(Phase.TRAINING, 0.0),) * count
    columns = util, temp, memory, power
    return FleetSamples(
        step_column, time_column, *columns, lost, step_time, conditions, step_column
    )


@cache
def faulty_run(gpus: int = 64) -> Run:
    """Llama-3-8B on H100s, three short epochs, a GPU lost in the first."""
    gpu = catalog.gpu("h100-sxm")
    fault = InjectedFault(catalog.fault_kind("gpu-off-bus"), at_s=120.0, gpu=13 % gpus)
    recipe = Recipe(8192, 2 * gpus, epochs=3, steps_per_epoch=60, warmup_steps=20)
    spec = RunSpec(
        catalog.model("llama-3-8b"),
        gpu,
        catalog.cluster(gpu, gpus),
        catalog.dataset("fineweb-edu"),
        catalog.tokenizer("llama-3"),
        recipe,
        faults=Faults(injected=(fault,)),
        chosen=(("gpu", "what most people train on"),),
    )
    return simulate(spec, 1234)


@cache
def faulty_events(gpus: int = 64) -> tuple[Event, ...]:
    """All events of `faulty_run`."""
    return tuple(faulty_run(gpus).events(0.0, float("inf")))


def card_of(run: Run) -> RunCard:
    """The run's card."""
    return RunCard.of(RunStarted(0.0, run.seed, run.plan))


def with_recipe(run: Run, **changes: object) -> RunCard:
    """The run's card with another recipe, its plan unchanged otherwise."""
    recipe = replace(run.spec.recipe, **changes)  # type: ignore[arg-type]
    plan = replace(run.plan, spec=replace(run.spec, recipe=recipe))
    return RunCard.of(RunStarted(0.0, run.seed, plan))
