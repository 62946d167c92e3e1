"""Every kind of fault planted into a good log is found: the invariant, the line, the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.checking.logs import (
    Row,
    check,
    found,
    good_classic,
    good_jsonl,
    log_of,
    rows_of,
    spoilt_line,
    spoilt_row,
    where,
)

STEP_70 = {"event": "step", "step": 70}


def summary(**changes: object) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row["summary"] |= changes

    return change


def times(name: str, factor: float) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row[name] *= factor

    return change


def plus(name: str, amount: float) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row[name] += amount

    return change


def gpu(index: int, name: str, value: float) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        row[name][index] = value

    return change


def over_all_gpus(index: int, name: str, by: float) -> Callable[[Row], None]:
    """One GPU reads more than any does."""

    def change(row: Row) -> None:
        row[name][index] = max(row[name]) + by

    return change


def other(name: str, of: int) -> Callable[[Row], None]:
    """The next of the row's `of` nodes or ranks, the first after the last."""

    def change(row: Row) -> None:
        row[name] = (row[name] + 1) % of

    return change


def other_nodes(row: Row) -> None:
    """The other one of two nodes."""
    row["nodes"] = [1 - node for node in row["nodes"]]


def as_told(row: Row) -> dict[str, str]:
    """The row's numbers as a violation writes them, by name: the first four characters do."""
    numbers = {k: v for k, v in (row | row.get("summary", {})).items() if type(v) in (int, float)}
    return {
        k: f"{v:,}" if isinstance(v, int) else f"{v:.9g}"[:4].rstrip(".")
        for k, v in numbers.items()
    }


def all_gpus_but_one(row: Row) -> None:
    for name, values in row.items():
        if isinstance(values, list) and values:
            row[name] = values[:-1]


FLEET_70 = {"event": "fleet", "step": 70}
VALIDATION_2 = {"event": "validation_completed", "step": 120}

TOTAL = (
    "total-steps-are-epochs-times-steps & summary-counts-what-was-done & eta-counted-the-stops"
    " & learning-rate-follows-schedule"
)
RATE = "learning-rate-follows-schedule & learning-rate-is-continuous"
STEPS = "summary-counts-what-was-done & summary-books-the-time-seen"

