"""The budgets of a page of metrics, apart from the quick tests: they want a quiet machine."""

from __future__ import annotations

import pytest

from ghosttrain.bench.metrics import bench_metrics


@pytest.mark.slow
def test_pages_keep_their_budgets():
    missed = [result for result in bench_metrics() if not result.reached]
    assert not missed
