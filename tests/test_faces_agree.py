"""One faulty run on all its faces: read back by grammars of the real programs, row by row the same.

A straggler, a spike of the loss, a GPU that falls off the bus so that all others hang until their
watchdogs end them; a spare node, a restart from the checkpoint. What is printed of a value is held
to the last digit that is printed of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from ghosttrain.cli.common import add_spec_arguments, request_from_args, settle
from ghosttrain.cli.main import main
from ghosttrain.core.run import Run, simulate
from ghosttrain.inputs.request import resolve
from tests.real_formats import (
    dcgm,
    deepspeed,
    huggingface,
    job_output,
    kernel_log,
    megatron,
    nanogpt,
    nccl,
    nccl_tests,
    nemo,
    nvidia_smi,
    torchtitan,
)
from tests.real_formats.lines import Findings, Grammar, Line, moment_of
from tests.serve.servers import serving

GPUS, PER_NODE, EVERY = 64, 8, 10
STRAGGLER, LOST = 12, 17
SPEC = (
    f"llama-3.2-1b --gpus {GPUS} --seed 7 --steps 360 --start 2026-01-31T23:50:00Z "
    "--set recipe.checkpoint_interval_steps=100 --set recipe.validation_interval_steps=100 "
    f"--faults straggler-gpu@60s:{STRAGGLER}=0.3~60s,loss-spike@90s,gpu-off-bus@170s:{LOST}"
)
START_UNIX_S = moment_of("2026-01-31 23:50:00", "%Y-%m-%d %H:%M:%S").timestamp()
FIELDS = {  # by field of the tables: the series, and how many decimals both have
    "gpu_temp_c": "DCGM_FI_DEV_GPU_TEMP",
    "memory_temp_c": "DCGM_FI_DEV_MEMORY_TEMP",
    "power_w": "DCGM_FI_DEV_POWER_USAGE",
    "energy_mj": "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "gpu_util_pct": "DCGM_FI_DEV_GPU_UTIL",
    "mem_copy_util_pct": "DCGM_FI_DEV_MEM_COPY_UTIL",
    "fb_used_mib": "DCGM_FI_DEV_FB_USED",
    "fb_free_mib": "DCGM_FI_DEV_FB_FREE",
    "fb_reserved_mib": "DCGM_FI_DEV_FB_RESERVED",
    "sm_clock_mhz": "DCGM_FI_DEV_SM_CLOCK",
    "mem_clock_mhz": "DCGM_FI_DEV_MEM_CLOCK",
    "xid": "DCGM_FI_DEV_XID_ERRORS",
    "power_limit_w": "DCGM_FI_DEV_POWER_MGMT_LIMIT",
    "ecc_dbe_volatile": "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
}
FORMATS = (
    "jsonl,labels,labels-parquet,parquet,torchtitan,hf,hf-v4,trainer-state,nanogpt,nccl,"
    "all-reduce-perf,nvidia-smi,nvidia-smi-dmon,nvidia-smi-table,kernel,stderr,slurm,"
    "mlflow,openmetrics,tensorboard-torchtitan,megatron,deepspeed,nemo"
)
Step = dict[str, Any]


@dataclass
class Faces:
    """The files of the run, read as they are asked for."""

    folder: Path

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text("events.jsonl").splitlines()]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @cached_property
    def start(self) -> dict[str, Any]:
        return self.events[0]

    @cached_property
    def steps(self) -> dict[tuple[int, int], Step]:
        """{(attempt, step): its row} of the JSONL."""
        return {(row["attempt"], row["step"]): row for row in self.of_kind("step")}

    @cached_property
    def exact(self) -> dict[tuple[int, int], Step]:
        """The same of the table, whose numbers are not rounded."""
        rows = pq.read_table(self.folder / "steps").to_pylist()
        return {(row["attempt"], row["step"]): row for row in rows}

    @cached_property
    def launches(self) -> list[tuple[int, int, float]]:
        """(attempt, step it goes on from, when its training starts)."""
        found = self.of_kind("training_started")
        return [(row["attempt"], row["step"], row["time_s"]) for row in found]

    @cached_property
    def telemetry(self) -> dict[tuple[float, int], dict[str, Any]]:
        """{(time, rank): row} of the table of the GPUs."""
        rows = pq.read_table(self.folder / "telemetry").to_pylist()
        return {(row["time_s"], row["gpu"]): row for row in rows}

    @cached_property
    def labels(self) -> dict[str, dict[str, Any]]:
        rows = [json.loads(line) for line in self.text("labels.jsonl").splitlines()]
        return {row["class"]: row for row in rows if row["kind"] == "incident"}

    def messages(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self.of_kind("message_logged") if row["message"] == name]


def run_command(words: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(shlex.split(words)) == 0


def close(shown: float, exact: float, decimals: int) -> bool:
    """Is `shown` what `exact` is printed as with so many decimals?"""
    slack = 0.5 * 10.0**-decimals + 1e-7 * abs(exact)  # tables: float32
    return abs(shown - exact) <= slack


def unix_s(time_s: float) -> float:
    return START_UNIX_S + time_s


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("faces")
    metrics = ",".join(FIELDS)
    run_command(f"export {SPEC} --to {folder} --every 60s --metrics {metrics} --format {FORMATS}")
    return Faces(folder)


@pytest.fixture(scope="module")
def titan(faces: Faces) -> list[Line]:
    return clean(lambda f: torchtitan.read(faces.text("torchtitan.log"), f, gpus=GPUS))


@pytest.fixture(scope="module")
def rows_of_smi(faces: Faces) -> dict[tuple[str, float, int], Line]:
    """{(host, run time, index): row} of all hosts."""
    found = {}
    for path in (faces.folder / "nvidia-smi").glob("*.csv"):
        for line in clean(lambda f, path=path: nvidia_smi.read_csv(path.read_text(), f))[1:]:
            at_s = round(nvidia_smi.time_s(line) - START_UNIX_S, 3)
            found[path.stem, at_s, int(line["index"])] = line
    return found


def clean(read: Any) -> list[Line]:
    """What a reader makes of a text, which has nothing to find fault with."""
    found = Findings()
    lines: list[Line] = read(found)
    assert found.told == []
    assert lines
    return lines


# ------------------------------------------------------------------------------- the run


def test_the_run_is_the_one_that_this_is_about(faces: Faces):
    assert len(faces.launches) == 2
    assert faces.launches[1][1] == 200
    assert faces.of_kind("watchdog_timed_out")[0]["rank"] == LOST
    assert set(faces.labels) == {"straggler-gpu", "loss-spike", "gpu-off-bus"}


# -------------------------------------------------------------------------------- tables


def test_the_table_of_steps_is_the_jsonl_with_all_its_digits(faces: Faces):
    assert list(faces.exact) == list(faces.steps)
    decimals = {"time_s": 6, "loss": 6, "ppl": 4, "grad_norm": 5, "step_time_s": 6}
    decimals |= {"tokens_per_s": 3, "mfu": 6, "eta_s": 3, "tokens_seen": 0}
    for key, row in faces.steps.items():
        exact = faces.exact[key]
        for name, digits in decimals.items():
            assert close(row[name], exact[name], digits), (key, name)
        assert row["learning_rate"] == pytest.approx(exact["learning_rate"], rel=1e-6)


def test_a_steps_numbers_follow_from_one_another(faces: Faces):
    tokens, start = faces.start["tokens_per_step"], faces.start
    for row in faces.exact.values():
        assert row["ppl"] == pytest.approx(math.exp(row["loss"]))
        assert row["tokens_per_s"] == pytest.approx(tokens / row["step_time_s"])
        flops = start["flops_per_token"] * row["tokens_per_s"] / GPUS
        assert row["mfu"] == pytest.approx(flops / start["peak_tflops"] / 1e12)
        assert row["tokens_seen"] == row["step"] * tokens


def test_the_table_of_events_is_the_jsonl(faces: Faces):
    query = f"select row from '{faces.folder}/events/*.parquet'"
    rows = duckdb.connect().execute(query).fetchall()
    sampled = ("step", "fleet", "collective")  # which are at steps
    others = [event for event in faces.events if event["event"] not in sampled]
    assert [json.loads(row) for (row,) in rows] == others


def test_the_table_of_labels_is_the_jsonl(faces: Faces):
    table = pq.read_table(faces.folder / "labels.parquet").to_pylist()
    rows = [json.loads(line) for line in faces.text("labels.jsonl").splitlines()]
    assert len(table) == len(rows)
    for cells, row in zip(table, rows, strict=True):
        cells["signals"] = dict(cells["signals"] or ()) or None
        for name, value in row.items():
            same = pytest.approx(value, abs=1e-9) if not isinstance(value, (bool, str)) else value
            assert cells[name] == same, name


# ---------------------------------------------------------------------- training programs


def by_launch(lines: list[Line], begins: str) -> list[list[Line]]:
    found: list[list[Line]] = []
    for line in lines:
        if line.kind == begins:
            found.append([])
        if found:
            found[-1].append(line)
    return found


def test_torchtitans_lines_are_the_steps_at_their_moments(faces: Faces, titan: list[Line]):
    for (attempt, first, _), lines in zip(faces.launches, by_launch(titan, "version"), strict=True):
        (begins,) = [line for line in lines if line.kind == "begins"]
        assert int(begins["step"]) == first + 1
        last = max(step for each, step in faces.exact if each == attempt)
        shown = [line for line in lines if line.kind == "step"]
        due = [n for n in range(first + 1, last + 1) if n == 1 or n % EVERY == 0]
        assert [int(line["step"]) for line in shown] == due
        for line in shown:
            exact = faces.exact[attempt, int(line["step"])]
            assert close(float(line["loss"]), exact["loss"], 5)
            assert close(float(line["grad_norm"]), exact["grad_norm"], 4)
            at_s = moment_of(line["stamp"], "%Y-%m-%d %H:%M:%S,%f").timestamp() - START_UNIX_S
            assert 0 <= exact["time_s"] - at_s < 0.001 + 1e-6  # logging cuts


def test_torchtitan_validates_what_the_run_validates(faces: Faces, titan: list[Line]):
    shown = [line for line in titan if line.kind == "validate"]
    exact = faces.of_kind("validation_completed")
    assert [int(line["step"]) for line in shown] == [row["step"] for row in exact]
    for line, row in zip(shown, exact, strict=True):
        assert close(float(line["loss"]), row["loss"], 4)


def test_torchtitans_speed_is_that_of_all_steps_since_the_last_line(
    faces: Faces, titan: list[Line]
):
    tokens = faces.start["tokens_per_step"]
    for (attempt, _, _), lines in zip(faces.launches, by_launch(titan, "version"), strict=True):
        others = ("saving", "validate")
        steps = [line for line in lines if line.kind in ("step", *others)]
        for before, line in pairwise(steps):
            if (before.kind, line.kind) != ("step", "step"):
                continue
            first, last = int(before["step"]), int(line["step"])
            took = sum(faces.exact[attempt, n]["step_time_s"] for n in range(first + 1, last + 1))
            tps = (last - first) * tokens / took / GPUS
            assert line.number_of("tps") == pytest.approx(tps, rel=2e-5, abs=0.5 + 1e-6)


def means(faces: Faces, attempt: int, first: int, last: int) -> float:
    losses: list[float] = [faces.exact[attempt, n]["loss"] for n in range(first, last + 1)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("file", "version"), [("hf.log", 5), ("hf-v4.log", 4)])
def test_the_trainers_rows_are_means_of_steps(faces: Faces, file: str, version: int):
    lines = clean(lambda f: huggingface.read(faces.text(file), f, version=version, gpus=GPUS))
    validated = iter(faces.of_kind("validation_completed"))
    launches = by_launch(lines, "running")
    assert len(launches) == len(faces.launches)
    for (attempt, first, _), launch in zip(faces.launches, launches, strict=True):
        step = first
        for row in huggingface.rows(launch):
            if row.line.kind == "eval":
                loss = next(validated)["loss"]
                assert row.values["eval_loss"] == pytest.approx(loss, rel=5.1e-4)
            if row.line.kind != "train":
                continue
            mean, step = means(faces, attempt, step + 1, step + EVERY), step + EVERY
            exact = faces.exact[attempt, step]
            if version == 4:
                assert close(row.values["loss"], mean, 4)
                assert row.values["grad_norm"] == pytest.approx(exact["grad_norm"], rel=1e-6)
                assert row.values["learning_rate"] == pytest.approx(exact["learning_rate"])
            else:
                assert row.shown["loss"] == f"{mean:.4g}"
                assert row.values["grad_norm"] == pytest.approx(exact["grad_norm"], rel=5.1e-4)
                assert row.shown["learning_rate"] == f"{exact['learning_rate']:.4g}"
    assert next(validated, None) is None


def test_the_trainers_state_is_what_the_last_launch_knows(faces: Faces):
    found = Findings()
    state = huggingface.read_state(faces.text("trainer_state.json"), found)
    assert found.told == []
    history: Any = state["log_history"]
    trained = {entry["step"]: entry for entry in history if "loss" in entry}
    assert list(trained) == list(range(EVERY, 361, EVERY))
    went_back = faces.launches[1][1]
    for step, entry in trained.items():
        attempt = 1 if step <= went_back else 2
        assert entry["loss"] == pytest.approx(means(faces, attempt, step - EVERY + 1, step))
        exact = faces.exact[attempt, step]
        assert entry["grad_norm"] == pytest.approx(exact["grad_norm"], rel=1e-6)
    validated = {row["step"]: row["loss"] for row in faces.of_kind("validation_completed")}
    shown = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert shown == pytest.approx(validated)


def test_nanogpts_iterations_are_the_steps_behind_them(faces: Faces):
    lines = clean(lambda f: nanogpt.read(faces.text("nanogpt.log"), f))
    for (attempt, _, _), launch in zip(faces.launches, by_launch(lines, "tokens"), strict=True):
        evaluated = {line["n"] for line in launch if line.kind == "step"}
        for line in launch:
            if line.kind != "iter":
                continue
            exact = faces.exact[attempt, int(line["n"]) + 1]
            assert close(float(line["loss"]), exact["loss"], 4)
            if line["n"] not in evaluated:  # whose time has the evaluation's in it
                assert close(float(line["ms"]), 1000 * exact["step_time_s"], 2)


def rate_of(row: Step, shown: str, digits: int) -> bool:
    return f"{row['learning_rate']:.{digits}E}" == shown


def test_megatrons_iterations_are_means_of_steps(faces: Faces):
    """Loss and time are the interval's, the gradient norm and the rate the last step's."""
    lines = clean(lambda f: megatron.read(faces.text("megatron.log"), f, gpus=GPUS))
    for (attempt, first, _), launch in zip(faces.launches, by_launch(lines, "world"), strict=True):
        since = first
        for line in [line for line in launch if line.kind == "iteration"]:
            n = int(line["it"])
            exact = faces.exact[attempt, n]
            assert float(line["loss"]) == pytest.approx(
                means(faces, attempt, since + 1, n), rel=6e-7
            )
            assert close(float(line["norm"]), exact["grad_norm"], 3)
            assert rate_of(exact, line["lr"], 6)
            at_s = moment_of(line["stamp"], "%Y-%m-%d %H:%M:%S.%f").timestamp() - START_UNIX_S
            assert abs(exact["time_s"] - at_s) < 2e-6
            times = [faces.exact[attempt, m]["step_time_s"] for m in range(since + 1, n + 1)]
            assert close(float(line["ms"]), 1000 * sum(times) / len(times), 1)
            since = n if n > first + 1 else first  # the first iteration's line ends no interval
    validated = {row["step"]: row for row in faces.of_kind("validation_completed")}
    shown = [line for line in lines if line.kind == "validation"]
    assert {int(line["it"]) for line in shown} == set(validated)
    for line in shown:
        exact_loss = validated[int(line["it"])]["loss"]
        assert float(line["loss"]) == pytest.approx(exact_loss, rel=6e-7)
    saved = {(row["step"], row["time_s"]) for row in faces.of_kind("checkpoint_saved")}
    for line in [line for line in lines if line.kind == "saved"]:
        at_s = moment_of(line["stamp"], "%Y-%m-%d %H:%M:%S.%f").timestamp() - START_UNIX_S
        assert any(int(line["it"]) == n and abs(at_s - t) < 2e-6 for n, t in saved)


def test_deepspeeds_lines_are_the_same_steps(faces: Faces):
    lines = clean(lambda f: deepspeed.read(faces.text("deepspeed.log"), f, gpus=GPUS))
    launches = iter(faces.launches)
    attempt, since, _ = next(launches)
    for line in lines:
        if line.kind != "iteration":
            continue
        n = int(line["it"])
        if n <= since:
            attempt, since, _ = next(launches)
        mean = means(faces, attempt, since + 1, n)
        assert float(line["loss"]) == pytest.approx(mean, rel=6e-7)
        begins = {each: time_s for each, _, time_s in faces.launches}
        last_s = faces.exact.get((attempt, since), {}).get("time_s", begins[attempt])
        took_s = faces.exact[attempt, n]["time_s"] - last_s  # with validations and checkpoints
        assert close(float(line["ms"]), 1000 * took_s / (n - since), 1)
        since = n
    assert next(launches, None) is None


def test_nemos_lines_are_means_of_steps(faces: Faces):
    lines = clean(lambda f: nemo.read(faces.text("nemo.log"), f))
    for (attempt, first, _), launch in zip(faces.launches, by_launch(lines, "launch"), strict=True):
        since = first
        for line in [line for line in launch if line.kind == "train"]:
            n, values = int(line["it"]) + 1, nemo.values_of(line)
            mean = means(faces, attempt, since + 1, n)
            assert values["reduced_train_loss"] == pytest.approx(mean, rel=5.1e-4)
            times = [faces.exact[attempt, m]["step_time_s"] for m in range(since + 1, n + 1)]
            assert values["train_step_timing in s"] == pytest.approx(sum(times) / 10, rel=5.1e-4)
            since = n


def test_mlflows_metrics_are_the_trainers(faces: Faces):
    state = json.loads(faces.text("trainer_state.json"))
    last = max((faces.folder / "mlruns").glob("*/*/metrics/loss"), key=lambda p: p.read_text())
    rows = [line.split() for line in last.read_text().splitlines()]
    want = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    shown = {int(step): float(value) for _, value, step in rows}
    assert shown == pytest.approx({step: loss for step, loss in want.items() if step > 200})
    for at_ms, _, step in rows:
        assert abs(int(at_ms) / 1000 - unix_s(faces.exact[2, int(step)]["time_s"])) < 0.0011


@pytest.mark.real
def test_tensorboards_scalars_are_torchtitans(faces: Faces, titan: list[Line]):
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        EventFileLoader,
    )

    files = sorted(faces.folder.glob("tensorboard/**/events.out.tfevents.*"))
    assert len(files) == len(faces.launches)
    for path, (attempt, _, _) in zip(files, faces.launches, strict=True):
        count = 0
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == "loss_metrics/global_avg_loss":
                    exact = faces.exact[attempt, event.step]
                    assert value.tensor.float_val[0] == pytest.approx(exact["loss"], rel=1e-6)
                    assert event.wall_time == pytest.approx(unix_s(exact["time_s"]), abs=1e-3)
                    count += 1
        lines = by_launch(titan, "version")[attempt - 1]
        assert count == sum(line.kind == "step" for line in lines)


# ------------------------------------------------------------------------------ telemetry


def test_nvidia_smi_shows_the_table_of_telemetry(
    faces: Faces, rows_of_smi: dict[tuple[str, float, int], Line]
):
    compared = 0
    for (at_s, rank), row in faces.telemetry.items():
        line = rows_of_smi.get((row["host"], at_s, rank % PER_NODE))
        assert line is not None, (at_s, rank)
        assert nvidia_smi.is_lost(line) == (row["power_w"] is None)
        if nvidia_smi.is_lost(line):
            continue
        whole = {
            "temp": "gpu_temp_c",
            "memory_temp": "memory_temp_c",
            "util": "gpu_util_pct",
            "memory_util": "mem_copy_util_pct",
            "used": "fb_used_mib",
            "sm": "sm_clock_mhz",
            "mem": "mem_clock_mhz",
            "ecc": "ecc_dbe_volatile",
        }
        for name, field in whole.items():
            assert nvidia_smi.amount(line, name) == row[field], (at_s, rank, field)
        assert close(nvidia_smi.amount(line, "power"), row["power_w"], 1)  # the table has one
        assert nvidia_smi.amount(line, "limit") == row["power_limit_w"]
        total = row["fb_used_mib"] + row["fb_free_mib"] + row["fb_reserved_mib"]
        assert nvidia_smi.amount(line, "total") == total
        compared += 1
    assert compared > GPUS * 14


def test_dmon_shows_what_nvidia_smi_shows(
    faces: Faces, rows_of_smi: dict[tuple[str, float, int], Line]
):
    names = {"gtemp": "temp", "mtemp": "memory_temp", "sm": "util", "mem": "memory_util"}
    names |= {"mclk": "mem", "pclk": "sm"}
    for host in {host for host, _, _ in rows_of_smi}:
        lines = clean(lambda f, host=host: nvidia_smi.read_dmon(faces.text(f"dmon/{host}.log"), f))
        shown = [line for line in lines if line.kind == "row"]
        rows = [row for (each, _, _), row in rows_of_smi.items() if each == host]
        assert len(shown) == len(rows)
        for line, row in zip(shown, rows, strict=True):
            assert line["gpu"].strip() == row["index"]
            if nvidia_smi.is_lost(row):
                assert line["pwr"].strip() == "-"
                continue
            assert close(float(line["pwr"]), nvidia_smi.amount(row, "power"), 0)
            for mine, other in names.items():
                assert float(line[mine]) == nvidia_smi.amount(row, other)


def test_the_history_for_prometheus_is_the_table_of_telemetry(faces: Faces):
    (path,) = (faces.folder / "openmetrics").glob("2026-01-31.om")
    text = "".join(each.read_text() for each in sorted(path.parent.glob("*.om")))
    text = text.replace("# EOF\n", "", text.count("# EOF\n") - 1)
    found = Findings()
    series = dcgm.by_gpu(dcgm.read(text, found, is_history=True))
    assert found.told == []
    answering = 0
    for (at_s, rank), row in faces.telemetry.items():
        samples = series.get((row["host"], str(rank % PER_NODE), f"{unix_s(at_s):.3f}"))
        assert (samples is None) == (row["power_w"] is None), (at_s, rank)
        answering += samples is not None
        for field, name in FIELDS.items():
            if samples is not None:
                assert close(samples[name][0], row[field], field == "power_w"), (at_s, rank, field)
    assert answering == len(series)


def run_of(words: str) -> Run:
    parser = argparse.ArgumentParser()
    add_spec_arguments(parser)
    args = parser.parse_args(shlex.split(words))
    settle(args, watched=False)
    return simulate(resolve(request_from_args(args), args.seed), args.seed)


def test_the_page_at_a_moment_is_the_table_of_telemetry(faces: Faces):
    moments = sorted({at_s for at_s, _ in faces.telemetry})
    with serving(run_of(SPEC), metrics=",".join(FIELDS.values())) as server:
        for at_s in (moments[0], moments[3], moments[7], moments[-1]):
            server.go_to(at_s)
            found = Findings()
            page = dcgm.by_gpu(dcgm.read(server.get("/metrics").text, found))
            assert found.told == []
            for rank in range(GPUS):
                row = faces.telemetry[at_s, rank]
                samples = page.get((row["host"], str(rank % PER_NODE), ""))
                assert (samples is None) == (row["power_w"] is None)
                for field, name in FIELDS.items():
                    if samples is not None:
                        assert close(samples[name][0], row[field], field == "power_w"), field


def test_the_jobs_series_are_the_last_steps(faces: Faces):
    names = {"loss": "loss", "grad_norm": "grad_norm", "learning_rate": "learning_rate"}
    names |= {"step_time_seconds": "step_time_s", "mfu_ratio": "mfu", "step": "step"}
    names |= {"tokens_per_second": "tokens_per_s", "tokens": "tokens_seen"}
    with serving(run_of(SPEC)) as server:
        for key in ((1, 100), (1, 171), (2, 300)):
            row = faces.exact[key]
            server.go_to(row["time_s"] + 1e-6)
            lines = clean(lambda f: dcgm.read(server.get("/metrics").text, f))
            values = {
                line["name"]: float(line["value"]) for line in lines if "value" in line.fields
            }
            for name, field in names.items():
                assert values[f"ghosttrain_{name}"] == pytest.approx(row[field], rel=1e-6), name
            assert values["ghosttrain_attempt"] == key[0]


def test_a_fleet_row_is_the_page_of_its_moment(faces: Faces):
    """The end of a step has both: a row of the JSONL, and a page that is scraped just then."""
    decimals = {"util_pct": 0, "temp_c": 0, "power_w": 1, "sm_clock_mhz": 0}
    series = {"util_pct": "GPU_UTIL", "temp_c": "GPU_TEMP", "power_w": "POWER_USAGE"}
    series |= {"sm_clock_mhz": "SM_CLOCK"}
    with serving(run_of(SPEC), metrics=",".join(FIELDS.values())) as server:
        for row in [row for row in faces.of_kind("fleet") if row["step"] in (60, 120, 300)]:
            attempt = 1 if row["time_s"] < faces.launches[1][2] else 2
            server.go_to(faces.exact[attempt, row["step"]]["time_s"])
            page = dcgm.by_gpu(clean(lambda f: dcgm.read(server.get("/metrics").text, f)))
            for rank in range(GPUS):
                host = faces.telemetry[0.0 if attempt == 1 else 1140.0, rank]["host"]
                samples = page[host, str(rank % PER_NODE), ""]
                for name, digits in decimals.items():
                    shown, _ = samples[f"DCGM_FI_DEV_{series[name]}"]
                    assert close(row[name][rank], shown, digits), name
                used_gib, _ = samples["DCGM_FI_DEV_FB_USED"]
                assert row["memory_gib"][rank] == pytest.approx(used_gib / 1024, abs=0.006)


def test_counters_are_the_integrals_of_their_gauges(faces: Faces):
    """Energy while all GPUs wait in the hang, and while they rest: the mean of their power."""
    detected_s, back_s = faces.labels["gpu-off-bus"]["detected_s"], faces.launches[1][2]
    moments = sorted({at_s for at_s, _ in faces.telemetry})
    for low, high in ((240, detected_s), (detected_s + 60, back_s - 60)):
        inside = [at for at in moments if low <= at <= high]
        assert len(inside) > 2
        for rank in range(0, GPUS, 9):
            rows = [faces.telemetry[at, rank] for at in inside]
            joules = (rows[-1]["energy_mj"] - rows[0]["energy_mj"]) / 1000
            mean_w = sum(row["power_w"] for row in rows) / len(rows)
            assert joules / (inside[-1] - inside[0]) == pytest.approx(mean_w, rel=0.02)


# ------------------------------------------------------------- who and where, and in what order


def test_all_faces_name_the_same_machines(faces: Faces):
    """Hosts, processes and PCI addresses of ranks, launch by launch."""
    lines = clean(lambda f: nccl.read(faces.text("nccl.log"), f))
    world = [line for line in lines if line.kind == "init-start" and line["nranks"] == str(GPUS)]
    where: list[dict[int, Line]] = [{}, {}]
    for n, line in enumerate(world):
        where[n // GPUS][int(line["rank"])] = line
    hosts = {(row["attempt"], row["gpu"]): row["host"] for row in faces.telemetry.values()}
    for attempt, ranks in enumerate(where, start=1):
        assert {rank: line["host"] for rank, line in ranks.items()} == {
            rank: hosts[attempt, rank] for rank in range(GPUS)
        }
    assert where[0][LOST]["host"] != where[1][LOST]["host"]
    buses = [line["bus"] for line in where[0].values()]
    perf = clean(lambda f: nccl_tests.read(faces.text("all_reduce_perf.txt"), f))
    devices = {int(line["rank"]): line for line in perf if line.kind == "device"}
    assert [line["pci"].split(":")[1].lstrip("0") + "000" for line in devices.values()] == buses
    assert [line["host"].strip() for line in devices.values()] == [
        line["host"] for line in where[0].values()
    ]
    _stderr_and_slurm(faces, where[0])
    _tables_of_smi(faces, where[0])


def test_cards_have_one_uuid_and_one_address_everywhere(faces: Faces):
    perf = clean(lambda f: nccl_tests.read(faces.text("all_reduce_perf.txt"), f))
    address = {int(line["rank"]): line["pci"] for line in perf if line.kind == "device"}
    history = dcgm.GRAMMAR.read(faces.text("openmetrics/2026-01-31.om"), Findings())
    of_card: dict[tuple[str, str], set[tuple[str, str]]] = {}
    with serving(run_of(SPEC)) as server:
        pages = []
        for at_s in (0.0, faces.launches[1][2] + 1):
            server.go_to(at_s)
            pages += clean(lambda f: dcgm.read(server.get("/metrics").text, f))
    for labels in [dcgm.labels_of(line) for line in (*history, *pages) if line.kind == "sample"]:
        if "UUID" in labels:
            card = labels["Hostname"], labels["gpu"]
            of_card.setdefault(card, set()).add((labels["UUID"], labels["pci_bus_id"]))
    assert len(of_card) == GPUS + PER_NODE  # the spare's too
    assert all(len(names) == 1 for names in of_card.values())
    assert len({uuid for ((uuid, _),) in of_card.values()}) == len(of_card)
    for rank, pci in address.items():
        ((_, bus),) = of_card[faces.telemetry[0.0, rank]["host"], str(rank % PER_NODE)]
        assert bus.lower() == f"0000{pci}.0"


def _stderr_and_slurm(faces: Faces, ranks: dict[int, Line]) -> None:
    by_place = {(line["host"], int(line["dev"])): rank for rank, line in ranks.items()}
    job = Grammar(job_output.KINDS)
    files = list((faces.folder / "stderr").glob("*/*/*/*/stderr.log"))
    assert len(files) == GPUS - 1
    for path in files:
        host, local = path.parts[-5], int(path.parent.name)
        for line in clean(lambda f, path=path: job.read(path.read_text(), f)):
            if "rank" in line.fields:
                assert int(line["rank"]) == by_place[host, local]
    first, _ = sorted(faces.folder.glob("slurm-*.out"))
    lines = clean(lambda f: job.read(first.read_text(), f))
    fields: dict[str, str] = {}
    for line in lines:
        fields |= line.fields if line.kind.startswith("failure") else {}
        if line.kind == "failure-traceback":
            place = ranks[int(fields["rank"])]
            assert (fields["host"].split(".")[0], fields["pid"]) == (place["host"], place["pid"])
            assert fields["local"] == place["dev"]
        if line.kind == "task-exited":
            assert int(line["task"]) == int(fields["rank"]) // PER_NODE
    agents = {line["agent"] for line in lines if line.kind == "omp"}
    assert len(agents) == GPUS // PER_NODE
    assert {line["agent"] for line in lines if line.kind.startswith("agent")} <= agents


def _tables_of_smi(faces: Faces, ranks: dict[int, Line]) -> None:
    for rank, line in ranks.items():
        text = faces.text(f"nvidia-smi/{line['host']}.txt")
        local = rank % PER_NODE
        (bus,) = re.findall(rf"\| +{local}  NVIDIA.*\| +(\w+:\w+:00\.0)", text)
        assert int(bus.split(":")[1], 16) == int(line["bus"], 16) >> 12
        assert re.search(rf"\| +{local}   N/A  N/A +{line['pid']} ", text)


def test_logs_tell_of_the_fault_at_the_times_of_its_label(faces: Faces, titan: list[Line]):
    label = faces.labels["gpu-off-bus"]
    (watchdog,) = faces.of_kind("watchdog_timed_out")
    host = faces.telemetry[0.0, LOST]["host"]
    kernel = clean(lambda f: kernel_log.read(faces.text(f"kernel/{host}.log"), f))
    xids = [line for line in kernel if line.kind == "xid"]
    assert [int(line["xid"]) for line in xids] == [79, 154]
    with serving(run_of(SPEC), metrics="default,node") as server:
        page = clean(lambda f: dcgm.read(server.get("/metrics").text, f))
    (boot,) = [
        float(line["value"])
        for line in page
        if line.kind == "sample"
        and line["name"] == "node_boot_time_seconds"
        and dcgm.labels_of(line)["instance"] == host
    ]
    told = faces.messages("kernel_xid")
    for line, message in zip(xids, told, strict=True):  # 154 comes 30 ms behind 79
        at_s = boot + float(line["stamp"]) - START_UNIX_S
        assert message["time_s"] <= at_s + 1e-3 < message["time_s"] + 0.1
    signals = {label["signals"][name] for name in ("log", "xid", "telemetry_lost")}
    assert signals == {told[0]["time_s"]}
    assert label["onset_s"] <= told[0]["time_s"]
    assert label["detected_s"] == watchdog["time_s"]
    caught = [line for line in titan if line.kind == "watchdog"]
    stamps = {
        moment_of(
            f"2026{int(line['month']):02d}{line['day']} {line['clock']}.{line['nano'][:6]}",
            "%Y%m%d %H:%M:%S.%f",
        ).timestamp()
        for line in caught
    }
    assert min(stamps) == pytest.approx(unix_s(label["detected_s"]), abs=2e-6)
    timeout_s = int(caught[0]["timeout_ms"]) / 1000
    assert label["detected_s"] - label["onset_s"] >= timeout_s
    first_lost = [
        at for (at, gpu), row in faces.telemetry.items() if gpu == LOST and not row["power_w"]
    ]
    assert label["onset_s"] <= min(first_lost) < label["onset_s"] + 60
    went_back, at_fault = faces.launches[1][1], watchdog["step"]
    assert label["steps_lost"] == at_fault - went_back
    assert label["cleared_s"] == pytest.approx(faces.exact[2, at_fault]["time_s"], abs=1e-6)
    assert label["mitigated_s"] == faces.of_kind("run_restarted")[0]["time_s"]


def test_the_straggler_and_the_spike_show_when_their_labels_say(faces: Faces):
    slow, spike = faces.labels["straggler-gpu"], faces.labels["loss-spike"]
    steps = [row for (attempt, _), row in faces.exact.items() if attempt == 1]
    ends = [row["time_s"] for row in steps]
    assert slow["signals"]["step_time"] == pytest.approx(
        next(at for at in ends if at > 60.4), abs=0.5
    )
    usual = sorted(row["step_time_s"] for row in steps)[len(steps) // 2]
    late = [
        row for row in steps if slow["signals"]["step_time"] <= row["time_s"] < slow["mitigated_s"]
    ]
    assert min(row["step_time_s"] for row in late) > usual
    first = spike["signals"]["loss"]
    before, after = (
        [row["loss"] for row in steps if first - 5 < row["time_s"] < first - 1e-3],
        [row["loss"] for row in steps if first - 1e-3 <= row["time_s"] < first + 1],
    )
    assert max(after) > max(before) + 0.2
