"""Runs to be logged: of many models and layouts, calm or spoilt, and of each kind of fault."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple

from ghosttrain import catalog
from ghosttrain.core.events import Event
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import (
    Faults,
    InjectedFault,
    ParallelRequest,
    Precision,
    Recipe,
    RunSpec,
)
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.writing import Asked
from tests.golden.timelines import case_spec

_P = ParallelRequest
# What a log shows of a fault: crashes by all who write of them, waits, numbers that are none,
# storage, ends in good order, errors of programs.
FAULTS = (
    "gpu-fault",
    "gpu-off-bus",
    "host-crash",
    "nccl-hang",
    "collective-desync",
    "link-down",
    "nic-down",
    "cuda-oom",
    "host-oom",
    "loss-nan",
    "loss-spike-rollback",
    "storage-full",
    "storage-slow",
    "checkpoint-corrupted",
    "job-preempted",
    "software-bug",
    "dependency-outage",
)


class Layout(NamedTuple):
    """A model on a cluster; `batch` are sequences a step."""

    model: str
    gpu: str
    gpus: int
    seq_len: int
    batch: int
    parallel: ParallelRequest = _P()
    precision: Precision = "bf16"


LAYOUTS = {
    "dense": Layout("llama-3-8b", "h100-sxm", 16, 8192, 64, _P(sharding="fsdp")),
    "tied": Layout("llama-3.2-1b", "a100-80gb-sxm", 8, 2048, 64, _P(sharding="ddp")),
    "positions": Layout("gpt-2-124m", "h100-sxm", 1, 1024, 32),
    "unknown-card": Layout("tinyllama-1.1b", "rtx-4090", 4, 2048, 32),
    "half": Layout("gpt-2-355m", "v100-32gb-sxm2", 8, 1024, 128, _P(sharding="ddp"), "fp16"),
    "zero2": Layout("llama-3-8b", "h100-sxm", 16, 2048, 128, _P(sharding="zero2")),
    "context": Layout(
        *("llama-3-8b", "h100-sxm", 16, 2048, 128),
        _P(tensor_parallel=2, context_parallel=2, recompute="full"),
    ),
    "pipeline": Layout(
        "llama-3-70b", "h100-sxm", 256, 4096, 512, _P(tensor_parallel=4, pipeline_parallel=4)
    ),
    "tied-pipeline": Layout(
        "gpt-2-774m", "a100-80gb-sxm", 16, 1024, 128, _P(tensor_parallel=2, pipeline_parallel=4)
    ),
    "interleaved": Layout(
        *("llama-3-70b", "h100-sxm", 64, 2048, 128),
        _P(tensor_parallel=4, pipeline_parallel=4, virtual_stages=5),
        "fp8",
    ),
    "experts": Layout("mixtral-8x7b", "h100-sxm", 128, 4096, 256, _P(expert_parallel=8)),
    "experts-pipeline": Layout(
        *("mixtral-8x7b", "h100-sxm", 64, 2048, 128),
        _P(tensor_parallel=2, expert_parallel=8, pipeline_parallel=2),
    ),
    "experts-fsdp": Layout("qwen3-30b-a3b", "h200-sxm", 32, 2048, 128, _P(sharding="fsdp")),
    "latent": Layout("deepseek-v2-lite-16b", "h100-sxm", 16, 4096, 64),
    "latent-experts": Layout(
        *("deepseek-v2-lite-16b", "b200", 32, 2048, 128),
        _P(expert_parallel=8, sharding="zero1"),
        "mxfp8",
    ),
}


def _spec(layout: Layout, recipe: Recipe, faults: Faults = Faults()) -> RunSpec:  # noqa: B008
    model, card = catalog.model(layout.model), catalog.gpu(layout.gpu)
    return RunSpec(
        model,
        card,
        catalog.cluster(card, layout.gpus),
        catalog.dataset("fineweb-edu"),
        catalog.tokenizer(model.tokenizer),
        recipe,
        layout.parallel,
        faults=faults,
    )


@cache
def calm(name: str) -> Run:
    """A run without faults: three epochs, validated and saved in between."""
    layout = LAYOUTS[name]
    recipe = Recipe(
        seq_len=layout.seq_len,
        global_batch_size=layout.batch,
        epochs=3,
        steps_per_epoch=40,
        warmup_steps=10,
        validation_interval_steps=25,
        checkpoint_interval_steps=33,
        precision=layout.precision,
    )
    return simulate(_spec(layout, recipe), 11)


@cache
def spoilt(name: str) -> Run:
    """A short run: losses that are no numbers, then a crash and a relaunch."""
    layout = LAYOUTS[name]
    injected = (
        InjectedFault(catalog.fault_kind("loss-nan"), gpu=0, at_step=25),
        InjectedFault(catalog.fault_kind("gpu-fault"), gpu=layout.gpus - 1, at_step=63),
    )
    recipe = Recipe(
        seq_len=layout.seq_len,
        global_batch_size=layout.batch,
        epochs=1,
        steps_per_epoch=96,
        warmup_steps=12,
        validation_interval_steps=40,
        checkpoint_interval_steps=24,
        precision=layout.precision,
    )
    return simulate(_spec(layout, recipe, Faults(injected=injected)), 3)


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


def run_of(name: str) -> Run:
    """The run of a fault, the calm run of a layout, or another by its name."""
    match name:
        case "out-of-time":
            return out_of_time()
        case "fp16" | "fp8":
            return in_precision(name)
        case _:
            return faulty(name) if name in FAULTS else calm(name)


def events_of(run: Run, start_s: float = 0.0, stop_s: float = math.inf) -> list[Event]:
    """The events of a window; those of a whole run are made once."""
    if (start_s, stop_s) == (0.0, math.inf):
        return _all_events(run)
    return list(run.events(start_s, stop_s))


@lru_cache(maxsize=60)
def _all_events(run: Run) -> list[Event]:
    return list(run.events(0.0, math.inf))


def in_windows(run: Run, cuts: Iterable[float]) -> list[list[Event]]:
    """All events, cut at these moments."""
    return [events_of(run, *edges) for edges in pairwise([0.0, *sorted(cuts), math.inf])]


def text_of(run: Run, name: str, every: int = 10, events: Iterable[Event] | None = None) -> str:
    """The file of a format, of these events or of all."""
    log = EXPORTERS[name].log(Asked(run, log_interval=every))
    parts = [log.accept(event) for event in (events_of(run) if events is None else events)]
    return b"".join([*parts, log.close()]).decode()


def lines_of(
    run: Run, name: str, every: int = 10, events: Iterable[Event] | None = None
) -> list[str]:
    """Its lines."""
    text = text_of(run, name, every, events)
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def windowed_text(run: Run, name: str, every: int, windows: Iterable[list[Event]]) -> str:
    """The file, of events that come in these windows; between two of them the log is pickled."""
    log = EXPORTERS[name].log(Asked(run, log_interval=every))
    parts = []
    for events in windows:
        parts += [log.accept(event) for event in events]
        log = pickle.loads(pickle.dumps(log))
    return b"".join([*parts, log.close()]).decode()
