"""TensorBoard event files: whole records, by the frameworks' definitions, one file a launch."""

from __future__ import annotations

import pickle
import re
import struct
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event as Record  # type: ignore[import-untyped]

from ghosttrain.core.events import StepsCompleted, ValidationCompleted, join_steps
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults
from ghosttrain.exporters.dialects.hf_history import filtered_sum
from ghosttrain.exporters.dialects.megatron import megatron_log
from ghosttrain.exporters.dialects.torchtitan import torchtitan_log
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.tag_sets import FRAMEWORKS, Framework
from ghosttrain.exporters.tensorboard import (
    MARK,
    EventFiles,
    event_files,
    file_names,
    suiting_events,
)
from ghosttrain.exporters.writing import Asked
from tests.views.renderables.fleets import faulty_run

NAME = re.compile(
    r"tensorboard/llama-3-8b-64gpus-seed1234-[0-9a-f]{6}/\w+/"
    r"events\.out\.tfevents\.(\d{10})\.([a-z]+-\d{4})\.(\d+)\.0"
)
STEP_LINE = re.compile(r" step: +(\d+)  loss: +(\S+) .*memory: +(\S+)GiB.*tps: (\S+) .*mfu: (\S+)%")
MEGATRON_LINE = re.compile(
    r" iteration +(\d+)/.* per iteration \(ms\): (\S+) \|.*GPU\): (\S+) \| learning rate: (\S+) \|"
    r".* grad norm: (\S+) \|"
)
Told = dict[str, list[tuple[int, float, float]]]  # step, unix time, value


def exported(exporter: EventFiles, run: Run, cuts: tuple[float, ...]) -> dict[str, bytes]:
    """The files of the windows between `cuts`."""
    files: dict[str, bytes] = defaultdict(bytes)
    for start_s, stop_s in pairwise(cuts):
        for event in run.events(start_s, stop_s):
            for name, data in exporter.accept(event):
                files[name] += data
    for name, data in exporter.close():
        files[name] += data
    return dict(files)


def records(data: bytes) -> list[Record]:
    """The records of a file, their checksums proven by the library alone."""
    at, found = 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        for part, crc_at in ((data[at : at + 8], at + 8), (body, at + 12 + length)):
            (masked,) = struct.unpack_from("<I", data, crc_at)
            turned = (masked - 0xA282EAD8) & 0xFFFFFFFF
            assert ((turned >> 17) | (turned << 15)) & 0xFFFFFFFF == google_crc32c.value(part)
        found.append(Record.FromString(body))
        at += 16 + length
    assert at == len(data)
    return found


def told(data: bytes) -> Told:
    """The scalars of a file by their tags."""
    by_tag: Told = defaultdict(list)
    for record in records(data):
        for value in record.summary.value:
            if value.HasField("simple_value"):
                by_tag[value.tag].append((record.step, record.wall_time, value.simple_value))
    return dict(by_tag)


@cache
def whole(framework: Framework) -> dict[str, bytes]:
    run = faulty_run()
    return exported(event_files(Asked(run), framework), run, (0.0, float("inf")))


@cache
def steps() -> tuple[StepsCompleted, ...]:
    events = faulty_run().events(0.0, float("inf"))
    return tuple(event for event in events if isinstance(event, StepsCompleted))


def executed(name: str, attempt: int) -> np.ndarray:
    return np.concatenate([getattr(e, name) for e in steps() if e.attempt == attempt])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_launch_has_a_file_named_after_its_host_and_process(framework):
    run = faulty_run()
    names = list(whole(framework))
    assert len(names) == run.timeline.spans[-1].attempt == 2
    found = [NAME.fullmatch(name) for name in names]
    assert all(found)
    launch_s = [float(match[1]) - run.spec.start_unix_s for match in found if match]
    assert launch_s[0] == 0
    relaunch_s = run.timeline.incidents[0].relaunch_s
    assert relaunch_s is not None
    assert launch_s[1] == int(relaunch_s)
    assert len({match[3] for match in found if match}) == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_files_begin_with_their_version_and_say_that_they_are_simulated(framework):
    for data in whole(framework).values():
        version, mark, *_ = records(data)
        assert version.file_version == "brain.Event:2"
        (value,) = mark.summary.value
        assert (value.tag, mark.step) == (MARK, 0)
        assert value.metadata.plugin_data.plugin_name == "text"
        text = value.tensor.string_val[0].decode()
        assert "| simulated | True |" in text
        assert "| seed | 1234 |" in text


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_times_never_decrease_and_are_dates(framework):
    for data in whole(framework).values():
        walls = [record.wall_time for record in records(data)]
        assert walls == sorted(walls)
        assert walls[0] >= faulty_run().spec.start_unix_s


