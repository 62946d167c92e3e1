"""`ghosttrain run`: the show on a terminal, a log elsewhere, one run after the other.

Only cheap modules are imported at the top: the first line is written before NumPy is loaded.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from ghosttrain.cli.common import (
    LARGEST_SEED,
    add_spec_arguments,
    count,
    duration,
    iso,
    request_from_args,
    settle,
    speed,
    stamp,
    version,
)
from ghosttrain.cli.main import Interrupted, complain
from ghosttrain.core.errors import WorldError
from ghosttrain.views.show.opening import opening_rows
from ghosttrain.views.show.terminal import Terminal, write_all

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager
    from types import FrameType

    from ghosttrain.core.run import Run
    from ghosttrain.playback import Player
    from ghosttrain.views.show.log_sink import LogSink
    from ghosttrain.views.show.show import Show

# Between two frames the process may have been stopped, or the machine asleep: but in real time
# the show then goes on from where it was.
LONGEST_GAP_S = 2.0
SUMMARY_WALL_S = 3.0  # between two runs on a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `run`."""
    add_spec_arguments(parser)
    group = parser.add_argument_group("how to show it")
    group.add_argument(
        "--speed",
        metavar="auto|N|real|max",
        type=speed,
        help="run seconds per wall second; real is 1, max as fast as possible; the default,"
        " auto, shows about 16 steps a second and hurries through the rest",
    )
    group.add_argument(
        "--runs",
        metavar="N",
        type=count,
        help="end after so many runs (default: go on until Ctrl-C)",
    )
    group.add_argument(
        "--exit-after", metavar="TIME", type=duration, help="end after a time, as in 2h10min"
    )
    group.add_argument(
        "--instant-lines", metavar="N", type=count, help="show the first N lines at once"
    )
    group.add_argument("--keep-awake", action="store_true", help="keep this machine from sleeping")
    group.add_argument(
        "--format",
        metavar="NAME",
        default="classic",
        help="of the output, one that `ghosttrain list formats` has for run (default: classic)",
    )
    group.add_argument(
        "--log-interval",
        metavar="N",
        type=count,
        default=10,
        help="steps between two detailed lines (default: 10)",
    )


def execute(args: argparse.Namespace) -> int:
    """Show or log runs until told to end."""
    args.format = log_format(args.format)
    until_wall_s = time.monotonic() + args.exit_after if args.exit_after else float("inf")
    terminal = Terminal.of(1)
    awake = keeping_awake() if args.keep_awake else None
    settle(args, watched=terminal.is_tty and args.format == "classic")
    stage = Stage(args, terminal, until_wall_s)
    try:
        if args.format == "classic":
            stage.open(header(args, terminal))
        if awake is None:
            stage.play_all()
        else:
            with awake:
                stage.play_all()
    except Interrupted as interrupted:
        with suppress(BrokenPipeError, WorldError):  # the terminal itself may be gone
            stage.leave()
        complain(stage.last_words())
        interrupted.told = True
        raise
    finally:
        stage.leave()
    return 0


def log_format(text: str) -> str:
    """The name of a format that `run` has.

    Raises:
        SpecError: If there is none such.
    """
    if text == "classic":  # the rest of them would load NumPy
        return text
    from ghosttrain.exporters.formats import log_named

    return log_named(text)


def header(args: argparse.Namespace, terminal: Terminal) -> bytes:
    """The line that begins a run, before anything of it is known but its seed and date."""
    date, text = f"[{stamp(args.start)}]", f" INFO    {title(args)}"
    columns = terminal.size()[0] if terminal.is_tty else sys.maxsize
    if len(date + text) > columns:
        return terminal.encode((date + text)[: columns - 1] + "…\n")
    if terminal.color:
        date, text = f"\x1b[2m{date}\x1b[0m", text.replace(" INFO   ", "\x1b[32m INFO   \x1b[0m", 1)
    return terminal.encode(f"{date}{text}\n")


def title(args: argparse.Namespace) -> str:
    """What the first line says."""
    return f"ghosttrain {version()} · seed {args.seed}"


