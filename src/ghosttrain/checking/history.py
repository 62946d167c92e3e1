"""What has been seen of the run so far: all an invariant may look back on.

Bounded: of losses never more than a million, and those that a restart cannot replay are the
first to go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ghosttrain.checking.faults import SLOWING, Fault, FaultBook
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
from ghosttrain.core.laws.faults import LOSS_EFFECTS
from ghosttrain.core.plan import FIRST_STEPS

Mask = NDArray[np.bool_]

MOST_LOSSES = 1_000_000
MOST_VALIDATIONS = 10_000
MOST_SAVES = 10_000
MOST_EPOCHS = 1_000  # a restart may go back over
PACE_STEPS = 64  # recent steps whose median time is the present pace
ETA_SAMPLES = 64
MOST_INTERVAL = 100  # steps between rows, where a log does not tell
INIT_PHASES = ("weights", "tokenizer", "dataset", "nccl", "gpus", "all_reduce_test")
STANDSTILLS = ("hang", "down")  # what a fault puts in the place of whatever was going on


@dataclass(slots=True)
class Validation:
    """A validation's step and loss, and the best loss before it."""

    step: int
    loss: Value
    best_before: Value


@dataclass(slots=True)
class Booked:
    """Run time by what it went to, seconds.

    Attributes:
        saved: Of the steps before each checkpoint that stands, as (its step, seconds).
        pending: Of steps that are not in a checkpoint yet.
        slowed: Of steps that a fault may have slowed; those that counted are in the others too.
    """

    init: float = 0.0
    saved: list[tuple[int, float]] = field(default_factory=list)
    pending: float = 0.0
    lost: float = 0.0
    slowed: float = 0.0
    validation: float = 0.0
    checkpoint: float = 0.0
    down: float = 0.0
    export: float = 0.0

    @property
    def steps(self) -> float:
        """Of steps that are in a checkpoint."""
        return math.fsum(seconds for _, seconds in self.saved)

    def save(self, step: int) -> None:
        """What was pending is in the checkpoint of `step`."""
        self.saved.append((step, self.pending))
        self.pending = 0.0
        if len(self.saved) > MOST_SAVES:
            (_, oldest), (second, seconds) = self.saved[:2]
            self.saved[:2] = [(second, oldest + seconds)]

    def go_back(self, step: int) -> None:
        """Steps after the checkpoint of `step` are lost."""
        self.lost += self.pending
        self.pending = 0.0
        while self.saved and self.saved[-1][0] > step:
            self.lost += self.saved.pop()[1]


@dataclass(slots=True)
class Losses:
    """Losses of consecutive rows.

    Attributes:
        is_lawful: No effect of a fault may be in them, and a replay has the same batches.
        is_undone: A restart has gone back to before them.
    """

    step: I64
    loss: F64
    half: F64
    is_lawful: bool
    is_undone: bool = False


@dataclass(slots=True)
class EpochSum:
    """Losses of an epoch so far: sum and number of those that are numbers, number of others."""

    total: float = 0.0
    count: int = 0
    nan: int = 0

    def add(self, loss: F64, sign: int = 1) -> None:
        """Add losses, or take them away again."""
        known = loss[np.isfinite(loss)]
        self.total += sign * float(known.sum())
        self.count += sign * len(known)
        self.nan += sign * (len(loss) - len(known))