def test_megatron_tells_every_step_twice():
    run = faulty_run()
    for attempt, data in enumerate(whole("megatron").values(), 1):
        by_tag = told(data)
        step, loss = executed("step", attempt), executed("loss", attempt)
        assert [s for s, _, _ in by_tag["lm loss"]] == step.tolist()
        assert [v for _, _, v in by_tag["lm loss"]] == loss.astype(np.float32).tolist()
        samples = [s for s, _, _ in by_tag["lm loss vs samples"]]
        assert samples == (step * run.spec.recipe.global_batch_size).tolist()
        norms = executed("grad_norm", attempt).astype(np.float32).tolist()
        assert [v for _, _, v in by_tag["grad-norm"]] == norms
        for tag in ("learning-rate", "batch-size", "loss-scale"):
            assert len(by_tag[tag]) == len(by_tag[f"{tag} vs samples"]) == len(step)


def test_megatrons_iteration_time_is_the_mean_since_the_last_log_step_of_this_launch():
    for attempt, data in enumerate(whole("megatron").values(), 1):
        step, step_time_s = executed("step", attempt), executed("step_time_s", attempt)
        for at, _, value in told(data)["iteration-time"]:
            last = int(np.searchsorted(step, at))
            first = max(0, last - 9)
            assert at % 10 == 0
            assert value == pytest.approx(step_time_s[first : last + 1].mean(), rel=1e-6)


def test_torchtitans_rate_counts_checkpoints_and_starts_anew_at_a_validation():
    run, data = faulty_run(), list(whole("torchtitan").values())[-1]
    rates = told(data)["throughput(tps)"]
    per_gpu = run.spec.recipe.tokens_per_step / run.spec.cluster.gpus
    unix_s = run.spec.start_unix_s
    ends = {s: wall - unix_s for s, wall, _ in rates}
    events = run.events(0.0, float("inf"))
    validated = {e.step: e.time_s for e in events if isinstance(e, ValidationCompleted)}
    plain, after = 0, 0
    for step, wall, value in rates[1:]:
        if (before := step - 10) not in ends:
            continue
        since_s = validated.get(before, ends[before])
        assert value == pytest.approx(10 * per_gpu / (wall - unix_s - since_s), rel=1e-5)
        plain, after = plain + (before not in validated), after + (before in validated)
    assert plain
    assert after


def test_torchtitan_tells_step_1_and_the_loss_of_the_log_step():
    first = told(next(iter(whole("torchtitan").values())))
    assert [s for s, _, _ in first["grad_norm"]][:2] == [1, 10]
    loss = dict(zip(executed("step", 1).tolist(), executed("loss", 1).tolist(), strict=True))
    for step, _, value in first["loss_metrics/global_avg_loss"]:
        assert value == np.float32(loss[step])


def test_the_trainers_loss_is_the_mean_of_the_steps_since_it_last_told():
    data = list(whole("hf").values())[-1]
    step, loss = executed("step", 2), executed("loss", 2)
    for at, _, value in told(data)["train/loss"]:
        last = int(np.searchsorted(step, at))
        mean = loss[max(0, last - 9) : last + 1].mean()
        assert value == pytest.approx(mean, rel=1e-6)
    assert len(told(data)["train/train_runtime"]) == 1


def test_lightning_counts_batches_from_0():
    data = next(iter(whole("nemo").values()))
    by_tag = told(data)
    assert [s for s, _, _ in by_tag["reduced_train_loss"]][:2] == [9, 19]
    assert [v for _, _, v in by_tag["global_step"]][:2] == [9, 19]
    assert [v for _, _, v in by_tag["consumed_samples"]][:2] == [10 * 128, 20 * 128]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@given(shares=st.lists(st.floats(0.0, 1.0), max_size=4))
def test_batches_change_no_byte(framework, shares):
    run = faulty_run()
    cuts = (0.0, *sorted(share * run.end_s for share in shares), float("inf"))
    assert exported(event_files(Asked(run), framework), run, cuts) == whole(framework)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@given(share=st.floats(0.0, 1.0))
