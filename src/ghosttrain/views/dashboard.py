"""Dashboard: a sink that keeps what a screen needs of a run, and nothing else."""

from __future__ import annotations

from collections import deque
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import (
    AllReduceTested,
    CheckpointSaved,
    EpochCompleted,
    Event,
    FaultOccurred,
    FleetSampled,
    FleetSamples,
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
    Summary,
    TrainingStarted,
    ValidationCompleted,
    WarningRaised,
    WatchdogTimedOut,
)
from ghosttrain.views.renderables.bars import Progress
from ghosttrain.views.renderables.fault_lines import message_level
from ghosttrain.views.renderables.glyphs import UNICODE, Glyphs
from ghosttrain.views.renderables.init_lines import weights_label
from ghosttrain.views.renderables.numbers import duration
from ghosttrain.views.renderables.run_card import RunCard

Incident = (
    WarningRaised | FaultOccurred | MessageLogged | WatchdogTimedOut | RunAborted | RunRestarted
)

INCIDENTS_KEPT = 200
HISTORY_KEPT = 4096  # points of the loss curve, at least half of them used once it is long
_RECENT_POINTS = 64  # of the history: their largest loss sets the width of the column

_PHASE_LABELS = {
    Phase.TOKENIZER: "Loading tokenizer",
    Phase.DATASET: "Preparing dataset",
    Phase.GPUS: "Detecting GPUs",
    Phase.ALL_REDUCE_TEST: "All-reduce test",
    Phase.VALIDATION: "Validation",
    Phase.CHECKPOINT: "Saving checkpoint",
    Phase.HANG: "Hang, watchdog",
    Phase.DOWN: "Down, restarting",
    Phase.EXPORT: "Exporting model",
}


class LossHistory:
    """The loss curve, thinned: steps that are multiples of a stride that doubles when full.

    Which steps are kept does not depend on how they were batched.
    """

    def __init__(self) -> None:
        self.stride = 1
        self._count = 0
        self._step = np.empty(HISTORY_KEPT, np.int64)
        self._loss = np.empty(HISTORY_KEPT, np.float64)

    @property
    def step(self) -> NDArray[np.int64]:
        """Steps kept, increasing."""
        return self._step[: self._count]

    @property
    def loss(self) -> NDArray[np.float64]:
        """Their losses."""
        return self._loss[: self._count]

    def add(self, step: NDArray[np.int64], loss: NDArray[np.float64]) -> None:
        """Keep what the stride keeps of consecutive steps; steps done again replace the old."""
        self._count = int(np.searchsorted(self.step, step[0]))
        while True:
            due = step % self.stride == 0
            wanted = int(np.count_nonzero(due))
            if self._count + wanted <= HISTORY_KEPT:
                break
            self.stride *= 2
            kept = self.step % self.stride == 0
            step_kept, loss_kept = self.step[kept], self.loss[kept]
            self._count = step_kept.size
            self._step[: self._count], self._loss[: self._count] = step_kept, loss_kept
        stop = self._count + wanted
        self._step[self._count : stop], self._loss[self._count : stop] = step[due], loss[due]
        self._count = stop


