"""The eight promises of the stream (and what follows from them), over random specs and seeds."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ghosttrain.core import fleet as fleet_module
from ghosttrain.core import run as run_module
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import (
    CheckpointSaved,
    EpochCompleted,
    FaultOccurred,
    FleetSampled,
    IncidentLabelled,
    MessageLogged,
    Phase,
    RunAborted,
    RunFinished,
    RunRestarted,
    RunStarted,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.fault_draws import draw_faults
from ghosttrain.core.history import draw_timeline
from ghosttrain.core.laws.faults import LOSS_EFFECTS
from ghosttrain.core.plan import plan
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault
from ghosttrain.core.steps import StepColumns
from ghosttrain.core.timeline import INIT_PHASES
from tests.rows import Row, event_rows, fleet_row, rows_of
from tests.strategies import (
    CATALOGUED,
    KINDS,
    LOADS,
    MACHINES,
    PROCESS_KIND,
    WATCHDOG_KIND,
    injected_faults,
    machine_spec,
    moments,
    planned,
    seeds,
    specs,
)

# Order of the kinds of rows at equal times: what ends, its results, what is told, what begins.
FIXED_ORDER = (
    "step",
    "collective",
    "fleet",
    "WarningRaised",
    "EpochCompleted",
    "GpusDetected",
    "ShardWritten",
    "PhaseEnded",
    "AllReduceTested",
    "ValidationCompleted",
    "CheckpointSaved",
    "RunRestarted",
    "RunStarted",
    "PhaseStarted",
    "TrainingStarted",
    "WatchdogTimedOut",
    "FaultOccurred",
    "MessageLogged",
    "IncidentLabelled",
    "RunAborted",
    "PhaseStarted hang",
    "PhaseStarted down",
    "RunFinished",
)


def everything(run: Run, **options: int) -> list[Row]:
    return rows_of(run.events(0.0, math.inf, **options))


def rank(row: Row) -> int:
    kind = row.kind
    return FIXED_ORDER.index(kind if kind in FIXED_ORDER else kind.split()[0])


def before(rows: list[Row], time_s: float) -> list[Row]:
    return [row for row in rows if row.time_s < time_s]


# 1. Times never decrease; equal times have a fixed order by kind.


@given(spec=specs(), seed=seeds)
def test_times_never_decrease_and_kinds_have_their_order_at_equal_times(spec, seed):
    rows = everything(simulate(spec, seed))
    for earlier, later in itertools.pairwise(rows):
        assert earlier.time_s <= later.time_s
        if earlier.time_s == later.time_s:
            assert rank(earlier) <= rank(later), (earlier.kind, later.kind)


@given(spec=specs(), seed=seeds)
def test_a_run_has_one_start_one_end_and_nothing_outside(spec, seed):
    run = simulate(spec, seed)
    rows = everything(run)
    assert rows[0].kind == "RunStarted"
    assert rows[-1].kind == "RunFinished"
    assert [row.kind for row in rows].count("RunFinished") == 1
    assert (rows[0].time_s, rows[-1].time_s) == (0.0, run.end_s)
    assert run.end_s <= spec.time_limit_s


# 2. Windows add up, row for row and bit for bit.


@given(spec=specs(), seed=seeds, data=st.data())
def test_windows_add_up(spec, seed, data):
    run = simulate(spec, seed)
    whole = everything(run)
    times = [row.time_s for row in whole]
    cuts = sorted(data.draw(st.lists(moments(run, times), max_size=8)))
    # A fresh run: nothing that was asked before may be felt.
    other = simulate(spec, seed)
    edges = [0.0, *(max(0.0, cut) for cut in cuts), math.inf]
    parts = [rows_of(other.events(a, b)) for a, b in itertools.pairwise(edges)]
    assert [row for part in parts for row in part] == whole
    for (a, b), part in zip(itertools.pairwise(edges), parts, strict=True):
        assert all(a <= row.time_s < b for row in part)


@given(spec=specs(), seed=seeds, data=st.data())
def test_a_window_asked_out_of_order_is_the_slice_of_the_whole(spec, seed, data):
    run = simulate(spec, seed)
    whole = everything(simulate(spec, seed))
    times = [row.time_s for row in whole]
    for _ in range(3):
        a = data.draw(moments(run, times))
        b = data.draw(moments(run, times))
        wanted = [row for row in whole if a <= row.time_s < b]
        assert rows_of(run.events(a, b)) == wanted


# 3. Batch size is invisible, and a batch never straddles another event.


@given(spec=specs(), seed=seeds, values=st.sampled_from((1, 1000, 20_000)))
def test_the_size_of_batches_and_chunks_is_invisible(spec, seed, values):
    whole = everything(simulate(spec, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_MOST_VALUES", values)
        patch.setattr(fleet_module, "_CHUNK_BYTES", 4 * values)
        assert everything(simulate(spec, seed)) == whole


@given(spec=specs(), seed=seeds)
def test_a_batch_never_straddles_another_event(spec, seed):
    batches: list[tuple[float, float]] = []
    others: list[float] = []
    for event in simulate(spec, seed).events(0.0, math.inf):
        if isinstance(event, StepsCompleted):
            assert event.time_s == event.end_s[0]
            assert np.array_equal(np.diff(event.step), np.ones(len(event.step) - 1))
            for f in fields(StepColumns):
                assert len(getattr(event, f.name)) == len(event.step)
            batches.append((float(event.end_s[0]), float(event.end_s[-1])))
        else:
            others.append(event.time_s)
    inside = np.searchsorted(others, [b[1] for b in batches], "left") - np.searchsorted(
        others, [b[0] for b in batches], "right"
    )
    assert not (inside > 0).any()


@given(seed=seeds)
def test_a_batch_ends_where_a_block_of_the_pace_does_not_matter(seed):
    """Runs longer than the blocks in which the pace is drawn add up too."""
    base = machine_spec("gpt-2-124m", "h100-sxm", 8)
    spec = replace(base, recipe=replace(base.recipe, steps_per_epoch=2600))
    run = simulate(spec, seed)
    whole = everything(run)
    cuts = [0.0, *(row.time_s for row in whole if row.kind == "step")][::500]
    parts = [rows_of(run.events(a, b)) for a, b in itertools.pairwise([*cuts, math.inf])]
    assert [row for part in parts for row in part] == whole
    assert [row.value[1] for row in whole if row.kind == "step"] == list(range(1, 2601))


# 4. The past is fixed.


@given(spec=specs(), seed=seeds, data=st.data())
def test_a_fault_leaves_everything_before_it_as_it_was(spec, seed, data):
    run = simulate(spec, seed)
    whole = everything(run)
    at_s = max(0.0, data.draw(moments(run, [row.time_s for row in whole])))
    gpu = data.draw(st.none() | st.integers(0, spec.cluster.gpus - 1))
    fault = InjectedFault(data.draw(st.sampled_from((*KINDS, *CATALOGUED))), at_s, gpu)
    faults = replace(spec.faults, injected=(*spec.faults.injected, fault))
    changed = simulate(replace(spec, faults=faults), seed)
    assert before(everything(changed), at_s) == before(whole, at_s)


@given(spec=specs(faults=False, limited=False), seed=seeds, data=st.data())
def test_a_fault_within_the_run_strikes_when_and_where_it_was_asked(spec, seed, data):
    run = simulate(spec, seed)
    fault = data.draw(injected_faults(run_s=run.end_s * 0.9, gpus=spec.cluster.gpus))
    assume(not fault.at_step)
    changed = simulate(replace(spec, faults=Faults(injected=(fault,))), seed)
    struck = [e for e in changed.events(0, math.inf) if isinstance(e, FaultOccurred)]
    if fault.at_s < run.end_s:
        assert [e.time_s for e in struck] == [fault.at_s]
        event = struck[0]
        assert event.node == event.gpu // spec.cluster.gpus_per_node
        assert fault.gpu is None or event.gpu <= fault.gpu < event.gpu + event.gpus


@given(spec=specs(faults=False, limited=False), seed=seeds, data=st.data())
def test_a_fault_asked_for_by_step_comes_while_that_step_is_in_progress(spec, seed, data):
    kind = data.draw(st.sampled_from((*KINDS, *CATALOGUED)))
    step = data.draw(st.integers(1, spec.recipe.total_steps))
    fault = InjectedFault(kind, at_step=step)
    changed = simulate(replace(spec, faults=Faults(injected=(fault,))), seed)
    struck = [e for e in changed.events(0, math.inf) if isinstance(e, FaultOccurred)]
    assert [e.step for e in struck] == [step - 1]


@given(spec=specs(faults=True), seed=seeds)
def test_two_specs_that_differ_only_in_a_later_time_limit_agree_before_it(spec, seed):
    long = simulate(spec, seed)
    limit_s = max(60.0, 0.7 * long.end_s)
    short = simulate(replace(spec, time_limit_s=limit_s), seed)
    assert before(everything(short), limit_s) == before(everything(long), limit_s)


# 5. Values are absolute.


@given(spec=specs(), seed=seeds, data=st.data())
def test_who_joins_late_gets_the_same_steps_faults_and_totals(spec, seed, data):
    run = simulate(spec, seed)
    whole = list(run.events(0.0, math.inf))
    start_s = data.draw(moments(run, [event.time_s for event in whole]))
    late = rows_of(simulate(spec, seed).events(start_s, math.inf))
    assert late == [row for event in whole for row in event_rows(event) if row.time_s >= start_s]


@given(spec=specs(), seed=seeds)
def test_counts_are_of_the_whole_run(spec, seed):
    per_step, faults, completed, attempt = spec.recipe.tokens_per_step, 0, 0, 1
    for event in simulate(spec, seed).events(0.0, math.inf):
        match event:
            case StepsCompleted():
                assert event.attempt == attempt
                assert int(event.step[0]) == completed + 1
                completed = int(event.step[-1])
            case FaultOccurred():
                faults += 1
                assert (event.fault, event.step) == (faults, completed)
            case RunRestarted():
                attempt += 1
                assert event.attempt == attempt
                assert event.lost_steps == completed - event.step
                completed = event.step
            case TrainingStarted() | CheckpointSaved() | RunAborted():
                assert event.step == completed
            case EpochCompleted():
                assert (event.step, event.tokens) == (completed, completed * per_step)
                assert event.epoch * spec.recipe.steps_per_epoch == completed
            case ValidationCompleted():
                assert (event.step, event.tokens) == (completed, spec.recipe.validation_tokens)
            case RunFinished():
                assert event.summary.tokens == event.summary.steps * per_step
                assert event.summary.faults == faults
                assert event.summary.attempts == attempt
                if event.reason == "completed":
                    assert event.summary.steps == completed == spec.recipe.total_steps


# 6. A further stream or fault kind changes no other stream's draws.


@given(spec=specs(faults=False), seed=seeds)
def test_a_further_fault_kind_changes_no_other_draws(spec, seed):
    plain = planned(spec)
    often = [replace(kind, rate_per_1000_gpu_days=3e4 / spec.cluster.gpus) for kind in KINDS]
    both = planned(replace(spec, faults=Faults(drawn=tuple(often))))
    alone = planned(replace(spec, faults=Faults(drawn=(often[0],))))
    first = list(itertools.islice(draw_faults(alone, seed), 50))
    mixed = itertools.islice(draw_faults(both, seed), 400)
    assert [fault for fault in mixed if fault.kind == often[0]][:50] == first
    one, other = (Run(p, draw_timeline(plain, seed), seed) for p in (plain, both))
    assert everything(one)[:-1] == everything(other)[:-1]


@given(seed=seeds)
def test_a_kind_that_never_strikes_changes_nothing(seed):
    base = machine_spec("llama-3-8b", "h100-sxm", 64)
    never = replace(PROCESS_KIND, rate_per_1000_gpu_days=0.0)
    faults = Faults(injected=(InjectedFault(WATCHDOG_KIND, 40.0),))
    one = simulate(replace(base, faults=faults), seed)
    other = simulate(replace(base, faults=replace(faults, drawn=(never,))), seed)
    assert everything(one) == everything(other)


# 7. Fewer samples are some of the same samples.


@given(spec=specs(), seed=seeds, every=st.integers(1, 25), times=st.integers(2, 4))
def test_fewer_samples_are_some_of_the_same(spec, seed, every, times):
    run = simulate(spec, seed)
    many = everything(run, sample_every=every)
    few = everything(run, sample_every=every * times)
    sampled = ("fleet", "collective")
    assert {row for row in few if row.kind in sampled} <= {r for r in many if r.kind in sampled}
    assert [r for r in few if r.kind not in sampled] == [r for r in many if r.kind not in sampled]


@given(spec=specs(), seed=seeds)
def test_the_fleet_is_sampled_at_the_first_step_and_every_tenth(spec, seed):
    for event in simulate(spec, seed).events(0.0, math.inf):
        if isinstance(event, StepsCompleted):
            due = [s for s in event.step.tolist() if s == 1 or s % 10 == 0]
            assert ([] if event.fleet is None else event.fleet.step.tolist()) == due


@given(spec=specs(), seed=seeds)
def test_the_fleet_at_a_sampled_moment_is_the_sample(spec, seed):
    run, other = simulate(spec, seed), simulate(spec, seed)
    for event in run.events(0.0, math.inf):
        if isinstance(event, FleetSampled):
            assert fleet_row(other.fleet(event.time_s), 0) == fleet_row(event.samples, 0)
        elif isinstance(event, StepsCompleted) and event.fleet is not None:
            for k, at_s in enumerate(event.fleet.time_s.tolist()):
                assert fleet_row(other.fleet(at_s), 0) == fleet_row(event.fleet, k)


# 8. Simulated time only.


@given(spec=specs(), seed=seeds)
def test_the_wall_clock_and_the_time_zone_are_not_felt(spec, seed):
    whole = everything(simulate(spec, seed))

    def refuse(*_: object) -> float:
        raise AssertionError("the core read a clock")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu" if os.environ.get("TZ") != "UTC" else "UTC")
        time.tzset()
        for name in ("time", "monotonic", "perf_counter", "time_ns"):
            patch.setattr(time, name, refuse)
        elsewhere = everything(simulate(spec, seed))
    time.tzset()
    assert elsewhere == whole


# What follows: the same run again, another seed, other processes, seeking.


@given(spec=specs(), seed=seeds)
def test_the_same_spec_and_seed_is_the_same_run(spec, seed):
    one, other = simulate(spec, seed), simulate(spec, seed)
    assert one.timeline == other.timeline
    assert everything(one) == everything(other)


@given(spec=specs(), seed=seeds)
def test_another_seed_is_another_run(spec, seed):
    one, other = simulate(spec, seed), simulate(spec, (seed + 1) % 2**64)
    assert one.timeline != other.timeline
    assert everything(one)[1:] != everything(other)[1:]


@given(spec=specs(), seed=seeds)
def test_spec_plan_and_timeline_survive_pickling(spec, seed):
    run = simulate(spec, seed)
    again = [pickle.loads(pickle.dumps(part)) for part in (spec, run.plan, run.timeline)]
    assert again == [spec, run.plan, run.timeline]
    assert everything(Run(again[1], again[2], seed)) == everything(run)
    started = next(run.events(0.0, math.inf))
    assert isinstance(started, RunStarted)
    assert started.plan == plan(spec)


@given(spec=specs(), seed=seeds, data=st.data())
def test_steps_are_the_rows_that_finally_counted(spec, seed, data):
    run = simulate(spec, seed)
    done = run.timeline.spans[-1].step
    last: dict[int, tuple[object, ...]] = {}
    for row in everything(run):
        if row.kind == "step":
            last[int(str(row.value[1]))] = row.value[2:]
    if not done:
        with pytest.raises(SpecError, match="asked for"):
            run.steps(1, 1)
        return
    first = data.draw(st.integers(1, done))
    stop = data.draw(st.integers(first, done))
    columns = run.steps(first, stop)
    assert columns.step.tolist() == list(range(first, stop + 1))
    names = [f.name for f in fields(StepColumns) if f.name != "step"]
    for i, step in enumerate(columns.step.tolist()):
        assert last[step][1:] == tuple(getattr(columns, name)[i].tobytes() for name in names)


@given(spec=specs(faults=True), seed=seeds)
def test_replayed_steps_have_the_same_loss_and_gradient_norm(spec, seed):
    seen: dict[int, tuple[float, float, float]] = {}
    run = simulate(spec, seed)
    assume(not any(effect.effect in LOSS_EFFECTS for effect in run.timeline.effects))
    for event in run.events(0.0, math.inf):
        if isinstance(event, StepsCompleted):
            columns = (event.loss, event.grad_norm, event.learning_rate)
            for step, *values in zip(
                event.step.tolist(), *(c.tolist() for c in columns), strict=True
            ):
                assert seen.setdefault(step, tuple(values)) == tuple(values)


# A fault's story.


@st.composite
def struck_runs(draw: st.DrawFn) -> Run:
    """Runs with one watchdog fault in the middle of training and checkpoints before it."""
    model, gpu, gpus = draw(st.sampled_from(MACHINES[4:]))
    base = machine_spec(model, gpu, gpus)
    per_gpu, seq_len = draw(st.sampled_from(LOADS[1:]))
    recipe = replace(
        base.recipe,
        seq_len=seq_len,
        global_batch_size=per_gpu * gpus,
        steps_per_epoch=draw(st.integers(60, 200)),
        warmup_steps=20,
        checkpoint_interval_steps=draw(st.sampled_from((0, 10, 50))),
    )
    spec, seed = replace(base, recipe=recipe), draw(seeds)
    quiet = simulate(spec, seed)
    training = [s for s in quiet.timeline.spans if s.phase is Phase.TRAINING]
    span = draw(st.sampled_from(training))
    at_s = span.start_s + draw(st.floats(0, 0.999)) * span.duration_s
    assume(at_s < span.end_s)
    fault = InjectedFault(WATCHDOG_KIND, at_s, draw(st.none() | st.integers(0, gpus - 1)))
    return simulate(replace(spec, faults=Faults(injected=(fault,))), seed)


@given(run=struck_runs())
def test_the_story_of_a_fault_is_told_in_order(run):
    rows = everything(run)
    events = list(run.events(0.0, math.inf))
    fault = next(e for e in events if isinstance(e, FaultOccurred))
    story = [row for row in rows if row.time_s >= fault.time_s]
    kinds = [row.kind for row in story if row.kind != "step" or row.time_s > fault.time_s]
    kinds = kinds[kinds.index("FaultOccurred") :]
    hang_samples = 10
    assert kinds[: 3 + hang_samples] == [
        "FaultOccurred",
        "MessageLogged",
        "PhaseStarted hang",
        *["fleet"] * hang_samples,
    ]
    rest = [kind for kind in kinds[3 + hang_samples :] if kind != "MessageLogged"]
    assert rest[:6] == [
        "PhaseEnded hang",
        "WatchdogTimedOut",
        "RunAborted",
        "PhaseStarted down",
        "PhaseEnded down",
        "RunRestarted",
    ]
    down = kinds[kinds.index("PhaseStarted down") : kinds.index("PhaseEnded down")]
    assert down.count("MessageLogged") >= 5  # watchdogs, agent, scheduler, operators
    phases = [kind.removeprefix("PhaseEnded ") for kind in rest[6:] if "PhaseEnded" in kind]
    assert phases[: len(INIT_PHASES)] == [phase.value for phase in INIT_PHASES]
    assert kinds.index("TrainingStarted") < kinds.index("step")

    timeout = next(e for e in events if isinstance(e, WatchdogTimedOut))
    aborted = next(e for e in events if isinstance(e, RunAborted))
    restarted = next(e for e in events if isinstance(e, RunRestarted))
    training = [e for e in events if isinstance(e, TrainingStarted)][-1]
    assert timeout.time_s - fault.time_s == pytest.approx(600.0, abs=0.1)
    assert timeout.rank == fault.gpu
    assert aborted.time_s == timeout.time_s
    saved = [e for e in events if isinstance(e, CheckpointSaved) and e.time_s <= fault.time_s]
    kept = saved[-1].step if saved else 0
    assert aborted.checkpoint_step == restarted.step == training.step == kept
    assert training.attempt == restarted.attempt == 2
    replay = next(e for e in events if isinstance(e, StepsCompleted) and e.time_s > training.time_s)
    assert int(replay.step[0]) == kept + 1
    assert not any(
        row.kind == "step" for row in rows if fault.time_s < row.time_s <= training.time_s
    )


@given(run=struck_runs())
def test_nothing_is_written_while_the_ranks_hang(run):
    """Experts look for it: the log is silent for exactly the watchdog's timeout."""
    incident = run.timeline.incidents[0]
    window = rows_of(run.events(math.nextafter(incident.time_s, math.inf), incident.detected_s))
    assert {row.kind for row in window} == {"fleet"}


