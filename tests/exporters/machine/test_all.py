"""What holds for every log of the machines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import faulty_run, files_of

FORMATS = ("nccl", "all-reduce-perf", "kernel", "stderr", "slurm")
SOME = (0, 8, 17, 63)
RUNS = ("gpu-off-bus", "switch-down", "node-reboot", "host-oom", "nic-down")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8)
@given(data=st.data())
def test_windows_batches_and_pickling_do_not_show(name: str, data: st.DataObject):
    run = faulty_run(data.draw(st.sampled_from(RUNS)))
    times = [e.time_s for e in run.events(0.0, math.inf, sample_every=1000)]
    moments = st.sampled_from(times).map(lambda t: t + 1e-4) | st.floats(0.0, run.end_s)
    cuts = data.draw(st.lists(moments, max_size=4))
    every = data.draw(st.sampled_from((1, 10, 30)))
    asked = Asked(run, gpus=SOME) if name == "nccl" else Asked(run)
    assert files_of(asked, name, cuts, every) == files_of(asked, name)
