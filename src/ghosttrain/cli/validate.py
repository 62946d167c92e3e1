"""`ghosttrain validate`: predicted against published, row by row."""

from __future__ import annotations

import argparse
import os
import sys
import time

from ghosttrain.cli.common import count, write_whole

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ghosttrain.validation.faults import FaultOutcome
    from ghosttrain.validation.outcome import Outcome
    from ghosttrain.validation.rows import Table
    from ghosttrain.validation.sections import Cell, Section
    from ghosttrain.views.renderables.line import Line

STANDARD_STREAM = "-"
GROUPINGS = ("source", "gpu", "size", "precision", "stack")
MONTHS = 200  # of faults, simulated
REPORTS = (".html", ".htm", ".md", ".markdown")
_STYLES = {"": "", "good": "green", "bad": "red"}
_PROGRESS_EVERY_S = 0.1
SHORTEST_NAME = 16  # cells of a name that is cut
SHORTEST_TAIL = 30  # cells under which a long last column goes below its row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `validate`."""
    parser.add_argument(
        "--rows",
        metavar="IN.csv",
        help="rows to predict in place of the published ones that come along; a CSV with their"
        " columns in any order (model, gpu, gpus, tp, pp, seq_len, precision, tokens_per_s_per_gpu"
        " ...; blank cells are open); - reads standard input",
    )
    parser.add_argument(
        "--out",
        metavar="OUT.csv",
        help="write the rows back with their predictions; - writes them to standard output, and"
        " nothing else",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, units in the names")
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="also write a page (.html), or Markdown with a picture beside it (.md)",
    )
    parser.add_argument(
        "--by",
        nargs="+",
        choices=GROUPINGS,
        help="which error tables (default: source gpu size precision)",
    )
    parser.add_argument(
        "--worst",
        metavar="N",
        type=count_or_none,
        default=10,
        help="how many of the rows that are furthest off (default: 10)",
    )
    parser.add_argument(
        "--faults",
        metavar="MONTHS",
        nargs="?",
        type=count,
        const=MONTHS,
        help="also simulate so many months of Llama 3.1 405B under realistic faults and hold them"
        f" against what is published of it (default: {MONTHS}, a minute or two)",
    )


