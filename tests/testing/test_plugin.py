"""The plugin as pytest finds it in a project of somebody else."""

from __future__ import annotations

import sys
import urllib.request

import pytest

from tests.real.prometheus import program
from tests.terminal import ROOT
from tests.test_architecture import newly_loaded
from tests.testing.projects import run_pytest

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

def test_a_wrong_word_is_told(ghosttrain_server):
    ghosttrain_server("lama-3-8b")
"""
NOT_USING = """\
import sys

def test_nothing_heavy_is_loaded():
    heavy = {"numpy", "starlette", "uvicorn", "prometheus_client", "rich"}
    assert "ghosttrain.testing.plugin" in sys.modules
    assert heavy.isdisjoint(sys.modules)
"""


def test_the_fixture_is_there_and_its_servers_end_with_the_test(tmp_path):
    done = run_pytest(tmp_path, USING)
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "UnknownNameError: unknown model 'lama-3-8b': did you mean llama-3-8b?" in done.stdout


def test_it_costs_those_nothing_who_do_not_use_it(tmp_path):
    done = run_pytest(tmp_path, NOT_USING)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_importing_it_loads_little():
    loaded = newly_loaded("import ghosttrain.testing.plugin", after="import pytest")
    assert loaded - sys.stdlib_module_names == {"ghosttrain"}


def test_the_fixture_serves_our_own_tests_too(ghosttrain_server):
    server = ghosttrain_server("llama-3-8b", gpus=8, steps=60, at="1min")
    with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
        assert b"ghosttrain_info{" in answer.read()


@pytest.mark.real
def test_the_example_is_right_about_alerts(tmp_path):
    for name in ("promtool", "prometheus"):
        program(name)
    example = (ROOT / "examples" / "test_alert.py").read_text("utf-8")
    done = run_pytest(tmp_path, example)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
