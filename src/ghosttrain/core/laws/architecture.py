"""Parameters and FLOPs of a model, exact to the integer where the architecture is published.

Counted layer by layer from the shapes of the weight matrices, so that the plan and memory laws
can split the same numbers over tensor, pipeline and expert parallel ranks.
"""

# Legend: h = hidden size, a = heads, d = head dimension, g = key-value heads, f = feed-forward
# width, V = vocabulary, E = routed experts. A layer is attention + (dense MLP | MoE) + norms.

from __future__ import annotations

from dataclasses import dataclass

from ghosttrain.core.spec import GATED_MLPS, Mla, Model, Moe


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters of a model, total and by place.

    Identity: `total == embedding + output_head + final_norm + dense_layers * per_layer_dense
    + moe_layers * per_layer_moe`.

    Attributes:
        total: All parameters; tied embeddings count once.
        active: Parameters one token visits: of the routed experts only its own, all else.
        input_embedding: Parameters looked up and never multiplied: the word embedding where
            the head has its own matrix, and the learned positions.
        embedding: All in front of the first layer (word embedding, positions, embedding norm),
            and both projections of a word embedding narrower than the hidden size.
        output_head: Parameters the head has of its own; with tied embeddings its bias only.
        head_matrix: Size of the head's matrix, own or tied: what the last stage multiplies.
        final_norm: The norm in front of the head.
        dense_layers: Number of layers with a dense feed-forward.
        moe_layers: Number of layers with routed experts.
        per_layer_attention: Attention of one layer, with its query-key norms and sinks.
        per_layer_norms: Norms of one layer on the residual stream.
        per_layer_dense_mlp: Feed-forward of one dense layer.
        per_expert: One routed expert.
        per_layer_routed_experts: All routed experts of one MoE layer.
        per_layer_shared: Shared experts, their gate and the router of one MoE layer.
        per_layer_dense: One dense layer, everything.
        per_layer_moe: One MoE layer, everything; 0 where there is none.
        routed_experts_total: Routed experts of the whole model.
    """

    total: int
    active: int
    input_embedding: int
    embedding: int
    output_head: int
    head_matrix: int
    final_norm: int
    dense_layers: int
    moe_layers: int
    per_layer_attention: int
    per_layer_norms: int
    per_layer_dense_mlp: int
    per_expert: int
    per_layer_routed_experts: int
    per_layer_shared: int
    per_layer_dense: int
    per_layer_moe: int
    routed_experts_total: int


def parameter_counts(model: Model) -> ParameterCounts:
    """Parameters of `model`, counted from its shapes.

    Sources: the modelling code of each family in Hugging Face transformers (shapes of the weight
    matrices); Shazeer 2020 (arXiv:2002.05202) for gated feed-forwards; DeepSeek-V2
    (arXiv:2405.04434) for latent attention. The integers are held to published checkpoints by
    the tests.
    """
    attention = _attention_params(model)
    norms = model.norms_per_layer * _norm_params(model)
    dense_mlp = _mlp_params(model, model.ffn_hidden_size)
    expert = _mlp_params(model, model.moe.ffn_hidden_size) if model.moe else 0
    experts = model.moe.experts if model.moe else 0
    experts_active = model.moe.experts_active if model.moe else 0
    shared = _shared_params(model, model.moe) if model.moe else 0
    moe_layers = model.moe.moe_layers(model.layers) if model.moe else 0
    dense_layers = model.layers - moe_layers
    per_layer_dense = attention + norms + dense_mlp
    per_layer_moe = attention + norms + experts * expert + shared if model.moe else 0
    embedding = _embedding_params(model)
    output_head = _own_head_params(model)
    final_norm = _norm_params(model) if model.final_norm else 0
    total = (
        embedding
        + output_head
        + final_norm
        + dense_layers * per_layer_dense
        + moe_layers * per_layer_moe
    )
    return ParameterCounts(
        total=total,
        active=total - moe_layers * (experts - experts_active) * expert,
        input_embedding=_looked_up_params(model),
        embedding=embedding,
        output_head=output_head,
        head_matrix=_word_embedding_params(model),
        final_norm=final_norm,
        dense_layers=dense_layers,
        moe_layers=moe_layers,
        per_layer_attention=attention,
        per_layer_norms=norms,
        per_layer_dense_mlp=dense_mlp,
        per_expert=expert,
        per_layer_routed_experts=experts * expert,
        per_layer_shared=shared,
        per_layer_dense=per_layer_dense,
        per_layer_moe=per_layer_moe,
        routed_experts_total=moe_layers * experts * expert,
    )


def attention_width(model: Model) -> float:
    """Width of the attention matrix products: a·d, for MLA the mean of its two products."""
    if model.mla is None:
        return model.heads * model.head_dim
    mla = model.mla
    return model.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim) / 2


def train_flops_per_token(model: Model, seq_len: int) -> float:
    """Model FLOPs of one training token, forward and backward, PaLM convention.

    Six per multiplied active parameter, and 12·layers·a·d·seq_len for the full (not the
    causal half of the) attention matrix. This is the numerator of the MFU that is shown.

    Source: Chowdhery 2022 (PaLM), appendix B; Kaplan 2020, section 2.1.
    """
    counts = parameter_counts(model)
    attention = 12.0 * model.layers * attention_width(model) * seq_len
    return 6.0 * (counts.active - counts.input_embedding) + attention


def _norm_params(model: Model) -> int:
    """One norm over the hidden size: a scale, for LayerNorm a shift too."""
    return model.hidden_size * (2 if model.norm == "layernorm" else 1)


def _linear_params(inputs: int, outputs: int, bias: bool) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _attention_params(model: Model) -> int:
    sinks = model.heads if model.attention_sinks else 0
    if model.mla is not None:
        return _latent_attention_params(model, model.mla) + sinks
    q_width = model.heads * model.head_dim
    kv_width = model.kv_heads * model.head_dim
    qkv = _linear_params(model.hidden_size, q_width + 2 * kv_width, model.qkv_bias)
    output = _linear_params(q_width, model.hidden_size, model.output_bias)
    return qkv + output + _qk_norm_params(model, q_width + kv_width) + sinks


def _qk_norm_params(model: Model, qk_width: int) -> int:
    """Scales of the query and key norms: one head's width each, or the full width."""
    match model.qk_norm:
        case "none":
            return 0
        case "head":
            return 2 * model.head_dim
        case "full":
            return qk_width