# Which row, what is changed, which invariant fires, a piece of its text; a name in braces stands
# for the number of the row as it was, so that nothing here depends on what the laws give.
PLANTED: tuple[tuple[Row, Row | Callable[[Row], None], str, str], ...] = (
    (STEP_70, {"ppl": 700.0}, "ppl-is-exp-of-loss", "ppl 700, expected {ppl}"),
    (
        STEP_70,
        times("tokens_per_s", 1.01),
        "tokens-per-s-is-tokens-over-step-time & mfu-follows-tokens-per-s",
        "(524,288 tokens / step time)",
    ),
    (STEP_70, times("mfu", 1.01), "mfu-follows-tokens-per-s", "MFU 0."),
    (STEP_70, {"tokens_seen": 1}, "tokens-seen-follow-steps", "tokens seen 1, expected 36,700,160"),
    (STEP_70, {"attempt": 2}, "rows-name-their-attempt", "attempt 2, expected 1"),
    (STEP_70, plus("eta_s", -300), "eta-counts-down", "ETA"),
    (STEP_70, times("learning_rate", -1), RATE, "learning rate -"),
    (STEP_70, {"grad_norm": -0.5}, "losses-are-finite-and-positive", "grad_norm -0.5"),
    (FLEET_70, all_gpus_but_one, "samples-cover-all-gpus", "15, expected 16"),
    (FLEET_70, {"step": 71}, "samples-belong-to-their-step", "step 71, expected 70"),
    (
        FLEET_70,
        gpu(3, "util_pct", 120),
        "gpu-utilisation-is-a-percentage",
        "GPU 3: utilisation % 120",
    ),
    (
        FLEET_70,
        gpu(4, "temp_c", 140),
        "gpu-temperatures-are-survivable",
        "GPU 4: temperature C 140",
    ),
    (FLEET_70, gpu(5, "power_w", 900.0), "gpu-power-keeps-its-limit", "GPU 5: power W 900"),
    (FLEET_70, gpu(5, "temp_c", 0), "lost-gpus-read-zero", "GPUs that answer 15, expected 16"),
    (
        FLEET_70,
        over_all_gpus(6, "memory_gib", 0.2),
        "gpu-memory-is-flat-while-training & summary-has-the-gpus-seen",
        "GiB 0.",
    ),
    (
        {"event": "collective", "step": 50},
        {"busbw_gbs": 500.0},
        "busbw-follows-size-and-time",
        "bus bandwidth GB/s 500, expected {busbw_gbs}",
    ),
    (
        {"event": "collective", "step": 50},
        {"layer": 40},
        "collective-layers-exist",
        "layer 40, expected 0 to 31",
    ),
    (
        {"event": "training_started", "attempt": 1},
        {"step": 3},
        "training-starts-where-it-was-saved & steps-count-up",
        "3, expected 0",
    ),
    (
        {"event": "phase_ended", "phase": "nccl"},
        {"duration_s": 3.5},
        "phases-take-their-time & summary-books-the-time-seen",
        "duration of nccl 3.5, expected {duration_s}",
    ),
    (
        {"event": "phase_started", "phase": "tokenizer"},
        {"phase": "gpus"},
        "launches-go-in-order & phases-begin-and-end",
        "gpus phase, expected tokenizer phase",
    ),
    (
        {"event": "gpus_detected", "node": 1},
        {"first_rank": 9},
        "all-gpus-report",
        "first rank 9, expected 8",
    ),
    (
        {"event": "epoch_completed", "epoch": 1},
        {"mean_loss": 7.5},
        "epoch-means-are-of-its-losses",
        "mean loss 7.5, expected {mean_loss}",
    ),
    (
        {"event": "epoch_completed", "epoch": 1},
        {"tokens": 5},
        "epochs-end-in-order",
        "tokens 5, expected 31,457,280",
    ),
    (
        {"event": "epoch_completed", "epoch": 1},
        {"duration_s": 5.0},
        "epochs-take-their-time",
        "epoch's seconds 5, expected {duration_s}",
    ),
    (VALIDATION_2, {"improved": False}, "best-validation-is-the-least", "expected improved"),
    (
        VALIDATION_2,
        {"best_loss": 6.0},
        "best-validation-is-the-least",
        "best loss 6, expected {best_loss}",
    ),
    (VALIDATION_2, {"accuracy": 0.9}, "validations-agree-with-themselves", "accuracy 0.9"),
    (VALIDATION_2, {"train_loss": 3.0}, "validation-is-near-training", "training loss 3"),
    (
        VALIDATION_2,
        {"duration_s": 3.0},
        "results-take-their-phase-s-time",
        "3, expected {duration_s}",
    ),
    (
        {"event": "checkpoint_saved", "step": 60},
        {"size_bytes": 100},
        "checkpoints-hold-the-state",
        "checkpoint bytes 100, expected 112,423,657,472",
    ),
    (
        {"event": "checkpoint_saved", "step": 60},
        {"path": "outputs/llama-3-8b/checkpoints/step_0000061"},
        "checkpoints-are-named-by-step",
        "expected one ending in /step_0000060",
    ),
    (
        {"event": "checkpoint_saved", "step": 60},
        {"path": "outputs/opt-6.7b/checkpoints/step_0000060"},
        "checkpoints-are-named-by-step",
        "expected one under llama-3-8b/",
    ),
    (
        {"event": "checkpoint_saved", "step": 60},
        {"reason": "interval"},
        "checkpoints-have-a-reason",
        "checkpoint for interval, expected improved",
    ),
    (
        {"event": "warning_raised", "kind": "slow_collective"},
        times("value", 4),
        "warnings-have-a-cause",
        "time of step {step} ",
    ),
    (
        {"event": "warning_raised", "kind": "slow_collective"},
        {"node": 2},
        "warnings-are-of-a-node",
        "2, expected 0 to 1",
    ),
    (
        {"event": "shard_written", "index": 2},
        {"size_bytes": 4_999_803_000},
        "shards-are-named-and-sized & shards-add-up",
        "4,999,803,000, expected 4,999,803,569",
    ),
    (
        {"event": "shard_written", "index": 2},
        {"name": "model-00002-of-00005.safetensors"},
        "shards-are-named-and-sized",
        "expected model-00002-of-00004.safetensors",
    ),
    (
        {"event": "run_finished"},
        summary(steps=119, tokens=119 * 524288, epochs=1),
        STEPS,
        "119",
    ),
    (
        {"event": "run_finished"},
        summary(final_loss=6.0),
        "summary-has-the-last-loss",
        "6, expected {final_loss}",
    ),
    (
        {"event": "run_finished"},
        summary(best_validation_step=60),
        "summary-has-the-best-validation",
        "step 60, expected 120",
    ),
    ({"event": "run_finished"}, summary(gpu_hours=1.0), "summary-has-the-run-time", "GPU-hours 1,"),
    (
        {"event": "run_finished"},
        summary(mean_mfu=0.9),
        "summary-books-the-time-seen",
        "mean MFU 0.9",
    ),
    ({"event": "run_finished"}, summary(mean_util_pct=80.0), "summary-has-the-gpus-seen", "80"),
    ({"event": "run_finished"}, summary(peak_memory_gib=79.0), "summary-has-the-gpus-seen", "79"),
    ({"event": "run_finished"}, summary(energy_kwh=900.0), "summary-energy-is-possible", "900"),
    (
        {"event": "run_finished"},
        summary(saved_path="outputs/opt-6.7b/final"),
        "summary-names-the-model-and-files",
        "expected under llama-3-8b/",
    ),
    (
        {"event": "run_finished"},
        summary(shards=9),
        "summary-names-the-model-and-files",
        "9, expected 4",
    ),
    ({"event": "run_finished"}, summary(faults=2), "summary-counts-faults", "faults 2, expected 0"),
    ({"event": "run_started"}, {"simulated": False}, "run-says-it-is-simulated", "simulated false"),
    ({"event": "run_started"}, {"total_steps": 121}, TOTAL, "121, expected 120"),
    (
        {"event": "run_started"},
        {"export_bytes": 17},
        "export-is-2-bytes-a-parameter",
        "17, expected 16,060,522,496",
    ),
)


