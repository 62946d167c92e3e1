"""Runs to be logged: calm ones of several models and layouts, and some that fail."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, lru_cache

from ghosttrain import catalog
from ghosttrain.core.events import Event
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import ParallelRequest, Precision, Recipe, RunSpec
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.writing import Asked
from tests.golden.timelines import case_spec

FAULTS = (
    "gpu-fault",
    "gpu-off-bus",
    "collective-desync",
    "cuda-oom",
    "host-crash",
    "host-oom",
    "job-preempted",
    "loss-nan",
    "loss-spike-rollback",
    "nic-down",
    "checkpoint-corrupted",
    "storage-full",
    "storage-slow",
    "software-bug",
    "dependency-outage",
)
# name: model, GPU, GPUs, sequence length, sequences a step, layout.
CALM: dict[str, tuple[str, str, int, int, int, ParallelRequest]] = {
    "dense": ("llama-3-8b", "h100-sxm", 16, 8192, 64, ParallelRequest(sharding="fsdp")),
    "tied": ("llama-3.2-1b", "a100-80gb-sxm", 8, 2048, 64, ParallelRequest(sharding="ddp")),
    "positions": ("gpt-2-124m", "h100-sxm", 1, 1024, 32, ParallelRequest()),
    "experts": ("mixtral-8x7b", "h100-sxm", 128, 4096, 256, ParallelRequest(expert_parallel=8)),
    "latent": ("deepseek-v2-lite-16b", "h100-sxm", 16, 4096, 64, ParallelRequest()),
    "pipeline": (
        "llama-3-70b",
        "h100-sxm",
        256,
        4096,
        512,
        ParallelRequest(tensor_parallel=4, pipeline_parallel=4),
    ),
    "unknown-card": ("tinyllama-1.1b", "rtx-4090", 4, 2048, 32, ParallelRequest()),
}


@cache
def calm(name: str) -> Run:
    """A run without faults: three epochs, validated and saved in between."""
    model, gpu, gpus, seq_len, batch, parallel = CALM[name]
    trained, card = catalog.model(model), catalog.gpu(gpu)
    recipe = Recipe(
        seq_len=seq_len,
        global_batch_size=batch,
        epochs=3,
        steps_per_epoch=40,
        warmup_steps=10,
        validation_interval_steps=25,
        checkpoint_interval_steps=33,
    )
    return simulate(
        RunSpec(
            trained,
            card,
            catalog.cluster(card, gpus),
            catalog.dataset("fineweb-edu"),
            catalog.tokenizer(trained.tokenizer),
            recipe,
            parallel,
        ),
        11,
    )


@cache
def faulty(name: str) -> Run:
    """A run with one fault of that kind, as its golden timeline tells it."""
    return simulate(case_spec(name), 7)


@cache
def in_precision(precision: Precision) -> Run:
    """The dense run in another precision."""
    spec = calm("dense").spec
    return simulate(replace(spec, recipe=replace(spec.recipe, precision=precision)), 11)


@cache
def out_of_time() -> Run:
    """A run that its time limit ends."""
    spec = calm("dense").spec
    return simulate(replace(spec, time_limit_s=300.0), 11)


def all_runs() -> dict[str, Run]:
    """Every run, by name."""
    runs = {name: calm(name) for name in CALM} | {name: faulty(name) for name in FAULTS}
    runs |= {"fp8": in_precision("fp8"), "fp16": in_precision("fp16")}
    return runs | {"out-of-time": out_of_time()}


def events_of(run: Run, start_s: float = 0.0, stop_s: float = math.inf) -> list[Event]:
    """The events of a window; those of a whole run are made once."""
    if (start_s, stop_s) == (0.0, math.inf):
        return _all_events(run)
    return list(run.events(start_s, stop_s))


@lru_cache(maxsize=40)
def _all_events(run: Run) -> list[Event]:
    return list(run.events(0.0, math.inf))


def text_of(run: Run, name: str, every: int = 10, events: list[Event] | None = None) -> str:
    """The file of a format, of these events or of all."""
    log = EXPORTERS[name].log(Asked(run, log_interval=every))
    parts = [log.accept(event) for event in (events_of(run) if events is None else events)]
    return b"".join([*parts, log.close()]).decode()


def lines_of(run: Run, name: str, every: int = 10, events: list[Event] | None = None) -> list[str]:
    text = text_of(run, name, every, events)
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]
