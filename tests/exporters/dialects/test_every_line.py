"""Every dialect: no line its program does not print, whatever the run, the windows, the start."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.core.events import StepsCompleted, TrainingStarted
from ghosttrain.core.run import simulate
from ghosttrain.exporters.formats import EXPORTERS, LOGS
from tests.exporters.dialects.cases import (
    FAULTS,
    LAYOUTS,
    calm,
    events_of,
    faulty,
    in_precision,
    in_windows,
    lines_of,
    out_of_time,
    spoilt,
    text_of,
    windowed_text,
)
from tests.exporters.dialects.grammar import LINES, NAMES, line_of, strangers
from tests.strategies import moments, seeds, specs

DIALECTS = tuple(LINES)
RANK_ZERO = ("torchtitan", "hf", "hf-v4", "nanogpt")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_line_of_any_layout(dialect):
    runs = {name: spoilt(name) for name in LAYOUTS}
    runs |= {"fp8": in_precision("fp8"), "fp16": in_precision("fp16"), "calm": calm("dense")}
    for name, run in runs.items():
        text = text_of(run, dialect)
        assert (name, strangers(dialect, text)) == (name, [])
        assert text.count("\n") > 10


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_line_of_any_fault(dialect):
    for name in FAULTS:
        text = text_of(faulty(name), dialect)
        assert (name, strangers(dialect, text)) == (name, [])
        assert text.count("\n") > 10


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("every", [1, 7, 1000])
def test_every_line_at_the_interval_that_is_asked_for(dialect, every):
    assert strangers(dialect, text_of(spoilt("tied"), dialect, every)) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_grammar_knows_no_line_of_another_program(dialect):
    """Else the tests above could not fail."""
    foreign = {
        "torchtitan": "[titan] 2026-01-01 00:00:00,000 - root - INFO - Training completed",
        "hf": "***** Running training *****",
        "nanogpt": "iter 0: loss 1.0000, time 1.00ms, mfu 1.00%",
        "megatron": "WARNING:megatron.core.rerun_state_machine:RerunStateMachine initialized in "
        "mode RerunMode.DISABLED",
        "deepspeed": "steps: 10 loss: 1.0000 iter time (s): 1.000 samples/sec: 64.000",
        "nemo": "Validation: iteration 10/32",
    }
    for program, line in foreign.items():
        is_own = program == dialect.removesuffix("-v4")
        assert bool(line_of(dialect).fullmatch(line)) == is_own, line
    assert not line_of(dialect).fullmatch("[rank0]:   File pretrain_gpt.py")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tracebacks_go_through_the_program_of_the_log(dialect):
    for name in ("storage-full", "checkpoint-corrupted", "software-bug"):
        text = text_of(faulty(name), dialect)
        assert "Traceback" in text
        assert f"\n{NAMES[dialect]} FAILED\n" in text
        if dialect != "megatron":
            assert "Megatron-LM" not in text
        if dialect not in ("megatron", "deepspeed"):
            assert "pretrain_gpt" not in text
        assert "step_0" not in text  # folders have the program's names


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_is_told_that_only_the_simulator_knows(dialect):
    text = text_of(faulty("silent-data-corruption"), dialect).lower()
    assert not any(word in text for word in ("corruption", "fault", "incident", "oncall", "seed 7"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_slurm_ends_a_job_that_runs_at_its_time_limit(dialect):
    *_, before, step, limit = lines_of(out_of_time(), dialect)
    assert strangers(dialect, f"{before}\n") == []
    assert step == "srun: Job step aborted: Waiting up to 62 seconds for job step to finish."
    assert re.fullmatch(
        r"slurmstepd: error: \*\*\* STEP \d+\.0 ON gpu-0000 CANCELLED AT 2026-01-01T00:05:00 "
        r"DUE TO TIME LIMIT \*\*\*",
        limit,
    )
    assert "TIME LIMIT" not in text_of(calm("dense"), dialect)


# Windows.


@pytest.mark.parametrize("name", ["loss-nan", "checkpoint-corrupted", "nccl-hang", "job-preempted"])
def test_windows_and_pickling_leave_no_trace(name):
    run, draw = faulty(name), random.Random(5)
    edges = [edge for span in run.timeline.spans[::3] for edge in (span.start_s, span.end_s)]
    at_random = [draw.uniform(0, run.end_s) for _ in range(5)]
    windows, every = in_windows(run, [*edges, *at_random]), draw.choice((1, 7, 10, 64))
    for dialect in (*DIALECTS, "trainer-state"):
        assert windowed_text(run, dialect, every, windows) == text_of(run, dialect, every), dialect


@settings(max_examples=16, deadline=None)
@given(data=st.data())
def test_any_run_in_any_windows(data):
    """Random models, layouts and faults; windows that end where events are."""
    run = simulate(data.draw(specs()), data.draw(seeds))
    events = events_of(run)
    times = [event.time_s for event in events]
    cuts = sorted(data.draw(st.lists(moments(run, times), max_size=4)))
    windows = in_windows(run, cuts)
    for dialect in DIALECTS:
        text = text_of(run, dialect, events=events)
        assert windowed_text(run, dialect, 10, windows) == text, dialect
        assert (dialect, strangers(dialect, text)) == (dialect, [])
        stamps = [line[8:31] for line in text.split("\n") if line.startswith("[titan]")]
        assert stamps == sorted(stamps)
        # A log that begins in the middle.
        later = text_of(run, dialect, events=events[len(windows[0]) :])
        assert (dialect, strangers(dialect, later)) == (dialect, [])
    state = text_of(run, "trainer-state", events=events)
    assert windowed_text(run, "trainer-state", 10, windows) == state
    json.loads(state)


@pytest.mark.parametrize("share", [0.002, 0.02, 0.11, 0.3, 0.55, 0.73, 0.97])
def test_a_log_may_begin_in_mid_run(share):
    run = faulty("gpu-off-bus")
    seen = events_of(run, share * run.end_s)
    launched = [at for at, event in enumerate(seen) if isinstance(event, TrainingStarted)]
    for dialect in DIALECTS:
        part = text_of(run, dialect, events=seen)
        assert (dialect, strangers(dialect, part)) == (dialect, [])
        whole = text_of(run, dialect)
        if dialect in RANK_ZERO:  # once a launch has begun in it, it is the whole log
            if launched:
                again = text_of(run, dialect, events=seen[launched[-1] :]).count("\n")
                assert part.split("\n")[-again:] == whole.split("\n")[-again:]
            continue
        # Means over other steps and what counts from the launch differ; what is said of stops
        # and faults does not.
        known = set(whole.splitlines())
        own = [line for line in part.splitlines() if line not in known]
        assert all("iteration " in line or "RunningAvg" in line for line in own)


@pytest.mark.parametrize("dialect", RANK_ZERO)
def test_the_first_interval_of_a_log_that_begins_between_steps_counts_what_it_saw(dialect):
    run = calm("dense")
    steps = [e for e in events_of(run) if isinstance(e, StepsCompleted) and 20 in e.step]
    at = list(steps[0].step).index(20)
    half_s = float(steps[0].end_s[at]) - 0.5 * float(steps[0].step_time_s[at])
    seen = lines_of(run, dialect, every=20, events=events_of(run, half_s, half_s + 3.0))
    assert len(seen) == (0 if dialect == "nanogpt" else 1)
    if dialect.startswith("hf"):  # of one step the mean is the step's
        assert f"{steps[0].loss[at]:.4g}"[:4] in seen[0]


def test_logs_are_logs_and_have_their_files():
    for dialect in DIALECTS:
        assert LOGS[dialect].file == f"{dialect}.log"
    assert EXPORTERS["trainer-state"].file == "trainer_state.json"
    assert "trainer-state" not in LOGS
