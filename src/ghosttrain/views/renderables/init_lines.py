"""Log lines of the initialisation: model, weights, data, layout, network, GPUs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ghosttrain.core.laws.network import ring_channels
from ghosttrain.views.renderables.fleet_frame import gpu_label
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.numbers import binary_size, count, short_time
from ghosttrain.views.renderables.run_card import RunCard

if TYPE_CHECKING:
    from ghosttrain.core.events import (
        AllReduceTested,
        GpusDetected,
        PhaseEnded,
        PhaseStarted,
        RunStarted,
        TrainingStarted,
    )
    from ghosttrain.core.spec import Moe

_EACH_UP_TO = 64  # GPUs of a job that are listed rank by rank
_CONDENSED_LINES = 16
_CHOSEN_WIDTH = 80  # cells: a line of 120 less its timestamp, its level and `  chosen: `
_SHARDINGS = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "fsdp": "FSDP"}
_RECOMPUTE = {"none": "no recompute", "selective": "selective recompute", "full": "full recompute"}


def run_started_lines(event: RunStarted, card: RunCard) -> list[Line]:
    """What runs on what, and what was chosen because nobody asked for it."""
    spec = card.spec
    what = f"{spec.model.name} on {card.gpus:,} × {gpu_label(spec.gpu)} ({_nodes(card)})"
    recipe = spec.recipe
    length = f"{_counted(recipe.epochs, 'epoch')} of {recipe.steps_per_epoch:,} steps"
    lines = [log_line(card, event.time_s, ("Run", "bold cyan"), f": {what}, {length}")]
    words = _filled([why for _, why in spec.chosen], _CHOSEN_WIDTH)
    return lines + [
        log_line(card, event.time_s, ("  chosen: ", "dim"), " · ".join(part)) for part in words
    ]


def _filled(words: list[str], width: int) -> list[list[str]]:
    """The words in rows of at most `width` cells where a word allows it, joined by ` · `."""
    rows: list[list[str]] = []
    for word in words:
        if rows and len(" · ".join([*rows[-1], word])) <= width:
            rows[-1].append(word)
        else:
            rows.append([word])
    return rows


def weights_started_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """The model, and where its weights come from."""
    model, t = card.spec.model, event.time_s
    return [
        log_line(card, t, f"Building model: {model.name}"),
        log_line(card, t, f"  {_shape(card)}"),
        *([log_line(card, t, f"  {_experts(model.moe, card)}")] if model.moe else []),
        log_line(card, t, weights_label(card, event.attempt, event.step)),
    ]


def weights_label(card: RunCard, attempt: int, step: int) -> str:
    """What happens to the weights when an attempt starts from `step`."""
    if attempt > 1 and step:
        return f"Loading weights from the checkpoint at step {step:,}"
    if card.spec.recipe.continued_loss:
        return f"Loading weights of {card.spec.model.name}"
    return f"Initialising weights (seed {card.seed})"


def _shape(card: RunCard) -> str:
    """`8,030,261,248 parameters · 32 layers · hidden 4096 · 32 heads, 8 KV · FFN 14336`."""
    model, params = card.spec.model, card.plan.params
    parts = [f"{params.total:,} parameters"]
    parts.append(f"{model.layers} layers")
    parts.append(f"hidden {model.hidden_size}")
    latent = f", MLA {model.mla.kv_lora_rank}" if model.mla else f", {model.kv_heads} KV"
    parts.append(f"{model.heads} heads{latent}")
    parts.append(f"FFN {model.ffn_hidden_size}")
    return " · ".join(parts)


def _experts(moe: Moe, card: RunCard) -> str:
    """`64 experts of 1408, 6 a token · shared 2816 · 2.66 B parameters active`."""
    shared = f" · shared {moe.shared_ffn_hidden_size}" if moe.shared_ffn_hidden_size else ""
    each = f"{moe.experts} experts of {moe.ffn_hidden_size}, {moe.experts_active} a token"
    return f"{each}{shared} · {count(card.plan.params.active)} parameters active"


def tokenizer_lines(event: PhaseEnded, card: RunCard) -> list[Line]:
    """The tokenizer and how long it took to load."""
    tokenizer = card.spec.tokenizer
    text = f"Tokenizer {tokenizer.name} ({tokenizer.kind}), vocabulary {tokenizer.vocab_size:,}"
    return [log_line(card, event.time_s, f"{text}, loaded in {short_time(event.duration_s)}")]


def dataset_lines(event: PhaseEnded, card: RunCard) -> list[Line]:
    """Data, batch and layout: what a step will be made of."""
    spec, plan, t = card.spec, card.plan, event.time_s
    recipe, layout = spec.recipe, plan.layout
    sequences = recipe.steps_per_epoch * recipe.global_batch_size
    tokens = count(sequences * recipe.seq_len)
    data = f"{spec.dataset.name} slice, {tokens} tokens in {sequences:,} sequences"
    micro = f"micro {layout.micro_batch_size} × DP {layout.data_parallel}"
    if layout.micro_batches > 1:
        micro += f" × {layout.micro_batches} accumulated"
    batch = f"{recipe.global_batch_size:,} sequences = {micro}"
    peak = f"{recipe.precision.upper()} peak {plan.peak_tflops:,.1f} TFLOP/s"
    memory = f"{plan.memory_used_gib:.1f} of {spec.gpu.memory_gib:.1f} GiB"
    degrees = [
        f"TP {layout.tensor_parallel}",
        f"PP {layout.pipeline_parallel}",
        f"CP {layout.context_parallel}",
        *([f"EP {layout.expert_parallel}"] if spec.model.moe else []),
        f"DP {layout.data_parallel} ({_SHARDINGS[layout.sharding]})",
        _RECOMPUTE[layout.recompute],
    ]
    return [
        log_line(card, t, f"Dataset: {data} of {recipe.seq_len:,}"),
        log_line(card, t, f"Batch: {batch} · {_flops(plan.flops_per_token)} a token"),
        log_line(card, t, "Layout: " + " · ".join(degrees)),
        log_line(card, t, f"Each GPU: {peak} · {memory}"),
        log_line(card, t, f"Schedule: {_schedule(card)}"),
    ]


def _flops(flops: float) -> str:
    return f"{flops / 1e9:.1f} GFLOP" if flops < 1e12 else f"{flops / 1e12:.2f} TFLOP"


def _schedule(card: RunCard) -> str:
    recipe = card.spec.recipe
    scale = " · dynamic loss scale" if recipe.precision == "fp16" else ""
    return (
        f"{recipe.schedule}, {recipe.warmup_steps:,} warmup steps, "
        f"peak learning rate {recipe.peak_learning_rate:.2e}, clip {recipe.grad_clip:g} · "
        f"{recipe.precision.upper()}{scale}"
    )


def nccl_lines(event: PhaseEnded, card: RunCard) -> list[Line]:
    """The library, the world, its rings and channels, what joins GPUs and nodes."""
    cluster = card.spec.cluster
    channels = ring_channels(card.spec.gpu)
    parts = [f"world size {card.gpus}", _nodes(card), f"{channels} ring channels"]
    if card.spec.gpu.nvls_busbw_gbs and cluster.gpus_per_node >= 5:
        parts.append("NVLS")
    if card.nodes > 1:
        nics = min(cluster.gpus_per_node, card.gpus)
        parts.append(f"{nics} × {cluster.nic_gbps:g} Gb/s {cluster.fabric.kind}")
    text = f"{card.collectives_name} {cluster.nccl}: {', '.join(parts)}"
    return [log_line(card, event.time_s, text)]


def gpus_lines(event: GpusDetected, card: RunCard) -> list[Line]:
    """Each GPU by its rank, or some lines of counts where there are many."""
    spec = card.spec
    gpu, per_node = spec.gpu, spec.cluster.gpus_per_node
    what = f"{gpu.product_name}, {gpu.memory_gib:.1f} GiB{_ecc(card)}, driver {spec.cluster.driver}"
    last = min(event.first_rank + event.count, card.gpus)
    if card.gpus <= _EACH_UP_TO:
        ranks = range(event.first_rank, last)
        return [log_line(card, event.time_s, f"{card.place(rank)} {what}") for rank in ranks]
    stride = -(-card.nodes // _CONDENSED_LINES)
    if event.count > per_node:
        text = f"Ranks {event.first_rank}-{last - 1}: {event.count:,} × {what}"
        return [log_line(card, event.time_s, text)]
    if (event.node + 1) % stride and last < card.gpus:
        return []
    return [log_line(card, event.time_s, f"{last:,} of {card.gpus:,} GPUs: {what}")]


def _ecc(card: RunCard) -> str:
    gpu = card.spec.gpu
    return ", ECC on" if gpu.vendor == "NVIDIA" and "GeForce" not in gpu.product_name else ""


def all_reduce_lines(event: AllReduceTested, card: RunCard) -> list[Line]:
    """The test that ends the initialisation."""
    test = event.collective
    if test.ranks <= 1 or not test.duration_s or not math.isfinite(test.duration_s):
        return []
    what = f"{binary_size(test.size_bytes)} over {test.ranks} ranks"
    took = f"{short_time(test.duration_s)}, bus bandwidth {test.busbw_gbs:.0f} GB/s"
    return [log_line(card, event.time_s, f"All-reduce test, {what} ({test.algorithm}): {took}")]


def training_started_lines(event: TrainingStarted, card: RunCard) -> list[Line]:
    """`======== Training Started ========`."""
    if event.attempt == 1 and not event.step:
        return [log_line(card, event.time_s, ("======== Training Started ========", "bold cyan"))]
    text = (
        f"======== Training Resumed at step {event.step + 1:,} (attempt {event.attempt}) ========"
    )
    return [log_line(card, event.time_s, (text, "bold cyan"))]


def _nodes(card: RunCard) -> str:
    return _counted(card.nodes, "node")


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}" + "s" * (number != 1)
