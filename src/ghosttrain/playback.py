"""Player: a position in a run, its speed and pause; and play(), which reads the wall clock.

A Player knows no clock: the caller says how much wall time passed. Real time, 10,000x, as fast
as possible and a test are one path. The windows of consecutive advances add up to the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

from ghosttrain.core.errors import SpecError

# For types only: NumPy comes with them, and `--speed` is read before NumPy is.
if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.core.run import Run
    from ghosttrain.core.spec import InjectedFault
    from ghosttrain.core.timeline import Span

Speed = float | Literal["auto", "max"]

AUTO_STEPS_PER_WALL_S = 16.0
AUTO_INITIALISATION_WALL_S = 3.5  # all phases before training together
AUTO_PHASE_WALL_S = {"validation": 3.0, "checkpoint": 2.0, "export": 4.0, "hang": 4.0, "down": 3.0}
AUTO_OTHER_WALL_S = 1.0
INITIALISATION = frozenset({"weights", "tokenizer", "dataset", "gpus", "nccl", "all_reduce_test"})
# At "max" a span without steps counts as this share of an advance's steps.
SPAN_COST = 1 / 16


def parse_speed(text: str) -> Speed:
    """The speed `text` names: run seconds per wall second, "auto" or "max".

    Raises:
        SpecError: If it is not auto, real, max or a finite number above 0.
    """
    word = text.strip().lower()
    match word:
        case "auto" | "max":
            return word
        case "real":
            return 1.0
    number = word.removesuffix("x").removesuffix("×")
    try:
        speed = float(number) if not set(number) & {"_", " "} else math.nan
    except ValueError:
        speed = math.nan
    if not (0 < speed < math.inf):
        raise SpecError(
            f"speed {text!r} makes no sense: give auto, real, max,"
            " or run seconds per wall second above 0, as in 40"
        )
    return speed


class Player:
    """A position in a run that moves as wall time passes.

    Attributes:
        speed: Run seconds per wall second; "max" (a bounded number of steps an advance, however
            much wall time passed); "auto" (piece by piece, never slower than real time).
        paused: Whether advances leave the position where it is.
        position_s: Run time up to which events have been given out.
        finished: Whether all of them have.
    """

    def __init__(
        self, run: Run, *, speed: Speed = "auto", max_steps_per_advance: int = 4096
    ) -> None:
        self.run = run
        self.speed: Speed = speed
        self.paused = False
        self.position_s = 0.0
        self.finished = False
        self._max_steps = max_steps_per_advance

    def seek(self, time_s: float) -> None:
        """Go to `time_s`, cut to the run: its event and those after it come next."""
        self.position_s = min(max(0.0, time_s), self.run.end_s)
        self.finished = False

    def advance(self, wall_s: float, *, sample_every: int = 10) -> Iterator[Event]:
        """Events between the position and where `wall_s` more seconds bring it.

        The position moves at once, whether or not the events are read.
        """
        if self.paused or self.finished:
            return iter(())
        start_s, stop_s = self.position_s, self._after(wall_s)
        if stop_s >= self.run.end_s:  # the last events are exactly at the end
            self.position_s, self.finished, stop_s = self.run.end_s, True, math.inf
        else:
            self.position_s = stop_s
        return self.run.events(start_s, stop_s, sample_every=sample_every)

    def inject(self, fault: InjectedFault) -> None:
        """Have `fault` strike the run from here on; what has been given out stays true.

        The run is planned and drawn anew, with the fault in its spec and the same seed. Position,
        speed and pause stay, and so does all before the position. A fault that comes while the
        processes are down strikes the next launch.

        Args:
            fault: Where it has no `at_step`, and its `at_s` is 0, it comes now.

        Raises:
            SpecError: If it lies in the past, or the run cannot have it.
        """
        from ghosttrain.core.run import simulate

        name = fault.kind.name
        if self.finished or self.position_s >= self.run.end_s:
            raise SpecError(f"{name} cannot come any more: the run is over")
        if fault.at_step:
            begun = self._begun_step()
            if fault.at_step <= begun:
                raise SpecError(
                    f"{name} at step {fault.at_step:,} is in the past: step {begun:,} has begun;"
                    " give a later one"
                )
        elif not fault.at_s:
            fault = replace(fault, at_s=self.position_s)
        elif fault.at_s < self.position_s:
            raise SpecError(
                f"{name} at {fault.at_s:,.3f} s is in the past: the run is at"
                f" {self.position_s:,.3f} s; give a later moment, or none for now"
            )
        spec = self.run.spec
        faults = replace(spec.faults, injected=(*spec.faults.injected, fault))
        self.run = simulate(replace(spec, faults=faults), self.run.seed)

    def _begun_step(self) -> int:
        """The last step of any attempt that has begun before the position, finished or not."""
        begun = 0
        for span in self.run.timeline.spans:
            if span.start_s >= self.position_s:
                break
            if span.phase != "training":
                continue
            done = span.step + span.steps
            if span.end_s > self.position_s:
                done = int(self.run.fleet(self.position_s).step[0])
            # A step that was cut short has begun too.
            begun = max(begun, done + (span.cut or span.end_s > self.position_s))
        return begun

    def steps_ahead(self, wall_s: float) -> float:
        """About how many steps the next `advance(wall_s)` covers, were it all training."""
        if self.speed == "max":
            return self._max_steps
        span = self._span(self.position_s)
        while span and span.phase != "training":
            span = self._span(span.end_s)
        return wall_s * self._rate(span) / span.step_time_s if span else 0.0

    def _after(self, wall_s: float) -> float:
        """Run time reached from the position in `wall_s`; the end or beyond if all is done."""
        if self.speed == "max":
            return self._after_steps(self._max_steps)
        if self.speed != "auto":
            return self.position_s + wall_s * self.speed
        at_s = self.position_s
        while wall_s > 0 and (span := self._span(at_s)):
            rate = self._rate(span)
            needed_wall_s = (span.end_s - at_s) / rate
            if needed_wall_s > wall_s:
                return at_s + wall_s * rate
            wall_s -= needed_wall_s
            at_s = span.end_s
        return at_s

    def _after_steps(self, steps: float) -> float:
        """Run time reached after about `steps` steps; spans without steps count as a few."""
        at_s = self.position_s
        cost = steps * SPAN_COST
        while steps > 0 and (span := self._span(at_s)):
            if span.phase == "training":
                reach_s = at_s + steps * span.step_time_s
                if reach_s < span.end_s:
                    return reach_s
                steps -= (span.end_s - at_s) / span.step_time_s
            steps -= cost
            at_s = span.end_s
        return at_s

    def _span(self, time_s: float) -> Span | None:
        """The span at `time_s`, None from the end of the run on."""
        if time_s >= self.run.end_s:
            return None
        span = self.run.span_at(time_s)
        return span if span.end_s > time_s else None

    def _rate(self, span: Span) -> float:
        """Run seconds per wall second within `span`."""
        if not isinstance(self.speed, str):
            return self.speed
        if span.phase == "training":
            return max(1.0, AUTO_STEPS_PER_WALL_S * span.step_time_s)
        if span.phase in INITIALISATION:
            return max(1.0, self._initialisation_s(span) / AUTO_INITIALISATION_WALL_S)
        wall_s = AUTO_PHASE_WALL_S.get(span.phase, AUTO_OTHER_WALL_S)
        return max(1.0, (span.end_s - span.start_s) / wall_s)

    def _initialisation_s(self, span: Span) -> float:
        """Run time of the initialisation spans around `span`, itself included."""
        first = last = span
        while first.start_s > 0:
            before = self.run.span_at(math.nextafter(first.start_s, -math.inf))
            if before.phase not in INITIALISATION or before.start_s >= first.start_s:
                break
            first = before
        while after := self._span(last.end_s):
            if after.phase not in INITIALISATION:
                break
            last = after
        return last.end_s - first.start_s


class Sink(Protocol):
    """Whatever takes the events of a run."""

    def accept(self, event: Event) -> None:
        """Take the next event."""

    def draw(self, player: Player) -> None:
        """Bring the outside up to date; called once a frame."""

    def sample_every(self, steps: float) -> int:
        """Steps between the samples it wants while an advance covers about `steps`."""


def play(
    player: Player,
    sink: Sink,
    *,
    frames_per_s: float = 12.0,
    until_wall_s: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    longest_gap_s: float = math.inf,
) -> bool:
    """Play to the end of the run: advance, hand on the events, draw, sleep, again.

    At speed "max" it does not sleep, and advances until a frame's time has passed.

    Args:
        player: Where to start, and how fast.
        sink: What takes the events.
        frames_per_s: Draws per wall second.
        until_wall_s: When to stop, on `clock`.
        clock: Wall time, seconds, from anywhere.
        sleep: Waits so many seconds.
        longest_gap_s: A longer time between two frames counts as this: the process was stopped
            or the machine slept, and the run goes on from where it was.

    Returns:
        Whether the run was played to its end.
    """
    frame_s = 1 / frames_per_s
    at = clock()
    gap_s = frame_s
    while True:
        sample_every = sink.sample_every(player.steps_ahead(gap_s))
        for event in player.advance(gap_s, sample_every=sample_every):
            sink.accept(event)
        unpaced = player.speed == "max" and not player.finished
        if unpaced and clock() < min(at + frame_s, until_wall_s):
            continue
        sink.draw(player)
        if player.finished:
            return True
        now = clock()
        if now >= until_wall_s:
            return False
        if player.speed != "max":
            sleep(max(0.001, min(at + frame_s, until_wall_s) - now))
            now = clock()
        gap_s, at = min(now - at, longest_gap_s), now
