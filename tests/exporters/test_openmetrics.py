"""History for Prometheus: the page's lines with dates, taken by promtool and by a real server."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault
from ghosttrain.exporters.openmetrics import JOB_INSTANCE, Backfill, parted
from ghosttrain.exporters.writing import Asked
from tests.exporters.tracking import EVERY_S, exported, put
from tests.real.prometheus import PrometheusServer, promtool
from tests.views.renderables.fleets import faulty_run

LINE = re.compile(r'([a-zA-Z_:]\w*)\{((?:\w+="[^"]*",?)+)\} (\S+) (\d+\.\d{3})')
LABEL = re.compile(r'(\w+)="([^"]*)"')
Sample = tuple[str, dict[str, str], float, float]  # name, labels, value, run time


@cache
def crossing_midnight() -> Run:
    """A run of 16 GPUs that begins five minutes to midnight and loses a node."""
    spec = faulty_run(16).spec
    fault = InjectedFault(catalog.fault_kind("host-crash"), at_s=150.0, gpu=9)
    start = spec.start_unix_s + 86_400 - 300
    return simulate(replace(spec, faults=Faults(injected=(fault,)), start_unix_s=start), 7)


@cache
def whole() -> dict[str, bytes]:
    run = crossing_midnight()
    return exported(Backfill(Asked(run)), run, (0.0, float("inf")))


@cache
def samples() -> tuple[Sample, ...]:
    start = crossing_midnight().spec.start_unix_s
    found = []
    for data in whole().values():
        for line in data.decode().splitlines():
            if line.startswith("#"):
                continue
            match = LINE.fullmatch(line)
            assert match, line
            labels = dict(LABEL.findall(match[2]))
            found.append((match[1], labels, float(match[3]), float(match[4]) - start))
    return tuple(found)


def test_there_is_a_file_a_day_each_with_its_end():
    assert list(whole()) == ["openmetrics/2026-01-01.om", "openmetrics/2026-01-02.om"]
    for name, data in whole().items():
        assert data.endswith(b"\n# EOF\n")
        assert data.count(b"# EOF") == 1
        day = np.datetime64(name[12:22], "s").astype(int)
        stamps = [float(line.rpartition(b" ")[2]) for line in data.splitlines() if line[:1] != b"#"]
        assert stamps == sorted(stamps)
        assert day <= stamps[0] <= stamps[-1] < day + 86_400


def test_each_file_declares_each_family_once():
    for data in whole().values():
        declared = Counter(line for line in data.splitlines() if line.startswith(b"# TYPE"))
        assert set(declared.values()) == {1}
        typed = {line.split()[2] for line in declared}
        names = {line.partition(b"{")[0] for line in data.splitlines() if line[:1] != b"#"}
        suffixes = (b"", b"_total", b"_info")
        assert names == {n for n in names if any(n.removesuffix(s) in typed for s in suffixes)}


def test_no_series_has_two_values_at_a_moment():
    seen = Counter((name, tuple(labels.items()), at_s) for name, labels, _, at_s in samples())
    assert set(seen.values()) == {1}


def test_values_are_the_telemetry_of_the_moment():
    run = crossing_midnight()
    fields = {m.name: m.field for m in catalog.metrics()}
    moments = sorted({at_s for *_, at_s in samples()})
    block = run.telemetry(np.array(moments))
    checked = Counter[str]()
    for name, labels, value, at_s in samples():
        if name not in fields:
            continue
        gpu = 8 * int(labels["node"]) + int(labels["gpu"])
        exact = float(block.columns[fields[name]][moments.index(at_s), gpu])
        assert value == pytest.approx(exact, abs=5e-4, rel=1e-6)
        checked[name] += 1
    assert set(checked) == {metric.name for metric in catalog.metrics("default")}
    assert len(set(checked.values())) == 1


def test_the_job_says_what_its_page_says():
    run = crossing_midnight()
    for name, labels, value, at_s in samples():
        if name == "ghosttrain_step":
            assert labels == {"instance": JOB_INSTANCE, "job": "ghosttrain"}
            assert value == run.job(at_s).step
        if name == "ghosttrain_info":
            assert (labels["simulated"], labels["seed"]) == ("true", "7")


def test_a_node_that_is_down_has_no_series_but_up():
    up = {
        (labels.get("node"), at_s): value for name, labels, value, at_s in samples() if name == "up"
    }
    moments = {at_s for _, at_s in up}
    assert {value for (node, _), value in up.items() if node != "1"} == {1.0}
    down = {at_s for at_s in moments if up["1", at_s] == 0.0}
    assert down
    assert down < moments
    told = {at_s for name, labels, _, at_s in samples() if "DCGM" in name and labels["node"] == "1"}
    assert told == moments - down


def test_a_spare_has_a_name_of_its_own():
    names = {labels["instance"] for _, labels, *_ in samples() if labels.get("node") == "1"}
    hosts = {
        labels["Hostname"]
        for _, labels, *_ in samples()
        if labels.get("node") == "1" and "gpu" in labels
    }
    assert len(names) == 2
    assert hosts == names


def test_only_the_chosen_gpus_are_there():
    run = crossing_midnight()
    files = exported(Backfill(Asked(run, gpus=(2, 5))), run, (0.0, 100.0))
    text = b"".join(files.values()).decode()
    assert set(re.findall(r'GPU_TEMP\{gpu="(\d+)"', text)) == {"2", "5"}
    assert set(re.findall(r'^up\{.*instance="([^"]+)"', text, re.MULTILINE)) == {
        "gpu-0000",
        JOB_INSTANCE,
    }


def test_only_the_metrics_asked_for_are_there():
    run = crossing_midnight()
    asked = Asked(run, metrics=("power_w", "sm_active_frac", "dram_bytes_nobody_has"))
    text = b"".join(exported(Backfill(asked), run, (0.0, 60.0)).values()).decode()
    names = set(re.findall(r"^(DCGM_\w+)", text, re.MULTILINE))
    assert names == {"DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_PROF_SM_ACTIVE"}
    assert "ghosttrain_step{" in text
    with pytest.raises(SpecError, match="--metrics cpu_nobody_has: dcgm-exporter has none"):
        Backfill(Asked(run, metrics=("cpu_nobody_has",)))


@given(shares=st.lists(st.floats(0.0, 1.0), max_size=4), pickled=st.booleans())
def test_windows_and_savepoints_change_no_byte(shares, pickled):
    run = crossing_midnight()
    cuts = (0.0, *sorted(share * run.end_s for share in shares), float("inf"))
    assert exported(Backfill(Asked(run)), run, cuts, pickled=pickled) == whole()


def test_pages_are_parted_where_families_begin():
    page = b'# HELP a x # y\n# TYPE a gauge\na{l="#"} 1\na 2\n# TYPE b gauge\n# TYPE c gauge\nc 1\n'
    assert list(parted(page)) == [
        (b"# HELP a x # y\n# TYPE a gauge\n", b'a{l="#"} 1\na 2\n'),
        (b"# TYPE b gauge\n# TYPE c gauge\n", b"c 1\n"),
    ]
    assert list(parted(b"a 1\n")) == [(b"", b"a 1\n")]


def blocks_of(folder: Path) -> Path:
    """Blocks that promtool makes of the files."""
    put(whole(), folder)
    for path in sorted((folder / "openmetrics").iterdir()):
        done = promtool("tsdb", "create-blocks-from", "openmetrics", path, folder / "data")
        assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.mark.real
def test_a_real_prometheus_answers_with_the_runs_own_values(tmp_path: Path):
    run = crossing_midnight()
    start = run.spec.start_unix_s
    moments = np.arange(0.0, run.end_s, EVERY_S)[::4]
    fields = ("gpu_temp_c", "power_w", "energy_mj", "tensor_active_frac")
    block = run.telemetry(moments, fields)
    queries = {
        "gpu_temp_c": "DCGM_FI_DEV_GPU_TEMP",
        "power_w": "DCGM_FI_DEV_POWER_USAGE",
        "energy_mj": "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "tensor_active_frac": "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    }
    with PrometheusServer(tmp_path, "global: {}\n", storage=blocks_of(tmp_path)) as server:
        for k, at_s in enumerate(moments.tolist()):
            for field, name in queries.items():
                # Without what it remembers of a node that is gone.
                now = f"{name} and timestamp({name}) == {start + at_s}"
                found = server.query(now, start + at_s)
                assert len(found) == 16 - 8 * len(block.nodes_down[k])
                for one in found:
                    gpu = 8 * int(one["metric"]["node"]) + int(one["metric"]["gpu"])
                    exact = float(block.columns[field][k, gpu])
                    assert float(one["value"][1]) == pytest.approx(exact, abs=5e-4, rel=1e-6)
            (step,) = server.query("ghosttrain_step", start + at_s)
            assert float(step["value"][1]) == run.job(at_s).step
        series = "count(count_over_time(DCGM_FI_DEV_GPU_TEMP[1d]))"
        count = server.query(series, start + run.end_s)
        assert float(count[0]["value"][1]) == 16 + 8  # the node that failed, and its spare
        faults = server.query("sum(increase(ghosttrain_restarts_total[1d]))", start + run.end_s)
        assert float(faults[0]["value"][1]) == pytest.approx(1.0, rel=0.1)
