"""Every dialect: no line its program does not print, whatever the run, the windows, the start."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.core.events import StepsCompleted, TrainingStarted
from ghosttrain.core.run import simulate
from ghosttrain.exporters.formats import EXPORTERS, LOGS
from ghosttrain.exporters.writing import Asked
from tests.exporters.dialects.cases import all_runs, calm, events_of, faulty, lines_of, text_of
from tests.exporters.dialects.grammar import JOB, LINES, whole
from tests.strategies import moments, seeds, specs

DIALECTS = tuple(LINES)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_line_is_one_of_the_programs_or_of_the_machines(dialect):
    known = whole((*LINES[dialect], *JOB))
    for name, run in all_runs().items():
        lines = lines_of(run, dialect)
        assert len(lines) > 10
        unknown = [line for line in lines if not known.fullmatch(line)]
        assert (name, unknown) == (name, [])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_grammar_knows_no_line_of_another_program(dialect):
    """Else the test above could not fail."""
    known = whole((*LINES[dialect], *JOB))
    others = {"torchtitan": "iter 0: loss 1.0000, time 1.00ms, mfu 1.00%"}
    line = others.get(dialect, "[titan] 2026-01-01 00:00:00,000 - root - INFO - Training completed")
    assert not known.fullmatch(line)
    assert not known.fullmatch(" iteration        1/      60 | consumed samples:           64 |")
    assert not known.fullmatch("[rank0]:   File pretrain_gpt.py")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_line_speaks_of_another_trainer(dialect):
    for name in ("gpu-fault", "storage-full", "checkpoint-corrupted", "software-bug"):
        text = text_of(faulty(name), dialect)
        assert "Megatron" not in text
        assert "pretrain_gpt" not in text
        assert re.search(r"\w FAILED$", text, re.MULTILINE)


@pytest.mark.parametrize("dialect", [*DIALECTS, "trainer-state"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_windows_are_invisible(dialect, data):
    name = data.draw(st.sampled_from(["loss-nan", "checkpoint-corrupted", "gpu-off-bus"]))
    every = data.draw(st.sampled_from([1, 7, 10, 64]))
    run = faulty(name)
    cuts = data.draw(st.lists(st.floats(0, run.end_s), max_size=6))
    edges = [0.0, *sorted(cuts), math.inf]
    log = EXPORTERS[dialect].log(Asked(run, log_interval=every))
    parts = []
    for start_s, stop_s in itertools.pairwise(edges):
        parts += [log.accept(event) for event in run.events(start_s, stop_s)]
        log = pickle.loads(pickle.dumps(log))
    windowed = b"".join([*parts, log.close()])
    assert windowed == text_of(run, dialect, every).encode()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("share", [0.002, 0.02, 0.3, 0.55, 0.97])
def test_a_log_may_begin_anywhere(dialect, share):
    known = whole((*LINES[dialect], *JOB))
    run = faulty("gpu-fault")
    start_s = share * run.end_s
    later = lines_of(run, dialect, events=events_of(run, start_s))
    assert [line for line in later if not known.fullmatch(line)] == []
    # Once a launch has begun in it, it is the whole log.
    launched = [e.time_s for e in events_of(run, start_s) if isinstance(e, TrainingStarted)]
    if launched:
        whole_log = lines_of(run, dialect)
        again = len(lines_of(run, dialect, events=events_of(run, launched[-1])))
        assert later[-again + 1 :] == whole_log[-again + 1 :]


@pytest.mark.parametrize("dialect", DIALECTS)
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


@pytest.mark.parametrize("dialect", [*DIALECTS, "trainer-state"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_run_in_any_windows(dialect, data):
    """Random models, layouts and faults; windows that end where events are."""
    run = simulate(data.draw(specs()), data.draw(seeds))
    events = events_of(run)
    times = [event.time_s for event in events]
    cuts = sorted(data.draw(st.lists(moments(run, times), max_size=4)))
    log = EXPORTERS[dialect].log(Asked(run, log_interval=10))
    parts = []
    for start_s, stop_s in itertools.pairwise([0.0, *cuts, math.inf]):
        parts += [log.accept(event) for event in run.events(start_s, stop_s)]
    text = b"".join([*parts, log.close()]).decode()
    assert text == text_of(run, dialect, events=events)
    if dialect == "trainer-state":
        json.loads(text)
        return
    known = whole((*LINES[dialect], *JOB))
    lines = text.split("\n")[:-1]
    assert [line for line in lines if not known.fullmatch(line)] == []
    stamps = [line[8:31] for line in lines if line.startswith("[titan]")]
    assert stamps == sorted(stamps)
    if cuts:  # a log that begins in the middle
        later = lines_of(run, dialect, events=events_of(run, cuts[0]))
        assert [line for line in later if not known.fullmatch(line)] == []
