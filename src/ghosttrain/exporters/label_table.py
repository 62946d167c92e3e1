"""Labels as Parquet: the rows of `labels`, one column for each of their fields, typed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ghosttrain.exporters.labels import (
    COLUMNS,
    SCHEMA,
    LabelCollector,
    LabelWriter,
    collected,
)
from ghosttrain.exporters.writing import Asked
from ghosttrain.inputs.spec_file import write_spec_file

_ALWAYS = ("kind", "run")  # never null
_TYPES = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "times": pa.map_(pa.string(), pa.float64()),
}


class LabelTableWriter(LabelWriter):
    """Makes the labels of a run as a Parquet file, when the run is over.

    Args:
        spec: A spec file that asks for the run, as text; goes into the metadata.
        collector: As in LabelWriter.
    """

    def __init__(self, spec: str, collector: LabelCollector | None = None) -> None:
        super().__init__(collector)
        self._spec = spec

    def close(self) -> bytes:
        """The file."""
        file = io.BytesIO()
        pq.write_table(label_table(self.rows(), self._spec), file, compression="zstd")
        return file.getvalue()


def label_table_file(asked: Asked) -> LabelTableWriter:
    """What makes the labels' table."""
    return LabelTableWriter(write_spec_file(asked.run.spec), collected(asked))


def label_table(rows: Iterable[Mapping[str, Any]], spec: str) -> pa.Table:
    """The rows as a table; its metadata say that it is simulated, and how to have it again.

    Args:
        rows: The first is the run's.
        spec: A spec file that asks for the run, as text.
    """
    listed = [dict(row) for row in rows]
    metadata = {
        "simulated": "true",
        "schema": SCHEMA,
        "spec": spec,
        "seed": str(listed[0]["seed"]),
    }
    for row in listed:
        if "signals" in row:
            row["signals"] = list(row["signals"].items())
    return pa.Table.from_pylist(listed, schema=label_schema(metadata))


def label_schema(metadata: Mapping[str, str]) -> pa.Schema:
    """The columns with their types; all but two are null in the rows that lack them."""
    return pa.schema(
        [pa.field(c.name, _TYPES[c.holds], nullable=c.name not in _ALWAYS) for c in COLUMNS],
        metadata=dict(metadata),
    )
