"""The tables: read back with Arrow and DuckDB, they are the run's own numbers."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ghosttrain.core.errors import SpecError
from ghosttrain.core.telemetry import FIELDS
from ghosttrain.exporters import parquet, telemetry_table
from ghosttrain.exporters.driver import export
from ghosttrain.exporters.formats import formats_of
from ghosttrain.exporters.metric_choice import DEFAULT_METRICS, metric_column, metrics_of
from ghosttrain.exporters.parquet_parts import Column
from ghosttrain.exporters.step_lines import _DECIMALS
from ghosttrain.exporters.telemetry_table import TelemetryTable
from ghosttrain.exporters.writing import Asked, Chunk
from tests.exporters.runs import real_run

DOC = (Path(__file__).resolve().parents[2] / "docs" / "parquet.md").read_text(encoding="utf-8")
RUN = real_run(steps=600, faults="gpu-off-bus@8min:9")
TABLES = ("events", "steps", "telemetry")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    export(Asked(RUN), folder, formats_of("parquet,jsonl"))
    return folder


def rows_of_log(folder, event=None):
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]
    return [row for row in rows if event is None or row["event"] == event]


def test_telemetry_is_that_of_the_run_row_by_row(folder):
    table = ds.dataset(folder / "telemetry").to_table()
    moments = np.arange(0.0, RUN.end_s, 30.0)
    block = RUN.telemetry(moments, DEFAULT_METRICS)
    assert table.num_rows == len(moments) * 16
    assert table["time_s"].to_numpy().tolist() == np.repeat(moments, 16).tolist()
    assert table["gpu"].to_pylist() == [*range(16)] * len(moments)
    assert table["node"].to_pylist() == [*[0] * 8, *[1] * 8] * len(moments)
    assert table["attempt"].to_numpy().tolist() == np.repeat(block.attempt, 16).tolist()
    lost = np.zeros((len(moments), 16), bool)
    for k, gpus in enumerate(block.lost):
        lost[k, list(gpus)] = True
    assert lost.any(), "the GPU that fell off the bus"
    for name in DEFAULT_METRICS:
        told = table[name].to_numpy(zero_copy_only=False).astype(float).reshape(-1, 16)
        assert (np.isnan(told) == lost).all(), "of lost GPUs nothing is told"
        unit = 0.1 if name == "power_w" else 1.0
        expected = np.rint(block.columns[name].astype(float) / unit) * unit
        assert told[~lost] == pytest.approx(expected[~lost], abs=1e-4), name


def test_a_spare_has_its_own_host_name(folder):
    table = ds.dataset(folder / "telemetry").to_table(columns=["attempt", "node", "host"])
    hosts = {(row["attempt"], row["node"]): row["host"] for row in table.to_pylist()}
    assert hosts == {(1, 0): "gpu-0000", (1, 1): "gpu-0001", (2, 0): "gpu-0000", (2, 1): "gpu-0002"}


def test_steps_are_those_of_the_log(folder):
    table = ds.dataset(folder / "steps").to_table().to_pylist()
    logged = rows_of_log(folder, "step")
    assert len(table) == len(logged) > 600, "those done again too"
    for row, told in zip(table, logged, strict=True):
        assert [*row] == [name for name in told if name != "event"]
        for name, value in row.items():
            unit = 10.0 ** -_DECIMALS.get(name, 9)  # of the log's last digit
            if name == "learning_rate":  # has seven figures
                unit = told[name] * 1e-6
            assert abs(value - told[name]) <= 0.5001 * unit, name


def test_events_are_all_others_but_samples(folder):
    table = ds.dataset(folder / "events").to_table().to_pylist()
    logged = [r for r in rows_of_log(folder) if r["event"] not in ("step", "fleet", "collective")]
    assert [json.loads(row["row"]) for row in table] == logged
    for row, told in zip(table, logged, strict=True):
        assert (row["event"], row["node"]) == (told["event"], told.get("node"))


def test_a_window_of_some_gpus_has_some_of_the_same_rows(tmp_path):
    gpus, metrics = (1, 9), ("xid", "energy_mj", "sm_active_frac", "power_w")
    asked = Asked(RUN, start_s=400.0, stop_s=700.0, every_s=60.0, gpus=gpus, metrics=metrics)
    export(asked, tmp_path, formats_of("parquet"))
    table = ds.dataset(tmp_path / "telemetry").to_table()
    assert sorted(set(table["time_s"].to_pylist())) == [420.0, 480.0, 540.0, 600.0, 660.0]
    assert table["gpu"].to_pylist() == [1, 9] * 5
    assert table.column_names[5:] == [*metrics]
    block = RUN.telemetry(np.array([420.0]), metrics)
    first = table.slice(0, 2).to_pylist()
    assert [row["energy_mj"] for row in first] == block.columns["energy_mj"][0, [1, 9]].tolist()
    assert set(ds.dataset(tmp_path / "steps").to_table()["time_s"].to_pylist()) <= {
        row["time_s"] for row in ds.dataset(tmp_path / "steps").to_table().to_pylist()
        if 400 <= row["time_s"] < 700
    }  # fmt: skip


@pytest.mark.parametrize("sizes", [[1] * 50, [50], [7, 30, 13]])
def test_files_are_the_same_whatever_the_blocks(monkeypatch, sizes):
    monkeypatch.setattr(telemetry_table, "ROWS_PER_PART", 16 * 20)
    monkeypatch.setattr(telemetry_table, "ROWS_PER_GROUP", 16 * 8)
    whole = chunks([50])
    assert [name for name, _ in whole] == [f"telemetry/part-0000{n}.parquet" for n in range(3)]
    assert chunks(sizes) == whole
    groups = [pq.ParquetFile(io.BytesIO(data)).metadata.num_row_groups for _, data in whole]
    assert groups == [3, 3, 2]


def chunks(sizes):
    table, done = TelemetryTable(Asked(RUN), {}), 0
    made: list[Chunk] = []
    for size in sizes:
        moments = np.arange(done, done + size) * 30.0
        made += table.sample(RUN.telemetry(moments, table.fields))
        done += size
    return made + list(table.close())


def test_every_file_says_that_it_is_simulated_and_how_to_have_it_again(folder):
    files = [*folder.rglob("*.parquet")]
    assert len(files) == 4
    for file in files:
        said = {k.decode(): v.decode() for k, v in pq.read_schema(file).metadata.items()}
        assert said["simulated"] == "true"
        assert said["seed"] == "3"
        assert re.fullmatch(r"ghosttrain\.[a-z-]+/1", said["schema"])
        assert 'model = "llama-3-8b"' in said["spec"]
        group = pq.ParquetFile(file).metadata.row_group(0)
        assert {group.column(k).compression for k in range(group.num_columns)} == {"ZSTD"}


def test_a_window_in_which_nothing_is_has_empty_tables(tmp_path):
    asked = replace(Asked(RUN), start_s=100.001, stop_s=100.002)
    export(asked, tmp_path, formats_of("parquet"))
    for table in TABLES:
        read = ds.dataset(tmp_path / table).to_table()
        assert read.num_rows == 0
        assert "time_s" in read.column_names


def test_labels_are_among_the_tables_whoever_asks_for_them_twice(tmp_path):
    written = export(Asked(RUN), tmp_path, formats_of("parquet,labels-parquet"))
    assert [path.name for path, _ in written].count("labels.parquet") == 1
    assert pq.read_table(tmp_path / "labels.parquet").num_rows > 2


@pytest.mark.real
def test_duckdb_reads_each_table_with_one_path(folder):
    with duckdb.connect() as database:
        for table, count in (("telemetry", None), ("steps", len(rows_of_log(folder, "step")))):
            (rows,) = database.sql(f"select count(*) from '{folder}/{table}/*.parquet'").fetchall()[
                0
            ]
            assert rows == ds.dataset(folder / table).to_table().num_rows == (count or rows)
        hottest = database.sql(
            f"select max(gpu_temp_c), max(power_w) from '{folder}/telemetry/*.parquet'"
        ).fetchall()[0]
        block = RUN.telemetry(np.arange(0.0, RUN.end_s, 30.0), ("gpu_temp_c", "power_w"))
        assert hottest[0] == block.columns["gpu_temp_c"].max()
        assert hottest[1] == pytest.approx(block.columns["power_w"].max(), abs=0.051)


def test_metrics_by_names_of_ours_and_of_dcgm():
    assert metrics_of("power_w, DCGM_FI_DEV_GPU_TEMP,power_w") == ("power_w", "gpu_temp_c")
    with pytest.raises(SpecError, match="unknown metric 'powr_w': did you mean power_w"):
        metrics_of("powr_w")
    with pytest.raises(SpecError, match="names none"):
        metrics_of(" , ")


def test_every_field_fits_its_column():
    block = RUN.telemetry(np.array([0.0, 700.0, math.floor(RUN.end_s)]))
    for field in FIELDS:
        values, column = block.columns[field], metric_column(field)
        assert np.abs(column.quantised(values) - values.astype(float)).max() <= 0.0501, field


def test_every_column_is_documented_as_it_is():
    told = re.findall(r"^\| `(\w+)` \| (\w+)(, or null)? \| (.+) \|$", DOC, re.MULTILINE)
    columns: list[Column] = [*parquet.EVENTS, *parquet.STEPS, *telemetry_table.PLACES]
    expected = [(c.name, c.type, ", or null" if c.nullable else "", c.meaning) for c in columns]
    assert [row for row in told if row[0] not in FIELDS] == expected
    usual = [(name, metric_column(name).type) for name in DEFAULT_METRICS]
    assert [row[:2] for row in told if row[0] in FIELDS] == usual
    for schema in (parquet.EVENTS_SCHEMA, parquet.STEPS_SCHEMA, telemetry_table.SCHEMA):
        assert f"`{schema}`" in DOC
