"""Small runs: hand-made events, and real ones."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import Any

from ghosttrain import catalog
from ghosttrain.core.events import IncidentLabelled, RunFinished, RunStarted, Summary
from ghosttrain.core.plan import plan
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, ParallelRequest, Recipe, RunSpec
from ghosttrain.inputs.request import Request, resolve

END_S = 10_000.0


def small_spec() -> RunSpec:
    model, gpu = catalog.model("llama-3-8b"), catalog.gpu("h100-sxm")
    return RunSpec(
        model,
        gpu,
        catalog.cluster(gpu, 16),
        catalog.dataset("fineweb-edu"),
        catalog.tokenizer(model.tokenizer),
        Recipe(8192, 64, 1, 60, warmup_steps=12),
        ParallelRequest(sharding="fsdp"),
    )


@cache
def run_with(*names_and_times: tuple[str, float, int]) -> Run:
    """The small run with faults: kind, moment, GPU."""
    faults = tuple(
        InjectedFault(catalog.fault_kind(name), at_s=at_s, gpu=gpu)
        for name, at_s, gpu in names_and_times
    )
    return simulate(replace(small_spec(), faults=Faults(injected=faults)), 7)


def real_run(*, steps: int = 400, faults: str = "none", gpus: int = 16, seed: int = 3) -> Run:
    """A run of llama-3-8b as `ghosttrain export` has it."""
    asked = {"cluster.gpus": gpus, "recipe.steps": steps, "faults": faults}
    return simulate(resolve(Request("llama-3-8b", asked, start_unix_s=1767225600), seed), seed)


def started(seed: int = 7) -> RunStarted:
    return RunStarted(0.0, seed, plan(small_spec()))


def finished(end_s: float = END_S) -> RunFinished:
    zeros: dict[str, Any] = {f.name: 0 for f in fields(Summary)} | {"saved_path": ""}
    return RunFinished(end_s, "completed", Summary(**zeros))


def incident(
    number: int, onset_s: float, cleared_s: float | None, **changes: Any
) -> IncidentLabelled:
    values: dict[str, Any] = {
        "time_s": END_S if cleared_s is None else cleared_s,
        "incident": number,
        "kind": "gpu-off-bus",
        "family": "gpu",
        "scope": "gpu",
        "entity": "gpu 9",
        "node": 1,
        "first_rank": 9,
        "ranks": 1,
        "severity": 0.25,
        "onset_s": onset_s,
        "signals": (("log", onset_s), ("gpu_util", onset_s + 1.5)),
        "detected_s": None if cleared_s is None else onset_s + 20.0,
        "mitigated_s": cleared_s,
        "cleared_s": cleared_s,
        "steps_lost": 12,
        "lost_s": 321.125,
        "benign": False,
    }
    return IncidentLabelled(**values | changes)


def a_run() -> list[RunStarted | IncidentLabelled | RunFinished]:
    """Two incidents, one of them never over, and a lookalike, told in the order they ended."""
    return [
        started(),
        incident(2, 1000.0, 1100.0, benign=True, kind="ecc-sbe-storm"),
        incident(1, 500.0, 2000.0),
        incident(3, 9000.0, None, entity="node 0", node=0, first_rank=0, ranks=8, scope="node"),
        finished(),
    ]
