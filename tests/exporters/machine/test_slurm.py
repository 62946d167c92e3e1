"""Slurm's and torchrun's lines: a file a job, each line one that they write."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ghosttrain.core.events import MessageKind, MessageLogged
from ghosttrain.core.identity import agent_process_id, job_id
from ghosttrain.core.run import simulate
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import KINDS, faulty_run, files_of
from tests.golden.timelines import SEED

AGENT = re.compile(
    r"^[WE]\d{4} [\d:.]{15} (?P<pid>\d+) torch/distributed/"
    r"(?:elastic/multiprocessing/api|run)\.py:\d+\] "
    r"(?:Sending process \d+ closing signal SIGTERM"
    r"|failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local>\d+) \(pid: \d+\) of binary: \S+"
    r"|\*{41}|Setting OMP_NUM_THREADS environment variable for each process to be 1 in default, .+ "
    r"|)$"
)
SRUN = re.compile(
    r"^srun: error: (?:Node failure on \S+|(?P<hosts>\S+): tasks? [\d,\-]+: .+)$"
    r"|^srun: Job step aborted: Waiting up to 62 seconds for job step to finish\.$"
)
STEPD = re.compile(
    r"^slurmstepd: error: \*\*\* (?:JOB|STEP) (?P<id>[\d.]+) ON (?P<node>\S+) CANCELLED AT "
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) DUE (?P<why>.+) \*\*\*$"
)
CONTROLLER = re.compile(
    r"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\] error: Nodes \S+ not responding, setting DOWN$"
)
BLOCK = re.compile(
    r"^(?:Traceback \(most recent call last\):|  File \".+\", line \d+, in \w+|    .+"
    r"|torch\.distributed\.elastic\.multiprocessing\.errors\.ChildFailedError: |=+|-+"
    r"|pretrain_gpt\.py FAILED|Failures:|  <NO_OTHER_FAILURES>|Root Cause .+:|\[\d+\]:"
    r"|  (?:time      |host      |rank      |exitcode  |error_file|traceback ): .+)$"
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_one_of_slurms_or_torchruns(kind: str):
    run = faulty_run(kind)
    files = files_of(Asked(run), "slurm")
    attempts = run.timeline.spans[-1].attempt
    jobs = {f"slurm-{job_id(SEED, attempt)}.out" for attempt in range(1, attempts + 1)}
    assert set(files) - {"slurmctld.log"} == jobs
    for file, text in files.items():
        patterns = (CONTROLLER,) if file == "slurmctld.log" else (AGENT, SRUN, STEPD, BLOCK)
        for line in text.splitlines():
            assert any(pattern.match(line) for pattern in patterns), line
            if found := STEPD.match(line):
                assert found["id"].split(".")[0] == file[6:-4]


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_is_in_the_file_of_its_job(kind: str):
    run = faulty_run(kind)
    files = files_of(Asked(run), "slurm")
    marks = {
        MessageKind.AGENT_FAILED: "failed (exitcode: ",
        MessageKind.AGENT_SUMMARY: "pretrain_gpt.py FAILED",
        MessageKind.TASK_EXITED: "Exited with exit code",
        MessageKind.STEP_CANCELLED: "CANCELLED AT",
        MessageKind.PREEMPTED: "CANCELLED AT",
        MessageKind.NODE_FAILED: "srun: error: Node failure on",
    }
    counted: dict[tuple[str, str], int] = {}
    for event in run.events(0.0, float("inf")):
        if isinstance(event, MessageLogged) and event.message in marks:
            file = f"slurm-{job_id(SEED, event.attempt)}.out"
            times = event.ranks if event.message is MessageKind.NODE_FAILED else 1
            key = file, marks[event.message]
            counted[key] = counted.get(key, 0) + times
    found = {
        (file, mark): text.count(mark)
        for file, text in files.items()
        for mark in set(marks.values())
        if mark in text
    }
    assert found == counted


def test_every_agent_starts_in_every_job_a_spare_in_the_place_of_what_it_replaces():
    run = faulty_run("gpu-off-bus")
    files = files_of(Asked(run), "slurm")
    spares = dict(run.timeline.spares(2))
    assert list(spares) == [2]
    for attempt, physical in ((1, range(8)), (2, [spares.get(n, n) for n in range(8)])):
        lines = files[f"slurm-{job_id(SEED, attempt)}.out"].splitlines()
        pids = {
            int(m["pid"]) for line in lines if "Setting OMP" in line and (m := AGENT.match(line))
        }
        assert pids == {agent_process_id(machine, attempt) for machine in physical}


def test_a_job_that_runs_at_its_time_limit_is_cancelled():
    run = faulty_run("gpu-off-bus")
    launch = next(span for span in run.timeline.spans if span.attempt == 2)
    limit_s = launch.start_s + 30.0  # the second launch runs
    cut = simulate(replace(run.spec, time_limit_s=limit_s), SEED)
    files = files_of(Asked(cut), "slurm")
    last = files[f"slurm-{job_id(SEED, 2)}.out"].splitlines()[-1]
    found = STEPD.match(last)
    assert found
    assert found["why"] == "TO TIME LIMIT"
    ended = datetime.fromtimestamp(run.spec.start_unix_s + math.floor(limit_s), UTC)
    assert found["at"] == f"{ended:%Y-%m-%dT%H:%M:%S}"
    down_s = launch.start_s - 1.0  # no job runs: nobody is told
    cut = simulate(replace(run.spec, time_limit_s=down_s), SEED)
    assert "TIME LIMIT" not in "".join(files_of(Asked(cut), "slurm").values())
