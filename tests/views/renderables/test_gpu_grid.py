from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.events import FleetSamples
from ghosttrain.core.spec import Gpu
from ghosttrain.views.renderables.glyphs import ASCII, UNICODE, Glyphs
from ghosttrain.views.renderables.gpu_grid import gpu_grid
from tests.views.renderables.fleets import GB200, H100, H200, even_fleet, random_fleet


def grid(
    samples: FleetSamples,
    width: int,
    *,
    gpu: Gpu = H100,
    gpus_per_node: int = 8,
    height: int = 100,
    glyphs: Glyphs = UNICODE,
    color: bool = True,
) -> list[str]:
    """The texts of the grid's lines."""
    lines = gpu_grid(
        samples,
        k=0,
        gpu=gpu,
        gpus_per_node=gpus_per_node,
        width=width,
        height=height,
        glyphs=glyphs,
        color=color,
    )
    assert len(lines) <= height
    assert all(len(line) == len(line.text) for line in lines)
    return [line.text for line in lines]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, "Node 0" + " ● 99% 61C 65/80G 612W" * 8),
        (175, "Node 0" + " ● 99% 61C 65G 612W" * 8),
        (150, "Node 0" + " ● 99% 61C 65/80G" * 8),
        (120, "Node 0" + " ● 99% 61C 65G" * 8),
        (100, "Node 0" + " ● 99% 61C 65/80G 612W" * 4),
        (80, "Node 0" + " ● 99% 61C 65/80G" * 4),
        (60, "N0 ▇▇▇▇▇▇▇▇   99%  61C  65/80G  612W"),
        (30, "N0 ▇▇▇▇▇▇▇▇  99% 61C 65/80G"),
        (20, "N0 ▇▇▇▇▇▇▇▇  99% 61C"),
    ],
)
def test_the_widest_form_that_fits(width, line):
    assert grid(even_fleet(64), width)[1] == line


def test_the_second_line_of_a_node_has_no_label():
    assert grid(even_fleet(64), 80)[2] == "      " + " ● 99% 61C 65/80G" * 4


def test_numbers_do_not_move_when_a_digit_comes_or_goes():
    low = grid(even_fleet(64, util=7, temp=9, memory=4, power=98), 200)[1]
    high = grid(even_fleet(64, util=100, temp=71, memory=70, power=699), 200)[1]
    assert low.startswith("Node 0 ●  7%  9C  4/80G  98W ●")
    assert high.startswith("Node 0 ●100% 71C 70/80G 699W ●")
    assert len(low) == len(high)


def test_a_large_card_has_room_for_three_digits_of_memory():
    samples = even_fleet(8, memory=130)
    assert grid(samples, 200, gpu=H200)[1] == "Node 0" + " ● 99% 61C 130/140G 612W" * 8
    assert grid(samples, 120, gpu=H200)[1] == "Node 0" + " ● 99% 61C 130/140G 612W" * 4


def test_four_gpus_to_a_tray_stand_two_trays_to_a_line():
    samples = even_fleet(12, memory=150, power=1012)
    gib = f"{GB200.memory_gib:.0f}"
    tray = f" ● 99% 61C 150/{gib}G 1012W" * 4
    assert grid(samples, 260, gpu=GB200, gpus_per_node=4)[1:] == [
        f"Node 0{tray}  Node 1{tray}",
        f"Node 2{tray}",
    ]


def test_sixteen_gpus_to_a_node_stand_on_two_lines():
    lines = grid(even_fleet(16), 120, gpus_per_node=16)
    assert lines[1] == "Node 0" + " ● 99% 61C 65G" * 8
    assert lines[2] == "      " + " ● 99% 61C 65G" * 8


def test_the_last_node_may_have_fewer_gpus():
    assert grid(even_fleet(11), 120)[2] == "Node 1" + " ● 99% 61C 65G" * 3
    assert grid(even_fleet(11), 60)[2] == "N1 ▇▇▇        99%  61C  65/80G  612W"


