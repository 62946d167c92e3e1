"""Invariants of what a run says of itself: its facts agree with one another and with the laws."""

from __future__ import annotations

import math

from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import History
from ghosttrain.checking.observations import FactsLearnt, RunBegan, Value
from ghosttrain.core.laws.storage import CHECKPOINT_BYTES_PER_PARAM

SCHEMA = "ghosttrain.events/1"
EXPORT_BYTES_PER_PARAM = 2

Told = RunBegan | FactsLearnt


def run_says_it_is_simulated(seen: Told, _: History) -> Findings:
    """The first row carries the schema and the mark."""
    if isinstance(seen, RunBegan) and seen.says_simulated is not None:
        found = f'simulated {str(seen.says_simulated).lower()}, schema "{seen.schema}"'
        good = seen.says_simulated and seen.schema == SCHEMA
        yield Stated(seen.line, good, found, f'simulated true, schema "{SCHEMA}"')


def tokens_per_step_is_batch_times_length(seen: Told, h: History) -> Findings:
    """Tokens per step are sequences per step × tokens per sequence."""
    f = h.facts
    if f.tokens_per_step is None or f.global_batch_size is None or f.seq_len is None:
        return
    expected = f.global_batch_size.value * f.seq_len.value
    formula = "global batch size × sequence length"
    yield equal(seen.line, "tokens per step", f.tokens_per_step.value, expected, 0, formula)


def total_steps_are_epochs_times_steps(seen: Told, h: History) -> Findings:
    """The run's steps are epochs × steps of an epoch."""
    f = h.facts
    if f.total_steps is None or f.epochs is None or f.steps_per_epoch is None:
        return
    expected = f.epochs.value * f.steps_per_epoch.value
    formula = "epochs × steps per epoch"
    yield equal(seen.line, "total steps", f.total_steps.value, expected, 0, formula)


def flops_per_token_follow_the_model(seen: Told, h: History) -> Findings:
    """FLOPs per token are 6 (N_active - input embedding) + 12 L a d S."""
    f = h.facts
    attention = _attention_flops(h)
    if f.flops_per_token is None or attention is None:
        return
    formula = "6 (N_active − input embedding) + 12 L a d S"
    if f.active_params is not None and f.input_embedding_params is not None:
        expected = 6 * (f.active_params.value - f.input_embedding_params.value) + attention
        slack = f.flops_per_token.half + 6 * f.active_params.half
        found = f.flops_per_token.value
        yield equal(seen.line, "FLOPs per token", found, expected, slack, formula)


def _attention_flops(h: History) -> float | None:
    f = h.facts
    if f.layers is None or f.seq_len is None:
        return None
    if f.attention_width is not None:
        width = f.attention_width.value
    elif f.heads is not None and f.head_dim is not None:
        width = f.heads.value * f.head_dim.value
    else:
        return None
    return 12 * f.layers.value * width * f.seq_len.value


def active_parameters_are_part_of_all(seen: Told, h: History) -> Findings:
    """0 < active parameters ≤ parameters."""
    f = h.facts
    if f.active_params is not None and f.params is not None:
        top = f.params.value + f.active_params.half
        yield within(seen.line, "active parameters", f.active_params.value, 1, top)


def layout_uses_all_gpus(seen: Told, h: History) -> Findings:
    """TP × PP × CP × DP is the number of GPUs."""
    f = h.facts
    degrees = (f.tensor_parallel, f.pipeline_parallel, f.context_parallel, f.data_parallel)
    if f.gpus is not None and all(d is not None for d in degrees):
        world = math.prod(d.value for d in degrees if d is not None)
        yield equal(seen.line, "TP × PP × CP × DP", world, f.gpus.value, 0, "GPUs")


def batch_follows_the_layout(seen: Told, h: History) -> Findings:
    """Global batch is micro-batch × micro-batches × DP."""
    f = h.facts
    parts = (f.micro_batch_size, f.micro_batches, f.data_parallel)
    if f.global_batch_size is not None and all(p is not None for p in parts):
        expected = math.prod(p.value for p in parts if p is not None)
        formula = "micro-batch × micro-batches × DP"
        yield equal(seen.line, "global batch size", f.global_batch_size.value, expected, 0, formula)


