"""Every scenario of the library, as `ghosttrain run --faults NAME --format jsonl` plays it.

A run of some hours on 64 GPUs, one of another model on 128: scenarios speak of hours, so steps are
long and few.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest

from ghosttrain.catalog.scenarios import scenario_kinds, scenario_names
from ghosttrain.checking import check_lines
from ghosttrain.cli import run as run_command
from ghosttrain.cli.common import new_parser, request_from_args, settle
from ghosttrain.cli.main import parse
from ghosttrain.core.events import Phase
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.jsonl import JsonlWriter
from ghosttrain.inputs.request import resolve

MACHINES = {
    "64 GPUs": (
        "thiscouldbeanemail-30b --gpu h100-sxm --gpus 64 --seed 5 --steps 240"
        " --global-batch-size 2048 --log-interval 20"
    ),
    "128 GPUs": (
        "llama-3-70b --gpu h200-sxm --gpus 128 --seed 9 --steps 200 --global-batch-size 1024"
        " --log-interval 20"
    ),
}
DOWN = (Phase.HANG, Phase.DOWN)  # what strikes then finds no process


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario that has been played: the run and what was written of it."""

    run: Run
    log: bytes

    @property
    def rows(self):
        """The rows that are no steps and no samples."""
        return [
            json.loads(line)
            for line in self.log.splitlines()
            if not line.startswith((b'{"event":"step"', b'{"event":"fleet"'))
        ]


@cache
def played(scenario: str, machine: str) -> Played:
    parser = new_parser("run", "", ())
    run_command.add_arguments(parser)
    words = [*MACHINES[machine].split(), "--faults", scenario, "--format", "jsonl"]
    args = parse(parser, words)
    settle(args, watched=False)
    run = simulate(resolve(request_from_args(args), args.seed), args.seed)
    writer = JsonlWriter()
    events = run.events(0.0, float("inf"), sample_every=args.log_interval)
    return Played(run, b"".join(writer.accept(event) for event in events))


every_scenario = pytest.mark.parametrize("scenario", scenario_names())
every_machine = pytest.mark.parametrize("machine", MACHINES)


@every_machine
@every_scenario
def test_it_runs_to_its_end(scenario, machine):
    result = played(scenario, machine)
    last = result.rows[-1]
    assert (last["event"], last["reason"]) == ("run_finished", "completed")
    assert last["summary"]["steps"] == result.run.spec.recipe.total_steps


@every_machine
@every_scenario
def test_what_it_asks_for_comes_and_is_labelled(scenario, machine):
    result = played(scenario, machine)
    come, labelled = (
        Counter(row["kind"] for row in result.rows if row["event"] == event)
        for event in ("fault_occurred", "incident_labelled")
    )
    asked = Counter(fault.kind.name for fault in result.run.spec.faults.injected)
    excused = Counter(
        fault.kind.name
        for fault in result.run.spec.faults.injected
        if fault.at_step > result.run.spec.recipe.total_steps
        or (not fault.at_step and is_out_of_reach(result.run, fault.at_s))
    )
    assert set(asked) == set(scenario_kinds(scenario))
    assert labelled == come
    assert come <= asked
    assert asked - excused <= come


def is_out_of_reach(run: Run, at_s: float) -> bool:
    """Whether the run has ended by then, or is down and comes back no more."""
    later = run.timeline.spans[run.timeline.index_at(min(at_s, run.end_s)) :]
    return all(span.phase in (*DOWN, Phase.DONE) for span in later)


@every_machine
def test_hardly_any_fault_of_the_library_is_missed(machine):
    runs = [played(scenario, machine).run for scenario in scenario_names()]
    asked = sum(len(run.spec.faults.injected) for run in runs)
    come = sum(len(run.timeline.incidents) for run in runs)
    assert asked > 2 * len(runs)
    assert come / asked > 0.93
    assert all(run.timeline.incidents for run in runs)


@every_machine
@every_scenario
def test_the_checker_finds_nothing(scenario, machine):
    report = check_lines(io.BytesIO(played(scenario, machine).log), complete=True)
    assert (report.format, report.runs) == ("jsonl", 1)
    assert report.violations() == []
    assert not report.notes
