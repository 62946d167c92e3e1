"""trainer_state.json, as Hugging Face's Trainer leaves it behind (transformers 5).

One JSON object, keys sorted, two spaces of indent (src/transformers/trainer_callback.py,
TrainerState.save_to_json). Its log_history has what the `hf` log shows, unrounded; a launch that
goes on from a checkpoint goes on with the history of that checkpoint. Numbers that are none are
`NaN`, which Python's json writes and reads though JSON has no such word. Best is the validation
with the least loss. It is known when the run is over, so the file is made then; of a window it has
what was seen there.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ghosttrain.core.events import (
    Event,
    Phase,
    PhaseStarted,
    RunRestarted,
    StepsCompleted,
    ValidationCompleted,
)
from ghosttrain.exporters.dialects.hf_history import Entry, TrainerHistory

if TYPE_CHECKING:
    from ghosttrain.exporters.writing import Asked


class TrainerStateWriter:
    """Follows a run and writes the state it ends in."""

    def __init__(self, asked: Asked) -> None:
        run = asked.run
        self._plan, self._folder, self._every = run.plan, run.output_path, asked.log_interval
        self._history = TrainerHistory(run.plan, run.timeline, asked.log_interval)
        self._entries: list[Entry] = []
        self._best: list[tuple[int, float]] = []  # each better than the one before

    def accept(self, event: Event) -> bytes:
        """Nothing yet: what it logs is kept."""
        match event:
            case StepsCompleted():
                self._entries += self._history.steps(event)
            case ValidationCompleted():
                self._entries.append(self._history.validation(event))
                if event.improved and not math.isnan(event.loss):
                    self._best.append((event.step, self._entries[-1].values["eval_loss"]))
            case RunRestarted():
                self._entries = [entry for entry in self._entries if entry.step <= event.step]
                self._best = [best for best in self._best if best[0] <= event.step]
                self._history.step = event.step
            case PhaseStarted(phase=Phase.EXPORT):
                self._entries.append(self._history.end(event.attempt, event.time_s))
        return b""

    def close(self) -> bytes:
        """The file."""
        return (json.dumps(self._state(), indent=2, sort_keys=True) + "\n").encode()

    def _state(self) -> dict[str, Any]:
        recipe, step = self._plan.spec.recipe, self._history.step
        best_step, best_loss = self._best[-1] if self._best else (None, None)
        evaluated = recipe.validation_interval_steps or recipe.steps_per_epoch
        return {
            "best_global_step": best_step,
            "best_metric": best_loss,
            "best_model_checkpoint": best_step and f"{self._folder}/checkpoint-{best_step}",
            "epoch": self._history.epoch(step) if step else 0.0,
            "eval_steps": evaluated,
            "global_step": step,
            "is_hyper_param_search": False,
            "is_local_process_zero": True,
            "is_world_process_zero": True,
            "log_history": [{**entry.logged, "step": entry.step} for entry in self._entries],
            "logging_steps": self._every,
            "max_steps": recipe.total_steps,
            "num_input_tokens_seen": 0,  # include_num_input_tokens_seen is off
            "num_train_epochs": recipe.epochs,
            "save_steps": recipe.checkpoint_interval_steps or evaluated,
            "stateful_callbacks": {"TrainerControl": self._control(step)},
            "total_flos": self._history.total_flos(step),
            "train_batch_size": self._plan.layout.micro_batch_size,
            "trial_name": None,
            "trial_params": None,
        }

    def _control(self, step: int) -> dict[str, Any]:
        """What the Trainer's control has said at the last save."""
        args = {
            "should_epoch_stop": False,
            "should_evaluate": False,
            "should_log": False,
            "should_save": True,
            "should_training_stop": step >= self._plan.spec.recipe.total_steps,
        }
        return {"args": args, "attributes": {}}


def trainer_state_file(asked: Asked) -> TrainerStateWriter:
    """What makes trainer_state.json."""
    return TrainerStateWriter(asked)