@pytest.mark.parametrize(
    ("at", "change", "invariant", "text"),
    [case for case in PLANTED if case[2]],
    ids=[f"{case[2]}-{i}" for i, case in enumerate(PLANTED) if case[2]],
)
def test_a_changed_row_is_found(at, change, invariant, text):
    rows = rows_of(good_jsonl())
    expected = text.format_map(as_told(rows[where(rows, **at)]))
    log, line = spoilt_row(good_jsonl(), at, change)
    wrong = found(log)
    assert set(wrong) == set(invariant.split(" & "))
    texts = [told for name in wrong for _, told in wrong[name]]
    assert any(expected in told for told in texts), texts
    assert line in [at_line for name in wrong for at_line, _ in wrong[name]]


WATCHDOGS, RESTARTS = "watchdogs-wait-their-time", "restarts-go-back-to-the-checkpoint"
FAULT_PLANTED: tuple[tuple[Row, Row | Callable[[Row], None], str, str], ...] = (
    (
        {"event": "fault_occurred"},
        {"fault": 2},
        # Whatever else speaks of fault 1 then speaks of none.
        "faults-are-numbered & messages-are-of-a-fault & aborts-have-a-fault"
        " & labels-are-of-their-fault & every-fault-has-a-label",
        "fault number 2, expected 1",
    ),
    ({"event": "fault_occurred"}, {"step": 80}, "events-name-the-last-step", "80, expected 83"),
    (
        {"event": "watchdog_timed_out"},
        other("rank", of=16),
        "watchdogs-wait-their-time",
        "rank {wrong_rank} did not arrive, expected {rank}, the fault's",
    ),
    ({"event": "watchdog_timed_out"}, {"timeout_s": 300.0}, WATCHDOGS, "expected 299.99"),
    ({"event": "watchdog_timed_out"}, {"elements": 4}, WATCHDOGS, "elements 4, expected"),
    (
        {"event": "run_aborted"},
        {"checkpoint_step": 60},
        "aborts-fall-back-to-a-checkpoint & restarts-go-back-to-the-checkpoint"
        " & labels-count-what-was-lost & summary-books-the-time-seen",
        "checkpoint step 60, expected 80",
    ),
    ({"event": "run_restarted"}, {"lost_steps": 4}, RESTARTS, "lost steps 4, expected 3"),
    (
        {"event": "run_restarted"},
        {"downtime_s": 4.0},
        RESTARTS,
        "downtime 4, expected {downtime_s}",
    ),
    (
        {"event": "run_restarted"},
        other_nodes,
        "spares-take-the-faulty-place",
        "swapped after fault 1 (gpu-off-bus), expected node ",
    ),
    (
        {"event": "step", "step": 82, "attempt": 2},
        {"loss": 6.4, "ppl": 601.8450},
        "replayed-losses-are-the-same & epoch-means-are-of-its-losses",
        "6.4",
    ),
)


