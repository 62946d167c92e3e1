"""Budgets of exports, apart from the rest: `pytest -m slow`.

Looser than the goals of `ghosttrain bench`: a test must hold on a machine that does other things.
"""

from __future__ import annotations

import pytest

from ghosttrain.bench.exports import bench_export_memory, bench_jsonl, bench_parquet

pytestmark = pytest.mark.slow


def test_tables_come_nearly_as_fast_as_arrow_writes_them():
    speed, size = bench_parquet()
    assert speed.value >= 0.35
    assert size.value <= 6


def test_lines_come_nearly_as_fast_as_orjson_makes_them():
    (speed,) = bench_jsonl()
    assert speed.value >= 0.9


def test_memory_is_flat_and_small_with_16384_gpus():
    growth, peak = bench_export_memory()
    assert growth.value <= 1.05
    assert peak.value <= 150
