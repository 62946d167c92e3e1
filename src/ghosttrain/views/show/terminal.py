"""Facts about where the output goes: is it a terminal, how large, what can it draw.

Imports nothing heavy: the first line is written before dataclasses or NumPy are loaded.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# What our drawings use beyond ASCII, for terminals that cannot show it: one cell for one cell.
ASCII_GLYPHS = str.maketrans(
    {
        "·": "|", "…": "~", "●": "*", "✔": "+", "✓": "+", "✖": "X", "✗": "X", "×": "x", "°": " ",
        "–": "-", "—": "-", "−": "-", "→": ">", "←": "<", "│": "|", "─": "-", "≈": "~", "½": "+",
        "█": "#", "▓": "#", "▇": "#", "▆": "#", "▅": "=", "▄": "=", "▃": "-", "▂": "-", "▁": ".",
        "▒": "=", "░": ".", "▀": "#", "²": "2", "³": "3", "µ": "u", "η": "n", "ε": "e", "β": "b",
    }
)  # fmt: skip
NARROWEST_WITH_BARS = 40


class Terminal:
    """What the output is and can show.

    Attributes:
        fd: Where to write.
        is_tty: Whether it is a terminal.
        moves: Whether the cursor can be moved: a terminal that is not TERM=dumb.
        color: Whether to write SGR sequences.
        unicode: Whether glyphs beyond ASCII show.
    """

    __slots__ = ("color", "fd", "is_tty", "moves", "unicode")

    def __init__(
        self, *, fd: int = 1, is_tty: bool, moves: bool, color: bool, unicode: bool
    ) -> None:
        self.fd = fd
        self.is_tty = is_tty
        self.moves = moves
        self.color = color
        self.unicode = unicode

    @classmethod
    def of(cls, fd: int = 1, environ: Mapping[str, str] | None = None) -> Terminal:
        """The facts of file descriptor `fd`, as the environment tells them."""
        env = os.environ if environ is None else environ
        try:
            is_tty = os.isatty(fd)
        except OSError:  # pragma: no cover - closed
            is_tty = False
        moves = is_tty and env.get("TERM", "") not in ("dumb", "unknown", "")
        forced = env.get("FORCE_COLOR", "")
        color = (moves or bool(forced)) and forced != "0"
        stdout_encoding = getattr(sys.stdout, "encoding", None) or ""
        return cls(
            fd=fd,
            is_tty=is_tty,
            moves=moves,
            color=color and not env.get("NO_COLOR"),
            unicode=shows_unicode(env, stdout_encoding),
        )

    def size(self) -> tuple[int, int]:
        """Columns and lines now; 80 x 24 where the terminal does not say."""
        try:
            columns, lines = os.get_terminal_size(self.fd)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24

    def encode(self, text: str) -> bytes:
        """`text` in bytes the output can show."""
        if self.unicode:
            return text.encode("utf-8", "replace")
        return text.translate(ASCII_GLYPHS).encode("ascii", "replace")


class Echo:
    """The keyboard's echo: a key typed into the show would break its lines.

    Only where standard input is the terminal we are in front of; elsewhere all of it is nothing.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._saved: Any = None

    def mute(self) -> None:
        """Switch the echo off."""
        try:
            import termios

            if os.tcgetpgrp(self._fd) != os.getpgrp():  # in the background: it would stop us
                return
            found = termios.tcgetattr(self._fd)
            quiet = list(found)
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(self._fd, termios.TCSADRAIN, quiet)
            self._saved = found
        except (ImportError, OSError, AttributeError):
            return
        except termios.error:  # no terminal
            return

    def restore(self) -> None:
        """Put it back as found, without what was typed meanwhile."""
        if self._saved is None:
            return
        import termios

        saved, self._saved = self._saved, None
        try:
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, saved)
        except (OSError, termios.error):
            return


def write_all(fd: int, data: bytes, *, write: Callable[[int, memoryview], int] = os.write) -> None:
    """Write all of `data`, in as few writes as the file takes.

    Raises:
        BrokenPipeError: If nobody reads any more.
        WorldError: If it cannot be written.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[write(fd, view) :]
        except BlockingIOError:  # somebody who shares the terminal made it non-blocking
            import select

            select.select([], [fd], [], 0.1)
        except BrokenPipeError:
            raise
        except OSError as error:
            from ghosttrain.core.errors import WorldError

            reason = error.strerror or error
            raise WorldError(f"cannot write to standard output: {reason}") from error


def shows_unicode(environ: Mapping[str, str], stdout_encoding: str) -> bool:
    """Whether the locale is UTF-8.

    Python itself does not tell: under a C locale it writes UTF-8 all the same (PEP 538, 540).
    PYTHONIOENCODING comes first, as for Python; then LC_ALL, LC_CTYPE, LANG.
    """
    asked = environ.get("PYTHONIOENCODING", "").partition(":")[0]
    if asked:
        return _is_utf8(asked)
    names = [environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    # Under LANG=C Python has put LC_CTYPE=C.UTF-8 into the environment (PEP 538).
    if not names[0] and names[1] == "C.UTF-8" and names[2] in ("C", "POSIX"):
        names[1] = ""
    locale = next(filter(None, names), "")
    if locale:
        return _is_utf8(locale)
    return _is_utf8(stdout_encoding)


def _is_utf8(name: str) -> bool:
    folded = name.lower().replace("-", "")
    return folded.endswith("utf8") or "utf8@" in folded
