"""The Player: windows add up, auto keeps its promises, speeds are read."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain.core.errors import SpecError
from ghosttrain.playback import Player, parse_speed, play


@dataclass(frozen=True)
class FakeSpan:
    phase: str
    start_s: float
    end_s: float
    step_time_s: float = 0.0


class FakeRun:
    """Spans, and as events the numbers of moments spread over them and exactly at the end."""

    def __init__(self, spans: list[FakeSpan]) -> None:
        self.spans = spans
        self.end_s = spans[-1].end_s
        inner = sorted(
            span.start_s + (span.end_s - span.start_s) * i / 40 for span in spans for i in range(40)
        )
        self.moments = [*inner, self.end_s, self.end_s]

    def span_at(self, time_s: float) -> FakeSpan:
        return next(s for s in self.spans if s.start_s <= time_s < s.end_s)

    def events(self, start_s, stop_s, *, sample_every=10):
        first = bisect.bisect_left(self.moments, start_s)
        return iter(range(first, bisect.bisect_left(self.moments, stop_s)))


INIT = ("weights", "tokenizer", "dataset", "gpus", "nccl", "all_reduce_test")
STOPS = ("validation", "checkpoint", "hang", "down", "export")


def run_of(durations: list[tuple[str, float, float]]) -> Any:
    spans, at = [], 0.0
    for phase, duration_s, step_time_s in durations:
        spans.append(FakeSpan(phase, at, at + duration_s, step_time_s))
        at = spans[-1].end_s
    return FakeRun(spans)


def durations_s(longest: float):
    return st.floats(0.01, longest)


@st.composite
def runs(draw):
    parts = [(phase, draw(durations_s(300)), 0.0) for phase in INIT]
    for _ in range(draw(st.integers(1, 4))):
        parts.append(("training", draw(durations_s(3e4)), draw(st.floats(0.01, 60))))
        parts.append((draw(st.sampled_from(STOPS)), draw(durations_s(2000)), 0.0))
        if parts[-1][0] == "down":
            parts += [(phase, draw(durations_s(300)), 0.0) for phase in INIT]
    parts.append(("export", draw(durations_s(500)), 0.0))
    return run_of(parts)


SPEEDS = st.one_of(st.just("auto"), st.just("max"), st.floats(0.5, 1e6))


@settings(deadline=None)
@given(run=runs(), speed=SPEEDS, walls=st.lists(st.floats(0, 20), max_size=30))
def test_any_split_of_wall_time_gives_the_same_rows(run, speed, walls):
    player = Player(run, speed=speed, max_steps_per_advance=100)
    rows: list[Any] = [row for wall_s in walls for row in player.advance(wall_s)]
    position_s = player.position_s
    assert rows == [i for i, t in enumerate(run.moments) if t < position_s or player.finished]
    for _ in range(100_000):
        if player.finished:
            break
        rows += player.advance(50.0)
    assert rows == list(run.events(0, math.inf))
    assert player.position_s == run.end_s
    assert list(player.advance(1.0)) == []


@settings(deadline=None)
@given(run=runs(), walls=st.lists(st.floats(0, 5), min_size=1, max_size=20))
def test_many_short_advances_reach_as_far_as_a_long_one(run, walls):
    short, long = Player(run), Player(run)
    for wall_s in walls:
        short.advance(wall_s)
    long.advance(math.fsum(walls))
    assert short.position_s == pytest.approx(long.position_s, rel=1e-6, abs=1e-6)


def wall_times(run: Any) -> list[float]:
    """Wall seconds that auto gives each span of `run`."""
    player = Player(run)
    out = []
    for span in run.spans:
        player.seek(span.start_s)
        low, high = 0.0, 2.0
        while Player._after(player, high) < span.end_s and high < 1e7:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if player._after(middle) >= span.end_s else (middle, high)
        out.append(high)
    return out


@settings(max_examples=30, deadline=None)
@given(run=runs())
def test_auto_is_pleasant_to_watch(run):
    """About 16 steps a second, initialisation in 4 s, every stop in 6 s, never under real time."""
    initialisation_s = 0.0
    for span, wall_s in zip(run.spans, wall_times(run), strict=True):
        duration_s = span.end_s - span.start_s
        assert wall_s <= duration_s * 1.001 + 1e-6
        if span.phase in INIT:
            initialisation_s += wall_s
            assert initialisation_s <= 4.0
            continue
        initialisation_s = 0.0
        if span.phase == "training":
            steps_per_wall_s = duration_s / span.step_time_s / wall_s
            at_real_time = 1 / span.step_time_s
            assert steps_per_wall_s == pytest.approx(max(16.0, at_real_time), rel=0.01)
        else:
            assert wall_s <= 6.0


def test_an_advance_may_cover_several_spans():
    run = run_of([("weights", 70, 0), ("training", 320, 2.0), ("validation", 30, 0)])
    player = Player(run)
    player.advance(3.5 + 10 + 1.5)
    assert player.position_s == pytest.approx(70 + 320 + 15)
    assert not player.finished
    player.advance(2.0)
    assert player.finished


def test_max_moves_by_a_bounded_number_of_steps():
    run = run_of([("weights", 70, 0), ("training", 2e6, 2.0), ("validation", 30, 0)])
    player = Player(run, speed="max", max_steps_per_advance=1000)
    player.advance(1e9)
    assert 70 + 1500 < player.position_s <= 70 + 2000


def test_pause_and_seek():
    run = run_of([("training", 1000, 1.0)])
    player = Player(run, speed=10)
    player.paused = True
    assert list(player.advance(5)) == []
    player.paused = False
    player.seek(500)
    assert next(player.advance(0.0), None) is None
    assert run.moments[next(player.advance(5.0))] == 500
    player.seek(5000)
    assert [run.moments[row] for row in player.advance(0.1)] == [1000, 1000]
    assert player.finished
    player.seek(-1)
    assert player.position_s == 0
    assert not player.finished


def test_the_position_moves_whether_or_not_events_are_read():
    player = Player(run_of([("training", 1000, 1.0)]), speed=10)
    player.advance(5)
    assert player.position_s == 50


class Clock:
    """A wall clock that only sleeping and drawing move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


