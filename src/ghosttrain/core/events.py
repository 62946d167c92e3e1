"""The typed events: all that views and exporters need to know of a run.

Every event has `time_s`, simulated seconds since the run began. Values are absolute (step,
tokens seen, fault number), never deltas: whoever joins late loses nothing.

Shapes: S = steps in the event, K = samples, G = GPUs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.faults import ActiveEffect, ActiveSign
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


@dataclass(frozen=True, slots=True)
class Condition:
    """What the GPUs are under while a stretch of the run lasts.

    Attributes:
        phase: What they do (hung beside training: what they did when the fault struck).
        since_s: Start of the stretch.
        effects: Effects of faults in force.
        signs: Counters and marks that faults have moved by then.
        spares: (node, physical node) of the places that spares have taken.
    """

    phase: Phase
    since_s: float
    effects: tuple[ActiveEffect, ...] = ()
    signs: tuple[ActiveSign, ...] = ()
    spares: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class FleetSamples:
    """The GPUs at some moments, in columns.

    What else their telemetry says follows from these and the conditions: see `signals.py`.

    Attributes:
        step: Last completed step at each sample, shape (K,).
        time_s: Moment of each sample, shape (K,).
        util_pct, temp_c, memory_gib, power_w: float32, shape (K, G).
        lost: Indices of GPUs that do not answer; their values are 0.
        step_time_s: Length of the step each sample was taken in, 0 outside steps, shape (K,).
        conditions: What each sample was taken under, K of them.
        draw: What its noise is addressed with: the executed step, outside of steps the second;
            shape (K,).
    """

    step: I64
    time_s: F64
    util_pct: F32
    temp_c: F32
    memory_gib: F32
    power_w: F32
    lost: tuple[int, ...]
    step_time_s: F64
    conditions: tuple[Condition, ...]
    draw: I64

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
            self.step_time_s[at],
            self.conditions[at],
            self.draw[at],
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
        step_time_s=np.concatenate([p.step_time_s for p in parts]),
        conditions=tuple(itertools.chain.from_iterable(p.conditions for p in parts)),
        draw=np.concatenate([p.draw for p in parts]),
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
    reason: Literal["improved", "interval", "asked"]


@dataclass(frozen=True, slots=True)
class FaultOccurred:
    """A cause: fault number `fault` (1, 2, ...) of `kind`, at `gpus` GPUs from `gpu` on.

    `xid` is the first the kernel logs, 0 for none; `severity` is in the unit of its effect.
    """

    time_s: float
    fault: int
    kind: str
    xid: int
    node: int
    gpu: int
    gpus: int
    severity: float
    step: int
    attempt: int


class MessageKind(StrEnum):
    """What some part of the machine writes when something is wrong; who writes it stands first."""

    XID = "kernel_xid"  # code: the Xid; value: the one before it, 0 for none
    OOM_KILL = "kernel_oom_kill"
    PANIC = "kernel_panic"
    HARDWARE = "kernel_hardware_error"  # code: 0 memory, 1 disk, 2 bus
    LINK_DOWN = "kernel_link_down"  # the driver of the node's NIC; likewise up
    LINK_UP = "kernel_link_up"
    THROTTLE = "kernel_thermal"  # value: temperature, C
    NCCL_PORT_ERROR = "nccl_port_error"  # asynchronous event of the rank's NIC
    NCCL_RETRY_EXCEEDED = "nccl_retry_exceeded"  # completion with status 12; value: peer rank
    NCCL_SOCKET_CLOSED = "nccl_socket_closed"  # value: peer rank
    CUDA_ERROR = "torch_cuda_error"  # code: the Xid behind it
    CUDA_OOM = "torch_cuda_oom"
    NCCL_ABORTED = "torch_nccl_aborted"  # peers of a rank that is gone; value: that rank
    WATCHDOG_STATUS = "torch_watchdog_status"  # value: the collective's sequence number
    WATCHDOG_TEARDOWN = "torch_watchdog_teardown"
    DESYNC = "torch_desync"  # code: the rank behind; value: the sequence number it did not join
    TRACEBACK = "trainer_traceback"  # a Python exception of the training software
    SIGTERM = "trainer_sigterm"  # the trainer was told to save and end
    NAN_LOSS = "trainer_nan_loss"
    STORAGE_FULL = "trainer_storage_full"  # value: bytes of the checkpoint
    STORAGE_SLOW = "trainer_storage_slow"  # value: seconds the save took
    CHECKPOINT_CORRUPT = "trainer_checkpoint_corrupt"  # value: its step
    ROLLBACK = "trainer_rollback"  # value: batches that are skipped
    AGENT_SIGTERM = "agent_sigterm"  # torchrun ends the workers that are left
    AGENT_FAILED = "agent_failed"  # code: exit code
    AGENT_SUMMARY = "agent_summary"  # code: exit code; value: seconds since the agent saw it
    NODE_FAILED = "scheduler_node_failed"
    TASK_EXITED = "scheduler_task_exited"  # code: exit code
    STEP_CANCELLED = "scheduler_step_cancelled"
    PREEMPTED = "scheduler_preempted"
    OPERATOR_NOTICED = "operator_noticed"  # value: seconds since the onset
    OPERATOR_EXCLUDED = "operator_excluded"
    OPERATOR_REPAIRED = "operator_repaired"  # code: 0 node, 1 storage, 2 GPU reset, 3 reboot


@dataclass(frozen=True, slots=True)
class MessageLogged:
    """A line some part of the machine writes: of one rank, of a node, or of the job.

    Attributes:
        fault: Number of the fault behind it (0: none). No part of the line.
        step: Last completed step.
        node: Node of the ranks that writes it, or that it is about.
        rank: Who writes it, None where it is no rank.
        ranks: How many ranks (or nodes, where rank is None) write the same, this one first.
        spread_s: Within which time they do.
        code: Xid or exit code, 0 for none.
        value: By the kind.
        spares: (node, physical node) of all places that spares have taken by then.
    """

    time_s: float
    message: MessageKind
    fault: int
    step: int
    attempt: int
    node: int
    rank: int | None
    ranks: int = 1
    spread_s: float = 0.0
    code: int = 0
    value: float = 0.0
    spares: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class WatchdogTimedOut:
    """The ranks that waited for `rank` in collective number `sequence` gave up.

    `reporter` is the first of them, the last follows `spread_s` later. `spares`: as in
    MessageLogged.
    """

    time_s: float
    fault: int
    attempt: int
    step: int
    rank: int
    reporter: int
    waiting_ranks: int
    spread_s: float
    sequence: int
    operation: str
    elements: int
    timeout_s: float
    spares: tuple[tuple[int, int], ...] = ()


AbortReason = Literal["fault", "maintenance", "preempted", "operator", "rollback"]


@dataclass(frozen=True, slots=True)
class RunAborted:
    """The attempt is lost: its last processes end now; so are steps after `checkpoint_step`."""

    time_s: float
    attempt: int
    fault: int
    step: int
    checkpoint_step: int
    reason: AbortReason


@dataclass(frozen=True, slots=True)
class RunRestarted:
    """Attempt `attempt` is launched from `step`, with spares in the places of `nodes`.

    `skipped_batches` of the data are left out from here on.
    """

    time_s: float
    attempt: int
    step: int
    lost_steps: int
    downtime_s: float
    nodes: tuple[int, ...]
    skipped_batches: int


@dataclass(frozen=True, slots=True)
class IncidentLabelled:
    """Ground truth of a fault that is over, or that the end of the run met.

    Attributes:
        incident: The fault's number.
        kind: Its name in the catalogue: the class to be found.
        entity: What broke, in words: "gpu 17", "node 2", "rack 1", "fabric", "storage", "job".
        first_rank, ranks: The ranks there; all of them for what all share.
        onset_s: When it began.
        signals: When which signal first showed it, (name, run time), in order of time.
        detected_s: When the run or its operators noticed, None: never.
        mitigated_s: When the cause was gone: node swapped, effect over; None: never.
        cleared_s: When the run was back where it had been, None: never.
        steps_lost: Steps that were done again.
        lost_s: Time lost to it: hang, downtime, launch, replay, and what steps took longer.
        benign: Whether nothing need be done: a lookalike.
    """

    time_s: float
    incident: int
    kind: str
    family: str
    scope: str
    entity: str
    node: int
    first_rank: int
    ranks: int
    severity: float
    onset_s: float
    signals: tuple[tuple[str, float], ...]
    detected_s: float | None
    mitigated_s: float | None
    cleared_s: float | None
    steps_lost: int
    lost_s: float
    benign: bool


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
    | MessageLogged
    | WatchdogTimedOut
    | RunAborted
    | RunRestarted
    | IncidentLabelled
    | ShardWritten
    | RunFinished
)