@pytest.mark.parametrize(
    ("at", "change", "invariant", "text"),
    FAULT_PLANTED,
    ids=[f"{c[2]}-{c[3]}" for c in FAULT_PLANTED],
)
def test_a_changed_row_around_a_fault_is_found(at, change, invariant, text):
    rows = rows_of(good_jsonl(with_fault=True))
    log, line = spoilt_row(good_jsonl(with_fault=True), at, change)
    now = as_told(rows_of(log)[line - 1])
    told_of = as_told(rows[line - 1]) | {f"wrong_{name}": text for name, text in now.items()}
    wrong = found(log)
    first, *_ = invariant.split(" & ")
    assert set(wrong) == set(invariant.split(" & "))
    assert wrong[first][0][0] == line
    expected = text.format_map(told_of)
    assert any(expected in told for _, told in wrong[first]), wrong[first]


def test_a_missing_step_is_found():
    rows = rows_of(good_jsonl())
    at = where(rows, event="step", step=33)
    del rows[at]
    wrong = found(log_of(rows))
    assert wrong["steps-count-up"] == [(at + 1, "step 34, expected 33 (the step after the last)")]
    assert "step-times-add-up" in wrong  # and so is the gap in time


def test_a_gap_in_time_is_found():
    """Everything after it is later; nothing but the gap is wrong, and the ends that sum it up."""
    rows = rows_of(good_jsonl())
    at = where(rows, event="step", step=33)
    for row in rows[at:]:
        row["time_s"] += 5.0
    wrong = found(log_of(rows))
    assert [line for line, _ in wrong.pop("step-times-add-up")] == [at + 1]
    assert set(wrong) == {"epochs-take-their-time", "summary-has-the-run-time"}


def test_time_going_back_is_found():
    log, line = spoilt_row(
        good_jsonl(), {"event": "phase_started", "phase": "export"}, {"time_s": 1.0}
    )
    wrong = found(log)
    assert [at for at, _ in wrong["times-never-decrease"]] == [line]


def test_a_constant_loss_is_found():
    rows = rows_of(good_jsonl())
    first = where(rows, event="step", step=101)
    for row in rows[first:]:
        if row["event"] == "step":
            row |= {"loss": 6.5, "ppl": 665.1416}
    wrong = found(log_of(rows))
    assert len(wrong["loss-is-not-constant"]) == 1
    assert "equal losses in a row 9" in wrong["loss-is-not-constant"][0][1]


def test_a_loss_below_the_floor_is_found():
    log, line = spoilt_row(good_jsonl(), STEP_70, {"loss": 0.3, "ppl": 1.3499})
    assert [at for at, _ in found(log)["loss-stays-above-its-floor"]] == [line]


@pytest.mark.parametrize("loss", [9.0, 14.5])
def test_a_first_loss_far_from_the_vocabulary_is_found(loss):
    log, line = spoilt_row(good_jsonl(), {"event": "step", "step": 1}, {"loss": loss})
    assert [at for at, _ in found(log)["first-loss-is-lawful"]] == [line]


def test_a_collective_against_the_sharding_is_found():
    rows = rows_of(good_jsonl())
    for row in rows:
        if row["event"] == "collective":
            row["op"] = "all_reduce"
            row["busbw_gbs"] = 2 * 15 / 16 * row["size_bytes"] / row["duration_s"] / 1e9
    wrong = found(log_of(rows))
    assert list(wrong) == ["collective-matches-sharding"]
    assert wrong["collective-matches-sharding"][0][1] == (
        "all_reduce under fsdp, expected reduce_scatter"
    )


def test_an_eta_without_the_stops_is_found():
    rows = rows_of(good_jsonl())
    steps = [row for row in rows if row["event"] == "step"]
    pace = sorted(row["step_time_s"] for row in steps)[60]
    for row in steps:
        row["eta_s"] = (120 - row["step"]) * pace
    wrong = found(log_of(rows))
    assert set(wrong) == {"eta-counted-the-stops"}


def test_violations_beyond_the_tenth_are_counted():
    rows = rows_of(good_jsonl())
    for row in rows:
        if row["event"] == "step":
            row["ppl"] *= 2
    report = check(log_of(rows))
    assert report.report.counts == {"ppl-is-exp-of-loss": 120}
    assert len(report.violations()) == 10


# --------------------------------------------------------------------------- the classic log


def plus_in_text(by: int) -> Callable[[re.Match[str]], str]:
    """The match with its number of whole digits that much larger."""
    return lambda match: re.sub(r"\d+", lambda m: str(int(m[0]) + by), match[0], count=1)


