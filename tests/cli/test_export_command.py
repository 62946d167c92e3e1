"""`ghosttrain export` as a user has it, and that no half-written file is ever left."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq
import pytest

from ghosttrain.cli import export as command
from ghosttrain.cli.common import add_spec_arguments, new_parser
from ghosttrain.cli.export import progress_words, size_words
from ghosttrain.cli.main import COMMANDS, Interrupted, main
from ghosttrain.core.errors import InputFileError, RequestError, SpecError, WorldError
from ghosttrain.core.events import IncidentLabelled
from ghosttrain.core.plan import plan
from ghosttrain.core.run import Run
from ghosttrain.exporters import driver
from ghosttrain.exporters.driver import MANIFEST, Progress, export
from ghosttrain.exporters.formats import formats_of
from ghosttrain.exporters.savepoint import Savepoint
from ghosttrain.exporters.writing import Asked
from tests.exporters.killing import files_in
from tests.exporters.runs import END_S, a_run, small_spec
from tests.terminal import ROOT, PtyRun, run_piped

SMALL = ("llama-3-8b", "--gpus", "16", "--steps", "120", "--seed", "3")


class HandMadeRun:
    """A run whose events are written down."""

    spec = small_spec()
    plan = plan(spec)
    end_s = END_S
    seed = 7
    timeline = None

    def __init__(self, *, fails_with=None):
        self._error = fails_with

    def events(self, start_s, stop_s, *, sample_every):
        yield from (e for e in a_run() if start_s <= e.time_s < stop_s)
        if self._error and stop_s > END_S:
            raise self._error

    def labels(self):
        return [e for e in a_run() if isinstance(e, IncidentLabelled)]


SOME = "jsonl,labels,labels-parquet"


def asked(*, fails_with: BaseException | None = None) -> Asked:
    return Asked(cast(Run, HandMadeRun(fails_with=fails_with)))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("labels", ["labels"]),
        ("labels,jsonl", ["labels", "jsonl"]),
        (" Labels , jsonl,,labels", ["labels", "jsonl"]),
        (command.DEFAULT_FORMATS, ["jsonl", "labels"]),
    ],
)
def test_formats_by_commas(text, names):
    assert [one.name for one in formats_of(text)] == names


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("label", "unknown format 'label': did you mean labels? there are jsonl, megatron, "),
        ("jsonl,png", "unknown format 'png': there are jsonl"),
        (" , ", "names none"),
    ],
)
def test_unknown_formats(text, complaint):
    with pytest.raises(SpecError) as error:
        formats_of(text)
    assert complaint in str(error.value)


def test_all_files_appear_with_their_sizes(tmp_path):
    folder = tmp_path / "deep" / "out"
    written = export(asked(), folder, formats_of(SOME))
    names = [*(one.file for one in formats_of(SOME)), MANIFEST]
    assert names_in(folder) == sorted(names)
    assert [(path.name, size) for path, size in written] == [
        (name, (folder / name).stat().st_size) for name in names
    ]
    told = json.loads((folder / MANIFEST).read_bytes())
    assert told["simulated"] is True
    assert (told["seed"], told["formats"]) == (asked().run.seed, SOME.split(","))
    assert "gpus = 16" in told["spec"]
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_bytes().splitlines()]
    assert [row["kind"] for row in rows] == ["run", *["incident"] * 3, "clean", "clean"]
    assert pq.read_table(folder / "labels.parquet").num_rows == len(rows)
    spec = pq.read_schema(folder / "labels.parquet").metadata[b"spec"].decode()
    assert "gpus = 16" in spec


def test_files_of_the_same_name_are_replaced_and_others_are_left_alone(tmp_path):
    (tmp_path / "labels.jsonl").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    export(asked(), tmp_path, formats_of("labels"))
    assert (tmp_path / "labels.jsonl").read_bytes().startswith(b'{"kind":"run"')
    assert names_in(tmp_path) == [MANIFEST, "labels.jsonl", "mine.txt"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), WorldError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a bug"), ValueError),
    ],
)
def test_what_ends_it_half_way_leaves_nothing_and_the_old_files(tmp_path, error, told):
    folder = tmp_path / "new" / "out"
    with pytest.raises(told):
        export(asked(fails_with=error), folder, formats_of(SOME))
    assert names_in(tmp_path) == [], "not even the folders made for it"
    (tmp_path / "labels.jsonl").write_text("old")
    with pytest.raises(told):
        export(asked(fails_with=error), tmp_path, formats_of(SOME))
    assert names_in(tmp_path) == ["labels.jsonl"]
    assert (tmp_path / "labels.jsonl").read_text() == "old"


def test_a_format_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ghosttrain.exporters.label_table", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RequestError, match=r"pip install 'ghosttrain\[parquet\]'"):
        export(asked(), tmp_path / "out", formats_of("jsonl,labels-parquet"))
    assert names_in(tmp_path) == []


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFileError, match="file: is no folder"):
        export(asked(), tmp_path / "file", formats_of("labels"))
    with pytest.raises(InputFileError, match="cannot be made: Not a directory"):
        export(asked(), tmp_path / "file" / "below", formats_of("labels"))
    with pytest.raises(InputFileError, match="no such name"):
        export(asked(), tmp_path / "a\0b", formats_of("labels"))
    (tmp_path / "labels.jsonl").mkdir()
    with pytest.raises(InputFileError, match=r"labels\.jsonl: is a folder"):
        export(asked(), tmp_path, formats_of("jsonl,labels"))
    assert names_in(tmp_path) == ["file", "labels.jsonl"]


def test_a_folder_that_is_not_ours(tmp_path, monkeypatch):
    """The system's refusal is made up: root, who may run the tests, is refused nothing."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputFileError, match="cannot be written: Permission denied"):
        export(asked(), tmp_path, formats_of("labels"))
    with pytest.raises(InputFileError, match="out: cannot be made: Permission denied"):
        export(asked(), tmp_path / "out", formats_of("labels"))


