"""nvidia-smi: CSV, dmon and the table read back, with the values of the run's telemetry."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.core.identity import host_name, process_id
from ghosttrain.core.run import Run
from ghosttrain.core.telemetry import Telemetry
from ghosttrain.exporters.driver import moments_in
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.machine.smi_rows import dmon_rows, query_rows, query_stamp
from ghosttrain.exporters.savepoint import restored_exporters, saved_exporters
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import faulty_run
from tests.exporters.machine.test_nccl import made_run

EVERY_S = 30.0
FORMATS = ("nvidia-smi", "nvidia-smi-dmon", "nvidia-smi-table")
LOST = "[GPU is lost]"


def sampled(asked: Asked, name: str, cuts: Sequence[int] = ()) -> dict[str, str]:
    """The files of a format, of telemetry in blocks cut at these moments."""
    exporter = EXPORTERS[name].exporter(asked)
    times = moments_in(0.0, np.inf, asked.run.end_s, EVERY_S)
    made: dict[str, bytes] = {}
    for part in np.split(times, sorted(set(cuts))):
        block = asked.run.telemetry(part, exporter.fields)  # type: ignore[attr-defined]
        for file, data in exporter.sample(block):  # type: ignore[attr-defined]
            made[file] = made.get(file, b"") + data
        (exporter,) = restored_exporters(saved_exporters([exporter], asked), asked)
    return {file: data.decode() for file, data in made.items()}


@cache
def files_of_run(kind: str, name: str) -> dict[str, str]:
    return sampled(Asked(faulty_run(kind)), name)


@cache
def telemetry_of(kind: str) -> Telemetry:
    run = faulty_run(kind)
    return run.telemetry(moments_in(0.0, np.inf, run.end_s, EVERY_S))


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines(), skipinitialspace=True))


def number(text: str) -> float:
    return float(text.split()[0])


def moment_of(row: dict[str, str], run: Run) -> float:
    at = datetime.strptime(row["timestamp"], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC)
    return at.timestamp() - run.spec.start_unix_s


QUERIED = {
    "power.draw [W]": ("power_w", 0.0051),
    "temperature.gpu": ("gpu_temp_c", 0.0),
    "temperature.memory": ("memory_temp_c", 0.0),
    "utilization.gpu [%]": ("gpu_util_pct", 0.0),
    "utilization.memory [%]": ("mem_copy_util_pct", 0.0),
    "memory.used [MiB]": ("fb_used_mib", 0.0),
    "memory.total [MiB]": ("fb_total_mib", 0.0),
    "clocks.current.sm [MHz]": ("sm_clock_mhz", 0.0),
    "clocks.current.memory [MHz]": ("mem_clock_mhz", 0.0),
    "power.limit [W]": ("power_limit_w", 0.0051),
    "ecc.errors.uncorrected.volatile.total": ("ecc_dbe_volatile", 0.0),
}


@pytest.mark.parametrize("kind", ["gpu-off-bus", "node-reboot", "hbm-ecc"])
def test_every_value_of_the_csv_is_that_of_the_telemetry(kind: str):
    run, block = faulty_run(kind), telemetry_of(kind)
    seen = 0
    for k, time_s in enumerate(block.time_s.tolist()):
        spares = dict(run.timeline.spares(int(block.attempt[k])))
        for node in range(8):
            host = host_name(run.spec.cluster, spares.get(node, node))
            text = files_of_run(kind, "nvidia-smi").get(f"nvidia-smi/{host}.csv", "")
            rows = rows_at(kind, host, text)
            mine = rows.get(round(time_s, 3), [])
            if node in block.nodes_down[k]:
                assert mine == []
                continue
            assert [int(row["index"]) for row in mine] == list(range(8))
            for local, row in enumerate(mine):
                rank = 8 * node + local
                if rank in block.lost[k]:
                    assert set(list(row.values())[2:]) == {LOST}
                    continue
                seen += 1
                for name, (field, near) in QUERIED.items():
                    assert abs(number(row[name]) - float(block.columns[field][k, rank])) <= near
                reasons = int(row["clocks_event_reasons.active"], 16)
                assert reasons == block.columns["clock_event_reasons"][k, rank]
    assert seen > 1000


@cache
def rows_at(kind: str, host: str, text: str) -> dict[float, list[dict[str, str]]]:
    del host
    found: dict[float, list[dict[str, str]]] = {}
    for row in csv_rows(text):
        found.setdefault(round(moment_of(row, faulty_run(kind)), 3), []).append(row)
    return found


def test_units_stand_in_the_header_and_behind_the_values():
    text = files_of_run("gpu-off-bus", "nvidia-smi")["nvidia-smi/gpu-0000.csv"]
    lines = text.splitlines()
    assert sum(line.startswith("index, timestamp") for line in lines) == 1
    pattern = re.compile(
        r"^\d, \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}, \d+\.\d\d W, \d+, \d+, \d+ %, \d+ %, "
        r"\d+ MiB, \d+ MiB, \d+ MHz, \d+ MHz, \d+\.\d\d W, \d+, 0x[0-9A-F]{16}$"
    )
    assert all(pattern.match(line) for line in lines[1:])


def test_a_lost_gpu_keeps_its_row_and_its_mates_their_values():
    rows = csv_rows(files_of_run("gpu-off-bus", "nvidia-smi")["nvidia-smi/gpu-0002.csv"])
    lost = [row for row in rows if row["power.draw [W]"] == LOST]
    assert lost
    assert {row["index"] for row in lost} == {"1"}
    assert all("lost" not in row["power.draw [W]"] for row in rows if row["index"] != "1")


def test_a_spare_has_files_of_its_own_and_the_node_it_replaces_ends():
    run = faulty_run("gpu-off-bus")
    files = files_of_run("gpu-off-bus", "nvidia-smi")
    (incident,) = run.timeline.incidents
    assert incident.relaunch_s is not None
    old, new = (csv_rows(files[f"nvidia-smi/gpu-{n:04d}.csv"]) for n in (2, 8))
    assert max(moment_of(row, run) for row in old) < incident.relaunch_s
    assert min(moment_of(row, run) for row in new) >= incident.relaunch_s


DMON = re.compile(r"^ {4}\d(?: {1,5}(?:\d+|-)){11}$")


@pytest.mark.parametrize("kind", ["gpu-off-bus", "node-reboot"])
def test_dmon_is_aligned_and_says_what_the_csv_says(kind: str):
    for file, text in files_of_run(kind, "nvidia-smi-dmon").items():
        lines = text.splitlines()
        rows = [line for line in lines if not line.startswith("#")]
        assert {len(line) for line in lines} == {71}
        assert all(DMON.match(line) for line in rows)
        assert lines[0] == "# gpu   pwr gtemp mtemp    sm   mem   enc   dec   jpg   ofa  mclk  pclk"
        assert lines[1] == "# Idx     W     C     C     %     %     %     %     %     %   MHz   MHz"
        heads = [n for n, line in enumerate(lines) if line.startswith("# gpu")]
        assert all(20 <= b - a - 2 < 28 for a, b in pairwise(heads))
        same = csv_rows(
            files_of_run(kind, "nvidia-smi")[file.replace("dmon", "nvidia-smi")[:-3] + "csv"]
        )
        for line, row in zip(rows, same, strict=True):
            values = line.split()
            if row["power.draw [W]"] == LOST:
                assert values[1:] == ["-"] * 11
                continue
            assert values[0] == row["index"]
            assert abs(int(values[1]) - number(row["power.draw [W]"])) <= 0.51
            names = ("temperature.gpu", "temperature.memory", "utilization.gpu [%]")
            assert values[2:5] == [row[name].split()[0] for name in names]
            assert values[5] == row["utilization.memory [%]"].split()[0]
            assert values[10] == row["clocks.current.memory [MHz]"].split()[0]
            assert values[11] == row["clocks.current.sm [MHz]"].split()[0]


def test_the_table_has_91_columns_and_the_values_of_its_moment():
    run = faulty_run("loss-bump")
    exporter: Any = EXPORTERS["nvidia-smi-table"].exporter(Asked(run, start_s=300.0))
    block = run.telemetry(np.array([300.0, 330.0]), exporter.fields)
    files = {file: data.decode() for file, data in exporter.sample(block)}
    assert list(exporter.sample(block)) == []
    assert sorted(files) == [f"nvidia-smi/gpu-{node:04d}.txt" for node in range(8)]
    lines = files["nvidia-smi/gpu-0003.txt"].splitlines()
    assert lines[0] == "Thu Jan  1 00:05:00 2026       "
    assert {len(line) for line in lines[1:]} == {91}
    card = re.compile(
        r"^\| N/A +(\d+)C    P0 +(\d+)W / +700W \| +(\d+)MiB /  81559MiB \| +(\d+)%      Default "
        r"\|$"
    )
    found = [m for line in lines if (m := card.match(line))]
    assert len(found) == 8
    names = ("gpu_temp_c", "power_w", "fb_used_mib", "gpu_util_pct")
    for local, match in enumerate(found):
        for n, name in enumerate(names, 1):
            assert abs(int(match[n]) - float(block.columns[name][0, 24 + local])) <= 0.5
    pids = [int(m[1]) for line in lines if (m := re.match(r"^\|    \d   N/A  N/A +(\d+)", line))]
    assert pids == [process_id(3, local, 1) for local in range(8)]


def test_the_table_of_a_host_with_a_lost_gpu_is_the_tools_complaint():
    run = faulty_run("gpu-off-bus")
    at_s = run.timeline.incidents[0].time_s + 60.0
    exporter: Any = EXPORTERS["nvidia-smi-table"].exporter(Asked(run, start_s=at_s))
    files = dict(exporter.sample(run.telemetry(np.array([at_s]), exporter.fields)))
    assert files["nvidia-smi/gpu-0002.txt"].decode() == (
        "Unable to determine the device handle for GPU0000:43:00.0: Unknown Error\n"
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 60), max_size=6))
def test_blocks_and_savepoints_do_not_show(name: str, cuts: list[int]):
    assert sampled(Asked(faulty_run("gpu-off-bus")), name, cuts) == files_of_run(
        "gpu-off-bus", name
    )


def test_only_chosen_gpus_have_rows():
    run = faulty_run("gpu-off-bus")
    files = sampled(Asked(run, gpus=(3, 9)), "nvidia-smi")
    assert sorted(files) == ["nvidia-smi/gpu-0000.csv", "nvidia-smi/gpu-0001.csv"]
    assert {row["index"] for row in csv_rows(files["nvidia-smi/gpu-0000.csv"])} == {"3"}


def test_cards_without_ecc_or_stacked_memory_say_so():
    run = made_run("rtx-4090", 8, "Ethernet")
    block = run.telemetry(np.array([60.0]))
    (row,) = query_rows(block, 0, [1], run.spec)
    values = row.split(", ")
    assert values[4] == "N/A"
    assert values[-2] == "[N/A]"
    assert dmon_rows(block, 0, [1], run.spec)[0].split()[3] == "-"


@pytest.mark.parametrize(
    ("time_s", "text"),
    [
        (0.0, "2026/01/01 00:00:00.000"),
        (0.4126, "2026/01/01 00:00:00.413"),
        (86399.9996, "2026/01/02 00:00:00.000"),
    ],
)
def test_stamps_have_milliseconds(time_s: float, text: str):
    assert query_stamp(time_s, 1767225600) == text


def test_a_capped_limit_is_told():
    run = faulty_run("power-cap")
    incident = run.timeline.incidents[0]
    assert incident.shown_s is not None
    block = run.telemetry(np.array([incident.shown_s + 120.0]))
    rows = query_rows(block, 0, list(range(64)), run.spec)
    limits = {row.split(", ")[-3] for row in rows}
    assert "700.00 W" in limits
    assert len(limits) == 2
