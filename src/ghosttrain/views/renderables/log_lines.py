"""The classic log: the lines every event is worth."""

from __future__ import annotations

from typing import assert_never

from ghosttrain.core.events import (
    AllReduceTested,
    CheckpointSaved,
    EpochCompleted,
    Event,
    FaultOccurred,
    FleetSampled,
    GpusDetected,
    IncidentLabelled,
    MessageLogged,
    Phase,
    PhaseEnded,
    PhaseStarted,
    RunAborted,
    RunFinished,
    RunRestarted,
    RunStarted,
    ShardWritten,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
    WarningRaised,
    WatchdogTimedOut,
)
from ghosttrain.views.renderables import fault_lines, init_lines, training_lines
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.numbers import short_time
from ghosttrain.views.renderables.run_card import RunCard
from ghosttrain.views.renderables.step_lines import WIDE, collective_lines, detail_lines
from ghosttrain.views.renderables.summary import summary_lines

LOG_INTERVAL = 10  # steps between detailed lines
_PIPE_SUMMARY_WIDTH = 100


def log_lines(
    event: Event, card: RunCard, *, every: int = LOG_INTERVAL, width: int = WIDE
) -> list[Line]:
    """The log lines of `event`; those of steps leave out what `width` has no room for.

    The GPUs of an event are not among them: grids are drawn by the view.
    """
    match event:
        case RunStarted():
            return init_lines.run_started_lines(event, card)
        case PhaseStarted():
            return _phase_started(event, card)
        case PhaseEnded():
            return _phase_ended(event, card)
        case GpusDetected():
            return init_lines.gpus_lines(event, card)
        case AllReduceTested():
            return init_lines.all_reduce_lines(event, card)
        case TrainingStarted():
            return init_lines.training_started_lines(event, card)
        case StepsCompleted():
            return step_lines(event, card, every=every, width=width)
        case FleetSampled():
            return []
        case WarningRaised():
            return fault_lines.warning_lines(event, card)
        case EpochCompleted():
            return training_lines.epoch_lines(event, card)
        case ValidationCompleted():
            return training_lines.validation_lines(event, card)
        case CheckpointSaved():
            return training_lines.checkpoint_lines(event, card)
        case FaultOccurred():
            return fault_lines.fault_lines(event, card)
        case MessageLogged():
            return fault_lines.logged_lines(event, card)
        case WatchdogTimedOut():
            return fault_lines.watchdog_lines(event, card)
        case RunAborted():
            return fault_lines.aborted_lines(event, card)
        case RunRestarted():
            return fault_lines.restarted_lines(event, card)
        case IncidentLabelled():
            return fault_lines.labelled_lines(event, card)
        case ShardWritten():
            return training_lines.shard_lines(event, card)
        case RunFinished():
            return finished_lines(event, card, width=width)
        case _ as never:
            assert_never(never)


def _phase_started(event: PhaseStarted, card: RunCard) -> list[Line]:
    match event.phase:
        case Phase.WEIGHTS:
            return init_lines.weights_started_lines(event, card)
        case Phase.VALIDATION:
            return training_lines.validation_started_lines(event, card)
        case Phase.CHECKPOINT:
            return training_lines.checkpoint_started_lines(event, card)
        case Phase.EXPORT:
            return training_lines.export_started_lines(event, card)
        case Phase.HANG:
            return fault_lines.hang_lines(event, card)
        case Phase.DOWN:
            return fault_lines.down_lines(event, card)
        case (
            Phase.TOKENIZER
            | Phase.DATASET
            | Phase.GPUS
            | Phase.NCCL
            | Phase.ALL_REDUCE_TEST
            | Phase.TRAINING
            | Phase.DONE
        ):
            return []
        case _ as never:
            assert_never(never)


def _phase_ended(event: PhaseEnded, card: RunCard) -> list[Line]:
    match event.phase:
        case Phase.WEIGHTS:
            return [log_line(card, event.time_s, f"Model ready in {short_time(event.duration_s)}")]
        case Phase.TOKENIZER:
            return init_lines.tokenizer_lines(event, card)
        case Phase.DATASET:
            return init_lines.dataset_lines(event, card)
        case Phase.NCCL:
            return init_lines.nccl_lines(event, card)
        case Phase.EXPORT:
            return training_lines.export_ended_lines(event, card)
        case (
            Phase.GPUS
            | Phase.ALL_REDUCE_TEST
            | Phase.TRAINING
            | Phase.VALIDATION
            | Phase.CHECKPOINT
            | Phase.HANG
            | Phase.DOWN
            | Phase.DONE
        ):
            return []
        case _ as never:
            assert_never(never)


def step_lines(event: StepsCompleted, card: RunCard, *, every: int, width: int) -> list[Line]:
    """Detailed lines and timings of collectives in the order of their steps."""
    details = detail_lines(event, card, every, width)
    if event.collectives is None:
        return details
    step = event.step
    due = step[(step % every == 0) | (step == 1)].tolist()
    timed = collective_lines(event.collectives, card)
    rows = [(at, 0, line) for at, line in zip(due, details, strict=True)]
    rows += [(at, 1, line) for at, line in zip(event.collectives.step.tolist(), timed, strict=True)]
    return [line for _, _, line in sorted(rows, key=lambda row: row[:2])]


def finished_lines(event: RunFinished, card: RunCard, *, width: int) -> list[Line]:
    """The summary, and how the run ended."""
    table = summary_lines(event.summary, card, min(width, _PIPE_SUMMARY_WIDTH))
    if event.reason == "completed":
        return [
            *table,
            Line.of((f"{card.glyphs.check} Training completed successfully!", "bold green")),
        ]
    text = f"Time limit reached at step {event.summary.steps:,} of {card.total_steps:,}"
    return [*table, Line.of((text, "bold yellow"))]