def count_or_none(text: str) -> int:
    """A whole number from 0."""
    try:
        return 0 if text.strip() == "0" else count(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0") from None


def execute(args: argparse.Namespace) -> int:
    """Predict the rows and tell."""
    from ghosttrain.validation.outcome import assess
    from ghosttrain.views.show.terminal import Terminal, write_all

    refuse_contradictions(args)
    table, where = asked_table(args.rows)
    progress = progress_on_stderr()
    try:
        outcome = assess(table, where, is_published=args.rows is None, progress=progress)
    finally:
        progress(0, 0)  # whatever ended it, its line goes
    faults = simulated_faults(args.faults)
    terminal = Terminal.of(1)
    written = write_files(args, outcome, faults)
    if args.out == STANDARD_STREAM:
        from ghosttrain.validation.outcome import added_columns
        from ghosttrain.validation.rows import table_text

        write_all(terminal.fd, table_text(table, added_columns(outcome.rows)).encode())
        return 0
    if args.json:
        import json

        from ghosttrain.validation.report import outcome_data

        data = outcome_data(outcome, most_worst=args.worst)
        if faults is not None:
            from ghosttrain.validation.fault_sections import fault_data

            data["faults"] = fault_data(faults)
        text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
        write_all(terminal.fd, (text + "\n").encode("utf-8", "backslashreplace"))
        return 0
    width = terminal.size()[0] if terminal.is_tty else None
    lines = told(outcome, args, width, fault_report(faults))
    lines += [_line(f"written: {path}") for path in written]
    shown = "".join(line.ansi(color=terminal.color) + "\n" for line in lines)
    write_all(terminal.fd, terminal.encode(shown))
    return 0


def refuse_contradictions(args: argparse.Namespace) -> None:
    """Refuse what cannot be before anything is computed.

    Raises:
        SpecError: If two flags want standard output, or the report's kind is not known.
    """
    from ghosttrain.core.errors import SpecError

    if args.json and args.out == STANDARD_STREAM:
        raise SpecError("--json and --out - both want standard output: give one of them")
    if args.faults and args.out == STANDARD_STREAM and args.report is None:
        raise SpecError("--out - writes the rows and nothing else: give --out a file for --faults")
    if args.report is not None and not args.report.lower().endswith(REPORTS):
        raise SpecError(
            f"--report {args.report!r}: the name tells the kind: end it in .html or .md"
        )


def simulated_faults(months: int | None) -> FaultOutcome | None:
    """So many months of faults, counted; None where none are asked for."""
    if months is None:
        return None
    from ghosttrain.validation.faults import assess_faults

    progress = progress_on_stderr("month")
    try:
        return assess_faults(months, progress)
    finally:
        progress(0, 0)


def fault_report(faults: FaultOutcome | None) -> list[Section]:
    """What the simulated months tell."""
    if faults is None:
        return []
    from ghosttrain.validation.fault_sections import fault_sections

    return fault_sections(faults)


def asked_table(rows: str | None) -> tuple[Table, str]:
    """The table asked for and its name.

    Raises:
        InputFileError: If it cannot be read or is no such table.
    """
    from pathlib import Path

    from ghosttrain.core.errors import InputFileError
    from ghosttrain.validation.rows import (
        MAX_FILE_BYTES,
        decode_table,
        published_table,
        read_table,
    )

    if rows is None:
        return published_table(), "published.csv"
    if rows != STANDARD_STREAM:
        return read_table(Path(rows)), rows
    if sys.stdin is None:
        raise InputFileError("standard input is closed: give --rows a file")
    try:
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputFileError(f"standard input cannot be read: {error.strerror}") from None
    return decode_table(raw, "standard input"), "standard input"


def write_files(
    args: argparse.Namespace, outcome: Outcome, faults: FaultOutcome | None
) -> list[str]:
    """Write the files asked for, each whole or not at all; returns their names."""
    from pathlib import Path

    from ghosttrain.validation.outcome import added_columns
    from ghosttrain.validation.report import html_report, markdown_report, speed_picture
    from ghosttrain.validation.rows import table_text

    files: list[tuple[Path, str]] = []
    if args.out not in (None, STANDARD_STREAM):
        files.append((Path(args.out), table_text(outcome.table, added_columns(outcome.rows))))
    if args.report is not None:
        path = Path(args.report)
        options = {"by": args.by, "most_worst": args.worst, "more": fault_report(faults)}
        if path.suffix.lower() in (".html", ".htm"):
            files.append((path, html_report(outcome, **options)))
        else:
            picture = path.with_suffix(".svg")
            files.append((picture, speed_picture(outcome, standalone=True)))
            files.append((path, markdown_report(outcome, picture.name, **options)))
    for path, text in files:
        write_whole(path, text)
    return [str(path) for path, _ in files]


def progress_on_stderr(unit: str = "row") -> Callable[[int, int], None]:
    """Tells a watcher of stderr how far it is, in one line that goes when it is done."""
    from ghosttrain.views.show.terminal import Terminal

    if not Terminal.of(2).moves:
        return lambda _done, _all: None
    last = [time.monotonic(), False]

    def tell(done: int, every: int) -> None:
        if done == every:
            if last[1]:
                last[1] = False
                os.write(2, b"\r\x1b[K")
            return
        now = time.monotonic()
        if now - last[0] >= _PROGRESS_EVERY_S:
            last[:] = [now, True]
            os.write(2, f"\r\x1b[K{unit} {done:,} of {every:,}".encode())

    return tell


def told(
    outcome: Outcome, args: argparse.Namespace, width: int | None, more: Sequence[Section] = ()
) -> list[Line]:
    """The lines of the report, with `more` sections, fitted to `width` cells; None: never cut."""
    from ghosttrain.validation.sections import headline, laws_sentence, sections

    lines = [_line(text, "bold") for text in wrapped(headline(outcome), width)]
    found = sections(outcome, by=args.by, most_worst=args.worst)
    if not outcome.is_published:
        found = [section for section in found if not section.is_of_laws]
    for section in (*found, *more):
        lines += [_line(""), _line(section.heading, "cyan")]
        for remark in section.remarks:
            room = None if width is None else width - 2
            lines += [_line(f"  {text}", "dim") for text in wrapped(remark, room)]
        lines += stacked(section, width) if section.stacked else aligned(section, width)
    if not outcome.is_published:
        lines += [_line(""), *(_line(text) for text in wrapped(laws_sentence(outcome), width))]
    return lines if width is None else [line.fit(width) for line in lines]


def aligned(section: Section, width: int | None) -> list[Line]:
    """A header and the rows with their columns below one another, numbers to the right.

    Where the table is too wide its names are cut first; a long last column that is left too
    little room goes below its row.
    """
    right = [title.startswith(">") for title in section.columns]
    titles = [title.removeprefix(">") for title in section.columns]
    rows = [[_piece(cell) for cell in row] for row in section.rows]
    cells = [max(map(len, (title, *(row[i][0] for row in rows)))) for i, title in enumerate(titles)]
    below = False
    if width is not None:
        has_tail = not right[-1]
        room = width - sum(cells[:-1]) - 2 * len(cells)
        below = has_tail and cells[-1] > room and room < SHORTEST_TAIL
        names = right.index(False) if False in right[:-1] else None
        short = (0 if has_tail else cells[-1]) - room
        if names is not None and short > 0 and not below:
            cells[names] = max(SHORTEST_NAME, cells[names] - short)
            for row in [*rows, [(title, "") for title in titles]]:
                text, style = row[names]
                if len(text) > cells[names]:
                    row[names] = (text[: cells[names] - 1] + "…", style)
    shown = len(cells) - below
    lines = [_row([(title, "dim") for title in titles[:shown]], cells, right)]
    for row in rows:
        lines.append(_row(row[:shown], cells, right))
        if below:
            lines.append(_line_of((f"          {row[-1][0]}", "dim")))
    return lines


def stacked(section: Section, width: int | None) -> list[Line]:
    """Each row's verdict and statement, the other columns below them."""
    lines = []
    titles = section.columns[2:]
    label = max(map(len, titles))
    for verdict, statement, *others in section.rows:
        room = None if width is None else width - 10
        first, *rest = wrapped(statement.text, room)
        text, style = _piece(verdict)
        lines.append(_line_of("  ", (f"{text:<8}", style), first))
        lines += [_line(f"          {more}") for more in rest]
        for title, cell in zip(titles, others, strict=True):
            room = None if width is None else width - 12 - label
            for i, part in enumerate(wrapped(cell.text, room)):
                lead = title if i == 0 else ""
                lines.append(_line_of((f"          {lead:<{label}}  ", "dim"), part))
    return lines


def _row(pieces: Sequence[tuple[str, str]], cells: Sequence[int], right: Sequence[bool]) -> Line:
    out: list[tuple[str, str]] = []
    for i, ((text, style), size) in enumerate(zip(pieces, cells, strict=False)):
        last = i == len(cells) - 1
        padded = text.rjust(size) if right[i] else text if last else text.ljust(size)
        out += [("  ", ""), (padded, style)]
    while not out[-1][0].strip():
        out.pop()
    return _line_of(*out)


def _piece(cell: Cell) -> tuple[str, str]:
    """A cell as one line of text, and its style."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(cell.text.split()))
    return text, _STYLES[cell.tone]


def wrapped(text: str, width: int | None) -> list[str]:
    """The text in lines of at most `width` cells."""
    if width is None:
        return [text]
    import textwrap

    return textwrap.wrap(text, max(20, width), break_long_words=False) or [""]


def _line(text: str, style: str = "") -> Line:
    return _line_of((text, style))


def _line_of(*pieces: str | tuple[str, str]) -> Line:
    from ghosttrain.views.renderables.line import Line

    return Line.of(*pieces)
