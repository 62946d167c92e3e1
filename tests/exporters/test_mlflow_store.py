"""MLflow's file store: read back by MLflow, the same bytes whatever the batches."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.exporters.mlflow_store import EXPERIMENT, FileStore
from ghosttrain.exporters.tensorboard import event_files
from ghosttrain.exporters.writing import Asked
from tests.exporters.test_tensorboard import told
from tests.exporters.tracking import EVERY_S, exported, put
from tests.views.renderables.fleets import faulty_run


@cache
def whole() -> dict[str, bytes]:
    run = faulty_run()
    return exported(FileStore(Asked(run)), run, (0.0, float("inf")))


def launches() -> list[str]:
    names = (re.match(rf"mlruns/{EXPERIMENT}/([0-9a-f]{{32}})/", name) for name in whole())
    return list(dict.fromkeys(match[1] for match in names if match))


def points(run_id: str, key: str) -> list[tuple[int, float, int]]:
    lines = whole()[f"mlruns/{EXPERIMENT}/{run_id}/metrics/{key}"].decode().splitlines()
    return [(int(t), float(v), int(s)) for t, v, s in (line.split(" ") for line in lines)]


def test_metrics_are_what_the_trainer_tells_tensorboard():
    run = faulty_run()
    files = exported(event_files(Asked(run), "hf"), run, (0.0, float("inf")))
    for run_id, data in zip(launches(), files.values(), strict=True):
        scalars = told(data)
        for key, tag in (("loss", "train/loss"), ("grad_norm", "train/grad_norm")):
            found = points(run_id, key)
            assert [step for _, _, step in found] == [step for step, _, _ in scalars[tag]]
            values = np.array([value for _, value, _ in found], dtype=np.float32)
            assert values.tolist() == [value for _, _, value in scalars[tag]]
    assert [step for _, _, step in points(launches()[-1], "eval_loss")] == [60, 120, 180]


def test_system_metrics_are_the_telemetry_of_the_first_node_counted_by_launch():
    run = faulty_run()
    for run_id in launches():
        found = points(run_id, "system/gpu_3_power_usage_watts")
        assert [step for _, _, step in found] == list(range(len(found)))
        for millis, value, _ in found[:: len(found) // 3]:
            at_s = millis / 1000 - run.spec.start_unix_s
            block = run.telemetry(np.array([at_s]), ("power_w",))
            assert value == round(float(block.columns["power_w"][0, 3]), 1)
            assert at_s % EVERY_S == 0


@given(shares=st.lists(st.floats(0.0, 1.0), max_size=4), pickled=st.booleans())
def test_windows_and_savepoints_change_no_byte(shares, pickled):
    run = faulty_run()
    cuts = (0.0, *sorted(share * run.end_s for share in shares), float("inf"))
    assert exported(FileStore(Asked(run)), run, cuts, pickled=pickled) == whole()


def test_what_has_not_ended_is_running():
    run = faulty_run()
    files = exported(FileStore(Asked(run, stop_s=60.0)), run, (0.0, 60.0))
    (meta,) = (data for name, data in files.items() if name.count("/") == 3 and "meta" in name)
    assert b"status: 1\n" in meta
    assert b"end_time: null\n" in meta


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # of MLflow and what it imports
def test_mlflow_reads_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    from mlflow import MlflowClient

    put(whole(), tmp_path / "out")
    client = MlflowClient(tracking_uri=(tmp_path / "out" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("ghosttrain")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED"]
    for run, run_id in zip(runs, launches(), strict=True):
        assert run.info.run_id == run_id
        assert run.data.tags["simulated"] == "true"
        assert run.data.params["seed"] == run.data.tags["seed"] == "1234"
        for key in ("loss", "system/gpu_0_utilization_percentage"):
            history = client.get_metric_history(run_id, key)
            assert [(m.timestamp, m.value, m.step) for m in history] == points(run_id, key)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
