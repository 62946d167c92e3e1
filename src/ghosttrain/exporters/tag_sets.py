"""What the training frameworks tell their trackers: tags, axes, and when, by their own sources.

- megatron: NVIDIA/Megatron-LM, megatron/training/training.py, training_log and
  evaluate_and_print_results;
- torchtitan: pytorch/torchtitan, torchtitan/components/metrics.py;
- hf: huggingface/transformers, trainer.py, trainer_utils.py, integrations/integration_utils.py;
- nemo: NVIDIA/NeMo, nemo/lightning/pytorch; Lightning-AI, loggers and loops/fit_loop.py.

What a framework's log says too is said by the same formulas (see `dialects`). Left out is what no
state stands behind: the largest loss among the ranks, times of the data loader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ghosttrain.core.events import (
    Event,
    Phase,
    PhaseStarted,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
)
from ghosttrain.core.laws.loss_scale import loss_scale
from ghosttrain.core.plan import MAX_STEPS, Plan
from ghosttrain.core.run import Run
from ghosttrain.core.spec import LOW_PRECISIONS
from ghosttrain.core.units import TERA
from ghosttrain.exporters.dialects.hf_history import Entry, TrainerHistory
from ghosttrain.exporters.dialects.launches import launch_of
from ghosttrain.exporters.dialects.megatron_model import flops_per_step
from ghosttrain.exporters.dialects.megatron_words import perplexity
from ghosttrain.exporters.dialects.torchtitan_facts import TitanFacts
from ghosttrain.exporters.dialects.torchtitan_start import metrics_begin_s
from ghosttrain.exporters.scalars import (
    F64,
    I64,
    IntervalLog,
    Intervals,
    Scalars,
    TagSet,
    block,
    moment,
)

Framework = Literal["megatron", "torchtitan", "hf", "nemo"]
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)


def framework_of(plan: Plan) -> Framework:
    """The framework whose tags suit a run: who shards everything trains as torchtitan does."""
    return "torchtitan" if plan.layout.sharding == "fsdp" else "megatron"


def tag_set(framework: Framework, run: Run, every: int) -> TagSet:
    """What a framework tells, with `every` steps between two of its log steps."""
    match framework:
        case "megatron":
            return MegatronTags(run, every)
        case "torchtitan":
            return TorchtitanTags(run, every)
        case "hf":
            return HfTags(run, every)
        case "nemo":
            return NemoTags(run, every)


def metrics_rank(framework: Framework, plan: Plan) -> int:
    """The rank that writes: Megatron's last, torchtitan's first that has the loss, else 0."""
    layout = plan.layout
    match framework:
        case "megatron":
            return layout.world_size - 1
        case "torchtitan":
            stages = layout.pipeline_parallel
            return layout.world_size // stages * (stages - 1)
        case "hf" | "nemo":
            return 0


class MegatronTags:
    """Every step, each value twice: over iterations, and over consumed samples.

    A step whose loss is no number is skipped: of it neither loss nor norm are told. Iteration time
    and throughput (as with --log-timers-to-tensorboard and --log-throughput) are means over the
    log interval, whose clock stands still during validations and saves; FLOPs are by Megatron's own
    formula, as in its log.
    """

    def __init__(self, run: Run, every: int) -> None:
        recipe = run.spec.recipe
        self.steps_back = 2 * every
        self._samples = recipe.global_batch_size
        self._precision = recipe.precision
        self._tflop_per_gpu = flops_per_step(run.plan) / run.spec.cluster.gpus / TERA
        self._log = IntervalLog(every)

    def accept(self, event: Event) -> Sequence[Scalars]:
        """What `event` adds."""
        match event:
            case TrainingStarted():
                self._log.launched(event.time_s)
            case StepsCompleted():
                return self._steps(event)
            case ValidationCompleted():
                return self._validation(event)
        return ()

    def _steps(self, event: StepsCompleted) -> list[Scalars]:
        samples = event.step * self._samples
        ones = np.ones(len(event.step))
        columns: dict[str, F64 | I64] = {
            "learning-rate": event.learning_rate,
            "batch-size": self._samples * ones,
            "lm loss": event.loss,
            "loss-scale": loss_scale(self._precision, event.step),
            "grad-norm": event.grad_norm,
        }
        twins = {f"{tag} vs samples": column for tag, column in columns.items()}
        told = [
            block(event.step, event.end_s, columns, nan_is_absent=True),
            block(samples, event.end_s, twins, nan_is_absent=True),
        ]
        if logged := self._log.accept(event):
            time_s = logged.mean(logged.steps.step_time_s)
            rates = {"iteration-time": time_s, "throughput": self._tflop_per_gpu / time_s}
            told.append(block(logged.step, logged.end_s, rates))
        return told

    def _validation(self, event: ValidationCompleted) -> list[Scalars]:
        values = {
            "lm loss validation": event.loss,
            "lm loss validation ppl": perplexity(event.loss),
        }
        twins = {f"{tag} vs samples": value for tag, value in values.items()}
        return [
            moment(event.step, event.time_s, values),
            moment(event.step * self._samples, event.time_s, twins),
        ]


class TorchtitanTags:
    """At step 1 and every log step: losses of that step, rates since the last one.

    The rates' clock runs from when a launch has set up its metrics, on through checkpoints, and is
    set back by a validation. MFU is against torchtitan's own table of peaks, and not told where
    the matrices are multiplied in 8 bits or less.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.steps_back = 2 * every
        self._run, self._every = run, every
        self._facts = TitanFacts.of(run.plan, run.output_path)
        recipe = run.spec.recipe
        self._tokens, self._gpus = recipe.tokens_per_step, run.spec.cluster.gpus
        self._has_mfu = recipe.precision not in LOW_PRECISIONS
        self._first_step = 0
        self._log = IntervalLog(every, first_too=True)

    def accept(self, event: Event) -> Sequence[Scalars]:
        """What `event` adds."""
        match event:
            case TrainingStarted():
                launch = launch_of(self._run.timeline, self._run.plan, event.attempt)
                self._log.launched(metrics_begin_s(launch))
                self._first_step = launch.step
            case StepsCompleted():
                logged = self._log.accept(event)
                return [self._steps(logged)] if logged else ()
            case ValidationCompleted():
                return [self._validation(event)]
        return ()

    def _steps(self, logged: Intervals) -> Scalars:
        at, zeros, facts = logged.ends, np.zeros(len(logged.ends)), self._facts
        tps = logged.timed * self._tokens / (logged.elapsed_s * self._gpus)
        flops = facts.flops_per_token * tps
        columns: dict[str, F64 | I64] = {
            "loss_metrics/global_avg_loss": logged.steps.loss[at],
            "grad_norm": logged.steps.grad_norm[at],
            "throughput(tps)": tps,
            "tflops": flops / TERA,
        }
        if self._has_mfu:
            columns["mfu(%)"] = 100 * flops / facts.peak_flops
        columns["time_metrics/end_to_end(s)"] = logged.elapsed_s / self._every
        memory = [self._memory(step) for step in logged.step.tolist()]
        columns |= {tag: np.array([row[tag] for row in memory]) for tag in memory[0]}
        columns |= {"memory/num_alloc_retries": zeros, "memory/num_ooms": zeros}
        columns["lr"] = logged.steps.learning_rate[at]
        return block(logged.step, logged.end_s, columns)

    def _memory(self, step: int) -> dict[str, float]:
        """The most that was in use since the last time."""
        reserved_gib = self._facts.reserved_gib(step, self._first_step)
        active_gib = min(self._facts.stage.allocated_gib, reserved_gib)
        return {
            "memory/max_active(GiB)": active_gib,
            "memory/max_active(%)": self._facts.pct(active_gib),
            "memory/max_reserved(GiB)": reserved_gib,
            "memory/max_reserved(%)": self._facts.pct(reserved_gib),
        }

    def _validation(self, event: ValidationCompleted) -> Scalars:
        """Its tokens count with those of the steps since the last log step."""
        tokens = self._log.waiting * self._tokens + event.tokens
        tps = tokens / ((event.time_s - self._log.since_s) * self._gpus)
        self._log.reset_clock(event.time_s)
        values = {"loss": event.loss, "throughput(tps)": tps, **self._memory(event.step)}
        told = {f"validation_metrics/{tag}": value for tag, value in values.items()}
        return moment(event.step, event.time_s, told)


