"""Labels: the ground truth of a run, for whoever trains a detector or scores one.

A run's labels are rows of three kinds: `run` first, then `incident` (one a fault, the harmless
lookalikes included), then `clean`: the stretches in which nothing was wrong. They are known only
when the run is over, and few: some hundreds, whatever the length of the run.

Of a window of a run the rows are those that overlap it: an incident with its true times, which may
lie outside, a clean stretch cut to the window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ghosttrain.core.events import Event, IncidentLabelled, RunFinished, RunStarted

if TYPE_CHECKING:
    from ghosttrain.exporters.writing import Asked

SCHEMA = "ghosttrain.labels/1"

RowKind = Literal["run", "incident", "clean"]


class Column(NamedTuple):
    """A field of the rows: in which kinds it stands, what it holds, what it means."""

    name: str
    rows: tuple[RowKind, ...]
    holds: Literal["text", "integer", "number", "flag", "times"]
    meaning: str


_ALL: tuple[RowKind, ...] = ("run", "incident", "clean")
_RUN: tuple[RowKind, ...] = ("run",)
_INCIDENT: tuple[RowKind, ...] = ("incident",)

COLUMNS = (
    Column("kind", _ALL, "text", "run, incident or clean."),
    Column("run", _ALL, "integer", "Seed of the run."),
    Column("simulated", _RUN, "flag", "Always true."),
    Column("schema", _RUN, "text", f"`{SCHEMA}`."),
    Column("seed", _RUN, "integer", "With the spec, the run."),
    Column("model", _RUN, "text", "Model that is trained."),
    Column("gpus", _RUN, "integer", "GPUs in use, which are the ranks."),
    Column("nodes", _RUN, "integer", "Nodes they sit in."),
    Column("start", _RUN, "text", "Date of run time 0, ISO 8601."),
    Column("id", _INCIDENT, "integer", "Number of the fault, from 1."),
    Column("class", _INCIDENT, "text", "What it was, as `ghosttrain list faults` names it."),
    Column("family", _INCIDENT, "text", "Section of the taxonomy."),
    Column("scope", _INCIDENT, "text", "What breaks: gpu, node, rack, fabric, storage or job."),
    Column("entity", _INCIDENT, "text", "What broke, as in gpu 17, node 2, rack 0, fabric."),
    Column("node", _INCIDENT, "integer", "Node it was at, or the first of them."),
    Column("first_rank", _INCIDENT, "integer", "First rank there."),
    Column("ranks", _INCIDENT, "integer", "How many ranks there; all for what all share."),
    Column("severity", _INCIDENT, "number", "In the unit of the fault's effect."),
    Column("onset_s", _INCIDENT, "number", "When it began."),
    Column("signals", _INCIDENT, "times", "When which signal first showed it."),
    Column("detected_s", _INCIDENT, "number", "When the run or its operators noticed."),
    Column("mitigated_s", _INCIDENT, "number", "When the cause was gone."),
    Column("cleared_s", _INCIDENT, "number", "When the run was back where it had been."),
    Column("steps_lost", _INCIDENT, "integer", "Steps that were done again."),
    Column("lost_s", _INCIDENT, "number", "Time lost to it."),
    Column("benign", _INCIDENT, "flag", "Whether nothing need be done: a lookalike."),
    Column("start_s", ("run", "clean"), "number", "Start of what is covered, or of the stretch."),
    Column("end_s", ("run", "clean"), "number", "Its end: the run's, the window's, the stretch's."),
)
_RENAMED = {"incident": "id", "kind": "class"}  # fields of the event that rows name otherwise


class LabelCollector:
    """Keeps what the labels of one run need.

    Args:
        start_s, stop_s: The window that they are wanted of.
    """

    def __init__(self, start_s: float = 0.0, stop_s: float = math.inf) -> None:
        self._start_s, self._stop_s = start_s, stop_s
        self._started: RunStarted | None = None
        self._incidents: list[IncidentLabelled] = []
        self.end_s: float | None = None  # of the run

    def accept(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, RunStarted):
            assert self._started is None, "labels are of one run"
            self._started = event
        elif isinstance(event, IncidentLabelled):
            self._incidents.append(event)
        elif isinstance(event, RunFinished):
            self.end_s = event.time_s

    def rows(self) -> Iterator[dict[str, Any]]:
        """The labels of the run, which must be over."""
        assert self._started is not None, "a run's events begin with RunStarted"
        assert self.end_s is not None, "a run's events end with RunFinished"
        run, from_s, to_s = self._started.seed, self._start_s, min(self.end_s, self._stop_s)
        yield _run_row(self._started, from_s, to_s)
        open_then = [e for e in self._incidents if self._overlaps(e)]
        for event in sorted(open_then, key=lambda e: (e.onset_s, e.incident)):
            yield _incident_row(event, run)
        for start_s, end_s in clean_spans(open_then, to_s):
            if end_s > from_s:
                first_s = max(start_s, from_s)
                yield {"kind": "clean", "run": run, "start_s": first_s, "end_s": end_s}

    def _overlaps(self, event: IncidentLabelled) -> bool:
        """Whether the incident was open at some moment of the window."""
        is_over = event.cleared_s is not None and event.cleared_s < self._start_s
        return event.onset_s < self._stop_s and not is_over


def label_rows(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """The labels of a run's events, from RunStarted to RunFinished."""
    collector = LabelCollector()
    for event in events:
        collector.accept(event)
    yield from collector.rows()