def _latent_attention_params(model: Model, mla: Mla) -> int:
    """Multi-head latent attention: down-projections with a norm each, then up to the heads."""
    h, rank, bias = model.hidden_size, mla.q_lora_rank, model.qkv_bias
    q_width = model.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    query = _linear_params(h, rank, bias) + rank + rank * q_width if rank else h * q_width
    key_value = _linear_params(h, mla.kv_lora_rank + mla.qk_rope_head_dim, bias)
    key_value += mla.kv_lora_rank
    key_value += mla.kv_lora_rank * model.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return query + key_value + _linear_params(model.heads * mla.v_head_dim, h, model.output_bias)


def _mlp_params(model: Model, width: int) -> int:
    """A feed-forward of that width: up (and gate) and down."""
    up = 2 * width if model.mlp in GATED_MLPS else width
    return _linear_params(model.hidden_size, up, model.mlp_bias) + _linear_params(
        width, model.hidden_size, model.mlp_bias
    )


def _shared_params(model: Model, moe: Moe) -> int:
    """What every token of a MoE layer visits: shared experts, their gate, the router."""
    shared = _mlp_params(model, moe.shared_ffn_hidden_size) if moe.shared_ffn_hidden_size else 0
    gate = model.hidden_size if moe.shared_gate else 0
    return shared + gate + _linear_params(model.hidden_size, moe.experts, moe.router_bias)


def _word_embedding_params(model: Model) -> int:
    return model.vocab_size * (model.embedding_size or model.hidden_size)


def _embedding_params(model: Model) -> int:
    norm = _norm_params(model) if model.embedding_norm else 0
    positions = model.learned_positions * model.hidden_size
    projections = 2 * model.embedding_size * model.hidden_size
    return _word_embedding_params(model) + positions + norm + projections


def _own_head_params(model: Model) -> int:
    matrix = 0 if model.tied_embeddings else _word_embedding_params(model)
    return matrix + (model.vocab_size if model.head_bias else 0)


def _looked_up_params(model: Model) -> int:
    words = 0 if model.tied_embeddings else _word_embedding_params(model)
    return words + model.learned_positions * model.hidden_size
