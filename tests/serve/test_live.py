"""A run that plays as wall time passes: the wall clock is a value here."""

from __future__ import annotations

import math

import pytest

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import InjectedFault
from ghosttrain.serve.live import END_SHOWN_S, LiveRun
from tests.exporters.pages import small_run
from tests.serve.servers import Clock


class Runs:
    """Runs of the next seeds, as many as are left."""

    def __init__(self, left: int) -> None:
        self.left, self.made = left, 0

    def __call__(self) -> Run | None:
        if not self.left:
            return None
        self.left -= 1
        self.made += 1
        return simulate(small_run().spec, 7 + self.made)


def live_at(speed: float = 1.0, runs: int = 0) -> tuple[LiveRun, Clock, Runs]:
    clock, following = Clock(), Runs(runs)
    return LiveRun(small_run(), speed=speed, next_run=following, clock=clock), clock, following


def test_a_wall_second_is_so_many_run_seconds_however_often_somebody_asks():
    live, clock, _ = live_at(speed=4.0)
    for _ in range(10):
        clock.pass_(0.5)
        live.move()
    other, other_clock, _ = live_at(speed=4.0)
    other_clock.pass_(5.0)
    assert live.move().time_s == pytest.approx(20.0)
    assert other.move().time_s == pytest.approx(20.0)


def test_a_pause_takes_no_run_time_and_shows_as_speed_0():
    live, clock, _ = live_at()
    clock.pass_(10)
    live.move()
    live.pause(True)
    clock.pass_(3600)
    assert live.move().time_s == pytest.approx(10)
    assert live.move().speed == 0
    live.pause(False)
    clock.pass_(5)
    assert live.move().time_s == pytest.approx(15)
    assert live.move().speed == 1


def test_a_new_speed_counts_from_now_on():
    live, clock, _ = live_at()
    clock.pass_(10)
    live.move()
    live.change_speed(10)
    clock.pass_(1)
    assert live.move().time_s == pytest.approx(20)


def test_a_clock_that_stands_or_goes_back_moves_nothing():
    live, clock, _ = live_at()
    clock.pass_(10)
    assert live.move().time_s == 10
    clock.pass_(-5)
    assert live.move().time_s == 10
    clock.pass_(6)
    assert live.move().time_s == pytest.approx(11)


@pytest.mark.parametrize("speed", [0, -1, 1e7, math.nan, math.inf])
def test_a_speed_at_which_nothing_can_be_served_is_refused(speed):
    live, _, _ = live_at()
    with pytest.raises(SpecError, match="speed"):
        live.change_speed(speed)
    assert live.speed == 1


def test_a_moment_that_the_run_has_not_is_refused():
    live, _, _ = live_at()
    for time_s in (-1.0, live.run.end_s + 1, math.nan, math.inf):
        with pytest.raises(SpecError, match="the run goes from 0 to"):
            live.seek(time_s)
    live.seek(live.run.end_s)
    assert live.move().time_s == live.run.end_s


def test_the_end_stays_a_while_and_then_the_next_run_begins_on_time():
    live, clock, runs = live_at(speed=10, runs=5)
    wall_s = live.run.end_s / 10
    clock.pass_(wall_s + END_SHOWN_S - 0.01)
    assert live.move().time_s == live.run.end_s
    assert live.playing.speed == 0
    assert live.playing.run == 1
    clock.pass_(2.01)
    playing = live.move()
    assert playing.run == 2
    assert live.run.seed == 8
    assert playing.time_s == pytest.approx(20.0), "the next run has been going for 2 wall seconds"
    assert runs.made == 1


def test_runs_that_nobody_watched_are_not_made():
    """A night without a scrape costs one run, not thousands."""
    live, clock, runs = live_at(speed=1e5, runs=10**6)
    for _ in range(3):
        clock.pass_(12 * 3600)
        live.move()
    assert runs.made <= 3
    assert live.number == 1 + runs.made


def test_without_a_next_run_the_end_stays():
    live, clock, _ = live_at(speed=1e5)
    clock.pass_(1e6)
    first = live.move()
    clock.pass_(1e6)
    assert live.move() == first
    assert first.time_s == live.run.end_s
    live.seek(10.0)
    clock.pass_(1e-4)
    assert live.move().time_s == pytest.approx(20.0)


def test_injected_faults_leave_the_past():
    live, clock, _ = live_at()
    clock.pass_(150)
    live.move()
    live.inject((InjectedFault(catalog.fault_kind("gpu-off-bus"), gpu=3),))
    (incident,) = live.run.timeline.incidents
    assert incident.time_s == pytest.approx(150)
    assert incident.gpu == 3
    assert live.move().time_s == 150
    assert live.injected


def test_what_was_done_can_be_undone():
    live, clock, _ = live_at()
    clock.pass_(150)
    playing, before = live.move(), live.state()
    live.seek(live.run.end_s)
    live.seek(200)
    live.change_speed(7)
    live.inject((InjectedFault(catalog.fault_kind("gpu-off-bus"), gpu=3),))
    live.pause(True)
    live.restore(before)
    assert live.state() == before
    assert live.move() == playing
    assert not live.injected