def planned_memory_fits_the_card(seen: Told, h: History) -> Findings:
    """No stage is planned to use more memory than the card has."""
    f = h.facts
    if f.planned_memory_gib and f.gpu_memory_gib is not None:
        top = f.gpu_memory_gib.value + f.gpu_memory_gib.half
        yield within(seen.line, "planned memory GiB", max(f.planned_memory_gib), 0.1, top)
    if f.most_memory_gib is not None and f.gpu_memory_gib is not None:
        top = f.gpu_memory_gib.value + f.gpu_memory_gib.half
        yield within(seen.line, "planned memory GiB", f.most_memory_gib.value, 0.1, top)


def checkpoint_is_14_bytes_a_parameter(seen: Told, h: History) -> Findings:
    """A checkpoint holds a bf16 weight, an fp32 master and two Adam moments of each parameter."""
    f = h.facts
    if f.checkpoint_bytes is not None and f.params is not None:
        expected = CHECKPOINT_BYTES_PER_PARAM * f.params.value
        formula = f"{CHECKPOINT_BYTES_PER_PARAM} bytes × {f.params.value:,.0f} parameters"
        slack = f.checkpoint_bytes.half
        yield equal(
            seen.line, "checkpoint bytes", f.checkpoint_bytes.value, expected, slack, formula
        )


def export_is_2_bytes_a_parameter(seen: Told, h: History) -> Findings:
    """The export holds each parameter in bf16; its files add up to it."""
    f = h.facts
    if f.export_bytes is not None and f.params is not None:
        expected = EXPORT_BYTES_PER_PARAM * f.params.value
        formula = f"{EXPORT_BYTES_PER_PARAM} bytes × {f.params.value:,.0f} parameters"
        yield equal(
            seen.line, "export bytes", f.export_bytes.value, expected, f.export_bytes.half, formula
        )
    if f.export_bytes is not None and f.shard_bytes:
        found = float(sum(f.shard_bytes))
        expected, half = f.export_bytes
        yield equal(seen.line, "bytes of all shards", found, expected, half, "export bytes")
        yield within(seen.line, "bytes of a shard", float(min(f.shard_bytes)), 1, math.inf)


def epochs_are_of_whole_batches(seen: Told, h: History) -> Findings:
    """An epoch's sequences are its steps × the global batch, its tokens those of its sequences."""
    f = h.facts
    if f.epoch_sequences is None or f.steps_per_epoch is None:
        return
    if f.global_batch_size is not None:
        expected = f.steps_per_epoch.value * f.global_batch_size.value
        formula = "steps per epoch × global batch size"
        yield equal(seen.line, "sequences", f.epoch_sequences.value, expected, 0, formula)
    if f.epoch_tokens is not None and f.seq_len is not None:
        expected = f.epoch_sequences.value * f.seq_len.value
        found, half = f.epoch_tokens
        yield equal(seen.line, "tokens", found, expected, half, "sequences × their length")


def gpus_fill_their_nodes(seen: Told, h: History) -> Findings:
    """The nodes are as many as the GPUs need."""
    f = h.facts
    if f.gpus is not None and f.nodes is not None and f.gpus_per_node is not None:
        expected = math.ceil(f.gpus.value / f.gpus_per_node.value)
        yield equal(seen.line, "nodes", f.nodes.value, float(expected), 0, "GPUs / GPUs per node")


def facts_stay_the_same(seen: Told, h: History) -> Findings:
    """What a launch says of model, batch, layout and schedule, every launch of the run says."""
    if not isinstance(seen, FactsLearnt):
        return
    for name, said in seen.facts.items():
        if isinstance(said, bool):
            continue
        before = getattr(h.facts, name)
        if isinstance(before, Value) and isinstance(said, Value):
            slack = before.half + said.half
            yield equal(seen.line, name, said.value, before.value, slack, "as said before")
        elif before is not None:
            yield Stated(seen.line, before == said, f"{name} {said}", f"{before} as before")


# Before the facts are taken in, and after.
NEWS_INVARIANTS = (facts_stay_the_same,)
PLAN_INVARIANTS = (
    run_says_it_is_simulated,
    tokens_per_step_is_batch_times_length,
    total_steps_are_epochs_times_steps,
    flops_per_token_follow_the_model,
    active_parameters_are_part_of_all,
    layout_uses_all_gpus,
    batch_follows_the_layout,
    planned_memory_fits_the_card,
    checkpoint_is_14_bytes_a_parameter,
    export_is_2_bytes_a_parameter,
    epochs_are_of_whole_batches,
    gpus_fill_their_nodes,
)
