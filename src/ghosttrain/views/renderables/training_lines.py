"""Log lines between steps: epochs, validations, checkpoints, the exported files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.numbers import count, duration, perplexity, short_time, size
from ghosttrain.views.renderables.run_card import RunCard

if TYPE_CHECKING:
    from ghosttrain.core.events import (
        CheckpointSaved,
        EpochCompleted,
        PhaseEnded,
        PhaseStarted,
        ShardWritten,
        ValidationCompleted,
    )


def epoch_lines(event: EpochCompleted, card: RunCard) -> list[Line]:
    """Mean loss, time and tokens of an epoch."""
    epochs = card.spec.recipe.epochs
    text = (
        f" completed: mean loss {event.mean_loss:.4f}, step {event.step:,}, "
        f"{duration(event.duration_s)}, {count(event.tokens)} tokens seen"
    )
    return [log_line(card, event.time_s, (f"Epoch {event.epoch}/{epochs}", "bold cyan"), text)]


def validation_started_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """Over what the validation goes."""
    recipe = card.spec.recipe
    sequences = max(1, recipe.validation_tokens // recipe.seq_len)
    text = f"Validating at step {event.step:,}: {sequences:,} sequences of {recipe.seq_len:,}"
    return [log_line(card, event.time_s, text)]


def validation_lines(event: ValidationCompleted, card: RunCard) -> list[Line]:
    """The report: loss, perplexity, accuracy, against training and against the best so far."""
    gap = event.loss - event.train_loss
    rate = event.tokens / event.duration_s if event.duration_s else 0.0
    best = "best so far" if event.improved else f"best {event.best_loss:.4f}"
    style = "green" if event.improved else ""
    report = (
        f": loss {event.loss:.4f}  ppl {perplexity(event.loss):.2f}  "
        f"accuracy {100 * event.accuracy:.1f}%  train {event.train_loss:.4f} ({gap:+.4f})  "
    )
    took = f"{count(event.tokens)} tokens in {short_time(event.duration_s)}, {rate:.0f} tok/s"
    head = ("Validation", "bold cyan")
    return [
        log_line(card, event.time_s, head, report, (best, style)),
        log_line(card, event.time_s, f"  {took}"),
    ]


def checkpoint_started_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """How much is about to be written."""
    text = f"Saving checkpoint of step {event.step:,}: {size(card.plan.checkpoint_bytes)}"
    return [log_line(card, event.time_s, text)]


def checkpoint_lines(event: CheckpointSaved, card: RunCard) -> list[Line]:
    """Where the checkpoint is, its size, how long it took and why it was made."""
    took = f"{size(event.size_bytes)} in {short_time(event.duration_s)}"
    return [log_line(card, event.time_s, f"Checkpoint: {event.path}, {took} ({event.reason})")]


def export_started_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """Merge and serialise: into how many files of what size."""
    ranks = f" from {card.gpus:,} ranks" if card.gpus > 1 else ""
    shards = len(card.plan.shard_bytes)
    files = f"{size(card.plan.export_bytes)} in {shards} file{'s' * (shards != 1)}"
    return [
        log_line(card, event.time_s, f"Exporting model: merging weights{ranks}"),
        log_line(card, event.time_s, f"Serialising to safetensors, {files}"),
    ]


def shard_lines(event: ShardWritten, card: RunCard) -> list[Line]:
    """One file of the model."""
    width = len(str(event.count))
    text = f"  [{event.index:{width}}/{event.count}] {event.name}  {size(event.size_bytes)}"
    return [log_line(card, event.time_s, text)]


def export_ended_lines(event: PhaseEnded, card: RunCard) -> list[Line]:
    """The small files beside the weights."""
    index = ", model.safetensors.index.json" if len(card.plan.shard_bytes) > 1 else ""
    files = f"config.json, generation_config.json, tokenizer.json{index}"
    return [
        log_line(card, event.time_s, f"  {files}"),
        log_line(card, event.time_s, f"Model exported in {short_time(event.duration_s)}"),
    ]
