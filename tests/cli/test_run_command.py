"""`ghosttrain run` as a user has it: in a terminal, in pipes, interrupted, misused."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ghosttrain.cli import main as main_module
from tests.terminal import PtyRun, run_piped, start_piped

SGR = re.compile(rb"\x1b\[[0-9;]*m")
QUICK = ("--seed", "7", "--epochs", "1", "--steps", "60")
WHOLE = ("run", *QUICK, "--speed", "max", "--runs", "1")
SHOW = ("run", "--seed", "7", "--epochs", "1", "--steps", "3000", "--instant-lines", "110")
AGAIN = re.compile(r"ghosttrain run .*--seed \d+ --start \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

# ---------------------------------------------------------------------------------- in pipes


@pytest.fixture(scope="module")
def whole_log() -> bytes:
    done = run_piped(*WHOLE)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_a_piped_run_is_plain_lines(whole_log):
    text = whole_log.decode()
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.startswith("[2026-01-01 00:00:00] INFO    ghosttrain ")
    assert "seed 7" in text.splitlines()[0]
    assert "======== Training Started ========" in text
    assert text.rstrip().endswith("Training completed successfully!")


def test_same_seed_same_bytes(whole_log):
    assert run_piped(*WHOLE).stdout == whole_log


def test_the_pace_does_not_change_the_log(whole_log):
    paced = run_piped("run", *QUICK, "--speed", "1000", "--runs", "1")
    assert paced.stdout == whole_log


def test_without_command_it_is_run(whole_log):
    assert run_piped(*WHOLE[1:]).stdout == whole_log


def test_the_next_run_has_the_next_seed_and_goes_on_in_time(whole_log):
    two = run_piped(*WHOLE[:-1], "2").stdout
    assert two.startswith(whole_log)
    first = two[len(whole_log) :].decode().splitlines()[0]
    assert first.endswith("seed 8")
    assert first[1:20] >= whole_log.decode().rstrip().splitlines()[-1][1:20]


def test_force_color_colours_a_pipe():
    done = run_piped(*WHOLE, environ={"FORCE_COLOR": "1"})
    assert SGR.search(done.stdout)


def test_jsonl():
    import json

    done = run_piped(*WHOLE, "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) > 60


def test_a_reader_that_leaves_ends_it_quietly():
    with start_piped("run", "--speed", "max", "--runs", "20") as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line():
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        done = run_piped(*WHOLE, stdout=fd)
    finally:
        os.close(fd)
    assert done.returncode == 1
    assert done.stderr == (
        b"ghosttrain: cannot write to standard output: No space left on device\n"
    )


def test_a_closed_standard_output_is_one_clear_line():
    line = shlex.join([sys.executable, "-m", "ghosttrain", *WHOLE]) + " >&-"
    done = subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        env=dict(os.environ, PYTHONPATH="src"),
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_a_piped_run(number, code):
    with start_piped("run", *QUICK, "--speed", "real") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(number)
        at = time.monotonic()
        assert process.wait(5) == code
        assert time.monotonic() - at < 0.5
        assert AGAIN.search(process.stderr.read().decode())


def test_a_signal_is_answered_though_nobody_reads():
    with start_piped("run", "--speed", "max", "--runs", "1000") as process:
        time.sleep(1.5)  # the pipe is full by now, the write hangs
        process.send_signal(signal.SIGINT)
        at = time.monotonic()
        assert process.wait(5) == 130
        assert time.monotonic() - at < 0.5


@pytest.mark.parametrize(
    "words",
    [
        ["--sede", "3"],
        ["--speed", "0"],
        ["--speed", "nan"],
        ["--gpus", "-4"],
        ["--exit-after", "soon"],
        ["--runs", "0"],
        ["--start", "yesterday"],
        ["--format", "yaml"],
        ["rnu"],
        ["llama-3-8b", "gpt-2"],
        ["--gpu", "h10"],
        ["--model", "lama-3-8b"],
        ["no-such-model"],
        ["/no/such/config.json"],
    ],
)
def test_what_cannot_be_ends_with_2_and_a_line_or_two(words):
    done = run_piped("run", *words) if words != ["rnu"] else run_piped("rnu")
    assert done.returncode == 2
    assert 1 <= done.stderr.count(b"\n") <= 2
    assert b"Traceback" not in done.stderr


def test_help_and_version():
    assert b"examples:" in run_piped("--help").stdout
    assert run_piped("run", "--help").stdout.count(b"ghosttrain run") >= 3
    assert run_piped("--version").stdout.startswith(b"ghosttrain ")


# -------------------------------------------------------------------------------- in terminals


def trained(output: bytes) -> bool:
    return b"Step:" in output


def has_steps(count: int, output: bytes) -> bool:
    return output.count(b"Step:") >= count


def test_the_show_has_pinned_bars_below_the_log():
    with PtyRun(*SHOW, columns=120, lines=40) as show:
        show.read_until(lambda out: out.count(b"Step:") >= 5)
        rows = show.terminal.text_rows()
        assert sum(row.startswith("Epoch:") for row in rows) == 1
        assert sum(row.startswith("Step:") for row in rows) == 1
        assert rows[-1].startswith(("Step:", "Loss:"))
        assert show.terminal.cursor_is_hidden()


@pytest.mark.parametrize("moment_s", [0.03, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 4.5])
def test_ctrl_c_at_any_moment(moment_s):
    with PtyRun("run", *QUICK, "--runs", "100") as show:
        if moment_s > 0.05:
            show.read_until(lambda out: bool(out))
        until = time.monotonic() + moment_s
        while time.monotonic() < until:
            show.read(0.01)
        show.type(b"\x03")
        at = time.monotonic()
        code = show.wait(5)
        assert time.monotonic() - at < 0.5
        if b"seed" not in show.output:
            return  # Python itself was still starting
        assert code == 130, show.output.decode()
        assert show.is_left_as_found()
        assert b"Traceback" not in show.output
        if moment_s >= 1:
            assert AGAIN.search(show.output.decode())


def test_an_interrupt_that_comes_out_as_another_exception_is_one(monkeypatch, capfd):
    """As out of the import of an extension, which may answer it with an ImportError."""

    def wrapped(_words):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("not initialised") from None

    monkeypatch.setattr(main_module, "dispatch", wrapped)
    assert main_module.main([]) == 130
    assert capfd.readouterr().err == "ghosttrain: interrupted\n"


def test_sigterm_restores_the_terminal():
    with PtyRun("run", *QUICK) as show:
        show.read_until(lambda out: b"\x1b[?25l" in out)
        show.process.send_signal(signal.SIGTERM)
        assert show.wait(5) == 143
        assert show.is_left_as_found()


def test_the_line_it_leaves_brings_the_run_back():
    with PtyRun(*SHOW, columns=200) as show:
        show.read_until(trained)
        show.type(b"\x03")
        show.wait(5)
        first = show.output.split(b"\n")[0]
        words = shlex.split(AGAIN.findall(show.output.decode())[-1])[1:]
    with PtyRun(*words, columns=200) as again:
        again.read_until(lambda out: b"\n" in out)
        assert again.output.split(b"\n")[0] == first


def test_it_ends_after_the_time_given():
    at = time.monotonic()
    with PtyRun("run", *QUICK, "--exit-after", "1s") as show:
        assert show.wait(5) == 0
        assert time.monotonic() - at < 1.6
        assert show.is_left_as_found()


def test_no_color_still_pins_the_bars():
    with PtyRun(*SHOW, environ={"NO_COLOR": "1"}) as show:
        show.read_until(lambda out: out.count(b"Step:") >= 3)
        assert not SGR.search(show.output.replace(b"\x1b[0m", b""))
        assert sum(row.startswith("Step:") for row in show.terminal.rows()) == 1


def test_a_dumb_terminal_gets_plain_lines():
    with PtyRun("run", *QUICK, "--speed", "max", "--runs", "1", environ={"TERM": "dumb"}) as show:
        assert show.wait() == 0
        assert b"\x1b" not in show.output
        assert max(len(line) for line in show.output.decode().splitlines()) <= 120


def test_a_narrow_terminal_gets_plain_lines_that_fit():
    with PtyRun("run", *QUICK, "--speed", "max", "--runs", "1", columns=20, lines=10) as show:
        assert show.wait() == 0
        assert b"Step:  [" not in show.output
        plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", show.output).decode()
        assert max(len(line) for line in plain.splitlines()) <= 20


def test_a_c_locale_gets_ascii():
    with PtyRun(*SHOW, environ={"LC_ALL": "C"}) as show:
        show.read_until(lambda out: out.count(b"Step:") >= 3)
        assert show.output.isascii()


def test_resizing_leaves_no_stale_bars():
    with PtyRun(*SHOW, columns=120, lines=40) as show:
        show.read_until(trained)
        for columns, lines in ((80, 24), (200, 50), (60, 12), (126, 30)):
            show.resize(columns, lines)
            steps = show.output.count(b"Step:")
            show.read_until(partial(has_steps, steps + 3))
            rows = show.terminal.rows()
            assert sum(row.startswith("Epoch:") for row in rows) == 1
            assert sum(row.startswith("Step:") for row in rows) == 1


def test_typed_keys_do_not_break_the_screen():
    with PtyRun(*SHOW) as show:
        show.read_until(trained)
        for _ in range(5):
            show.type(b"abc\n\n")
            show.read(0.1)
        seen = len(show.output)
        show.read_until(lambda out: out[seen:].count(b"Step:") >= 3)
        assert sum(row.startswith("Step:") for row in show.terminal.rows()) == 1
        assert "abc" not in show.screen_text()
        show.type(b"\x03")
        assert show.wait(5) == 130
        assert show.is_left_as_found()
