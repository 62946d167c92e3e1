"""Contradictions planted around faults of every sort are found: the invariant and the row."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from ghosttrain.cli.check_random import check_both, classic_log
from tests.checking.logs import (
    Row,
    check,
    faulty_jsonl,
    faulty_run,
    found,
    log_of,
    rows_of,
    spoilt_line,
    spoilt_row,
    where,
)

CRASH = ("cuda-oom@85",)
HANG = ("nccl-hang@85",)
GONE = ("host-crash@50",)  # of node 0, whose ranks are 0 to 7
LOST_GPU = ("gsp-timeout@85",)
NAN = ("loss-nan@150",)
FULL = ("storage-full@90",)
ASKED = ("host-maintenance@50",)
SLOW_SAVE = ("storage-slow@30",)
CORRUPT = ("checkpoint-corrupted@70", "cuda-oom@85")
SIGNS = ("pcie-replays@20", "ecc-sbe-storm@30")
SLOW = ("noisy-neighbour@100",)
XID = ("gpu-fault@85",)
# Processes hang or end as the tests need it.
HANGS = {HANG: True, GONE: True, LOST_GPU: True, CRASH: False, CORRUPT: False, XID: False}
EVERY = (CRASH, HANG, GONE, LOST_GPU, NAN, FULL, ASKED, SLOW_SAVE, CORRUPT, SIGNS, SLOW, XID)


def log_with(faults: tuple[str, ...]) -> bytes:
    return faulty_jsonl(*faults, hangs=HANGS.get(faults))


@pytest.mark.parametrize("faults", EVERY, ids=" ".join)
def test_logs_with_these_faults_are_clean(faults):
    for name, report in check_both(faulty_run(*faults, hangs=HANGS.get(faults))).items():
        assert [f"{name}: {v}" for v in report.violations()] == []
        assert report.notes == []


def message(kind: str, **more: Any) -> Row:
    return {"event": "message_logged", "message": kind} | more


def label(kind: str) -> Row:
    return {"event": "incident_labelled", "kind": kind}


def plus(name: str, amount: float) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row[name] += amount

    return change


def signal(name: str, time_s: float) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row["signals"][name] = time_s

    return change


def cell(name: str, index: int, value: float) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row[name][index] = value

    return change


FLEET = {"event": "fleet", "step": 100}
FAULT = {"event": "fault_occurred"}
ABORT = {"event": "run_aborted"}
RESTART = {"event": "run_restarted"}
SAMPLE_OF_HANG = {"event": "fleet", "step": 84}

# Faults of the run, which row, what is changed, the invariants that fire, a piece of a text.
PLANTED: tuple[tuple[tuple[str, ...], Row, Row | Callable[[Row], None], str, str], ...] = (
    (CRASH, FAULT, {"kind": "gremlins"}, "faults-are-of-a-known-kind", "kind 'gremlins'"),
    (XID, FAULT, {"xid": 43}, "faults-are-of-a-known-kind", "Xid 43, expected 31"),
    (GONE, FAULT, {"gpus": 3}, "faults-are-of-a-known-kind", "GPUs of a node 3, expected 8"),
    (CRASH, FAULT, {"gpus": 2}, "faults-are-of-a-known-kind", "GPUs of a gpu 2, expected 1"),
    (HANG, FAULT, {"gpus": 8}, "faults-are-of-a-known-kind", "GPUs of a job 8, expected 16"),
    (CRASH, FAULT, {"attempt": 2}, "faults-are-numbered", "attempt 2, expected 1"),
    (
        CRASH,
        message("agent_failed"),
        {"fault": 7},
        "messages-are-of-a-fault",
        "agent_failed of fault 7, expected a fault that has occurred",
    ),
    (
        XID,
        message("kernel_xid"),
        {"code": 79},
        "messages-are-of-a-fault",
        "Xid 79 of fault 1 (gpu-fault), expected 31, 43",
    ),
    (
        CRASH,
        message("torch_cuda_oom"),
        {"message": "trainer_storage_full", "value": 112423657472},
        "messages-are-of-a-fault",
        "expected one of full-storage",
    ),
    (
        CRASH,
        message("torch_cuda_oom"),
        {"node": 1},
        "messages-are-of-a-place",
        "node of the rank 1, expected 0",
    ),
    (CRASH, message("torch_cuda_oom"), {"rank": 16}, "messages-are-of-a-place", "rank 16"),
    (CRASH, message("agent_sigterm"), {"ranks": 17}, "messages-are-of-a-place", "17"),
    (CRASH, message("agent_failed"), {"attempt": 2}, "messages-are-of-a-place", "attempt 2"),
    (CRASH, message("agent_failed"), {"step": 83}, "events-name-the-last-step", "83, expected 84"),
    (
        NAN,
        message("trainer_nan_loss"),
        {"value": 150},
        "messages-tell-what-was-seen",
        "without a loss 150, expected 151",
    ),
    (
        FULL,
        message("trainer_storage_full"),
        {"value": 10.0},
        "messages-tell-what-was-seen",
        "bytes 10, expected 112,423,657,472",
    ),
    (
        CORRUPT,
        message("trainer_checkpoint_corrupt"),
        {"value": 40},
        "messages-tell-what-was-seen",
        "unreadable checkpoint of step 40, expected 80",
    ),
    (
        GONE,
        message("scheduler_step_cancelled"),
        {"spares": [[0, 1]]},
        "spares-are-known",
        "physical node of a spare 1, expected at least 2",
    ),
    (
        GONE,
        message("scheduler_step_cancelled"),
        {"spares": [[0, 2], [1, 2]]},
        "spares-are-known",
        "two places with one spare",
    ),
    (
        GONE,
        message("torch_watchdog_status"),
        {"rank": 3, "node": 0},
        "the-dead-say-nothing",
        "rank 3 writes, which is gone by fault 1 (host-crash)",
    ),
    (GONE, {"event": "watchdog_timed_out"}, {"reporter": 1}, "the-dead-say-nothing", "rank 1"),
    (
        GONE,
        {"event": "watchdog_timed_out"},
        {"waiting_ranks": 15},
        "watchdogs-wait-their-time",
        "waiting ranks 15, expected 8",
    ),
    (CRASH, ABORT, {"fault": 2}, "aborts-have-a-fault", "abort by fault 2"),
    (CRASH, ABORT, {"attempt": 2}, "aborts-have-a-fault", "attempt 2, expected 1"),
    (
        CRASH,
        ABORT,
        {"reason": "maintenance"},
        "aborts-have-a-fault",
        "abort for maintenance by fault 1 (cuda-oom), expected a fault that asks the run to end",
    ),
    (
        CRASH,
        ABORT,
        {"checkpoint_step": 81},
        "aborts-fall-back-to-a-checkpoint",
        "checkpoint step 81, expected 80",
    ),
    (
        CORRUPT,
        ABORT,
        {"checkpoint_step": 41},
        "aborts-fall-back-to-a-checkpoint",
        "checkpoint step 41, expected one that was saved, or 0",
    ),
    (
        NAN,
        ABORT,
        {"checkpoint_step": 80},
        "aborts-fall-back-to-a-checkpoint",
        "checkpoint step 80, expected 0 to 51",
    ),
    (
        CRASH,
        RESTART,
        {"nodes": [0]},
        "spares-take-the-faulty-place",
        "replaced node 0, expected the same nodes",
    ),
    (
        GONE,
        RESTART,
        {"nodes": [1]},
        "spares-take-the-faulty-place",
        "node 1 swapped after fault 1 (host-crash), expected node 0, the faulty one",
    ),
    (GONE, RESTART, {"nodes": []}, "spares-take-the-faulty-place", "node none swapped"),
    (
        CRASH,
        RESTART,
        {"skipped_batches": 300},
        "batches-are-skipped-by-a-rollback",
        "skipped batches, expected a fault that is rolled back",
    ),
    (
        NAN,
        message("trainer_rollback"),
        plus("value", 1),
        "messages-tell-what-was-seen",
        "(the restart's)",
    ),
    (
        NAN,
        RESTART,
        {"skipped_batches": 0},
        "batches-are-skipped-by-a-rollback",
        "no batches skipped after fault 1 (loss-nan), expected some",
    ),
    (
        ASKED,
        {"event": "checkpoint_saved", "step": 80},
        {"reason": "asked"},
        "checkpoints-have-a-reason",
        "checkpoint somebody asked for, expected a fault to end for",
    ),
    (
        CRASH,
        label("cuda-oom"),
        {"incident": 2},
        "labels-are-of-their-fault",
        "label of fault 2, expected a fault that has occurred",
    ),
    (
        CRASH,
        label("cuda-oom"),
        {"kind": "host-oom"},
        "labels-are-of-their-fault",
        "label of host-oom, expected cuda-oom",
    ),
    (CRASH, label("cuda-oom"), {"first_rank": 6}, "labels-are-of-their-fault", "6, expected 5"),
    (SLOW, label("noisy-neighbour"), plus("severity", 0.1), "labels-are-of", "severity"),
    (CRASH, label("cuda-oom"), plus("onset_s", 0.5), "labels-are-of-their-fault", "onset"),
    (
        CRASH,
        label("cuda-oom"),
        {"family": "gpu"},
        "labels-are-as-the-catalogue-says",
        "family gpu, expected software",
    ),
    (
        SIGNS,
        label("pcie-replays"),
        {"benign": False},
        "labels-are-as-the-catalogue-says",
        "pcie-replays not benign",
    ),
    (
        CRASH,
        label("cuda-oom"),
        {"entity": "gpu 6"},
        "labels-are-as-the-catalogue-says",
        "entity 'gpu 6', expected 'gpu 5'",
    ),
    (
        GONE,
        label("host-crash"),
        {"entity": "node 1"},
        "labels-are-as-the-catalogue-says",
        "expected 'node 0'",
    ),
    (
        CRASH,
        label("cuda-oom"),
        {"mitigated_s": 1e6},
        "labels-tell-times-in-order",
        "mitigated_s 1,000,000",
    ),
    (
        CRASH,
        label("cuda-oom"),
        plus("cleared_s", -1.0),
        "labels-tell-times-in-order",
        "time of the label",
    ),
    (CRASH, label("cuda-oom"), signal("log", 1.0), "labels-tell-times-in-order", "signals.log 1,"),
    (
        CRASH,
        label("cuda-oom"),
        plus("detected_s", 3.0),
        "labels-agree-with-the-course",
        "(the abort)",
    ),
    (NAN, label("loss-nan"), plus("detected_s", 20.0), "labels-agree-with-the-course", "abort"),
    (
        CRASH,
        label("cuda-oom"),
        plus("steps_lost", 1),
        "labels-count-what-was-lost",
        "steps lost 5, expected 4",
    ),
    (SLOW, label("noisy-neighbour"), {"lost_s": 1e5}, "labels-count-what-was-lost", "100,000"),
    (
        LOST_GPU,
        SAMPLE_OF_HANG,
        {"lost": []},
        "lost-gpus-read-zero",
        "GPUs that answer 15, expected 16",
    ),
    (
        HANG,
        SAMPLE_OF_HANG,
        cell("tensor_active", 3, 0.01),
        "nothing-is-computed-in-a-hang",
        "tensor_active in a hang 0.01, expected 0",
    ),
    (HANG, SAMPLE_OF_HANG, cell("ib_gbs", 3, 9.0), "nothing-is-computed-in-a-hang", "ib_gbs"),
    (CRASH, FLEET, cell("sm_active", 2, 1.2), "activity-is-part-of-utilisation", "SM activity"),
    (
        CRASH,
        FLEET,
        cell("tensor_active", 2, 0.999),
        "activity-is-part-of-utilisation",
        "tensor activity",
    ),
    (CRASH, FLEET, cell("sm_clock_mhz", 2, 0), "clocks-run", "GPUs without a clock 1, expected 0"),
    (CRASH, FLEET, cell("nvlink_gbs", 2, -1.0), "clocks-run", "nvlink_gbs -1"),
    (
        CRASH,
        FLEET,
        {"signs": {"pcie-replay": {"4": 3}}},
        "signs-are-of-a-fault",
        "pcie-replay at GPU 4, expected a fault that leaves it there",
    ),
    (
        SIGNS,
        {"event": "fleet", "step": 230},
        {"signs": {"ecc-corrected": {"5": 1}}},
        "signs-are-of-a-fault",
        "ecc-corrected of GPU 5 1, expected at least ",
    ),
    (
        NAN,
        {"event": "step", "step": 152},
        {"grad_norm": 0.5},
        "losses-are-finite-and-positive",
        "rows without grad_norm 0, expected 1",
    ),
    (
        SLOW,
        {"event": "step", "step": 90},
        {"loss": None, "ppl": None, "grad_norm": None},
        "losses-are-finite-and-positive & only-unknown-losses-have-no-mean",
        "rows without loss 1, expected 0",
    ),
    (
        SLOW,
        {"event": "epoch_completed", "epoch": 1},
        {"mean_loss": None},
        "only-unknown-losses-have-no-mean",
        "no mean of 0 unknown losses",
    ),
    (
        SLOW,
        {"event": "validation_completed", "step": 120},
        {"loss": None, "accuracy": None},
        "unknown-validations-have-a-cause",
        "a validation without a loss",
    ),
    (
        SLOW,
        {"event": "step", "step": 130},
        {"eta_s": 99_999.0},
        "eta-counts-down",
        "ETA 99,999",
    ),
)


@pytest.mark.parametrize(
    ("faults", "at", "change", "invariants", "text"),
    PLANTED,
    ids=[f"{case[3]}-{i}" for i, case in enumerate(PLANTED)],
)
def test_a_changed_row_is_found(faults, at, change, invariants, text):
    log, line = spoilt_row(log_with(faults), at, change)
    wrong = found(log)
    for invariant in invariants.split(" & "):
        assert any(name.startswith(invariant) for name in wrong), wrong
    texts = [told for name in wrong for _, told in wrong[name]]
    assert any(text in told for told in texts), texts
    assert line in [at_line for name in wrong for at_line, _ in wrong[name]]


def rows_with(faults: tuple[str, ...]) -> list[Row]:
    return rows_of(log_with(faults))


def broken(rows: list[Row]) -> dict[str, list[tuple[int, str]]]:
    return found(log_of(rows))


def moved(row: Row, time_s: float) -> Row:
    return row | {"time_s": time_s}


def test_a_phase_that_takes_thrice_its_plan_is_found():
    rows = rows_with(SLOW)
    at = where(rows, event="phase_started", phase="weights")
    rows[at]["expected_s"] /= 3
    ((line, text),) = broken(rows)["phases-last-as-planned"]
    assert line == at + 2
    assert text.startswith("duration of weights ")


def test_another_gpu_lost_than_the_fault_s_is_found():
    rows = rows_with(LOST_GPU)
    samples = [i for i, row in enumerate(rows) if row.get("lost")]
    for i in samples:
        for name, values in rows[i].items():
            if isinstance(values, list) and len(values) == 16:
                values[5], values[6] = values[6], values[5]
            elif name == "lost":
                rows[i]["lost"] = [6]
    wrong = broken(rows)
    assert set(wrong) == {"lost-gpus-are-those-of-the-fault", "aborts-have-a-fault"}
    assert [line for line, _ in wrong["lost-gpus-are-those-of-the-fault"]] == [
        i + 1 for i in samples[:10]
    ]
    text = wrong["aborts-have-a-fault"][0][1]
    assert text == "lost GPUs [6], expected 5 of fault 1 (gsp-timeout)"


def test_a_rank_that_speaks_before_the_watchdog_is_found():
    rows = rows_with(HANG)
    at = where(rows, message="torch_watchdog_status")
    start = where(rows, event="phase_started", phase="hang")
    rows.insert(start + 2, moved(rows[at], rows[start]["time_s"] + 100.0))
    wrong = broken(rows)
    ((line, text),) = wrong["hangs-are-silent"]
    assert (line, text) == (
        start + 3,
        "torch_watchdog_status before the watchdog, expected silence",
    )


@pytest.mark.parametrize("late_s", [-5.0, 5.0])
def test_a_watchdog_out_of_time_is_found(late_s):
    rows = rows_with(HANG)
    first = where(rows, event="phase_ended", phase="hang")
    for row in rows[first:]:
        row["time_s"] += late_s
    rows[first]["duration_s"] += late_s
    assert "seconds waited 25" in broken(rows)["watchdogs-wait-their-time"][0][1] or late_s < 0
    assert len(broken(rows)["watchdogs-wait-their-time"]) == 1


def test_a_standstill_without_a_fault_is_found():
    rows = rows_with(CRASH)
    start = where(rows, event="phase_started", phase="hang")
    kept = [row for row in rows if row.get("fault") != 1 or row["event"] == "run_aborted"]
    wrong = broken(kept)
    line = where(kept, event="phase_started", phase="hang") + 1
    assert wrong["standstills-have-a-fault"] == [
        (line, "a standstill without a cause, expected a fault that strikes")
    ]
    assert start >= line
    assert "aborts-have-a-fault" in wrong
    assert "summary-counts-faults" in wrong


def test_a_strike_long_after_the_onset_is_found():
    """A fault without a lead strikes at its onset; here it begins six steps earlier."""
    rows = rows_with(CRASH)
    at = where(rows, **FAULT)
    step = where(rows, event="step", step=81)
    fault = rows.pop(at) | {"step": 81, "time_s": rows[step]["time_s"]}
    rows.insert(step + 1, fault)
    wrong = broken(rows)
    assert "beginning of the standstill" in wrong["standstills-have-a-fault"][0][1]


def test_minutes_between_the_last_step_and_the_strike_are_found():
    rows = rows_with(CRASH)
    for row in rows[where(rows, **FAULT) :]:
        row["time_s"] += 1000.0
    wrong = broken(rows)
    assert wrong["cuts-come-within-a-step"][0][1].startswith("seconds since the last end 100")


def test_steps_while_nothing_moves_are_found():
    rows = rows_with(CRASH)
    abort = where(rows, **ABORT)
    step = rows[where(rows, event="step", step=84)]
    for place in (abort + 2, abort - 1):  # in the downtime, in the hang
        spoilt = list(rows)
        spoilt.insert(place, step | {"step": 85, "time_s": rows[place - 1]["time_s"]})
        (line, text), *_ = broken(spoilt)["no-steps-in-a-standstill"]
        assert (line, text[:25]) == (place + 1, "a step while nothing move")


def test_a_step_after_the_checkpoint_that_was_asked_for_is_found():
    rows = rows_with(ASKED)
    saved = where(rows, event="checkpoint_saved", reason="asked")
    step = rows[where(rows, event="step", step=50)]
    rows.insert(saved + 1, step | {"step": 51, "time_s": rows[saved]["time_s"] + 3.0})
    ((line, text),) = broken(rows)["no-steps-in-a-standstill"]
    assert (line, text[:33]) == (saved + 2, "a step after the checkpoint that ")


def test_a_checkpoint_in_the_downtime_is_found():
    rows = rows_with(CRASH)
    abort = where(rows, **ABORT)
    rows.insert(abort + 2, moved(rows[where(rows, event="checkpoint_saved")], 0.0))
    rows[abort + 2]["time_s"] = rows[abort + 1]["time_s"]
    ((line, text),) = broken(rows)["nothing-moves-until-the-restart"]
    assert (line, text) == (
        abort + 3,
        "checkpoint_saved after the abort, expected nothing before the restart",
    )


def test_a_restart_without_an_abort_is_found():
    rows = rows_with(CRASH)
    del rows[where(rows, **ABORT)]
    wrong = broken(rows)
    line = where(rows, **RESTART) + 1
    assert wrong["restarts-follow-an-abort"] == [
        (line, "a restart without an abort, expected the abort before")
    ]


def test_a_forgotten_spare_is_found():
    rows = rows_of(faulty_jsonl("host-crash@50", "cuda-oom@100"))
    late = where(rows, message="agent_failed", attempt=2)
    assert rows[late]["spares"] == [[0, 2]]
    rows[late]["spares"] = []
    assert broken(rows)["spares-are-known"] == [
        (late + 1, "no spare at node 0, expected one where a restart swapped the node")
    ]


def test_a_fault_without_a_label_and_one_with_two_are_found():
    rows = rows_with(CRASH)
    at = where(rows, **label("cuda-oom"))
    (told,) = broken(rows[:at] + rows[at + 1 :])["every-fault-has-a-label"]
    assert told == (
        len(rows) - 1,
        "fault 1 (cuda-oom) without a label, expected one label a fault",
    )
    twice = [*rows[: at + 1], *rows[at:]]
    assert broken(twice)["labels-are-of-their-fault"] == [
        (at + 2, "another label of fault 1, expected one label a fault")
    ]


def test_a_label_before_its_fault_is_found():
    rows = rows_with(SIGNS)
    at = where(rows, **label("pcie-replays"))
    rows.insert(5, moved(rows.pop(at), rows[4]["time_s"]))
    wrong = broken(rows)
    assert wrong["labels-are-of-their-fault"][0] == (
        6,
        "label of fault 1, expected a fault that has occurred",
    )
    assert "every-fault-has-a-label" in wrong


def test_a_slow_save_told_wrongly_or_elsewhere_is_found():
    rows = rows_with(SLOW_SAVE)
    at = where(rows, **message("trainer_storage_slow"))
    rows[at]["value"] += 9.0
    ((line, text),) = broken(rows)["slow-saves-are-told-in-time"]
    assert (line, text[-14:]) == (at + 2, " (as was said)")
    rows = rows_with(SLOW_SAVE)
    end = where(rows[at:], event="phase_ended", phase="checkpoint") + at
    rows.insert(end + 1, moved(rows.pop(at), rows[end]["time_s"]))
    ((line, text),) = broken(rows)["slow-saves-are-told-in-time"]
    assert (line, text) == (end + 2, "a slow save, expected a checkpoint being written")


def test_a_message_after_the_label_is_found():
    rows = rows_with(CRASH)
    at = where(rows, **label("cuda-oom"))
    said = rows[where(rows, message="agent_failed")]
    late = said | {"time_s": rows[at]["time_s"], "attempt": 2, "step": rows[at - 1]["step"]}
    rows.insert(at + 1, late)
    ((line, text),) = broken(rows)["messages-are-of-a-fault"]
    assert line == at + 2
    assert text == "agent_failed of fault 1, which is over, expected none after its label"


def test_going_back_too_little_from_what_was_noticed_is_found():
    """Another fault ends the launch after operators have seen the divergence."""
    rows = rows_with(NAN)
    at, told = where(rows, **label("loss-nan")), where(rows, **ABORT)
    rows[told] |= {"reason": "fault", "checkpoint_step": 120}
    wrong = broken(rows)
    assert (
        at + 1,
        "fault 1 (loss-nan), noticed, fell back to 120, expected 0 to 51 (before it began)",
    ) in wrong["labels-agree-with-the-course"]


def test_replayed_losses_may_differ_only_where_batches_were_skipped():
    """After a plain restart they are the same; after a rollback other batches come."""
    rows = rows_with(CRASH)
    at = where(rows, event="step", step=82, attempt=2)
    rows[at] |= {"loss": rows[at]["loss"] + 1e-3}
    wrong = broken(rows)
    assert [line for line, _ in wrong["replayed-losses-are-the-same"]] == [at + 1]
    losses = {
        (row["step"], row["attempt"]): row["loss"]
        for row in rows_with(NAN)
        if row["event"] == "step"
    }
    assert losses[100, 1] != losses[100, 2]


def test_goodput_does_not_count_steps_that_were_taken_back():
    """The rollback throws away two checkpoints, and the steps that were in them."""
    rows = rows_with(NAN)
    lost_s = sum(
        row["step_time_s"]
        for row in rows
        if row["event"] == "step" and row["attempt"] == 1 and row["step"] > 40
    )
    last = rows[-1]["summary"]
    last["goodput"] += 0.5 * lost_s / last["run_time_s"]
    last["fault_share"] -= 0.5 * lost_s / last["run_time_s"]
    assert len(broken(rows)["summary-books-the-time-seen"]) == 2


def test_slower_steps_without_a_fault_are_found():
    """What the noisy neighbour does to the ETA is lawful because the log tells of it."""
    rows = rows_with(SLOW)
    told = [row for row in rows if "noisy-neighbour" not in row.values()]
    assert set(broken(told)) >= {"eta-counts-down"}
    assert check(log_with(SLOW)).violations() == []


# --------------------------------------------------------------------------- the classic log


@cache
def classic_with(faults: tuple[str, ...]) -> bytes:
    return classic_log(faulty_run(*faults, hangs=HANGS.get(faults)))


@pytest.mark.parametrize(
    ("faults", "marker", "old", "new", "invariant", "text"),
    [
        (XID, "[fault 1]", "gpu-fault", "gremlins", "faults-are-of-a-known-kind", "'gremlins'"),
        (XID, "[fault 1]", "[fault 1]", "[fault 2]", "faults-are-numbered", "2, expected 1"),
        (GONE, "begins at", "Node 0", "Node 1", "faults-are-numbered", "node of the GPU 1"),
        (GONE, "begins at", "× 8", "× 4", "faults-are-of-a-known-kind", "GPUs of a node 4"),
        (XID, "over: ", "4 steps lost", "5 steps lost", "labels-count-what-was-lost", "expected 4"),
        (XID, "over: ", "gpu-fault", "cuda-oom", "labels-are-of-their-fault", "of cuda-oom"),
        (XID, "over: ", re.compile("after [^,]+"), "after 3h50m", "labels-tell-times", "noticed"),
        (SIGNS, "over: ", ", benign", "", "labels-are-as-the-catalogue-says", "not benign"),
        (XID, "NVRM: Xid", "): 31,", "): 79,", "messages-are-of-a-fault", "Xid 79"),
        (HANG, "Watchdog caught", "(ms)=250000", "(ms)=25000", "watchdogs-wait", "seconds waited"),
        (GONE, "Watchdog caught", "[rank8]", "[rank3]", "the-dead-say-nothing", "rank 3 writes"),
        (NAN, "ended at step", "(rollback)", "(operator)", "aborts-have", "for operator"),
        (NAN, "batches skipped", re.compile(r"\d+ batches"), "9 batches", "batches-are", "9"),
        (ASKED, "(asked)", "(asked)", "(interval)", "", ""),
        (CRASH, "(interval)", "(interval)", "(asked)", "checkpoints-have-a-reason", "asked for"),
    ],
)  # fmt: skip
def test_a_changed_line_is_found(faults, marker, old, new, invariant, text):
    clean = classic_with(faults)
    log, _ = spoilt_line(clean, marker, old, new)
    wrong = found(log)
    if not invariant:
        assert wrong == {}, "another reason that is possible there"
        return
    told = [t for name in wrong if name.startswith(invariant) for _, t in wrong[name]]
    assert any(text in t for t in told), wrong


def test_a_line_of_a_rank_before_the_watchdog_is_found():
    lines = classic_with(HANG).decode().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if "No progress since" in line)
    lines.insert(at + 1, f"{lines[at][:21]} ERROR   [rank3]: RuntimeError: too early\n")
    ((line, text),) = found("".join(lines).encode())["hangs-are-silent"]
    assert (line, text) == (at + 2, "torch_line before the watchdog, expected silence")


def test_steps_without_a_loss_are_read():
    text = classic_with(("loss-nan@148",)).decode()
    assert re.search(r"step 150/240  loss +nan", text)
    assert check(text.encode()).violations() == []
    without = "".join(line for line in text.splitlines(keepends=True) if "[fault 1]" not in line)
    assert "losses-are-finite-and-positive" in found(without.encode())
