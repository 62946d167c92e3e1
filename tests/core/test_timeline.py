"""History: restarts, time limits, faults that strike at awkward moments."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.events import (
    CheckpointSaved,
    FaultOccurred,
    Phase,
    RunAborted,
    RunFinished,
    ShardWritten,
)
from ghosttrain.core.fault_draws import draw_faults
from ghosttrain.core.plan import plan
from ghosttrain.core.run import simulate
from ghosttrain.core.spec import Faults, InjectedFault
from ghosttrain.core.timeline import INIT_PHASES, physical_nodes
from ghosttrain.core.units import DAY_S
from tests.strategies import PROCESS_KIND, WATCHDOG_KIND, machine_spec, seeds, specs

BASE = machine_spec("llama-3-8b", "h100-sxm", 64)
SAVING = replace(
    BASE, recipe=replace(BASE.recipe, steps_per_epoch=120, checkpoint_interval_steps=40)
)


def struck(*faults, spec=SAVING, **changes):
    injected = tuple(InjectedFault(kind, at_s, gpu) for kind, at_s, gpu in faults)
    return simulate(replace(spec, faults=Faults(injected=injected), **changes), 7)


def phases(run):
    return [span.phase for span in run.timeline.spans]


def end_of_step(run, step):
    return float(run.steps(step, step).end_s[0])


def test_a_quiet_run_goes_through_its_phases_once():
    run = simulate(SAVING, 7)
    training = [p for p in phases(run) if p is Phase.TRAINING]
    assert phases(run)[:6] == list(INIT_PHASES)
    assert len(training) == 5  # first step, four warm ones, to 40, to 80, to 120
    assert phases(run)[-4:] == [Phase.VALIDATION, Phase.CHECKPOINT, Phase.EXPORT, Phase.DONE]
    assert run.timeline.completed


def test_the_first_steps_of_a_launch_are_slow():
    """Public logs: the first step 1.4 to 10 times the median, the next few up to 1.4 times."""
    for seed in range(20):
        t = simulate(SAVING, seed).steps(1, 120).step_time_s
        usual = np.median(t)
        assert t[0] > 1.4 * usual
        assert np.all(t[1:5] < 1.4 * usual)
        assert t[1:5].mean() > t[6:].mean() * 0.98


def test_a_run_goes_on_from_its_last_checkpoint():
    quiet = simulate(SAVING, 7)
    run = struck((WATCHDOG_KIND, end_of_step(quiet, 100), 5))
    incident = run.timeline.incidents[0]
    assert (incident.step, incident.checkpoint_step, incident.node) == (100, 80, 0)
    restart = next(s for s in run.timeline.spans if s.attempt == 2)
    assert (restart.step, restart.phase) == (80, Phase.WEIGHTS)
    assert run.summary.attempts == 2
    assert run.summary.steps == 120


@pytest.mark.parametrize("step", [1, 2, 5, 6, 39, 40])
def test_a_fault_exactly_at_a_steps_end_lets_it_count(step):
    quiet = simulate(SAVING, 7)
    at_s = end_of_step(quiet, step)
    assert struck((PROCESS_KIND, at_s, 0)).timeline.incidents[0].step == step
    just_before = math.nextafter(at_s, -math.inf)
    assert struck((PROCESS_KIND, just_before, 0)).timeline.incidents[0].step == step - 1


def test_a_fault_while_saving_leaves_the_checkpoint_before_it():
    quiet = simulate(SAVING, 7)
    saves = [s for s in quiet.timeline.spans if s.phase is Phase.CHECKPOINT]
    at_s = (saves[1].start_s + saves[1].end_s) / 2
    run = struck((PROCESS_KIND, at_s, 0))
    assert run.timeline.incidents[0].checkpoint_step == 40
    saved = [e.step for e in run.events(0, math.inf) if isinstance(e, CheckpointSaved)]
    assert saved == [40, 80, 120]


def test_a_fault_during_export_comes_back_to_export_alone():
    quiet = simulate(SAVING, 7)
    export = quiet.timeline.spans[-2]
    run = struck((PROCESS_KIND, (export.start_s + export.end_s) / 2, 0))
    assert phases(run)[-2:] == [Phase.EXPORT, Phase.DONE]
    assert [s.phase for s in run.timeline.spans if s.attempt == 2] == [
        *INIT_PHASES, Phase.EXPORT, Phase.DONE,
    ]  # fmt: skip
    events = list(run.events(0, math.inf))
    struck_at = next(i for i, e in enumerate(events) if isinstance(e, FaultOccurred))
    early = [e for e in events[:struck_at] if isinstance(e, ShardWritten)]
    late = [e for e in events[struck_at:] if isinstance(e, ShardWritten)]
    assert [e.index for e in late] == [1, 2, 3, 4]
    undisturbed = [e for e in quiet.events(0, math.inf) if isinstance(e, ShardWritten)]
    assert early == [e for e in undisturbed if e.time_s < run.timeline.incidents[0].time_s]


def test_a_fault_asked_for_while_the_processes_are_down_meets_the_next_launch():
    at_s = simulate(SAVING, 7).end_s / 2
    run = struck((WATCHDOG_KIND, at_s, 0), (WATCHDOG_KIND, at_s + 100, 1))
    first, second = run.timeline.incidents
    assert (first.gpu, second.gpu) == (0, 1)
    assert first.relaunch_s < second.time_s < first.relaunch_s + 10
    assert second.attempt == 2


def test_faults_drawn_for_a_cluster_that_is_down_are_past():
    often = replace(WATCHDOG_KIND, rate_per_1000_gpu_days=2e4)  # one in 70 s, hangs of 600 s
    spec = replace(SAVING, faults=Faults(drawn=(often,)), time_limit_s=20_000.0)
    run = simulate(spec, 7)
    for earlier, later in itertools.pairwise(run.timeline.incidents):
        assert earlier.relaunch_s is not None
        assert later.time_s >= earlier.relaunch_s
    drawn = [s for s in draw_faults(run.plan, 7) if s.time_s < 20_000]
    assert len(drawn) > 3 * len(run.timeline.incidents)


def test_a_fault_at_the_very_start_strikes_too():
    run = struck((PROCESS_KIND, 0.0, 63))
    assert phases(run)[:3] == [Phase.WEIGHTS, Phase.HANG, Phase.DOWN]
    assert run.timeline.completed


def test_a_node_that_failed_is_swapped_for_a_spare():
    quiet = simulate(SAVING, 7)
    run = struck((PROCESS_KIND, quiet.end_s * 0.4, 20))
    assert physical_nodes(run.timeline, 8, 1).tolist() == list(range(8))
    assert physical_nodes(run.timeline, 8, 2).tolist() == [0, 1, 8, 3, 4, 5, 6, 7]


# Time limits.


def test_a_run_that_faults_keep_from_finishing_ends_at_its_limit():
    often = replace(PROCESS_KIND, rate_per_1000_gpu_days=5e6)
    spec = replace(BASE, faults=Faults(drawn=(often,)), time_limit_s=20_000.0)
    slow = replace(spec, recipe=replace(spec.recipe, steps_per_epoch=3000, warmup_steps=0))
    run = simulate(slow, 7)
    finished = list(run.events(0, math.inf))[-1]
    assert isinstance(finished, RunFinished)
    assert (finished.reason, finished.time_s) == ("time_limit", 20_000.0)
    assert not run.timeline.completed


def test_incidents_after_the_limit_have_not_happened():
    quiet = simulate(SAVING, 7)
    limit = end_of_step(quiet, 100)
    run = struck((WATCHDOG_KIND, limit + 0.2, 0), time_limit_s=limit + 0.1)
    assert run.timeline.incidents == ()
    assert run.summary.faults == 0
    assert run.summary.steps == 100
    assert run.summary.fault_share == 0.0


def test_a_limit_that_ends_a_hang_counts_what_was_kept():
    quiet = simulate(SAVING, 7)
    at_s = end_of_step(quiet, 100)
    run = struck((WATCHDOG_KIND, at_s, 0), time_limit_s=at_s + 60.0)
    assert (run.summary.steps, run.summary.faults) == (80, 1)
    assert 0 < run.summary.mean_mfu < 1
    assert not [e for e in run.events(0, math.inf) if isinstance(e, RunAborted)]


def test_a_limit_that_ends_a_hang_judges_no_checkpoint():
    """The launch after it would have gone back behind the bad loss: there was none."""
    quiet = simulate(SAVING, 7)
    astray = replace(catalog.fault_kind("loss-nan"), detect_low_s=0.1, detect_high_s=0.2)
    seen_s = end_of_step(quiet, 100) - 2.4 * float(quiet.steps(100, 100).step_time_s[0])
    hang = WATCHDOG_KIND, end_of_step(quiet, 100), 0
    _, ended = struck((astray, seen_s, 0), hang).timeline.incidents
    assert (ended.strike_step, ended.checkpoint_step) == (100, 0)
    run = struck((astray, seen_s, 0), hang, time_limit_s=hang[1] + 60.0)
    assert run.summary.steps == 80
    assert run.summary.goodput > 0.3


def test_a_limit_exactly_at_a_stop_is_a_limit():
    quiet = simulate(SAVING, 7)
    stop = next(s for s in quiet.timeline.spans if s.phase is Phase.CHECKPOINT)
    run = simulate(replace(SAVING, time_limit_s=stop.start_s), 7)
    assert not run.timeline.completed
    assert run.summary.steps == 40
    assert run.timeline.spans[-1].ordinal == 40


# Draws.


@given(seed=seeds, gpus=st.sampled_from((8, 64)))
def test_fault_rates_are_those_asked_for(seed, gpus):
    spec = machine_spec("gpt-2-124m", "h100-sxm", 8) if gpus == 8 else BASE
    kind = replace(WATCHDOG_KIND, rate_per_1000_gpu_days=10_000 / gpus)  # ten a day
    drawn = list(draw_faults(plan(replace(spec, faults=Faults(drawn=(kind,)))), seed))
    times = np.array([strike.time_s for strike in drawn])
    days = 400
    assert len(times) == pytest.approx(10 * days, abs=5 * (10 * days) ** 0.5)
    assert np.all(np.diff(times) >= 0)
    assert times[-1] <= days * DAY_S
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential
    assert {strike.gpu for strike in drawn} == set(range(gpus))


def test_rare_faults_cost_no_time_to_draw():
    """A kind that strikes once in a thousand years must not be searched for that long."""
    rare = replace(WATCHDOG_KIND, rate_per_1000_gpu_days=1e-12)
    spec = replace(BASE, faults=Faults(drawn=(rare,)))
    assert list(draw_faults(plan(spec), 7)) == []


@given(spec=specs(faults=False), seed=seeds)
def test_the_best_validation_is_the_best_so_far(spec, seed):
    made = simulate(spec, seed).timeline.validated
    losses = [v.loss for v in made if v.loss is not None]
    assert len(losses) == len(made)
    best = list(itertools.accumulate(losses, min))
    assert [v.best for v in made] == best
    assert [v.improved for v in made] == [
        i == 0 or loss < best[i - 1] for i, loss in enumerate(losses)
    ]
