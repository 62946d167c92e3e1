"""The show: log lines and GPU grids that scroll, above pinned bars.

The work per frame stays about the same at any speed: samples are thinned so that a frame has a
few detailed lines, and it draws one grid at most, the newest.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ghosttrain.core.events import (
    FleetSampled,
    FleetSamples,
    RunFinished,
    RunStarted,
    StepsCompleted,
)
from ghosttrain.views.dashboard import Dashboard
from ghosttrain.views.renderables.bars import pinned_lines
from ghosttrain.views.renderables.glyphs import ASCII, UNICODE
from ghosttrain.views.renderables.gpu_grid import gpu_grid
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.log_lines import log_lines

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.playback import Player
    from ghosttrain.views.renderables.run_card import RunCard
    from ghosttrain.views.show.screen import Entry, Screen

MOST_DETAILS_PER_FRAME = 2
# The grid takes at most this share of the lines above the bars: the log is seen around it.
GRID_SHARE = 0.6


class Show:
    """A sink that shows a run on a Screen; the next run goes on below it.

    Attributes:
        lines: Log lines so far, about: what is drawn by width counts as one.
        asked_to_stop: Set by who wants the process stopped (Ctrl-Z) once the terminal is free.
    """

    def __init__(self, screen: Screen, *, log_interval: int = 10) -> None:
        self.lines = 0
        self.asked_to_stop = False
        self._screen = screen
        self._log_interval = self._every = log_interval
        self._glyphs = UNICODE if screen.terminal.unicode else ASCII
        self._entries: list[Entry] = []
        self._grid: Entry | None = None
        self._dashboard = Dashboard(self._glyphs)
        self._title, self._title_is_written = "", True

    def begin(self, title: str, *, is_written: bool) -> None:
        """Have the next run begin with the line `title`, which may be on the terminal already."""
        self._title, self._title_is_written = title, is_written

    def accept(self, event: Event) -> None:
        """Take the next event."""
        self._dashboard.accept(event)
        card = self._dashboard.card
        assert card is not None, "a run begins with RunStarted"
        match event:
            case RunStarted():
                self._log_title(card)
                self._log(*log_lines(event, card, every=self._every))
            case StepsCompleted():
                self._log_steps(event, card)
            case FleetSampled():
                self._log_grid(event.samples, card)
            case RunFinished():
                self._log(partial(_lines_by_width, event, card, self._every))
            case _:
                self._log(*log_lines(event, card, every=self._every))

    def draw(self, player: Player) -> None:
        """Write a frame."""
        self._screen.log(*self._entries)
        self._entries.clear()
        self._grid = None
        self._screen.draw(self._pinned(player))
        if self.asked_to_stop:
            self.asked_to_stop = False
            self._screen.suspend()
            os.kill(os.getpid(), signal.SIGSTOP)

    def sample_every(self, steps: float) -> int:
        """The log's interval, doubled until a frame holds few enough samples."""
        self._every = self._log_interval
        while steps > MOST_DETAILS_PER_FRAME * self._every:
            self._every *= 2
        return self._every

    def close(self) -> None:
        """Give the terminal back."""
        self._screen.close()

    def _log_title(self, card: RunCard) -> None:
        line = log_line(card, 0.0, self._title)
        if self._title_is_written:
            self._screen.adopt(line)
        else:
            self._log(line)

    def _log(self, *entries: Entry) -> None:
        self._entries += entries
        self.lines += len(entries)

    def _log_steps(self, event: StepsCompleted, card: RunCard) -> None:
        sampled = event.step[(event.step % self._every == 0) | (event.step == 1)]
        if sampled.size or event.collectives is not None:
            self._log(partial(_lines_by_width, event, card, self._every))
        if event.fleet is not None:
            self._log_grid(event.fleet, card)

    def _log_grid(self, samples: FleetSamples, card: RunCard) -> None:
        """The last of `samples`, in place of a grid that no frame has shown yet."""
        if self._grid is not None:
            self._entries.remove(self._grid)
        self._grid = partial(self._draw_grid, _last(samples), card)
        self._log(self._grid)

    def _draw_grid(
        self, samples: FleetSamples, card: RunCard, width: int, height: int
    ) -> list[Line]:
        return gpu_grid(
            samples,
            k=0,
            gpu=card.spec.gpu,
            gpus_per_node=card.spec.cluster.gpus_per_node,
            width=width,
            height=max(2, int(height * GRID_SHARE)),
            glyphs=self._glyphs,
            color=self._screen.terminal.color,
        )

    def _pinned(self, player: Player) -> Entry | None:
        progress = self._dashboard.progress(player.position_s)
        if progress is None or self._dashboard.summary is not None:
            return None

        def draw(width: int, _height: int) -> list[Line]:
            return pinned_lines(progress, width, self._glyphs)

        return draw


def _lines_by_width(event: Event, card: RunCard, every: int, width: int, height: int) -> list[Line]:
    return log_lines(event, card, every=every, width=width)


def _last(samples: FleetSamples) -> FleetSamples:
    """The last sample alone, in arrays of its own: the others need not be kept for it."""
    last = samples.part(len(samples.step) - 1, len(samples.step))
    return replace(
        last,
        step=last.step.copy(),
        time_s=last.time_s.copy(),
        util_pct=last.util_pct.copy(),
        temp_c=last.temp_c.copy(),
        memory_gib=last.memory_gib.copy(),
        power_w=last.power_w.copy(),
        step_time_s=last.step_time_s.copy(),
    )
