"""A server that tests move through time."""

from __future__ import annotations

import gc
import re
import socket
import threading
import urllib.error
import urllib.request
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ghosttrain.core.errors import RequestError, SpecError, WorldError
from ghosttrain.core.run import simulate
from ghosttrain.core.spec import Faults
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.testing import RunServer, serving
from tests.exporters.runs import run_with, small_spec

# gpu-off-bus takes GPU 9 away at 200 s; the run is not over before it is mended.
FAULT = "gpu-off-bus@100s:9"
FALLEN = ("gpu-off-bus", 200.0, 9)


@pytest.fixture(scope="module")
def server():
    with serving(run_with(FALLEN)) as found:
        yield found


def test_time_stands_until_it_is_told_to_move(server: RunServer):
    assert server.at("150s") == 150.0
    first, second = server.scrape(), server.scrape()
    assert first.text == second.text
    assert first.value("ghosttrain_run_time_seconds") == 150.0
    assert first.value("ghosttrain_speed") == 0.0
    assert server.at(151) == 151.0
    assert server.scrape().value("ghosttrain_run_time_seconds") == server.time_s == 151.0
    assert server.unix_s == server.run.spec.start_unix_s + 151.0


@pytest.mark.parametrize("when", ["0", "2min30s", 99.5, "step=20", "2026-01-01T00:03:00Z"])
def test_a_page_is_the_state_of_the_run_at_its_moment(server: RunServer, when: str | float):
    time_s = server.at(when)
    page, run = server.scrape(), server.run
    assert page.value("ghosttrain_step") == run.job(time_s).step
    truth = run.telemetry(np.array([time_s]), ["gpu_temp_c"])
    shown = [sample.value for sample in page.samples("DCGM_FI_DEV_GPU_TEMP")]
    told = [g for g in range(16) if g not in truth.lost[0]]
    assert shown == [round(float(truth.columns["gpu_temp_c"][0, g])) for g in told]


def test_the_words_for_moments_mean_run_time(server: RunServer):
    run = server.run
    assert server.at("step=20") == run.steps(20, 20).end_s[0]
    assert server.at("2026-01-01T00:03:00Z") == 180.0
    assert server.at(run.end_s) == run.end_s


@pytest.mark.parametrize("point", ["onset", "effect", "detected", "mitigated", "cleared", "xid"])
def test_every_point_of_an_incident_can_be_gone_to(server: RunServer, point: str):
    (label,) = server.labels
    times = {"effect": min(at for _, at in label.signals), **dict(label.signals)}
    exact = times[point] if point in times else getattr(label, f"{point}_s")
    assert server.to_incident(1, point) == exact
    assert server.to_incident(1, point, plus="1min") == pytest.approx(exact + 60.0)
    assert server.to_incident(1, point, plus=-5) == pytest.approx(exact - 5.0)
    assert server.to_incident(1, point, plus="-5s") == pytest.approx(exact - 5.0)


def test_the_page_shows_what_the_label_says(server: RunServer):
    (label,) = server.labels
    server.to_incident(1, "effect", plus="-1s")
    before = server.scrape()
    assert before.value("DCGM_FI_DEV_GPU_TEMP", gpu=1, Hostname="gpu-0001") > 0
    server.to_incident(1, "effect", plus="1s")
    after = server.scrape()
    assert label.entity == "gpu 9"
    assert not after.samples("DCGM_FI_DEV_GPU_TEMP", gpu=1, Hostname="gpu-0001")
    assert len(after.samples("DCGM_FI_DEV_GPU_TEMP")) == 15
    server.to_incident(1, "cleared")
    cleared = server.scrape()
    assert len(cleared.samples("DCGM_FI_DEV_GPU_TEMP")) == 16
    assert cleared.value("ghosttrain_restarts_total") == 1


def test_a_node_that_is_down_brings_a_page_that_is_not_up():
    with serving(run_with(("node-crash", 200.0, 9))) as server:
        down = next(s for s in server.run.timeline.spans if s.phase == "down")
        server.at(down.start_s + 1.0)
        assert server.scrape("/node/0/metrics").up
        page = server.scrape("/node/1/metrics")
        assert (page.up, page.status, page.families) == (False, 503, {})
        with pytest.raises(SpecError, match="the node is down"):
            page.value("DCGM_FI_DEV_GPU_TEMP")


def test_time_passes_at_a_speed_and_stands_again():
    with serving(run_with(), at="100s") as server:
        server.play(10_000)
        for _ in range(10_000):  # until the next collection
            if server.scrape().value("ghosttrain_run_time_seconds") > 100.0:
                break
        server.pause()
        first = server.scrape()
        assert first.value("ghosttrain_run_time_seconds") > 100.0
        assert first.text == server.scrape().text
    with serving(run_with(), speed=50) as server:
        assert server.scrape().value("ghosttrain_speed") == 50.0


