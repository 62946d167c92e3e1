"""Parquet: a run as tables for pandas, DuckDB, Arrow: events, steps, telemetry, labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ghosttrain.core.events import Event, FleetSampled, RunFinished, RunStarted, StepsCompleted
from ghosttrain.core.telemetry import Telemetry
from ghosttrain.exporters.jsonl import event_row, run_row
from ghosttrain.exporters.label_table import LabelTableWriter
from ghosttrain.exporters.labels import collected
from ghosttrain.exporters.parquet_parts import (
    ROWS_PER_GROUP,
    Column,
    metadata_of,
    part_name,
    schema_of,
    written,
)
from ghosttrain.exporters.step_lines import LARGEST_EXPONENT
from ghosttrain.exporters.telemetry_table import TelemetryTable
from ghosttrain.exporters.writing import Asked, Chunk

STEPS_SCHEMA, EVENTS_SCHEMA = "ghosttrain.steps/1", "ghosttrain.events-table/1"
STEPS = (
    Column("time_s", "double", False, "When the step ended, simulated seconds since the start."),
    Column("attempt", "int32", False, "Launch it was done in, from 1."),
    Column(
        "step", "int64", False, "Number of the step; done again after a restart, it comes twice."
    ),
    Column("loss", "double", False, "Training loss; NaN where it was."),
    Column("ppl", "double", False, "exp(loss)."),
    Column("grad_norm", "double", False, "Norm of the gradient before clipping."),
    Column("learning_rate", "double", False, "Learning rate."),
    Column("step_time_s", "double", False, "How long it took."),
    Column("tokens_per_s", "double", False, "Tokens of the step / step_time_s."),
    Column("mfu", "double", False, "Share of the dense peak, 0..1."),
    Column("eta_s", "double", False, "What is left of the run at this pace."),
    Column("tokens_seen", "int64", False, "Tokens up to and with this step."),
)
EVENTS = (
    Column("time_s", "double", False, "When, simulated seconds since the start."),
    Column("event", "string", False, "Its kind, as in the JSON log."),
    Column("attempt", "int32", True, "Launch, where the event has one."),
    Column("step", "int64", True, "Last completed step, where the event has one."),
    Column("node", "int32", True, "Node, where the event has one."),
    Column("row", "string", False, "The whole event: the row of the JSON log."),
)
# Columns that are those of the event.
_AS_THEY_ARE = (
    *("loss", "grad_norm", "learning_rate", "step_time_s"),
    *("tokens_per_s", "mfu", "eta_s"),
)


class ParquetExporter:
    """Makes the tables of a run.

    Attributes:
        fields: Of telemetry.
    """

    def __init__(self, asked: Asked) -> None:
        said = metadata_of(asked)
        self._steps, self._events = StepTable(asked, said), EventTable(said)
        self._telemetry = TelemetryTable(asked, said)
        self._labels = LabelTableWriter(said["spec"], collected(asked))
        self.fields = self._telemetry.fields

    def accept(self, event: Event) -> Iterator[Chunk]:
        """The files that an event completes."""
        if isinstance(event, StepsCompleted):
            yield from self._steps.accept(event)
        elif not isinstance(event, FleetSampled):  # of that telemetry has more
            yield from self._events.accept(event)

    def sample(self, block: Telemetry) -> Iterator[Chunk]:
        """The files that a block of moments completes."""
        return self._telemetry.sample(block)

    def close(self) -> Iterator[Chunk]:
        """The last files."""
        for table in (self._events, self._steps, self._telemetry):
            yield from table.close()
        yield "labels.parquet", self._labels.close()


class StepTable:
    """Collects steps and makes files of them."""

    def __init__(self, asked: Asked, said: Mapping[str, str]) -> None:
        self._asked, self._said = asked, {**said, "schema": STEPS_SCHEMA}
        self._kept: list[StepsCompleted] = []
        self._rows = self._parts = 0

    def accept(self, event: StepsCompleted) -> Iterator[Chunk]:
        """The files that steps complete."""
        done, count = 0, len(event.step)
        while done < count:
            take = min(count - done, ROWS_PER_GROUP - self._rows)
            part = event.part(done, done + take)
            self._kept.append(replace(part, fleet=None, collectives=None))
            self._rows, done = self._rows + take, done + take
            if self._rows == ROWS_PER_GROUP:
                yield self._file()

    def close(self) -> Iterator[Chunk]:
        """The last file; an empty one if there was no step at all."""
        if self._rows or not self._parts:
            yield self._file()

    def _file(self) -> Chunk:
        tokens = self._asked.run.spec.recipe.tokens_per_step
        schema = schema_of(STEPS, self._said)
        data = written(schema, [_step_columns(self._kept, tokens)])
        name = part_name("steps", self._parts)
        self._kept, self._rows, self._parts = [], 0, self._parts + 1
        return name, data


def _step_columns(events: Sequence[StepsCompleted], tokens_per_step: int) -> dict[str, Any]:
    def joined(name: str) -> Any:
        return np.concatenate([getattr(e, name) for e in events]) if events else np.empty(0)

    step, loss = joined("step").astype(np.int64), joined("loss")
    attempts = [e.attempt for e in events]
    return {name: joined(name) for name in _AS_THEY_ARE} | {
        "time_s": joined("end_s"),
        "attempt": np.repeat(np.array(attempts, np.int32), [len(e.step) for e in events]),
        "step": step,
        "ppl": np.exp(np.minimum(loss, LARGEST_EXPONENT)),
        "tokens_seen": step * tokens_per_step,
    }


class EventTable:
    """Collects all other events, some a restart, and makes files of them."""

    def __init__(self, said: Mapping[str, str]) -> None:
        self._said, self._parts = {**said, "schema": EVENTS_SCHEMA}, 0
        self._rows: list[tuple[float, str, int | None, int | None, int | None, str]] = []

    def accept(self, event: Event) -> Iterator[Chunk]:
        """The file that an event completes."""
        row = run_row(event) if isinstance(event, RunStarted) else event_row(event)
        step = None if isinstance(event, RunFinished) else row.get("step")
        text = json.dumps(row, separators=(",", ":"))
        place = row.get("attempt"), step, row.get("node")
        self._rows.append((event.time_s, row["event"], *place, text))
        if len(self._rows) == ROWS_PER_GROUP:
            yield self._file()

    def close(self) -> Iterator[Chunk]:
        """The last file; an empty one if nothing happened."""
        if self._rows or not self._parts:
            yield self._file()

    def _file(self) -> Chunk:
        schema = schema_of(EVENTS, self._said)
        columns = list(zip(*self._rows, strict=True)) or [()] * len(EVENTS)
        group = {c.name: list(values) for c, values in zip(EVENTS, columns, strict=True)}
        name = part_name("events", self._parts)
        self._rows, self._parts = [], self._parts + 1
        return name, written(schema, [group])


def parquet_exporter(asked: Asked) -> ParquetExporter:
    """What makes the tables."""
    return ParquetExporter(asked)
