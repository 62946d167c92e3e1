"""Runs with faults on many layouts, and their logs."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from ghosttrain import catalog
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import (
    Faults,
    InjectedFault,
    ParallelRequest,
    Precision,
    Recipe,
    RunSpec,
)
from ghosttrain.exporters.formats import LOGS
from ghosttrain.exporters.writing import Asked
from tests.golden.timelines import case_spec

NAMES = ("megatron", "deepspeed", "nemo")
_P = ParallelRequest
# model, GPU, GPUs, layout, precision
LAYOUTS: dict[str, tuple[str, str, int, ParallelRequest, Precision]] = {
    "dense-ddp": ("llama-3.2-1b", "h100-sxm", 8, _P(sharding="ddp"), "bf16"),
    "dense-zero2": ("llama-3-8b", "h100-sxm", 16, _P(sharding="zero2"), "bf16"),
    "dense-fsdp": ("llama-3-8b", "h100-sxm", 16, _P(sharding="fsdp"), "bf16"),
    "tied-pipeline": (
        "gpt-2-774m",
        "a100-80gb-sxm",
        16,
        _P(tensor_parallel=2, pipeline_parallel=4),
        "bf16",
    ),
    "interleaved": (
        "llama-3-70b",
        "h100-sxm",
        64,
        _P(tensor_parallel=4, pipeline_parallel=4, virtual_stages=5),
        "fp8",
    ),
    "context": (
        "llama-3-8b",
        "h100-sxm",
        16,
        _P(tensor_parallel=2, context_parallel=2, recompute="full"),
        "bf16",
    ),
    "moe": (
        "mixtral-8x7b",
        "h100-sxm",
        64,
        _P(tensor_parallel=2, expert_parallel=8, pipeline_parallel=2),
        "bf16",
    ),
    "moe-fsdp": ("qwen3-30b-a3b", "h200-sxm", 32, _P(sharding="fsdp"), "bf16"),
    "latent-moe": (
        "deepseek-v2-lite-16b",
        "b200",
        32,
        _P(expert_parallel=8, sharding="zero1"),
        "mxfp8",
    ),
    "half": ("gpt-2-355m", "v100-32gb-sxm2", 8, _P(sharding="ddp"), "fp16"),
}
# Kinds of what a log shows of a fault: crashes by all who write of them, waits, numbers that are
# none, storage, ends in good order, errors of programs.
KINDS = (
    "gpu-off-bus",
    "host-crash",
    "nccl-hang",
    "collective-desync",
    "link-down",
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


@cache
def layout_run(name: str, seed: int = 3) -> Run:
    """A short run of a layout: losses that are no numbers, then a crash and a relaunch."""
    model_name, gpu_name, gpus, parallel, precision = LAYOUTS[name]
    model, gpu = catalog.model(model_name), catalog.gpu(gpu_name)
    injected = (
        InjectedFault(catalog.fault_kind("loss-nan"), gpu=1, at_step=25),
        InjectedFault(catalog.fault_kind("gpu-fault"), gpu=5, at_step=63),
    )
    return simulate(
        RunSpec(
            model=model,
            gpu=gpu,
            cluster=catalog.cluster(gpu, gpus),
            dataset=catalog.dataset("fineweb-edu"),
            tokenizer=catalog.tokenizer(model.tokenizer),
            recipe=Recipe(
                seq_len=min(2048, model.max_seq_len),
                global_batch_size=128,
                epochs=1,
                steps_per_epoch=96,
                warmup_steps=12,
                validation_interval_steps=40,
                checkpoint_interval_steps=24,
                precision=precision,
            ),
            parallel=parallel,
            faults=Faults(injected=injected),
        ),
        seed,
    )


@cache
def fault_run(kind: str) -> Run:
    """The run of the golden timelines with a fault of this kind."""
    return simulate(case_spec(kind), 7)


def log_of(
    name: str,
    run: Run,
    every: int = 10,
    *,
    cuts: Iterable[float] = (),
    start_s: float = 0.0,
    is_pickled: bool = False,
) -> str:
    """The log, of events that come in these windows; between them it may go through pickle."""
    log = LOGS[name].log(Asked(run, every))
    edges = [start_s, *cuts, float("inf")]
    parts = []
    for begin_s, end_s in pairwise(edges):
        parts += [log.accept(event) for event in run.events(begin_s, end_s, sample_every=every)]
        if is_pickled:
            log = pickle.loads(pickle.dumps(log))
    return b"".join((*parts, log.close())).decode()