def test_a_fault_that_is_injected_is_in_the_labels():
    with serving(run_with(), at="100s") as server:
        assert not server.labels
        server.inject("gpu-off-bus:3")
        (label,) = server.labels
        assert (label.kind, label.entity, label.onset_s) == ("gpu-off-bus", "gpu 3", 100.0)
        server.to_incident(1, "effect", plus="1s")
        assert len(server.scrape().samples("DCGM_FI_DEV_GPU_TEMP")) == 15


def spec_of_words() -> object:
    asked = {"cluster.gpus": 16, "recipe.steps": 60, "faults": FAULT}
    return resolve(Request("llama-3-8b", asked), 5)


@pytest.mark.parametrize(
    ("spec", "flags"),
    [
        ("llama-3-8b", {"gpus": 16, "steps": 60, "faults": FAULT}),
        ("llama-3-8b --gpus 16 --steps=60 --faults gpu-off-bus@100s:9", {}),
        ("llama-3-8b --gpus 64 --steps 60", {"gpus": 16, "faults": FAULT}),
        ("--set recipe.steps=60 llama-3-8b --set cluster.gpus=16", {"faults": FAULT}),
        ("llama-3-8b", {"set": {"cluster.gpus": 16, "recipe.steps": 60}, "faults": FAULT}),
        ("llama-3-8b --gpus 16 --steps 60 --faults gpu-off-bus@100s:9 --seed 5", {"seed": None}),
        ("llama-3-8b --gpus 16 --steps 60 --faults gpu-off-bus@100s:9 --seed 9", {"seed": 5}),
    ],
)  # fmt: skip
def test_what_the_command_line_takes_is_taken(spec: str, flags: dict[str, object]):
    with serving(spec, **{"seed": 5, **flags}) as server:  # type: ignore[arg-type]
        assert replace(server.run.spec, chosen=()) == replace(spec_of_words(), chosen=())  # type: ignore[type-var]
        assert server.run.seed == 5


def test_files_specs_and_runs_are_taken(tmp_path):
    path = tmp_path / "run with --dashes.toml"
    path.write_text('model = "llama-3-8b"\ncluster.gpus = 16\nrecipe.steps = 60\n')
    with serving(path) as server:
        assert (server.run.spec.cluster.gpus, server.run.spec.recipe.total_steps) == (16, 60)
    with serving(small_spec(), seed=7, faults="gpu-off-bus@200s:9") as server:
        assert server.run.timeline == run_with(FALLEN).timeline
    patient = replace(small_spec(), faults=Faults(watchdog_timeout_s=1200.0))
    with serving(patient, faults="gpu-off-bus@200s:9") as server:
        assert server.run.spec.faults.watchdog_timeout_s == 1200.0
        assert server.run.seed == 1
    run = simulate(small_spec(), 3)
    with serving(run) as server:
        assert server.run is run
    with serving(seed=4, at="1min", start="2027-02-03T04:05:06Z") as server:
        assert server.run.spec.start_unix_s == 1801627506
        assert server.scrape().value("ghosttrain_run_time_seconds") == 60.0


def test_the_same_words_are_the_same_run():
    words = "llama-3-8b --gpus 16 --steps 60 --faults realistic"
    with serving(words, at="5min") as one, serving(words, at="5min") as two:
        assert one.scrape().text == two.scrape().text


