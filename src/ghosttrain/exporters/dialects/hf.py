"""The output of a training script around Hugging Face's Trainer, as rank 0 prints it.

The formats are those of transformers 5 (`hf`) and of transformers 4.57 (`hf-v4`):
src/transformers/trainer.py, trainer_callback.py, trainer_utils.py, modeling_utils.py; with
log_level="info", and the library's own handler, which puts nothing before a line. What is logged
stands as a dict on a line of its own (ProgressCallback writes it past its bar). In 5 every number
is a string of four significant digits; in 4.57 it is Python's repr, loss rounded to 4 decimals
and epoch to 2. The bar itself is not here: it is redrawn on stderr and no line.

`hf_history` says how each value is defined, and what a log that begins in mid-run makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ghosttrain.core.events import (
    CheckpointSaved,
    Event,
    MessageLogged,
    Phase,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.units import GB
from ghosttrain.exporters.dialects.hf_history import Entry, TrainerHistory
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.dialects.rank_zero_log import RankZeroLog

if TYPE_CHECKING:
    from ghosttrain.exporters.writing import Asked

_SITE = "/opt/venv/lib/python3.12/site-packages"
_TRAINER = f"{_SITE}/transformers/trainer.py"
PROGRAM = Program(
    name="run_clm.py",
    main=(
        ("/workspace/run_clm.py", 701, "<module>", "main()"),
        (
            "/workspace/run_clm.py",
            639,
            "main",
            "train_result = trainer.train(resume_from_checkpoint=checkpoint)",
        ),
        (_TRAINER, 2325, "train", "return inner_training_loop("),
    ),
    step=(
        (
            _TRAINER,
            2674,
            "_inner_training_loop",
            "tr_loss_step = self.training_step(model, inputs, num_items_in_batch)",
        ),
        (_TRAINER, 4071, "training_step", "self.accelerator.backward(loss, **kwargs)"),
    ),
    load=(
        (
            _TRAINER,
            2519,
            "_inner_training_loop",
            "self._load_optimizer_and_scheduler(resume_from_checkpoint)",
        ),
        (
            f"{_SITE}/accelerate/utils/fsdp_utils.py",
            283,
            "load_fsdp_optimizer",
            "dist_cp.load(",
        ),
    ),
    save=(
        (
            _TRAINER,
            2755,
            "_inner_training_loop",
            "self._maybe_log_save_evaluate(",
        ),
        (_TRAINER, 3228, "_maybe_log_save_evaluate", "self._save_checkpoint(model, trial)"),
        (f"{_SITE}/accelerate/utils/fsdp_utils.py", 149, "save_fsdp_model", "dist_cp.save("),
    ),
    data=(
        (
            _TRAINER,
            2621,
            "_inner_training_loop",
            "batch_samples, num_items_in_batch = self.get_batch_samples(",
        ),
        (_TRAINER, 5510, "get_batch_samples", "batch_samples.append(next(epoch_iterator))"),
    ),
    shard="checkpoint-{step}/pytorch_model_fsdp_0/__{rank}_0.distcp",
)
_THANKS = "Training completed. Do not forget to share your model on huggingface.co/models =)"


class HfLog(RankZeroLog):
    """Turns the events of a run into the Trainer's output.

    Args:
        asked: What a user wants.
        version: Of transformers: 4 or 5.
    """

    program = PROGRAM

    def __init__(self, asked: Asked, version: int) -> None:
        super().__init__(asked)
        run = asked.run
        self._folder = run.output_path
        self._is_v4 = version == 4
        self._history = TrainerHistory(run.plan, run.timeline, asked.log_interval)

    def lines(self, event: Event) -> Iterator[str]:
        """The lines that `event` adds."""
        match event:
            case StepsCompleted():
                for entry in self._history.steps(event):
                    yield self._dict(entry)
            case PhaseStarted():
                yield from self._phase(event)
            case TrainingStarted():
                yield from self._training(event)
            case ValidationCompleted():
                yield self._dict(self._history.validation(event))
            case CheckpointSaved():
                yield from self._saved(f"{self._folder}/checkpoint-{event.step}")
            case PhaseEnded(phase=Phase.EXPORT):
                yield from self._saved(f"{self._folder}/final")
            case MessageLogged() | WatchdogTimedOut() | RunFinished():
                yield from self.job(event)

    def _dict(self, entry: Entry) -> str:
        logged = {key: value for key, value in entry.logged.items() if key != "total_flos"}
        if not self._is_v4:
            return str({key: f"{value:.4g}" for key, value in logged.items()})
        if "loss" in logged:
            logged["loss"] = round(logged["loss"], 4)
        logged["epoch"] = round(logged["epoch"], 2)
        return str(logged)

    def _phase(self, event: PhaseStarted) -> Iterator[str]:
        match event.phase:
            case Phase.WEIGHTS if event.step:
                yield self.loading(event.step, event.time_s)
            case Phase.VALIDATION:
                tokens = self._plan.spec.recipe.validation_tokens
                samples, _ = self._history.validation_size(tokens)
                yield from ("", "***** Running Evaluation *****")
                yield f"  Num examples = {samples}"
                yield f"  Batch size = {self._plan.layout.micro_batch_size}"
            case Phase.CHECKPOINT:
                yield f"Saving model checkpoint to {self._folder}/checkpoint-{event.step}"
            case Phase.EXPORT:
                yield from ("", "", _THANKS, "", "")
                yield self._dict(self._history.end(event.attempt, event.time_s))
                yield f"Saving model checkpoint to {self._folder}/final"

    def loading(self, step: int, time_s: float) -> str:
        """The line before it is read."""
        del time_s
        return f"Loading model from {self._folder}/checkpoint-{step}."

    def _training(self, event: TrainingStarted) -> Iterator[str]:
        """The block before the first step."""
        recipe, layout = self._plan.spec.recipe, self._plan.layout
        batch = "Total train batch size (w. parallel, distributed & accumulation)"
        yield "***** Running training *****"
        yield f"  Num examples = {recipe.steps_per_epoch * recipe.global_batch_size:,}"
        yield f"  Num Epochs = {recipe.epochs:,}"
        yield f"  Instantaneous batch size per device = {layout.micro_batch_size:,}"
        yield f"  {batch} = {recipe.global_batch_size:,}"
        yield f"  Gradient Accumulation steps = {layout.micro_batches}"
        yield f"  Total optimization steps = {recipe.total_steps:,}"
        yield f"  Number of trainable parameters = {self._plan.params.total:,}"
        if event.step:
            yield from self._continued(event.step)

    def _continued(self, step: int) -> Iterator[str]:
        """What it says behind the block of a launch that goes on from a checkpoint."""
        epochs, steps = divmod(step, self._plan.spec.recipe.steps_per_epoch)
        batches = steps * self._plan.layout.micro_batches
        yield "  Continuing training from checkpoint, will skip to saved global_step"
        yield f"  Continuing training from epoch {epochs}"
        yield f"  Continuing training from global step {step}"
        yield (
            f"  Will skip the first {epochs} epochs then the first {batches} batches in the first"
            " epoch."
        )

    def _saved(self, folder: str) -> Iterator[str]:
        """The files of a saved model (PreTrainedModel.save_pretrained, and the tokenizer's)."""
        yield f"Configuration saved in {folder}/config.json"
        yield f"Configuration saved in {folder}/generation_config.json"
        name, limit_gb = ("5GB", 5) if self._is_v4 else ("50GB", 50)
        if self._plan.export_bytes <= limit_gb * GB:
            yield f"Model weights saved in {folder}/model.safetensors"
        else:
            shards = -(-self._plan.export_bytes // (limit_gb * GB))
            if self._is_v4:
                shards = len(self._plan.shard_bytes)
            yield (
                f"The model is bigger than the maximum size per checkpoint ({name}) and is going"
                f" to be split in {shards} checkpoint shards. You can find where each parameters"
                f" has been saved in the index located at {folder}/model.safetensors.index.json."
            )
        yield f"tokenizer config file saved in {folder}/tokenizer_config.json"
        if self._is_v4:
            yield f"Special tokens file saved in {folder}/special_tokens_map.json"


def hf_log(asked: Asked) -> HfLog:
    """What makes the log of transformers 5."""
    return HfLog(asked, version=5)


def hf_v4_log(asked: Asked) -> HfLog:
    """What makes the log of transformers 4.57."""
    return HfLog(asked, version=4)
