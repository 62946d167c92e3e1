"""The command line: finds the command, answers signals, turns errors into exit codes.

Only cheap modules are imported here: the first line is on the screen before NumPy is loaded.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from signal import Handlers
    from types import FrameType

    from ghosttrain.cli.common import Parser

    Handler = Callable[[int, FrameType | None], object] | Handlers | int | None

# Name: what it does, two or three examples. Each is a module of this package with
# add_arguments(parser) and execute(args) -> exit code.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": (
        "The scrolling show; or, with --format or piped, a log.",
        (
            "ghosttrain run",
            "ghosttrain run llama-3-8b --gpus 64 --seed 7",
            "ghosttrain run --speed max --runs 1 --format jsonl > run.jsonl",
        ),
    ),
    "plan": (
        "What the run will be, before it runs: one sentence, then tables.",
        ("ghosttrain plan llama-3-8b", "ghosttrain plan llama-3-70b --gpus 512 --json"),
    ),
    "export": (
        "A run, or a window of it, as files, as fast as possible.",
        (
            "ghosttrain export llama-3-8b --seed 7 --to out",
            "ghosttrain export llama-3-8b --to out --format parquet --from 20min --to-time 1h",
            "ghosttrain export --faults realistic --to out --format labels,labels-parquet",
        ),
    ),
    "serve": (
        "A live run behind HTTP: /metrics as dcgm-exporter has them, discovery, control.",
        (
            "ghosttrain serve llama-3-8b --gpus 64 --seed 7",
            "ghosttrain serve --faults gpu-off-bus@2h:17 --at incident:1-2min",
            "ghosttrain serve --speed 60 --metrics default,profiling --port-per-node",
        ),
    ),
    "drill": (
        "A hidden fault to find: watch, say what and where it is, see the truth.",
        (
            "ghosttrain drill",
            "ghosttrain drill --level hard --seed 7",
            "ghosttrain drill straggler --gpus 128",
        ),
    ),
    "score": (
        "How well did a detector find what was wrong?",
        (
            "ghosttrain score out/labels.jsonl alarms.jsonl",
            "ghosttrain score out/events.jsonl alarms.csv --grace 2min --json",
        ),
    ),
    "check": (
        "Does an output of ours keep what ghosttrain promises?",
        ("ghosttrain check run.log", "ghosttrain run --speed max --runs 1 | ghosttrain check -"),
    ),
    "list": (
        "What the catalogue holds.",
        ("ghosttrain list models", "ghosttrain list gpus"),
    ),
    "validate": (
        "Predicted against published, row by row, with the errors.",
        (
            "ghosttrain validate",
            "ghosttrain validate --rows runs.csv --out predicted.csv",
            "ghosttrain validate --by gpu --worst 20 --report report.html",
        ),
    ),
    "bench": (
        "How fast this machine rehearses.",
        ("ghosttrain bench",),
    ),
}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
# After a signal the terminal gets this long to take the last bytes; then we are gone anyway.
LAST_WORDS_S = 0.18


class Interrupted(KeyboardInterrupt):
    """A signal asked to end: SIGINT, SIGTERM or SIGHUP.

    Attributes:
        exit_code: By the shell's custom, 128 and the signal's number.
        told: Whether the user has been told what ran.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.told = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    before: dict[int, Handler] = {}
    came: list[int] = []
    try:
        before = answer_signals(came)
        code = dispatch(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except Interrupted as interrupted:
        if not interrupted.told:
            complain("ghosttrain: interrupted")
        code = interrupted.exit_code
        hurry_out()
    except KeyboardInterrupt:  # before we could answer ourselves
        complain("ghosttrain: interrupted")
        code = 130
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if "--debug" in words:
            raise
        if came:  # raised inside an extension's import, an interrupt comes out as something else
            complain("ghosttrain: interrupted")
            code = 128 + came[0]
        else:
            code = reported(error)
    leave(before)
    return code


def dispatch(words: list[str]) -> int:
    """Parse and run the command that `words` ask for."""
    from importlib import import_module

    from ghosttrain.cli.common import new_parser

    if words and words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words and words[0] in ("-V", "--version"):
        from ghosttrain.cli.common import version

        print(f"ghosttrain {version()}")
        return 0
    name, rest = command_of(words)
    module = import_module(f"ghosttrain.cli.{name}")
    summary, examples = COMMANDS[name]
    parser = new_parser(name, summary, examples)
    module.add_arguments(parser)
    try:
        args = parse(parser, rest)
    except SystemExit as ended:  # --help, or a usage error it has reported
        return ended.code if isinstance(ended.code, int) else 2
    args.words = rest
    return int(module.execute(args))


def parse(parser: Parser, words: list[str]) -> argparse.Namespace:
    """The parsed `words`; an unknown option ends with the nearest known one."""
    args, unknown = parser.parse_known_args(words)
    if unknown:
        options = [word for word in unknown if word.startswith("-")]
        if not options:
            parser.error(f"one SPEC is enough, {unknown[0]!r} is one too many")
        option = options[0].partition("=")[0]
        from ghosttrain.core.errors import nearest

        near = nearest(option, parser.options())
        hint = f"did you mean {near}?" if near else f"see `{parser.prog} --help`"
        parser.error(f"unknown option {option}: {hint}")
    return args


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The command and the words after it; without one it is `run`.

    A first word that is no command is the SPEC of a run, unless it looks like a slip.
    """
    at = next((i for i, word in enumerate(words) if word != "--debug"), len(words))
    first = words[at] if at < len(words) else ""
    if first in COMMANDS:
        return first, words[:at] + words[at + 1 :]
    if first.isalpha() and not os.path.exists(first):  # noqa: PTH110 - pathlib costs 5 ms
        from ghosttrain.core.errors import RequestError, nearest

        if near := nearest(first, COMMANDS):
            raise RequestError(f"unknown command {first!r}: did you mean {near}?")
    return "run", words


def overview() -> str:
    """The help of `ghosttrain` itself."""
    commands = "\n".join(f"  {name:<8} {about}" for name, (about, _) in COMMANDS.items())
    return f"""usage: ghosttrain [COMMAND] [SPEC] [options]

Rehearses LLM training runs without a GPU: lawful numbers, any moment, any speed.

commands (without one: run):
{commands}

SPEC is a name (`ghosttrain list models`), a Hugging Face config.json or a spec file of our
own (TOML); without one the run is drawn at random.

options:
  -h, --help     this; `ghosttrain COMMAND --help` for the options of a command
  -V, --version  the version

examples:
  ghosttrain                              the show: random runs until Ctrl-C
  ghosttrain llama-3-8b --gpus 64         one that is known
  ghosttrain plan llama-3-70b --gpus 512  what it will be, before it runs"""


def answer_signals(came: list[int]) -> dict[int, Handler]:
    """Have SIGINT, SIGTERM and SIGHUP end whatever runs, in good order and soon.

    Returns what answered them before; the one that comes is put into `came`.
    """
    import signal

    def interrupt(number: int, _frame: FrameType | None) -> None:
        def give_up(_number: int, _frame: FrameType | None) -> None:
            os._exit(128 + number)

        came.append(number)
        for other in answered:  # once is enough: the way out must not be cut short
            signal.signal(other, signal.SIG_IGN)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, give_up)
            signal.setitimer(signal.ITIMER_REAL, LAST_WORDS_S)
        raise Interrupted(number)

    answered = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    if signal.getsignal(answered[-1]) is signal.SIG_IGN:  # nohup
        answered.pop()
    try:
        return {number: signal.signal(number, interrupt) for number in answered}
    except ValueError:  # not the main thread: whoever calls us answers
        return {}


def reported(error: Exception) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    from ghosttrain.core.errors import GhosttrainError

    if isinstance(error, OSError) and error.filename is None:  # print() did not reach its reader
        complain(f"ghosttrain: cannot write to standard output: {error.strerror or error}")
        return 1
    if isinstance(error, GhosttrainError):
        complain(f"ghosttrain: {error}")
        return error.exit_code
    kind = type(error).__name__
    complain(f"ghosttrain: internal error, {kind}: {error}\nPlease report it; --debug shows more.")
    return 1


def complain(text: str) -> None:
    """Write `text` to stderr, if anybody listens there."""
    try:
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
    except OSError:
        return


def hurry_out() -> None:
    """Leave out the interpreter's last look through all objects: four fifths of the way out."""
    import gc

    gc.freeze()


def leave(before: dict[int, Handler]) -> None:
    """Make the interpreter's own last flush safe, end the last words, give back the signals."""
    import signal

    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
