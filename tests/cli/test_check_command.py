"""`ghosttrain check` as a user has it: files, pipes, misuse."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.checking.logs import good_classic, good_jsonl
from tests.terminal import run_piped


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(good_jsonl())
    return path


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(re.sub(rb'"ppl": *', b'"ppl":1', good_jsonl(), count=12))
    return path


def test_a_good_log_is_one_line(good):
    done = run_piped("check", str(good))
    assert (done.returncode, done.stderr) == (0, b"")
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith(f"{good}: 1 run, 120 steps, ")
    assert line.endswith(" invariants hold")


def test_a_bad_log_is_told_line_by_line_and_capped(bad):
    done = run_piped("check", str(bad))
    assert (done.returncode, done.stderr) == (1, b"")
    *violations, more, last = done.stdout.decode().splitlines()
    assert len(violations) == 10
    assert violations[0].startswith(f"{bad}:")
    assert ": ppl-is-exp-of-loss: ppl 1" in violations[0]
    assert more == f"{bad}: ppl-is-exp-of-loss: and 2 more"
    assert ": 1 run, 120 steps, 12 violations of 1 among " in last


def test_several_files_and_json(good, bad):
    done = run_piped("check", "--json", str(good), str(bad))
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["holds"] is False
    assert [file["holds"] for file in result["files"]] == [True, False]
    assert result["files"][1]["counts"] == {"ppl-is-exp-of-loss": 12}
    assert result["files"][1]["violations"][0]["invariant"] == "ppl-is-exp-of-loss"


def piped_in(data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ghosttrain", "check", *words]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [("-",), ()])
def test_standard_input(words):
    done = piped_in(good_classic(), *words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"standard input: 1 run, 13 steps, ")


def test_what_cannot_be_read_is_two_and_the_others_are_still_checked(good, tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    files = (str(tmp_path / "none.jsonl"), str(tmp_path), str(tmp_path / "notes.txt"), str(good))
    done = run_piped("check", *files)
    assert done.returncode == 2
    errors = done.stderr.decode().splitlines()
    assert errors[0] == f"ghosttrain: {files[0]}: cannot be read: No such file or directory"
    assert errors[1] == f"ghosttrain: {files[1]}: cannot be read: Is a directory"
    assert errors[2].startswith(f"ghosttrain: {files[2]}: line 1 is 'hello'; expected the events")
    assert len(errors) == 3
    assert done.stdout.decode().startswith(f"{good}: 1 run")


def test_a_truncated_log_is_a_note_unless_it_must_be_complete(tmp_path):
    path = tmp_path / "cut.jsonl"
    path.write_bytes(good_jsonl()[:30_000])
    done = run_piped("check", str(path))
    assert done.returncode == 0
    assert b"note: run 1 is not complete: the log ends at step" in done.stdout
    assert run_piped("check", "--complete", str(path)).returncode == 1


def test_a_reader_that_leaves_ends_it_quietly(bad):
    command = [sys.executable, "-m", "ghosttrain", "check", *[str(bad)] * 200]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_random_runs_are_checked():
    done = run_piped("check", "--random", "2", "--seed", "4")
    assert done.returncode in (0, 1)
    assert b"2 runs, 4 logs" in done.stdout
