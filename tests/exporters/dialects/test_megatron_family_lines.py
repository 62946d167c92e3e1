"""Every line of a log is one that the tool prints; windows of events leave no trace."""

from __future__ import annotations

import random

import pytest

from tests.exporters.dialects.dialect_runs import (
    KINDS,
    LAYOUTS,
    NAMES,
    fault_run,
    layout_run,
    log_of,
)
from tests.exporters.dialects.line_forms import strangers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_log_of_any_layout_has_only_lines_of_the_tool(name, layout):
    assert strangers(name, log_of(name, layout_run(layout))) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_log_of_any_fault_has_only_lines_of_the_tool(name, kind):
    assert strangers(name, log_of(name, fault_run(kind))) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["nccl-hang", "loss-nan", "job-preempted"])
def test_windows_and_pickling_leave_no_trace(name, kind):
    run, draw = fault_run(kind), random.Random(5)
    at_random = sorted(draw.uniform(0, run.end_s) for _ in range(9))
    at_edges = sorted(
        edge for span in run.timeline.spans[::3] for edge in (span.start_s, span.end_s)
    )
    whole = log_of(name, run)
    assert log_of(name, run, cuts=at_random, is_pickled=True) == whole
    assert log_of(name, run, cuts=at_edges) == whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.02, 0.11, 0.4, 0.73, 0.97])
def test_a_log_may_begin_in_mid_run(name, share):
    run = fault_run("gpu-off-bus")
    part = log_of(name, run, start_s=share * run.end_s)
    assert strangers(name, part) == []
    # Means over other steps and what counts from the launch differ; what is said of stops and
    # faults does not.
    whole = set(log_of(name, run).splitlines())
    own = [line for line in part.splitlines() if line not in whole]
    assert all("iteration " in line or "RunningAvg" in line for line in own)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_told_that_only_the_simulator_knows(name):
    text = log_of(name, fault_run("silent-data-corruption")).lower()
    assert not any(word in text for word in ("corruption", "fault", "incident", "oncall", "seed 7"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("every", [1, 7, 1000])
def test_lines_come_at_the_interval_that_is_asked_for(name, every):
    text = log_of(name, layout_run("dense-ddp"), every)
    assert strangers(name, text) == []


@pytest.mark.parametrize("name", ["deepspeed", "nemo"])
@pytest.mark.parametrize("kind", ["storage-full", "checkpoint-corrupted", "software-bug"])
def test_tracebacks_go_through_the_program_of_the_log(name, kind):
    text = log_of(name, fault_run(kind))
    assert "Traceback" in text
    assert "Megatron-LM" not in text
    assert "step_0" not in text  # folders have the program's names


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("megatron", "iter_0000300/__0_0.distcp"),
        ("deepspeed", "global_step300/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ("nemo", "llama-3-8b--epoch=0-consumed_samples=38400.0-last/weights/__0_0.distcp"),
    ],
)
def test_a_part_of_a_checkpoint_that_finds_no_room(name, path):
    lines = log_of(name, fault_run("storage-full")).splitlines()
    errors = [line for line in lines if "No space left on device" in line]
    assert errors[0].endswith(f"checkpoints/{path}'")