class Dashboard:
    """The latest of a run.

    Attributes:
        card: The run's constants, None before RunStarted.
        time_s: Run time of the newest value.
        phase: What the run is doing.
        phase_start_s, phase_expected_s: Since when, and for how long as planned.
        attempt: Number of the launch.
        step: Last completed step.
        training: Whether steps have begun in this run.
        loss, grad_norm, learning_rate, tokens_per_s, mfu, step_time_s, eta_s: Of that step.
        fleet: The newest samples of the GPUs (draw the last of them).
        gpus_detected: Ranks that have reported their GPUs in this attempt.
        history: The loss curve, thinned.
        incidents: The newest warnings, faults and errors logged, oldest first.
        validation: The newest validation.
        summary: What the run came to, once it is over.
    """

    def __init__(self, glyphs: Glyphs = UNICODE) -> None:
        self._glyphs = glyphs
        self._clear()

    def _clear(self) -> None:
        self.card: RunCard | None = None
        self.time_s = 0.0
        self.phase = Phase.WEIGHTS
        self.phase_start_s = self.phase_expected_s = 0.0
        self.attempt, self.step = 1, 0
        self.training = False
        self.loss = self.grad_norm = self.learning_rate = 0.0
        self.tokens_per_s = self.mfu = self.step_time_s = 0.0
        self.eta_s = 0.0
        self._eta_at_s = 0.0
        self._stepped_in = 1  # the newest launch that has completed a step
        self.fleet: FleetSamples | None = None
        self.gpus_detected = 0
        self.history = LossHistory()
        self.incidents: deque[Incident] = deque(maxlen=INCIDENTS_KEPT)
        self.validation: ValidationCompleted | None = None
        self.summary: Summary | None = None

    def accept(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case StepsCompleted():
                self._take_steps(event)
                return
            case RunStarted():
                self._clear()
                self.card = RunCard.of(event, self._glyphs)
            case PhaseStarted():
                self._take_phase(event)
            case PhaseEnded():
                pass
            case GpusDetected():
                self.gpus_detected = event.first_rank + event.count
            case TrainingStarted():
                self.phase, self.phase_start_s = Phase.TRAINING, event.time_s
                self.attempt, self.step, self.training = event.attempt, event.step, True
            case FleetSampled():
                self.fleet = event.samples
            case ValidationCompleted():
                self.validation = event
            case RunFinished():
                self.phase, self.summary = Phase.DONE, event.summary
            case RunRestarted():
                self.incidents.append(event)
                self.attempt, self.step = event.attempt, event.step
                self.eta_s += event.lost_steps * self.step_time_s
            case WarningRaised() | FaultOccurred() | WatchdogTimedOut() | RunAborted():
                self.incidents.append(event)
            case MessageLogged():
                if message_level(event) == "ERROR":
                    self.incidents.append(event)
            case (
                AllReduceTested()
                | EpochCompleted()
                | CheckpointSaved()
                | IncidentLabelled()
                | ShardWritten()
            ):
                pass
            case _ as never:
                assert_never(never)
        self.time_s = event.time_s

    def close(self) -> None:
        """Nothing is held."""

    def _take_phase(self, event: PhaseStarted) -> None:
        self.phase, self.phase_start_s = event.phase, event.time_s
        self.phase_expected_s = event.expected_s
        self.attempt, self.step = event.attempt, event.step
        if event.phase is Phase.WEIGHTS:
            self.gpus_detected = 0

    def _take_steps(self, event: StepsCompleted) -> None:
        self.phase, self.training = Phase.TRAINING, True
        self.attempt, self.step = event.attempt, int(event.step[-1])
        self._stepped_in = event.attempt
        self.time_s = float(event.end_s[-1])
        self.loss, self.grad_norm = float(event.loss[-1]), float(event.grad_norm[-1])
        self.learning_rate = float(event.learning_rate[-1])
        self.tokens_per_s, self.mfu = float(event.tokens_per_s[-1]), float(event.mfu[-1])
        self.step_time_s = float(event.step_time_s[-1])
        self.eta_s, self._eta_at_s = float(event.eta_s[-1]), self.time_s
        if event.fleet is not None:
            self.fleet = event.fleet
        self.history.add(event.step, event.loss)

    @property
    def epoch(self) -> int:
        """The epoch in progress (1, 2, ...), that of the last step between epochs."""
        assert self.card is not None
        return max(1, -(-self.step // self.card.steps_per_epoch))

    def progress(self, now_s: float | None = None) -> Progress | None:
        """What the bars show at run time `now_s`, or at the newest value's; None before a run."""
        card = self.card
        if card is None:
            return None
        now = self.time_s if now_s is None else max(now_s, self.time_s)
        epoch = self.epoch
        label, frac, detail = self._phase_at(card, now)
        recent = self.history.loss[-_RECENT_POINTS:]
        recent = recent[np.isfinite(recent)]
        return Progress(
            epoch=epoch,
            epochs=card.spec.recipe.epochs,
            step_in_epoch=self.step - (epoch - 1) * card.steps_per_epoch,
            steps_per_epoch=card.steps_per_epoch,
            run_frac=self.step / max(1, card.total_steps),
            loss=self.loss,
            learning_rate=self.learning_rate,
            grad_norm=self.grad_norm,
            mfu=self.mfu,
            tokens_per_s=self.tokens_per_s,
            samples_per_s=self.tokens_per_s / card.spec.recipe.seq_len,
            elapsed_s=now,
            eta_s=self._eta_at(now),
            tokens_width=card.tokens_width,
            widest_loss=float(recent.max()) if recent.size else 0.0,
            phase=label,
            phase_frac=frac,
            phase_detail=detail,
            training=self.training,
        )

    def _eta_at(self, now_s: float) -> float:
        """Time to go: it runs down between steps, not while the run is held up."""
        if self.phase in (Phase.HANG, Phase.DOWN) or self._stepped_in != self.attempt:
            return self.eta_s
        return max(0.0, self.eta_s - (now_s - self._eta_at_s))

    def _phase_at(self, card: RunCard, now_s: float) -> tuple[str, float, str]:
        """Label, share and detail of the phase in progress; no label while steps go on."""
        phase, expected = self.phase, self.phase_expected_s
        if phase in (Phase.TRAINING, Phase.DONE):
            return "", 0.0, ""
        if phase is Phase.WEIGHTS:
            label = weights_label(card, self.attempt, self.step)
        elif phase is Phase.NCCL:
            label = f"Starting {card.collectives_name}"
        else:
            label = _PHASE_LABELS[phase]
        spent = now_s - self.phase_start_s
        frac = min(0.99, spent / expected) if expected > 0 else 0.0
        if phase is Phase.GPUS:
            return label, frac, f"{self.gpus_detected:,}/{card.gpus:,}"
        return label, frac, f"{duration(max(0.0, expected - spent))} left"
