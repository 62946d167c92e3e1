"""Trackers and history of any run: every window adds up, every file can be read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.core.run import simulate
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.writing import Asked
from tests import strategies
from tests.exporters.tracking import exported

FORMATS = ("megatron", "torchtitan", "hf", "nemo")
NAMES = (*(f"tensorboard-{name}" for name in FORMATS), "wandb", "mlflow", "openmetrics")
LINE = re.compile(rb"#.*|\w+\{.+\} -?[\d.e+-]+ \d+\.\d{3}|\w+\{.+\} NaN \d+\.\d{3}")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5)
@given(data=st.data(), seed=strategies.seeds)
def test_windows_of_any_run_add_up(name, data, seed):
    run = simulate(data.draw(strategies.specs()), seed)
    every_s = max(30.0, float(run.end_s // 40))
    shares = data.draw(st.lists(st.floats(0.0, 1.0), max_size=3))
    cuts = (0.0, *sorted(share * run.end_s for share in shares), float("inf"))
    some = tuple(range(0, run.spec.cluster.gpus, 1 + run.spec.cluster.gpus // 10))
    log_interval = data.draw(st.sampled_from((1, 7, 10)))
    asked = Asked(run, every_s=every_s, log_interval=log_interval, gpus=some)
    whole = exported(EXPORTERS[name].exporter(asked), run, (0.0, float("inf")), every_s=every_s)
    parts = exported(EXPORTERS[name].exporter(asked), run, cuts, every_s=every_s)
    assert parts == whole
    assert whole
    if name == "openmetrics":
        for text in whole.values():
            assert [line for line in text.splitlines() if not LINE.fullmatch(line)] == []
