"""Offline runs of Weights & Biases: whole records in its log, read back by wandb itself."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from ghosttrain.core.events import StepsCompleted
from ghosttrain.exporters.wandb_offline import OfflineRuns, TransactionLog
from ghosttrain.exporters.writing import Asked
from tests.exporters.tracking import exported, put
from tests.views.renderables.fleets import faulty_run

BLOCK = 32768
NAME = re.compile(r"wandb/offline-run-(\d{8}_\d{6})-([0-9a-z]{8})/run-\2\.wandb")


def payloads(data: bytes) -> list[bytes]:
    """The records of a log, by LevelDB's own description of the format."""
    assert data[:7] == b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    at, found, parts, is_open = 7, [], b"", False
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            assert not any(data[at : at + left])
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + 7 : at + 7 + length]
        assert length <= left - 7
        assert checksum == zlib.crc32(bytes([kind]) + part)
        assert (kind in (1, 2)) is not is_open
        parts, is_open = parts + part, kind in (2, 3)
        if not is_open:
            found.append(parts)
            parts = b""
        at += 7 + length
    assert not is_open
    return found


def records(data: bytes) -> list[Any]:
    return [Record.FromString(payload) for payload in payloads(data)]


def items(listed: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in listed}


def logs_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(".wandb")}


@cache
def all_files() -> dict[str, bytes]:
    run = faulty_run()
    return exported(OfflineRuns(Asked(run)), run, (0.0, float("inf")))


def whole() -> dict[str, bytes]:
    return logs_of(all_files())


@given(st.lists(st.integers(0, 3 * BLOCK) | st.sampled_from([BLOCK - 14, BLOCK - 15, BLOCK - 20])))
def test_records_of_any_length_are_framed(lengths):
    log = TransactionLog()
    sent = [bytes([n % 251]) * length for n, length in enumerate([1, *lengths])]
    assert payloads(b"".join(map(log.add, sent))) == sent


def test_each_launch_is_a_run_dated_by_its_beginning():
    found = [NAME.fullmatch(name) for name in whole()]
    assert [match and match[1] for match in found] == ["20260101_000000", "20260101_001635"]
    assert len({match[2] for match in found if match}) == 2


def test_records_come_in_the_order_that_wandb_writes():
    for data in whole().values():
        found = records(data)
        kinds = [record.WhichOneof("record_type") for record in found]
        assert kinds[:2] == ["header", "run"]
        assert kinds[-2:] == ["summary", "exit"]
        assert set(kinds[2:-2]) == {"history", "stats"}
        assert [record.num for record in found] == list(range(1, len(found) + 1))


def test_a_run_says_that_it_is_simulated_and_with_which_seed():
    for launch, data in enumerate(whole().values(), 1):
        run = records(data)[1].run
        facts = items(run.config.update)
        assert facts["simulated"] is True
        assert (facts["seed"], facts["launch"]) == (1234, launch)
        assert list(run.tags) == ["simulated"]


def test_a_row_has_what_the_run_says_of_the_step():
    run = faulty_run()
    steps = [e for e in run.events(0.0, float("inf")) if isinstance(e, StepsCompleted)]
    for attempt, data in enumerate(whole().values(), 1):
        rows = [items(r.history.item) for r in records(data) if r.HasField("history")]
        loss = np.concatenate([e.loss for e in steps if e.attempt == attempt])
        end_s = np.concatenate([e.end_s for e in steps if e.attempt == attempt])
        assert [row["lm loss"] for row in rows] == loss.tolist()
        assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
        made_s = end_s[0] - rows[0]["_runtime"]
        for row, at_s in zip(rows, end_s.tolist(), strict=True):
            if "lm loss validation" not in row:
                assert row["_timestamp"] == run.spec.start_unix_s + at_s
                assert row["_runtime"] == pytest.approx(at_s - made_s)
    validated = [row["_step"] for row in rows if "lm loss validation" in row]
    assert validated == [60, 120, 180]


