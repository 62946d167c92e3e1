"""Bytes a GPU moves in a step: over NVLink, and over the network.

Sources: Korthikanti et al. 2022 (arXiv:2205.05198) for tensor parallelism (four collectives of
the activations a layer and micro-batch, as many more with full recomputation); Rajbhandari et al.
2020 (arXiv:1910.02054) for sharded states (gradients reduce-scattered, parameters gathered);
a ring moves (n-1)/n of a buffer for each of them, twice that for an all-reduce.
"""

from __future__ import annotations

from dataclasses import dataclass

from ghosttrain.core.laws.architecture import ParameterCounts
from ghosttrain.core.spec import Cluster, Gpu, Layout, Model, Recipe


@dataclass(frozen=True, slots=True)
class StepVolume:
    """Bytes sent (and received) by one GPU in a step, by the link they take."""

    nvlink_bytes: float
    network_bytes: float


def step_volume(
    model: Model,
    counts: ParameterCounts,
    recipe: Recipe,
    layout: Layout,
    gpu: Gpu,
    cluster: Cluster,
) -> StepVolume:
    """What one GPU moves in a step; mean over the ranks."""
    domain = max(cluster.gpus_per_node, gpu.nvlink_domain)
    t, p = layout.tensor_parallel, layout.pipeline_parallel
    sharers = layout.data_parallel * layout.context_parallel
    tokens = layout.micro_batch_size * recipe.seq_len / layout.context_parallel
    activation = 2 * tokens * model.hidden_size
    collectives = 6 if layout.recompute == "full" else 4
    tensor = layout.micro_batches * model.layers / p * collectives * activation * (t - 1) / t
    pipeline = 2 * layout.micro_batches * activation / t * (p - 1) / p
    data = _data_bytes(counts.total / (t * p), layout, recipe, sharers)
    expert = 0.0
    if model.moe and layout.expert_parallel > 1:
        share = (layout.expert_parallel - 1) / layout.expert_parallel
        moe_layers = model.moe.moe_layers(model.layers) / p
        routed = 2 * tokens * model.hidden_size * model.moe.experts_active / t
        expert = 4 * layout.micro_batches * moe_layers * routed * share
    # A ring of neighbours t apart: of its members so many sit in one NVLink domain.
    local = max(1, min(sharers, domain // t))
    crossing = 0.0 if local >= sharers else 1 / local
    spread = layout.expert_parallel * t > domain
    nvlink = (tensor if t <= domain else 0.0) + data * (1 - crossing) + (0.0 if spread else expert)
    network = (0.0 if t <= domain else tensor) + data * crossing + (expert if spread else 0.0)
    if cluster.gpus > domain:
        network += pipeline
    else:
        nvlink += pipeline
    return StepVolume(nvlink, network)


def _data_bytes(params: float, layout: Layout, recipe: Recipe, sharers: int) -> float:
    """Gradients and parameters exchanged with the ranks that hold the same part of the model."""
    if sharers == 1:
        return 0.0
    gradient = 2.0 if recipe.gradient_precision == "bf16" else 4.0
    ring = (sharers - 1) / sharers * params
    match layout.sharding:
        case "ddp":
            return 2 * gradient * ring
        case "zero1" | "zero2":
            return (gradient + 2) * ring
        case "fsdp":
            return layout.micro_batches * (2 * 2 + gradient) * ring
