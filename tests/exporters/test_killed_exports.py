"""kill -9 at any moment leaves whole files or none; the same export goes on to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ghosttrain.exporters import driver
from ghosttrain.exporters.formats import FORMATS, formats_of
from ghosttrain.exporters.workspace import HIDDEN
from ghosttrain.exporters.writing import Asked
from tests.exporters.killing import files_in
from tests.exporters.runs import real_run
from tests.terminal import ROOT

RUN = real_run(steps=400, faults="gpu-off-bus@8min:9")
SOME = "jsonl,labels,parquet"


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
    assert found["resumed"] >= 5, found
    assert sum(found.values()) == 30


@pytest.mark.slow
def test_killed_before_every_single_change_of_the_disk(tmp_path):
    found = killed("changes", SOME, str(tmp_path))
    assert found["changes"] == found["resumed"] + found["begun"] + found["whole"]
    assert min(found.values()) > 0, found


class Enough(BaseException):
    """Raised half way, as an interrupt is."""


# Two exports of all formats: in one some would write files of the same names.
_SECOND = ("labels-parquet", *(one.name for one in FORMATS if one.name.startswith("tensorboard-")))
_FIRST = tuple(one.name for one in FORMATS if one.name not in _SECOND)


@pytest.mark.parametrize("names", [_FIRST, _SECOND], ids=["most", "the-others"])
def test_every_format_can_be_gone_on_with(names, tmp_path, monkeypatch):
    """What is saved of its exporters is all they need, and batches leave no trace."""
    asked, chosen = Asked(RUN, every_s=120.0), formats_of(",".join(names))
    driver.export(asked, tmp_path / "undisturbed", chosen)
    monkeypatch.setattr(driver, "_MOST_STEPS", 30)
    reached = []
    for slices in (3, 5, 4):
        left = slices

        def tell(progress: driver.Progress) -> None:
            nonlocal left
            left -= 1
            if not left:
                reached.append(progress.reached_s)
                raise Enough

        with pytest.raises(Enough):
            driver.export(asked, tmp_path / "cut", chosen, tell=tell, save_every_wall_s=0.0)
        assert [p.name for p in (tmp_path / "cut").iterdir()] == [HIDDEN]
    assert reached == sorted(set(reached))  # each goes on from where the last one was
    driver.export(Asked(RUN, every_s=120.0), tmp_path / "cut", chosen)
    whole, cut = files_in(tmp_path / "undisturbed"), files_in(tmp_path / "cut")
    assert set(cut) == set(whole)
    assert [name for name in whole if cut[name] != whole[name]] == []
    assert len(whole) >= len(names)