def test_a_folder_without_room_for_new_files(tmp_path):
    """/proc takes no files from anybody, root included."""
    with pytest.raises(InputFileError, match="/proc/self/out: cannot be made"):
        export(asked(), Path("/proc/self/out"), formats_of("labels"))


# From here on with real runs.


def test_the_events_are_those_of_run(tmp_path):
    done = run_piped("export", *SMALL, "--to", str(tmp_path), "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, b"")
    shown = run_piped("run", *SMALL, "--format", "jsonl", "--speed", "max", "--runs", "1")
    assert (tmp_path / "events.jsonl").read_bytes() == shown.stdout


def test_it_says_what_it_wrote_and_how_to_have_it_again(tmp_path):
    words = (
        "export",
        "llama-3-8b",
        "--gpus",
        "16",
        "--steps",
        "60",
        "--faults",
        "gpu-off-bus@8min",
    )
    done = run_piped(*words, "--to", str(tmp_path / "a"))
    *written, again = done.stdout.decode().splitlines()
    assert [line.split()[1] for line in written] == [
        str(tmp_path / "a" / name) for name in ("events.jsonl", "labels.jsonl", MANIFEST)
    ]
    program, *same = shlex.split(again.removeprefix("Again: "))
    assert program == "ghosttrain"
    same[same.index("--to") + 1] = str(tmp_path / "b")
    assert run_piped(*same).returncode == 0
    for name in ("events.jsonl", "labels.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_labels_of_a_run_with_a_fault(tmp_path):
    words = (*SMALL, "--faults", "gpu-off-bus@8min:9")
    assert run_piped("export", *words, "--to", str(tmp_path), "--format", "labels").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_bytes().splitlines()]
    run, incident = rows[:2]
    assert (run["kind"], run["seed"], run["gpus"], run["simulated"]) == ("run", 3, 16, True)
    assert (incident["class"], incident["entity"]) == ("gpu-off-bus", "gpu 9")
    assert incident["onset_s"] == pytest.approx(480, abs=1)
    assert {row["kind"] for row in rows[2:]} == {"clean"}
    assert rows[2]["end_s"] == incident["onset_s"]


def exported_with_small_files(*words):
    """Run it where no file may be longer than 16 KiB: writing fails half way, as on a full disk."""
    return subprocess.run(
        [sys.executable, "-m", "ghosttrain", "export", *words],
        capture_output=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14)),
    )  # fmt: skip


