"""The driver of an export: takes a window of a run slice by slice and every format along.

All formats get the same events, in one pass, and the telemetry they want. What they make goes into
a hidden folder (workspace.py) with a savepoint every few seconds; the files get their names when
all of them are whole.

A slice is a stretch of run time, [k L, (k + 1) L) cut to the window; L follows from what was asked
alone. Savepoints lie between slices, so that by the second promise (windows add up) an export that
goes on makes the same bytes as one that was never disturbed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.errors import WorldError
from ghosttrain.core.events import Event, StepsCompleted
from ghosttrain.exporters.formats import Format
from ghosttrain.exporters.savepoint import (
    Savepoint,
    UnknownStateError,
    restored_exporters,
    saved_exporters,
)
from ghosttrain.exporters.workspace import Workspace, Written
from ghosttrain.exporters.writing import Asked, Chunk, Exporter, TakesMany
from ghosttrain.inputs.spec_file import write_spec_file

MANIFEST = "ghosttrain.json"
MANIFEST_SCHEMA = "ghosttrain.export/1"
SAVE_EVERY_WALL_S = 3.0  # what a kill costs at most; a savepoint takes some hundredths
SAVE_EVERY_BYTES = 256 << 20  # more would make the disk, and so the savepoint, the slow part
# A slice is worth about a tenth of a second: that often progress is told and Ctrl-C finds a
# savepoint near. Its telemetry (moments x GPUs) is in memory at once, some MB a field.
_MOST_STEPS, _MOST_FLEET_VALUES = 4096, 1 << 17
_MOST_TELEMETRY_VALUES = 1 << 17


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an export is.

    Attributes:
        reached_s: Run time up to which all is written.
        start_s, end_s: The window.
        begun_s: Run time from which this process goes on; the window's start if not resumed.
        written_bytes: Of all files so far.
        grown_bytes: Those of this process.
        wall_s: Since this process began.
    """

    reached_s: float
    start_s: float
    end_s: float
    begun_s: float
    written_bytes: int
    grown_bytes: int
    wall_s: float

    @property
    def done_frac(self) -> float:
        """Share of the window's run time that is done, 0..1."""
        whole_s = self.end_s - self.start_s
        return (self.reached_s - self.start_s) / whole_s if whole_s > 0 else 1.0

    @property
    def left_wall_s(self) -> float:
        """What the rest takes at the pace of this process so far; inf where none is known."""
        done_s = self.reached_s - self.begun_s
        return self.wall_s * (self.end_s - self.reached_s) / done_s if done_s > 0 else math.inf


Tell = Callable[[Progress], None]


def export(
    asked: Asked,
    folder: Path,
    formats: Sequence[Format],
    *,
    tell: Tell | None = None,
    save_every_wall_s: float = SAVE_EVERY_WALL_S,
) -> Written:
    """Write the files of each format into `folder`: all of them whole, or none.

    An export of the same that was killed or failed is gone on with.

    Args:
        asked: The run and what is wanted of it.
        folder: Made if need be; files of the same names are replaced.
        formats: Whose files.
        tell: Is told after each slice how far it is.
        save_every_wall_s: Wall time between savepoints.

    Returns:
        The files and their sizes, bytes.

    Raises:
        InputFileError: If there can be no such files.
        RequestError: If a format needs a package that is not installed.
        WorldError: If they cannot be written completely, or another export is under way there.
    """
    exporters = [one.exporter(asked) for one in formats]
    with Workspace(folder) as workspace:
        try:
            course = Course(asked, formats, workspace, exporters)
            return course.run_to_end(tell, save_every_wall_s)
        except OSError as error:
            raise WorldError(f"{folder}: cannot be written: {error.strerror or error}") from None


