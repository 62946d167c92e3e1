"""Hypothesis strategies of small, random, lawful runs, and moments worth cutting them at."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.plan import Plan, plan
from ghosttrain.core.run import Run
from ghosttrain.core.spec import FaultKind, Faults, InjectedFault, Recipe, RunSpec
from ghosttrain.core.units import DAY_S

# (model, GPU, GPUs): each fits. From one card to 256, nodes of 4 and 8 and a half-filled one,
# dense, tied, learned positions, experts, latent attention, pipelines.
MACHINES = (
    ("gpt-2-124m", "a100-80gb-sxm", 1),
    ("gpt-2-124m", "h100-sxm", 8),
    ("tinyllama-1.1b", "rtx-4090", 4),
    ("llama-3.2-1b", "gb200", 4),
    ("llama-3-8b", "h100-sxm", 64),
    ("qwen2.5-7b", "h200-sxm", 32),
    ("deepseek-v2-lite-16b", "h100-sxm", 16),
    ("mixtral-8x7b", "h100-sxm", 128),
    ("llama-3-70b", "h100-sxm", 256),
)
# Sequences a GPU and step, sequence length: steps of some milliseconds to minutes.
LOADS = ((1, 128), (2, 1024), (4, 512), (64, 1024))

WATCHDOG_KIND = FaultKind(
    name="gpu-off-bus",
    scope="gpu",
    course="hang",
    xids=(79,),
    rate_per_1000_gpu_days=0.07,
    hang_share=1.0,
    downtime_median_s=300.0,
    takes_gpus=True,
)
PROCESS_KIND = FaultKind(
    name="made-up-crash",
    scope="node",
    course="crash",
    xids=(48,),
    rate_per_1000_gpu_days=0.1,
    downtime_median_s=90.0,
    downtime_sigma=0.6,
)
KINDS = (WATCHDOG_KIND, PROCESS_KIND)
CATALOGUED = tuple(catalog.fault_kind(name) for name in catalog.names("fault"))

seeds = st.integers(0, 2**64 - 1)


@cache
def machine_spec(model: str, gpu: str, gpus: int) -> RunSpec:
    """A spec of that model on these GPUs with a recipe to be replaced."""
    trained, card = catalog.model(model), catalog.gpu(gpu)
    return RunSpec(
        model=trained,
        gpu=card,
        cluster=catalog.cluster(card, gpus),
        dataset=catalog.dataset("fineweb-edu"),
        tokenizer=catalog.tokenizer(trained.tokenizer),
        recipe=Recipe(seq_len=1024, global_batch_size=8 * gpus, epochs=1, steps_per_epoch=100),
    )


@cache
def planned(spec: RunSpec) -> Plan:
    return plan(spec)


@st.composite
def recipes(draw: st.DrawFn, gpus: int, *, most_steps: int = 300) -> Recipe:
    per_gpu, seq_len = draw(st.sampled_from(LOADS))
    epochs = draw(st.integers(1, 3))
    steps = draw(st.integers(1, max(1, most_steps // epochs)))
    intervals = st.sampled_from((0, 0, 1, 7, 50, 100)).map(lambda n: n if steps <= 40 * n else 0)
    return Recipe(
        seq_len=seq_len,
        global_batch_size=per_gpu * gpus,
        epochs=epochs,
        steps_per_epoch=steps,
        schedule=draw(st.sampled_from(("cosine", "linear", "wsd", "constant"))),
        warmup_steps=draw(st.integers(0, min(100, epochs * steps))),
        continued_loss=draw(st.sampled_from((0.0, 0.0, 1.9))),
        validation_interval_steps=draw(intervals),
        validation_tokens=2**20,
        checkpoint_interval_steps=draw(intervals),
    )


@st.composite
def injected_faults(draw: st.DrawFn, *, run_s: float, gpus: int) -> InjectedFault:
    at_s = draw(st.floats(0.0, 1.1)) * run_s
    gpu = draw(st.none() | st.integers(0, gpus - 1))
    kind = draw(st.sampled_from(KINDS) | st.sampled_from(CATALOGUED))
    at_step = draw(st.just(0) | st.just(0) | st.integers(1, 320))
    duration_s = draw(st.none() | st.floats(0.0, 1.2).map(lambda share: share * run_s))
    return InjectedFault(kind, at_s, gpu, at_step=at_step, duration_s=duration_s)


def at_rate(kind: FaultKind, faults: float, *, run_s: float, gpus: int) -> FaultKind:
    """`kind` so frequent that about `faults` strike within `run_s`."""
    return replace(kind, rate_per_1000_gpu_days=faults * 1000 * DAY_S / (run_s * gpus))


@st.composite
def fault_lists(draw: st.DrawFn, *, run_s: float, gpus: int) -> Faults:
    drawn_from = st.sampled_from(KINDS) | st.sampled_from(CATALOGUED)
    kinds = draw(st.lists(drawn_from, unique_by=lambda kind: kind.name, max_size=3))
    return Faults(
        injected=tuple(draw(st.lists(injected_faults(run_s=run_s, gpus=gpus), max_size=3))),
        drawn=tuple(
            at_rate(kind, draw(st.sampled_from((0.5, 2.0))), run_s=run_s, gpus=gpus)
            for kind in kinds
        ),
        watchdog_timeout_s=draw(st.sampled_from((600.0, 600.0, 30.0))),
    )


@st.composite
def specs(draw: st.DrawFn, *, faults: bool | None = None, limited: bool | None = None) -> RunSpec:
    """Small lawful specs; with faults, and ended by a time limit, as told or by chance."""
    model, gpu, gpus = draw(st.sampled_from(MACHINES))
    base = machine_spec(model, gpu, gpus)
    spec = replace(base, recipe=draw(recipes(gpus)))
    run_s = planned(spec).run_s
    if draw(st.booleans()) if faults is None else faults:
        spec = replace(spec, faults=draw(fault_lists(run_s=run_s, gpus=gpus)))
    if draw(st.integers(0, 4)) == 0 if limited is None else limited:
        limit = max(60.0, run_s * draw(st.floats(0.01, 1.5)))
        return replace(spec, time_limit_s=limit)
    # Faults may outrun checkpoints: a run of hours must not become one of years.
    return replace(spec, time_limit_s=60.0 + 20 * run_s + 4 * 3600)


@st.composite
def moments(draw: st.DrawFn, run: Run, times: list[float]) -> float:
    """A moment of a run: anywhere, exactly at an event, or next to one."""
    if draw(st.integers(0, 2)) == 0:
        return draw(st.floats(0.0, 1.05)) * run.end_s
    at = draw(st.sampled_from(times))
    return draw(st.sampled_from((at, math.nextafter(at, math.inf), math.nextafter(at, -math.inf))))
