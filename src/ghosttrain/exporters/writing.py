"""What an exporter is: it turns events, and telemetry, into bytes of files.

Whoever drives it (`export`, `run --format`, `serve`) owns files, clocks and windows. An exporter
holds no file and no clock and can be pickled between two calls: a killed export goes on from the
last moment that reached the disk, with the exporters of that moment. It may keep what it was
Asked, the run and the plan: they are not saved with it but put back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ghosttrain.core.events import Event
    from ghosttrain.core.run import Run
    from ghosttrain.core.telemetry import Telemetry

Chunk = tuple[str, bytes]  # name of a file below the export's folder; bytes to append to it

# dcgm-exporter collects this often unless told otherwise (NVIDIA/dcgm-exporter, pkg/cmd/app.go,
# --collect-interval, 30000 ms): between two of its samples nothing new is to be had.
TELEMETRY_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a user wants of an export, or of a log on stdout.

    Attributes:
        run: The run.
        log_interval: Steps between two lines, or between two samples of the fleet.
        start_s, stop_s: The window [start, stop) of run time; to the end where stop is infinite.
            A run's first and last events (RunStarted, RunFinished) come only with a window that
            holds them.
        every_s: Run time between two moments of telemetry, which are multiples of it.
        gpus: Ranks whose telemetry is wanted, ascending; None: all.
        metrics: Fields of telemetry wanted in tables; None: the usual ones.
    """

    run: Run
    log_interval: int = 10
    start_s: float = 0.0
    stop_s: float = math.inf
    every_s: float = TELEMETRY_EVERY_S
    gpus: tuple[int, ...] | None = None
    metrics: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the window is all of the run."""
        return self.start_s <= 0.0 and self.stop_s > self.run.end_s

    @property
    def end_s(self) -> float:
        """Where the window ends, at the latest where the run does."""
        return min(self.stop_s, self.run.end_s)


class LogWriter(Protocol):
    """Makes one stream of bytes of a run's events, from RunStarted or from a later one."""

    def accept(self, event: Event) -> bytes:
        """The bytes that `event` adds: whole lines or records."""

    def close(self) -> bytes:
        """What is left when no event comes any more."""


class Exporter(Protocol):
    """Makes files of a run's events.

    One that wants telemetry too has `fields` and `sample` as SampledLog, which gives chunks.
    """

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds to which files."""

    def close(self) -> Iterable[Chunk]:
        """What is left when no event comes any more."""


@runtime_checkable
class SampledLog(Protocol):
    """A LogWriter that wants telemetry too.

    It comes in blocks of moments, ascending, each moment once; the size of the blocks says nothing.
    A block holds all GPUs, whatever `Asked.gpus` says. Events and blocks take turns: events of a
    stretch of the run, then the moments in it; who wants them merged by time keeps the one until
    the other has passed it.

    Attributes:
        fields: Which columns it wants, by their names in `Telemetry.columns`.
    """

    fields: tuple[str, ...]

    def sample(self, block: Telemetry) -> bytes:
        """The bytes that a block of moments adds."""


@runtime_checkable
class LogTakesMany(Protocol):
    """A LogWriter that makes less work of many events than of each."""

    def accept_all(self, events: Sequence[Event]) -> bytes:
        """What `accept` would give of one after the other."""


@runtime_checkable
class TakesMany(Protocol):
    """An Exporter of that kind."""

    def accept_all(self, events: Sequence[Event]) -> Iterable[Chunk]:
        """What `accept` would give of one after the other."""


class OneFile:
    """An exporter whose bytes all go into one file."""

    def __init__(self, name: str, writer: LogWriter) -> None:
        self._name, self._writer = name, writer
        self.fields = writer.fields if isinstance(writer, SampledLog) else ()

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds to the file."""
        yield self._name, self._writer.accept(event)

    def accept_all(self, events: Sequence[Event]) -> Iterable[Chunk]:
        """What events add to the file."""
        if isinstance(self._writer, LogTakesMany):
            yield self._name, self._writer.accept_all(events)
        else:
            yield self._name, b"".join(self._writer.accept(event) for event in events)

    def sample(self, block: Telemetry) -> Iterable[Chunk]:
        """What a block of telemetry adds to the file; only asked of who wants fields."""
        assert isinstance(self._writer, SampledLog)
        yield self._name, self._writer.sample(block)

    def close(self) -> Iterable[Chunk]:
        """What is left."""
        yield self._name, self._writer.close()
