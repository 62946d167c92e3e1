"""The routes, asked over loopback by a real client."""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from ghosttrain.exporters.prometheus.job import Playing
from ghosttrain.serve.collection import Wanted
from tests.exporters.runs import run_with
from tests.serve.servers import JSON, Serving, raw, serving

GPU_OFF_S = 200.0


@pytest.fixture(scope="module")
def quiet():
    with serving() as found:
        yield found


def values(text: str) -> dict[str, float]:
    return {s.name: s.value for f in text_families(text) for s in f.samples}


def gpus_of(text: str, name: str = "DCGM_FI_DEV_GPU_TEMP") -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    found = [re.search(r'gpu="(\d+)".*Hostname="([^"]+)"', line) for line in lines]
    return [(match[2], match[1]) for match in found if match]


def test_the_whole_page_has_all_gpus_and_the_job(quiet: Serving):
    answer = quiet.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert len(gpus_of(answer.text)) == 16
    assert values(answer.text)["ghosttrain_info"] == 1
    assert "ghosttrain_phase" in answer.text


def test_a_node_has_its_own_gpus_alone(quiet: Serving):
    answer = quiet.get("/node/1/metrics")
    assert {host for host, _ in gpus_of(answer.text)} == {"gpu-0001"}
    assert 'simulated="true"' in answer.text
    assert "ghosttrain_phase" not in answer.text


@pytest.mark.parametrize("path", ["/node/2/metrics", "/node/99999999999/metrics"])
def test_a_node_that_is_none_is_not_found(quiet: Serving, path):
    answer = quiet.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"].endswith("there are 0 to 1")


@pytest.mark.parametrize("path", ["/metric", "/node/-1/metrics", "/node/x/metrics", "/metrics/"])
def test_other_paths_are_not_found(quiet: Serving, path):
    assert quiet.get(path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/metrics"), ("DELETE", "/sd"), ("GET", "/api/v1/control"), ("PUT", "/healthz")],
)
def test_other_methods_are_not_allowed(quiet: Serving, method, path):
    assert quiet.client.request(method, path).status_code == 405


def test_head_has_the_headers_and_no_body(quiet: Serving):
    answer = quiet.client.head("/metrics", headers={"Accept-Encoding": "identity"})
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 10_000
    assert answer.content == b""
    assert quiet.get("/healthz").text == "ok\n", "the connection is still good"


def test_openmetrics_for_those_who_prefer_it(quiet: Serving):
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    for path in ("/metrics", "/node/0/metrics", "/job/metrics"):
        answer = quiet.get(path, headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert list(openmetrics_families(answer.text))
        assert answer.text.endswith("# EOF\n")


def test_a_page_is_packed_for_those_who_take_it(quiet: Serving):
    plain = quiet.get("/metrics", headers={"Accept-Encoding": "identity"})
    packed = quiet.get("/metrics", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 5
    assert packed.text == plain.text
    answer = raw(quiet.port, b"GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n", ends=False)
    assert gzip.decompress(answer.partition(b"\r\n\r\n")[2]).decode() == plain.text


def test_http_1_0_is_answered_and_closed(quiet: Serving):
    answer = raw(quiet.port, b"GET /healthz HTTP/1.0\r\n\r\n", ends=False)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ok\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # TLS on a plain port
        b"\r\n" * 40,
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /api/v1/control HTTP/1.1\r\nHost: localhost\r\nContent-Length: nine\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"",
    ],
)
def test_garbage_is_refused_and_the_server_lives(quiet: Serving, data):
    answer = raw(quiet.port, data, timeout_s=2.0)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert not answer.startswith(b"HTTP/1.1 500")
    assert quiet.get("/healthz").status_code == 200


def test_targets_are_one_a_node_and_one_for_the_job(quiet: Serving):
    groups = quiet.get("/sd").json()
    nodes = [group for group in groups if "node" in group["labels"]]
    assert [group["labels"]["instance"] for group in nodes] == ["gpu-0000", "gpu-0001"]
    assert {group["labels"]["rack"] for group in nodes} == {"0"}
    for group in groups:
        (target,) = group["targets"]
        assert target == f"127.0.0.1:{quiet.port}"
        assert all(isinstance(value, str) for value in group["labels"].values())
        assert quiet.get(group["labels"]["__metrics_path__"]).status_code == 200
    assert groups[-1]["labels"]["__metrics_path__"] == "/job/metrics"


def test_targets_are_where_whoever_asked_has_found_us(quiet: Serving):
    groups = quiet.get("/sd", headers={"Host": "rehearsal.example:1234"}).json()
    assert groups[0]["targets"] == ["rehearsal.example:1234"]


@pytest.mark.parametrize("host", ["[::1", "a:b:c", "x:99999999", "x:port", "", "a b", "[x]:1"])
def test_a_host_that_is_none_is_no_trouble(quiet: Serving, host):
    request = f"GET /sd HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    head, _, body = raw(quiet.port, request.encode(), ends=False).partition(b"\r\n\r\n")
    assert head.split()[1] in (b"200", b"400")
    if b" 200 " in head:
        assert len(json.loads(body)) == 3