class Rows:
    """A sink that keeps what it gets."""

    def __init__(self, clock: Clock, draw_s: float = 0.004) -> None:
        self.rows: list[int] = []
        self.draws: list[float] = []
        self.asked: list[float] = []
        self._clock, self._draw_s = clock, draw_s

    def accept(self, event) -> None:
        self.rows.append(event)

    def draw(self, player: Player) -> None:
        self.draws.append(self._clock.now)
        self._clock.now += self._draw_s

    def sample_every(self, steps: float) -> int:
        self.asked.append(steps)
        return 10


@pytest.mark.parametrize("speed", [1.0, 40.0, "auto"])
def test_play_keeps_pace_with_the_clock(speed):
    clock = Clock()
    sink = Rows(clock)
    run = run_of([("training", 160, 1.0)])
    assert play(Player(run, speed=speed), sink, clock=clock, sleep=clock.sleep)
    assert sink.rows == list(run.events(0, math.inf))
    expected_s = 160 / (16 if speed == "auto" else speed)
    assert clock.now - 100 == pytest.approx(expected_s, abs=0.2)
    frames = [b - a for a, b in zip(sink.draws, sink.draws[1:], strict=False)]
    assert min(frames) > 1 / 30


def test_play_ends_when_told():
    clock = Clock()
    sink = Rows(clock)
    player = Player(run_of([("training", 1e6, 1.0)]), speed=1.0)
    done = play(player, sink, clock=clock, sleep=clock.sleep, until_wall_s=103.3)
    assert not done
    assert clock.now == pytest.approx(103.3, abs=0.05)
    assert player.position_s == pytest.approx(3.3, abs=0.2)


def test_play_at_max_does_not_sleep():
    clock = Clock()
    sink = Rows(clock)
    run = run_of([("training", 1e5, 1.0)])
    assert play(Player(run, speed="max"), sink, clock=clock, sleep=clock.sleep)
    assert clock.slept == []
    assert sink.rows == list(run.events(0, math.inf))


def test_a_stopped_process_goes_on_from_where_it_was():
    clock = Clock()
    sink = Rows(clock, draw_s=60.0)
    player = Player(run_of([("training", 10.0, 1.0)]), speed=1.0)
    assert play(player, sink, clock=clock, sleep=clock.sleep, longest_gap_s=2.0)
    assert len(sink.draws) == 6


def test_steps_ahead_counts_the_training_to_come():
    run = run_of([("weights", 70, 0), ("training", 2e6, 2.0)])
    assert Player(run, speed="auto").steps_ahead(0.1) == pytest.approx(1.6)
    assert Player(run, speed=1000.0).steps_ahead(0.1) == pytest.approx(50)


@pytest.mark.parametrize(
    ("text", "speed"),
    [("auto", "auto"), ("max", "max"), ("real", 1.0), ("40", 40.0), ("0.5", 0.5), ("1e3x", 1e3)],
)
def test_speeds(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "-inf", "1e999", "", "x", "fast", "1 0", "1_0", "--", "0x10"]
)
def test_speeds_that_make_no_sense(text):
    with pytest.raises(SpecError, match="makes no sense"):
        parse_speed(text)
