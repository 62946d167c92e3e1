"""What has been seen of the run so far: all an invariant may look back on.

Bounded: of losses only those that a restart could replay, and never more than a million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from ghosttrain.checking.observations import (
    F64,
    I64,
    CollectiveBlock,
    Facts,
    FactsLearnt,
    FleetBlock,
    Observation,
    RunBegan,
    Seen,
    StepBlock,
    Unreadable,
    Value,
)

MOST_LOSSES = 1_000_000
MOST_VALIDATIONS = 10_000
MOST_EPOCHS = 1_000  # a restart may go back over
PACE_STEPS = 64  # recent steps whose median time is the present pace
ETA_SAMPLES = 64
INIT_PHASES = ("weights", "tokenizer", "dataset", "nccl", "gpus", "all_reduce_test")


@dataclass(slots=True)
class Validation:
    """A validation's step and loss, and the best loss before it."""

    step: int
    loss: Value
    best_before: Value


@dataclass(slots=True)
class Booked:
    """Run time by what it went to, seconds; `pending` are steps not yet in a checkpoint."""

    init: float = 0.0
    steps: float = 0.0
    pending: float = 0.0
    lost: float = 0.0
    validation: float = 0.0
    checkpoint: float = 0.0
    down: float = 0.0
    export: float = 0.0


