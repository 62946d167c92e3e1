"""TensorBoard event files, one for each launch, as the frameworks' writers leave them.

A file is a row of records (length, its CRC, an Event, its CRC). All scalars of one moment and
axis share an Event, which TensorBoard's readers take apart again; the message is made once for a
block and filled anew for every record, which is what makes this fast.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Iterable, Iterator

import google_crc32c
from tensorboardX.proto.event_pb2 import Event as Record  # type: ignore[import-untyped]  # has none

from ghosttrain.core.events import Event, RunRestarted, RunStarted
from ghosttrain.core.identity import process_id
from ghosttrain.core.run import Run
from ghosttrain.exporters.scalars import Scalars, TagSet, caught_up
from ghosttrain.exporters.tag_sets import Framework, framework_of, tag_set
from ghosttrain.exporters.tracked_run import config, launches, run_digest, run_name
from ghosttrain.exporters.writing import Asked, Chunk

FOLDER = "tensorboard"
MARK = "ghosttrain/simulated"
FILE_VERSION = "brain.Event:2"  # tensorflow/core/util/events_writer.h
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h
_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")


class EventFiles:
    """Writes what a tag set tells, a new file at each launch.

    Args:
        tags: What is told.
        names: File of each launch, the first one's first.
        made_s: When each launch began, run time.
        start_unix_s: Date of run time 0.
        mark: What the files say of themselves, Markdown.
        launch: The launch in progress when the events begin.
    """

    def __init__(
        self,
        tags: TagSet,
        *,
        names: tuple[str, ...],
        made_s: tuple[float, ...],
        start_unix_s: int,
        mark: str,
        launch: int = 1,
    ) -> None:
        self._tags, self._names, self._made_s = tags, names, made_s
        self._start_unix_s, self._mark = start_unix_s, mark
        self._launch, self._opened = launch, 0

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds."""
        if isinstance(event, RunRestarted):
            self._launch = event.attempt
        told = self._tags.accept(event)
        if told or isinstance(event, RunStarted | RunRestarted):
            yield from self._head()
        if told:
            yield self._name, b"".join(_in_order(told, self._start_unix_s))

    def close(self) -> Iterable[Chunk]:
        """A window without any value has a file that says so."""
        yield from self._head()

    @property
    def _name(self) -> str:
        return self._names[self._launch - 1]

    def _head(self) -> Iterator[Chunk]:
        """What a launch's file begins with, once."""
        if self._opened == self._launch:
            return
        self._opened = self._launch
        made_unix_s = self._start_unix_s + self._made_s[self._launch - 1]
        version = Record(wall_time=made_unix_s, file_version=FILE_VERSION)
        yield (
            self._name,
            framed(version.SerializeToString()) + framed(_text(MARK, self._mark, made_unix_s)),
        )


def framed(data: bytes) -> bytes:
    """One record of an event file."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CRC.pack((((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _text(tag: str, text: str, unix_s: float) -> bytes:
    record = Record(wall_time=unix_s)
    value = record.summary.value.add(tag=tag)
    value.metadata.plugin_data.plugin_name = "text"
    value.tensor.dtype = 7  # DT_STRING, tensorflow/core/framework/types.proto
    value.tensor.tensor_shape.dim.add(size=1)
    value.tensor.string_val.append(text.encode())
    return bytes(record.SerializeToString())


def _in_order(told: Iterable[Scalars], start_unix_s: int) -> Iterator[bytes]:
    """Records of blocks, merged by their times; at equal times in the order of the blocks."""
    blocks = [zip(one.time_s.tolist(), _records(one, start_unix_s), strict=True) for one in told]
    if len(blocks) == 1:
        return (record for _, record in blocks[0])
    return (record for _, record in heapq.merge(*blocks, key=lambda timed: timed[0]))


def _records(scalars: Scalars, start_unix_s: int) -> Iterator[bytes]:
    """The records of a block, one a moment."""
    record = Record()
    values = [record.summary.value.add(tag=tag) for tag in scalars.tags]
    unix_s = (start_unix_s + scalars.time_s).tolist()
    for moment_s, step, row in zip(
        unix_s, scalars.step.tolist(), scalars.values.tolist(), strict=True
    ):
        record.wall_time = moment_s
        record.step = step
        for value, number in zip(values, row, strict=True):
            value.simple_value = number
        if scalars.nan_is_absent and any(map(math.isnan, row)):
            yield framed(_without_nan(record).SerializeToString())
        else:
            yield framed(record.SerializeToString())


def _without_nan(record: Record) -> Record:
    """The record without values that are no number."""
    told = Record(wall_time=record.wall_time, step=record.step)
    told.summary.value.extend(v for v in record.summary.value if not math.isnan(v.simple_value))
    return told


def file_names(framework: Framework, run: Run) -> tuple[str, ...]:
    """Names of the launches' event files, as tensorboard's EventFileWriter makes them.

    They stand in a folder of the run: TensorBoard takes all files of a folder for one run.
    """
    folder = f"{FOLDER}/{run_name(run)}-{run_digest(run)[:3].hex()}/{framework}"
    per_node = run.spec.cluster.gpus_per_node
    names = []
    for launch in launches(run, framework):
        node, local = divmod(launch.rank, per_node)
        pid = process_id(node, local, launch.number)
        unix_s = int(run.spec.start_unix_s + launch.made_s)
        names.append(f"{folder}/events.out.tfevents.{unix_s:010d}.{launch.host}.{pid}.0")
    return tuple(names)


def event_files(asked: Asked, framework: Framework) -> EventFiles:
    """What writes the event files of a framework."""
    run = asked.run
    tags = tag_set(framework, run, asked.log_interval)
    return EventFiles(
        caught_up(tags, run, asked.start_s),
        names=file_names(framework, run),
        made_s=tuple(launch.made_s for launch in launches(run, framework)),
        start_unix_s=run.spec.start_unix_s,
        mark=_mark(run),
        launch=run.span_at(asked.start_s).attempt,
    )


def _mark(run: Run) -> str:
    """What stands behind the files, as a table."""
    lines = [f"| {key} | {value} |" for key, value in config(run).items()]
    return "\n".join(["| key | value |", "|---|---|", *lines])


def suiting_events(asked: Asked) -> EventFiles:
    """Event files of the framework whose tags suit the run."""
    return event_files(asked, framework_of(asked.run.plan))


def megatron_events(asked: Asked) -> EventFiles:
    """Event files as Megatron-LM writes them."""
    return event_files(asked, "megatron")


def torchtitan_events(asked: Asked) -> EventFiles:
    """Event files as torchtitan writes them."""
    return event_files(asked, "torchtitan")


def hf_events(asked: Asked) -> EventFiles:
    """Event files as the Trainer of Transformers writes them."""
    return event_files(asked, "hf")


def nemo_events(asked: Asked) -> EventFiles:
    """Event files as NeMo writes them."""
    return event_files(asked, "nemo")
