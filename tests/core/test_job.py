"""The job: at any moment what its events until then add up to."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.events import (
    CheckpointSaved,
    Phase,
    PhaseStarted,
    RunRestarted,
    StepsCompleted,
    ValidationCompleted,
)
from ghosttrain.core.job import SPENT
from ghosttrain.core.laws.loss_scale import fp16_loss_scale
from ghosttrain.core.run import Run, simulate
from tests.core.test_telemetry import fault, struck
from tests.strategies import machine_spec, moments, seeds, specs


@st.composite
def runs_and_a_moment(draw):
    run = simulate(draw(specs(faults=True)), draw(seeds))
    edges = [span.start_s for span in run.timeline.spans]
    return run, max(0.0, draw(moments(run, edges)))


def until(run: Run, time_s: float) -> list[object]:
    return [event for event in run.events(0.0, math.inf) if event.time_s <= time_s]


def steps_until(run: Run, time_s: float) -> list[tuple[float, ...]]:
    """Rows of the steps done by a moment, in the order they were done."""
    rows: list[tuple[float, ...]] = []
    for event in run.events(0.0, math.inf):
        if isinstance(event, StepsCompleted):
            done = (event.end_s, event.step, event.loss, event.grad_norm, event.learning_rate)
            pace = (event.step_time_s, event.tokens_per_s, event.mfu, event.eta_s)
            rows += [row for row in zip(*done, *pace, strict=True) if row[0] <= time_s]
    return rows


@given(runs_and_a_moment())
def test_a_moment_knows_what_the_events_until_then_say(asked):
    run, time_s = asked
    job = run.job(time_s)
    rows, events = steps_until(run, time_s), until(run, time_s)
    if not rows:
        assert job.last is None
        assert math.isnan(job.loss)
    else:
        assert job.last is not None
        done = (job.last.end_s, job.last.step, job.loss, job.grad_norm, job.learning_rate)
        pace = (job.step_time_s, job.tokens_per_s, job.mfu, job.eta_s)
        np.testing.assert_allclose((*done, *pace), rows[-1], rtol=1e-12)
        assert job.since_step_s == pytest.approx(min(time_s, run.end_s) - rows[-1][0], abs=1e-9)
        per_gpu = job.mfu * run.plan.peak_tflops
        assert job.tflops_per_gpu == pytest.approx(per_gpu, rel=1e-9)
    assert job.nan_steps == sum(math.isnan(row[2]) for row in rows)
    made = [event for event in events if isinstance(event, ValidationCompleted)]
    if made:
        assert job.validation is not None
        assert (job.validation.step, job.validation.end_s) == (made[-1].step, made[-1].time_s)
        np.testing.assert_equal(job.validation.loss, made[-1].loss)
    else:
        assert job.validation is None
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    if saved:
        last = saved[-1]
        assert job.checkpoint is not None
        assert (job.checkpoint.step, job.checkpoint.end_s) == (last.step, last.time_s)
        assert job.checkpoint.duration_s == last.duration_s
        assert job.checkpoint.size_bytes == last.size_bytes
    else:
        assert job.checkpoint is None
    phases = [event for event in events if isinstance(event, PhaseStarted)]
    assert job.attempt == max((event.attempt for event in phases), default=1)
    assert job.restarts == job.attempt - 1
    begun = (made.kind.name for made in run.timeline.incidents if made.time_s <= job.time_s)
    assert job.faults == Counter(begun)


@given(runs_and_a_moment())
def test_time_is_spent_on_something(asked):
    run, time_s = asked
    job = run.job(time_s)
    assert set(job.spent_s) == set(SPENT)
    assert sum(job.spent_s.values()) == pytest.approx(min(time_s, run.end_s), abs=1e-6)
    assert 0 <= job.lost_s <= job.spent_s["steps"] + 1e-9
    assert job.is_hung == (job.phase is Phase.HANG)
    assert job.is_down == (job.phase is Phase.DOWN)


@given(specs(faults=True), seeds)
def test_at_the_end_it_says_what_the_summary_says(spec, seed):
    run = simulate(spec, seed)
    job, summary = run.job(run.end_s + 5), run.summary
    assert job.phase is Phase.DONE
    assert job.goodput == pytest.approx(summary.goodput, rel=1e-12, abs=1e-15)
    assert (job.step, job.tokens) == (summary.steps, summary.tokens)
    assert job.restarts == summary.attempts - 1
    assert sum(job.faults.values()) == summary.faults
    assert job.spent_s["export"] == pytest.approx(summary.export_share * run.end_s, abs=1e-6)


@given(specs(faults=True), seeds)
def test_counters_of_the_job_never_decrease(spec, seed):
    run = simulate(spec, seed)
    rows = [run.job(t) for t in np.linspace(0.0, run.end_s, 60)]
    for before, after in pairwise(rows):
        assert all(after.spent_s[name] >= before.spent_s[name] - 1e-9 for name in SPENT)
        assert after.lost_s >= before.lost_s - 1e-6
        assert after.steps_lost >= before.steps_lost
        assert after.nan_steps >= before.nan_steps
        assert all(after.faults[name] >= count for name, count in before.faults.items())


def test_steps_are_lost_when_the_fault_strikes_and_the_relaunch_says_so():
    run = struck(fault("gpu-fault", 900.0))
    made = run.timeline.incidents[0]
    assert made.strike_s is not None
    before, hung = run.job(made.strike_s - 1), run.job(made.strike_s + 0.1)
    assert (before.steps_lost, hung.steps_lost) == (0, made.steps_lost)
    assert hung.goodput < before.goodput
    restarted = next(e for e in run.events(0, math.inf) if isinstance(e, RunRestarted))
    assert restarted.lost_steps == hung.steps_lost > 0
    after = run.job(restarted.time_s + 1)
    assert after.step == made.checkpoint_step
    assert after.last is not None
    assert after.last.step == made.strike_step  # what it did last, before it went back


def test_a_step_that_was_done_is_in_the_state_at_its_very_end():
    run = struck()
    end_s = float(run.steps(100, 100).end_s[0])
    assert run.job(end_s).step == 100
    assert run.job(math.nextafter(end_s, 0)).step == 99
    first = float(run.steps(1, 1).end_s[0])
    assert run.job(math.nextafter(first, 0)).last is None


def test_the_epoch_is_the_one_in_progress():
    spec = machine_spec("gpt-2-124m", "h100-sxm", 8)
    run = simulate(spec, 3)
    assert run.job(0.0).epoch == 1
    assert run.job(run.end_s).epoch == spec.recipe.epochs == 1
    assert run.job(run.end_s).samples == 100 * spec.recipe.global_batch_size


def test_the_loss_scale_doubles_every_2000_steps():
    steps = np.array([1, 1999, 2000, 4000, 20_000, 10**6])
    assert fp16_loss_scale(steps).tolist() == [2**16, 2**16, 2**17, 2**18, 2**24, 2**24]
    assert struck().job(500.0).loss_scale is None
