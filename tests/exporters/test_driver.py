"""The driver: windows, slices, savepoints, names that are given all at once."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.cli.main import main
from ghosttrain.core.errors import InputFileError, SpecError, WorldError
from ghosttrain.exporters import driver, workspace
from ghosttrain.exporters.asking import asked_of, duration_words, moment_of, ranks_of
from ghosttrain.exporters.driver import MANIFEST, digest_of, export, moments_in, slices
from ghosttrain.exporters.formats import formats_of
from ghosttrain.exporters.savepoint import (
    Savepoint,
    UnknownStateError,
    restored_exporters,
    saved_exporters,
)
from ghosttrain.exporters.workspace import HIDDEN, BusyError, Workspace
from ghosttrain.exporters.writing import Asked
from tests.exporters.killing import files_in
from tests.exporters.runs import real_run
from tests.terminal import ROOT

RUN = real_run(steps=300, faults="gpu-off-bus@8min:9")


class Stop(BaseException):
    """Raised half way, as an interrupt is."""


def stopped(asked, folder, formats, after, error: BaseException = Stop()):  # noqa: B008
    """Export until `after` slices are done, with a savepoint after each."""

    def tell(_progress):
        nonlocal after
        after -= 1
        if not after:
            raise error

    with pytest.raises(type(error) if not isinstance(error, OSError) else WorldError):
        export(asked, folder, formats_of(formats), tell=tell, save_every_wall_s=0.0)


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    monkeypatch.setattr(driver, "_MOST_STEPS", 40)


# Slices and moments.


@given(
    st.floats(0, 1e4), st.floats(0.001, 1e4), st.floats(0.1, 2e4), st.floats(0.5, 700),
)  # fmt: skip
def test_slices_cover_a_window_once(start_s, takes_s, end_s, length_s):
    stop_s = start_s + takes_s
    ends = [start_s, *slices(start_s, stop_s, end_s, length_s)]
    assert all(a < b for a, b in itertools.pairwise(ends)) or end_s < start_s
    assert ends[-1] == stop_s
    multiples = {n * length_s for n in range(int(stop_s / length_s) + 2)}
    assert {*ends[1:-1]} <= multiples, "wherever the window begins"


@given(st.floats(0, 5000), st.floats(0, 3000), st.sampled_from([0.1, 0.7, 15.0, 30.0, 1e9]))
def test_moments_are_the_multiples_in_the_window_and_windows_add_up(start_s, takes_s, every_s):
    stop_s, end_s = start_s + takes_s, 6000.0
    found = moments_in(start_s, stop_s, end_s, every_s)
    assert ((found >= start_s) & (found < stop_s) & (found <= end_s)).all()
    assert (np.rint(found / every_s) * every_s == found).all()
    middle_s = start_s + takes_s / 3
    parts = [
        moments_in(start_s, middle_s, end_s, every_s),
        moments_in(middle_s, stop_s, end_s, every_s),
    ]
    assert np.concatenate(parts).tolist() == found.tolist()
    assert len(moments_in(0.0, math.inf, end_s, every_s)) == math.floor(end_s / every_s + 1e-9) + 1


# What is asked.


@pytest.mark.parametrize(
    ("text", "time_s"),
    [("0", 0.0), ("0s", 0.0), ("2min", 120.0), ("90", 90.0), ("2026-01-01T00:03:20Z", 200.0),
     ("2026-01-01 00:03:20", 200.0), ("2026-01-01T01:03:20+01:00", 200.0)],
)  # fmt: skip
def test_moments(text, time_s):
    assert moment_of(RUN, text, "--from") == time_s


def test_a_step_is_its_end():
    assert moment_of(RUN, "step=200", "--from") == RUN.steps(200, 200).end_s[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"start": "20min", "stop": "10min"}, "--from 20min is not before --to-time 10min"),
        ({"stop": "0"}, "--from 0s is not before --to-time 0"),
        (
            {"start": "30d"},
            f"--from 30d is after the end: the run takes {duration_words(RUN.end_s)}",
        ),
        ({"stop": "30d"}, "--to-time 30d is after the end"),
        ({"start": "step=0"}, "--from step=0: no such step: the run has 1 to 300"),
        ({"start": "step=301"}, "no such step"),
        ({"start": "soon"}, "--from 'soon' is no moment"),
        ({"start": "2025-12-31"}, "is before the run: it starts at 2026-01-01T00:00:00Z"),
        ({"start": "2026-13-31"}, "no such date"),
        ({"every": "0"}, "makes no sense"),
        ({"every": "50"}, None),
        ({"every": "0.01s"}, "--every 0.01s: give 0.1 s or more"),
        ({"gpus": "16"}, "--select-gpus 16: no such GPU: there are 0 to 15"),
        ({"gpus": "3-99"}, "there are 0 to 15"),
        ({"gpus": "node=2"}, "no such node: there are 0 to 1"),
        ({"gpus": "5-3"}, "5 comes after 3"),
        ({"gpus": " , "}, "chooses none of the 16 GPUs"),
        ({"gpus": "-1"}, "is no choice"),
        ({"gpus": "a"}, "is no choice"),
        ({"metrics": "warmth"}, "unknown metric 'warmth'"),
    ],
)
def test_what_cannot_be_asked(words, complaint):
    if complaint is None:
        asked_of(RUN, **words)
        return
    with pytest.raises(SpecError) as error:
        asked_of(RUN, **words)
    assert complaint in str(error.value)


def test_gpus_by_rank_and_node():
    cluster = RUN.spec.cluster
    assert ranks_of(cluster, "9,0-2, 1") == (0, 1, 2, 9)
    assert ranks_of(cluster, "node=1") == (*range(8, 16),)
    assert ranks_of(cluster, "node=0-1") == (*range(16),)


def test_the_end_as_a_screen_shows_it_is_the_end():
    asked = asked_of(RUN, stop=duration_words(RUN.end_s))
    assert asked.stop_s == math.inf
    assert asked.is_whole


@pytest.mark.parametrize(("seconds", "words"), [(0, "0s"), (59.2, "1min"), (93_800, "26h3min20s")])
def test_durations_in_words(seconds, words):
    assert duration_words(seconds) == words


# Windows.


def test_windows_of_a_log_add_up(tmp_path):
    cuts = [0.0, 200.0, 480.5, 700.0, math.inf]
    rows = []
    for a, b in itertools.pairwise(cuts):
        asked = Asked(RUN, start_s=a, stop_s=b)
        export(asked, tmp_path / str(a), formats_of("jsonl"))
        lines = (tmp_path / str(a) / "events.jsonl").read_bytes().splitlines()
        head = json.loads(lines[0])
        assert (head["event"], head["simulated"], head["seed"]) == ("run_started", True, 3)
        assert head.get("from_s", 0.0) == a
        assert main(["check", str(tmp_path / str(a) / "events.jsonl")]) == 0
        rows += lines if a == 0 else lines[1:]
    export(Asked(RUN), tmp_path / "whole", formats_of("jsonl"))
    assert (tmp_path / "whole" / "events.jsonl").read_bytes().splitlines() == rows


def test_a_log_of_nothing_says_what_run_it_is_of(tmp_path):
    export(Asked(RUN, start_s=100.001, stop_s=100.002), tmp_path, formats_of("jsonl"))
    (line,) = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert json.loads(line)["from_s"] == 100.001


# Savepoints.


@pytest.mark.parametrize(
    "change",
    [{"every_s": 31.0}, {"log_interval": 20}, {"stop_s": 700.0}, {"gpus": (1,)}, {"start_s": 1.0},
     {"metrics": ("xid",)}, {"run": real_run(steps=300, faults="gpu-off-bus@8min:9", seed=4)}],
)  # fmt: skip
def test_another_request_has_another_digest_and_begins_anew(tmp_path, change):
    formats = formats_of("jsonl")
    other = replace(Asked(RUN), **change)
    assert digest_of(other, formats) != digest_of(Asked(RUN), formats)
    stopped(Asked(RUN), tmp_path / "a", "jsonl", 5)
    export(other, tmp_path / "a", formats)
    export(other, tmp_path / "b", formats)
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


def test_a_savepoint_that_is_damaged_is_none(tmp_path):
    stopped(Asked(RUN), tmp_path / "a", "jsonl,labels", 5)
    state = tmp_path / "a" / HIDDEN / "state"
    good = state.read_bytes()
    whole = tmp_path / "b"
    export(Asked(RUN), whole, formats_of("jsonl,labels"))
    newer = good.replace(b"savepoint/1", b"savepoint/9")
    more = good.replace(b'"lengths": {', b'"lengths": {"gone.txt": 3, ')
    half = good[: len(good) // 2]
    for number, bad in enumerate((good[:-1], half, b"", b"\n", b"[]\n", newer, more, b"\xff" * 9)):
        state.parent.mkdir(exist_ok=True)
        state.write_bytes(bad)
        with Workspace(tmp_path / "a") as here:
            assert here.found() is None, number
            here.clear()
    export(Asked(RUN), tmp_path / "a", formats_of("jsonl,labels"))
    assert files_in(tmp_path / "a") == files_in(whole)


def test_what_was_written_after_the_savepoint_is_cut_off(tmp_path):
    stopped(Asked(RUN), tmp_path / "a", "jsonl", 5)
    parts = tmp_path / "a" / HIDDEN / "parts"
    with (parts / "events.jsonl").open("ab") as file:
        file.write(b"half a line")
    (parts / "stray").write_text("of later")
    export(Asked(RUN), tmp_path / "a", formats_of("jsonl"))
    export(Asked(RUN), tmp_path / "b", formats_of("jsonl"))
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


class Call:
    """What a pickle that somebody else has made might hold."""

    def __init__(self, function, *args):
        self._made = function, args

    def __reduce__(self):
        return self._made


@pytest.mark.parametrize(
    "bad",
    [Call(os.system, "touch {path}"), Call(eval, "1"), Call(Path, "x"), Call(subprocess.Popen, "x"),
     Call(real_run), Call(getattr, "", "x"), Call(export, 1)],
)  # fmt: skip
def test_of_a_savepoint_only_our_classes_and_plain_values_are_made(bad, tmp_path):
    data = pickle.dumps([bad])
    with pytest.raises(UnknownStateError):
        restored_exporters(data, Asked(RUN))
    assert list(tmp_path.iterdir()) == []


def test_values_that_exporters_keep_come_back(tmp_path):
    asked = Asked(RUN)
    kept = [np.arange(5), np.float32(1.5), {1, 2}, deque([1]), RUN.labels(), b"x", bytearray(b"y")]
    (back,) = restored_exporters(saved_exporters([[*kept, asked, RUN, RUN.plan]], asked), asked)
    assert back[0].tolist() == [0, 1, 2, 3, 4]
    assert back[1:7] == kept[1:]
    assert back[7] is asked
    assert back[8] is RUN
    assert back[9] is RUN.plan
    assert len(saved_exporters([asked, RUN, RUN.plan], asked)) < 200, "they are named, not saved"


def test_what_is_kept_after_a_failure_is_little_more_than_its_savepoint(tmp_path):
    stopped(Asked(RUN), tmp_path / "out", "jsonl", 5, OSError(28, "No space left on device"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [HIDDEN]


# Names.


def test_an_export_that_lacks_names_gets_them_from_whoever_comes_next(tmp_path, monkeypatch):
    formats = formats_of("jsonl,labels")
    export(Asked(RUN), tmp_path / "b", formats)
    given_names = 0

    def stop_at_second(self, target):
        nonlocal given_names
        if HIDDEN not in Path(target).parts:
            given_names += 1
            if given_names == 2:
                raise Stop
        return self.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop_at_second)
        with pytest.raises(Stop):
            export(Asked(RUN), tmp_path / "a", formats)
    assert files_in(tmp_path / "a").keys() == {"events.jsonl"}
    export(Asked(RUN, stop_s=300.0), tmp_path / "a", formats_of("labels-parquet"))
    made = files_in(tmp_path / "a")
    assert made.keys() == {"events.jsonl", "labels.jsonl", "labels.parquet", MANIFEST}
    whole = files_in(tmp_path / "b")
    assert all(made[name] == whole[name] for name in ("events.jsonl", "labels.jsonl"))


def test_part_files_of_an_older_longer_export_go_with_it(tmp_path):
    (tmp_path / "telemetry").mkdir()
    for name in ("part-00000.parquet", "part-00001.parquet", "part-00017.parquet", "mine.parquet"):
        (tmp_path / "telemetry" / name).write_text("old")
    export(Asked(RUN), tmp_path, formats_of("parquet"))
    names = sorted(path.name for path in (tmp_path / "telemetry").iterdir())
    assert names == ["mine.parquet", "part-00000.parquet"]
    assert (tmp_path / "telemetry" / "part-00000.parquet").read_bytes().startswith(b"PAR1")


def test_a_file_where_a_table_must_go_is_told(tmp_path):
    (tmp_path / "steps").write_text("mine")
    with pytest.raises(InputFileError, match="steps: is no folder"):
        export(Asked(RUN), tmp_path, formats_of("parquet"))
    assert files_in(tmp_path).keys() == {"steps"}


def test_hundreds_of_files_at_once(tmp_path):
    """More than may be open: a file that is full goes on later."""
    names = [f"deep/{n}.log" for n in range(300)]
    with Workspace(tmp_path / "out") as here:
        for text in (b"a", b"b"):
            here.append((name, text) for name in names)
        lengths = dict(here.lengths)
        here.publish(Savepoint("x", 0.0, lengths, is_whole=True))
    assert files_in(tmp_path / "out") == dict.fromkeys(names, b"ab")


def test_two_at_once_into_one_folder_are_told_apart(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from ghosttrain.exporters.workspace import Workspace\n"
        f"with Workspace(Path({str(tmp_path / 'out')!r})):\n"
        "    print('here', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == b"here\n"
        with pytest.raises(BusyError, match="another export is writing there"):
            export(Asked(RUN), tmp_path / "out", formats_of("labels"))
        assert (tmp_path / "out" / HIDDEN / "lock").exists()
        other.communicate()
    export(Asked(RUN), tmp_path / "out", formats_of("labels"))
    assert files_in(tmp_path / "out").keys() == {"labels.jsonl", MANIFEST}


def test_progress_is_told_and_grows(tmp_path):
    told: list[driver.Progress] = []
    export(Asked(RUN, start_s=200.0, stop_s=800.0), tmp_path, formats_of("jsonl"), tell=told.append)
    assert len(told) >= 3
    shares = [progress.done_frac for progress in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 0 < shares[0] < 0.6
    assert told[-1].left_wall_s == 0.0
    assert told[-1].written_bytes == told[-1].grown_bytes > told[0].written_bytes


def test_memory_of_the_hidden_folder_is_none_once_it_is_done(tmp_path):
    export(Asked(RUN), tmp_path, formats_of("jsonl,labels,parquet"))
    assert not (tmp_path / workspace.HIDDEN).exists()
