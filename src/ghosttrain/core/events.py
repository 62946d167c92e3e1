"""The typed events: all that views and exporters need to know of a run.

Every event has `time_s`, simulated seconds since the run began. Values are absolute (step,
tokens seen, fault number), never deltas: whoever joins late loses nothing.

Shapes: S = steps in the event, K = samples, G = GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.network import Collective
from ghosttrain.core.plan import Plan

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


_Samples = TypeVar("_Samples", "FleetSamples", "CollectiveSamples")


class Phase(StrEnum):
    """What a run is doing; also the kind of a timeline span."""

    WEIGHTS = "weights"  # building the model and initialising or loading its weights
    TOKENIZER = "tokenizer"
    DATASET = "dataset"
    GPUS = "gpus"  # every rank reports its GPU
    NCCL = "nccl"
    ALL_REDUCE_TEST = "all_reduce_test"
    TRAINING = "training"
    VALIDATION = "validation"
    CHECKPOINT = "checkpoint"
    HANG = "hang"  # a collective never returns; the watchdog counts
    DOWN = "down"  # processes are gone; triage, drain, spare swap, queue
    EXPORT = "export"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event: the plan says what will be run."""

    time_s: float
    seed: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A phase begins; `expected_s` is planned, for bars; `step` is the last completed one."""

    time_s: float
    phase: Phase
    attempt: int
    step: int
    expected_s: float


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """A phase is over after `duration_s`."""

    time_s: float
    phase: Phase
    attempt: int
    step: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class GpusDetected:
    """Ranks `first_rank` to `first_rank + count - 1` (of one node) have reported their GPUs."""

    time_s: float
    attempt: int
    node: int
    first_rank: int
    count: int


@dataclass(frozen=True, slots=True)
class AllReduceTested:
    """The all-reduce over all ranks that ends initialisation."""

    time_s: float
    attempt: int
    collective: Collective


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """Steps follow; `step` is the last completed one (0, or the checkpoint's)."""

    time_s: float
    attempt: int
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class FleetSamples:
    """The GPUs at some moments, in columns.

    Attributes:
        step: Last completed step at each sample, shape (K,).
        time_s: Moment of each sample, shape (K,).
        util_pct, temp_c, memory_gib, power_w: float32, shape (K, G).
        lost: Indices of GPUs that do not answer; their values are 0.
    """

    step: I64
    time_s: F64
    util_pct: F32
    temp_c: F32
    memory_gib: F32
    power_w: F32
    lost: tuple[int, ...] = ()

    def part(self, start: int, stop: int) -> FleetSamples:
        """Samples [start, stop)."""
        at = slice(start, stop)
        return FleetSamples(
            self.step[at],
            self.time_s[at],
            self.util_pct[at],
            self.temp_c[at],
            self.memory_gib[at],
            self.power_w[at],
            self.lost,
        )


@dataclass(frozen=True, slots=True, eq=False)
class CollectiveSamples:
    """Timings of the gradient collective at some steps, in columns.

    Attributes:
        step: Shape (K,).
        time_s: Shape (K,).
        layer: Layer or bucket whose gradients were reduced, shape (K,).
        duration_s: Unoverlapped kernel duration, shape (K,).
        busbw_gbs: Bus bandwidth by the nccl-tests definition, GB/s, shape (K,).
    """

    step: I64
    time_s: F64
    layer: I64
    duration_s: F64
    busbw_gbs: F64

    def part(self, start: int, stop: int) -> CollectiveSamples:
        """Timings [start, stop)."""
        at = slice(start, stop)
        return CollectiveSamples(
            self.step[at], self.time_s[at], self.layer[at], self.duration_s[at], self.busbw_gbs[at]
        )


@dataclass(frozen=True, slots=True, eq=False)
class StepsCompleted:
    """Consecutive completed steps, in columns of shape (S,), with the samples taken at them.

    In row order each step is followed by its collective timing, then by its fleet sample.

    Attributes:
        step: 1 for the first step of the run.
        end_s: Run time at which each step ended.
        grad_norm: Global norm before clipping.
        tokens_per_s: Tokens per step / step time.
        mfu: Share of the dense peak (0..1).
        eta_s: Remaining steps at the current pace plus planned stops.
        fleet: GPUs at the sampled steps among these, None where none is due.
        collectives: Timings at the sampled steps among these, None where none is due.
    """

    attempt: int
    step: I64
    end_s: F64
    step_time_s: F64
    loss: F64
    grad_norm: F64
    learning_rate: F64
    tokens_per_s: F64
    mfu: F64
    eta_s: F64
    fleet: FleetSamples | None = None
    collectives: CollectiveSamples | None = None

    @property
    def time_s(self) -> float:
        """Run time of the first step's end."""
        return float(self.end_s[0])

    def part(self, start: int, stop: int) -> StepsCompleted:
        """Steps at positions [start, stop), with the samples taken at them."""
        if start == 0 and stop == len(self.step):
            return self
        at = slice(start, stop)
        return StepsCompleted(
            self.attempt,
            self.step[at],
            self.end_s[at],
            self.step_time_s[at],
            self.loss[at],
            self.grad_norm[at],
            self.learning_rate[at],
            self.tokens_per_s[at],
            self.mfu[at],
            self.eta_s[at],
            _taken_at(self.fleet, self.step[at]),
            _taken_at(self.collectives, self.step[at]),
        )


def join_steps(parts: Sequence[StepsCompleted]) -> StepsCompleted:
    """One event of consecutive ones of the same attempt."""
    if len(parts) == 1:
        return parts[0]
    fleets = [p.fleet for p in parts if p.fleet is not None]
    timings = [p.collectives for p in parts if p.collectives is not None]
    return StepsCompleted(
        attempt=parts[0].attempt,
        step=np.concatenate([p.step for p in parts]),
        end_s=np.concatenate([p.end_s for p in parts]),
        step_time_s=np.concatenate([p.step_time_s for p in parts]),
        loss=np.concatenate([p.loss for p in parts]),
        grad_norm=np.concatenate([p.grad_norm for p in parts]),
        learning_rate=np.concatenate([p.learning_rate for p in parts]),
        tokens_per_s=np.concatenate([p.tokens_per_s for p in parts]),
        mfu=np.concatenate([p.mfu for p in parts]),
        eta_s=np.concatenate([p.eta_s for p in parts]),
        fleet=_join_fleets(fleets) if fleets else None,
        collectives=_join_timings(timings) if timings else None,
    )


def _join_fleets(parts: Sequence[FleetSamples]) -> FleetSamples:
    return FleetSamples(
        step=np.concatenate([p.step for p in parts]),
        time_s=np.concatenate([p.time_s for p in parts]),
        util_pct=np.concatenate([p.util_pct for p in parts]),
        temp_c=np.concatenate([p.temp_c for p in parts]),
        memory_gib=np.concatenate([p.memory_gib for p in parts]),
        power_w=np.concatenate([p.power_w for p in parts]),
        lost=parts[0].lost,
    )


def _join_timings(parts: Sequence[CollectiveSamples]) -> CollectiveSamples:
    return CollectiveSamples(
        step=np.concatenate([p.step for p in parts]),
        time_s=np.concatenate([p.time_s for p in parts]),
        layer=np.concatenate([p.layer for p in parts]),
        duration_s=np.concatenate([p.duration_s for p in parts]),
        busbw_gbs=np.concatenate([p.busbw_gbs for p in parts]),
    )


def _taken_at(samples: _Samples | None, step: I64) -> _Samples | None:
    """The samples taken at consecutive steps, None where there are none."""
    if samples is None:
        return None
    start, stop = np.searchsorted(samples.step, (step[0], step[-1] + 1)).tolist()
    return samples.part(start, stop) if start < stop else None


@dataclass(frozen=True, slots=True, eq=False)
class FleetSampled:
    """GPUs sampled outside of steps (one sample: K = 1), as during a hang."""

    time_s: float
    samples: FleetSamples


class WarningKind(StrEnum):
    """Causes of warnings; each is in the state, not only in the line."""

    LATE_LOADER = "late_loader"  # value: seconds the step waited for data on `node`
    SLOW_COLLECTIVE = "slow_collective"  # value: seconds the collectives took longer at `node`
    WARM_INLET = "warm_inlet"  # value: inlet temperature of `node`, C
    GRAD_NORM_BURST = "grad_norm_burst"  # value: gradient norm, baseline: its trend


@dataclass(frozen=True, slots=True)
class WarningRaised:
    """A warning right after `step`: `value` against its `baseline`, where it was."""

    time_s: float
    kind: WarningKind
    step: int
    node: int | None
    gpu: int | None
    value: float
    baseline: float


@dataclass(frozen=True, slots=True)
class EpochCompleted:
    """An epoch is over; tokens counts from the run's start."""

    time_s: float
    epoch: int
    step: int
    mean_loss: float
    duration_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ValidationCompleted:
    """A validation's result; `best_loss` includes this one, `train_loss` is the trend here."""

    time_s: float
    step: int
    epoch: int
    loss: float
    accuracy: float
    train_loss: float
    best_loss: float
    improved: bool
    duration_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A training checkpoint is complete on storage."""

    time_s: float
    step: int
    path: str
    size_bytes: int
    duration_s: float
    reason: Literal["improved", "interval"]


@dataclass(frozen=True, slots=True)
class FaultOccurred:
    """A cause: fault number `fault` (1, 2, ...) of `kind` at one GPU of one node."""

    time_s: float
    fault: int
    kind: str
    xid: int
    node: int
    gpu: int
    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class WatchdogTimedOut:
    """The ranks that waited for `rank` in collective number `sequence` gave up."""

    time_s: float
    fault: int
    attempt: int
    step: int
    rank: int
    waiting_ranks: int
    sequence: int
    operation: str
    elements: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class RunAborted:
    """All processes of the attempt are gone; steps after `checkpoint_step` are lost."""

    time_s: float
    attempt: int
    fault: int
    step: int
    checkpoint_step: int


@dataclass(frozen=True, slots=True)
class RunRestarted:
    """Attempt `attempt` is launched from `step`; `node` was swapped for a spare."""

    time_s: float
    attempt: int
    step: int
    lost_steps: int
    downtime_s: float
    node: int


@dataclass(frozen=True, slots=True)
class ShardWritten:
    """One file of the exported model."""

    time_s: float
    index: int
    count: int
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What the run came to.

    Shares are of the run time (0..1); `goodput` is the share spent on steps that counted.
    """

    run_time_s: float
    epochs: int
    steps: int
    tokens: int
    final_loss: float
    validation_loss: float
    best_validation_loss: float
    best_validation_step: int
    mean_mfu: float
    mean_util_pct: float
    peak_memory_gib: float
    gpu_hours: float
    energy_kwh: float
    goodput: float
    init_share: float
    validation_share: float
    checkpoint_share: float
    fault_share: float
    export_share: float
    attempts: int
    faults: int
    saved_path: str
    saved_bytes: int
    shards: int


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last event; `reason` says whether the run completed or met its time limit."""

    time_s: float
    reason: Literal["completed", "time_limit"]
    summary: Summary


Event = (
    RunStarted
    | PhaseStarted
    | PhaseEnded
    | GpusDetected
    | AllReduceTested
    | TrainingStarted
    | StepsCompleted
    | FleetSampled
    | WarningRaised
    | EpochCompleted
    | ValidationCompleted
    | CheckpointSaved
    | FaultOccurred
    | WatchdogTimedOut
    | RunAborted
    | RunRestarted
    | ShardWritten
    | RunFinished
)