def test_the_state_is_that_of_the_page(quiet: Serving):
    state = quiet.get("/api/v1/state").json()
    page = values(quiet.get("/job/metrics").text)
    assert state["simulated"] is True
    assert state["seed"] == 7
    assert state["time_s"] == page["ghosttrain_run_time_seconds"]
    assert state["job"]["step"] == page["ghosttrain_step"]


def test_the_first_page_links_to_the_others(quiet: Serving):
    answer = quiet.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "simulated" in answer.text
    for path in re.findall(r'href="([^"]+)"', answer.text):
        assert quiet.get(path).status_code == 200


def test_all_who_scrape_between_two_collections_see_the_same(monkeypatch):
    with serving(interval_s=1.0) as found:
        made = []
        move = found.collector.live.move

        def counted() -> Playing:
            made.append(1)
            return move()

        monkeypatch.setattr(found.collector.live, "move", counted)
        first = found.get("/metrics").text
        found.clock.pass_(0.9)
        assert found.get("/metrics").text == first
        lines = {line for line in first.splitlines() if line.startswith("DCGM")}
        node = found.get("/node/1/metrics").text.splitlines()
        assert lines.issuperset(line for line in node if line.startswith("DCGM"))
        assert len(made) == 1, "one computation, however many scrape"
        found.clock.pass_(0.2)
        assert found.get("/metrics").text != first
        assert len(made) == 2


def test_a_lost_gpu_vanishes_and_a_node_that_is_down_answers_503():
    run = run_with(("node-crash", GPU_OFF_S, 9))
    with serving(run) as found:
        before = found.get("/node/1/metrics")
        assert before.status_code == 200
        down = next(s for s in run.timeline.spans if s.phase == "down")
        found.go_to(down.start_s + 1.0)
        assert run.nodes_down(down.start_s + 1.0) == (1,)
        answer = found.get("/node/1/metrics")
        assert answer.status_code == 503
        assert "down" in answer.json()["error"]
        whole = found.get("/metrics").text
        assert {host for host, _ in gpus_of(whole)} == {"gpu-0000"}
        assert values(whole)["ghosttrain_nodes_down"] == 1
        assert found.get("/api/v1/state").json()["nodes_down"] == {"1": "gpu-0001"}
        assert found.get("/node/0/metrics").status_code == 200
    run = run_with(("gpu-off-bus", GPU_OFF_S, 9))
    with serving(run) as found:
        found.go_to(GPU_OFF_S + 5.0)
        assert run.telemetry(np.array([GPU_OFF_S + 5.0])).lost == ((9,),)
        assert ("gpu-0001", "1") not in gpus_of(found.get("/metrics").text)
        assert len(gpus_of(found.get("/node/1/metrics").text)) == 7


def test_a_port_for_each_node():
    with serving(port_per_node=True) as found:
        for node in (0, 1):
            answer = found.get(f"http://127.0.0.1:{found.port + node}/metrics")
            assert {host for host, _ in gpus_of(answer.text)} == {f"gpu-000{node}"}
        groups = found.get(f"http://127.0.0.1:{found.port + 1}/sd").json()
        nodes = [group for group in groups if "node" in group["labels"]]
        assert [g["targets"][0] for g in nodes] == [
            f"127.0.0.1:{found.port + node}" for node in (0, 1)
        ]
        assert {g["labels"]["__metrics_path__"] for g in nodes} == {"/metrics"}
        assert "ghosttrain_phase" in found.get("/job/metrics").text


def test_a_packed_page_is_of_the_collection_it_was_asked_of(monkeypatch):
    """Also where drawing it takes longer than a collection lasts."""
    with serving(interval_s=1.0) as found:
        collector = found.collector
        made = collector._made

        def slowly(now, wanted):
            page = made(now, wanted)
            found.clock.pass_(5.0)
            return page

        monkeypatch.setattr(collector, "_made", slowly)
        now = collector.collection()
        packed = collector.page(Wanted("all", packed=True))
        assert packed is not None
        assert gzip.decompress(b"".join(packed.pieces)) == b"".join(now.pages[Wanted("all")].pieces)


def test_a_large_body_is_refused_and_read(quiet: Serving):
    answer = quiet.client.post("/api/v1/control", content=b"x" * 10_000_000, headers=JSON)
    assert answer.status_code == 413
    endless = (b"x" * 100_000 for _ in range(100))
    answer = quiet.client.post("/api/v1/control", content=endless, headers=JSON)
    assert answer.status_code == 413
    assert quiet.get("/healthz").status_code == 200


def test_answers_are_json_where_they_say_so(quiet: Serving):
    for path in ("/api/v1/state", "/sd"):
        answer = quiet.get(path)
        assert answer.headers["content-type"] == "application/json"
        json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