@dataclass(slots=True)
class History:
    """The run so far.

    Attributes:
        blind: A line could not be read since the last step row: what follows need not follow on.
        has_holes: A line of this run could not be read: sums over all rows are not to be had.
        idle_since: When the last step, phase or launch ended; the next begins there.
        step: The last completed step, None while unknown (a log that begins in mid-run).
        saves: Steps of the checkpoints that stand, in order; None while unknown.
        last: Columns of the last step row.
        is_stretched: A fault may make the phase longer than planned.
        launched_at: Step from which the last launch trains.
        furthest: The highest step that was ever done.
        asked: A checkpoint was made because somebody asked the run to end.
        hang: The standstill in which nothing moves, while it lasts and until the abort.
        lost_gpus: GPUs that did not answer in it, None where none was looked at.
        waits_for_watchdog: The standstill is one, as long as no watchdog has ended it.
        saving_said: What the trainer said of a checkpoint that takes long.
        restart: The row that told the last launch but the first.
        spoken: The first message of a rank's program in it.
        aborting: The fault that ended the launch, until the next one.
        signs_shown: What counters and marks of GPUs showed last, since the last launch.
        swapped: Nodes whose place a spare has taken.
        planned_stops_s: The most that ETA ever had for stops.
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
    saves: list[int] | None = None
    last: dict[str, Value] = field(default_factory=dict)
    log_interval: int | None = None
    first_steps: list[int] = field(default_factory=list)
    phase: Observation | None = None
    is_stretched: bool = False
    phases_ended: list[str] = field(default_factory=list)
    last_phase_s: Value | None = None
    expected_s: dict[str, float] = field(default_factory=dict)
    ranks_detected: int | None = None
    pace: list[float] = field(default_factory=list)
    eta_samples: list[tuple[int, Value, int]] = field(default_factory=list)
    losses: list[Losses] = field(default_factory=list)
    losses_kept: int = 0
    equal_losses: int = 0
    lowest_loss: float = math.inf
    lowest_count: int = 0
    furthest: int = 0
    launched_at: int = 0
    planned_stops_s: float = 0.0
    highest_memory_gib: Value | None = None
    util_sum: float = 0.0
    util_range: tuple[float, float] = (math.inf, -math.inf)
    power_sum: float = 0.0
    samples_at_pace: int = 0
    samples_in_training: int = 0
    memory_now: F64 | None = None
    collective: Value | None = None
    epoch_sums: dict[int, EpochSum] = field(default_factory=dict)
    epoch_begins: dict[int, Value] = field(default_factory=dict)
    epoch: int | None = None
    epochs_done: int = 0
    epoch_line_step: int = 0
    validations: list[Validation] = field(default_factory=list)
    validated_steps: set[int] = field(default_factory=set)
    saved_steps: set[int] = field(default_factory=set)
    best: Value = field(default_factory=lambda: Value(math.inf))
    faults: FaultBook = field(default_factory=FaultBook)
    asked: Observation | None = None
    hang: Observation | None = None
    lost_gpus: frozenset[int] | None = None
    waits_for_watchdog: bool = False
    saving_said: Observation | None = None
    restart: Observation | None = None
    spoken: Observation | None = None
    abort: Observation | None = None
    aborting: Fault | None = None
    signs_shown: dict[tuple[str, int], float] = field(default_factory=dict)
    swapped: set[int] = field(default_factory=set)
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

    @property
    def saved_step(self) -> int | None:
        """Step of the last checkpoint that stands, 0 for the run's beginning."""
        if self.saves is None:
            return None
        return self.saves[-1] if self.saves else 0

    @property
    def gone(self) -> Fault | None:
        """The fault that has taken whole nodes since the last standstill began."""
        if self.hang is None:
            return None
        return next((fault for fault in self.faults.strikers() if fault.takes_nodes), None)

    @property
    def is_standing_still(self) -> bool:
        """Whether a hang or downtime lasts."""
        return self.phase is not None and self.phase.words.get("phase") in STANDSTILLS

    @property
    def _highest_step(self) -> int | None:
        """The last completed step, as high as it may be where not every one has a row."""
        if self.step is None or self.facts.prints_every_step:
            return self.step
        return self.step + (self.log_interval or MOST_INTERVAL)

    def slowed(self, steps: F64) -> Mask:
        """Which of the steps after the last one may be longer by a fault, as a mask."""
        return np.asarray(steps <= self.faults.felt_until(*SLOWING))

    def at_pace(self, steps: F64) -> Mask:
        """Which of the steps after the last one go at the undisturbed pace, as a mask.

        The first ones of a launch are slower.
        """
        return np.asarray(~self.slowed(steps) & (steps > self.launched_at + FIRST_STEPS + 1))

    @property
    def is_slowed(self) -> bool:
        """Whether the step in progress may be longer by a fault."""
        return self.faults.felt_until(*SLOWING) > (self.step or 0)

    @property
    def is_astray(self) -> bool:
        """Whether an effect of a fault may be in the loss of the step in progress."""
        return self.faults.felt_until(*LOSS_EFFECTS) > (self.step or 0)

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
            is_open=True,
        )
        if not run.is_in_midrun:
            fresh.began = run.time if math.isfinite(run.time.value) else None
            fresh.time = fresh.idle_since = run.time
            fresh.attempt, fresh.step, fresh.saves, fresh.ranks_detected = 1, 0, [], 0
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
        self.furthest = max(self.furthest, int(steps[-1]))
        self._keep_losses(steps, block)
        self._keep_epochs(steps, block)
        for name, column in block.columns.items():
            if math.isfinite(column.value[-1]):
                self.last[name] = Value(float(column.value[-1]), float(column.half[-1]))
        if "step_time_s" in block.columns:
            times = block["step_time_s"].value
            self.booked.pending += float(np.nansum(times))
            slowed = self.slowed(steps.astype(np.float64))
            self.booked.slowed += float(np.nansum(times[slowed]))
            at_pace = times[self.at_pace(steps.astype(np.float64))][-PACE_STEPS:]
            self.pace = [*self.pace, *at_pace.tolist()][-PACE_STEPS:]
            if "eta_s" in block.columns:
                self._keep_eta(steps, block, slowed)
        self.step = int(steps[-1])
        if "time_s" in block.columns:
            self.time = self.idle_since = self.last["time_s"]

    def _keep_eta(self, steps: I64, block: StepBlock, slowed: Mask) -> None:
        """Of ETA what no fault has touched: a sample, and what it has for stops."""
        eta, total = block["eta_s"], self.facts.total_steps
        if slowed[-1] or total is None:
            return
        last = Value(float(eta.value[-1]), float(eta.half[-1]))
        if len(self.eta_samples) < ETA_SAMPLES:
            self.eta_samples.append((int(steps[-1]), last, self.line))
        if len(self.pace) >= 16:
            remaining = (total.value - int(steps[-1])) * float(np.median(self.pace))
            self.planned_stops_s = max(self.planned_stops_s, last.value - remaining)

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
        if np.isnan(loss).any():
            self.faults.saw_nan(int(steps[np.isnan(loss)][0]))
        self.losses.append(Losses(steps, loss, block["loss"].half, not self.is_astray))
        self.losses_kept += len(loss)
        while self.losses_kept > MOST_LOSSES:
            self.losses_kept -= len(self.losses.pop(0).step)
        for value in loss.tolist() if len(loss) < 64 else _lowest(loss[np.isfinite(loss)]):
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
            self.epoch_sums.setdefault(epoch, EpochSum()).add(loss[epochs == epoch])
        if not {"time_s", "step_time_s"} <= set(block.columns):
            return
        end, took = block["time_s"], block["step_time_s"]
        for at in np.flatnonzero((steps - 1) % int(per_epoch.value) == 0).tolist():
            began = float(end.value[at] - took.value[at])
            self.epoch_begins[int(epochs[at])] = Value(began, float(end.half[at] + took.half[at]))

    def _fleet(self, block: FleetBlock) -> None:
        for signs in block.signs:
            for name, values in signs.items():
                self.signs_shown |= {(name, gpu): value for gpu, value in values.items()}
        self.line = max(self.line, int(block.line[-1]))
        if math.isfinite(block.time.value[-1]):
            time = Value(float(block.time.value[-1]), float(block.time.half[-1]))
            if self.time is None or time.value > self.time.value:
                self.time = time
        highest = float(block.memory_gib.max())
        if self.highest_memory_gib is None or highest > self.highest_memory_gib.value:
            self.highest_memory_gib = Value(highest, block.halves["memory_gib"])
        if self.in_training:
            util = block.util_pct.mean(axis=1)
            self.util_sum += float(util.sum())
            lowest, highest = self.util_range
            self.util_range = min(lowest, float(util.min())), max(highest, float(util.max()))
            self.samples_in_training += len(block.line)
            self.memory_now = block.memory_gib[-1]
            at_pace = ~self.slowed(block.step.astype(np.float64))
            self.power_sum += float(block.power_w[at_pace].mean(axis=1).sum())
            self.samples_at_pace += int(at_pace.sum())
        elif self.hang is not None:
            self.lost_gpus = frozenset(block.lost[-1])

    @property
    def in_training(self) -> bool:
        """Whether no phase is open: steps are being done."""
        return self.phase is None and self.abort is None and bool(self.step)

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
                self.launched_at = self.step or 0
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
                self.faults.occurred(o, self.step_now(o))
            case "incident_labelled":
                self.faults.labelled(o, self._highest_step)
            case "message_logged":
                if o.words.get("message") == "trainer_storage_slow":
                    self.saving_said = o
                if self.waits_for_watchdog and self.spoken is None and speaks(o):
                    self.spoken = o
            case "watchdog_timed_out":
                self.waits_for_watchdog, self.spoken = False, None
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
        name = o.words.get("phase", "")
        if name in STANDSTILLS:
            self._cut(o)
        self.phase = o
        self.is_stretched = (
            name == "validation" and (self.is_slowed or self.faults.stands("slow-validation"))
        ) or (name == "checkpoint" and self.faults.stands("slow-storage"))
        if name == "hang":
            self.hang, self.lost_gpus, self.spoken = o, None, None
            self.waits_for_watchdog = True
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
        self.saving_said = None
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
        begun = self.phase.get("step") if self.phase is not None else None
        step = step or begun
        at = int(step.value) if step else self.step or 0
        if len(self.validated_steps) < MOST_VALIDATIONS:
            self.validated_steps.add(at)
        if loss is None:
            return
        self.validations.append(Validation(at, loss, self.best))
        del self.validations[:-MOST_VALIDATIONS]
        if loss.value < self.best.value:
            self.best = loss

    def _saved(self, o: Observation) -> None:
        named = o.get("step")
        step = int(named.value) if named else self.step
        if o.words.get("reason") == "asked":
            self.asked = o
        elif step is not None and len(self.saved_steps) < MOST_VALIDATIONS:
            self.saved_steps.add(step)
        if step is None:
            return
        self.saves = [*(self.saves or []), step][-MOST_SAVES:]
        self.booked.save(step)

    def _cut(self, o: Observation) -> None:
        """Whatever was going on has ended before its time."""
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
        self._cut(o)
        self.abort = o
        self.aborting = self.faults.aborted(o)
        back = o.get("checkpoint_step")
        self.saving_said = None
        self.booked.go_back(int(back.value) if back is not None else self.saved_step or 0)

    def _restarted(self, o: Observation) -> None:
        self.signs_shown = {}
        for node in map(int, o.within("nodes")):
            self.swapped.add(node)
            if (size := self.facts.gpus_per_node) is not None:
                first = int(node * size.value)
                self.faults.swapped(range(first, first + int(size.value)))
        back = o.get("step")
        to = int(back.value) if back is not None else self.saved_step or 0
        self.restart = o
        self.faults.relaunched(o, self.aborting)
        self.abort = self.aborting = self.asked = self.hang = None
        if self.saves is not None:
            self.saves = [step for step in self.saves if step <= to]
        attempt = o.get("attempt")
        self.attempt = int(attempt.value) if attempt else (self.attempt or 0) + 1
        self.step = to
        self.last.pop("loss", None)
        self.equal_losses = 0
        self.memory_now = None
        self._forget_validations_after(to)
        self.losses = [part for losses in self.losses for part in _split(losses, to)]
        self._forget_epochs_after(to)
        skipped = o.get("skipped_batches")
        for losses in self.losses:
            if losses.step[0] > to:
                losses.is_undone = True
                losses.is_lawful &= skipped is None or not skipped.value

    def _forget_validations_after(self, step: int) -> None:
        """The model is as it was at `step`, and so is the best loss."""
        while self.validations and self.validations[-1].step > step:
            self.best = self.validations.pop().best_before

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
            for losses in self.losses:
                if losses.step[0] > step and not losses.is_undone:
                    undone = (losses.step - 1) // size + 1 == inside
                    self.epoch_sums[inside].add(losses.loss[undone], -1)
        self.epochs_done = step // size


def _lowest(loss: F64) -> list[float]:
    """The lowest of many losses, as often as it is there."""
    if not len(loss):
        return []
    low = float(loss.min())
    return [low] * int((loss == low).sum())


def speaks(message: Observation) -> bool:
    """Whether a message is of the program of a rank, not of a kernel or of whoever looks on.

    That of a port of the NIC comes from a thread that only listens, while the rank waits.
    """
    text = message.words.get("message", "")
    return text.startswith(("torch_", "nccl_", "trainer_")) and text != "nccl_port_error"


def _split(losses: Losses, step: int) -> list[Losses]:
    """The losses up to `step`, and those after it."""
    parts = losses.step <= step, losses.step > step
    return [
        replace(losses, step=losses.step[part], loss=losses.loss[part], half=losses.half[part])
        for part in parts
        if part.any()
    ]