class HfTags:
    """What the Trainer logs (see `hf_history`), keys of evaluations under `eval/`."""

    steps_back = MAX_STEPS  # its last entry has the mean loss of the whole launch

    def __init__(self, run: Run, every: int) -> None:
        self._history = TrainerHistory(run.plan, run.timeline, every)

    def accept(self, event: Event) -> Sequence[Scalars]:
        """What `event` adds."""
        match event:
            case StepsCompleted():
                return [
                    _entry(entry, float(event.end_s[entry.step - int(event.step[0])]))
                    for entry in self._history.steps(event)
                ]
            case ValidationCompleted():
                return [_entry(self._history.validation(event), event.time_s)]
            case PhaseStarted(phase=Phase.EXPORT):
                return [_entry(self._history.end(event.attempt, event.time_s), event.time_s)]
        return ()


def _entry(entry: Entry, time_s: float) -> Scalars:
    """An entry of the history by the tags that TensorBoardCallback makes of its keys."""
    values = {
        key.replace("eval_", "eval/", 1) if key.startswith("eval_") else f"train/{key}": value
        for key, value in entry.logged.items()
    }
    return moment(entry.step, time_s, values)


class NemoTags:
    """Every `log_every_n_steps`, on Lightning's axis: batches that stepped before this one.

    To NeMo all of a run is one epoch.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.steps_back = 2 * every
        self._samples, self._log = run.spec.recipe.global_batch_size, IntervalLog(every)

    def accept(self, event: Event) -> Sequence[Scalars]:
        """What `event` adds."""
        match event:
            case TrainingStarted():
                self._log.launched(event.time_s)
            case StepsCompleted():
                logged = self._log.accept(event)
                return [self._steps(logged)] if logged else ()
            case ValidationCompleted():
                return [moment(event.step, event.time_s, {"val_loss": event.loss, "epoch": 0.0})]
        return ()

    def _steps(self, logged: Intervals) -> Scalars:
        at, step, zeros = logged.ends, logged.step - 1, np.zeros(len(logged.ends))
        columns: dict[str, F64 | I64] = {
            "lr": logged.steps.learning_rate[at],
            "global_batch_size": zeros + self._samples,
            "global_step": step,
            "reduced_train_loss": logged.steps.loss[at],
            "train_step_timing in s": logged.steps.step_time_s[at],
            "consumed_samples": logged.step * self._samples,
            "grad_norm": logged.steps.grad_norm[at],
            "epoch": zeros,
        }
        return block(step, logged.end_s, columns)
