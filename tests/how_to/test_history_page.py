"""The page on a month of history: its loop makes blocks that hold the run’s own values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ghosttrain.testing.wanted import run_of
from tests.documents import blocks
from tests.how_to.pages import page
from tests.how_to.scripts import run_script
from tests.real.prometheus import PrometheusServer, program

LOOP, _ = blocks(page("fill-a-grafana-with-a-month-of-history"), "sh")

# A window of two hours stands for a day; the rest is as it is.
CHEAP = {
    "seq 0 29": "seq 0 1",
    "--gpus 64": "--gpus 8",
    "--tokens 1.6T": "--steps 8000",
    "${day}d": "$((2 * day))h",
    "$((day + 1))d": "$((2 * day + 2))h",
}


@pytest.mark.real
def test_the_loop_makes_blocks_of_all_windows(tmp_path: Path):
    program("promtool")
    run_script(LOOP, tmp_path, instead=CHEAP)
    assert not (tmp_path / "out").exists()
    run = run_of("llama-3-8b --gpus 8 --steps 8000 --faults realistic", 7, {})
    assert run.end_s > 4 * 3600
    storage = tmp_path / "data"
    with PrometheusServer(tmp_path, "global: {}\n", storage=storage) as prometheus:
        for time_s in (600.0, 7200.0, 4 * 3600.0 - 120.0):
            at = run.spec.start_unix_s + time_s
            (step,) = prometheus.query("ghosttrain_step", at)
            assert float(step["value"][1]) == run.job(time_s).step
            truth = run.telemetry(np.array([time_s]), ["gpu_temp_c"]).columns["gpu_temp_c"][0]
            stored = {
                int(found["metric"]["gpu"]): float(found["value"][1])
                for found in prometheus.query("DCGM_FI_DEV_GPU_TEMP", at)
            }
            assert stored == dict(enumerate(np.rint(truth).tolist()))
        (count,) = prometheus.query("count_over_time(ghosttrain_step[4h])", at)
        assert float(count["value"][1]) == 120
