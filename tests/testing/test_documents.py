"""The examples of docs/testing.md run as they stand there."""

from __future__ import annotations

import re

import pytest

from tests.real.prometheus import program
from tests.terminal import ROOT
from tests.testing.projects import run_pytest

PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_script_says_where_it_serves_and_what_is_wrong(capfd):
    (script,) = [block for block in BLOCKS if "print(" in block]
    exec(compile(script, "testing.md", "exec"), {})
    told = capfd.readouterr().out
    found = re.fullmatch(r"http://127.0.0.1:\d+/metrics (.*)\n", told)
    assert found is not None, told
    assert found[1] == "[('straggler-gpu', 'gpu 3')]"


@pytest.mark.real
def test_the_tests_pass(tmp_path):
    program("promtool")
    tests = [block for block in BLOCKS if "def test_" in block]
    done = run_pytest(tmp_path, "\n".join(tests))
    assert "3 passed" in done.stdout, done.stdout + done.stderr
