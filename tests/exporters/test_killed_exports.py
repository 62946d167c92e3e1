"""kill -9 at any moment leaves whole files or none; the same export goes on to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ghosttrain.exporters.formats import FORMATS
from tests.terminal import ROOT

SOME = "jsonl,labels,labels-parquet"


def killed(*words: str) -> dict[str, int]:
    """What `killing.py` found; it fails where a file is half, or other than undisturbed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.exporters.killing", *words],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_killed_at_30_random_moments(tmp_path):
    found = killed("random", SOME, str(tmp_path), "30")
    assert found["resumed"] >= 10, found
    assert sum(found.values()) == 30


@pytest.mark.slow
def test_killed_before_every_single_change_of_the_disk(tmp_path):
    found = killed("changes", SOME, str(tmp_path))
    assert found["changes"] == found["resumed"] + found["begun"] + found["whole"]
    assert min(found.values()) > 0, found


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
def test_every_format_can_be_gone_on_with(name, tmp_path):
    found = killed("random", name, str(tmp_path), "4")
    assert sum(found.values()) == 4
