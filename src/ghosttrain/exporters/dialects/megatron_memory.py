"""Memory as Megatron-LM reports it: its own theory, then each rank's allocator.

Sources: NVIDIA/Megatron-LM core_v0.17.0, megatron/training/theoretical_memory_usage.py and
utils.py (report_memory).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ghosttrain.core.laws.memory import StageMemory
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import GATED_MLPS, Model
from ghosttrain.core.units import GIB
from ghosttrain.exporters.dialects.megatron_model import is_moe_layer, padded_vocab

_MIB = 1024 * 1024
_PAGE_MIB = 2  # in which PyTorch's allocator asks the driver
_BILLION = 1e9


@dataclass(frozen=True, slots=True)
class _Counts:
    """Parameters as the theory counts them: without biases and routers."""

    block: float
    active_block: float
    embedding: float
    embeddings: float


def theory_lines(plan: Plan) -> list[str]:
    """What rank 0 prints of what weights, optimizer and activations should take."""
    layout, counts = plan.layout, _counts(plan)
    tp, pp = layout.tensor_parallel, layout.pipeline_parallel
    is_untied = not plan.spec.model.tied_embeddings
    shard = (counts.block / pp + counts.embedding) / tp
    if is_untied and pp == 1:
        shard += counts.embedding / tp
    states = shard * _bytes_per_parameter(plan)
    name, activations, in_between = _activations(plan)
    total = counts.block + counts.embeddings
    active = counts.active_block + counts.embeddings
    others = []
    if pp > 1:
        each = counts.block / (pp * tp)
        others = [f"Number of parameters in other shards in billions: {each / _BILLION:.4f}"]
    return [
        f"Number of parameters in transformer block in billions: {counts.block / _BILLION: .2f}",
        "Number of active parameters in transformer block in billions: "
        f"{counts.active_block / _BILLION: .2f}",
        f"Number of parameters in embedding layers in billions: {counts.embeddings / _BILLION:.2f}",
        f"Total number of parameters in billions: {total / _BILLION:.2f}",
        f"Total number of active parameters in billions: {active / _BILLION:.2f}",
        f"Number of parameters in most loaded shard in billions: {shard / _BILLION:.4f}",
        *others,
        name,
        *in_between,
        f"Theoretical memory footprints: weight and optimizer={states / _MIB:.2f} MB, "
        f"activation={activations / _MIB:.2f} MB, total={(states + activations) / _MIB:.2f} MB",
        "",
    ]


def _counts(plan: Plan) -> _Counts:
    model = plan.spec.model
    h, norm = model.hidden_size, 1 if model.norm == "rmsnorm" else 2
    gate = 1.5 if model.mlp in GATED_MLPS else 1.0
    attention = _attention(model, norm)
    experts = sum(is_moe_layer(model, layer) for layer in range(model.layers))
    dense = 2 * h * (model.ffn_hidden_size * gate + norm) + attention
    moe = active = 0.0
    if model.moe is not None:
        shared = model.moe.shared_ffn_hidden_size * gate
        width = model.moe.ffn_hidden_size * gate
        moe = 2 * h * (width * model.moe.experts + shared + norm) + attention
        active = 2 * h * (width * model.moe.experts_active + shared + 2) + attention
    layers = dense * (model.layers - experts) + norm * h
    embedding = float(h * padded_vocab(plan))
    return _Counts(
        block=layers + moe * experts,
        active_block=layers + active * experts,
        embedding=embedding,
        embeddings=embedding * (1 if model.tied_embeddings else 2),
    )


def _attention(model: Model, norm: int) -> float:
    h, heads = model.hidden_size, model.heads
    if model.mla is None:
        ratio = heads * model.head_dim / h
        return 2 * h * h * ((1 + model.kv_heads / heads) * ratio)
    mla = model.mla
    qk = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    query = mla.q_lora_rank * (h + qk + norm) if mla.q_lora_rank else h * qk
    up = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    latent = mla.kv_lora_rank * (h + up + norm) + h * mla.qk_rope_head_dim
    return query + latent + heads * mla.v_head_dim * h


def _bytes_per_parameter(plan: Plan) -> float:
    """18, or with the distributed optimizer 6 and the states' share."""
    if plan.layout.sharding in ("ddp", "fsdp"):
        return 18
    return 6 + 12 / plan.layout.data_parallel


