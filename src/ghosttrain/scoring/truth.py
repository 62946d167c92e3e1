"""What was wrong: incidents from a file of labels (JSONL, Parquet) or from a log of events."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from ghosttrain.core.errors import InputFileError, RequestError
from ghosttrain.scoring.rows import Row, opened, parsed, short, shown

SCHEMAS = ("ghosttrain.labels/1", "ghosttrain.events/1")
_PARQUET = b"PAR1"
_EVENT = b'{"event":"'
_EVENTS_READ = tuple(
    _EVENT + name + b'"' for name in (b"run_started", b"incident_labelled", b"run_finished")
)


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong, or that only looked like it (`benign`).

    `cleared_s` is None where the end of the run met it.
    """

    number: int
    kind: str
    entity: str
    node: int
    onset_s: float
    cleared_s: float | None
    benign: bool


@dataclass(frozen=True, slots=True)
class Truth:
    """The incidents of one run, by their onset.

    Attributes:
        seed: Of the run.
        end_s: When it ended, or a log of it that is cut short.
        start_s: Where the labels or the log begin, if they are of a window.
        is_cut: Whether the log ends before the run does, so that labels may be missing.
    """

    seed: int
    end_s: float
    incidents: tuple[Incident, ...]
    is_cut: bool = False
    start_s: float = 0.0


def read_truth(file: str) -> Truth:
    """The truth in a file; "-" is standard input.

    Raises:
        InputFileError: If it cannot be read, or is none of the three.
        RequestError: If it is Parquet and pyarrow is not installed.
    """
    where = shown(file)
    try:
        with opened(file) as stream:
            buffered = stream if isinstance(stream, io.BufferedReader) else None
            if buffered is not None and buffered.peek(len(_PARQUET)).startswith(_PARQUET):
                return _from_labels(_parquet_rows(stream.read(), where), where)
            return _from_lines(stream, where)
    except OSError as error:
        raise InputFileError(f"{where}: cannot be read: {error.strerror or error}") from None


def _from_lines(stream: BinaryIO, where: str) -> Truth:
    lines = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    number, line = next(lines, (0, b""))
    if not number:
        raise InputFileError(f"{where}: is empty: give labels or a log of events")
    at = f"{where}: line {number}"
    first = parsed(line.removeprefix(b"\xef\xbb\xbf"), at)
    if first.get("kind") == "run" and "event" not in first:
        rest = (Row(parsed(more, f"{where}: line {n}"), f"{where}: line {n}") for n, more in lines)
        return _from_labels(_chained(Row(first, at), rest), where)
    if first.get("event") == "run_started":
        return _from_events(Row(first, at), lines, where)
    raise InputFileError(
        f"{at}: neither labels (kind run) nor a log of events (event run_started) begin with"
        f" {excerpt_of(first)}"
    )


def excerpt_of(row: dict[str, Any]) -> str:
    """The beginning of a row, for a message."""
    return short(row) if row else "an empty object"


def _chained(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _from_labels(rows: Iterator[Row], where: str) -> Truth:
    """The truth in rows of labels; those of clean stretches follow from the incidents."""
    run = next(rows, None)
    if run is None or run.text("kind") != "run":
        raise InputFileError(f"{where}: are no labels: the first row must be of kind run")
    _check_schema(run, SCHEMAS[0])
    seed, end_s = run.whole("seed"), run.time_s("end_s")
    incidents = []
    for row in rows:
        kind = row.text("kind")
        if kind == "run":
            raise _several(row)
        if kind == "incident":
            incidents.append(_incident(row, "id", "class"))
        elif kind != "clean":
            raise InputFileError(f"{row.at}: kind is {short(kind)}, not run, incident or clean")
    start_s = run.time_s("start_s") if run.has("start_s") else 0.0
    return replace(_truth(seed, end_s, incidents, where), start_s=start_s)


def _from_events(run: Row, lines: Iterator[tuple[int, bytes]], where: str) -> Truth:
    """The truth in a log of events; of most rows only the name is looked at."""
    _check_schema(run, SCHEMAS[1])
    incidents: list[Incident] = []
    end_s: float | None = None
    last = (1, b"")
    for number, line in lines:
        last = number, line
        if line.startswith(_EVENT) and not line.startswith(_EVENTS_READ):
            continue
        at = f"{where}: line {number}"
        row = Row(parsed(line, at), at)
        match row.text("event"):
            case "run_started":
                raise _several(row)
            case "incident_labelled":
                incidents.append(_incident(row, "incident", "kind"))
            case "run_finished":
                end_s = row.time_s("time_s")
    is_cut = end_s is None
    if end_s is None:
        at = f"{where}: line {last[0]}"
        end_s = Row(parsed(last[1], at), at).time_s("time_s") if last[1] else 0.0
    start_s = run.time_s("from_s") if run.has("from_s") else 0.0
    truth = _truth(run.whole("seed"), end_s, incidents, where, is_cut=is_cut)
    return replace(truth, start_s=start_s)


def _check_schema(run: Row, known: str) -> None:
    schema = run.text("schema")
    if schema != known:
        raise InputFileError(f"{run.at}: schema is {short(schema)}; this version reads {known}")


def _several(row: Row) -> InputFileError:
    return InputFileError(
        f"{row.at}: another run begins: their times would mix; score one run at a time"
    )


def _incident(row: Row, number: str, kind: str) -> Incident:
    onset_s = row.time_s("onset_s")
    return Incident(
        number=row.whole(number),
        kind=row.text(kind),
        entity=row.text("entity"),
        node=row.whole("node"),
        onset_s=onset_s,
        cleared_s=row.time_s("cleared_s", onset_s) if row.has("cleared_s") else None,
        benign=row.flag("benign"),
    )


def _truth(
    seed: int, end_s: float, incidents: list[Incident], where: str, *, is_cut: bool = False
) -> Truth:
    seen: set[int] = set()
    for incident in incidents:
        if incident.number in seen:
            raise InputFileError(f"{where}: incident {incident.number} is there twice")
        if incident.onset_s > end_s:
            raise InputFileError(
                f"{where}: incident {incident.number} begins at {incident.onset_s:g} s,"
                f" after the run's end at {end_s:g} s"
            )
        seen.add(incident.number)
    ordered = sorted(incidents, key=lambda i: (i.onset_s, i.number))
    return Truth(seed, end_s, tuple(ordered), is_cut)


def _parquet_rows(data: bytes, where: str) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise RequestError(
            f"{where}: reading Parquet needs the package pyarrow: pip install 'ghosttrain[parquet]'"
        ) from None
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError):
        raise InputFileError(f"{where}: is damaged: no whole Parquet file") from None
    return (Row(row, f"{where}: row {number}") for number, row in enumerate(rows, 1))
