"""What scrapers can do to a server: many at once, slow ones, ones that go away."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghosttrain.core.errors import RequestError, WorldError
from ghosttrain.core.run import simulate
from ghosttrain.serve import app
from ghosttrain.serve.server import listen
from tests.serve.servers import Serving, raw, serving
from tests.strategies import machine_spec


@pytest.fixture(scope="module")
def large():
    """A page of 3 MB: more than sockets hold."""
    with serving(simulate(machine_spec("llama-3-8b", "h100-sxm", 512), 7)) as found:
        yield found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def test_200_scrapers_at_once_get_the_same_whole_page():
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    together = threading.Barrier(200)
    with serving() as found:

        def scrape(_: int) -> bytes:
            together.wait()
            return raw(found.port, request, timeout_s=30, ends=False).partition(b"\r\n\r\n")[2]

        with ThreadPoolExecutor(200) as pool:
            pages = set(pool.map(scrape, range(200)))
        assert pages == {found.get("/metrics").content}


def slow_reader(port: int) -> socket.socket:
    """A connection that asks for the whole page and does not read it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def test_readers_that_do_not_read_cost_little_and_hold_nobody_up(large: Serving):
    page = len(large.get("/metrics").content)
    before = resident_bytes()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.callback(slow_reader(large.port).close)
        time.sleep(0.5)  # all of them are being answered
        begun = time.perf_counter()
        assert large.get("/healthz").text == "ok\n"
        assert len(large.get("/metrics").content) == page
        assert time.perf_counter() - begun < 8, "those who do not read are cut off after 10 s"
        grown = resident_bytes() - before
    # 100 copies of the page would be 300 MB; each holds a part of it and what the socket takes.
    assert grown < 100 * page / 4
    assert large.get("/healthz").text == "ok\n"


def test_a_reader_that_takes_too_long_is_cut_off(large: Serving, monkeypatch):
    monkeypatch.setattr(app, "WRITE_TIMEOUT_S", 0.3)
    with contextlib.closing(slow_reader(large.port)) as connection:
        time.sleep(0.8)
        connection.settimeout(5)
        received = 0
        while part := connection.recv(1 << 20):
            received += len(part)
        assert 0 < received < len(large.get("/metrics").content)


def test_scrapers_that_go_away_leave_no_trace(large: Serving):
    before = threading.active_count()
    for _ in range(50):
        slow_reader(large.port).close()
        with contextlib.closing(socket.create_connection(("127.0.0.1", large.port))) as half:
            half.sendall(b"GET /met")
    assert large.get("/healthz").text == "ok\n"
    assert threading.active_count() <= before + 1


def test_small_answers_do_not_wait_for_an_ack():
    """asyncio sets TCP_NODELAY only for sockets that name their protocol; else each costs 40 ms."""
    (one,) = listen("127.0.0.1", 0)
    with contextlib.closing(one):
        assert one.proto == socket.IPPROTO_TCP
    with serving() as found:
        taken = []
        for _ in range(40):
            begun = time.perf_counter()
            found.get("/healthz")
            taken.append(time.perf_counter() - begun)
    assert statistics.median(taken) < 0.03


def test_a_taken_port_is_told():
    (taken,) = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with contextlib.closing(taken):
        with pytest.raises(WorldError, match=rf"port {port} on 127.0.0.1 is taken: .*--port") as e:
            listen("127.0.0.1", port)
        assert e.value.exit_code == 1
        free = port - 1
        with pytest.raises(WorldError):
            listen("127.0.0.1", free, 2)
        with contextlib.suppress(WorldError):  # it was given back, unless others had it
            listen("127.0.0.1", free)[0].close()


def test_a_port_that_was_just_served_can_be_had_again():
    with serving() as found:
        assert found.get("/healthz").status_code == 200
        port = found.port
    listen("127.0.0.1", port)[0].close()


@pytest.mark.parametrize(
    ("host", "port", "count", "error", "words"),
    [
        ("127.0.0.1", 65000, 600, RequestError, "65,535 is the last"),
        ("127.0.0.1", 0, 2, RequestError, "any free port"),
        ("127.0.0.1", 70000, 1, RequestError, "ports are 0 to"),
        ("no-such-host.invalid", 0, 1, WorldError, "no such name"),
        ("", -1, 1, RequestError, "ports are"),
        ("192.0.2.1", 0, 1, WorldError, "no such address"),
        ("\u00e9" * 300, 0, 1, WorldError, "no such name"),
    ],
)
def test_places_to_listen_that_are_none(host, port, count, error, words):
    with pytest.raises(error, match=words):
        listen(host, port, count)


def test_too_few_open_files_are_told(monkeypatch):
    def none_left(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(WorldError, match="ulimit -n"):
        listen("127.0.0.1", 0)