def _activations(plan: Plan) -> tuple[str, float, list[str]]:
    """Name of the rule, bytes, and what the rule prints on its way."""
    layout, recipe, model = plan.layout, plan.spec.recipe, plan.spec.model
    tp, pp = layout.tensor_parallel, layout.pipeline_parallel
    tokens = recipe.seq_len * layout.micro_batch_size
    has_sequence_parallel = tp > 1 and layout.recompute == "selective"
    if has_sequence_parallel:
        name = "compute_activation_memory with SP"
        layer = tokens * model.hidden_size * (18 + 4 * model.ffn_hidden_size / model.hidden_size)
        said = f"Activation memory footprint per transformer layer: {layer / _MIB / tp:.1f} MB"
    else:
        name = "compute_activation_memory_without_sp"
        layer = tokens * model.hidden_size * (10 + 24 / tp)
        said = (
            "Activation memory footprint per transformer layer (precise, without SP): "
            f"{layer / _MIB:.1f} MB"
        )
    total = layer * model.layers + 8 * tokens * pp + tokens * model.hidden_size * pp
    factor, schedule = _in_flight(plan)
    total *= factor
    vocabulary = padded_vocab(plan)
    if has_sequence_parallel:
        if pp == 1:
            total += tokens * model.hidden_size * 4 * (1 + vocabulary / model.hidden_size)
        return name, total / tp, [said, *schedule]
    if pp == 1:
        total += (tokens * vocabulary / tp + tokens * model.hidden_size) * 2
    return name, 1.05 * total, [said, *schedule]


def _in_flight(plan: Plan) -> tuple[float, list[str]]:
    """How many micro-batches of activations wait, against all stages' worth."""
    layout = plan.layout
    pp, chunks = layout.pipeline_parallel, layout.virtual_stages
    if chunks > 1:
        penalty = 1 + (pp - 1) / (pp * chunks)
        return penalty, [
            f"Memory penalty from interleaved schedule: {penalty:.2f}",
            f"Number of in-flight microbatches: {math.ceil(penalty * pp)}",
        ]
    if pp == 1:
        return 1.0, []
    waiting = min(layout.micro_batches, pp)
    return min(1.0, layout.micro_batches / pp), [f"Number of in-flight microbatches: {waiting}"]


# ------------------------------------------------------------------------ what ranks report


def reporting_ranks(plan: Plan) -> Iterator[tuple[int, int]]:
    """(rank, stage) of the ranks that are first in data parallelism: order tp-cp-ep-dp-pp."""
    layout = plan.layout
    within = layout.tensor_parallel * layout.context_parallel
    per_stage = within * layout.data_parallel
    for stage in range(layout.pipeline_parallel):
        for rank in range(within):
            yield stage * per_stage + rank, stage


def memory_lines(plan: Plan, when: str) -> list[str]:
    """A line of each reporting rank; between steps there are states, and what was cached."""
    return [
        _memory_line(rank, when, plan.stage_memory[stage], is_emptied=False)
        for rank, stage in reporting_ranks(plan)
    ]


def emptied_memory_lines(plan: Plan, when: str) -> list[str]:
    """The same when the cache has just been given back, as around a checkpoint."""
    return [
        _memory_line(rank, when, plan.stage_memory[stage], is_emptied=True)
        for rank, stage in reporting_ranks(plan)
    ]


def _memory_line(rank: int, when: str, stage: StageMemory, *, is_emptied: bool) -> str:
    largest = paged_mib(stage.reserved_gib)
    reserved = paged_mib(stage.states_gib) if is_emptied else largest
    return (
        f"[Rank {rank}] ({when}) memory (MB) | allocated: {stage.states_gib * GIB / _MIB:.2f}"
        f" | max allocated: {stage.allocated_gib * GIB / _MIB:.2f}"
        f" | reserved: {reserved:.2f} | max reserved: {largest:.2f}"
    )


def paged_mib(size_gib: float) -> float:
    """What the allocator holds for so much: whole pages, MiB."""
    return float(math.ceil(size_gib * 1024 / _PAGE_MIB) * _PAGE_MIB)
