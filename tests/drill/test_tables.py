"""The player's tables: values in, cells out; and that they find what there is to find."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ghosttrain.core.run import Run
from ghosttrain.drill.readings import COLUMNS, F64, Readings, Telemetry, robust_z
from ghosttrain.drill.tables import Look, compare_table, folded, metrics_table, sparkline
from ghosttrain.views.renderables.glyphs import ASCII, UNICODE
from ghosttrain.views.renderables.line import Line
from tests.drill.cases import case_of

LOOK = Look(100, 40, UNICODE, color=False)


@pytest.mark.parametrize(
    ("values", "cells", "peaks", "drawn"),
    [
        ([1, 1, 1, 2, 1, 1], 3, True, "▁█▁"),
        ([1, 1, 1, 2, 1, 1], 3, False, "▁▁▁"),
        ([100, 100.2, 100], 3, True, "▁▁▁"),  # a fifth of a percent is no news
        ([1, 2, 3, 4, 5, 6, 7, 8], 8, True, "▁▂▃▄▅▆▇█"),
        ([2, np.nan, 2], 3, True, "▁!▁"),
        ([np.nan, np.inf], 2, True, "!!"),
        ([5], 20, True, "▁"),
    ],
)
def test_sparklines(values, cells, peaks, drawn):
    assert sparkline(np.array(values, float), cells, UNICODE, peaks=peaks) == drawn


def test_ascii_sparkline():
    assert sparkline(np.array([1.0, 2.0]), 2, ASCII, peaks=True) == ".#"


def test_z_counts_from_the_median_and_knows_gaps():
    z = robust_z(np.array([10.0, 10.1, 9.9, 10.0, 14.0, np.nan]))
    assert np.isnan(z[5])
    assert z[4] > 20
    assert abs(z[0]) < 1
    assert np.all(np.abs(robust_z(np.full(8, 5.0))) == 0)


def telemetry(lost: tuple[int, ...] = (), **changed: dict[int, float]) -> Telemetry:
    columns: dict[str, F64] = {name: 100 + 0.05 * (np.arange(64.0) % 7) for name in COLUMNS}
    for name, values in changed.items():
        for gpu, value in values.items():
            columns[name][gpu] = value
    return Telemetry(columns, (("nvlink-crc", 9, 70),), lost)


def test_compare_tells_a_gpu_from_a_node():
    spec = case_of("straggler").run.spec
    now = telemetry(lost=(3,), clock={17: 90.0}, temp=dict.fromkeys(range(40, 48), 105.0))
    text = "\n".join(line.text for line in compare_table(now, telemetry(), spec, LOOK))
    assert "gpu 3 (node 0): does not answer" in text
    assert "gpu 17 (node 2)" in text
    assert re.search(r"node 5 +z +\+\S+ +temperature", text)
    assert "gpu 41" not in text
    assert "gpu 9: NVLink CRC 70" in text


def test_compare_of_equals_is_quiet():
    spec = case_of("straggler").run.spec
    lines = compare_table(telemetry(), telemetry(), spec, LOOK)
    assert "No GPU stands out." in [line.text for line in lines]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_tables_fit(width):
    case = case_of("straggler")
    look, readings = Look(width, 24, UNICODE, color=False), Readings(case.run)
    now_s = case.labels[0].onset_s + 900
    stretch = readings.telemetry(now_s - 300, now_s)
    lines = compare_table(stretch, readings.usual(now_s), case.run.spec, look)
    steps = readings.steps(now_s - 300, now_s)
    lines += metrics_table(steps, steps, look)
    assert max(map(len, lines)) <= width


def test_a_straggler_stands_out_by_its_clock():
    case = case_of("straggler-7-percent")
    label = case.labels[0]
    until_s = label.onset_s + 1500
    readings = Readings(case.run)
    stretch = readings.telemetry(until_s - 300, until_s)
    text = "\n".join(
        line.text for line in compare_table(stretch, readings.usual(until_s), case.run.spec, LOOK)
    )
    assert re.search(rf"{label.entity} \(node {label.node}\) +z +-\S+ +SM clock", text)
    before = readings.telemetry(label.onset_s - 300, label.onset_s)
    quiet = compare_table(before, readings.usual(label.onset_s), case.run.spec, LOOK)
    assert not any(f"{label.entity} " in line.text for line in quiet)


def losses(run: Run, start_s: float, stop_s: float) -> list[float]:
    steps = Readings(run).steps(start_s, stop_s)
    assert steps is not None
    return [float(loss) for loss in steps.loss]


def test_readings_do_not_look_ahead():
    """Of two runs that differ from a moment on, all before it reads the same."""
    loud, silent = case_of("gpu-off-bus").run, case_of("straggler").run
    onset_s = min(i.time_s for r in (loud, silent) for i in r.timeline.incidents)
    for read in (
        lambda r: Readings(r).telemetry(300.0, onset_s - 10).columns["temp"].tolist(),
        lambda r: losses(r, 300.0, onset_s - 10),
        lambda r: Readings(r).done(onset_s - 10),
    ):
        assert read(loud) == read(silent)


def test_a_gpu_that_came_back_has_a_mean():
    case = case_of("gpu-off-bus")
    label = case.labels[0]
    assert label.mitigated_s is not None
    stretch = Readings(case.run).telemetry(label.onset_s - 300, label.mitigated_s + 300)
    assert np.isfinite(stretch.columns["power"]).all()
    gone = Readings(case.run).telemetry(label.onset_s + 1, label.onset_s + 2)
    assert gone.lost == (label.first_rank,)


def test_a_long_message_is_folded_whole():
    line = Line.of(("[2026-01-01 00:00:00] ", "dim"), "NVRM: Xid (PCI:0000:52:00): 79, gone")
    rows = folded(line, 40)
    assert max(map(len, rows)) <= 40
    assert " ".join(" ".join(row.text.split()) for row in rows) == line.text
    assert rows[0].pieces[0] == line.pieces[0]
    assert folded(line, 80) == [line]