@given(spec=specs(faults=True), seed=seeds)
def test_every_fault_number_is_told_once_and_in_order(spec, seed):
    run = simulate(spec, seed)
    faults = [e for e in run.events(0.0, math.inf) if isinstance(e, FaultOccurred)]
    assert [e.fault for e in faults] == list(range(1, len(faults) + 1))
    assert len(run.timeline.incidents) == len(faults)


@given(spec=specs(faults=True), seed=seeds)
def test_every_fault_is_labelled_once_and_after_it_began(spec, seed):
    run = simulate(spec, seed)
    events = list(run.events(0.0, math.inf))
    began = {e.fault: e for e in events if isinstance(e, FaultOccurred)}
    labels = [e for e in events if isinstance(e, IncidentLabelled)]
    assert sorted(e.incident for e in labels) == sorted(began)
    for label in labels:
        fault = began[label.incident]
        assert (label.onset_s, label.kind) == (fault.time_s, fault.kind)
        order = (label.onset_s, label.detected_s, label.mitigated_s, label.cleared_s)
        known = [time_s for time_s in order if time_s is not None]
        assert known == sorted(known)
        assert known[-1] <= label.time_s <= run.end_s
        assert 0 <= label.lost_s <= run.end_s
        assert all(fault.time_s <= at_s for _, at_s in label.signals)


