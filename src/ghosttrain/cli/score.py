"""`ghosttrain score`: how well did a detector find what was wrong?"""

from __future__ import annotations

import argparse

from ghosttrain.cli.common import count, duration, seed
from ghosttrain.cli.main import complain

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ghosttrain.scoring.score import Estimate, Score
    from ghosttrain.scoring.truth import Truth
    from ghosttrain.views.renderables.line import Line

STANDARD_INPUT = "-"
GRACE_S = 60.0
RESAMPLES = 2000
MOST_RESAMPLES = 1_000_000
FEW_INCIDENTS = 10  # under which all intervals are wide


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `score`."""
    parser.add_argument(
        "labels",
        metavar="LABELS",
        help="what was wrong: labels.jsonl or labels.parquet of `ghosttrain export`, or a log of"
        " events (jsonl); - for standard input",
    )
    parser.add_argument(
        "predictions",
        metavar="PREDICTIONS",
        help="what the detector said: JSON lines or CSV with start_s (or time_s) and, if it knows,"
        " end_s, class, entity, confidence; - for standard input",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, units in the names")
    parser.add_argument(
        "--grace",
        metavar="TIME",
        type=duration_or_none,
        default=GRACE_S,
        help="how long after an incident was cleared an alarm still hits it (default: 60s)",
    )
    parser.add_argument(
        "--confidence-threshold",
        metavar="P",
        type=share,
        help="leave out alarms that are less confident, 0 to 1 (default: none is left out)",
    )
    parser.add_argument(
        "--resamples",
        metavar="N",
        type=count,
        default=RESAMPLES,
        help=f"bootstrap resamples behind the intervals (default: {RESAMPLES})",
    )
    parser.add_argument(
        "--seed", metavar="N", type=seed, default=0, help="of the bootstrap (default: 0)"
    )


def duration_or_none(text: str) -> float:
    """A duration, seconds, or 0."""
    return 0.0 if text.strip() in ("0", "0s") else duration(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def execute(args: argparse.Namespace) -> int:
    """Score and tell."""
    from ghosttrain.core.errors import SpecError
    from ghosttrain.scoring.predictions import read_alarms
    from ghosttrain.scoring.score import score
    from ghosttrain.scoring.truth import read_truth
    from ghosttrain.views.show.terminal import Terminal, write_all

    if args.labels == args.predictions == STANDARD_INPUT:
        raise SpecError("LABELS and PREDICTIONS are both -: give one of them a file")
    if args.resamples > MOST_RESAMPLES:
        raise SpecError(f"--resamples {args.resamples:,}: at most {MOST_RESAMPLES:,}")
    truth = read_truth(args.labels)
    said = read_alarms(args.predictions, truth)
    warnings = list(said.warnings)
    if truth.is_cut:
        warnings.append(
            f"{args.labels}: ends before the run does: what was still wrong then has no label"
        )
    found = score(
        truth,
        said.alarms,
        grace_s=args.grace,
        threshold=args.confidence_threshold,
        seed=args.seed,
        resamples=args.resamples,
    )
    for warning in warnings:
        complain(f"ghosttrain: warning: {warning}")
    terminal = Terminal.of(1)
    if args.json:
        import json

        data = as_json(truth, found, args) | {"warnings": warnings}
        write_all(terminal.fd, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
        return 0
    width = terminal.size()[0] if terminal.is_tty else None
    lines = told(truth, found, args.grace)
    if width is not None:
        lines = [line.fit(width) for line in lines]
    text = "".join(line.ansi(color=terminal.color) + "\n" for line in lines)
    write_all(terminal.fd, terminal.encode(text))
    return 0


def told(truth: Truth, found: Score, grace_s: float) -> list[Line]:
    """The lines for people: what there was, the figures, the classes."""
    from ghosttrain.views.renderables.line import Line

    hours = truth.end_s / 3600
    lookalikes = f", and {counted(found.lookalikes, 'benign one')}" if found.lookalikes else ""
    left_out = f" ({found.left_out:,} less confident left out)" if found.left_out else ""
    lines = [
        Line.of(
            (
                f"{counted(found.incidents, 'incident')}{lookalikes} in {hours:,.1f} h of run time,"
                f" seed {truth.seed}",
                "bold",
            )
        ),
        Line.of(
            f"{counted(found.alarms, 'alarm')}{left_out}: {found.found:,} true,"
            f" {found.false_alarms:,} false ({found.benign_alarms:,} at benign incidents),"
            f" {counted(found.repeats, 'repeat')}"
        ),
        Line.of(""),
        *table(("", ">value", ">95 % interval", "of"), figures(found)),
    ]
    if found.classes:
        head = ("class", ">incidents", ">found", ">recall", ">95 % interval", ">median s")
        rows = [
            (
                c.name,
                f"{c.incidents:,}",
                f"{c.found:,}",
                number(c.recall.value),
                interval(c.recall),
                number(c.median_s, 1),
                f"{c.named:,}",
                f"{c.right:,}",
            )
            for c in found.classes
        ]
        lines += [Line.of(""), *table((*head, ">named", ">right"), rows)]
    lines.append(Line.of(""))
    for text in remarks(found, grace_s):
        lines.append(Line.of((text, "dim")))
    return lines


def figures(found: Score) -> list[tuple[str, str, str, str]]:
    """The rows of the table of figures."""
    shares = (
        ("recall", found.recall, "incidents"),
        ("precision", found.precision, "alarms that are no repeats"),
    )
    names = (
        ("class right", found.class_right, "true alarms that name a class"),
        ("entity exact", found.entity_exact, "true alarms that name an entity"),
        ("entity near", found.entity_near, "the same"),
    )
    times = (
        ("time to detect, median s", found.median_s),
        ("time to detect, p90 s", found.p90_s),
    )
    rows = [(name, number(e.value), interval(e), f"{e.of:,} {of}") for name, e, of in shares]
    rows.append(("F1", number(found.f1.value), interval(found.f1), "harmonic mean of both"))
    rows += [
        (name, number(e.value, 1), interval(e, 1), f"{e.of:,} found incidents") for name, e in times
    ]
    rows += [(name, number(e.value), interval(e), f"{e.of:,} {of}") for name, e, of in names]
    clean_h = found.matching.clean_s / 3600
    day = ("false alarms a day", number(found.false_per_day), "-", f"{clean_h:,.1f} clean h")
    return [*rows, day]


def remarks(found: Score, grace_s: float) -> list[str]:
    """What has to be known to read the figures."""
    out = [f"An alarm counts from the onset to {grace_s:g} s after the incident was cleared."]
    if found.classes:
        out.append("named: alarms that name the class; right: those that found an incident of it.")
    if 0 < found.incidents < FEW_INCIDENTS:
        few = counted(found.incidents, "incident")
        out.append(f"{few}: too few to tell detectors apart; score longer or more faulty runs.")
    return out


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Line]:
    """A header and the rows; columns whose title begins with ">" stand to the right."""
    from ghosttrain.views.renderables.line import Line

    right = [title.startswith(">") for title in titles]
    whole = [[title.removeprefix(">") for title in titles], *([*row] for row in rows)]
    cells = [max(len(row[i]) for row in whole) for i in range(len(titles))]

    def joined(row: Sequence[str]) -> str:
        columns = zip(row, cells, right, strict=True)
        padded = (t.rjust(n) if is_right else t.ljust(n) for t, n, is_right in columns)
        return "  ".join(padded).rstrip()

    return [
        Line.of((joined(whole[0]), "cyan")),
        *(Line.of(joined(row)) for row in whole[1:]),
    ]


def number(value: float | None, digits: int = 2) -> str:
    """A figure, - where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def interval(estimate: Estimate, digits: int = 2) -> str:
    """The interval of a figure, - where there is none."""
    if estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.low:,.{digits}f} to {estimate.high:,.{digits}f}"