class Stage:
    """Where runs are played, one after the other, and what is said when they end."""

    def __init__(self, args: argparse.Namespace, terminal: Terminal, until_wall_s: float) -> None:
        self._args = args
        self._terminal = terminal
        self._until_wall_s = until_wall_s
        self._sink: Show | LogSink | None = None
        self._player: Player | None = None
        self._opening: list[str] = []  # rows of the bars that nobody has taken over yet

    def open(self, title_line: bytes) -> None:
        """Write the first line and, on a terminal, both bars: the rest takes its time."""
        self._opening = opening_rows(self._terminal)
        bars = "\r\n".join(self._opening)
        write_all(self._terminal.fd, title_line + self._terminal.encode(bars))

    def play_all(self) -> None:
        """Play run after run: each has the next seed and begins when the last one ended."""
        args = self._args
        for number in range(args.runs or sys.maxsize):
            run = self._next_run()
            sink = self._sink_for(run, is_first=number == 0)
            if not self._play(run, sink, instant_lines=0 if number else args.instant_lines or 0):
                return
            if number + 1 < (args.runs or sys.maxsize):
                self._let_read()
            args.seed = (args.seed + 1) % (LARGEST_SEED + 1)
            args.start += -int(-run.end_s // 1)

    def _let_read(self) -> None:
        """At a watcher's speed, leave the summary on the screen before the next run begins."""
        if not self._terminal.is_tty or self._args.speed not in (None, "auto"):
            return
        until = min(time.monotonic() + SUMMARY_WALL_S, self._until_wall_s)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
            if self._sink is not None and self._player is not None:
                self._sink.draw(self._player)  # a resize is answered meanwhile

    def leave(self) -> None:
        """Give the terminal back. Idempotent."""
        sink, self._sink = self._sink, None
        opening, self._opening = self._opening, []
        if opening:  # take them off: what is told next stands behind the first line
            write_all(self._terminal.fd, f"\x1b[{len(opening) - 1}A\r\x1b[J".encode())
        if sink is not None:
            sink.close()

    def last_words(self) -> str:
        """What ran, and how to have it again."""
        return f"Interrupted{self._where()}. Again: {again(self._args)}"

    def _where(self) -> str:
        if self._player is None:
            return ""
        spec = self._player.run.spec
        gpus = f"{spec.cluster.gpus:,} × {spec.gpu.name}"
        date = stamp(spec.start_unix_s + self._player.position_s)
        return f" at {date}: {spec.model.name} on {gpus}"

    def _next_run(self) -> Run:
        from ghosttrain.core.run import simulate
        from ghosttrain.inputs.request import resolve

        spec = resolve(request_from_args(self._args), self._args.seed)
        return simulate(spec, self._args.seed)

    def _sink_for(self, run: Run, *, is_first: bool) -> Show | LogSink:
        args = self._args
        if args.format == "classic" and self._terminal.is_tty:
            return self._show(is_first=is_first)
        from ghosttrain.views.show.log_sink import LogSink, classic, one_by_one

        if not isinstance(self._sink, LogSink):
            self._sink = LogSink(self._terminal.fd, log_interval=args.log_interval)
        if args.format != "classic":
            from ghosttrain.exporters.formats import LOGS
            from ghosttrain.exporters.writing import Asked

            log = LOGS[args.format].log(Asked(run, log_interval=args.log_interval))
            self._sink.render = one_by_one(log.accept)
            return self._sink
        if not is_first:
            self._sink.write(header(args, self._terminal))
        self._sink.render = classic(self._terminal, every=args.log_interval)
        return self._sink

    def _show(self, *, is_first: bool) -> Show:
        from ghosttrain.views.show.show import Show

        if not isinstance(self._sink, Show):
            from ghosttrain.views.show.screen import Screen

            screen = Screen(self._terminal)
            screen.adopt_pinned(self._opening)
            self._opening = []
            self._sink = Show(screen, log_interval=self._args.log_interval)
            stop_in_order(self._sink)
        self._sink.begin(title(self._args), is_written=is_first)
        return self._sink

    def _play(self, run: Run, sink: Show | LogSink, *, instant_lines: int) -> bool:
        from ghosttrain.playback import Player, play

        self._player = player = Player(run, speed="auto")
        while sink.lines < instant_lines and not player.finished:
            # At this speed a line takes about 1/16 s: no more than what is missing.
            missing = instant_lines - sink.lines
            for event in player.advance(missing / 50, sample_every=self._args.log_interval):
                sink.accept(event)
        player.speed = self._args.speed or "auto"
        return play(
            player,
            sink,
            until_wall_s=self._until_wall_s,
            longest_gap_s=float("inf") if player.speed == 1.0 else LONGEST_GAP_S,
        )


def stop_in_order(show: Show) -> None:
    """On Ctrl-Z, have the show give the terminal back before the process stops."""
    import signal

    def ask(_number: int, _frame: FrameType | None) -> None:
        show.asked_to_stop = True

    if hasattr(signal, "SIGTSTP"):
        signal.signal(signal.SIGTSTP, ask)


def again(args: argparse.Namespace, command: str = "run") -> str:
    """The command that shows the present run again, or does something else with it."""
    import shlex

    words: list[str] = []
    rest = iter(args.words)
    for word in rest:
        name, has_value, value = word.partition("=")
        if name in ("--seed", "--start", "--set") and not has_value:
            value = next(rest, "")
        if name == "--set" and not value.startswith("start="):
            words += [name, value]
        elif name not in ("--seed", "--start", "--set"):
            words.append(word)
    words += ["--seed", str(args.seed), "--start", iso(args.start)]
    return shlex.join(["ghosttrain", command, *words])


def keeping_awake() -> AbstractContextManager[object]:
    """A context in which the machine does not sleep; that it cannot is a warning.

    Raises:
        RequestError: If wakepy is not installed.
    """
    from ghosttrain.core.errors import RequestError

    try:
        from wakepy import keep
    except ImportError:
        raise RequestError(
            "--keep-awake needs the package wakepy: pip install 'ghosttrain[awake]'"
        ) from None

    def warn(_result: object) -> None:
        complain("ghosttrain: warning: this machine cannot be kept awake")

    return keep.presenting(on_fail=warn)