def test_a_disk_that_fills_up_is_the_worlds_fault_and_leaves_nothing(tmp_path):
    done = exported_with_small_files(*SMALL, "--to", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"ghosttrain: {tmp_path / 'out'}: cannot be written: File too large\n"
    )
    assert names_in(tmp_path) == []


def test_ctrl_c_leaves_nothing_and_gives_the_terminal_back(tmp_path):
    words = ("llama-3-8b", "--gpus", "1024", "--steps", "200000", "--seed", "1")
    with PtyRun("export", *words, "--to", str(tmp_path / "out")) as shown:
        shown.read_until(lambda output: b"exporting" in output)
        shown.type(b"\x03")
        assert shown.wait() == 130
        assert shown.terminal.text_rows()[-1] == "ghosttrain: interrupted"
        assert shown.is_left_as_found()
    assert names_in(tmp_path) == []


def interrupted_half_way(monkeypatch, error, *words):
    """Run it with a savepoint after each slice, until it is stopped in the fifth."""
    do, left = driver.Course._do, 5

    def do_and_stop(self, start_s, stop_s):
        nonlocal left
        left -= 1
        if not left:
            raise error
        do(self, start_s, stop_s)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "_MOST_STEPS", 20)
        patch.setattr(driver, "export", functools.partial(export, save_every_wall_s=0.0))
        patch.setattr(driver.Course, "_do", do_and_stop)
        return main(["export", *words])


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Interrupted(2), 130, "interrupted"),
        (Interrupted(15), 143, "interrupted"),
        (OSError(28, "No space left on device"), 1, "cannot be written: No space left on device"),
    ],
)
def test_what_has_a_savepoint_is_kept_and_it_says_how_to_go_on(
    monkeypatch, tmp_path, capfd, error, code, told
):
    out = tmp_path / "out"
    words = (*SMALL, "--to", str(out), "--format", "jsonl,labels,parquet")
    assert interrupted_half_way(monkeypatch, error, *words) == code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert told in lines[0]
    assert re.search(rf"; [\d.]+ k?B are kept in {out}/\.ghosttrain-export\.$", lines[0])
    assert names_in(out) == [".ghosttrain-export"]
    program, *again = shlex.split(lines[1].removeprefix("Goes on with: "))
    assert program == "ghosttrain"
    saved = Savepoint.read(out / ".ghosttrain-export" / "state")
    assert saved is not None
    monkeypatch.setattr(driver.Course, "_take_up", going_on_from(saved))
    monkeypatch.setattr(driver, "_MOST_STEPS", 20)
    assert main(again) == 0
    assert (
        main(
            [
                *again[: again.index("--to") + 1],
                str(tmp_path / "b"),
                *again[again.index("--to") + 2 :],
            ]
        )
        == 0
    )
    assert files_in(out) == files_in(tmp_path / "b")


def going_on_from(saved: Savepoint):
    """_take_up that checks that the first export to come begins there, and others at 0."""
    take_up, expected = driver.Course._take_up, [saved.reached_s, 0.0]

    def checked(self):
        whole = take_up(self)
        assert self._reached_s == expected.pop(0)
        return whole

    return checked