def counted(number: int, word: str) -> str:
    """`3 alarms`."""
    return f"{number:,} {word}" + "s" * (number != 1)


def as_json(truth: Truth, found: Score, args: argparse.Namespace) -> dict[str, Any]:
    """The result for programs: the figures, then what became of each incident and alarm."""
    from dataclasses import asdict

    from ghosttrain.scoring.matching import place_of

    credited = {
        v.incident.number: v for v in found.matching.verdicts if v.outcome == "found" and v.incident
    }
    incidents = []
    for incident in truth.incidents:
        row: dict[str, Any] = {
            "id": incident.number,
            "class": incident.kind,
            "entity": incident.entity,
            "onset_s": incident.onset_s,
            "cleared_s": incident.cleared_s,
            "benign": incident.benign,
            "found": incident.number in credited,
        }
        if verdict := credited.get(incident.number):
            alarm = verdict.alarm
            row |= {
                "alarm_line": alarm.line,
                "time_to_detect_s": alarm.start_s - incident.onset_s,
                "class_right": None if alarm.kind is None else alarm.kind == incident.kind,
                "entity_right": place_of(alarm, incident),
            }
        incidents.append(row)
    counts = ("incidents", "lookalikes", "alarms", "left_out", "found", "repeats")
    shares = ("recall", "precision", "f1", "class_right", "entity_exact", "entity_near")
    return {
        "run": {"seed": truth.seed, "end_s": truth.end_s, "is_cut": truth.is_cut},
        "grace_s": args.grace,
        "confidence_threshold": args.confidence_threshold,
        "bootstrap": {"seed": args.seed, "resamples": args.resamples},
        **{name: getattr(found, name) for name in counts},
        "false_alarms": found.false_alarms,
        "benign_alarms": found.benign_alarms,
        "clean_s": found.matching.clean_s,
        "false_alarms_per_day": found.false_per_day,
        **{name: asdict(getattr(found, name)) for name in shares},
        "time_to_detect_s": {"median": asdict(found.median_s), "p90": asdict(found.p90_s)},
        "classes": [asdict(c) for c in found.classes],
        "incident_rows": incidents,
        "alarm_rows": [
            {
                "line": v.alarm.line,
                "start_s": v.alarm.start_s,
                "outcome": v.outcome,
                "incident": v.incident.number if v.incident else None,
            }
            for v in found.matching.verdicts
        ],
    }
