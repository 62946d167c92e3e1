"""Labels: what is in them, and that other programs read them."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.events import IncidentLabelled
from ghosttrain.exporters.formats import FORMATS
from ghosttrain.exporters.label_table import LabelTableWriter
from ghosttrain.exporters.labels import (
    COLUMNS,
    SCHEMA,
    LabelCollector,
    LabelWriter,
    clean_spans,
    collected,
    label_line,
    label_rows,
)
from ghosttrain.exporters.writing import Asked
from tests.exporters.runs import END_S, a_run, finished, incident, real_run, started

DOC = (Path(__file__).resolve().parents[2] / "docs" / "labels.md").read_text(encoding="utf-8")


def clean(*incidents, end_s=END_S):
    return list(clean_spans(incidents, end_s))


def test_the_run_comes_first_then_incidents_by_onset_then_clean_stretches():
    rows = list(label_rows(a_run()))
    assert [row["kind"] for row in rows] == ["run", *["incident"] * 3, "clean", "clean"]
    assert rows[0] == {
        "kind": "run", "run": 7, "simulated": True, "schema": SCHEMA, "seed": 7,
        "model": "Llama-3-8B", "gpus": 16, "nodes": 2, "start": "2026-01-01T00:00:00Z",
        "start_s": 0.0, "end_s": END_S,
    }  # fmt: skip
    assert [row["id"] for row in rows[1:4]] == [1, 2, 3]
    assert rows[1] == {
        "kind": "incident", "run": 7, "id": 1, "class": "gpu-off-bus", "family": "gpu",
        "scope": "gpu", "entity": "gpu 9", "node": 1, "first_rank": 9, "ranks": 1,
        "severity": 0.25, "onset_s": 500.0, "signals": {"log": 500.0, "gpu_util": 501.5},
        "detected_s": 520.0, "mitigated_s": 2000.0, "cleared_s": 2000.0, "steps_lost": 12,
        "lost_s": 321.125, "benign": False,
    }  # fmt: skip
    assert [(row["start_s"], row["end_s"]) for row in rows[4:]] == [(0.0, 500.0), (2000.0, 9000.0)]


def test_rows_hold_the_columns_there_are_and_every_field_of_the_event():
    rows = list(label_rows(a_run()))
    for row in rows:
        assert [*row] == [c.name for c in COLUMNS if row["kind"] in c.rows]
    told = {f.name for f in fields(IncidentLabelled)} - {"time_s"}
    renamed = {"incident": "id", "kind": "class"}
    assert {renamed.get(name, name) for name in told} == {*rows[1]} - {"kind", "run"}


@pytest.mark.parametrize(
    ("window", "incidents", "clean"),
    [
        ((0.0, math.inf), [1, 2, 3], [(0.0, 500.0), (2000.0, 9000.0)]),
        ((0.0, 500.0), [], [(0.0, 500.0)]),
        ((100.0, 500.1), [1], [(100.0, 500.0)]),
        ((1200.0, 3000.0), [1], [(2000.0, 3000.0)]),
        ((2000.1, 3000.0), [], [(2000.1, 3000.0)]),
        ((8000.0, 9500.0), [3], [(8000.0, 9000.0)]),
        ((9500.0, math.inf), [3], []),
    ],
)
def test_labels_of_a_window_are_those_that_overlap_it(window, incidents, clean):
    collector = LabelCollector(*window)
    for event in a_run():
        collector.accept(event)
    run, *rows = collector.rows()
    assert (run["start_s"], run["end_s"]) == (window[0], min(window[1], END_S))
    assert [row["id"] for row in rows if row["kind"] == "incident"] == incidents
    found = [(row["start_s"], row["end_s"]) for row in rows if row["kind"] == "clean"]
    assert found == clean
    whole = [row for row in label_rows(a_run()) if row["kind"] == "incident"]
    assert [row for row in rows if row["kind"] == "incident"] == [
        row for row in whole if row["id"] in incidents
    ], "their times are the true ones"


def test_the_labels_a_run_gives_are_those_of_its_events():
    run = real_run(faults="gpu-off-bus@8min:9,ecc-sbe-storm@5min")
    rows = list(collected(Asked(run)).rows())
    assert rows == list(label_rows(run.events(0.0, math.inf)))
    assert sum(row["kind"] == "incident" for row in rows) == 2


@pytest.mark.parametrize(
    ("incidents", "spans"),
    [
        ([], [(0.0, END_S)]),
        ([incident(1, 0.0, 10.0)], [(10.0, END_S)]),
        ([incident(1, 50.0, None)], [(0.0, 50.0)]),
        ([incident(1, 0.0, None)], []),
        ([incident(1, 50.0, 60.0, benign=True)], [(0.0, END_S)]),
        ([incident(1, 50.0, 90.0), incident(2, 60.0, 70.0)], [(0.0, 50.0), (90.0, END_S)]),
        ([incident(1, 50.0, 60.0), incident(2, 60.0, 70.0)], [(0.0, 50.0), (70.0, END_S)]),
        ([incident(1, 50.0, 50.0)], [(0.0, 50.0), (50.0, END_S)]),
        ([incident(1, 50.0, END_S + 5)], [(0.0, 50.0)]),
        ([incident(2, 80.0, 90.0), incident(1, 50.0, 60.0)],
         [(0.0, 50.0), (60.0, 80.0), (90.0, END_S)]),
    ],
)  # fmt: skip
def test_clean_stretches(incidents, spans):
    assert clean(*incidents) == spans


spans_of_time = st.tuples(st.integers(0, 50), st.integers(0, 20) | st.none(), st.booleans())


@given(st.lists(spans_of_time, max_size=8))
def test_a_moment_is_clean_exactly_if_no_incident_is_open(drawn):
    incidents = [
        incident(n, float(a), None if b is None else float(a + b), benign=benign)
        for n, (a, b, benign) in enumerate(drawn, 1)
    ]
    found = clean(*incidents, end_s=60.0)
    assert found == sorted(found)
    for at in (n + 0.5 for n in range(60)):
        is_open = any(
            not e.benign and e.onset_s <= at < (math.inf if e.cleared_s is None else e.cleared_s)
            for e in incidents
        )
        assert any(start <= at < end for start, end in found) is not is_open
    assert all(start < end for start, end in found)


def written(writer, events):
    early = b"".join(writer.accept(event) for event in events)
    assert early == b"", "labels are known when the run is over"
    return io.BytesIO(writer.close())


def test_json_lines_are_the_rows():
    data = written(LabelWriter(), a_run()).getvalue()
    assert [json.loads(line) for line in data.splitlines()] == list(label_rows(a_run()))
    assert data.endswith(b"\n")


def test_what_json_has_no_word_for_is_null():
    line = label_line({"severity": math.inf, "signals": {"loss": math.nan, "log": 0.1 + 0.2}})
    assert line == b'{"severity":null,"signals":{"loss":null,"log":0.3}}\n'


def test_the_table_is_read_back_as_the_rows():
    file = written(LabelTableWriter("model = 'x'\n"), a_run())
    assert not file.closed
    file.seek(0)
    table = pq.read_table(file)
    expected = [
        {c.name: row.get(c.name) for c in COLUMNS}
        | ({"signals": [*row["signals"].items()]} if "signals" in row else {})
        for row in label_rows(a_run())
    ]
    assert table.to_pylist() == expected


def test_the_table_says_what_it_is():
    file = written(LabelTableWriter("model = 'x'\n"), a_run())
    parquet = pq.ParquetFile(file)
    metadata = parquet.schema_arrow.metadata
    assert {name: metadata[name] for name in (b"simulated", b"schema", b"spec", b"seed")} == {
        b"simulated": b"true",
        b"schema": SCHEMA.encode(),
        b"spec": b"model = 'x'\n",
        b"seed": b"7",
    }
    group = parquet.metadata.row_group(0)
    assert {group.column(k).compression for k in range(group.num_columns)} == {"ZSTD"}


def test_columns_keep_their_types_in_a_run_in_which_nothing_happened():
    """All cells of a column may be null; a reader of many runs still gets one schema."""
    quiet = pq.ParquetFile(written(LabelTableWriter(""), [started(), finished()]))
    eventful = pq.ParquetFile(written(LabelTableWriter(""), a_run()))
    assert quiet.schema_arrow.remove_metadata() == eventful.schema_arrow.remove_metadata()
    types = {field.name: (field.type, field.nullable) for field in quiet.schema_arrow}
    assert types["kind"] == (pa.string(), False)
    assert types["onset_s"] == (pa.float64(), True)
    assert types["benign"] == (pa.bool_(), True)
    assert types["first_rank"] == (pa.int64(), True)
    assert types["signals"] == (pa.map_(pa.string(), pa.float64()), True)


def test_the_largest_seed_fits():
    seed = 2**63 - 1
    events = [started(seed), finished()]
    table = pq.read_table(written(LabelTableWriter(""), events))
    assert table["seed"].to_pylist() == [seed, None]


def test_every_column_is_documented_as_it_is():
    table = re.findall(r"^\| `(\w+)` \| (.+?) \| (\w+) \| (.+) \|$", DOC, re.MULTILINE)
    assert table == [(c.name, ", ".join(c.rows), c.holds, c.meaning) for c in COLUMNS]


def test_every_flag_of_score_and_format_of_export_is_documented():
    from ghosttrain.cli import score
    from ghosttrain.cli.common import new_parser
    from ghosttrain.scoring.predictions import FIELDS

    parser = new_parser("score", "", ())
    score.add_arguments(parser)
    own = {*parser.options()} - {"-h", "--help", "--debug", "--json"}
    assert {flag for flag in own if f"`{flag}`" not in DOC} == set()
    for one in FORMATS:
        if one.name.startswith("labels"):
            assert f"| `{one.name}` | `{one.file}` |" in DOC
    assert {name for name in FIELDS if f"`{name}`" not in DOC} == set()
