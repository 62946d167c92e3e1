"""What an exporter is: it turns events, and telemetry, into bytes of files.

Whoever drives it (`export`, `run --format`, `serve`) owns files, clocks and windows. An exporter
holds no file and no clock and can be pickled between two calls: a killed export goes on from the
last moment that reached the disk, with the exporters of that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.core.run import Run

Chunk = tuple[str, bytes]  # name of a file below the export's folder; bytes to append to it


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a user wants of an export, or of a log on stdout.

    Attributes:
        run: The run.
        log_interval: Steps between two lines, or between two samples of the fleet.
    """

    run: Run
    log_interval: int = 10


class LogWriter(Protocol):
    """Makes one stream of bytes of a run's events, from RunStarted or from a later one."""

    def accept(self, event: Event) -> bytes:
        """The bytes that `event` adds: whole lines or records."""

    def close(self) -> bytes:
        """What is left when no event comes any more."""


class Exporter(Protocol):
    """Makes files of a run's events."""

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds to which files."""

    def close(self) -> Iterable[Chunk]:
        """What is left when no event comes any more."""


class OneFile:
    """An exporter whose bytes all go into one file."""

    def __init__(self, name: str, writer: LogWriter) -> None:
        self._name, self._writer = name, writer

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds to the file."""
        yield self._name, self._writer.accept(event)

    def close(self) -> Iterable[Chunk]:
        """What is left."""
        yield self._name, self._writer.close()


MakeLog = Callable[[Asked], LogWriter]
MakeExporter = Callable[[Asked], Exporter]
