"""`ghosttrain check`: do logs of ours keep what is promised? One line a violation."""

from __future__ import annotations

import sys

from ghosttrain.cli.common import count, seed
from ghosttrain.cli.main import complain

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from ghosttrain.checking import FileReport

STANDARD_INPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `check`."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="a JSONL event log or a classic log, also of several runs; - for standard input",
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.add_argument(
        "--complete", action="store_true", help="a run that has begun must also have ended"
    )
    parser.add_argument(
        "--random",
        metavar="N",
        type=count,
        help="rehearse N random short runs, half of them with faults, and check both their logs",
    )
    parser.add_argument(
        "--seed", metavar="N", type=seed, default=0, help="of the first random run (default: 0)"
    )


def execute(args: argparse.Namespace) -> int:
    """Check files, or random runs."""
    if args.random:
        from ghosttrain.cli.check_random import check_random_runs

        return check_random_runs(args.random, args.seed)
    files = args.files or ([] if sys.stdin is None or sys.stdin.isatty() else [STANDARD_INPUT])
    if not files:
        complain("ghosttrain: give a log to check, or - for standard input")
        return 2
    reports, unreadable = [], []
    for file in files:
        report = checked(file, complete=args.complete)
        if isinstance(report, str):
            unreadable.append((file, report))
            complain(f"ghosttrain: {shown(file)}: {report}")
            continue
        reports.append((file, report))
        if not args.json:
            for line in told(file, report):
                print(line)
    if args.json:
        import json

        print(json.dumps(as_json(reports, unreadable), indent=2))
    if unreadable:
        return 2
    return 0 if all(report.holds for _, report in reports) else 1


def checked(file: str, *, complete: bool) -> FileReport | str:
    """The report of one file, or why it cannot be read."""
    from ghosttrain.checking import UnknownFormatError, check_lines

    try:
        with opened(file) as stream:
            return check_lines(stream, complete=complete)
    except UnknownFormatError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def opened(file: str) -> BinaryIO:
    """The file's bytes; standard input stays open when it is closed."""
    from pathlib import Path

    if file == STANDARD_INPUT:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return Path(file).open("rb")


def shown(file: str) -> str:
    """The file's name as messages have it."""
    return "standard input" if file == STANDARD_INPUT else file


def told(file: str, report: FileReport) -> Iterator[str]:
    """The lines that tell of one file."""
    name = shown(file)
    for violation in report.violations():
        yield f"{name}:{violation.line}: {violation.invariant}: {violation.text}"
    for invariant, number in report.report.counts.items():
        more = number - report.report.per_invariant
        if more > 0:
            yield f"{name}: {invariant}: and {more:,} more"
    for note in report.notes:
        yield f"{name}: note: {note}"
    seen = f"{counted(report.runs, 'run')}, {counted(report.steps, 'step')}"
    exercised = len(report.report.exercised)
    if report.holds:
        yield f"{name}: {seen}, {counted(exercised, 'invariant')} hold"
        return
    total, broken = report.report.total, len(report.report.counts)
    yield (
        f"{name}: {seen}, {counted(total, 'violation')} of {broken} among "
        f"{counted(exercised, 'invariant')}"
    )


def counted(number: int, word: str) -> str:
    """`3,000 steps`."""
    return f"{number:,} {word}" + "s" * (number != 1)


def as_json(
    reports: list[tuple[str, FileReport]], unreadable: list[tuple[str, str]]
) -> dict[str, Any]:
    """The result for programs."""
    files = [
        {
            "file": file,
            "format": report.format,
            "runs": report.runs,
            "steps": report.steps,
            "lines": report.lines,
            "holds": report.holds,
            "invariants": sorted(report.report.exercised),
            "counts": dict(report.report.counts),
            "violations": [
                {"line": v.line, "invariant": v.invariant, "text": v.text}
                for v in report.violations()
            ],
            "notes": report.notes,
        }
        for file, report in reports
    ]
    return {
        "holds": not unreadable and all(report.holds for _, report in reports),
        "files": files,
        "unreadable": [{"file": file, "error": error} for file, error in unreadable],
    }
