"""Checkpoint and export: bytes, files, times.

Sources: 14 bytes a parameter (bf16 weight, fp32 master and two Adam moments) as in BigScience
tr11 (2.29 TiB for 176 B); safetensors shards as huggingface_hub splits a state dict: tensors
in order, a new file when the next would pass 5 GB.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ghosttrain.core.spec import GATED_MLPS, Cluster, Model
from ghosttrain.core.units import GB

CHECKPOINT_BYTES_PER_PARAM = 14
MAX_SHARD_BYTES = 5 * GB
BARRIER_S = 3.0  # all ranks meet before and after a synchronous save


def write_time_s(size_bytes: float, cluster: Cluster) -> float:
    """Time to write `size_bytes` from all nodes at once, with its barriers."""
    bandwidth = min(cluster.storage_gbs, cluster.nodes * cluster.node_storage_gbs) * GB
    return size_bytes / bandwidth + BARRIER_S


def read_time_s(size_bytes: float, cluster: Cluster) -> float:
    """Time to read a checkpoint back: storage under many readers gives 0.7 of its rate."""
    bandwidth = min(0.7 * cluster.storage_gbs, cluster.nodes * cluster.node_storage_gbs) * GB
    return size_bytes / bandwidth + BARRIER_S


def _layer_tensors(model: Model, layer: int) -> Iterator[float]:
    """Parameters of the large tensors of one layer, in state-dict order."""
    h = model.hidden_size
    if model.mla:
        mla = model.mla
        query = model.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
        yield from (h * mla.q_lora_rank, (mla.q_lora_rank or h) * query)
        yield h * (mla.kv_lora_rank + mla.qk_rope_head_dim)
        yield mla.kv_lora_rank * model.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
        yield model.heads * mla.v_head_dim * h
    else:
        query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
        yield from (h * query, h * key, h * key, query * h)
    matrices = 3 if model.mlp in GATED_MLPS else 2
    moe = model.moe
    is_moe = moe is not None and (
        layer >= moe.first_dense_layers and (layer - moe.first_dense_layers + 1) % moe.every == 0
    )
    if moe is None or not is_moe:
        yield from itertools.repeat(h * model.ffn_hidden_size, matrices)
        return
    yield h * moe.experts
    yield from itertools.repeat(h * moe.ffn_hidden_size, matrices * moe.experts)
    if moe.shared_ffn_hidden_size:
        yield from itertools.repeat(h * moe.shared_ffn_hidden_size, matrices)


def shard_bytes(model: Model, total_params: float) -> tuple[int, ...]:
    """Sizes of the exported bf16 safetensors files; they add up to 2 bytes a parameter.

    Small tensors (norms, biases) are laid on the layers evenly.
    """
    sizes = [float(model.vocab_size * model.hidden_size)]
    sizes += [t for layer in range(model.layers) for t in _layer_tensors(model, layer) if t]
    if not model.tied_embeddings:
        sizes.append(float(model.vocab_size * model.hidden_size))
    small = 2 * (total_params - sum(sizes)) / len(sizes)
    shards = [0.0]
    for params in sizes:
        size = 2 * params + small
        if shards[-1] and shards[-1] + size > MAX_SHARD_BYTES:
            shards.append(0.0)
        shards[-1] += size
    whole = [round(size) for size in shards]
    whole[-1] += round(2 * total_params) - sum(whole)
    return tuple(whole)


def shard_name(index: int, count: int) -> str:
    """File name of shard `index` (1, 2, ...) of `count`."""
    if count == 1:
        return "model.safetensors"
    return f"model-{index:05d}-of-{count:05d}.safetensors"
