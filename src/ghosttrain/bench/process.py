"""Benchmarks of the whole program, run as a user would, in a pseudo-terminal or a pipe."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ghosttrain.bench.result import Result, in_turn

_RUN = (sys.executable, "-m", "ghosttrain", "run")


class Terminal:
    """A program in a pseudo-terminal of 120 columns and 40 lines."""

    def __init__(self, command: tuple[str, ...]) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.seen = b""
        self.started = time.perf_counter()
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        env = {
            k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "CI")
        }
        env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)

    def seconds_to(self, text: bytes, limit_s: float = 30.0) -> float:
        """Seconds from the start until `text` has been written ("" for the first byte)."""
        while time.perf_counter() - self.started < limit_s:
            if self.seen and text in self.seen:
                return time.perf_counter() - self.started
            self.seen += self.read(0.05)
        raise TimeoutError(f"{text!r} not seen in {limit_s} s; got {self.seen[-200:]!r}")

    def read(self, wait_s: float) -> bytes:
        """What was written, waiting at most `wait_s` for it."""
        ready, _, _ = select.select([self.master], [], [], wait_s)
        try:
            return os.read(self.master, 1 << 16) if ready else b""
        except OSError:
            return b""

    def drain(self, for_s: float) -> int:
        """Read for `for_s` seconds; bytes read."""
        until, count = time.perf_counter() + for_s, 0
        while (left := until - time.perf_counter()) > 0:
            count += len(self.read(left))
        return count

    def cpu_s(self) -> float:
        """CPU seconds the process has used so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End the program."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


def _until(command: tuple[str, ...], text: bytes) -> float:
    terminal = Terminal(command)
    try:
        return terminal.seconds_to(text)
    finally:
        terminal.end()


def bench_start() -> list[Result]:
    """First line and first frame with both bars, against importing numpy and rich."""
    base = (sys.executable, "-c", "import numpy, rich; print('ready')")

    def theirs() -> float:
        return _until(base, b"ready")

    show = (*_RUN, "llama-3-8b", "--seed", "1")
    line, imports = in_turn(lambda: _until(show, b"\n"), theirs, 9)
    bars = (*show, "--instant-lines", "200")
    frame, again = in_turn(lambda: _until(bars, b"Step:"), theirs, 9)
    return [
        Result(
            "first line over importing numpy and rich",
            line / imports,
            "x",
            0.5,
            True,
            f"{1000 * line:.0f} against {1000 * imports:.0f} ms",
        ),
        Result(
            "first frame with both bars over the same",
            frame / again,
            "x",
            1.5,
            True,
            f"{1000 * frame:.0f} against {1000 * again:.0f} ms",
        ),
    ]


def bench_cpu(settle_s: float = 7.0, for_s: float = 15.0) -> list[Result]:
    """CPU while the show plays at --speed auto on 120x40."""
    out = []
    for model, gpus, goal in (
        ("llama-3-8b", 64, 3.0),
        ("llama-3-70b", 1024, 10.0),
        ("llama-3.1-405b", 16384, 10.0),
    ):
        terminal = Terminal((*_RUN, model, "--gpus", str(gpus), "--seed", "1"))
        try:
            terminal.drain(settle_s)
            before = terminal.cpu_s()
            terminal.drain(for_s)
            used = 100 * (terminal.cpu_s() - before) / for_s
        finally:
            terminal.end()
        out.append(Result(f"CPU of the show, {gpus:,} GPUs", used, "% of a core", goal, True))
    return out


def peak_mb_of(command: Sequence[str]) -> float:
    """Peak resident memory of a command, MB.

    Raises:
        RuntimeError: If it fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status, peak_kb = Path(f"/proc/{process.pid}/status"), 0
    # Not ru_maxrss: that one begins with what the parent held when it forked.
    while process.poll() is None:
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                peak_kb = max(peak_kb, int(line.split()[1]))
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return peak_kb / 1000


def _peak_mb(steps: int) -> float:
    """Peak resident memory of a whole headless run, MB."""
    command = (*_RUN, "llama-3-8b", "--steps", str(steps), "--runs", "1", "--speed", "max")
    return peak_mb_of((*command, "--seed", "1"))


def bench_memory() -> list[Result]:
    """Peak memory of 1,000,000 steps against 100,000."""
    short, long = _peak_mb(100_000), _peak_mb(1_000_000)
    note = f"{long:.1f} against {short:.1f} MB"
    return [
        Result("peak memory of 1,000,000 steps over 100,000", long / short, "x", 1.05, True, note),
        Result("peak memory of 1,000,000 steps", long, "MB", 60, True),
    ]
