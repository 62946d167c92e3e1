"""The Trainer's output and its state: values by transformers' definitions, read back."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ghosttrain.core.events import (
    Phase,
    PhaseStarted,
    RunRestarted,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
)
from ghosttrain.core.run import Run
from ghosttrain.exporters.dialects.hf_history import filtered_sum
from tests.exporters.dialects.cases import (
    calm,
    events_of,
    faulty,
    lines_of,
    out_of_time,
    run_of,
    text_of,
)


def entries(run: Run, every: int) -> Iterator[dict[str, float]]:
    """What Trainer.log is called with, by a loop over single steps; nothing rounded."""
    recipe, layout = run.spec.recipe, run.plan.layout
    losses: list[float] = []
    begun_s, total, done = 0.0, 0.0, 0
    for event in events_of(run):
        if isinstance(event, TrainingStarted):
            begun_s, losses, total, done = event.time_s, [], 0.0, event.step
        elif isinstance(event, StepsCompleted):
            for at, step in enumerate(event.step.tolist()):
                losses.append(float(event.loss[at]))
                total += losses[-1]
                done = step
                if step % every == 0:
                    yield {
                        "loss": sum(losses) / len(losses),
                        "grad_norm": float(event.grad_norm[at]),
                        "learning_rate": float(event.learning_rate[at]),
                        "epoch": step / recipe.steps_per_epoch,
                    }
                    losses = []
        elif isinstance(event, ValidationCompleted):
            samples = event.tokens / recipe.seq_len
            batches = math.ceil(samples / (layout.micro_batch_size * layout.data_parallel))
            yield {
                "eval_loss": event.loss,
                "eval_runtime": event.duration_s,
                "eval_samples_per_second": samples / event.duration_s,
                "eval_steps_per_second": batches / event.duration_s,
                "epoch": event.step / recipe.steps_per_epoch,
            }
        elif isinstance(event, PhaseStarted) and event.phase is Phase.EXPORT:
            took_s = event.time_s - begun_s
            yield {
                "train_runtime": took_s,
                "train_samples_per_second": recipe.total_steps * recipe.global_batch_size / took_s,
                "train_steps_per_second": recipe.total_steps / took_s,
                "train_loss": total / done,
                "epoch": done / recipe.steps_per_epoch,
            }


def dicts(run: Run, name: str, every: int) -> list[dict[str, Any]]:
    return [ast.literal_eval(t) for t in lines_of(run, name, every) if t.startswith("{")]


@pytest.mark.parametrize("every", [1, 10, 32])
@pytest.mark.parametrize("name", ["dense", "latent", "gpu-fault"])
def test_dicts_of_version_5_are_strings_of_four_digits(name, every):
    run = run_of(name)
    logged, wanted = dicts(run, "hf", every), list(entries(run, every))
    assert len(logged) == len(wanted) > 5
    for shown, values in zip(logged, wanted, strict=True):
        assert list(shown) == list(values)  # in this order
        for key, text in shown.items():
            value = values[key]
            assert text == f"{float(text):.4g}"
            assert float(text) == pytest.approx(value, rel=6e-4, abs=6e-4 if "per_s" in key else 0)


@pytest.mark.parametrize("name", ["dense", "experts", "gpu-fault"])
def test_dicts_of_version_4_are_numbers(name):
    run = run_of(name)
    for shown, values in zip(dicts(run, "hf-v4", 10), entries(run, 10), strict=True):
        assert list(shown) == list(values)
        for key, value in values.items():
            digits = {"loss": 4, "epoch": 2, "eval_runtime": 4, "train_runtime": 4}.get(key)
            if key.endswith("per_second"):
                digits = 3
            if digits is not None:
                assert shown[key] == pytest.approx(value, abs=0.5001 * 10**-digits)
                assert shown[key] == round(shown[key], digits)
            else:
                assert shown[key] == pytest.approx(value, rel=1e-7)
        if "grad_norm" in shown:
            assert shown["grad_norm"] == float(np.float32(shown["grad_norm"]))


def test_a_lost_loss_is_filtered_and_the_norm_is_not():
    run = faulty("loss-nan")
    lost = [line for line in lines_of(run, "hf", 20) if "nan" in line]
    assert len(lost) == 1
    shown = ast.literal_eval(lost[0])  # in 5 it is a string; in 4 Python's nan, which is no literal
    assert shown["grad_norm"] == "nan"
    assert shown["loss"] != "nan"
    assert [line for line in lines_of(run, "hf-v4", 20) if "'grad_norm': nan" in line]


@pytest.mark.parametrize(
    ("losses", "micro_batches", "total"),
    [
        ([3.0, 2.0], 4, 5.0),
        ([math.nan, math.nan], 4, 0.0),  # the 0.0 that people ask about
        ([3.0, math.nan], 1, 3.0 * 1.5),
        ([3.0, math.nan], 2, 3.0 * 1.5**2),
        ([3.0, 2.0, math.inf, 1.0], 1, 5.0 * (4 / 3) + 1.0),
    ],
)
def test_the_filter_is_that_of_logging_nan_inf_filter(losses, micro_batches, total):
    """By the loop of _inner_training_loop, micro-batch by micro-batch."""
    assert filtered_sum(losses, micro_batches) == pytest.approx(total)
    tr_loss = 0.0
    for global_step, loss in enumerate(losses):
        for _ in range(micro_batches):
            if math.isnan(loss) or math.isinf(loss):
                tr_loss = tr_loss + tr_loss / (1 + global_step - 0)
            else:
                tr_loss = tr_loss + loss / micro_batches
    assert filtered_sum(losses, micro_batches) == pytest.approx(tr_loss)


def test_the_block_before_training():
    run = calm("dense")
    lines = lines_of(run, "hf")
    assert lines[:8] == [
        "***** Running training *****",
        "  Num examples = 2,560",
        "  Num Epochs = 3",
        f"  Instantaneous batch size per device = {run.plan.layout.micro_batch_size}",
        "  Total train batch size (w. parallel, distributed & accumulation) = 64",
        f"  Gradient Accumulation steps = {run.plan.layout.micro_batches}",
        "  Total optimization steps = 120",
        "  Number of trainable parameters = 8,030,261,248",
    ]
    layout = run.plan.layout
    assert layout.micro_batch_size * layout.micro_batches * layout.data_parallel == 64


def test_a_launch_from_a_checkpoint_says_so():
    run = faulty("gpu-fault")
    step = next(e.step for e in events_of(run) if isinstance(e, RunRestarted))
    lines = lines_of(run, "hf")
    at = lines.index(f"Loading model from outputs/llama-3-8b/checkpoint-{step}.")
    assert lines[at + 1] == "***** Running training *****"
    assert lines[at + 9 : at + 13] == [
        "  Continuing training from checkpoint, will skip to saved global_step",
        "  Continuing training from epoch 0",
        f"  Continuing training from global step {step}",
        f"  Will skip the first 0 epochs then the first {step * run.plan.layout.micro_batches}"
        " batches in the first epoch.",
    ]


def test_the_end_of_training():
    lines = lines_of(calm("dense"), "hf-v4")
    thanks = next(n for n, line in enumerate(lines) if line.startswith("Training completed."))
    assert lines[thanks - 2 : thanks] == lines[thanks + 1 : thanks + 3] == ["", ""]
    assert lines[thanks + 3].startswith("{'train_runtime': ")
    assert lines[thanks + 4] == "Saving model checkpoint to outputs/llama-3-8b/final"
    assert "4 checkpoint shards" in lines[thanks + 7]
    assert not any("Training completed" in line for line in lines_of(out_of_time(), "hf"))


# trainer_state.json

# The keys of a trainer_state.json of transformers 5, in the order in which they stand.
KEYS = re.findall(
    r"\w+",
    """best_global_step best_metric best_model_checkpoint epoch eval_steps global_step
