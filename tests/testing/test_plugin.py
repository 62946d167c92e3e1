"""The plugin as pytest finds it in a project of somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.terminal import ROOT
from tests.test_architecture import newly_loaded

pytestmark = pytest.mark.usefixtures("_installed")

USING = """\
urls = []

def test_a_server_is_there(ghosttrain_server):
    server = ghosttrain_server("llama-3-8b", gpus=16, steps=60, faults="gpu-off-bus@100s:9")
    other = ghosttrain_server("llama-3-8b", gpus=8, steps=60)
    server.to_incident(1, "effect", plus="1s")
    assert len(server.scrape().samples("DCGM_FI_DEV_GPU_TEMP")) == 15
    assert len(other.scrape().samples("DCGM_FI_DEV_GPU_TEMP")) == 8
    urls.extend([server.metrics_url, other.metrics_url])

def test_they_end_with_their_test():
    import urllib.error, urllib.request
    for url in urls:
        try:
            urllib.request.urlopen(url, timeout=5)
        except urllib.error.URLError:
            continue
        raise AssertionError(url)
    assert len(urls) == 2
"""
NOT_USING = """\
import sys

def test_nothing_heavy_is_loaded():
    heavy = {"numpy", "starlette", "uvicorn", "prometheus_client", "rich"}
    assert "ghosttrain.testing.plugin" in sys.modules
    assert heavy.isdisjoint(sys.modules)
"""


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an installer makes of our entry points, before what may be installed here."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    info = tmp_path / "site" / "ghosttrain-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghosttrain\nVersion: 0.1.0\n")
    lines = [f"{name} = {at}" for name, at in entry_points["entry-points"]["pytest11"].items()]
    (info / "entry_points.txt").write_text("[pytest11]\n" + "\n".join(lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(info.parent), str(ROOT / "src")]))


def run_pytest(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_theirs.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:randomly"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), *words, str(folder / "test_theirs.py")],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_fixture_is_there_and_its_servers_end_with_the_test(tmp_path):
    done = run_pytest(tmp_path, USING)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_it_costs_those_nothing_who_do_not_use_it(tmp_path):
    done = run_pytest(tmp_path, NOT_USING)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_fixture_is_listed_with_its_words(tmp_path):
    done = run_pytest(tmp_path, NOT_USING, "--fixtures")
    assert "ghosttrain_server" in done.stdout
    assert "Starts servers of runs" in done.stdout


def test_importing_it_loads_little():
    loaded = newly_loaded("import ghosttrain.testing.plugin", after="import pytest")
    assert loaded - sys.stdlib_module_names == {"ghosttrain"}


def test_the_fixture_serves_our_own_tests_too(ghosttrain_server):
    server = ghosttrain_server("llama-3-8b", gpus=8, steps=60, at="1min")
    with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
        assert b"ghosttrain_info{" in answer.read()


def test_a_wrong_word_is_told_where_it_was_said(tmp_path):
    wrong = "def test_it(ghosttrain_server):\n    ghosttrain_server('lama-3-8b')\n"
    done = run_pytest(tmp_path, wrong)
    assert "did you mean llama-3-8b" in done.stdout