@given(spec=specs(faults=True), seed=seeds)
def test_messages_are_of_a_fault_that_has_begun(spec, seed):
    began: set[int] = set()
    gpus, per_node = spec.cluster.gpus, spec.cluster.gpus_per_node
    for event in simulate(spec, seed).events(0.0, math.inf):
        if isinstance(event, FaultOccurred):
            began.add(event.fault)
        elif isinstance(event, MessageLogged):
            assert event.fault in began
            assert event.ranks >= 1
            if event.rank is not None:
                assert 0 <= event.rank < gpus
                assert event.node == event.rank // per_node


# The timeline's own laws.


@given(spec=specs(), seed=seeds)
def test_spans_touch_and_ordinals_only_grow(spec, seed):
    spans = simulate(spec, seed).timeline.spans
    assert spans[0].start_s == 0.0
    for span, following in itertools.pairwise(spans):
        assert span.end_s == following.start_s
        assert span.duration_s >= 0
        lost = span.phase is Phase.TRAINING and span.cut
        assert following.ordinal - span.ordinal in (span.steps, span.steps + lost)
    assert spans[-1].phase is Phase.DONE


@given(spec=specs(), seed=seeds)
def test_shares_of_the_run_time_add_up(spec, seed):
    run = simulate(spec, seed)
    s = run.summary
    shares = (
        s.goodput, s.init_share, s.validation_share, s.checkpoint_share, s.fault_share,
        s.export_share,
    )  # fmt: skip
    assert sum(shares) == pytest.approx(1.0, abs=1e-9)
    assert s.run_time_s == run.end_s
    assert 0 <= s.mean_mfu < 1
