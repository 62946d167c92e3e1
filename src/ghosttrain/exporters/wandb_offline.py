"""Weights & Biases: an offline run for each launch, that `wandb sync` and `wandb leet` read.

The records are wandb's own messages; they are put into its log here and not by its service,
which dates the run, its folder and the telemetry of GPUs by the wall clock.

The log is LevelDB's: blocks of 32 KiB, each record whole or in parts with a checksum
(wandb/wandb, core/internal/transactionlog; google/leveldb, doc/log_format.md).
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from ghosttrain.core.events import (
    Event,
    Phase,
    RunAborted,
    RunFinished,
    RunRestarted,
    StepsCompleted,
)
from ghosttrain.core.units import MIB
from ghosttrain.exporters.scalars import caught_up
from ghosttrain.exporters.tag_sets import framework_of, tag_set
from ghosttrain.exporters.time_merge import TimeMerge
from ghosttrain.exporters.tracked_run import (
    PROJECT,
    Launch,
    Row,
    Rows,
    config,
    launches,
    run_digest,
    run_name,
)
from ghosttrain.exporters.writing import Asked, Chunk

if TYPE_CHECKING:
    from ghosttrain.core.telemetry import Telemetry

_IDENT = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK_BYTES = 32768
_PART = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# The oldest reader that takes it, as wandb 0.31.0 writes it into its own files.
_MIN_CONSUMER = "0.70.0"
_EVENTS, _TELEMETRY = 0, 1
_ID_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_KILLED = 1  # exit code of a trainer that a fault ended

# wandb's names of what it reads of a GPU (wandb/wandb, gpu_stats/src/gpu_nvidia.rs), and ours.
_DIRECT = {
    "gpu": "gpu_util_pct",
    "memory": "mem_copy_util_pct",
    "temp": "gpu_temp_c",
    "powerWatts": "power_w",
    "enforcedPowerLimitWatts": "power_limit_w",
    "smClock": "sm_clock_mhz",
    "memoryClock": "mem_clock_mhz",
    "correctedMemoryErrors": "ecc_sbe_volatile",
    "uncorrectedMemoryErrors": "ecc_dbe_volatile",
}
_FIELDS = (*_DIRECT.values(), "fb_used_mib", "fb_free_mib", "fb_reserved_mib")


class TransactionLog:
    """Frames records into the blocks of one file."""

    def __init__(self) -> None:
        self._at = 0

    def add(self, data: bytes) -> bytes:
        """The bytes that a record adds to the file."""
        out = bytearray()
        if not self._at:
            out += _IDENT
        rest, is_first = memoryview(data), True
        while rest or is_first:
            room = _BLOCK_BYTES - (self._at + len(out)) % _BLOCK_BYTES
            if room < _PART.size:
                out += bytes(room)
                continue
            part = rest[: room - _PART.size]
            rest = rest[len(part) :]
            kind = (_MIDDLE if rest else _LAST) if not is_first else (_FIRST if rest else _FULL)
            checksum = zlib.crc32(part, zlib.crc32(bytes([kind])))
            out += _PART.pack(checksum, len(part), kind)
            out += part
            is_first = False
        self._at += len(out)
        return bytes(out)


class OfflineRun:
    """The records of one launch.

    Args:
        launch: Which one.
        run_id: Eight letters and digits.
        unix_s: Date of run time 0.
    """

    def __init__(self, launch: Launch, run_id: str, unix_s: int) -> None:
        self.launch, self._id, self._unix_s = launch, run_id, unix_s
        self._log, self._number = TransactionLog(), 0
        self._last: dict[str, float] = {}
        made = datetime.fromtimestamp(unix_s + launch.made_s, UTC).strftime("%Y%m%d_%H%M%S")
        self.folder = f"wandb/offline-run-{made}-{run_id}"
        self.file = f"{self.folder}/run-{run_id}.wandb"

    def head(self, facts: dict[str, Any], *, name: str) -> bytes:
        """What the file begins with."""
        header = Record()
        header.header.version_info.producer = wandb.__version__
        header.header.version_info.min_consumer = _MIN_CONSUMER
        began = Record()
        run = began.run
        run.run_id, run.project, run.run_group = self._id, PROJECT, name
        run.display_name = f"{name}-launch{self.launch.number}"
        run.host = self.launch.host
        run.tags.append("simulated")
        run.notes = "Simulated by ghosttrain: no GPU was there."
        _stamp(run.start_time, self._unix_s + self.launch.made_s)
        for key, value in {"_wandb": {}, **facts}.items():
            run.config.update.add(key=key, value_json=json.dumps(value))
        run.telemetry.feature.offline = True
        run.telemetry.cli_version = wandb.__version__
        return self._add(header) + self._add(began)

    def history(self, row: Row) -> bytes:
        """A row of values."""
        record = Record()
        unix_s, runtime_s = self._unix_s + row.time_s, row.time_s - self.launch.made_s
        marks = {"_step": row.step, "_timestamp": unix_s, "_runtime": runtime_s}
        for key, value in (row.values | marks).items():
            record.history.item.add(nested_key=[key], value_json=_number(value))
        record.history.step.num = row.step
        self._last |= row.values | marks
        return self._add(record)

    def stats(self, time_s: float, values: dict[str, float]) -> bytes:
        """What wandb reads of the GPUs beside it."""
        record = Record()
        record.stats.stats_type = record.stats.SYSTEM
        _stamp(record.stats.timestamp, self._unix_s + time_s)
        for key, value in values.items():
            record.stats.item.add(key=key, value_json=_number(value))
        return self._add(record)

    def exit(self, time_s: float, code: int) -> bytes:
        """The last values, and how the process ended."""
        summary, ended = Record(), Record()
        runtime_s = int(time_s - self.launch.made_s)
        for key, value in self._last.items():
            summary.summary.update.add(nested_key=[key], value_json=_number(value))
        summary.summary.update.add(nested_key=["_wandb", "runtime"], value_json=str(runtime_s))
        ended.exit.exit_code, ended.exit.runtime = code, runtime_s
        return self._add(summary) + self._add(ended)

    def _add(self, record: Record) -> bytes:
        self._number += 1
        record.num = self._number
        record._info.stream_id = self._id
        return self._log.add(record.SerializeToString())


def _number(value: float) -> str:
    """A number as JSON; `json.dumps` takes five times as long."""
    return repr(value) if math.isfinite(value) else json.dumps(value)


def _stamp(field: Any, unix_s: float) -> None:
    """Set a protobuf Timestamp, to the microsecond."""
    micros = round(unix_s * 1e6)
    field.seconds, field.nanos = micros // 10**6, micros % 10**6 * 1000


_Item = Row | dict[str, float] | RunRestarted | RunAborted | RunFinished


class OfflineRuns:
    """Turns events and telemetry of the node that tells into offline runs.

    Attributes:
        fields: The telemetry it wants.
    """

    fields = _FIELDS

    def __init__(self, asked: Asked) -> None:
        run = asked.run
        tags = tag_set(framework_of(run.plan), run, asked.log_interval)
        self._tags = caught_up(tags, run, asked.start_s)
        self._run, self._launches = run, launches(run)
        self._rows = Rows()
        self._merge: TimeMerge[_Item] = TimeMerge(2)
        self._open: OfflineRun | None = None
        self._launch = run.span_at(asked.start_s).attempt

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds."""
        put, time_s = self._merge.put, event.time_s
        for row in self._rows.accept(self._tags.accept(event)):
            put(_EVENTS, row.time_s, row)
        if isinstance(event, RunAborted | RunFinished | RunRestarted):
            for row in self._rows.close():
                put(_EVENTS, row.time_s, row)
            put(_EVENTS, time_s, event)
        if isinstance(event, StepsCompleted):
            time_s = float(event.end_s[-1])
        since_s = self._rows.since_s
        self._merge.passed(_EVENTS, time_s if since_s is None else min(since_s, time_s))
        return self._written(all_of_them=False)

    def sample(self, block: Telemetry) -> Iterable[Chunk]:
        """What a block of telemetry adds."""
        cluster = self._run.spec.cluster
        first = self._launches[0].rank // cluster.gpus_per_node * cluster.gpus_per_node
        of_node = range(first, min(first + cluster.gpus_per_node, cluster.gpus))
        for k, time_s in enumerate(block.time_s.tolist()):
            lost = set(block.lost[k])
            gpus = [gpu for gpu in of_node if gpu not in lost]
            if self._run.span_at(time_s).phase is not Phase.DOWN:  # else nobody is there to look
                self._merge.put(_TELEMETRY, time_s, _gpu_stats(block, k, gpus, first))
            self._merge.passed(_TELEMETRY, time_s)
        return self._written(all_of_them=False)

    def close(self) -> Iterable[Chunk]:
        """What is left."""
        for row in self._rows.close():
            self._merge.put(_EVENTS, row.time_s, row)
        yield from self._written(all_of_them=True)
        if self._open is None and self._launch:
            yield from self._begin(self._launch)  # a window without a value

    def _written(self, *, all_of_them: bool) -> Iterator[Chunk]:
        for time_s, item in self._merge.ready(all_of_them=all_of_them):
            match item:
                case RunRestarted():
                    yield from self._begin(item.attempt)
                case RunAborted() | RunFinished():
                    yield from self._end(time_s, _KILLED if isinstance(item, RunAborted) else 0)
                case Row():
                    yield from self._begin(self._launch)
                    assert self._open is not None
                    yield self._open.file, self._open.history(item)
                case _ if self._launch:  # not behind the end
                    yield from self._begin(self._launch)
                    assert self._open is not None
                    yield self._open.file, self._open.stats(time_s, item)

    def _begin(self, number: int) -> Iterator[Chunk]:
        """Open the run of a launch, if it is not open."""
        if self._open is not None and self._open.launch.number == number:
            return
        self._launch = number
        run_id = _run_id(run_digest(self._run, number))
        launch = self._launches[number - 1]
        self._open = OfflineRun(launch, run_id, self._run.spec.start_unix_s)
        facts = config(self._run) | {"launch": number}
        yield self._open.file, self._open.head(facts, name=run_name(self._run))
        # `wandb sync` puts the summary beside it: without the folder it cannot.
        yield f"{self._open.folder}/files/config.yaml", _config_file(facts)

    def _end(self, time_s: float, code: int) -> Iterator[Chunk]:
        yield from self._begin(self._launch)
        assert self._open is not None
        yield self._open.file, self._open.exit(time_s, code)
        self._launch = 0


