"""The first frame: bars before anything heavy is loaded, replaced without a trace."""

import pytest

from ghosttrain.views.renderables.bars import bar
from ghosttrain.views.show.opening import opening_rows
from ghosttrain.views.show.terminal import Terminal


def terminal(columns, lines=24, *, moves=True, color=False):
    facts = Terminal(is_tty=True, moves=moves, color=color, unicode=True)

    class Sized(Terminal):
        __slots__ = ()

        def size(self):
            return columns, lines

    return Sized(is_tty=facts.is_tty, moves=facts.moves, color=facts.color, unicode=facts.unicode)


def test_they_are_the_bars_at_their_start():
    assert opening_rows(terminal(80)) == [
        f"Epoch: {bar(0.0, 25)}   0%",
        f"Step:  {bar(0.0, 35)}   0%",
    ]


@pytest.mark.parametrize("columns", [40, 45, 47, 60])
def test_they_fit_narrow_terminals(columns):
    assert all(len(row) <= columns for row in opening_rows(terminal(columns)))


@pytest.mark.parametrize(
    "small", [terminal(39), terminal(80, 3), terminal(80, moves=False)], ids=["thin", "low", "dumb"]
)
def test_there_are_none_where_nothing_is_pinned(small):
    assert opening_rows(small) == []