@pytest.mark.parametrize(
    ("spec", "how", "error", "told"),
    [
        ("llama-3-8", {}, RequestError, "did you mean llama-3-8b"),
        ("nowhere.toml", {}, RequestError, "nowhere.toml"),
        ("llama-3-8b", {"stpes": 6}, SpecError, "unknown flag 'stpes': did you mean steps?"),
        ("llama-3-8b --stpes 6", {}, SpecError, "unknown flag 'stpes': did you mean steps?"),
        ("llama-3-8b --gpus", {}, SpecError, "--gpus: give a value"),
        ("llama-3-8b mixtral-8x7b --gpus 8", {}, SpecError, "give one SPEC"),
        ("llama-3-8b --gpus '16", {}, SpecError, "no closing quotation"),
        ("llama-3-8b", {"gpus": "many"}, SpecError, "--gpus: cluster.gpus is 'many'"),
        ("llama-3-8b", {"tp": 32}, RequestError, "layout"),
        ("llama-3-8b", {"names": "odd"}, SpecError, "give one of earnest, mixed, satirical"),
        ("llama-3-8b", {"seed": -1}, RequestError, "seed '-1' is not a whole number"),
        ("llama-3-8b", {"start": "tomorrow"}, RequestError, "start 'tomorrow' is no date"),
        ("llama-3-8b", {"faults": "gpu-of-bus"}, RequestError, "did you mean gpu-off-bus"),
        ("llama-3-8b", {"metrics": "nodes"}, SpecError, "unknown metric 'nodes': did you"),
        ("llama-3-8b", {"at": "90d"}, SpecError, "at 90d is after the end: the run takes"),
        ("llama-3-8b", {"at": -1}, SpecError, "at -1: give seconds from 0"),
        ("llama-3-8b", {"at": float("nan")}, SpecError, "at nan: give seconds from 0"),
        ("llama-3-8b", {"at": True}, SpecError, "at True: give seconds from 0"),
        ("llama-3-8b", {"at": "noon"}, SpecError, "at 'noon' is no moment"),
        ("llama-3-8b", {"speed": -1}, SpecError, "speed -1: give one above 0"),
        ("llama-3-8b", {"port": 70000}, RequestError, "ports are 0 to 65,535"),
        (small_spec(), {"gpus": 16}, SpecError, "gpus: a RunSpec is complete but for faults"),
        (run_with(), {"faults": "realistic"}, SpecError, "faults: a Run is what it is"),
        (run_with(), {"seed": 3}, SpecError, "seed: a Run is what it is"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(spec, how, error, told):
    flags = {"gpus": 16, "steps": 60} if spec == "llama-3-8b" else {}
    with pytest.raises(error) as caught, serving(spec, **(flags | how)):
        pass  # pragma: no cover - never reached
    assert told in str(caught.value)


def test_a_port_that_is_taken_is_told_and_one_that_is_free_is_used():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WorldError) as caught, serving(run_with(), port=port):
            pass  # pragma: no cover - never reached
        assert f"port {port} on 127.0.0.1 is taken" in str(caught.value)
    with serving(run_with(), port=port) as server:
        assert server.metrics_url == f"http://127.0.0.1:{port}/metrics"
        assert server.scrape().up


@pytest.mark.parametrize(
    ("number", "point", "plus", "told"),
    [
        (2, "onset", 0, "no incident 2: the run has incidents 1 to 1"),
        (0, "onset", 0, "no incident 0: the run has incidents 1 to 1"),
        (1, "cleerd", 0, "has no 'cleerd': give one of onset, effect"),
        (1, "onset", "9d", "after the end: the run takes"),
        (1, "onset", "soon", "duration 'soon' makes no sense"),
        (1, "onset", float("inf"), "plus inf: give seconds"),
    ],
)
def test_incidents_and_points_that_are_not_there_are_told(server, number, point, plus, told):
    with pytest.raises(SpecError) as caught:
        server.to_incident(number, point, plus)
    assert told in str(caught.value)


def test_a_run_without_faults_has_no_incident():
    with serving(run_with()) as server, pytest.raises(SpecError, match="none: ask for faults"):
        server.to_incident()


def test_an_incident_that_never_comes_to_its_end_says_so():
    late = run_with().end_s - 60.0
    with serving(run_with(("straggler", late, 9))) as server:
        (label,) = server.labels
        assert label.cleared_s is None
        with pytest.raises(SpecError, match="never comes to 'cleared': it has onset"):
            server.to_incident(1, "cleared")


def test_samples_are_found_by_their_labels(server: RunServer):
    server.at("100s")
    page = server.scrape()
    assert page.families["DCGM_FI_DEV_GPU_TEMP"].type == "gauge"
    assert len(page.samples("DCGM_FI_DEV_GPU_TEMP", Hostname="gpu-0000")) == 8
    for asked, told in [
        (("ghosttrain_stp", {}), "did you mean ghosttrain_step?"),
        (("DCGM_FI_DEV_GPU_TEMP", {}), "16 samples"),
        (("DCGM_FI_DEV_GPU_TEMP", {"gpu": 8}), "no such sample"),
    ]:
        with pytest.raises(SpecError) as caught:
            page.value(asked[0], **asked[1])
        assert told in str(caught.value)
    with pytest.raises(SpecError, match="there is no node 9"):
        server.scrape("/node/9/metrics")


def test_every_line_of_a_page_is_found_under_its_name(server: RunServer):
    server.at("250s")
    page = server.scrape()
    lines = [line for line in page.text.splitlines() if not line.startswith("#")]
    names = Counter(re.split(r"[{ ]", line)[0] for line in lines)
    assert {"DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "ghosttrain_steps_total"} < set(names)
    assert {name: len(page.samples(name)) for name in names} == names


def test_metrics_are_chosen(server: RunServer):
    assert server.scrape().samples("node_load1")
    with serving(run_with(), metrics="default", at="100s") as chosen:
        assert not chosen.scrape().samples("node_load1")


def test_nothing_is_left_of_a_server():
    before = set(threading.enumerate())
    with serving(run_with()) as server:
        url, collector = server.metrics_url, weakref.ref(server._collector)
        server.scrape()
    del server
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
    gc.collect()
    assert collector() is None
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


def test_a_failing_test_closes_it_too():
    with pytest.raises(ZeroDivisionError), serving(run_with()) as server:
        _ = 1 / 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.metrics_url, timeout=5)