def _run_id(digest: bytes) -> str:
    """Eight lower-case letters and digits, as wandb's own."""
    number, letters = int.from_bytes(digest[:8], "little"), ""
    for _ in range(8):
        number, at = divmod(number, len(_ID_LETTERS))
        letters += _ID_LETTERS[at]
    return letters


def _config_file(facts: dict[str, Any]) -> bytes:
    """The configuration as wandb puts it beside a run; JSON's values are YAML's."""
    lines = (f"{key}:\n    value: {json.dumps(value)}\n" for key, value in facts.items())
    return "".join(lines).encode()


def _gpu_stats(block: Telemetry, k: int, gpus: list[int], first: int) -> dict[str, float]:
    """What wandb reads of GPUs at moment `k`, by its names; they are numbered from `first`."""
    columns, stats = block.columns, {}
    for gpu in gpus:
        values = {name: float(columns[field][k, gpu]) for name, field in _DIRECT.items()}
        used, free, reserved = (
            float(columns[f"fb_{part}_mib"][k, gpu]) for part in ("used", "free", "reserved")
        )
        values["memoryAllocated"] = 100 * used / (used + free + reserved)
        values["memoryAllocatedBytes"] = used * MIB
        values["powerPercent"] = 100 * values["powerWatts"] / values["enforcedPowerLimitWatts"]
        for name, value in values.items():
            if math.isfinite(value):
                stats[f"gpu.{gpu - first}.{name}"] = value
    return stats


def offline_runs(asked: Asked) -> OfflineRuns:
    """What writes the offline runs."""
    return OfflineRuns(asked)
