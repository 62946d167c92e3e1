"""LogSink: the events as bytes on a file, pipe or plain terminal; one write a frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ghosttrain.core.events import FleetSampled, RunStarted, StepsCompleted
from ghosttrain.views.show.terminal import Terminal, write_all

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.playback import Player

FULL_BYTES = 1 << 16
MOST_STEPS = 1000  # rendered together: what they hold stays in memory until then


Render = Callable[[Sequence["Event"]], bytes]


def classic(terminal: Terminal, *, every: int) -> Render:
    """What makes the classic format of a run's events; coloured where colour is forced."""
    from ghosttrain.views.renderables.classic import ClassicWriter
    from ghosttrain.views.renderables.glyphs import ASCII, UNICODE
    from ghosttrain.views.renderables.log_lines import log_lines
    from ghosttrain.views.renderables.run_card import RunCard

    glyphs = UNICODE if terminal.unicode else ASCII
    writer = ClassicWriter(glyphs=glyphs, every=every)
    if not terminal.color:
        return writer.write
    card: RunCard | None = None

    def colored(event: Event) -> bytes:
        nonlocal card
        if isinstance(event, RunStarted):
            card = RunCard.of(event, glyphs)
        plain = writer.accept(event)
        if card is None or isinstance(event, StepsCompleted | FleetSampled):
            return plain
        lines = log_lines(event, card, every=every)
        return "".join(f"{line.ansi(color=True)}\n" for line in lines).encode()

    return one_by_one(colored)


def one_by_one(render: Callable[[Event], bytes]) -> Render:
    """What renders a window of events with what renders one."""
    return lambda events: b"".join([render(event) for event in events])


class LogSink:
    """Writes what `render` makes of the events of each frame.

    Attributes:
        render: Bytes of whole lines for consecutive events; replaced from run to run.
    """

    def __init__(
        self,
        fd: int,
        *,
        log_interval: int = 10,
        write: Callable[[int, memoryview], int] = os.write,
    ) -> None:
        self.render: Render = lambda _events: b""
        self._lines = 0
        self._events: list[Event] = []
        self._weight = 0
        self._fd = fd
        self._log_interval = log_interval
        self._write = write
        self._buffer = bytearray()

    def accept(self, event: Event) -> None:
        """Take the next event."""
        self._events.append(event)
        self._weight += len(event.step) if isinstance(event, StepsCompleted) else 1
        if self._weight >= MOST_STEPS:
            self._render()

    @property
    def lines(self) -> int:
        """Lines taken so far."""
        self._render()
        return self._lines

    def write(self, text: bytes) -> None:
        """Take whole lines."""
        self._render()
        self._take(text)

    def _render(self) -> None:
        events, self._events, self._weight = self._events, [], 0
        if events:
            self._take(self.render(events))

    def _take(self, text: bytes) -> None:
        self._lines += text.count(b"\n")
        if len(text) >= FULL_BYTES:  # large enough not to be copied
            self._flush()
            write_all(self._fd, text, write=self._write)
            return
        self._buffer += text
        if len(self._buffer) >= FULL_BYTES:
            self._flush()

    def draw(self, player: Player) -> None:
        """Write what has come since the last frame."""
        self._render()
        self._flush()

    def sample_every(self, steps: float) -> int:
        """Always the log's interval."""
        return self._log_interval

    def close(self) -> None:
        """Write what is left."""
        self._render()
        self._flush()

    def _flush(self) -> None:
        full, self._buffer = self._buffer, bytearray()
        if full:
            write_all(self._fd, bytes(full), write=self._write)
