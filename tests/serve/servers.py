"""Servers on loopback, in this process or in one of their own, and plain requests to them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from ghosttrain.core.run import Run
from ghosttrain.exporters.prometheus.dcgm import Dialect, chosen_metrics, known_metrics
from ghosttrain.serve.app import Faces
from ghosttrain.serve.collection import Collector
from ghosttrain.serve.live import LiveRun
from ghosttrain.serve.server import Server, listen
from tests.exporters.runs import run_with
from tests.terminal import ROOT

JSON = {"Content-Type": "application/json"}


class Clock:
    """Wall time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, wall_s: float) -> None:
        self.now += wall_s


@dataclass
class Serving:
    """A server that answers, what it plays, and a client of it."""

    collector: Collector
    clock: Clock
    port: int
    client: httpx.Client

    def get(self, path: str, **how: Any) -> httpx.Response:
        return self.client.get(path, **how)

    def control(self, **orders: Any) -> httpx.Response:
        return self.client.post("/api/v1/control", json=orders)

    def go_to(self, time_s: float) -> None:
        """Bring the run to a moment."""
        self.collector.live.move()
        self.collector.live.seek(time_s)
        self.collector.change(lambda _: None)


@contextlib.contextmanager
def serving(
    run: Run | None = None,
    *,
    metrics: str = "default",
    token: str = "",
    port_per_node: bool = False,
    interval_s: float = 1.0,
) -> Iterator[Serving]:
    """A server whose clock stands unless it is told to pass."""
    clock = Clock()
    live = LiveRun(run or run_with(), clock=clock)
    collector = Collector(
        live,
        chosen_metrics(metrics, known_metrics()),
        Dialect.of(),
        interval_s=interval_s,
        clock=clock,
    )
    sockets = free_row(2) if port_per_node else listen("127.0.0.1", 0)
    port = int(sockets[0].getsockname()[1])
    server = Server(
        Faces(collector, port=port, port_per_node=port_per_node, token=token).app(), sockets
    )
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield Serving(collector, clock, port, client)
    finally:
        server.stop()


def free_row(count: int) -> list[socket.socket]:
    """Sockets on free ports in a row: found by trying."""
    from ghosttrain.core.errors import WorldError

    for _ in range(100):
        with contextlib.closing(listen("127.0.0.1", 0)[0]) as probe:
            first = int(probe.getsockname()[1])
        with contextlib.suppress(WorldError):
            return listen("127.0.0.1", first, count)
    raise AssertionError("no free ports in a row")


def raw(port: int, data: bytes, *, timeout_s: float = 10.0, ends: bool = True) -> bytes:
    """What the server sends back to some bytes, until it closes or falls silent.

    With `ends` it is told that no more bytes come, and takes that for having been left.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(data)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := connection.recv(65536):
                answer += part
    return answer


class ServeProcess:
    """`ghosttrain serve` as a user starts it."""

    def __init__(self, *words: str) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ghosttrain", "serve", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self.told = ""

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def wait_until_told(self) -> str:
        """Everything it says at its start; returns where it is."""
        assert self.process.stdout is not None
        while "Ctrl-C" not in self.told:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(self.told + str(self.process.communicate()))
            self.told += line
        found = re.search(r"http://[^/]+", self.told)
        assert found is not None
        return found[0]

    def end(self, number: signal.Signals) -> tuple[int, float, str]:
        """Exit code, wall seconds until then, and what stderr got, after a signal."""
        begun = time.perf_counter()
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        taken = time.perf_counter() - begun
        return code, taken, self.process.communicate()[1]
