"""Tables as Parquet: a table is a folder of whole files, so that it can be cut at any moment.

    telemetry/part-00000.parquet, telemetry/part-00001.parquet, ...

A file is made when its rows are complete, at numbers of rows that what was asked decides alone.
Parquet keeps what a file holds at its end: one that grew with the run could not be gone on with.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ghosttrain.exporters.writing import Asked
from ghosttrain.inputs.spec_file import write_spec_file

ROWS_PER_PART = 1 << 19  # some MB of a file; waiting for a million would cost twice the memory
ROWS_PER_GROUP = 1 << 17  # readers skip groups by their statistics
# Columns that count up: their differences take a hundredth of a dictionary's indices.
_COUNTING = ("gpu",)

_TYPES = {
    "double": pa.float64(),
    "float": pa.float32(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "string": pa.string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


class Column(NamedTuple):
    """A column of a table: its type, whether it may be null, what it means."""

    name: str
    type: str
    nullable: bool
    meaning: str


def part_name(table: str, number: int) -> str:
    """Name of a file of a table."""
    return f"{table}/part-{number:05}.parquet"


def metadata_of(asked: Asked) -> dict[str, str]:
    """What every file of ours says of itself: that it is simulated, and how to have it again.

    The name of its schema is still missing.
    """
    from ghosttrain import __version__

    spec = asked.run.spec
    return {
        "simulated": "true",
        "spec": write_spec_file(spec),
        "seed": str(asked.run.seed),
        "start": datetime.fromtimestamp(spec.start_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ghosttrain": __version__,
    }


def schema_of(columns: Iterable[Column], metadata: Mapping[str, str]) -> pa.Schema:
    """The columns with their types."""
    return pa.schema(
        [pa.field(c.name, _TYPES[c.type], nullable=c.nullable) for c in columns],
        metadata=dict(metadata),
    )


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """How all our tables are written, for Arrow; a benchmark must set the same against it."""
    counting = [name for name in schema.names if name in _COUNTING]
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in schema.names if name not in counting],
        "column_encoding": dict.fromkeys(counting, "DELTA_BINARY_PACKED"),
    }


def written(schema: pa.Schema, groups: Iterable[Mapping[str, Any]]) -> bytes:
    """A file of row groups, each by column: arrays, or what makes such."""
    file = io.BytesIO()
    with pq.ParquetWriter(file, schema, **write_options(schema)) as writer:
        for columns in groups:
            arrays = [_array(columns[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), ROWS_PER_PART)
    data = file.getvalue()
    pa.default_memory_pool().release_unused()  # else it keeps more with every file
    return data


def _array(values: Any, type_: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, type=type_)