@dataclass(slots=True)
class History:
    """The run so far.

    Attributes:
        blind: A line could not be read since the last step row: what follows need not follow on.
        has_holes: A line of this run could not be read: sums over all rows are not to be had.
        idle_since: When the last step, phase or launch ended; the next begins there.
        step: The last completed step, None while unknown (a log that begins in mid-run).
        saved_step: Step of the last checkpoint, 0 for the run's beginning.
        last: Columns of the last step row.
    """

    facts: Facts = field(default_factory=Facts)
    line: int = 0
    runs: int = 0
    steps_seen: int = 0
    began: Value | None = None
    is_open: bool = False
    interrupted: bool = False
    blind: bool = False
    has_holes: bool = False
    time: Value | None = None
    idle_since: Value | None = None
    attempt: int | None = None
    step: int | None = None
    saved_step: int | None = None
    last: dict[str, Value] = field(default_factory=dict)
    log_interval: int | None = None
    first_steps: list[int] = field(default_factory=list)
    phase: Observation | None = None
    phases_ended: list[str] = field(default_factory=list)
    last_phase_s: Value | None = None
    expected_s: dict[str, float] = field(default_factory=dict)
    ranks_detected: int | None = None
    pace: list[float] = field(default_factory=list)
    eta_samples: list[tuple[int, Value, int]] = field(default_factory=list)
    losses: list[tuple[I64, F64, F64]] = field(default_factory=list)
    losses_kept: int = 0
    equal_losses: int = 0
    lowest_loss: float = math.inf
    lowest_count: int = 0
    highest_memory_gib: Value | None = None
    util_sum: float = 0.0
    power_sum: float = 0.0
    samples_in_training: int = 0
    memory_now: F64 | None = None
    collective: Value | None = None
    epoch_sums: dict[int, tuple[float, int]] = field(default_factory=dict)
    epoch_begins: dict[int, Value] = field(default_factory=dict)
    epoch: int | None = None
    epochs_done: int = 0
    epoch_line_step: int = 0
    validations: list[Validation] = field(default_factory=list)
    validated_steps: set[int] = field(default_factory=set)
    saved_steps: set[int] = field(default_factory=set)
    best: Value = field(default_factory=lambda: Value(math.inf))
    fault: Observation | None = None
    faults: int = 0
    abort: Observation | None = None
    shards: int = 0
    shard_bytes: float = 0.0
    shard_half: float = 0.0
    booked: Booked = field(default_factory=Booked)

    @property
    def begins_here(self) -> bool:
        """Whether the log has the run from its beginning."""
        return self.began is not None

    def step_now(self, o: Observation) -> int | None:
        """The step an event names, else the last one."""
        step = o.get("step")
        return int(step.value) if step is not None else self.step

    def learn(self, seen: Seen) -> None:
        """Take in what was just seen."""
        match seen:
            case RunBegan():
                self._begin(seen)
            case FactsLearnt():
                self.facts = replace(self.facts, **seen.facts)  # type: ignore[arg-type]
            case StepBlock():
                self._steps(seen)
            case FleetBlock():
                self._fleet(seen)
            case CollectiveBlock():
                self.collective = Value(
                    float(seen["size_bytes"].value[-1]), float(seen["size_bytes"].half[-1])
                )
            case Observation():
                self._observation(seen)
            case Unreadable():
                self.blind = self.has_holes = True
                self.line = seen.line
            case _:
                return

    def _begin(self, run: RunBegan) -> None:
        fresh = History(
            facts=run.facts,
            line=run.line,
            runs=self.runs + 1,
            steps_seen=self.steps_seen,
            began=run.time if math.isfinite(run.time.value) else None,
            is_open=True,
            time=run.time,
            idle_since=run.time,
            attempt=1,
            step=0,
            saved_step=0,
            ranks_detected=0,
        )
        for name in fresh.__slots__:
            setattr(self, name, getattr(fresh, name))

    def _steps(self, block: StepBlock) -> None:
        if not self.runs:
            self.runs = 1  # a log that begins in mid-run
        self.is_open = True
        self.phase = None
        count = len(block)
        self.steps_seen += count
        self.line = int(block.line[-1])
        self.blind = False
        steps = block["step"].value.astype(np.int64)
        self.epoch_line_step = int(steps[-1])
        if self.log_interval is None and not self.facts.prints_every_step:
            self._tell_interval(steps)
        self._keep_losses(steps, block)
        self._keep_epochs(steps, block)
        for name, column in block.columns.items():
            if math.isfinite(column.value[-1]):
                self.last[name] = Value(float(column.value[-1]), float(column.half[-1]))
        if "step_time_s" in block.columns:
            times = block["step_time_s"].value
            self.booked.pending += float(np.nansum(times))
            self.pace = [*self.pace, *times[-PACE_STEPS:].tolist()][-PACE_STEPS:]
        self.step = int(steps[-1])
        if "time_s" in block.columns:
            self.time = self.idle_since = self.last["time_s"]
        if "eta_s" in block.columns and len(self.eta_samples) < ETA_SAMPLES:
            eta = block["eta_s"]
            self.eta_samples.append(
                (int(steps[-1]), Value(float(eta.value[-1]), float(eta.half[-1])), self.line)
            )

    def _tell_interval(self, steps: I64) -> None:
        """The log's interval, from the first rows of a run: 1, n, 2n, or 1, 2, 3."""
        self.first_steps = [*self.first_steps, *steps[:3].tolist()][:3]
        match self.first_steps:
            case [1, 2, third]:
                self.log_interval = third - 2
            case [1, second, *_] if second > 2:
                self.log_interval = second

    def _keep_losses(self, steps: I64, block: StepBlock) -> None:
        if "loss" not in block.columns:
            return
        loss = block["loss"].value
        self.losses.append((steps, loss, block["loss"].half))
        self.losses_kept += len(loss)
        while self.losses_kept > MOST_LOSSES:
            self.losses_kept -= len(self.losses.pop(0)[0])
        for value in loss.tolist() if len(loss) < 64 else _lowest(loss):
            if value < self.lowest_loss:
                self.lowest_loss, self.lowest_count = value, 1
            elif value == self.lowest_loss:
                self.lowest_count += 1
        same = np.flatnonzero(np.diff(loss))
        tail = len(loss) - 1 - int(same[-1]) if len(same) else len(loss)
        first = self.last.get("loss")
        goes_on = not len(same) and first is not None and first.value == loss[0]
        self.equal_losses = tail + (self.equal_losses if goes_on else 0)

    def _keep_epochs(self, steps: I64, block: StepBlock) -> None:
        per_epoch = self.facts.steps_per_epoch
        if per_epoch is None or per_epoch.value < 1 or "loss" not in block.columns:
            return
        epochs = (steps - 1) // int(per_epoch.value) + 1
        loss = block["loss"].value
        for old in [e for e in self.epoch_sums if e < int(epochs[-1]) - MOST_EPOCHS]:
            del self.epoch_sums[old]
            self.epoch_begins.pop(old, None)
        for epoch in np.unique(epochs).tolist():
            part = loss[epochs == epoch]
            total, count = self.epoch_sums.get(epoch, (0.0, 0))
            self.epoch_sums[epoch] = total + float(part.sum()), count + len(part)
        if not {"time_s", "step_time_s"} <= set(block.columns):
            return
        end, took = block["time_s"], block["step_time_s"]
        for at in np.flatnonzero((steps - 1) % int(per_epoch.value) == 0).tolist():
            began = float(end.value[at] - took.value[at])
            self.epoch_begins[int(epochs[at])] = Value(began, float(end.half[at] + took.half[at]))

    def _fleet(self, block: FleetBlock) -> None:
        self.line = max(self.line, int(block.line[-1]))
        if math.isfinite(block.time.value[-1]):
            time = Value(float(block.time.value[-1]), float(block.time.half[-1]))
            if self.time is None or time.value > self.time.value:
                self.time = time
        highest = float(block.memory_gib.max())
        if self.highest_memory_gib is None or highest > self.highest_memory_gib.value:
            self.highest_memory_gib = Value(highest, block.halves["memory_gib"])
        if self.in_training:
            self.util_sum += float(block.util_pct.mean(axis=1).sum())
            self.power_sum += float(block.power_w.mean(axis=1).sum())
            self.samples_in_training += len(block.line)
            self.memory_now = block.memory_gib[-1]

    @property
    def in_training(self) -> bool:
        """Whether no phase is open and no fault stands: steps are being done."""
        return self.phase is None and self.fault is None and bool(self.step)

    def _observation(self, o: Observation) -> None:
        if o.kind == "warning_raised" and o.get("row_step"):
            return  # of a block that is already learnt
        self.line = o.line
        if o.kind != "run_finished":
            self.is_open = True
            self.runs = self.runs or 1
        if o.time is not None:
            self.time = o.time
        match o.kind:
            case "phase_started":
                self._phase_started(o)
            case "phase_ended":
                self._phase_ended(o)
            case "gpus_detected":
                count = o.get("count")
                if count is not None and self.ranks_detected is not None:
                    self.ranks_detected += int(count.value)
            case "training_started":
                self.idle_since = o.time
                self._set_step(o)
                self.memory_now = None
            case "epoch_completed":
                epoch = o.get("epoch")
                if epoch is not None:
                    self.epochs_done = int(epoch.value)
            case "validation_completed":
                self._validated(o)
            case "checkpoint_saved":
                self._saved(o)
            case "fault_occurred":
                self._struck(o)
            case "run_aborted":
                self._aborted(o)
            case "run_restarted":
                self._restarted(o)
            case "shard_written":
                self.shards += 1
                size = o.get("size_bytes")
                self.shard_bytes += size.value if size else 0.0
                self.shard_half += size.half if size else 0.0
            case "interrupted":
                self.interrupted = True
            case "run_finished":
                self.is_open = False
            case _:
                return

    def _set_step(self, o: Observation) -> None:
        step = o.get("step")
        if step is not None:
            self.step = int(step.value)
        attempt = o.get("attempt")
        if attempt is not None:
            self.attempt = int(attempt.value)

    def _phase_started(self, o: Observation) -> None:
        if self.step is None:
            self._set_step(o)
        self.phase = o
        name = o.words.get("phase", "")
        expected = o.get("expected_s")
        if expected is not None:
            self.expected_s[name] = expected.value
        if name == INIT_PHASES[0]:
            self.phases_ended = []
            self.ranks_detected = 0
        if name == "export":
            self.shards, self.shard_bytes, self.shard_half = 0, 0.0, 0.0

    def _phase_ended(self, o: Observation) -> None:
        name = o.words.get("phase", "")
        duration = o.get("duration_s")
        self._book(name, duration.value if duration else 0.0)
        self.phases_ended.append(name)
        self.last_phase_s = duration
        self.phase = None
        self.idle_since = o.time

    def _book(self, name: str, seconds: float) -> None:
        match name:
            case "validation":
                self.booked.validation += seconds
            case "checkpoint":
                self.booked.checkpoint += seconds
            case "export":
                self.booked.export += seconds
            case "hang" | "down":
                self.booked.down += seconds
            case _ if self.attempt == 1:
                self.booked.init += seconds
            case _:
                self.booked.down += seconds

    def _validated(self, o: Observation) -> None:
        loss, step = o.get("loss"), o.get("step")
        if loss is None:
            return
        begun = self.phase.get("step") if self.phase is not None else None
        step = step or begun
        at = int(step.value) if step else self.step or 0
        self.validations.append(Validation(at, loss, self.best))
        del self.validations[:-MOST_VALIDATIONS]
        if len(self.validated_steps) < MOST_VALIDATIONS:
            self.validated_steps.add(at)
        if loss.value < self.best.value:
            self.best = loss

    def _saved(self, o: Observation) -> None:
        step = o.get("step")
        self.saved_step = int(step.value) if step else self.step
        if self.saved_step is not None and len(self.saved_steps) < MOST_VALIDATIONS:
            self.saved_steps.add(self.saved_step)
        self.booked.steps += self.booked.pending
        self.booked.pending = 0.0
        self.losses.clear()
        self.losses_kept = 0

    def _struck(self, o: Observation) -> None:
        self.fault = o
        self.faults += 1
        if o.time is None or self.idle_since is None:
            return
        cut = o.time.value - self.idle_since.value
        if self.phase is not None:
            self._book(self.phase.words.get("phase", ""), cut)
        else:
            self.booked.pending += cut
        self.phase = None
        self.idle_since = o.time

    def _aborted(self, o: Observation) -> None:
        self.abort = o
        self.booked.lost += self.booked.pending
        self.booked.pending = 0.0

    def _restarted(self, o: Observation) -> None:
        self.fault = self.abort = None
        back = o.get("step")
        to = int(back.value) if back is not None else self.saved_step or 0
        attempt = o.get("attempt")
        self.attempt = int(attempt.value) if attempt else (self.attempt or 0) + 1
        self.step = to
        self.last.pop("loss", None)
        self.equal_losses = 0
        self.memory_now = None
        while self.validations and self.validations[-1].step > to:
            self.best = self.validations.pop().best_before
        self._forget_epochs_after(to)

    def _forget_epochs_after(self, step: int) -> None:
        per_epoch = self.facts.steps_per_epoch
        if per_epoch is None or per_epoch.value < 1:
            return
        size = int(per_epoch.value)
        for epoch in [e for e in self.epoch_sums if (e - 1) * size >= step]:
            del self.epoch_sums[epoch]
            self.epoch_begins.pop(epoch, None)
        inside = step // size + 1
        if step % size and inside in self.epoch_sums:
            total, count = self.epoch_sums[inside]
            for steps, loss, _ in self.losses:
                undone = (steps > step) & ((steps - 1) // size + 1 == inside)
                total -= float(loss[undone].sum())
                count -= int(undone.sum())
            self.epoch_sums[inside] = total, count
        self.epochs_done = step // size


def _lowest(loss: F64) -> list[float]:
    """The lowest of many losses, as often as it is there."""
    low = float(loss.min())
    return [low] * int((loss == low).sum())
