"""Control: who may, what may be asked for, and that it shows."""

from __future__ import annotations

import pytest

from ghosttrain.core.errors import SpecError
from ghosttrain.serve.control import (
    Guard,
    action,
    host_name,
    is_loopback,
    moment,
    read_orders,
)
from ghosttrain.serve.live import LiveRun
from tests.exporters.runs import run_with
from tests.serve.servers import JSON, Clock, serving

TOKEN = "a-long-enough-token"
LOOPBACK = {"host": "127.0.0.1:9400", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"host": "localhost:9400"}, None),
        ({"host": "[::1]:9400"}, None),
        ({"host": "127.0.0.5"}, None),
        ({"content-type": "application/json; charset=utf-8"}, None),
        ({"origin": "http://127.0.0.1:9400"}, None),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"host": "evil.example:9400"}, 403),  # a name of theirs that leads here
        ({"host": "evil.example:9400", "origin": "http://evil.example:9400"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"content-type": "text/plain"}, 415),  # what a form of another site can send
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": ""}, 415),
    ],
)
def test_on_loopback_pages_of_other_sites_are_refused(headers, status):
    refusal = Guard().refusal(LOOPBACK | headers)
    assert (refusal and refusal.status) == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", None),
        (f"bearer {TOKEN}", None),
        ("", 401),
        (TOKEN, 401),
        ("Basic abc", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 403),
        (f"Bearer {TOKEN}x", 403),
        ("Bearer \u00e9\u00e9", 403),
    ],
)
def test_a_token_is_needed_where_there_is_one(authorization, status):
    headers = {"host": "10.0.0.1:9400", "content-type": "application/json"}
    refusal = Guard(TOKEN).refusal(headers | {"authorization": authorization})
    assert (refusal and refusal.status) == status


def test_loopback_is_what_it_is_by_address_not_by_looks():
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"):
        assert is_loopback(host)
    for host in ("127.evil.example", "localhost.example", "0.0.0.0", "::", "10.0.0.1", ""):
        assert not is_loopback(host)


def test_host_names_without_their_ports():
    assert host_name("Example:80") == "example"
    assert host_name("[::1]:80") == "[::1]"
    assert host_name("localhost") == "localhost"
    assert host_name("") == ""


def test_control_over_http_shows_at_once():
    with serving() as found:
        assert found.control(pause=True).json()["paused"] is True
        found.clock.pass_(100)
        assert found.get("/api/v1/state").json()["time_s"] == 0
        answer = found.control(pause=False, speed=60, seek="200s")
        assert answer.status_code == 200
        assert answer.json()["time_s"] == 200
        assert answer.json()["speed"] == 60
        found.clock.pass_(1)
        assert found.get("/api/v1/state").json()["time_s"] == pytest.approx(260)
        assert "ghosttrain_speed 60.0" in found.get("/job/metrics").text


def test_an_injected_fault_strikes_now_and_shows():
    with serving(metrics="all") as found:
        found.go_to(250.0)
        whole = found.get("/metrics").text.count("DCGM_FI_DEV_GPU_TEMP{")
        answer = found.control(inject="gpu-off-bus:9")
        assert answer.status_code == 200
        found.clock.pass_(30)
        assert found.get("/metrics").text.count("DCGM_FI_DEV_GPU_TEMP{") == whole - 1
        (incident,) = found.collector.live.run.timeline.incidents
        assert incident.time_s == pytest.approx(250.0)


@pytest.fixture(scope="module")
def at_100_s():
    with serving() as found:
        found.go_to(100.0)
        yield found


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 60_000, "no JSON"),
        (b"[]", "JSON object"),
        (b"{}", "JSON object"),
        (b'"pause"', "JSON object"),
        (b'{"paus": true}', "unknown key 'paus'"),
        (b'{"pause": 1}', "true or false"),
        (b'{"speed": "auto"}', "stays"),
        (b'{"speed": "max"}', "stays"),
        (b'{"speed": 0}', "above 0"),
        (b'{"speed": -5}', "above 0"),
        (b'{"speed": NaN}', "speed"),
        (b'{"speed": 1e308}', "up to"),
        (b'{"speed": true}', "speed"),
        (b'{"speed": [1]}', "speed"),
        (b'{"seek": "tomorrow"}', "tomorrow"),
        (b'{"seek": "-5s"}', "negative"),
        (b'{"seek": "400d"}', "the run goes from"),
        (b'{"seek": "incident:1"}', "no incident 1"),
        (b'{"seek": null}', "give a time"),
        (b'{"inject": ""}', "in words"),
        (b'{"inject": 5}', "in words"),
        (b'{"inject": "none"}', "by name"),
        (b'{"inject": "realistic"}', "by name"),
        (b'{"inject": "gpu-of-bus"}', "did you mean gpu-off-bus"),
        (b'{"inject": "gpu-off-bus:16"}', "none of 0 to 15"),
        (b'{"inject": "gpu-off-bus@10s"}', "in the past"),
        (b'{"inject": "/etc/passwd"}', "files are not read"),
        (b'{"inject": "x.toml"}', "files are not read"),
        # One order cannot be: none of them is followed.
        (b'{"seek": 50, "speed": 9, "pause": true, "inject": "gpu-off-bus@1s"}', "in the past"),
        (b'{"inject": "gpu-off-bus:3,gpu-off-bus@10s"}', "in the past"),
    ],
)
def test_what_makes_no_sense_is_told_and_changes_nothing(at_100_s, body, words):
    before = at_100_s.get("/api/v1/state").json()
    answer = at_100_s.client.post("/api/v1/control", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]
    assert len(answer.text) < 500
    assert at_100_s.get("/api/v1/state").json() == before


def test_tokens_over_http():
    with serving(token=TOKEN) as found:
        assert found.control(pause=True).status_code == 401
        assert found.control(pause=True).headers["www-authenticate"] == "Bearer"
        wrong = {"Authorization": "Bearer wrong"}
        right = {"Authorization": f"Bearer {TOKEN}"}
        orders = {"pause": True}
        post = found.client.post
        assert post("/api/v1/control", json=orders, headers=wrong).status_code == 403
        assert found.get("/api/v1/state").json()["paused"] is False
        assert post("/api/v1/control", json=orders, headers=right).status_code == 200
        assert found.get("/api/v1/state").json()["paused"] is True
        assert found.get("/metrics").status_code == 200, "reading needs none"


def test_moments_in_words():
    live = LiveRun(run_with(("gpu-off-bus", 200.0, 9)), clock=Clock())
    assert moment(live, "2h10min") == 7800
    assert moment(live, "0") == 0
    assert moment(live, "incident:1") == 200
    assert moment(live, "incident:1-2min") == 80
    assert moment(live, "incident:1+30s") == 230
    assert moment(live, "incident:1-1h") == 0
    for words in ("incident:0", "incident:2", "incident:1*2", "incident:", "incident:1-"):
        with pytest.raises(SpecError):
            moment(live, words)


def test_orders_are_read_before_anything_is_done():
    """A wrong value behind a right one: nothing is done."""
    with pytest.raises(SpecError):
        action(read_orders(b'{"pause": true, "speed": "fast"}'))
