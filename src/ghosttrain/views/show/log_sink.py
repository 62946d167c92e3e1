"""LogSink: the events as bytes on a file, pipe or plain terminal; one write a frame."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ghosttrain.views.show.terminal import Terminal, write_all

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.playback import Player

FULL_BYTES = 1 << 16


def classic(terminal: Terminal, *, every: int) -> Callable[[Event], bytes]:
    """What makes the classic format of a run's events; coloured where colour is forced."""
    from ghosttrain.core.events import FleetSampled, RunStarted, StepsCompleted
    from ghosttrain.views.renderables.classic import ClassicWriter
    from ghosttrain.views.renderables.glyphs import ASCII, UNICODE
    from ghosttrain.views.renderables.log_lines import log_lines
    from ghosttrain.views.renderables.run_card import RunCard

    glyphs = UNICODE if terminal.unicode else ASCII
    writer = ClassicWriter(glyphs=glyphs, every=every)
    if not terminal.color:
        return writer.accept
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

    return colored


class LogSink:
    """Writes what `render` makes of each event.

    Attributes:
        render: Bytes of whole lines for an event; replaced from run to run.
        lines: Lines taken so far.
    """

    def __init__(
        self,
        fd: int,
        *,
        log_interval: int = 10,
        write: Callable[[int, memoryview], int] = os.write,
    ) -> None:
        self.render: Callable[[Event], bytes] = lambda _event: b""
        self.lines = 0
        self._fd = fd
        self._log_interval = log_interval
        self._write = write
        self._buffer = bytearray()

    def accept(self, event: Event) -> None:
        """Take the next event."""
        self.write(self.render(event))

    def write(self, text: bytes) -> None:
        """Take whole lines."""
        self.lines += text.count(b"\n")
        self._buffer += text
        if len(self._buffer) >= FULL_BYTES:
            self._flush()

    def draw(self, player: Player) -> None:
        """Write what has come since the last frame."""
        self._flush()

    def sample_every(self, steps: float) -> int:
        """Always the log's interval."""
        return self._log_interval

    def close(self) -> None:
        """Write what is left."""
        self._flush()

    def _flush(self) -> None:
        full, self._buffer = self._buffer, bytearray()
        if full:
            write_all(self._fd, bytes(full), write=self._write)