def test_a_lost_gpu_has_dashes():
    line = grid(even_fleet(8, lost=(1,)), 200)[1]
    assert line.startswith("Node 0 ● 99% 61C 65/80G 612W X --% --C --/80G  --W ●")


def test_means_leave_out_the_lost():
    assert "mean 99% 61C 612W, 65.2/79.6 GiB" in grid(even_fleet(8, lost=(1, 2)), 120)[0]
    assert grid(even_fleet(8, lost=(1,)), 60)[1] == "N0 ▇X▇▇▇▇▇▇   99%  61C  65/80G  612W"


def test_a_node_that_is_gone_has_no_mean():
    lines = grid(even_fleet(16, lost=tuple(range(8))), 60)
    assert lines[1] == "N0 XXXXXXXX   --%  --C  --/80G   --W"


@pytest.mark.parametrize(
    ("temp", "mark"), [(76.4, "*"), (76.6, "!"), (83.4, "!"), (83.6, "X"), (99, "X")]
)
def test_health_by_temperature(temp, mark):
    """Slow-down at 87: yellow within 10 degrees of it as shown, red within 3."""
    assert H100.slowdown_c == 87
    samples = even_fleet(8, temps={0: temp})
    assert grid(samples, 120, color=False)[1].startswith(f"Node 0 {mark} 99%")


@pytest.mark.parametrize(("memory", "mark"), [(74.0, "*"), (74.2, "!"), (77.2, "!"), (77.3, "X")])
def test_health_by_memory(memory, mark):
    assert H100.memory_gib == pytest.approx(79.65, abs=0.01)
    samples = even_fleet(8, memory=memory)
    assert grid(samples, 120, color=False)[1].startswith(f"Node 0 {mark} 99%")


def test_ascii_has_no_other_characters():
    for width in (200, 120, 80, 60, 30):
        for gpus, height in ((64, 100), (1024, 20)):
            lines = grid(even_fleet(gpus), width, glyphs=ASCII, height=height)
            assert "".join(lines).isascii()
    assert grid(even_fleet(8), 60, glyphs=ASCII)[1] == "N0 ########   99%  61C  65/80G  612W"


def test_a_cell_is_coloured_by_health():
    lines = gpu_grid(
        even_fleet(8, temps={1: 80, 2: 85}, lost=(3,)),
        k=0,
        gpu=H100,
        gpus_per_node=8,
        width=120,
        height=10,
        glyphs=UNICODE,
        color=True,
    )
    drawn = lines[1].ansi(color=True)
    assert "\x1b[32m●\x1b[39m 99% 61C" in drawn
    assert "\x1b[33m●\x1b[33m 99% 80C" in drawn
    assert "\x1b[31m●\x1b[31m 99% 85C" in drawn
    assert "\x1b[31mX\x1b[31m --% --C" in drawn


@pytest.mark.parametrize(
    ("width", "heading"),
    [
        (120, "GPU status · 64 × H100-SXM · step 410 · mean 99% 61C 612W, 65.2/79.6 GiB"),
        (70, "64 × H100-SXM · step 410 · mean 99% 61C 612W, 65.2/79.6 GiB"),
        (58, "64 × H100-SXM · step 410 · 99% 61C 612W 65.2/79.6G"),
        (40, "64 × H100-SXM · 99% 61C 612W 65.2/79.6G"),
        (30, "99% 61C 612W 65.2/79.6G"),
        (20, "99% 61C 612W 65.2/7…"),
    ],
)
def test_the_heading_says_what_fits(width, heading):
    assert grid(even_fleet(64), width)[0] == heading


def test_the_heading_counts_what_is_wrong_the_worst_first():
    samples = even_fleet(64, temps={1: 80, 2: 80, 3: 85}, lost=(9,))
    heading = grid(samples, 160)[0]
    assert heading.endswith(" GiB · 1 lost · 1 critical · 2 warm")
    assert grid(samples, 80)[0].endswith(" GiB · 1 lost")


def test_a_fleet_higher_than_the_screen_shows_the_nodes_worth_a_look_over_a_map():
    samples = even_fleet(1024, temps={340: 85}, lost=(500,))
    samples.power_w[0, 999] = 401
    lines = grid(samples, 120, height=30)
    assert lines[1] == "lost N62 · hottest N42 85C · lowest power N124 401W"
    assert [line[:8] for line in lines[2:5]] == ["Node  62", "Node  42", "Node 124"]
    assert lines[5].startswith("Heat map · a cell: GPU · 45C ")
    assert lines[6] == "N0   " + " ".join(["▇▇▇▇▇▇▇▇"] * 12)
    assert lines[11] == "N60  ▇▇▇▇▇▇▇▇ ▇▇▇▇▇▇▇▇ ▇▇▇▇X▇▇▇ " + " ".join(["▇▇▇▇▇▇▇▇"] * 9)
    tail = ["▇▇▇▇▇▇▇▇"] * 4 + ["▇▇▇▇▇▇▇▅"] + ["▇▇▇▇▇▇▇▇"] * 3
    assert lines[-1] == "N120 " + " ".join(tail)


def test_without_colour_the_map_marks_what_is_wrong():
    samples = even_fleet(1024, temps={0: 80, 1: 85}, lost=(2,))
    lines = grid(samples, 120, height=30, color=False)
    assert "! from 77C" in lines[5]
    assert lines[6].startswith("N0   !XX▇▇▇▇▇ ▇▇▇▇▇▇▇▇ ")


def test_half_blocks_of_16384_gpus_fit_128_by_64_cells():
    """What product and sketches promise: the map itself, beside its heading and the grid's."""
    lines = grid(even_fleet(16384), 128, height=64 + 2 + 4)
    assert lines[-64:] == ["▀" * 128] * 64
    assert "a cell: GPU" in lines[-65]


def test_beyond_that_a_cell_is_a_node_then_several():
    assert any("a cell: node" in line for line in grid(even_fleet(16384), 80, height=22))
    assert any(
        re.search(r"a cell: \d+ nodes", line) for line in grid(even_fleet(16384), 80, height=9)
    )


def test_one_bad_gpu_marks_the_cell_of_its_nodes():
    lines = grid(even_fleet(16384, temps={8 * 40 + 3: 86}), 80, height=12, color=False)
    assert "".join(lines[-5:]).count("X") >= 1


WIDTHS = st.integers(20, 260)
CARDS = st.sampled_from((H100, H200, GB200, replace(H100, shutdown_c=105.0)))


@given(
    width=WIDTHS,
    height=st.integers(0, 70),
    gpus=st.sampled_from((1, 2, 7, 8, 9, 20, 64, 72, 300, 1024, 4099)),
    gpus_per_node=st.sampled_from((1, 2, 3, 4, 8, 10, 16)),
    gpu=CARDS,
    glyphs=st.sampled_from((UNICODE, ASCII)),
    color=st.booleans(),
    seed=st.integers(0, 99),
    step=st.sampled_from((1, 10**4, 10**7)),
)
def test_nothing_is_ever_too_wide_or_too_high(
    width, height, gpus, gpus_per_node, gpu, glyphs, color, seed, step
):
    lines = grid(
        random_fleet(gpus, seed=seed, step=step),
        width,
        gpu=gpu,
        gpus_per_node=gpus_per_node,
        height=height,
        glyphs=glyphs,
        color=color,
    )
    assert all(len(line) <= width for line in lines)
    assert not any(re.search(r"[\x00-\x1f\x7f]", line) for line in lines)


@given(gpus_per_node=st.sampled_from((4, 8)), width=st.integers(63, 260), seed=st.integers(0, 99))
def test_lines_of_full_nodes_are_equally_long(gpus_per_node, width, seed):
    samples = random_fleet(gpus_per_node * 16, seed=seed)
    lines = grid(samples, width, gpu=H200, gpus_per_node=gpus_per_node)[1:]
    assert all(len(a) == len(b) for a, b in pairwise(lines))
