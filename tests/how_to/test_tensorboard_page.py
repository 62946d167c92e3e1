"""The page on TensorBoard: its commands make runs that TensorBoard reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import blocks
from tests.how_to.pages import page
from tests.how_to.scripts import run_script

MANY, LONG, ONE_MORE, ALL = blocks(page("load-test-tensorboard"), "sh")

pytestmark = pytest.mark.real


def runs_in(folder: Path) -> dict[str, dict[str, int]]:
    """For each run the last step of each tag, as TensorBoard's own reader has it."""
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
        event_accumulator as reader,
    )

    found: dict[str, dict[str, int]] = {}
    for path in sorted(folder.rglob("*tfevents*")):
        events = reader.EventAccumulator(str(path.parent))
        events.Reload()
        tags = events.Tags()["scalars"]
        found[str(path.parent.relative_to(folder))] = {
            tag: events.Scalars(tag)[-1].step for tag in tags
        }
    return found


def test_many_runs_are_in_one_folder(tmp_path: Path):
    cheap = {"seq 1 100": "seq 1 3", "--steps 5000": "--steps 40", "tensorboard --logdir": ": "}
    run_script(MANY, tmp_path, instead=cheap)
    found = runs_in(tmp_path / "runs" / "tensorboard")
    assert len(found) == 3
    assert {tags["lm loss"] for tags in found.values()} == {40}


@pytest.mark.parametrize(
    ("block", "folder", "tag", "cheap"),
    [
        (LONG, "long", "lm loss", {"1000000": "600", "tensorboard --logdir": ": "}),
        (ONE_MORE, "torchtitan", "loss_metrics/global_avg_loss", {"100000": "600"}),
    ],
)
def test_a_long_run_goes_to_its_last_step(tmp_path: Path, block, folder, tag, cheap):
    run_script(block, tmp_path, instead=cheap)
    (tags,) = runs_in(tmp_path / folder / "tensorboard").values()
    assert tags[tag] == 600


def test_frameworks_stand_side_by_side(tmp_path: Path):
    run_script(ALL, tmp_path, instead={"5000": "40", "tensorboard --logdir": ": "})
    found = runs_in(tmp_path / "all" / "tensorboard")
    assert {name.rpartition("/")[2] for name in found} == {"megatron", "torchtitan", "hf", "nemo"}