def test_a_window_of_some_gpus_as_tables(tmp_path):
    words = (
        "--from",
        "2min",
        "--to-time",
        "step=100",
        "--every",
        "1min",
        "--select-gpus",
        "node=1",
    )
    more = ("--metrics", "DCGM_FI_DEV_GPU_TEMP,xid", "--format", "parquet", "--to", str(tmp_path))
    done = run_piped("export", *SMALL, *words, *more)
    assert (done.returncode, done.stderr) == (0, b"")
    table = pq.read_table(tmp_path / "telemetry")
    assert table.column_names[-2:] == ["gpu_temp_c", "xid"]
    assert set(table["gpu"].to_pylist()) == {*range(8, 16)}
    assert table["time_s"].to_pylist()[0] == 120.0
    assert pq.read_table(tmp_path / "steps")["step"].to_pylist()[-1] == 99
    assert pq.read_table(tmp_path / "labels.parquet")["start_s"].to_pylist()[0] == 120.0


def test_progress_in_words():
    progress = Progress(1800.0, 0.0, 7200.0, 0.0, 2_500_000, 1_250_000, 0.5)
    assert progress_words(progress) == (
        "exporting  25% of 2.0 h of run time · 2.5 MB · 2.5 MB/s · 0:00:02 left"
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1234567, "1.23 MB"),
        (5e9, "5 GB"),
        (2.5e12, "2.50 TB"),
    ],
)
def test_sizes_in_words(size, words):
    assert size_words(size) == words


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((*SMALL, "--to", "{new}", "--from", "10h"), "--from 10h is after the end: the run takes"),
        ((*SMALL, "--to", "{new}", "--every", "soon"), "duration 'soon' makes no sense"),
        ((*SMALL, "--to", "{new}", "--select-gpus", "99"), "no such GPU: there are 0 to 15"),
        ((*SMALL, "--to", "{new}", "--metrics", "warmth"), "unknown metric 'warmth'"),
        (SMALL, "required: --to"),
        ((*SMALL, "--to", "{file}"), "is no folder: give --to one, or a new name"),
        ((*SMALL, "--to", "{new}", "--format", "pdf"), "unknown format 'pdf'"),
        (("no-such-model", "--to", "{new}"), "unknown model"),
        ((*SMALL, "--to", "{new}", "--formt", "labels"), "did you mean --format?"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_or_two(capfd, tmp_path, words, complaint):
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "new": tmp_path / "new"}
    assert main(["export", *(word.format(**places) for word in words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert complaint in err
    assert len(err.splitlines()) <= 2
    assert names_in(tmp_path) == ["file"]


def test_memory_stays_flat(tmp_path):
    """Ten times the run takes no more memory: nothing is kept but the labels."""
    script = (
        "import resource, sys\nfrom ghosttrain.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak_kib(steps):
        words = ("export", *SMALL[:3], "--steps", steps, "--seed", "3", "--to", str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        return int(done.stdout.split()[-1])

    assert peak_kib("60000") < peak_kib("6000") + 8 * 1024


def test_help_has_the_examples(capfd):
    assert main(["export", "--help"]) == 0
    out = capfd.readouterr().out
    for example in COMMANDS["export"][1]:
        assert example in out


def test_every_flag_is_documented():
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    parser = new_parser("export", "", ())
    command.add_arguments(parser)
    spec = new_parser("", "", ())
    add_spec_arguments(spec)
    own = {*parser.options()} - {*spec.options()}
    assert len(own) == 8
    assert {flag for flag in own if f"`{flag}" not in page} == set()


def test_many_files_below_a_folder_are_told_in_one_line(tmp_path):
    few = [(tmp_path / "a" / str(n), 5) for n in range(8)]
    many = [(tmp_path / "b" / str(n % 2) / str(n), 1000) for n in range(9)]
    lines = list(command.file_words([*few, *many, (tmp_path / "c", 7)], tmp_path))
    assert lines == [
        *(f"{path} (5 bytes)" for path, _ in few),
        f"{tmp_path / 'b'} (9 files, 9,000 bytes)",
        f"{tmp_path / 'c'} (7 bytes)",
    ]
