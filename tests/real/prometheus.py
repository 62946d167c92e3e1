"""A real Prometheus for tests: promtool, and the server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

MISSING = "Debian's package `prometheus` is missing: sh tests/real/install.sh"
SKIP_NONE = "GHOSTTRAIN_SKIP_NONE"  # set by .ci/run: a program that is missing fails the test
START_WALL_S = 20.0


def program(name: str) -> str:
    """Path of an outside program; without it the test is skipped, in CI it fails."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get(SKIP_NONE):
            pytest.fail(f"{name}: {MISSING}")
        pytest.skip(f"{name}: {MISSING}")
    return path


def promtool(*words: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says; its exit code is the caller's to look at."""
    done = subprocess.run(
        [program("promtool"), *map(str, words)], input=stdin, capture_output=True, check=False
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PrometheusServer:
    """A Prometheus server on loopback while the context lasts.

    Args:
        folder: Where its configuration and its storage are put.
        config: The text of prometheus.yml.
        storage: Folder of blocks that exist already; default: a new one.
    """

    def __init__(self, folder: Path, config: str, *, storage: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = folder / "prometheus.yml"
        self._config.write_text(config, encoding="utf-8")
        self._storage = storage or folder / "storage"
        self._log = folder / "prometheus.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrometheusServer:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._storage}",
                    "--storage.tsdb.retention.time=100y",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_WALL_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise AssertionError(f"Prometheus did not start:\n{self.log()}")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What the server has written."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, **values: str | float) -> Any:
        """The `data` of an answer of the HTTP API, as in get("query", query="up")."""
        words = urllib.parse.urlencode({name: str(value) for name, value in values.items()})
        url = f"{self.url}/api/v1/{path}?{words}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.read().decode()}") from None

    def query(self, expression: str, at_unix_s: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant vector: `metric` (labels) and `value` (time, text)."""
        when = {} if at_unix_s is None else {"time": f"{at_unix_s:.3f}"}
        found: list[dict[str, Any]] = self.get("query", query=expression, **when)["result"]
        return found

    def query_range(
        self, expression: str, start_unix_s: float, end_unix_s: float, step_s: float
    ) -> list[dict[str, Any]]:
        """The series of a matrix: `metric` (labels) and `values`, pairs of time and text."""
        found: list[dict[str, Any]] = self.get(
            "query_range",
            query=expression,
            start=f"{start_unix_s:.3f}",
            end=f"{end_unix_s:.3f}",
            step=f"{step_s:.3f}",
        )["result"]
        return found