class Course:
    """One export under way.

    Args:
        exporters: As they are at the beginning; another list if a savepoint is gone on from.
    """

    def __init__(
        self, asked: Asked, formats: Sequence[Format], workspace: Workspace, exporters: list[Any]
    ) -> None:
        self._asked, self._workspace, self._exporters = asked, workspace, exporters
        self._formats = formats
        self._digest = digest_of(asked, formats)
        self._names = [one.file for one in formats if one.file]
        self._fields = wanted_fields(exporters)
        self._slice_s = slice_length_s(asked, with_telemetry=bool(self._fields))
        self._reached_s = asked.start_s
        self._begun_wall_s = time.monotonic()

    def run_to_end(self, tell: Tell | None, save_every_wall_s: float) -> Written:
        """Begin, or go on, and publish."""
        whole = self._take_up()
        if whole is not None:
            return self._workspace.go_forward(whole)
        begun = self._reached_s, self._written_bytes
        saved_wall_s, saved_bytes = time.monotonic(), self._written_bytes
        for stop_s in slices(self._reached_s, self._asked.stop_s, self._asked.end_s, self._slice_s):
            self._do(self._reached_s, stop_s)
            self._reached_s = min(stop_s, self._asked.end_s)
            if tell is not None:
                tell(self._progress(*begun))
            grown = self._written_bytes - saved_bytes
            is_due = time.monotonic() - saved_wall_s >= save_every_wall_s
            if stop_s < self._asked.stop_s and (is_due or grown >= SAVE_EVERY_BYTES):
                self._workspace.save(self._savepoint(stop_s))
                saved_wall_s, saved_bytes = time.monotonic(), self._written_bytes
        for exporter in self._exporters:
            self._workspace.append(exporter.close())
        self._workspace.append([(MANIFEST, manifest(self._asked, self._formats))])
        whole = Savepoint(
            self._digest, self._asked.end_s, dict(self._workspace.lengths), is_whole=True
        )
        return self._workspace.publish(whole)

    def _take_up(self) -> Savepoint | None:
        """Go on from a savepoint where there is one of ours; give it if nothing is left to do."""
        found = self._workspace.found()
        if found is not None and found.is_whole and found.digest != self._digest:
            self._workspace.go_forward(found)  # an export of something else that lacks names only
            found = None
        if found is not None and found.digest == self._digest:
            if found.is_whole:
                return found
            try:
                self._exporters = restored_exporters(found.exporters, self._asked)
                self._reached_s = found.reached_s
                return None
            except UnknownStateError:
                pass
        self._workspace.clear()
        self._workspace.append((name, b"") for name in self._names)  # they can be, if empty
        return None

    def _do(self, start_s: float, stop_s: float) -> None:
        asked, append = self._asked, self._workspace.append
        events = asked.run.events(start_s, stop_s, sample_every=asked.log_interval)
        for some in in_batches(events, _MOST_FLEET_VALUES // asked.run.spec.cluster.gpus):
            for exporter in self._exporters:
                append(accepted(exporter, some))
        if not self._fields:
            return
        moments = moments_in(start_s, stop_s, asked.run.end_s, asked.every_s)
        most = most_moments(asked)
        for first in range(0, len(moments), most):
            block = asked.run.telemetry(moments[first : first + most], self._fields)
            for exporter in self._exporters:
                if getattr(exporter, "fields", ()):
                    append(exporter.sample(block))

    def _savepoint(self, reached_s: float) -> Savepoint:
        exporters = saved_exporters(self._exporters, self._asked)
        return Savepoint(self._digest, reached_s, self._workspace.lengths, exporters)

    @property
    def _written_bytes(self) -> int:
        return sum(self._workspace.lengths.values())

    def _progress(self, begun_s: float, begun_bytes: int) -> Progress:
        return Progress(
            reached_s=self._reached_s,
            start_s=self._asked.start_s,
            end_s=self._asked.end_s,
            begun_s=begun_s,
            written_bytes=self._written_bytes,
            grown_bytes=self._written_bytes - begun_bytes,
            wall_s=time.monotonic() - self._begun_wall_s,
        )


def wanted_fields(exporters: Sequence[Any]) -> tuple[str, ...]:
    """The telemetry that some exporter wants, each field once."""
    wanted = (field for exporter in exporters for field in getattr(exporter, "fields", ()))
    return tuple(dict.fromkeys(wanted))


def in_batches(events: Iterable[Event], most_samples: int) -> Iterator[list[Event]]:
    """The events in lists that are cut where they would hold too many samples of the fleet."""
    batch: list[Event] = []
    samples = 0
    for event in events:
        batch.append(event)
        if isinstance(event, StepsCompleted) and event.fleet is not None:
            samples += len(event.fleet.step)
        if samples >= most_samples:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch


def accepted(exporter: Exporter, events: Sequence[Event]) -> Iterable[Chunk]:
    """What events add, all at once where the exporter has a way for it."""
    if isinstance(exporter, TakesMany):
        return exporter.accept_all(events)
    return itertools.chain.from_iterable(exporter.accept(event) for event in events)


def most_moments(asked: Asked) -> int:
    """Moments of telemetry to be had at once."""
    return max(1, _MOST_TELEMETRY_VALUES // asked.run.spec.cluster.gpus)


def slice_length_s(asked: Asked, *, with_telemetry: bool) -> float:
    """Run time of a slice."""
    gpus = asked.run.spec.cluster.gpus
    steps = min(_MOST_STEPS, max(1, _MOST_FLEET_VALUES // gpus) * asked.log_interval)
    length_s = steps * asked.run.plan.step_time.total_s
    return min(length_s, most_moments(asked) * asked.every_s) if with_telemetry else length_s


def slices(start_s: float, stop_s: float, end_s: float, length_s: float) -> Iterator[float]:
    """Where the slices of [start, stop) end; the last of a run has no end."""
    number = math.floor(start_s / length_s)
    last_s = min(stop_s, math.nextafter(end_s, math.inf))
    while True:
        number += 1
        at_s = number * length_s
        if at_s >= last_s:
            yield stop_s
            return
        if at_s > start_s:  # rounding may have put the first of them before it
            yield at_s


def moments_in(start_s: float, stop_s: float, end_s: float, every_s: float) -> NDArray[np.float64]:
    """The multiples of `every_s` in [start, stop), up to the end of the run."""
    first = math.floor(start_s / every_s)
    last = math.ceil(min(stop_s, end_s) / every_s)
    moments = np.multiply(np.arange(first, last + 1), every_s, dtype=np.float64)
    return moments[(moments >= start_s) & (moments < stop_s) & (moments <= end_s)]


def request_of(asked: Asked, formats: Sequence[Format]) -> dict[str, Any]:
    """What makes an export this one: of the same request, the same bytes come."""
    from ghosttrain import __version__

    return {
        "spec": write_spec_file(asked.run.spec),
        "seed": asked.run.seed,
        "log_interval": asked.log_interval,
        "window_s": [asked.start_s, asked.stop_s if math.isfinite(asked.stop_s) else None],
        "every_s": asked.every_s,
        "gpus": asked.gpus,
        "metrics": asked.metrics,
        "formats": [one.name for one in formats],
        "ghosttrain": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def digest_of(asked: Asked, formats: Sequence[Format]) -> str:
    """The request in few characters."""
    return hashlib.sha256(json.dumps(request_of(asked, formats)).encode()).hexdigest()


def manifest(asked: Asked, formats: Sequence[Format]) -> bytes:
    """What says of all files, those that cannot say it themselves too, that they are simulated."""
    told = {"simulated": True, "schema": MANIFEST_SCHEMA, **request_of(asked, formats)}
    return json.dumps(told, indent=2).encode() + b"\n"
