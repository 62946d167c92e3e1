"""nanoGPT's log: iterations from 0, its own MFU, its own counts."""

from __future__ import annotations

import re

import pytest

from ghosttrain import catalog
from ghosttrain.core.events import StepsCompleted, TrainingStarted, ValidationCompleted
from ghosttrain.core.run import Run
from ghosttrain.exporters.dialects.nanogpt import decayed_tensors, flops_per_iteration, undecayed
from tests.exporters.dialects.cases import calm, events_of, faulty, lines_of, run_of
from tests.exporters.dialects.grammar.nanogpt import NANO_EVAL, NANO_ITER


def iterations(run: Run, every: int) -> list[tuple[int, float, float, float]]:
    """(n, loss, ms, mfu %) of each line, by the loop of train.py."""
    found, t0, began, running_mfu = [], 0.0, 0, -1.0
    for event in events_of(run):
        if isinstance(event, TrainingStarted):
            t0, began, running_mfu = event.time_s, event.step, -1.0
        elif isinstance(event, StepsCompleted):
            for step, t1, loss in zip(event.step.tolist(), event.end_s, event.loss, strict=True):
                iter_num, dt, t0 = step - 1, float(t1) - t0, float(t1)
                if iter_num % every == 0:
                    if iter_num - began >= 5:  # local_iter_num
                        mfu = flops_per_iteration(run.plan) / dt / 312e12
                        running_mfu = mfu if running_mfu == -1.0 else 0.9 * running_mfu + 0.1 * mfu
                    found.append((iter_num, float(loss), dt * 1000, running_mfu * 100))
    return found


@pytest.mark.parametrize("every", [1, 10, 32])
@pytest.mark.parametrize("name", ["positions", "dense", "gpu-fault"])
def test_iterations_are_the_runs(name, every):
    run = run_of(name)
    shown = [m for line in lines_of(run, "nanogpt", every) if (m := NANO_ITER.fullmatch(line))]
    wanted = iterations(run, every)
    assert len(shown) == len(wanted) > 3
    assert shown[0]["mfu"] == "-100.00"
    for m, (n, loss, ms, mfu) in zip(shown, wanted, strict=True):
        assert (int(m["n"]), m["loss"]) == (n, f"{loss:.4f}")
        assert (m["ms"], m["mfu"]) == (f"{ms:.2f}", f"{mfu:.2f}")


def test_validations_and_checkpoints_are_the_runs():
    run = calm("positions")
    lines = lines_of(run, "nanogpt")
    shown = [m for line in lines if (m := NANO_EVAL.fullmatch(line))]
    validations = [e for e in events_of(run) if isinstance(e, ValidationCompleted)]
    assert len(shown) == len(validations) > 3
    for m, event in zip(shown, validations, strict=True):
        assert int(m["n"]) == event.step
        assert (m["train"], m["val"]) == (f"{event.train_loss:.4f}", f"{event.loss:.4f}")
    assert lines.count("saving checkpoint to outputs/gpt-2-124m") >= 3


def test_gpt2_is_counted_as_nanogpt_counts_it():
    """With 50,304 words nanoGPT prints 50 tensors with 124,354,560 and 98 with 121,344."""
    model = catalog.model("gpt-2-124m")
    assert decayed_tensors(model) == 50
    assert undecayed(model) == (98, 121_344)
    text = "\n".join(lines_of(calm("positions"), "nanogpt"))
    decayed = 124_354_560 - (50_304 - 50_257) * 768
    assert f"num decayed parameter tensors: 50, with {decayed:,} parameters" in text
    assert "number of parameters: 123.65M" in text


def test_mfu_is_what_estimate_mfu_says():
    """6 N + 12 L H Q T a token, with N of the 124M model less its positions."""
    run = calm("positions")
    sequences = run.spec.recipe.global_batch_size
    per_token = 6 * 123.65e6 + 12 * 12 * 12 * 64 * 1024
    assert flops_per_iteration(run.plan) == pytest.approx(per_token * 1024 * sequences, rel=1e-3)


def test_the_start_and_the_start_from_a_checkpoint():
    lines = lines_of(faulty("gpu-fault"), "nanogpt")
    told = [line for line in lines if not re.match(r"iter|step|\[|[WE]\d|s|T| |=|-|F|R|t|sa", line)]
    assert told[0].startswith("found vocab_size = 128256 (inside data/")
    assert told[1] == "Initializing a new model from scratch"
    assert lines.count("Resuming training from outputs/llama-3-8b") == 1
    assert lines.count("compiling the model... (takes a ~minute)") == 2