is_hyper_param_search is_local_process_zero is_world_process_zero log_history logging_steps
max_steps num_input_tokens_seen num_train_epochs save_steps stateful_callbacks total_flos
train_batch_size trial_name trial_params""",
)


def state_of(run: Run, every: int = 10) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(text_of(run, "trainer-state", every))
    return state


@pytest.mark.parametrize("name", ["dense", "gpu-fault", "checkpoint-corrupted"])
def test_the_state_is_json_as_the_trainer_writes_it(name):
    run = run_of(name)
    text = text_of(run, "trainer-state")
    state = json.loads(text)
    assert text == json.dumps(state, indent=2) + "\n"
    assert list(state) == KEYS
    for entry in state["log_history"]:
        assert list(entry) == sorted(entry)
        assert {"epoch", "step"} < set(entry)


@pytest.mark.parametrize("name", ["dense", "experts", "gpu-fault", "checkpoint-corrupted"])
def test_the_state_agrees_with_the_log(name):
    """What a launch has lost is not in the history: it goes on from that of its checkpoint."""
    run = run_of(name)
    kept: list[dict[str, str]] = []
    shown = iter(dicts(run, "hf", 10))
    for event in events_of(run):
        count = 0
        if isinstance(event, StepsCompleted):
            count = int((event.step % 10 == 0).sum())
        elif isinstance(event, ValidationCompleted):
            count = 1
        elif isinstance(event, PhaseStarted):
            count = int(event.phase is Phase.EXPORT)
        elif isinstance(event, RunRestarted):
            per_epoch = run.spec.recipe.steps_per_epoch
            kept = [e for e in kept if float(e["epoch"]) * per_epoch <= event.step * 1.0001]
        kept += [next(shown) for _ in range(count)]
    history = state_of(run)["log_history"]
    assert next(shown, None) is None
    assert len(history) == len(kept)
    for entry, logged in zip(history, kept, strict=True):
        assert {key: f"{float(entry[key]):.4g}" for key in logged} == logged
        assert set(entry) - set(logged) <= {"step", "total_flos"}
    steps = [entry["step"] for entry in history]
    assert steps == sorted(steps)


def test_the_state_of_a_whole_run():
    run = calm("dense")
    state = state_of(run)
    validations = [e for e in events_of(run) if isinstance(e, ValidationCompleted)]
    best = min(validations, key=lambda e: e.loss)
    assert (state["global_step"], state["max_steps"], state["epoch"]) == (120, 120, 3.0)
    assert (state["logging_steps"], state["eval_steps"], state["save_steps"]) == (10, 25, 33)
    assert state["best_global_step"] == best.step
    assert state["best_metric"] == pytest.approx(best.loss, rel=1e-6)
    assert state["best_model_checkpoint"] == f"outputs/llama-3-8b/checkpoint-{best.step}"
    assert state["train_batch_size"] == run.plan.layout.micro_batch_size
    control = state["stateful_callbacks"]["TrainerControl"]
    assert control["args"]["should_training_stop"] is True
    # 6 FLOPs per token and parameter behind the embedding: 8.03e9 less 128256 x 4096.
    matrices = 8_030_261_248 - 128_256 * 4096
    assert state["total_flos"] == pytest.approx(6 * matrices * 120 * 64 * 8192, rel=1e-12)


def test_numbers_that_are_none_are_in_the_state_as_python_writes_them():
    spoilt = faulty("loss-nan")
    lost = next(e.time_s for e in events_of(spoilt) if isinstance(e, RunRestarted))
    text = text_of(spoilt, "trainer-state", events=events_of(spoilt, 0.0, lost))
    assert '"grad_norm": NaN' in text
    assert math.isnan(json.loads(text)["log_history"][-1]["grad_norm"])
