"""Values of the lines are the run's by each tool's own definition, recomputed here step by step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from ghosttrain.core.events import (
    RunRestarted,
    RunStarted,
    StepsCompleted,
    ValidationCompleted,
)
from ghosttrain.core.run import Run
from ghosttrain.exporters.dialects import deepspeed_setup
from ghosttrain.exporters.dialects.megatron_model import flops_per_step
from tests.exporters.dialects.cases import LAYOUTS, events_of, faulty, spoilt, text_of
from tests.exporters.dialects.grammar.deepspeed import (
    DEEPSPEED_OWN,
    DEEPSPEED_PIPELINE,
    DEEPSPEED_TRAINER,
)
from tests.exporters.dialects.grammar.megatron import MEGATRON_STEP
from tests.exporters.dialects.grammar.nemo import NEMO_STEP

EVERY = 10
# Three faults of the golden timelines, and losses that are no numbers from mid-interval on.
RUNS = ("gpu-off-bus", "loss-nan", "loss-spike-rollback", "tied")


@dataclass
class Step:
    number: int
    end_s: float
    time_s: float
    loss: float
    rate: float
    norm: float


@dataclass
class Told:
    """What a launch did, in order: steps, and between them losses of validations."""

    loaded: int
    steps: list[Step] = field(default_factory=list)
    validated: dict[int, float] = field(default_factory=dict)  # by index of the next step
    training_s: float = math.nan


def run_of(name: str) -> Run:
    return spoilt(name) if name in LAYOUTS else faulty(name)


def launches(run: Run) -> list[Told]:
    told: list[Told] = []
    for event in events_of(run):
        match event:
            case RunStarted():
                told.append(Told(0))
            case RunRestarted():
                told.append(Told(event.step))
            case ValidationCompleted():
                told[-1].validated[len(told[-1].steps)] = event.loss
            case StepsCompleted():
                columns = zip(
                    event.step.tolist(),
                    event.end_s.tolist(),
                    event.step_time_s.tolist(),
                    event.loss.tolist(),
                    event.learning_rate.tolist(),
                    event.grad_norm.tolist(),
                    strict=True,
                )
                told[-1].steps += [Step(*row) for row in columns]
    for one in told:
        if one.steps:
            one.training_s = one.steps[0].end_s - one.steps[0].time_s
    return told


def found(form: str, text: str) -> list[dict[str, str | None]]:
    return [m.groupdict() for m in re.finditer(f"^{form}$", text, re.MULTILINE)]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def intervals(told: Told, *, first: bool) -> Iterator[tuple[Step, list[Step]]]:
    """Each printed step with the steps its means are over; `first`: the launch's first is too."""
    since: list[Step] = []
    for index, step in enumerate(told.steps):
        since.append(step)
        if step.number % EVERY == 0:
            yield step, since
            since = []
        elif first and index == 0:
            yield step, since[:]


@pytest.mark.parametrize("name", RUNS)
def test_megatron(name):
    run = run_of(name)
    recipe = run.spec.recipe
    rows = found(MEGATRON_STEP, text_of(run, "megatron", EVERY))
    wanted = [pair for told in launches(run) for pair in intervals(told, first=True)]
    assert [int(row["it"] or 0) for row in rows] == [step.number for step, _ in wanted]
    for row, (step, steps) in zip(rows, wanted, strict=True):
        mean_s = mean([s.time_s for s in steps])
        numbers = [s.loss for s in steps if math.isfinite(s.loss)]
        assert float(row["ms"] or 0) == pytest.approx(1000 * mean_s, abs=0.051)
        if numbers:
            assert float(row["loss"] or 0) == pytest.approx(mean(numbers), rel=1e-6)
        assert int(row["nan"] or 0) == int(row["skipped"] or 0) == len(steps) - len(numbers)
        assert float(row["lr"] or 0) == pytest.approx(step.rate, rel=1e-6)
        assert (row["gn"] is None) == (not math.isfinite(step.norm))
        if row["gn"]:
            assert float(row["gn"]) == pytest.approx(step.norm, abs=0.00051)
        assert int(row["samples"] or 0) == step.number * recipe.global_batch_size
        tflops = flops_per_step(run.plan) / run.spec.cluster.gpus / mean_s / 1e12
        assert float(row["tflops"] or 0) == pytest.approx(tflops, abs=0.051)
    assert any(int(row["nan"] or 0) for row in rows) == (name in ("loss-nan", "tied"))


