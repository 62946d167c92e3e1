"""`ghosttrain drill`: a run with a hidden fault; say what it is and where.

Only cheap modules are imported at the top: the first line is written before NumPy is loaded.
"""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import contextmanager, suppress

from ghosttrain.cli.common import (
    add_spec_arguments,
    iso,
    request_from_args,
    settle,
    stamp,
    version,
)
from ghosttrain.cli.main import Interrupted, complain
from ghosttrain.core.errors import RequestError, WorldError
from ghosttrain.views.show.terminal import Terminal, write_all

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from ghosttrain.drill.session import Session
    from ghosttrain.drill.tables import Look
    from ghosttrain.views.renderables.line import Line

LEVELS = ("easy", "normal", "hard")
DRAWN = ("any", "random")  # words for: hide what you like
PIPE_COLUMNS = 100  # what tables are drawn for where nobody says
_FRAME_WALL_S = 0.08  # a watch of 30 pieces takes two or three seconds
_LOOK_UP_WALL_S = 0.1
_SPEC_FLAGS = (
    "model", "gpu", "gpus", "dataset", "tokens", "epochs", "steps", "seq_len",
    "global_batch_size", "precision", "tp", "pp", "dp", "cp", "ep", "names",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `drill`."""
    parser.add_argument(
        "scenario",
        metavar="SCENARIO",
        nargs="?",
        help="a scenario (`ghosttrain list scenarios`), its file or a fault (`ghosttrain list"
        " faults`); any, the default, draws one that you have to find out",
    )
    add_spec_arguments(parser)
    parser.add_argument_group("how hard it is").add_argument(
        "--level",
        choices=LEVELS,
        default="normal",
        help="easy: what ends the run and says so; hard: what only numbers show, and two"
        " lookalikes; normal, the default: anything, and a lookalike",
    )


def execute(args: argparse.Namespace) -> int:
    """Hide a fault, and let the player find it."""
    if args.faults not in (None, "none"):
        raise RequestError(
            "a drill hides its own faults: leave --faults out, name the scenario as in"
            " `ghosttrain drill straggler`"
        )
    terminal = Terminal.of(1)
    settle(args, watched=terminal.is_tty)
    page = Page(terminal)
    page.write(f"[{stamp(args.start)}] ghosttrain {version()} · drill · seed {args.seed}\n")
    session = _session(args, page)
    try:
        session.play()
    except Interrupted as interrupted:
        with suppress(BrokenPipeError, WorldError):  # the terminal itself may be gone
            page.write("\n" if terminal.is_tty else "")
        complain(f"Interrupted. Again: {again(args)}")
        interrupted.told = True
        raise
    if session.is_revealed:
        page.write(f"\nThe run, with what went wrong: {the_run(args, session)}\n")
        page.write(f"This drill again: {again(args)}\n")
    else:
        page.write(f"Nothing was revealed. This drill again: {again(args)}\n")
    return 0


class Page:
    """Writes lines to standard output, cut to the width of a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def write(self, text: str) -> None:
        """Write text as it is."""
        if text:
            write_all(self.terminal.fd, self.terminal.encode(text))

    def say(self, lines: Iterable[Line]) -> None:
        """Write lines."""
        terminal = self.terminal
        rows = list(lines)
        if terminal.is_tty:
            columns = terminal.size()[0]
            rows = [line.fit(columns) for line in rows]
        self.write("".join(f"{line.ansi(color=terminal.color)}\n" for line in rows))

    def look(self) -> Look:
        """How wide tables may be."""
        from ghosttrain.drill.tables import Look
        from ghosttrain.views.renderables.glyphs import ASCII, UNICODE

        terminal = self.terminal
        columns, rows = terminal.size() if terminal.is_tty else (PIPE_COLUMNS, 200)
        glyphs = UNICODE if terminal.unicode else ASCII
        return Look(columns, max(4, rows - 2), glyphs, terminal.color)


class Keys:
    """Lines of standard input: of a person at a terminal, or of a script.

    A script's lines are echoed, so that what is written reads as a session does.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._is_tty = sys.stdin is not None and sys.stdin.isatty()
        self._edits = self._is_tty and page.terminal.is_tty
        if self._edits:
            _complete_commands()

    def ask(self, prompt: str) -> str | None:
        """The next line without its end, None when there is none any more."""
        if self._edits:
            try:
                with listening():
                    return input(self._page.terminal.encode(prompt).decode())
            except EOFError:
                self._page.write("\n")
                return None
        self._page.write(prompt)
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not self._is_tty:
            self._page.write(line if line.endswith("\n") else f"{line}\n")
        return line.rstrip("\n") if line else None

    @contextmanager
    def watching(self) -> Iterator[Callable[[], bool]]:
        """At a terminal each piece takes its time, and Ctrl-C ends the watching."""
        if not self._edits:
            yield lambda: True
            return
        import signal

        is_stopped = False

        def stop(_number: int, _frame: FrameType | None) -> None:
            nonlocal is_stopped
            is_stopped = True

        def goes_on() -> bool:
            if not is_stopped:
                time.sleep(_FRAME_WALL_S)
            return not is_stopped

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield goes_on
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def listening() -> Iterator[None]:
    """While a line is read, signals are answered at once.

    One that comes just before readline begins to wait would stay unanswered until the next key:
    a timer that does nothing has it look up.
    """
    import signal

    if not hasattr(signal, "setitimer"):
        yield
        return
    answer = signal.getsignal(signal.SIGINT)
    look_up = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_UP_WALL_S, _LOOK_UP_WALL_S)
    is_interrupted = False
    try:
        yield
    except Interrupted:
        raise  # another signal: by now the timer is that of the last words
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        if not isinstance(sys.exception(), Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, look_up)
            signal.signal(signal.SIGINT, answer)
    if is_interrupted and callable(answer):
        answer(signal.SIGINT, None)  # not before the timer's own signal has been answered


def again(args: argparse.Namespace) -> str:
    """The command that has the same drill again; it names no more than the player did."""
    scenario = args.scenario or ("any" if args.spec else None)
    level = ["--level", args.level] if args.level != "normal" else []
    first = [scenario] if scenario else []
    return shlex.join(["ghosttrain", "drill", *first, *_spec_words(args), *level])


def the_run(args: argparse.Namespace, session: Session) -> str:
    """The command that shows the run with its faults, all of them by name."""
    from ghosttrain.inputs.faults import fault_words

    faults = ",".join(fault_words(session.case.run.spec.faults))
    return shlex.join(["ghosttrain", "run", *_spec_words(args), "--faults", faults])


def _spec_words(args: argparse.Namespace) -> list[str]:
    words = [args.spec] if args.spec else []
    for name in _SPEC_FLAGS:
        if (value := getattr(args, name)) is not None:
            words += [
                f"--{name.replace('_', '-')}",
                f"{value:.0f}" if name == "tokens" else str(value),
            ]
    for pair in args.set or ():
        words += ["--set", pair]
    return [*words, "--seed", str(args.seed), "--start", iso(args.start)]


def _session(args: argparse.Namespace, page: Page) -> Session:
    from ghosttrain.drill.choice import draw_case
    from ghosttrain.drill.session import Session
    from ghosttrain.inputs.request import resolve

    spec = resolve(request_from_args(args), args.seed)
    scenario = None if args.scenario in DRAWN else args.scenario
    case = draw_case(spec, args.seed, scenario, args.level)
    return Session(case, Keys(page), say=page.say, look=page.look)


def _complete_commands() -> None:
    """Line editing, and the commands by Tab, where there is readline."""
    try:
        import readline
    except ImportError:
        return
    from ghosttrain.drill.session import COMMANDS

    def complete(text: str, state: int) -> str | None:
        found = [f"{name} " for name in COMMANDS if name.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
