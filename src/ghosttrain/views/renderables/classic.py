"""The classic format on a pipe or in a file: whole lines, no escapes, one bytes object an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghosttrain.core.events import (
    FleetSampled,
    RunStarted,
    StepsCompleted,
    WarningRaised,
    join_steps,
)
from ghosttrain.views.renderables.glyphs import UNICODE, Glyphs
from ghosttrain.views.renderables.log_lines import LOG_INTERVAL, log_lines
from ghosttrain.views.renderables.plain_grid import PlainGrid
from ghosttrain.views.renderables.run_card import RunCard
from ghosttrain.views.renderables.step_lines import collective_lines, detail_texts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ghosttrain.core.events import Event


MOST_JOINED_VALUES = 1 << 17  # of one fleet metric: beyond it joining costs more than it saves


class ClassicWriter:
    """Turns events into the classic log; knows of the past only the run's card."""

    def __init__(self, *, glyphs: Glyphs = UNICODE, every: int = LOG_INTERVAL) -> None:
        self._glyphs, self._every = glyphs, every
        self._card: RunCard | None = None
        self._grid: PlainGrid | None = None

    def accept(self, event: Event) -> bytes:
        """The lines of `event`, each with its newline; empty where it is worth none."""
        return self.write((event,))

    def write(self, events: Iterable[Event]) -> bytes:
        """The lines of consecutive events; steps are formatted together, which is faster."""
        out: list[bytes] = []
        steps: list[StepsCompleted] = []
        warnings: list[WarningRaised] = []
        values = 0
        for event in events:
            match event:
                case StepsCompleted():
                    if steps and (
                        steps[-1].attempt != event.attempt or values > MOST_JOINED_VALUES
                    ):
                        out.append(self._steps(steps, warnings))
                        steps, warnings, values = [], [], 0
                    steps.append(event)
                    values += 0 if event.fleet is None else event.fleet.power_w.size
                case WarningRaised() if steps:
                    warnings.append(event)
                case _:
                    if steps:
                        out.append(self._steps(steps, warnings))
                        steps, warnings, values = [], [], 0
                    out.append(self._other(event))
        if steps:
            out.append(self._steps(steps, warnings))
        return b"".join(out)

    def close(self) -> None:
        """Nothing is kept back."""

    def _other(self, event: Event) -> bytes:
        """The lines of an event that is no batch of steps."""
        if isinstance(event, RunStarted):
            spec = event.plan.spec
            self._card = RunCard.of(event, self._glyphs)
            self._grid = PlainGrid(spec.gpu, spec.cluster.gpus_per_node, spec.cluster.gpus)
        card, grid = self._begun()
        if isinstance(event, FleetSampled):
            return b"".join(grid.write(event.samples))
        lines = log_lines(event, card, every=self._every)
        return "".join(f"{line.text}\n" for line in lines).encode()

    def _begun(self) -> tuple[RunCard, PlainGrid]:
        assert self._card is not None, "a run begins with RunStarted"
        assert self._grid is not None
        return self._card, self._grid

    def _steps(self, parts: list[StepsCompleted], warnings: list[WarningRaised]) -> bytes:
        """Detailed lines, collective timings, grids and warnings, in the order of their steps."""
        card, grid = self._begun()
        event = join_steps(parts)
        steps, texts = detail_texts(event, card, self._every)
        if event.collectives is None and event.fleet is None and not warnings:
            return "".join(f"{text}\n" for text in texts).encode()
        rows = [(step, 0, f"{text}\n".encode()) for step, text in zip(steps, texts, strict=True)]
        if event.collectives is not None:
            timed = collective_lines(event.collectives, card)
            for step, line in zip(event.collectives.step.tolist(), timed, strict=True):
                rows.append((step, 1, f"{line.text}\n".encode()))
        if event.fleet is not None:
            blocks = grid.write(event.fleet)
            rows += [(s, 2, b) for s, b in zip(event.fleet.step.tolist(), blocks, strict=True)]
        for warning in warnings:
            rows.append((warning.step, 3, self._other(warning)))
        rows.sort(key=_step_and_kind)
        return b"".join([row[2] for row in rows])


def _step_and_kind(row: tuple[int, int, bytes]) -> tuple[int, int]:
    return row[:2]
