"""torchtitan's lines from a launch to its first step.

torchtitan joins its processes first and builds the model, or loads the checkpoint, last; the run
does so the other way round. The lines stand in torchtitan's order, each phase with the duration
it has in the run: begin and end of the initialisation are the run's, the order between is
torchtitan's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ghosttrain.core.events import Phase
from ghosttrain.core.plan import BUILD_MODEL_S
from ghosttrain.core.spec import Layout
from ghosttrain.core.units import GIB
from ghosttrain.exporters.dialects.launches import Launch
from ghosttrain.exporters.dialects.torchtitan_facts import TitanFacts

_VERSION = "torchtitan version: 0.2.2 (0.0.0 means __version__ is not defined correctly)."
_ASYNC_ERRORS = (
    "ENV[TORCH_NCCL_ASYNC_ERROR_HANDLING] = 1 will be overridden to 3 based on job config"
)
# Shares of building the model at which its lines come, estimated: sharded weights take most of it.
_PARALLEL_SHARE, _BUILT_SHARE = 0.1, 0.97
_LOAD_GC_S = 0.05  # invented
_FIRST_ORDER = (Phase.NCCL, Phase.GPUS, Phase.ALL_REDUCE_TEST, Phase.TOKENIZER, Phase.DATASET)


class Said(NamedTuple):
    """A line to come."""

    time_s: float
    text: str
    level: str = "INFO"


def metrics_begin_s(launch: Launch) -> float:
    """When the metrics are set up, from which the first line's interval counts."""
    return launch.start_s + sum(launch.phases_s[phase] for phase in _FIRST_ORDER)


def start_lines(launch: Launch, facts: TitanFacts) -> list[Said]:
    """The lines, in the order of their times."""
    at_s, ends_s = launch.start_s, {}
    for phase in _FIRST_ORDER:
        at_s += launch.phases_s[phase]
        ends_s[phase] = at_s
    weights_s = launch.phases_s[Phase.WEIGHTS]
    load_s = max(0.0, weights_s - BUILD_MODEL_S) if launch.step else 0.0
    build_s = weights_s - load_s
    lines = [
        Said(launch.start_s, _VERSION),
        Said(launch.start_s, _ASYNC_ERRORS, "WARNING"),
        Said(ends_s[Phase.NCCL], _parallelism(facts.plan.layout)),
        Said(ends_s[Phase.ALL_REDUCE_TEST], _meshes(facts.plan.layout)),
        Said(ends_s[Phase.ALL_REDUCE_TEST], "[GC] Initial GC collection took 0.00 seconds"),
        Said(ends_s[Phase.ALL_REDUCE_TEST], "Loading tokenizer from tokenizer.json"),
        Said(ends_s[Phase.TOKENIZER], _dataset(facts)),
        *(Said(at_s, *said) for said in _built(facts)),
        *(Said(at_s + _PARALLEL_SHARE * build_s, text) for text in _applied(facts)),
        *(Said(at_s + _BUILT_SHARE * build_s, *said) for said in _measured(facts)),
        Said(at_s + build_s, _trainer(facts)),
    ]
    if launch.step:
        lines += _loaded(at_s + build_s, load_s, f"{facts.folder}/step-{launch.step}")
    lines.append(Said(at_s + weights_s, f"Training starts at step {launch.step + 1}"))
    # Sums of durations may round past the moment at which training begins.
    return [said._replace(time_s=min(said.time_s, launch.training_s)) for said in lines]


def load_text(folder: str) -> str:
    """What is said before a checkpoint is read."""
    return f"Loading the checkpoint from {folder}."


def _loaded(at_s: float, load_s: float, folder: str) -> list[Said]:
    reason = "GC collection for checkpoint loading."
    return [
        Said(at_s, load_text(folder)),
        Said(at_s + load_s, f"[GC] {reason} took {_LOAD_GC_S:.2f} seconds"),
        Said(at_s + load_s, f"Finished loading the checkpoint in {load_s:.2f} seconds."),
    ]


def _replicas(layout: Layout) -> tuple[int, int]:
    """Degrees of replicated and of sharded data parallelism."""
    ranks = layout.data_parallel
    if layout.sharding == "ddp":
        return ranks, 1
    if layout.shard_group and layout.shard_group < ranks:
        return ranks // layout.shard_group, layout.shard_group
    return 1, ranks


def _parallelism(layout: Layout) -> str:
    replicate, shard = _replicas(layout)
    return (
        f"Building device mesh with parallelism: pp={layout.pipeline_parallel}, "
        f"dp_replicate={replicate}, dp_shard={shard}, cp={layout.context_parallel}, "
        f"tp={layout.tensor_parallel}, ep={layout.expert_parallel}"
    )


