"""Terminals for tests: what a screen shows after some bytes, and real commands in a pty."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parent.parent
GHOSTTRAIN = (sys.executable, "-m", "ghosttrain")


class FakeTerminal:
    """A terminal emulator with a size that can change, and the writes it got.

    With `reflows` it re-wraps rows that have become too long, as VTE, kitty and others do;
    without it cuts them, as xterm does.
    """

    def __init__(self, columns: int = 80, lines: int = 24, *, reflows: bool = False) -> None:
        self.writes: list[bytes] = []
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._reflows = reflows

    def write(self, _fd: int, data: bytes | memoryview) -> int:
        """Take bytes as os.write does."""
        self.writes.append(bytes(data))
        self._stream.feed(bytes(data))
        return len(data)

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return self._screen.columns, self._screen.lines

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, as the window's owner does, whether or not the program looks."""
        before = self.rows()
        self._screen.resize(lines, columns)
        if self._reflows:
            rows = [
                row[at : at + columns]
                for row in before
                for at in range(0, max(1, len(row)), columns)
            ]
            while rows and not rows[-1]:
                rows.pop()
            text = "\x1b[H\x1b[2J" + "\r\n".join(rows[-lines:])
            self._stream.feed(text.encode())
        else:
            # pyte drops rows from the top when it shrinks, and forgets to move the cursor.
            self._screen.cursor.y = min(self._screen.cursor.y, lines - 1)

    def rows(self) -> list[str]:
        """The rows on the screen without trailing blanks."""
        return [row.rstrip() for row in self._screen.display]

    def text_rows(self) -> list[str]:
        """The rows down to the last one with text."""
        rows = self.rows()
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def cursor_is_hidden(self) -> bool:
        """Whether the cursor is hidden."""
        return bool(self._screen.cursor.hidden)

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and row of the cursor."""
        return self._screen.cursor.x, self._screen.cursor.y


class PtyRun:
    """A command in a pseudo-terminal: its bytes, its screen, its end."""

    def __init__(
        self,
        *words: str,
        columns: int = 120,
        lines: int = 40,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = GHOSTTRAIN,
    ) -> None:
        self.master, slave = pty.openpty()
        self.terminal = FakeTerminal(columns, lines)
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        self.output = b""
        self.stderr = b""
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "LC_ALL")
        }
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT / "src"), "LANG": "C.UTF-8"}

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [*command, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env | dict(environ or {}),
            preexec_fn=own_terminal,
        )
        self._slave = slave

    def __enter__(self) -> PtyRun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)

    def resize(self, columns: int, lines: int) -> None:
        """Change the terminal's size."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if self.terminal.size() != (columns, lines):
            self.terminal.resize(columns, lines)

    def type(self, keys: bytes) -> None:
        """Type `keys`; \\x03 is Ctrl-C."""
        os.write(self.master, keys)

    def read_until(self, seen: Callable[[bytes], bool], timeout_s: float = 20.0) -> None:
        """Read until `seen` says of the whole output that it is enough."""
        until = time.monotonic() + timeout_s
        while not seen(self.output):
            if time.monotonic() > until:
                raise TimeoutError(f"not seen; the screen:\n{self.screen_text()}")
            if not self.read(0.05) and self.process.poll() is not None and not self.read(0.05):
                return

    def read(self, wait_s: float) -> bool:
        """Take what there is within `wait_s`; whether there was anything."""
        if not select.select([self.master], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.output += data
        self.terminal.write(1, data)
        return bool(data)

    def wait(self, timeout_s: float = 20.0) -> int:
        """Read until the command ends; its exit code, as a shell tells it."""
        until = time.monotonic() + timeout_s
        while self.process.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"still running; the screen:\n{self.screen_text()}")
            self.read(0.01)
        while self.read(0.02):
            pass
        code = self.process.returncode
        return 128 - code if code < 0 else code

    def screen_text(self) -> str:
        """What the terminal shows."""
        return "\n".join(self.terminal.text_rows())

    def is_left_as_found(self) -> bool:
        """Whether the cursor shows and the terminal's modes are what they were."""
        now = termios.tcgetattr(self._slave)
        return not self.terminal.cursor_is_hidden() and now[:4] == self.before[:4]


def run_piped(
    *words: str,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    stdout: int | None = subprocess.PIPE,
) -> subprocess.CompletedProcess[bytes]:
    """Run ghosttrain to its end with its output in pipes."""
    env = dict(os.environ, PYTHONPATH=str(ROOT / "src")) | dict(environ or {})
    return subprocess.run(
        [*GHOSTTRAIN, *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=env,
        timeout=timeout_s,
        check=False,
    )


def start_piped(*words: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start ghosttrain with its output in pipes."""
    env = dict(os.environ, PYTHONPATH=str(ROOT / "src")) | dict(environ or {})
    return subprocess.Popen(
        [*GHOSTTRAIN, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        restore_signals=True,
    )


SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM
