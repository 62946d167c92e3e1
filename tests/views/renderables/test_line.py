from __future__ import annotations

import pytest

from ghosttrain.views.renderables.line import Line, Raw

TWO = Line.of("loss ", ("3.64", "bold"))


@pytest.mark.parametrize(
    ("width", "text"),
    [(9, "loss 3.64"), (8, "loss 3.…"), (6, "loss …"), (5, "loss…"), (1, "…"), (0, "")],
)
def test_a_line_is_cut_to_the_width(width, text):
    assert TWO.fit(width).text == text


def test_ascii_cuts_with_its_own_ellipsis():
    assert TWO.fit(6, ellipsis="~").text == "loss ~"


def test_styles_become_sequences_only_with_colour():
    assert TWO.ansi(color=True) == "loss \x1b[1m3.64\x1b[0m"
    assert TWO.ansi(color=False) == "loss 3.64"


def test_raw_knows_its_cells_and_its_text():
    raw = Raw("\x1b[38;5;34m▀▀\x1b[0m")
    assert (len(raw), raw.text) == (2, "▀▀")
    assert raw.ansi(color=True) == "\x1b[38;5;34m▀▀\x1b[0m"
    assert raw.ansi(color=False) == "▀▀"


def test_raw_is_cut_without_its_colours():
    raw = Raw("\x1b[32m●\x1b[39m 99% 61C\x1b[0m", 9)
    assert raw.fit(9) is raw
    assert raw.fit(6).text == "● 99%…"


def test_raw_is_equal_by_what_it_draws():
    assert Raw("a") == Raw("a")
    assert Raw("a") != Raw("b")
    assert len({Raw("a"), Raw("a")}) == 1
