from __future__ import annotations

import numpy as np
import pytest

from ghosttrain.core.events import FleetSamples
from ghosttrain.core.spec import Gpu
from ghosttrain.views.renderables.plain_grid import PlainGrid, plain_grid
from tests.views.renderables.fleets import GB200, H100, even_fleet, random_fleet


def text(samples: FleetSamples, gpu: Gpu = H100, gpus_per_node: int = 8) -> list[str]:
    return plain_grid(samples, gpu, gpus_per_node)[0].decode().splitlines()


def test_heading_and_whole_lines():
    cells = " | ".join(f"GPU{i}  99% 61C 65.2/79.6GiB 612W" for i in range(8))
    assert text(even_fleet(16)) == [
        "GPU status | step 410 | 16 x H100-SXM | mean 99% 61C 612W 65.2/79.6GiB",
        f"Node 0: {cells}",
        f"Node 1: {cells}",
    ]


def test_large_cards_and_half_nodes():
    samples = even_fleet(6, memory=150.04, power=1012)
    total = f"{GB200.memory_gib:.1f}"
    cells = [f"GPU{i}  99% 61C 150.0/{total}GiB 1012W" for i in range(4)]
    lines = text(samples, GB200, 4)
    assert lines[1:] == ["Node 0: " + " | ".join(cells), "Node 1: " + " | ".join(cells[:2])]


def test_marks_of_what_is_not_well():
    line = text(even_fleet(8, temps={0: 80, 1: 85}, lost=(2,)))[1]
    assert line.startswith(
        "Node 0: GPU0! 99% 80C 65.2/79.6GiB 612W | GPU1X 99% 85C 65.2/79.6GiB 612W | "
        "GPU2X --% --C   --/79.6GiB  --W | GPU3  99% 61C"
    )


def test_marks_do_not_outlive_their_sample():
    grid = PlainGrid(H100, 8, 8)
    grid.write(even_fleet(8, temps={0: 85}))
    assert b"GPU0  99% 61C" in grid.write(even_fleet(8))[0]


@pytest.mark.parametrize("gpus", [1, 20, 64, 3000])
def test_samples_do_not_depend_on_how_many_are_written_at_once(gpus):
    samples = random_fleet(gpus, count=70)
    blocks = plain_grid(samples, H100, 8)
    alone = PlainGrid(H100, 8, gpus)
    for k in (0, 31, 32, 69):
        assert alone.write(samples.part(k, k + 1)) == [blocks[k]]


def test_every_value_is_the_nearest():
    """One line by Python's own formatting, whatever the values; halves go up."""
    samples = random_fleet(8, seed=3)
    values = zip(
        samples.util_pct[0].tolist(),
        samples.temp_c[0].tolist(),
        (np.floor(samples.memory_gib[0] * np.float32(10) + np.float32(0.5)) / 10).tolist(),
        samples.power_w[0].tolist(),
        strict=True,
    )
    line = text(samples)[1]
    for i, (util, temp, memory, power) in enumerate(values):
        if i in samples.lost:
            continue
        memory, power = min(memory, 99.9), min(int(power + 0.5), 999)  # what the card's form holds
        wanted = f"{int(util + 0.5):3d}% {int(temp + 0.5):2d}C {memory:4.1f}/79.6GiB {power:3d}W"
        assert wanted in line.split(" | ")[i]


def test_nothing_but_printable_ascii():
    data = b"".join(plain_grid(random_fleet(100, count=3), GB200, 4))
    assert set(data) <= {10, *range(32, 127)}
