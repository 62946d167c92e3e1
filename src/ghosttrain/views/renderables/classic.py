"""The classic format on a pipe or in a file: whole lines, no escapes, one bytes object an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghosttrain.core.events import FleetSampled, RunStarted, StepsCompleted
from ghosttrain.views.renderables.glyphs import UNICODE, Glyphs
from ghosttrain.views.renderables.log_lines import LOG_INTERVAL, log_lines
from ghosttrain.views.renderables.plain_grid import PlainGrid
from ghosttrain.views.renderables.run_card import RunCard
from ghosttrain.views.renderables.step_lines import collective_lines, detail_texts

if TYPE_CHECKING:
    from ghosttrain.core.events import Event


class ClassicWriter:
    """Turns events into the classic log; knows of the past only the run's card."""

    def __init__(self, *, glyphs: Glyphs = UNICODE, every: int = LOG_INTERVAL) -> None:
        self._glyphs, self._every = glyphs, every
        self._card: RunCard | None = None
        self._grid: PlainGrid | None = None

    def accept(self, event: Event) -> bytes:
        """The lines of `event`, each with its newline; empty where it is worth none."""
        if isinstance(event, RunStarted):
            self._start(event)
        card, grid = self._card, self._grid
        assert card is not None, "a run begins with RunStarted"
        assert grid is not None
        match event:
            case StepsCompleted():
                return self._steps(event, card, grid)
            case FleetSampled():
                return b"".join(grid.write(event.samples))
            case _:
                lines = log_lines(event, card, every=self._every)
                return "".join(f"{line.text}\n" for line in lines).encode()

    def close(self) -> None:
        """Nothing is kept back."""

    def _start(self, event: RunStarted) -> None:
        spec = event.plan.spec
        self._card = RunCard.of(event, self._glyphs)
        self._grid = PlainGrid(spec.gpu, spec.cluster.gpus_per_node, spec.cluster.gpus)

    def _steps(self, event: StepsCompleted, card: RunCard, grid: PlainGrid) -> bytes:
        """Detailed lines, collective timings and grids, in the order of their steps."""
        steps, texts = detail_texts(event, card, self._every)
        if event.collectives is None and event.fleet is None:
            return "".join(f"{text}\n" for text in texts).encode()
        rows = [(step, 0, f"{text}\n".encode()) for step, text in zip(steps, texts, strict=True)]
        if event.collectives is not None:
            timed = collective_lines(event.collectives, card)
            for step, line in zip(event.collectives.step.tolist(), timed, strict=True):
                rows.append((step, 1, f"{line.text}\n".encode()))
        if event.fleet is not None:
            blocks = grid.write(event.fleet)
            rows += [(s, 2, b) for s, b in zip(event.fleet.step.tolist(), blocks, strict=True)]
        rows.sort(key=_step_and_kind)
        return b"".join([row[2] for row in rows])


def _step_and_kind(row: tuple[int, int, bytes]) -> tuple[int, int]:
    return row[:2]