def test_system_metrics_are_those_of_the_node_that_tells_at_the_simulated_time():
    run = faulty_run()
    first = run.spec.cluster.gpus - 8  # Megatron's last rank tells
    for data in whole().values():
        stats = [record.stats for record in records(data) if record.HasField("stats")]
        assert stats
        for one in stats[:: max(1, len(stats) // 4)]:
            at_s = one.timestamp.seconds + one.timestamp.nanos / 1e9 - run.spec.start_unix_s
            told = run.telemetry(np.array([at_s]), ("power_w", "gpu_temp_c"))
            values = items(one.item)
            for gpu in range(8):
                assert values[f"gpu.{gpu}.powerWatts"] == told.columns["power_w"][0, first + gpu]
                assert values[f"gpu.{gpu}.temp"] == told.columns["gpu_temp_c"][0, first + gpu]


def test_rows_and_system_metrics_stand_in_the_order_of_time():
    for data in whole().values():
        times = []
        for record in records(data):
            if record.HasField("history"):
                times.append(items(record.history.item)["_timestamp"])
            if record.HasField("stats"):
                times.append(record.stats.timestamp.seconds + record.stats.timestamp.nanos / 1e9)
        assert times == sorted(times)


def test_a_launch_that_a_fault_ended_has_failed():
    codes = [records(data)[-1].exit.exit_code for data in whole().values()]
    assert codes == [1, 0]


@given(shares=st.lists(st.floats(0.0, 1.0), max_size=4), pickled=st.booleans())
def test_windows_and_savepoints_change_no_byte(shares, pickled):
    run = faulty_run()
    cuts = (0.0, *sorted(share * run.end_s for share in shares), float("inf"))
    assert exported(OfflineRuns(Asked(run)), run, cuts, pickled=pickled) == all_files()


@given(share=st.floats(0.0, 1.0))
def test_a_window_has_the_rows_that_the_whole_run_has_in_it(share):
    run = faulty_run()
    start_s = share * run.end_s
    window = exported(OfflineRuns(Asked(run, start_s=start_s)), run, (start_s, float("inf")))
    for name, data in logs_of(window).items():
        rows = [r.history for r in records(data) if r.HasField("history")]
        of_all = [r.history for r in records(whole()[name]) if r.HasField("history")]
        of_all = of_all[len(of_all) - len(rows) :]
        assert rows[1:] == of_all[1:]
        for row, of_whole in zip(rows[:1], of_all, strict=False):
            # The window may begin when some of its step's values have been told already.
            assert items(row.item).items() <= items(of_whole.item).items()
        stats = [r.stats for r in records(data) if r.HasField("stats")]
        of_all = [r.stats for r in records(whole()[name]) if r.HasField("stats")]
        assert stats == of_all[len(of_all) - len(stats) :]


class Server(ThreadingHTTPServer):
    """As much of W&B's server as `wandb sync` asks for; keeps what is sent of a run."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.files: dict[str, bytes] = {}
        self.asked: dict[str, Any] = {}


class Answers(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_words: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self.server.files[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            self._answer({"data": self._data(json.loads(body))})
            return
        if self.path.endswith("/file_stream"):
            for name, part in json.loads(body).get("files", {}).items():
                self.server.lines[name] += map(json.loads, part["content"])
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _data(self, question: dict[str, Any]) -> dict[str, Any]:
        asked, query = question["variables"], question["query"]
        if "mutation UpsertBucket" in query:
            self.server.asked = {**asked, **self.server.asked}
            project = {"id": "p", "name": "ghosttrain", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "UnVu", "name": asked["name"], "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "mutation CreateRunFiles" in query:
            here = f"http://127.0.0.1:{self.server.server_port}"
            files = [{"name": name, "uploadUrl": f"{here}/{name}"} for name in asked["files"]]
            made = {"runID": "UnVu", "uploadHeaders": [], "files": files}
            return {"createRunFiles": made}
        return {}


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.real
def test_wandb_sync_sends_all_of_it(tmp_path: Path):
    put(all_files(), tmp_path)
    data = list(whole().values())[-1]
    with serving() as server:
        key = {"WANDB_API_KEY": "local-" + 40 * "a"}  # any key does for this server
        home = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        folder = tmp_path / str(list(whole())[-1]).rpartition("/")[0]
        wandb_says("sync", "--yes", folder, home=tmp_path, more=key | home)
    rows = [items(r.history.item) for r in records(data) if r.HasField("history")]
    sent = server.lines["wandb-history.jsonl"]
    assert sent == [pytest.approx(row) for row in rows]
    stats = [r.stats for r in records(data) if r.HasField("stats")]
    events = server.lines["wandb-events.jsonl"]
    assert [row["system.gpu.3.temp"] for row in events] == [
        items(one.item)["gpu.3.temp"] for one in stats
    ]
    unix_s = [one.timestamp.seconds for one in stats]
    assert [int(row["_timestamp"]) for row in events] == unix_s
    assert json.loads(server.files["wandb-summary.json"])["lm loss"] == rows[-1]["lm loss"]
    assert server.asked["groupName"] == "llama-3-8b-64gpus-seed1234"


def wandb_says(*words: str | Path, home: Path, more: dict[str, str] | None = None) -> str:
    """What wandb's own program prints; `more` of the environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    for folder in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        env[f"WANDB_{folder}"] = str(home)
    env |= more or {}
    command = [sys.executable, "-m", "wandb", *map(str, words)]
    run = subprocess.run(command, capture_output=True, env=env, cwd=home, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.decode() + run.stderr.decode()


@pytest.mark.real
def test_wandbs_own_reader_reads_it_back(tmp_path: Path):
    put(whole(), tmp_path)
    name, data = list(whole().items())[-1]
    summary = json.loads(
        wandb_says("leet", "inspect", "--summary", "--json", tmp_path / name, home=tmp_path)
    )
    told = json.dumps(summary)
    assert "simulated" in told
    lines = wandb_says("leet", "inspect", "--json", tmp_path / name, home=tmp_path).splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == [record.WhichOneof("record_type") for record in records(data)]
    dry = wandb_says("sync", "--dry-run", tmp_path / "wandb", home=tmp_path)
    assert dry.count(".wandb") >= 2