def _meshes(layout: Layout) -> str:
    """The meshes of more than one rank (ParallelDims.get_all_one_dimensional_meshes)."""
    replicate, shard = _replicas(layout)
    fsdp = shard * layout.context_parallel
    sizes = {
        "pp": layout.pipeline_parallel,
        "batch": replicate * shard,
        "loss": replicate * fsdp,
        "dp_replicate": replicate,
        "fsdp": fsdp,
        "cp": layout.context_parallel,
        "tp": layout.tensor_parallel,
        "ep": layout.expert_parallel,
        "efsdp": fsdp * layout.tensor_parallel // layout.expert_parallel,
    }
    if layout.expert_parallel == 1:
        del sizes["efsdp"]
    active = [name for name, size in sizes.items() if size > 1]
    return f"Successfully created meshes with active dimensions: {active}"


def _dataset(facts: TitanFacts) -> str:
    name = facts.plan.spec.dataset.name.lower().replace(" ", "-")
    return f"Preparing {name} dataset from /data/{name}"


def _built(facts: TitanFacts) -> Iterator[tuple[str, str]]:
    """The model on no device yet, and the metrics."""
    spec, counts = facts.plan.spec, facts.plan.params
    yield f"Building {facts.model}", "INFO"
    if spec.recipe.precision == "fp8":
        yield "Float8 tensorwise scaled training active", "INFO"
        swapped = "Swapped to Float8Linear layers with enable_fsdp_float8_all_gather"
        yield f"{swapped}={facts.plan.layout.sharding == 'fsdp'}", "INFO"
    name = spec.gpu.product_name
    yield f"CUDA capacity: {name} with {facts.capacity_gib:.2f}GiB memory", "INFO"
    if not facts.is_known_gpu:
        yield f"Peak flops undefined for: {name}, fallback to A100", "WARNING"
    if spec.model.moe is not None:
        sparse = counts.moe_layers * (counts.per_layer_routed_experts + counts.per_layer_shared)
        dense = f"dense {counts.total - sparse:,}, sparse {sparse:,}, active {counts.active:,}"
        yield f"Total parameter count: {dense}", "INFO"
    yield f"Model {facts.model} size: {counts.total:,} total parameters", "INFO"


def _applied(facts: TitanFacts) -> Iterator[str]:
    """What is done to the model, in the order it is."""
    layout, stack = facts.plan.layout, facts.plan.spec.stack
    if stack.fused_pointwise:
        yield "Compiling the loss function with torch.compile"
    if layout.tensor_parallel > 1:
        yield "Applied Tensor Parallelism to the model"
    if layout.context_parallel > 1:
        yield "Applied Context Parallel to the model"
    if layout.recompute != "none":
        yield f"Applied {layout.recompute} activation checkpointing to the model"
    if stack.fused_pointwise:
        yield "Compiling each TransformerBlock with torch.compile"
    replicate, shard = _replicas(layout)
    if shard * layout.context_parallel > 1:
        yield f"Applied {'HSDP' if replicate > 1 else 'FSDP'} to the model"
    elif replicate > 1:
        yield "Applied DDP to the model"


def _measured(facts: TitanFacts) -> Iterator[tuple[str, str]]:
    """The sharded model: peaks, memory, what else is set up."""
    plan = facts.plan
    if not facts.is_known_gpu:
        name = plan.spec.gpu.product_name
        yield f"Peak flops undefined for: {name}, fallback to A100", "WARNING"
    yield f"Peak FLOPS used for computing MFU: {facts.peak_flops:.3e}", "INFO"
    memory_gib = _parameters_gib(facts)
    memory = f"{memory_gib:.2f}GiB({facts.pct(memory_gib):.2f}%)"
    yield f"CUDA memory usage for model: {memory}", "INFO"
    folder = facts.folder
    active = f"Checkpoints will be loaded from and saved to {folder}"
    yield f"Checkpointing active. {active}", "INFO"
    _, shard = _replicas(plan.layout)
    handled = "fully_shard" if shard * plan.layout.context_parallel > 1 else "AMP"
    yield f"Mixed precision training is handled by {handled}", "INFO"


def _parameters_gib(facts: TitanFacts) -> float:
    """Parameters in fp32 on one GPU, before there is an optimizer."""
    plan = facts.plan
    split = plan.layout.tensor_parallel * plan.layout.pipeline_parallel
    if plan.layout.sharding != "ddp":
        _, shard = _replicas(plan.layout)
        split *= shard * plan.layout.context_parallel
    return 4 * plan.params.total / split / GIB


def _trainer(facts: TitanFacts) -> str:
    recipe, layout = facts.plan.spec.recipe, facts.plan.layout
    accumulated = 1 if layout.pipeline_parallel > 1 else layout.micro_batches
    local = recipe.global_batch_size // (layout.data_parallel * accumulated)
    return (
        f"Trainer is initialized with local batch size {local}, "
        f"global batch size {recipe.global_batch_size}, "
        f"gradient accumulation steps {accumulated}, "
        f"sequence length {recipe.seq_len}, total steps {recipe.total_steps} "
        f"(warmup {recipe.warmup_steps})"
    )
