"""The Screen on emulated terminals: pinned lines last, nothing stale, everything put back."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.core.errors import WorldError
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.show.screen import Screen
from ghosttrain.views.show.terminal import Terminal, shows_unicode, write_all
from tests.terminal import FakeTerminal


def facts(**changes) -> Terminal:
    return Terminal(**{"is_tty": True, "moves": True, "color": True, "unicode": True} | changes)


def screen_on(terminal: FakeTerminal, **changes) -> Screen:
    return Screen(facts(**changes), write=terminal.write, size=terminal.size)


def bars(number: int, count: int = 2):
    """Pinned lines that are recognised again: 'Epoch' and 'Step', as wide as the terminal."""

    def draw(width: int, height: int) -> list[Line]:
        names = ("Epoch", "Step", "Loss")[:count]
        return [Line.of((f"{name} {number} ".ljust(width, "="), "green")) for name in names]

    return draw


def grid(width: int, height: int) -> list[Line]:
    return [Line.of(f"grid for {width}"), Line.of(("▇" * width, "green"))]


def pinned_rows(terminal: FakeTerminal) -> list[str]:
    return [row for row in terminal.rows() if row.startswith(("Epoch", "Step", "Loss"))]


def test_pinned_lines_stay_last_while_lines_scroll():
    terminal = FakeTerminal(60, 10)
    screen = screen_on(terminal)
    for n in range(30):
        screen.log(Line.of(f"line {n}"))
        screen.draw(bars(n))
        rows = terminal.text_rows()
        assert [row.split(" =")[0] for row in rows[-2:]] == [f"Epoch {n}", f"Step {n}"]
        assert rows[-3] == f"line {n}"
        assert len(pinned_rows(terminal)) == 2
    assert terminal.text_rows()[:8] == [f"line {n}" for n in range(22, 30)]


def test_a_frame_is_one_write_and_nothing_new_is_none():
    terminal = FakeTerminal()
    screen = screen_on(terminal)
    screen.log(*(Line.of(f"line {n}") for n in range(100)))
    screen.draw(bars(1))
    assert len(terminal.writes) == 1
    screen.draw(bars(1))
    assert len(terminal.writes) == 1
    screen.draw(bars(2))
    assert len(terminal.writes) == 2
    assert b"line" not in terminal.writes[1]


def test_only_changed_pinned_rows_are_written():
    terminal = FakeTerminal()
    screen = screen_on(terminal)
    screen.draw(lambda w, h: [Line.of("same row"), Line.of("other 1")])
    screen.draw(lambda w, h: [Line.of("same row"), Line.of("o 2")])
    assert b"same" not in terminal.writes[1]
    assert terminal.text_rows() == ["same row", "o 2"]


@pytest.mark.parametrize("columns", [40, 41, 59, 60, 80, 119, 120, 200])
def test_long_lines_are_cut_not_wrapped(columns):
    terminal = FakeTerminal(columns, 12)
    screen = screen_on(terminal)
    for n in range(4):
        screen.log(Line.of(f"{n} " + "x" * 300), grid)
        screen.draw(bars(n, 3))
    rows = terminal.text_rows()
    assert [row[:2] for row in rows if row.endswith("…")] == ["1 ", "2 ", "3 "]
    assert all(row.endswith("=") for row in rows[-3:])
    assert all(len(row) == columns for row in rows if not row.startswith("grid"))


@pytest.mark.parametrize("reflows", [False, True])
@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(30, 200), st.integers(2, 50), st.integers(0, 3), st.integers(1, 3)),
        min_size=1,
        max_size=12,
    )
)
def test_no_stale_pinned_lines_after_any_resize(reflows, steps):
    terminal = FakeTerminal(80, 24, reflows=reflows)
    screen = screen_on(terminal)
    logged = 0
    for n, (columns, lines, fresh, count) in enumerate(steps):
        for _ in range(fresh):
            screen.log(Line.of(f"line {logged} ".ljust(90, "x")))
            logged += 1
        screen.log(grid)
        screen.draw(bars(n, count))
        terminal.resize(columns, lines)
        screen.draw(bars(n, count))
        shown = min(count, lines - 1) if columns >= 40 else 0
        assert len(pinned_rows(terminal)) == shown
        rows = terminal.text_rows()
        if shown:
            assert all(row.startswith(("Epoch", "Step", "Loss")) for row in rows[-shown:])
        grids = [row for row in rows if row.startswith("grid")]
        assert set(grids) <= {f"grid for {columns}"}
        numbers = [int(row.split()[1]) for row in rows if row.startswith("line")]
        assert numbers == sorted(set(numbers))
    screen.close()
    assert not terminal.cursor_is_hidden()


def test_a_resized_screen_is_filled_from_what_was_logged():
    terminal = FakeTerminal(80, 10)
    screen = screen_on(terminal)
    screen.adopt(Line.of("the first line"))
    screen.log(*(Line.of(f"line {n}") for n in range(40)))
    screen.draw(bars(1))
    terminal.resize(100, 30)
    screen.draw(bars(1))
    assert terminal.text_rows()[:28] == [f"line {n}" for n in range(12, 40)]
    assert len(terminal.text_rows()) == 30


def test_the_ring_forgets_and_stays_small():
    terminal = FakeTerminal(80, 10)
    screen = screen_on(terminal)
    for _ in range(50):
        screen.log(*[Line.of("x")] * 50, *[lambda w, h: [Line.of("y")] * 40] * 2)
        screen.draw()
    assert len(screen._ring) <= 300
    assert screen._ring_rows <= 700


def test_close_puts_everything_back_and_is_idempotent():
    terminal = FakeTerminal(80, 24)
    screen = screen_on(terminal)
    screen.log(Line.of("line"))
    screen.draw(bars(1))
    assert terminal.cursor_is_hidden()
    screen.close()
    screen.close()
    screen.draw(bars(2))
    assert not terminal.cursor_is_hidden()
    assert terminal.cursor == (0, 3)
    assert len(terminal.writes) == 2
    assert terminal.text_rows()[0] == "line"


def test_a_screen_that_drew_nothing_writes_nothing():
    terminal = FakeTerminal()
    screen_on(terminal).close()
    assert terminal.writes == []


def test_close_after_a_torn_frame_leaves_the_cursor_on_its_own_line():
    terminal = FakeTerminal()
    screen = screen_on(terminal)
    screen.draw(bars(1))

    def torn(_fd, data):
        terminal.write(1, bytes(data)[:30])
        raise KeyboardInterrupt

    screen._write = torn
    screen.log(Line.of("line"))
    with pytest.raises(KeyboardInterrupt):
        screen.draw(bars(2))
    screen._write = terminal.write
    screen.close()
    assert not terminal.cursor_is_hidden()
    assert terminal.cursor[0] == 0


def test_suspending_takes_the_pinned_lines_off():
    terminal = FakeTerminal()
    screen = screen_on(terminal)
    screen.log(Line.of("line"))
    screen.draw(bars(1))
    screen.suspend()
    assert terminal.text_rows() == ["line"]
    assert not terminal.cursor_is_hidden()
    terminal.write(1, b"$ fg\r\n")
    screen.draw(bars(2))
    assert terminal.text_rows()[:2] == ["line", "$ fg"]
    assert len(pinned_rows(terminal)) == 2
    assert terminal.cursor_is_hidden()


@pytest.mark.parametrize("columns", [20, 39])
def test_narrow_terminals_get_plain_lines(columns):
    terminal = FakeTerminal(columns, 10)
    screen = screen_on(terminal)
    for n in range(5):
        screen.log(Line.of(f"{n} " + "x" * 100))
        screen.draw(bars(n))
    assert pinned_rows(terminal) == []
    assert [row[0] for row in terminal.text_rows()] == list("01234")


def test_a_dumb_terminal_gets_lines_without_escapes():
    terminal = FakeTerminal(60, 10)
    screen = screen_on(terminal, moves=False, color=False)
    screen.log(Line.of(("x" * 100, "green")), grid)
    screen.draw(bars(1))
    screen.close()
    assert terminal.writes == [("x" * 59 + "…\ngrid for 60\n" + "▇" * 60 + "\n").encode()]


def test_ascii_terminals_get_ascii():
    terminal = FakeTerminal(60, 10)
    screen = screen_on(terminal, unicode=False)
    screen.log(Line.of("a · b × 3 ✔ ü " + "x" * 90))
    screen.draw()
    written = b"".join(terminal.writes)
    assert written.isascii()
    assert terminal.rows()[0] == "a | b x 3 + ? " + "x" * 45 + "~"


def test_partial_writes_are_completed():
    got: list[bytes] = []

    def some(_fd, data):
        got.append(bytes(data[:3]))
        return len(got[-1])

    write_all(1, b"abcdefgh", write=some)
    assert got == [b"abc", b"def", b"gh"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EBADF])
def test_a_full_disk_is_an_error_of_the_world(number):
    def full(_fd, _data):
        raise OSError(number, "No space left on device")

    with pytest.raises(WorldError, match="cannot write to standard output: No space left"):
        write_all(1, b"x", write=full)


@pytest.mark.parametrize(
    ("environ", "encoding", "expected"),
    [
        ({"LANG": "en_US.UTF-8"}, "utf-8", True),
        ({"LANG": "de_DE.utf8@euro"}, "utf-8", True),
        ({"LC_ALL": "C", "LANG": "en_US.UTF-8"}, "utf-8", False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", False),
        ({"LC_CTYPE": "C.UTF-8"}, "utf-8", True),
        ({"LANG": "en_US.ISO-8859-1"}, "iso8859-1", False),
        ({"LANG": "C.UTF-8", "PYTHONIOENCODING": "ascii:replace"}, "ascii", False),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, "utf-8", True),
        ({}, "utf-8", True),
        ({}, "ascii", False),
        ({}, "", False),
    ],
)
def test_unicode_is_told_by_the_locale(environ, encoding, expected):
    assert shows_unicode(environ, encoding) is expected


@pytest.mark.parametrize(
    ("environ", "color"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": ""}, True),
    ],
)
def test_colour_of_a_pipe_is_what_the_environment_says(environ, color, tmp_path):
    with (tmp_path / "out").open("w") as out:
        terminal = Terminal.of(out.fileno(), environ)
    assert terminal.color is color
    assert not terminal.is_tty