def doubled(match: re.Match[str]) -> str:
    """The match with its number doubled."""
    return re.sub(r"\d+", lambda m: str(2 * int(m[0])), match[0], count=1)


def other_node(match: re.Match[str]) -> str:
    """The match with node 1 for node 0, and 0 for 1."""
    return match[0].translate(str.maketrans("01", "10"))


def new_number(clean: bytes, spoilt: bytes, line: int) -> str:
    """The first number of a line that is not as it was, as a violation writes it."""
    before, after = (
        re.findall(r"\d[\d.]*", log.decode().splitlines()[line - 1]) for log in (clean, spoilt)
    )
    number = float(next(new for old, new in zip(before, after, strict=True) if old != new))
    return f"{int(number):,}" if number.is_integer() else f"{number:.9g}"


Old = str | re.Pattern[str]
New = str | Callable[[re.Match[str]], str]

CLASSIC_PLANTED: tuple[tuple[str, int, Old, New, str, str], ...] = (
    # marker, which line with it, old, new, invariant, text. What the laws decide is found by a
    # pattern; {new} in the text stands for the first number of the line that is another then.
    (
        "step  70/120",
        1,
        re.compile(r"ppl +(?=\d)"),
        "ppl 1",
        "ppl-is-exp-of-loss",
        "ppl {new}, expected ",
    ),
    (
        "step  70/120",
        1,
        " tok/s",
        "9 tok/s",
        "tokens-per-s-is-tokens-over-step-time",
        "tokens/s {new}",
    ),
    (
        "step  70/120",
        1,
        re.compile(r"MFU \d+"),
        plus_in_text(3),
        "mfu-follows-tokens-per-s",
        "MFU 0.",
    ),
    ("step  70/120", 1, "MFU ", "MFU 1", "mfu-is-at-most-one", "expected 0 to 1"),
    (
        "step  70/120",
        1,
        re.compile(r"\d+(?=\.\d TFLOP)"),
        plus_in_text(-18),
        "tflops-follow-tokens-per-s",
        "TFLOP/s/GPU {new}",
    ),
    ("step  70/120", 1, "step  70", "step  75", "steps-count-up", "step 75, expected 70"),
    ("step  10/120", 1, "lr 2.50e-04", "lr 2.80e-04", "learning-rate-follows-schedule", "0.00028"),
    (
        "step   1/120",
        1,
        re.compile(r"loss +\d+"),
        plus_in_text(3),
        "first-loss-is-lawful",
        "first loss {new}",
    ),
    (
        "NCCL reduce-scatter",
        1,
        "reduce-scatter",
        "all-reduce",
        "collective-matches-sharding",
        "fsdp",
    ),
    (
        "NCCL reduce-scatter",
        1,
        "over 16",
        "over 32",
        "collective-spans-its-ranks",
        "32, expected 16",
    ),
    ("NCCL reduce", 1, "width ", "width 1", "busbw-follows-size-and-time", "GB/s {new}"),
    ("All-reduce test", 1, "over 16", "over 8", "all-reduce-test-adds-up", "8, expected 16"),
    ("[Rank  5/16]", 1, "Rank  5", "Rank  6", "all-gpus-report", "first rank 6, expected 5"),
    ("[Rank  9/16]", 1, "Node 1", "Node 0", "all-gpus-report", "node 0, expected 1"),
    ("Building model", 1, "Llama-3-8B", "OPT-6.7B", "facts-stay-the-same", "expected Llama-3-8B"),
    ("Layout:", 1, "TP 1", "TP 2", "layout-uses-all-gpus", "32, expected 16"),
    (
        "Batch:",
        1,
        re.compile(r"micro \d+"),
        doubled,
        "batch-follows-the-layout",
        "global batch size 64, expected 128",
    ),
    ("Dataset:", 1, "3,840", "3,841", "epochs-are-of-whole-batches", "3,841, expected 3,840"),
    ("Validation:", 1, re.compile(r"ppl \d+"), plus_in_text(-7), "validations-agree", "ppl {new}"),
    ("Validation:", 2, "best so far", "best 6.1000", "best-validation-is-the-least", "6.1"),
    ("Saving checkpoint", 1, "112 GB", "120 GB", "checkpoints-hold-the-state", "120,000,000,000"),
    (
        "Checkpoint: ",
        1,
        "step_0000040, 112 GB",
        "step_0000040, 99.0 GB",
        "checkpoints-hold",
        "99,0",
    ),
    ("Checkpoint: ", 2, "(improved)", "(interval)", "checkpoints-have-a-reason", "improved"),
    ("Serialising", 1, "16.1 GB", "18.1 GB", "export-is-2-bytes-a-parameter", "18,100,000,000"),
    ("[2/4]", 1, "00002-of", "00003-of", "shards-are-named-and-sized", "model-00003-of-00004"),
    ("[2/4]", 1, "5.0 GB", "2.0 GB", "shards-add-up", "bytes of all shards"),
    ("Epoch 1/2", 1, "step 60", "step 61", "epochs-end-in-order", "61, expected 60"),
    ("  Run time", 1, "m ", "m1", "summary-has-the-run-time", "run time"),
    ("  Model  ", 1, "Llama-3-8B", "Llama-2-8B", "summary-names-the-model", "Llama-2-8B"),
    ("  Tokens  ", 1, "62.91", "72.91", "summary-counts-what-was-done", "72,910,000"),
    (
        "Final PPL",
        1,
        re.compile(r"PPL +\d+"),
        plus_in_text(100),
        "summary-has-the-last-loss",
        "final ppl {new}",
    ),
    (
        "Peak memory",
        1,
        re.compile(r"\d+(?=\.\d of)"),
        plus_in_text(4),
        "summary-has-the-gpus-seen",
        "{new}",
    ),
    ("Goodput", 1, "init ", "init 3", "summary-shares-add-up", "sum of shares"),
    (
        "slow collectives",
        1,
        "[Node 0",
        "[Node 5",
        "warnings-are-of-a-node",
        "node 5, expected 0 to 1",
    ),
)


