"""The log as the player may read it: the classic log, without what only the simulator knows.

Left out: that a fault begins and what it was, that a hang has begun (nobody sees a thing until
the watchdog fires), how long a repair will take, and how many faults there were in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ghosttrain import catalog
from ghosttrain.core.events import (
    Event,
    FaultOccurred,
    FleetSampled,
    GpusDetected,
    IncidentLabelled,
    MessageLogged,
    Phase,
    PhaseStarted,
    RunFinished,
    RunStarted,
    WarningRaised,
    WatchdogTimedOut,
)
from ghosttrain.core.run import Run
from ghosttrain.core.spec import InjectedFault
from ghosttrain.drill.readings import NO_SAMPLES
from ghosttrain.drill.tables import folded
from ghosttrain.views.renderables.glyphs import Glyphs
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.log_lines import log_lines
from ghosttrain.views.renderables.run_card import RunCard
from ghosttrain.views.renderables.step_lines import WIDE

MOST_STEP_LINES = 12  # of a stretch
_EVERY = (10, 20, 50)  # and ten times, a hundred times that


def step_interval(steps: float) -> int:
    """Steps between two detailed lines, so that `steps` of them are few lines: 10, 20, 50, ..."""
    scale = 1
    while True:
        for every in _EVERY:
            if steps <= MOST_STEP_LINES * every * scale:
                return every * scale
        scale *= 10


class PlayersLog:
    """Writes the lines of one run."""

    def __init__(self, run: Run, glyphs: Glyphs) -> None:
        self._run = run
        self.card = hiding_card(run, glyphs)

    def lines(
        self, start_s: float, stop_s: float, *, every: int, width: int = WIDE
    ) -> Iterator[Line]:
        """The lines of [start_s, stop_s), a detailed one every so many steps."""
        for event in self._run.events(start_s, stop_s, sample_every=every):
            if shown := self._shown(event):
                yield from shown
            elif shown is None:
                lines = log_lines(event, self.card, every=every, width=width)
                whole = isinstance(event, MessageLogged | WatchdogTimedOut | WarningRaised)
                yield from (
                    (row for line in lines for row in folded(line, width)) if whole else lines
                )

    def kernel_lines(self, stop_s: float, width: int = WIDE) -> Iterator[Line]:
        """What the kernels of all nodes have logged before `stop_s`."""
        for event in self._run.events(0.0, stop_s, sample_every=NO_SAMPLES):
            if isinstance(event, MessageLogged) and event.message.startswith("kernel_"):
                for line in log_lines(event, self.card):
                    yield from folded(line, width)

    def _shown(self, event: Event) -> list[Line] | None:
        """The lines of an event that gives something away, None for any other."""
        match event:
            case RunStarted():
                return log_lines(replace(event, plan=self.card.plan), self.card)
            case FaultOccurred() | IncidentLabelled() | FleetSampled() | GpusDetected():
                return []
            case PhaseStarted(phase=Phase.HANG):
                return []
            case PhaseStarted(phase=Phase.DOWN):
                text = "The job is down: draining and requeueing"
                return [log_line(self.card, event.time_s, text, level="WARNING")]
            case RunFinished():
                return [log_line(self.card, event.time_s, "The run is over")]
        return None


def hiding_card(run: Run, glyphs: Glyphs) -> RunCard:
    """The run's card, the same whatever is hidden: columns are as wide as any fault needs."""
    spec = run.spec
    anything = InjectedFault(catalog.fault_kind("loss-spike"))
    faults = replace(spec.faults, injected=(anything,), drawn=())
    chosen = tuple(pair for pair in spec.chosen if pair[0] != "faults")
    plan = replace(run.plan, spec=replace(spec, faults=faults, chosen=chosen, notes=()))
    return RunCard.of(RunStarted(0.0, run.seed, plan), glyphs)