@pytest.mark.parametrize("name", RUNS)
def test_deepspeed_and_its_trainer(name):
    run = run_of(name)
    recipe, layout = run.spec.recipe, run.plan.layout
    text = text_of(run, "deepspeed", EVERY)
    own = found(DEEPSPEED_OWN, text)
    stepped = [row for row in own if row["step"] and row["step"] != "0"]
    speeds = [row for row in own if row["g"]]
    rows = found(DEEPSPEED_TRAINER, text)
    wanted = [pair for told in launches(run) for pair in intervals(told, first=False)]
    numbers = [step.number for step, _ in wanted]
    assert [int(row["it"] or 0) for row in rows] == numbers
    assert [int(row["step"] or 0) for row in stepped] == numbers
    for row, (step, _) in zip(stepped, wanted, strict=True):
        assert row["lr"] == f"[{step.rate!r}, {step.rate!r}]"
        assert row["mom"] == f"[(0.9, {recipe.beta2}), (0.9, {recipe.beta2})]"
    until_s = {}  # end of the step printed before, or the beginning of training
    for told in launches(run):
        since_s = told.training_s
        for step, _ in intervals(told, first=False):
            until_s[step.end_s] = since_s
            since_s = step.end_s
    for row, (step, steps) in zip(rows, wanted, strict=True):
        mean_s = (step.end_s - until_s[step.end_s]) / len(steps)
        assert float(row["ms"] or 0) == pytest.approx(1000 * mean_s, abs=0.051)
        losses = [s.loss for s in steps]
        assert (row["loss"] is None) == (not all(map(math.isfinite, losses)))
        if row["loss"]:
            assert float(row["loss"]) == pytest.approx(mean(losses), rel=1e-6)
        samples = step.number * recipe.global_batch_size
        assert int(row["samples"] or 0) == samples
        assert int(row["tokens"] or 0) == samples * recipe.seq_len
        per_s = recipe.global_batch_size / mean_s
        assert float(row["per_s"] or 0) == pytest.approx(per_s, abs=0.00051)
        flops = deepspeed_setup.flops_per_step(run.plan)
        tflops = flops / run.spec.cluster.gpus / mean_s / 1e12
        assert float(row["tflops"] or 0) == pytest.approx(tflops, abs=0.0051)
    expected = []
    for told in launches(run):
        for count in range(EVERY, len(told.steps) + 1, EVERY):
            timed = [s.time_s for s in told.steps[2:count]]
            expected.append(
                (count, recipe.global_batch_size / mean(timed), told.steps[count - 1].time_s)
            )
    assert [int(row["g"] or 0) for row in speeds] == [count for count, _, _ in expected]
    for row, (count, average, last_s) in zip(speeds, expected, strict=True):
        assert int(row["micro"] or 0) == count * layout.micro_batches
        assert float(row["avg"] or 0) == pytest.approx(average, rel=1e-8)
        current = recipe.global_batch_size / (last_s + 1e-6)
        assert float(row["cur"] or 0) == pytest.approx(current, rel=1e-12)


def test_deepspeed_counts_skipped_steps_of_a_launch():
    run = spoilt("tied")
    rows = [row for row in found(DEEPSPEED_OWN, text_of(run, "deepspeed", EVERY)) if row["step"]]
    wanted = []
    for told in launches(run):
        wanted.append(0)  # the line of step 0
        skipped = 0
        for step in told.steps:
            skipped += not math.isfinite(step.loss)
            if step.number % EVERY == 0:
                wanted.append(skipped)
    assert [int(row["sk"] or 0) for row in rows] == wanted
    assert max(wanted) > EVERY


def test_a_pipeline_of_deepspeed():
    run = spoilt("tied-pipeline")
    text = text_of(run, "deepspeed", EVERY)
    rows = found(DEEPSPEED_PIPELINE, text)
    wanted = [pair for told in launches(run) for pair in intervals(told, first=False)]
    assert [int(row["step"] or 0) for row in rows] == [step.number for step, _ in wanted]
    for row, (step, steps) in zip(rows, wanted, strict=True):
        # As the engine does it: by the interval, however many steps it had since the launch.
        assert float(row["s"] or 0) == pytest.approx(
            math.fsum(s.time_s for s in steps) / EVERY, abs=0.00051
        )
        assert float(row["loss"] or 0) == pytest.approx(step.loss, abs=0.000051, nan_ok=True)
    assert "timer.py" not in text
    assert all(row["gn"] for row in found(DEEPSPEED_TRAINER, text))


@pytest.mark.parametrize("name", RUNS)
def test_nemo(name):
    run = run_of(name)
    batch = run.spec.recipe.global_batch_size
    rows = found(NEMO_STEP, text_of(run, "nemo", EVERY))
    index = 0
    for told in launches(run):
        known: float | None = None
        sums: list[float | None] = []
        for at, step in enumerate(told.steps):
            known = told.validated.get(at, known)
            sums.append(known)
            if step.number % EVERY:
                continue
            row, steps = rows[index], told.steps[at + 1 - len(sums) : at + 1]
            index += 1
            assert int(row["i"] or 0) == int(row["gs"] or 0) == step.number - 1
            counts = [s.number * batch for s in steps if s.number > 1]
            losses = [value for value in sums if value is not None]
            wanted = {
                "lr": math.fsum(s.rate for s in steps) / EVERY,
                "loss": math.fsum(s.loss for s in steps) / EVERY,
                "t": math.fsum(s.time_s for s in steps) / EVERY,
                "samples": sum(counts) / EVERY,
                "val": math.fsum(losses) / EVERY if losses else None,
            }
            for key, value in wanted.items():
                got = row[key]
                assert (got is None) == (value is None), (key, step.number)
                if value is not None:
                    assert float(got or 0) == pytest.approx(value, rel=5.1e-4, nan_ok=True)
            sums = []
    assert index == len(rows)


def test_dates_are_those_of_the_steps():
    run = faulty("gpu-off-bus")
    rows = found(MEGATRON_STEP, text_of(run, "megatron", EVERY))
    ends = [step.end_s for told in launches(run) for step, _ in intervals(told, first=True)]
    for row, end_s in zip(rows, ends, strict=True):
        clock = row["ts"] or ""
        hours, minutes, seconds = clock.split()[1].split(":")
        day_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        assert day_s == pytest.approx((run.spec.start_unix_s + end_s) % 86400, abs=2e-6)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("megatron", "iter_0000300/__0_0.distcp"),
        ("deepspeed", "global_step300/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ("nemo", "llama-3-8b--epoch=0-consumed_samples=38400.0-last/weights/__0_0.distcp"),
    ],
)
def test_a_part_of_a_checkpoint_that_finds_no_room(name, path):
    lines = text_of(faulty("storage-full"), name).splitlines()
    errors = [line for line in lines if "No space left on device" in line]
    assert errors[0].endswith(f"checkpoints/{path}'")
