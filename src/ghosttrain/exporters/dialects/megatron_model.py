"""A model as Megatron-LM counts it: padded vocabulary, FLOPs, parameters of each rank.

Sources: NVIDIA/Megatron-LM core_v0.17.0, megatron/training/training.py
(num_floating_point_operations) and core/tokenizers/utils/build_tokenizer.py
(vocab_size_with_padding).
"""

# Legend: h = hidden size, L = layers, S = sequence length, tp, pp, ep = parallel degrees.

from __future__ import annotations

import math

from ghosttrain.core.laws.memory import stage_layers
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import GATED_MLPS, Mla, Model

VOCAB_MULTIPLE = 128  # --make-vocab-size-divisible-by, its default
_GEMM = 3 * 2  # forward, two products backward; a multiplication and an addition each


def padded_vocab(plan: Plan) -> int:
    """Vocabulary the matrices are made for: each tensor-parallel rank a multiple of 128."""
    multiple = VOCAB_MULTIPLE * plan.layout.tensor_parallel
    return -(-plan.spec.model.vocab_size // multiple) * multiple


def is_moe_layer(model: Model, layer: int) -> bool:
    """Whether layer number `layer` (from 0) has experts: the last of each `every`."""
    moe = model.moe
    if moe is None or layer < moe.first_dense_layers:
        return False
    return (layer - moe.first_dense_layers) % moe.every == moe.every - 1


def flops_per_step(plan: Plan) -> float:
    """FLOPs of a step by Megatron's formula: what its throughput is made of.

    Other than the plan's (PaLM's convention) it counts half of the attention matrix, the padded
    vocabulary and no norm, bias, router or gate.
    """
    spec = plan.spec
    model, recipe = spec.model, spec.recipe
    experts = sum(is_moe_layer(model, layer) for layer in range(model.layers))
    width = 3 if model.mlp in GATED_MLPS else 2
    hidden_widths = (model.layers - experts) * model.ffn_hidden_size * width
    if model.moe is not None:
        routed = model.moe.ffn_hidden_size * model.moe.experts_active
        hidden_widths += experts * width * (routed + model.moe.shared_ffn_hidden_size)
    per_token = (
        model.hidden_size * hidden_widths
        + model.layers * _attention(model, recipe.seq_len)
        + model.hidden_size * padded_vocab(plan)
    )
    return float(_GEMM * per_token) * recipe.global_batch_size * recipe.seq_len


def _attention(model: Model, seq_len: int) -> float:
    """Products of one attention layer a token; the mask leaves half of the scores."""
    h, heads = model.hidden_size, model.heads
    if model.mla is None:
        query, key = heads * model.head_dim, model.kv_heads * model.head_dim
        return h * (query + 2 * key) + query * seq_len / 2 * 2 + query * h
    mla = model.mla
    qk = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    return (
        _latent_query(model, mla)
        + mla.kv_lora_rank * (h + heads * (mla.qk_nope_head_dim + mla.v_head_dim) + 1)
        + h * mla.qk_rope_head_dim
        + heads * mla.v_head_dim * h
        + seq_len * heads * qk / 2
        + seq_len * heads * mla.v_head_dim / 2
    )


def _latent_query(model: Model, mla: Mla) -> int:
    qk = model.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    if not mla.q_lora_rank:
        return model.hidden_size * qk
    return mla.q_lora_rank * (model.hidden_size + qk + 1)


def rank_parameters(plan: Plan, stage: int) -> int:
    """Parameters of a rank of pipeline stage `stage` before any sharding over data parallelism."""
    model, layout = plan.spec.model, plan.layout
    total = sum(_layer_parameters(plan, layer) for layer in layers_of_stage(plan, stage))
    words = padded_vocab(plan) // layout.tensor_parallel * model.hidden_size
    is_last = stage == layout.pipeline_parallel - 1
    if stage == 0:
        total += words + model.learned_positions * model.hidden_size
    if is_last:
        total += _norm(model) if model.final_norm else 0
        if not model.tied_embeddings or stage > 0:  # tied ones have a copy at the other end
            total += words
        total += padded_vocab(plan) // layout.tensor_parallel if model.head_bias else 0
    return total


def layers_of_stage(plan: Plan, stage: int) -> list[int]:
    """Numbers of a stage's layers; with several chunks to a stage they go round the stages."""
    layers, layout = plan.spec.model.layers, plan.layout
    stages, chunks = layout.pipeline_parallel, layout.virtual_stages
    if chunks > 1 and layers % (stages * chunks) == 0:
        each = layers // (stages * chunks)
        firsts = [(chunk * stages + stage) * each for chunk in range(chunks)]
        return [first + i for first in firsts for i in range(each)]
    first = sum(stage_layers(layers, stages, earlier) for earlier in range(stage))
    return list(range(first, first + stage_layers(layers, stages, stage)))


def _norm(model: Model) -> int:
    return model.hidden_size * (2 if model.norm == "layernorm" else 1)


def _layer_parameters(plan: Plan, layer: int) -> int:
    model = plan.spec.model
    total = model.norms_per_layer * _norm(model) + _attention_parameters(plan)
    if not is_moe_layer(model, layer):
        return total + _mlp(model, model.ffn_hidden_size, plan.layout.tensor_parallel)
    return total + _moe_parameters(plan)


def _attention_parameters(plan: Plan) -> int:
    model, tp = plan.spec.model, plan.layout.tensor_parallel
    h, heads = model.hidden_size, model.heads // tp
    sinks = heads if model.attention_sinks else 0
    if model.mla is not None:
        return sinks + _latent_parameters(model, model.mla, heads)
    query, key = heads * model.head_dim, max(1, model.kv_heads // tp) * model.head_dim
    qkv = (query + 2 * key) * (h + (1 if model.qkv_bias else 0))
    norms = {"none": 0, "head": 2 * model.head_dim, "full": query + key}[model.qk_norm]
    return qkv + query * h + (h if model.output_bias else 0) + norms + sinks


def _latent_parameters(model: Model, mla: Mla, heads: int) -> int:
    """Down-projections whole on every rank, what leads up to its heads and back."""
    h, rank = model.hidden_size, mla.q_lora_rank
    qk = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    query = h * rank + rank + rank * qk if rank else h * qk
    down = h * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank
    up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    bias = (rank + mla.kv_lora_rank + mla.qk_rope_head_dim) if model.qkv_bias else 0
    return query + down + up + bias + heads * mla.v_head_dim * h + (h if model.output_bias else 0)


def _mlp(model: Model, width: int, cuts: int) -> int:
    own = math.ceil(width / cuts)
    up = (2 if model.mlp in GATED_MLPS else 1) * own
    biases = up + model.hidden_size if model.mlp_bias else 0
    return model.hidden_size * (up + own) + biases


def _moe_parameters(plan: Plan) -> int:
    model, layout = plan.spec.model, plan.layout
    moe = model.moe
    assert moe is not None
    experts = moe.experts // layout.expert_parallel
    total = experts * _mlp(model, moe.ffn_hidden_size, layout.expert_tensor_parallel)
    total += moe.experts * (model.hidden_size + (1 if moe.router_bias else 0))
    if moe.shared_ffn_hidden_size:
        total += _mlp(model, moe.shared_ffn_hidden_size, layout.tensor_parallel)
    return total + (model.hidden_size if moe.shared_gate else 0)