def collected(asked: Asked) -> LabelCollector:
    """A collector with all that the labels of a window need."""
    run = asked.run
    collector = LabelCollector(asked.start_s, asked.stop_s)
    collector.accept(RunStarted(0.0, run.seed, run.plan))
    for event in run.labels():
        collector.accept(event)
    collector.end_s = run.end_s
    return collector


def clean_spans(
    incidents: Iterable[IncidentLabelled], end_s: float
) -> Iterator[tuple[float, float]]:
    """Maximal stretches [start, end) of the run in which no incident was open.

    An incident is open from its onset until it is cleared, or to the end of the run; benign
    ones count as nothing.
    """
    clean_from = 0.0
    for event in sorted((e for e in incidents if not e.benign), key=lambda e: e.onset_s):
        if clean_from < event.onset_s:
            yield clean_from, min(event.onset_s, end_s)
        cleared_s = end_s if event.cleared_s is None else event.cleared_s
        clean_from = max(clean_from, cleared_s)
    if clean_from < end_s:
        yield clean_from, end_s


def _run_row(event: RunStarted, start_s: float, end_s: float) -> dict[str, Any]:
    spec = event.plan.spec
    start = datetime.fromtimestamp(spec.start_unix_s, UTC)
    return {
        "kind": "run",
        "run": event.seed,
        "simulated": True,
        "schema": SCHEMA,
        "seed": event.seed,
        "model": spec.model.name,
        "gpus": spec.cluster.gpus,
        "nodes": spec.cluster.nodes,
        "start": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "start_s": start_s,
        "end_s": end_s,
    }


def _incident_row(event: IncidentLabelled, run: int) -> dict[str, Any]:
    fields = asdict(event)
    del fields["time_s"]  # when the stream told it, which is no part of the truth
    row: dict[str, Any] = {"kind": "incident", "run": run}
    row |= {_RENAMED.get(name, name): value for name, value in fields.items()}
    return row | {"signals": dict(event.signals)}


class LabelWriter:
    """Makes the labels of a run as JSON, one row a line, when the run is over.

    Args:
        collector: What is known already; without it the events have to tell.
    """

    def __init__(self, collector: LabelCollector | None = None) -> None:
        self._collector = collector or LabelCollector()
        self._is_told = collector is not None

    def accept(self, event: Event) -> bytes:
        """Nothing yet: the next event is kept."""
        if not self._is_told:
            self._collector.accept(event)
        return b""

    def close(self) -> bytes:
        """The rows."""
        return b"".join(label_line(row) for row in self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as records."""
        return self._collector.rows()


def label_file(asked: Asked) -> LabelWriter:
    """What makes the labels' JSON."""
    return LabelWriter(collected(asked))


def label_line(row: dict[str, Any]) -> bytes:
    """A row as a line of JSON; floats JSON has no word for are null."""
    plain = {name: _plain(value) for name, value in row.items()}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value
