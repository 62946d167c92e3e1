"""`ghosttrain serve` as a user has it."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from ghosttrain.cli.common import new_parser, settle
from ghosttrain.cli.main import main
from ghosttrain.cli.serve import add_arguments, following
from tests.serve.servers import JSON, ServeProcess
from tests.terminal import ROOT

SMALL = ("llama-3-8b", "--gpus", "16", "--steps", "60", "--seed", "3", "--port", "0")


@pytest.fixture(scope="module")
def server():
    with ServeProcess(*SMALL, "--faults", "gpu-off-bus@200s:9", "--at", "incident:1-10s") as found:
        found.wait_until_told()
        yield found


def url(server: ServeProcess) -> str:
    found = re.search(r"http://[^/]+", server.told)
    assert found is not None
    return found[0]


def test_it_tells_what_is_where_and_how_to_have_it_again(server):
    assert "simulated" in server.told
    for path in ("/metrics", "/node/K/metrics", "/sd", "/api/v1/state"):
        assert f"{url(server)}{path} " in server.told
    again = next(line for line in server.told.splitlines() if line.startswith("Again: "))
    assert shlex.split(again.removeprefix("Again: "))[:2] == ["ghosttrain", "serve"]
    assert "--seed 3" in again
    assert "--start 2026-01-01T00:00:00Z" in again


def test_it_begins_where_it_is_told_and_goes_on_in_real_time(server):
    first = httpx.get(f"{url(server)}/api/v1/state").json()
    assert 190 <= first["time_s"] < 300
    assert first["speed"] == 1
    time.sleep(1.1)  # a collection lasts a second
    assert first["time_s"] < httpx.get(f"{url(server)}/api/v1/state").json()["time_s"] < 400


def test_control_is_open_to_this_machine(server):
    at = f"{url(server)}/api/v1/control"
    assert httpx.post(at, content=b'{"speed": 2}', headers=JSON).json()["speed"] == 2
    answer = httpx.post(at, content=b'{"speed": 3}', headers=JSON | {"Origin": "http://x.example"})
    assert answer.status_code == 403
    assert httpx.get(f"{url(server)}/api/v1/state").json()["speed"] == 2
    assert httpx.post(at, content=b'{"speed": "real"}', headers=JSON).json()["speed"] == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_it_soon_with_last_words(number, code):
    """Within 0.2 s; on a machine that is busy with other things, in one of three tries."""
    taken: list[float] = []
    while len(taken) < 3 and not (taken and min(taken) < 0.2):
        with ServeProcess(*SMALL) as server:
            at = server.wait_until_told()
            with httpx.Client() as client:  # a connection that stays open
                client.get(f"{at}/metrics")
                got, taken_s, words = server.end(number)
        taken.append(taken_s)
        assert got == code
        assert re.fullmatch(
            r"Interrupted at 2026-01-01 00:00:\d\d: Llama-3-8B on 16 × h100-sxm\."
            r" Again: ghosttrain serve llama-3-8b .*--seed 3 .*\n",
            words,
        )
    assert min(taken) < 0.2


def test_injected_faults_are_in_the_command_that_has_it_again():
    with ServeProcess(*SMALL) as server:
        at = server.wait_until_told()
        body = b'{"seek": 100, "inject": "gpu-off-bus:9"}'
        assert httpx.post(f"{at}/api/v1/control", content=body, headers=JSON).status_code == 200
        _, _, words = server.end(signal.SIGINT)
    assert "--faults gpu-off-bus@100s:9" in words


def test_a_taken_port_ends_it_with_1():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "ghosttrain", "serve", *SMALL[:-1], port],
            capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"ghosttrain: port {port} on 127.0.0.1 is taken")
    assert "Traceback" not in done.stderr


def test_it_ends_after_a_time_with_0(capfd):
    assert main(["serve", *SMALL, "--exit-after", "0.3s", "--runs", "1"]) == 0
    told = capfd.readouterr()
    assert told.err == ""
    assert "Ctrl-C" in told.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--speed", "auto"], "stays"),
        (["--speed", "max"], "stays"),
        (["--speed", "0"], "speed"),
        (["--speed", "1e9"], "up to"),
        (["--port", "65536"], "no port"),
        (["--port", "-1"], "no port"),
        (["--port", "http"], "no port"),
        (["--metrics", "defualt"], "did you mean default"),
        (["--metrics", ""], "names none"),
        (["--dcgm-exporter", "2.0.0"], "give a release"),
        (["--quirks", "sticky"], "there are sticky-xid, lost-vanish"),
        (["--mapping", "docker"], "invalid choice"),
        (["--at", "tomorrow"], "tomorrow"),
        (["--at", "400d"], "the run goes from"),
        (["--at", "incident:1"], "no incident 1"),
        (["--runs", "0"], "above 0"),
        (["--collect-interval", "0"], "makes no sense"),
        (["--exit-after", "never"], "makes no sense"),
        (["--token", "short"], "8 to 200"),
        (["--token", "with a blank in it"], "8 to 200"),
        (["--port-per-node"], "--port-per-node needs the first of a row"),
        (["--tokne", "x"], "did you mean --token"),
    ],
)
def test_what_cannot_be_is_refused_with_2(words, complaint, capfd):
    assert main(["serve", *SMALL, *words]) == 2
    told = capfd.readouterr()
    assert complaint in told.err
    assert told.out == ""
    assert told.err.count("\n") <= 2


@pytest.mark.parametrize("module", ["starlette.applications", "uvicorn", "prometheus_client"])
def test_a_missing_package_is_told(monkeypatch, capfd, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve", *SMALL]) == 2
    told = capfd.readouterr().err
    assert module.partition(".")[0] in told
    assert "pip install 'ghosttrain[serve]'" in told


def test_it_can_be_told_where_only_ascii_shows():
    done = subprocess.run(
        [sys.executable, "-m", "ghosttrain", "serve", *SMALL, "--exit-after", "0.1s"],
        capture_output=True, timeout=30, check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0
    assert b"on 16 x h100-sxm" in done.stdout
    assert done.stderr == b""


def parsed(*words: str) -> argparse.Namespace:
    parser = new_parser("serve", "", ())
    add_arguments(parser)
    args = parser.parse_args([*SMALL, *words])
    args.words = list(words)
    settle(args, watched=False)
    return args


def test_runs_follow_one_another_with_the_next_seed():
    args = parsed("--runs", "2")
    next_run = following(args)
    run = next_run()
    assert run is not None
    assert (run.seed, args.seed) == (4, 4)
    assert next_run() is None
    assert parsed("--runs", "loop").runs is None


def test_a_next_run_that_cannot_be_leaves_the_last_one(tmp_path, capfd):
    args = parsed()
    next_run = following(args)
    args.spec = str(tmp_path / "gone.toml")
    assert next_run() is None
    assert next_run() is None
    assert args.seed == 3
    assert capfd.readouterr().err.count("there is no next run") == 1


def test_elsewhere_than_on_loopback_control_needs_a_token_that_is_told():
    with ServeProcess(*SMALL, "--host", "0.0.0.0") as server:
        server.wait_until_told()
        token = re.search(r"Bearer (\S+)", server.told)
        assert token is not None
        assert len(token[1]) >= 20
        port = re.search(r":(\d+)/metrics", server.told)
        assert port is not None
        at = f"http://127.0.0.1:{port[1]}/api/v1/control"
        assert httpx.post(at, json={"pause": True}).status_code == 401
        headers = {"Authorization": f"Bearer {token[1]}"}
        assert httpx.post(at, json={"pause": True}, headers=headers).status_code == 200


def test_the_same_command_gives_the_same_pages():
    """At the same run time, on two servers, whatever the wall clock says."""
    pages = []
    for _ in range(2):
        with ServeProcess(*SMALL) as server:
            at = server.wait_until_told()
            for orders in ({"pause": True}, {"seek": 150}):
                httpx.post(f"{at}/api/v1/control", content=json.dumps(orders), headers=JSON)
            pages.append(httpx.get(f"{at}/metrics").text)
    assert pages[0] == pages[1]