@pytest.mark.parametrize(
    ("marker", "nth", "old", "new", "invariant", "text"),
    [case for case in CLASSIC_PLANTED if case[4]],
    ids=[f"{case[4]}-{i}" for i, case in enumerate(CLASSIC_PLANTED) if case[4]],
)
def test_a_changed_line_is_found(marker, nth, old, new, invariant, text):
    log, line = spoilt_line(good_classic(), marker, old, new, nth)
    if "{new}" in text:
        text = text.replace("{new}", new_number(good_classic(), log, line))
    wrong = found(log)
    first = [name for name in wrong if name.startswith(invariant)]
    assert first, wrong
    assert any(text in told for _, told in wrong[first[0]]), wrong
    near = [at for at, _ in wrong[first[0]]]
    assert min(near) - line in (0, 1, 2), "the line or the one that completes it"


def test_a_changed_cell_of_the_grid_is_found():
    lines = good_classic().decode().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("GPU status | step 50 "))
    lines[at + 1] = (
        lines[at + 1].replace("GPU0  ", "GPU0 1", 1).replace("GPU0 100%", "GPU0 199%", 1)
    )
    cells = lines[at + 2]
    start = cells.index("C ") - 2
    lines[at + 2] = cells[:start] + "99" + cells[start + 2 :]
    wrong = found("".join(lines).encode())
    assert "grid-means-are-of-its-cells" in wrong
    assert {line for name in wrong for line, _ in wrong[name]} == {at + 1}


@pytest.mark.parametrize(
    ("marker", "old", "new", "invariant"),
    [
        ("NumelIn", "Timeout(ms)=600000", "Timeout(ms)=300000", "watchdogs-wait-their-time"),
        ("did not arrive", "15 ranks", "16 ranks", "watchdogs-wait-their-time"),
        ("Attempt 1 ended", "at step 80", "at step 60", "aborts-fall-back-to-a-checkpoint"),
        ("Attempt 2 starts", "from step 80", "from step 60", "restarts-go-back-to-the-checkpoint"),
        (
            "replaced by a spare",
            re.compile(r"Node [01]"),
            other_node,
            "spares-take-the-faulty-place",
        ),
        (
            "replaced by a spare",
            re.compile(r"after \d+m"),
            plus_in_text(2),
            "restarts-go-back-to-the-checkpoint",
        ),
        ("Training Resumed", "step 81", "step 71", "training-starts-where-it-was-saved"),
    ],
)
def test_a_changed_line_around_a_fault_is_found(marker, old, new, invariant):
    clean = found(good_classic(with_fault=True))
    log, line = spoilt_line(good_classic(with_fault=True), marker, old, new)
    wrong = {name: v for name, v in found(log).items() if v != clean.get(name)}
    assert wrong[invariant][0][0] == line
