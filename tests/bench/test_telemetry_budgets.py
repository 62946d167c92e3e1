"""Budgets of telemetry by moment, apart from the rest: `pytest -m slow`."""

import pytest

from ghosttrain.bench.moments import bench_moments

pytestmark = pytest.mark.slow


def test_moments_are_cheap_and_do_not_age():
    """Of 16,384 GPUs as fast as drawing their noise; the last day costs as much as the second."""
    missed = [result for result in bench_moments() if not result.reached]
    assert not missed, missed
