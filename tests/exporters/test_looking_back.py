"""A log of a window has the lines that the whole log has there."""

from __future__ import annotations

import re
from functools import cache

import pytest

from ghosttrain.core.run import Run
from ghosttrain.exporters.formats import FORMATS
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import faulty_run

KIND = "gpu-fault"  # a launch that fails, another that goes on from a checkpoint
# Of its launch's beginning: DeepSpeed's running average, NeMo's last validation loss.
EXACT = [form for form in FORMATS if form.looks_back and form.name not in ("deepspeed", "nemo")]


def run() -> Run:
    return faulty_run(KIND)


@cache
def text(name: str, start_s: float, stop_s: float) -> str:
    (form,) = [form for form in FORMATS if form.name == name]
    writer = form.log(Asked(run(), start_s=start_s, stop_s=stop_s))
    events = run().events(start_s, stop_s, sample_every=10)
    made = b"".join([writer.accept(event) for event in events]).decode()
    return re.sub(r"'train_loss': '?[\d.]+'?", "", made)  # the Trainer's sum since the launch


@pytest.mark.parametrize("form", EXACT, ids=lambda form: form.name)
@pytest.mark.parametrize("share", [0.2, 0.37, 0.55, 0.71, 0.9])
def test_two_windows_are_the_whole_log(form, share: float):
    cut_s, end_s = share * run().end_s, run().end_s + 1.0
    whole = text(form.name, 0.0, end_s)
    assert text(form.name, 0.0, cut_s) + text(form.name, cut_s, end_s) == whole


def test_without_looking_back_the_first_line_is_another(monkeypatch: pytest.MonkeyPatch):
    """The test above can fail: a window that begins inside an interval."""
    step = run().steps(25, 25)
    cut_s, end_s = float(step.end_s[0]) + 1e-3, run().end_s + 1.0
    text.cache_clear()
    there = text("hf", cut_s, end_s)
    monkeypatch.setattr("ghosttrain.exporters.formats.look_back", lambda *_: None)
    text.cache_clear()
    assert text("hf", cut_s, end_s) != there
    text.cache_clear()
