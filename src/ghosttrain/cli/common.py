"""What the commands share: the parser, the flags of a SPEC, and readers of their values.

Only cheap modules are imported here: the first line is on the screen before NumPy is loaded.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any, NoReturn, TypeVar

    from ghosttrain.inputs.request import Request

    T = TypeVar("T")

EPOCH_OF_FILES = 1767225600  # 2026-01-01T00:00:00Z: the date of runs that nobody watches
SEED_BITS = 31
LARGEST_SEED = 2**63 - 1
_AMOUNT = re.compile(
    r"(\d[\d,_]*(?:\.\d+)?(?:e\+?\d{1,2})?)\s*([KMBGT]?)", re.IGNORECASE | re.ASCII
)
_START = re.compile(r"""^start\s*=\s*["']?([^"'#\n]+)""", re.MULTILINE)
_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are two lines on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """End with `message`."""
        self.exit(2, f"ghosttrain: {message}\nTry `{self.prog} --help`.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help and errors; argparse itself would hide that help cannot be written."""
        target = file or sys.stderr
        if message and target is not None:
            target.write(message)

    def options(self) -> Iterator[str]:
        """The options it knows."""
        for action in self._actions:
            yield from action.option_strings


class Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, up to 100 columns.

    argparse would ask shutil for the width, with every argument added; importing it costs 3 ms.
    """

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(1).columns or 100
        except OSError:
            columns = 100
        super().__init__(prog, width=min(columns, 100) - 2, max_help_position=28)


def new_parser(name: str, summary: str, examples: Sequence[str]) -> Parser:
    """The parser of command `name`, still without the command's own arguments."""
    parser = Parser(
        prog=f"ghosttrain {name}",
        description=summary,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return parser


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Add SPEC and the flags that override it. Flags nobody gives are None."""
    parser.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?",
        help="a model of the catalogue, a Hugging Face config.json, a spec file of ours"
        " (TOML), a torchtitan job file, a Megatron-LM launch script; default: a random lawful"
        " run",
    )
    group = parser.add_argument_group("what to rehearse")
    group.add_argument("--model", metavar="NAME|FILE", help="model of the catalogue or config.json")
    group.add_argument("--gpu", metavar="NAME", help="kind of GPU, as in h100-sxm")
    group.add_argument("--gpus", metavar="COUNT", type=count, help="how many GPUs")
    group.add_argument("--dataset", metavar="NAME", help="corpus to train on")
    group.add_argument(
        "--tokens", metavar="N", type=amount, help="tokens of the whole run, as in 15T"
    )
    group.add_argument("--epochs", metavar="N", type=count, help="passes over the data")
    group.add_argument("--steps", metavar="N", type=count, help="optimizer steps of the whole run")
    group.add_argument("--seq-len", metavar="N", type=count, help="tokens of a sequence")
    group.add_argument("--global-batch-size", metavar="N", type=count, help="sequences a step")
    group.add_argument(
        "--precision", choices=("bf16", "fp16", "fp8", "mxfp8", "nvfp4"), help="of the matmuls"
    )
    for flag, degree in (
        ("tp", "tensor"),
        ("pp", "pipeline"),
        ("dp", "data"),
        ("cp", "context"),
        ("ep", "expert"),
    ):
        group.add_argument(f"--{flag}", metavar="N", type=count, help=f"{degree}-parallel degree")
    group.add_argument(
        "--faults",
        metavar="WORDS",
        help="what goes wrong, separated by commas: none (the default), realistic, a fault as in"
        " gpu-off-bus or slow-link@2h10min:17=0.3~20min, a scenario as in lemon-node, or its"
        " FILE.toml; `ghosttrain list faults` and `ghosttrain list scenarios` have the names",
    )
    group.add_argument(
        "--names",
        choices=("earnest", "mixed", "satirical"),
        help="which names a random run draws from",
    )
    group.add_argument(
        "--start",
        metavar="TIME",
        type=moment,
        help="date of the run, as in 2026-11-23T12:41:07Z"
        " (default: now on a terminal, 2026-01-01T00:00:00Z elsewhere)",
    )
    group.add_argument(
        "--seed", metavar="N", type=seed, help="same spec, same seed, same run (default: random)"
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        help="any other field of a spec file, as in --set recipe.peak_learning_rate=1e-4",
    )


def request_from_args(args: argparse.Namespace) -> Request:
    """What the flags ask for."""
    from ghosttrain.inputs.request import Request

    return Request.from_args(args)


def settle(args: argparse.Namespace, *, watched: bool) -> None:
    """Choose the seed and the date where the user left them open, in place.

    Args:
        args: Parsed flags, with `seed` and `start` (Unix seconds) possibly None.
        watched: Whether a terminal shows the run: its date is now.
    """
    if args.seed is None:
        args.seed = int.from_bytes(os.urandom(4), "big") >> (32 - SEED_BITS)
    if args.start is None and (text := _start_in_spec(args)) is not None:
        with suppress(argparse.ArgumentTypeError):  # resolve() says what is wrong with it
            args.start = moment(text)
            args.set = [pair for pair in args.set or () if not pair.startswith("start=")]
    if args.start is None:
        args.start = int(time.time()) if watched else EPOCH_OF_FILES


def _start_in_spec(args: argparse.Namespace) -> str | None:
    """The date in --set or in a spec file, found without reading the rest."""
    for pair in args.set or ():
        if pair.startswith("start="):
            return str(pair.removeprefix("start="))
    if not (args.spec or "").endswith(".toml"):
        return None
    with suppress(OSError, UnicodeDecodeError), open(args.spec, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs 5 ms
        found = _START.search(file.read().partition("\n[")[0])
        return found[1].strip() if found else None
    return None


def stamp(unix_s: float) -> str:
    """A date as log lines show it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_s))


def iso(unix_s: float) -> str:
    """A date as --start reads it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def version() -> str:
    """The version of ghosttrain."""
    from ghosttrain import __version__

    return __version__


def count(text: str) -> int:
    """A whole number above 0, digits possibly grouped by commas or underscores."""
    plain = re.sub(r"(?<=\d)[,_](?=\d)", "", text.strip())
    if not (plain.isascii() and plain.isdigit() and 0 < (number := int(plain[:19])) < 10**18):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def amount(text: str) -> float:
    """A number above 0, possibly with K, M, B or T behind it."""
    found = _AMOUNT.fullmatch(text.strip())
    number = 0.0
    if found:
        number = float(found[1].replace(",", "").replace("_", "")) * _SUFFIXES[found[2].upper()]
    if not 0 < number < 1e30:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, as in 15T or 2e9")
    return number


def seed(text: str) -> int:
    """A whole number from 0."""
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= LARGEST_SEED):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def moment(text: str) -> int:
    """Unix seconds of an ISO date; without a zone it is UTC."""
    from datetime import UTC, datetime

    try:
        date = datetime.fromisoformat(text.strip())
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date: give one as in 2026-11-23T12:41:07Z"
        ) from None


def read_by(reader: Callable[[str], T]) -> Callable[[str], T]:
    """`reader`, its SpecError told as argparse tells errors."""

    def read(text: str) -> T:
        from ghosttrain.core.errors import SpecError

        try:
            return reader(text)
        except SpecError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def speed(text: str) -> float | str:
    """A --speed."""
    from ghosttrain.playback import parse_speed

    return read_by(parse_speed)(text)


def duration(text: str) -> float:
    """A duration, seconds."""
    from ghosttrain.inputs.durations import parse_duration

    return read_by(parse_duration)(text)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that is there keeps its permissions.

    Raises:
        InputFileError: If there can be no such file.
        WorldError: If it cannot be written completely.
    """
    from ghosttrain.core.errors import InputFileError, WorldError

    try:
        target = path.resolve()
        if target.is_dir():
            raise InputFileError(f"{path}: is a folder")
        is_special = target.exists() and not target.is_file()  # /dev/stdout, a pipe
        partial = target if is_special else target.with_name(f".{target.name[:200]}.part")
        file = partial.open("w", encoding="utf-8")
    except ValueError:  # a NUL in the name
        raise InputFileError(f"{str(path)!r}: cannot be written: no such name") from None
    except OSError as error:
        raise InputFileError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with file:
            file.write(text)
        if not is_special:
            if target.exists():
                partial.chmod(target.stat().st_mode & 0o7777)
            partial.replace(target)
    except BaseException as error:
        if not is_special:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WorldError(f"{path}: cannot be written: {error.strerror}") from None
        raise
