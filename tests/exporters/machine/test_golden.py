"""Golden files of the machines' logs: a run whose GPU 17 falls off the bus, as people read it.

    python -m tests.exporters.machine.test_golden --write

writes them anew; read the diff as somebody who knows the tools. Values of telemetry are not here:
other builds of NumPy give other last digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import faulty_run, files_of
from tests.exporters.machine.test_nccl import made_run

FOLDER = Path(__file__).parents[2] / "golden" / "machine"
NAMES = ("all_reduce_perf.txt", "kernel.log", "nccl.rank-17.log", "slurm.out", "stderr.rank-0.log")


def golden(name: str) -> str:
    """What the file of that name should hold."""
    asked = Asked(faulty_run("gpu-off-bus"), gpus=(17,))
    match name:
        case "all_reduce_perf.txt":
            return files_of(Asked(made_run()), "all-reduce-perf")["all_reduce_perf.txt"]
        case "kernel.log":
            return files_of(asked, "kernel")["kernel/gpu-0002.log"]
        case "nccl.rank-17.log":
            return files_of(asked, "nccl")["nccl.log"]
        case "slurm.out":
            return files_of(asked, "slurm")["slurm-52111.out"]
        case _:
            (text,) = files_of(Asked(asked.run, gpus=(0,)), "stderr").values()
            return text


@pytest.mark.parametrize("name", NAMES)
def test_files_are_the_golden_ones(name: str):
    assert golden(name) == (FOLDER / name).read_text()


if __name__ == "__main__" and "--write" in sys.argv:
    FOLDER.mkdir(exist_ok=True)
    for each in NAMES:
        (FOLDER / each).write_text(golden(each))
