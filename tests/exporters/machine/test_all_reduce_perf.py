"""all_reduce_perf: the widths of nccl-tests, rows that agree with one another and the run."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from ghosttrain import catalog
from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import AllReduceTested
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.machine.all_reduce_perf import _number, table
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import faulty_run, files_of
from tests.exporters.runs import small_spec

ROW = re.compile(
    r"^ *(\d+) +(\d+) +(\w+) +(\w+) +(-?\d+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+|N/A) "
    r"+([\d.]+) +([\d.]+) +([\d.]+) +(\d+|N/A)\s*$"
)
DEVICE = re.compile(
    r"^#  Rank [ \d]{2,} Group  0 Pid [ \d]{6} on +\S+ device [ \d]\d "
    r"\[[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\] NVIDIA \S.*$"
)


def one_gpu_run() -> Run:
    gpu = catalog.gpu("h100-sxm")
    model = catalog.model("gpt-2-124m")
    base = small_spec()
    recipe = replace(base.recipe, seq_len=1024, global_batch_size=8)
    spec = replace(base, model=model, cluster=catalog.cluster(gpu, 1), recipe=recipe)
    return simulate(spec, 7)


def text_of(run: Run) -> str:
    (text,) = files_of(Asked(run), "all-reduce-perf").values()
    return text


def test_head_and_foot_are_those_of_nccl_tests():
    lines = text_of(faulty_run("loss-bump")).splitlines()
    assert lines[:5] == [
        "# nccl-tests version 2.18.3 nccl-headers=22703 nccl-library=22703",
        "# Collective test starting: all_reduce_perf",
        "# nThread 1 nGpus 1 minBytes 8 maxBytes 8589934592 step: 2(factor) warmup iters: 1 "
        "iters: 20 agg iters: 1 validation: 1 graph: 0 unalign: 0",
        "#",
        "# Using devices",
    ]
    assert all(DEVICE.match(line) for line in lines[5:69])
    assert lines[69:73] == [
        "#",
        "#                                                              out-of-place            "
        "           in-place          ",
        "#       size         count      type   redop    root     time   algbw   busbw  #wrong  "
        "   time   algbw   busbw  #wrong ",
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)          "
        "   (us)  (GB/s)  (GB/s)         ",
    ]
    assert all(ROW.match(line) for line in lines[73:104])
    assert lines[104] == "# Out of bounds values : 0 OK"
    assert re.match(r"^# Avg bus bandwidth    : \d+(\.\d+)? $", lines[105])
    assert lines[106:] == ["#", "# Collective test concluded: all_reduce_perf", "#", ""]


def test_columns_follow_from_the_size_and_the_time():
    rows = [m for line in text_of(faulty_run("loss-bump")).splitlines() if (m := ROW.match(line))]
    assert [int(m[1]) for m in rows] == [8 * 2**n for n in range(31)]
    for m in rows:
        size = int(m[1])
        assert int(m[2]) == size // 4
        for at in (6, 10):
            took_us, algbw, busbw = (float(m[at + k]) for k in range(3))
            assert algbw == pytest.approx(size / took_us / 1e3, rel=2e-3, abs=0.006)
            assert busbw == pytest.approx(algbw * 2 * 63 / 64, rel=2e-3, abs=0.015)
        assert float(m[10]) == pytest.approx(float(m[6]), rel=0.02)
    bandwidths = [float(m[8]) for m in rows]
    assert bandwidths == sorted(bandwidths)


def test_the_row_of_the_runs_test_says_what_the_run_says():
    run = faulty_run("loss-bump")
    (tested,) = [e for e in run.events(0.0, 200.0) if isinstance(e, AllReduceTested)]
    (row,) = [
        m
        for line in text_of(run).splitlines()
        if (m := ROW.match(line)) and int(m[1]) == tested.collective.size_bytes
    ]
    assert row[6] == _number(1e6 * tested.collective.duration_s, 7).strip()
    assert row[8] == f"{tested.collective.busbw_gbs:.2f}"


def test_average_is_that_of_both_columns():
    text = text_of(faulty_run("loss-bump"))
    rows = [m for line in text.splitlines() if (m := ROW.match(line))]
    both = [float(m[at]) for m in rows for at in (8, 12)]
    found = re.search(r"Avg bus bandwidth    : ([\d.]+) ", text)
    assert found is not None
    assert float(found[1]) == pytest.approx(sum(both) / len(both), abs=0.01)


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (76.26, 7, "  76.26"),
        (9999.994, 7, "9999.99"),
        (31077.34, 7, "31077.3"),
        (123456.7, 7, " 123457"),
        (4567890.1, 7, "4567890"),
        (123456789.0, 7, "1.2e+08"),
        (483.711, 6, "483.71"),
        (1234.56, 6, "1234.6"),
        (0.0, 6, "  0.00"),
    ],
)
def test_numbers_take_the_decimals_that_fit(value: float, width: int, text: str):
    assert _number(value, width) == text


def test_one_gpu_has_no_collective():
    with pytest.raises(RequestError, match="needs 2 GPUs or more"):
        text_of(one_gpu_run())


def test_another_seed_changes_nothing_but_the_noise():
    spec = small_spec()
    first, second = ["".join(table(spec, seed)).splitlines() for seed in (1, 2)]
    assert first != second
    for one, other in zip(first, second, strict=True):
        if one != other and not one.startswith("# Avg"):
            assert one[:80] == other[:80]
            assert math.isclose(float(one.split()[9]), float(other.split()[9]), rel_tol=0.03)
