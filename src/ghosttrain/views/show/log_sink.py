"""LogSink: the events as bytes on a file, pipe or plain terminal; one write a frame."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ghosttrain.views.show.terminal import write_all

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.playback import Player

FULL_BYTES = 1 << 16


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
        text = self.render(event)
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
