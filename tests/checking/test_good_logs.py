"""Logs of lawful runs are clean, whatever was asked."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ghosttrain import catalog
from ghosttrain.catalog.scenarios import scenario_names
from ghosttrain.checking import UnknownFormatError
from ghosttrain.cli.check_random import (
    check_both,
    classic_log,
    jsonl_log,
    random_run,
    scenario_faults,
)
from ghosttrain.core.run import simulate
from ghosttrain.views.renderables.classic import ClassicWriter
from ghosttrain.views.renderables.glyphs import ASCII
from tests.checking.logs import (
    check,
    faulty_run,
    good_classic,
    good_jsonl,
    good_run,
    small_spec,
    struck,
)


def texts(reports):
    return [
        f"{name}:{v.line}: {v.invariant}: {v.text}"
        for name, report in reports.items()
        for v in report.violations()
    ]


# Even seeds run undisturbed, at odd ones a fault strikes.
@pytest.mark.parametrize("seed", range(20))
def test_logs_of_random_runs_are_clean(seed):
    reports = check_both(random_run(seed))
    assert texts(reports) == []
    assert all(report.notes == [] for report in reports.values())
    assert reports["jsonl"].steps >= reports["classic"].steps > 0


@pytest.mark.parametrize(
    "recipe",
    [
        {"schedule": "linear"},
        {"schedule": "wsd"},
        {"schedule": "constant"},
        {"warmup_steps": 0},
        {"continued_loss": 2.1},
        {"validation_interval_steps": 15},
        {"epochs": 1, "steps_per_epoch": 7, "warmup_steps": 2},
        {"epochs": 5, "steps_per_epoch": 3, "warmup_steps": 2},
        {"precision": "fp8"},
    ],
    ids=str,
)
def test_logs_of_other_recipes_are_clean(recipe):
    reports = check_both(simulate(small_spec(**recipe), 5))
    assert texts(reports) == []


@pytest.mark.parametrize("share", [0.01, 0.15, 0.5, 0.62, 0.97, 0.999])
def test_a_fault_at_any_time_leaves_clean_logs(share):
    """In the launch, in training, in a validation or checkpoint, in the export."""
    end_s = good_run().end_s
    run = simulate(struck(small_spec(), share * end_s, share * end_s + 2500.0), 11)
    assert texts(check_both(run)) == []


@pytest.mark.parametrize("kind", catalog.names("fault"))
def test_every_kind_of_fault_leaves_clean_logs(kind):
    """Early, and once more when the first may still be felt."""
    either = 0 < catalog.fault_kind(kind).hang_share < 1
    for hangs in (False, True) if either else (None,):
        run = faulty_run(f"{kind}@30", f"{kind}@130", hangs=hangs)
        assert len(run.timeline.incidents) >= 1
        assert texts(check_both(run)) == []


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_leaves_clean_logs(name):
    spec, end_s = small_spec(steps_per_epoch=120), faulty_run().end_s
    faults = scenario_faults(name, spec, end_s, 3)
    assert texts(check_both(simulate(replace(spec, faults=faults), 3))) == []


@pytest.mark.parametrize("share", [0.05, 0.3, 0.45, 0.5, 0.55, 0.6, 0.9])
def test_a_time_limit_anywhere_leaves_clean_logs(share):
    """In the first launch, in training, in the hang, in the downtime, in the next launch."""
    run = good_run(with_fault=True)
    spec = replace(run.spec, time_limit_s=share * run.end_s)
    assert texts(check_both(simulate(spec, run.seed))) == []


def test_other_log_intervals_and_ascii_are_clean():
    run = good_run()
    for every in (1, 7, 25):
        writer = ClassicWriter(glyphs=ASCII, every=every)
        events = run.events(0.0, float("inf"), sample_every=every)
        report = check(b"".join(writer.accept(event) for event in events))
        assert report.violations() == []
        assert report.steps >= 120 // every


def test_runs_one_after_the_other_are_checked_each():
    for log in (good_jsonl, good_classic):
        report = check(log() + log() + log(), complete=True)
        assert report.violations() == []
        assert report.runs == 3


def test_colours_and_carriage_returns_of_a_terminal_are_read():
    lines = good_classic().decode().splitlines()
    captured = "".join(f"\x1b[2m{line[:21]}\x1b[0m{line[21:]}\x1b[K\r\n" for line in lines)
    report = check(captured.encode())
    assert report.violations() == []
    assert report.steps == check(good_classic()).steps


def test_pinned_bars_between_the_lines_are_checked():
    bars = (
        "Epoch: [===>                     ] 1/3  14%\n"
        "Step:  [=============>                     ]  41% | Loss: 3.6401 | PPL: {} |"
        " LR: 2.95e-04 | 424690 tok/s | MFU 41.0% | 16m52s<1h50m\n"
    )
    assert check(good_classic() + bars.format("38.10").encode()).violations() == []
    (wrong,) = check(good_classic() + bars.format("39.10").encode()).violations()
    assert wrong.invariant == "bars-agree-with-themselves"


def test_lines_cut_with_an_ellipsis_are_read_up_to_it():
    lines = good_classic().decode().splitlines()
    cut = "\n".join(line if len(line) <= 80 else line[:79] + "…" for line in lines) + "\n"
    report = check(cut.encode())
    assert [v for v in report.violations() if v.invariant != "readable-lines"] == []


def test_a_window_of_a_run_is_checked_as_far_as_it_goes():
    lines = good_jsonl().splitlines(keepends=True)
    report = check(b"".join(lines[70:120]))
    assert report.violations() == []
    assert any("begins in mid-run" in note for note in report.notes)


def test_a_truncated_log_is_noted_and_with_complete_a_violation():
    for log in (good_jsonl(), good_classic()):
        cut = log[: int(len(log) * 0.6)]
        report = check(cut)
        assert report.violations() == []
        assert any("not complete" in note for note in report.notes)
        assert [v.invariant for v in check(cut, complete=True).violations()] == [
            "runs-are-complete"
        ]


def test_an_interrupted_log_is_complete_enough():
    before = good_classic().partition(b"GPU status | step 50 ")[0]
    report = check(before + b"Interrupted at 2026-01-01 00:02:00: again with ...\n")
    assert report.violations() == []
    assert any("was interrupted" in note for note in report.notes)


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_makes_it_fail(seed):
    """Whatever bytes come, there is a report and no exception."""
    dice = random.Random(seed)
    log = bytearray((good_jsonl if seed % 2 else good_classic)(with_fault=seed % 3 == 0))
    for _ in range(dice.randint(1, 40)):
        at = dice.randrange(len(log))
        what = dice.randrange(4)
        if what == 0:
            log[at] = dice.randrange(256)
        elif what == 1:
            del log[at : at + dice.randint(1, 300)]
        elif what == 2:
            log[at:at] = dice.choice(
                [b"\0", b"\n", b"1e999", b"NaN", b"null", b'"', b"{}", b"\xff"]
            )
        else:
            log[at] = dice.choice(b"0123456789-.")
    try:
        check(bytes(log))
    except UnknownFormatError:
        assert seed >= 0


def test_logs_are_the_writers_own():
    """The helpers write what the commands write."""
    assert jsonl_log(good_run()) == good_jsonl()
    assert classic_log(good_run()).decode().rstrip().endswith("successfully!")