def test_a_window_has_the_records_that_the_whole_run_has_in_it(framework, share):
    run = faulty_run()
    start_s = share * run.end_s
    exporter = event_files(Asked(run, start_s=start_s), framework)
    window = exported(exporter, run, (start_s, float("inf")))
    for name, data in window.items():
        head, *later = records(data)[1:]
        assert head.summary.value[0].tag == MARK
        if later:
            assert records(whole(framework)[name])[-len(later) :] == later
    values = sum(len(records(data)) - 2 for data in window.values())
    unix_s = run.spec.start_unix_s
    assert values == sum(
        record.wall_time - unix_s >= start_s
        for data in whole(framework).values()
        for record in records(data)[2:]
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_exporter_goes_on_after_being_pickled(framework):
    run = faulty_run()
    exporter = event_files(Asked(run), framework)
    files: dict[str, bytes] = defaultdict(bytes)
    for number, event in enumerate(run.events(0.0, float("inf"))):
        if number % 20 == 7:
            exporter = pickle.loads(pickle.dumps(exporter))
        for name, data in exporter.accept(event):
            files[name] += data
    assert files == whole(framework)


def test_a_window_without_a_value_has_a_file_that_says_so():
    run = faulty_run()
    (data,) = exported(event_files(Asked(run, start_s=1.0), "hf"), run, (1.0, 2.0)).values()
    assert len(records(data)) == 2


def test_plain_tensorboard_takes_the_tags_that_suit_the_layout():
    run = faulty_run()
    expected = "torchtitan" if run.plan.layout.sharding == "fsdp" else "megatron"
    assert exported(suiting_events(Asked(run)), run, (0.0, float("inf"))) == whole(expected)


def test_runs_never_share_a_folder_whose_curves_would_be_mixed():
    run = faulty_run()
    others = [simulate(run.spec, 5), simulate(replace(run.spec, faults=Faults()), run.seed)]
    folders = {file_names("hf", one)[0].rpartition("/")[0] for one in (run, *others)}
    assert len(folders) == 3
    chosen = simulate(replace(run.spec, chosen=()), run.seed)  # by a longer command line
    assert file_names("hf", chosen) == file_names("hf", run)


def test_every_framework_has_its_format():
    assert {f"tensorboard-{name}" for name in FRAMEWORKS} < set(EXPORTERS)


@pytest.mark.real
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_tensorboards_own_loader_reads_every_value_back(framework, tmp_path: Path):
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
        event_accumulator,
    )

    for number, (name, data) in enumerate(whole(framework).items()):
        path = tmp_path / str(number) / Path(name).name
        path.parent.mkdir()
        path.write_bytes(data)
        loaded = event_accumulator.EventAccumulator(
            str(path), size_guidance={"scalars": 0, "tensors": 0}
        )
        loaded.Reload()
        ours = told(data)
        assert set(loaded.Tags()["scalars"]) == set(ours)
        for tag, values in ours.items():
            theirs = [(e.step, e.wall_time, e.value) for e in loaded.Scalars(tag)]
            assert theirs == values
        (mark,) = loaded.Tensors(MARK)
        assert b"simulated_by" in mark.tensor_proto.string_val[0]


def test_a_loss_that_is_no_number_is_told_as_each_framework_does():
    run = faulty_run()
    event = join_steps([e for e in steps() if e.attempt == 1]).part(0, 10)
    loss = event.loss.copy()
    loss[4] = float("nan")
    event = replace(event, loss=loss)
    tags: dict[Framework, str] = {"megatron": "lm loss", "hf": "train/loss"}
    for framework, tag in tags.items():
        exporter = event_files(Asked(run), framework)
        by_tag = told(b"".join(data for _, data in exporter.accept(event)))
        if framework == "megatron":  # a step that is skipped has no loss, but a learning rate
            assert [step for step, _, _ in by_tag[tag]] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
            assert len(by_tag["learning-rate"]) == 10
        else:
            mean = filtered_sum(loss.tolist(), run.plan.layout.micro_batches) / 10
            assert [value for _, _, value in by_tag[tag]] == [np.float32(mean)]


def test_the_log_of_torchtitan_says_the_same():
    run, found = faulty_run(), dict[int, tuple[str, ...]]()
    log = torchtitan_log(Asked(run))
    text = b"".join(map(log.accept, run.events(0.0, float("inf")))).decode()
    for line in text.splitlines():
        if match := STEP_LINE.search(line):
            found[int(match[1])] = match.groups()[1:]
    by_tag: Told = defaultdict(list)
    for data in whole("torchtitan").values():
        for tag, values in told(data).items():
            by_tag[tag] += values
    tags = ("loss_metrics/global_avg_loss", "memory/max_reserved(GiB)", "throughput(tps)", "mfu(%)")
    columns = [{step: value for step, _, value in by_tag[tag]} for tag in tags]
    assert len(found) > 10
    for step, words in found.items():
        loss, gib, tps, mfu = (column[step] for column in columns)
        assert words == (f"{loss:.5f}", f"{gib:.2f}", f"{round(tps):,}", f"{mfu:.2f}")


def test_the_log_of_megatron_says_the_same():
    run = faulty_run()
    log = megatron_log(Asked(run))
    text = b"".join(map(log.accept, run.events(0.0, float("inf")))).decode()
    found = {int(match[1]): match.groups()[1:] for match in MEGATRON_LINE.finditer(text)}
    by_tag: Told = defaultdict(list)
    for data in whole("megatron").values():
        for tag, values in told(data).items():
            by_tag[tag] += values
    tags = ("iteration-time", "throughput", "learning-rate", "grad-norm")
    columns = [{step: value for step, _, value in by_tag[tag]} for tag in tags]
    logged = sorted(set(found) & set(columns[0]))
    assert len(logged) > 10
    for step in logged:
        time_s, tflops, rate, norm = (column[step] for column in columns)
        said = (f"{1000 * time_s:.1f}", f"{tflops:.1f}", f"{rate:.6E}", f"{norm:.3f}")
        # Told as 32-bit floats: the last digit of a log may be the other one.
        assert [float(word) for word in found[step]] == pytest.approx(
            [float(word) for word in said], rel=2e-6, abs=1e-3
        )
