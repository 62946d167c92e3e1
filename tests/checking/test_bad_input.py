"""Files that are no logs of ours, and logs with lines that are no rows: told, never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import re

import pytest

from ghosttrain.checking import UnknownFormatError, check_lines
from ghosttrain.checking.lines import raw_lines
from tests.checking.logs import (
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


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\n\n  \n", "only empty lines"),
        (gzip.compress(b"x", mtime=0), "gzip-compressed"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "binary data"),
        ("hello".encode("utf-16"), "UTF-16"),
        (b"PAR1....", "Parquet"),
        (b"step,loss\n1,10.2\n", "line 1 is 'step,loss'"),
        (b'{"step": 1, "loss": 10.2}\n', "line 1 is"),
        (b"[1, 2, 3]\n", "line 1 is '[1, 2, 3]'"),
        (b"iteration 10/ 100 | lm loss: 1.0\n", "iteration 10"),
    ],
)
def test_what_is_no_log_is_refused_with_what_was_expected(data, what):
    with pytest.raises(UnknownFormatError) as refused:
        check_lines(io.BytesIO(data))
    assert what in str(refused.value)
    assert "expected the events of `ghosttrain run --format jsonl`" in str(refused.value)
    assert "classic log" in str(refused.value)


def with_line(at: int, line: bytes) -> bytes:
    lines = good_jsonl().splitlines(keepends=True)
    lines.insert(at, line + b"\n")
    return b"".join(lines)


@pytest.mark.parametrize(
    ("line", "invariant", "text"),
    [
        (b"{", "readable-lines", "'{' is no JSON"),
        (b"", "readable-lines", "empty line"),
        (b"\x00\x01\x02", "readable-lines", "no JSON"),
        (b"\xff\xfe", "readable-lines", "byte 1 of the line is not UTF-8"),
        (b"[1]", "readable-lines", "is no row"),
        (b'{"event": 3}', "readable-lines", "is no row"),
        (b'{"event":"step","time_s":NaN}', "readable-lines", "NaN is not a JSON number"),
        (b'{"event":"step"} {"event":"step"}', "readable-lines", "more behind its end"),
        (b"[" * 100_000, "readable-lines", "too deeply nested"),
        (b'{"event":"step","step":' + b"9" * 5000 + b"}", "readable-lines", "no JSON"),
        (b'{"event":"coffee_break","time_s":100}', "known-events", "unknown event 'coffee_break'"),
        (b'{"event":"fleet"}', "complete-rows", "fleet row without time_s"),
        (b'{"event":"run_aborted","time_s":"x"}', "complete-rows", "time_s is 'x'"),
    ],
)
def test_a_line_that_is_no_row_is_told_with_its_number(line, invariant, text):
    at = where(rows_of(good_jsonl()), event="step", step=33)
    wrong = found(with_line(at, line))
    assert list(wrong) == [invariant]
    assert wrong[invariant][0][0] == at + 1
    assert text in wrong[invariant][0][1]


@pytest.mark.parametrize(
    ("at", "change", "text"),
    [
        ({"event": "step", "step": 33}, {"loss": "low"}, "step: loss is 'low', expected a finite"),
        ({"event": "step", "step": 33}, {"mfu": None}, "step: mfu is missing or null"),
        ({"event": "step", "step": 33}, {"step": 33.5}, "step: step is '33.5', expected a whole"),
        ({"event": "step", "step": 33}, {"mfu": True}, "step: mfu is 'true'"),
        ({"event": "step", "step": 33}, {"mfu": [1]}, "step: mfu is '[1]'"),
        ({"event": "step", "step": 33}, {"tokens_seen": 10**400}, "step: tokens_seen is"),
        ({"event": "fleet", "step": 30}, {"temp_c": "hot"}, "temp_c is 'hot', expected a list"),
        ({"event": "fleet", "step": 30}, {"temp_c": [1]}, "1 values of temp_c, 16 of util_pct"),
        ({"event": "fleet", "step": 30}, {"lost": 3}, "lost is '3', expected a list"),
        ({"event": "collective", "step": 50}, {"ranks": 1.5}, "ranks is '1.5', expected a whole"),
        ({"event": "epoch_completed"}, {"mean_loss": "x"}, "mean_loss is 'x', expected a finite"),
        ({"event": "validation_completed"}, {"improved": 1}, "improved is '1', expected true"),
        ({"event": "checkpoint_saved"}, {"path": None}, "path is 'null', expected a text"),
    ],
)
def test_a_field_of_the_wrong_type_is_told(at, change, text):
    log, line = spoilt_row(good_jsonl(), at, change)
    wrong = found(log)
    assert wrong["complete-rows"][0][0] == line
    assert text in wrong["complete-rows"][0][1]
    assert set(wrong) <= {"complete-rows", "best-validation-is-the-least"}


def test_infinity_written_as_a_huge_number_is_told():
    log, count = re.subn(rb'"mfu":[\d.]+', b'"mfu":1e999', good_jsonl(), count=1)
    assert count == 1
    assert "mfu is 'Infinity'" in found(log)["complete-rows"][0][1]


def test_a_missing_field_is_told():
    rows = rows_of(good_jsonl())
    at = where(rows, event="step", step=33)
    del rows[at]["eta_s"]
    assert found(log_of(rows)) == {"complete-rows": [(at + 1, "step row without eta_s")]}


def test_further_fields_are_none_of_our_business():
    rows = [row | {"note": "new"} for row in rows_of(good_jsonl())]
    assert found(log_of(rows)) == {}


def test_windows_line_ends_are_read():
    assert found(good_jsonl().replace(b"\n", b"\r\n")) == {}
    assert found(good_classic().replace(b"\n", b"\r\n")) == {}


def test_a_line_longer_than_memory_allows_is_told_and_passed_over():
    lines = list(raw_lines(io.BytesIO(b"a\n" + b"x" * 100 + b"\nb\n"), longest=32))
    assert [line.number for line in lines] == [1, 2, 3]
    assert [line.is_too_long for line in lines] == [False, True, False]
    assert len(lines[1].data) <= 200


def test_a_classic_line_that_goes_on_otherwise_is_told():
    log, _ = spoilt_line(good_classic(), "step  10/120", "loss", "lass")
    wrong = found(log)
    assert "is no line of a step" in wrong["readable-lines"][0][1]


def test_a_date_that_is_none_is_told():
    log, _ = spoilt_line(good_classic(), "Tokenizer", "[2026-01-01", "[2026-13-01")
    assert "is no date" in found(log)["readable-lines"][0][1]


def test_the_number_of_invariants_is_that_of_those_exercised():
    assert len(check(good_jsonl()).report.exercised) > 70
    assert len(check(good_classic()).report.exercised) > 55
    one = json.dumps(rows_of(good_jsonl())[0]).encode() + b"\n"
    assert len(check(one).report.exercised) < 20
