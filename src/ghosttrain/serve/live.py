"""A run that plays as wall time passes, one run after the other; the wall clock is read here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ghosttrain.core.errors import SpecError
from ghosttrain.exporters.prometheus.job import Playing
from ghosttrain.playback import Player

if TYPE_CHECKING:
    from ghosttrain.core.run import Run
    from ghosttrain.core.spec import InjectedFault
    from ghosttrain.playback import Speed

# How long the end of a run is shown before the next begins: two scrapes at the usual 15 s, so that
# every scraper sees it.
END_SHOWN_S = 30.0
FASTEST = 1e6  # run seconds per wall second: a run of a week in less than a wall second


class State(NamedTuple):
    """What can be done to a live run, and undone."""

    run: Run
    position_s: float
    finished: bool
    speed: Speed
    paused: bool
    injected: bool
    ended_at: float


class LiveRun:
    """Where a run is now. Nothing ticks: the position is worked out when somebody asks.

    `move()` reads the clock; what is done to the run is done where it last moved to.

    Attributes:
        number: Of the run, from 1, among those played.
        injected: Whether faults have been injected into the present run.
    """

    def __init__(
        self,
        run: Run,
        *,
        speed: float = 1.0,
        next_run: Callable[[], Run | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A run at its beginning.

        Args:
            run: The first run.
            speed: Run seconds per wall second.
            next_run: What is played after the present run, None for nothing: its end stays.
            clock: Wall time, seconds, from anywhere.
        """
        self.number, self.injected = 1, False
        self._player = Player(run, speed=check_speed(speed))
        self._next_run, self._clock = next_run, clock
        self._moved_at = clock()
        self._ended_at = 0.0

    @property
    def run(self) -> Run:
        """The present run, with all faults injected so far."""
        return self._player.run

    @property
    def finished(self) -> bool:
        """Whether the present run is over."""
        return self._player.finished

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        return self._player.paused

    @property
    def speed(self) -> float:
        """Run seconds per wall second, were it not paused."""
        assert not isinstance(self._player.speed, str)
        return self._player.speed

    @property
    def playing(self) -> Playing:
        """Where the run was when it last moved, and how fast it goes."""
        still = self.paused or self.finished
        return Playing(0.0 if still else self.speed, self._player.position_s, self.number)

    def move(self) -> Playing:
        """Bring the position to now; a run that has been over long enough makes way for the next.

        At most one run begins: of those that nobody watched nothing is made.
        """
        now = self._clock()
        self._advance(now)
        if not self.finished or now - self._ended_at < END_SHOWN_S or self.paused:
            return self.playing
        following = self._next_run()
        if following is None:
            return self.playing
        self.number, self.injected = self.number + 1, False
        began_at = self._ended_at + END_SHOWN_S
        if (now - began_at) * self.speed >= following.end_s:
            began_at = now
        self._player = Player(following, speed=self.speed)
        self._moved_at = began_at
        self._advance(now)
        return self.playing

    def pause(self, paused: bool) -> None:
        """Stand still, or go on."""
        self._player.paused = paused
        self._ended_at = self._moved_at  # at the end, the pause does not count

    def change_speed(self, speed: float) -> None:
        """Go on at another speed.

        Raises:
            SpecError: If there is no such speed.
        """
        self._player.speed = check_speed(speed)

    def seek(self, time_s: float) -> None:
        """Go to a moment of the present run.

        Raises:
            SpecError: If the run has no such moment.
        """
        if not 0 <= time_s <= self.run.end_s:
            raise SpecError(f"{time_s:,.3f} s: the run goes from 0 to {self.run.end_s:,.3f} s")
        self._player.seek(time_s)

    def state(self) -> State:
        """What `restore` puts back."""
        player = self._player
        changing = player.run, player.position_s, player.finished, player.speed, player.paused
        return State(*changing, self.injected, self._ended_at)

    def restore(self, state: State) -> None:
        """Be as at a `state()` of the present run."""
        player = self._player
        player.run, player.position_s, player.finished = state.run, state.position_s, state.finished
        player.speed, player.paused = state.speed, state.paused
        self.injected, self._ended_at = state.injected, state.ended_at

    def inject(self, faults: tuple[InjectedFault, ...]) -> None:
        """Have faults strike the run from here on.

        Raises:
            SpecError: If one lies in the past, or the run cannot have it.
        """
        for fault in faults:
            self._player.inject(fault)
            self.injected = True

    def _advance(self, now: float) -> None:
        """Move the position by the wall time that has passed since it last moved."""
        player, gap_s = self._player, max(0.0, now - self._moved_at)
        left_s = self.run.end_s - player.position_s
        was_finished = player.finished
        player.advance(gap_s)
        if player.finished and not was_finished:
            self._ended_at = self._moved_at + left_s / self.speed
        self._moved_at = max(now, self._moved_at)


def check_speed(speed: float) -> float:
    """`speed`, if a run can be served at it.

    Raises:
        SpecError: If not.
    """
    if not 0 < speed <= FASTEST:
        raise SpecError(f"speed {speed:,g}: give one above 0, up to {FASTEST:,.0f}")
    return speed
