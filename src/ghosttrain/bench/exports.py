"""Benchmarks of exports: tables against Arrow's writer alone, lines of JSON against orjson."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ghosttrain.bench.core import spec_of
from ghosttrain.bench.process import peak_mb_of
from ghosttrain.bench.result import Result, seconds
from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import Event, RunStarted, StepsCompleted
from ghosttrain.core.run import simulate
from ghosttrain.exporters import driver
from ghosttrain.exporters.formats import formats_of
from ghosttrain.exporters.jsonl import JsonlWriter
from ghosttrain.exporters.writing import Asked

PAIRS = 7
TABLE_GPUS, TABLE_MOMENTS = 1024, 3072  # 3,145,728 rows: six part files
JSON_STEPS = 60_000
MEMORY_GPUS, MEMORY_MOMENTS = 16_384, (128, 1024)  # 2.1 and 16.8 million rows


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Medians of both, and of the ratio of each pair: a busy machine hits both alike."""
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    ours = statistics.median(ours for ours, _ in pairs)
    return ours, statistics.median(theirs for _, theirs in pairs), ratio


def _cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call: for pieces of some ms, which a busy machine stretches at random."""
    start = time.process_time()
    work()
    return time.process_time() - start


def bench_parquet() -> list[Result]:
    """An export of telemetry as Parquet against Arrow writing the same tables, ready in memory."""
    try:
        import pyarrow.parquet as pq

        from ghosttrain.exporters.parquet_parts import ROWS_PER_GROUP, write_options
    except ImportError:
        raise RequestError(
            "bench parquet needs the package pyarrow: pip install 'ghosttrain[parquet]'"
        ) from None
    run = simulate(spec_of("llama-3-8b", TABLE_GPUS, 4000), 1)
    start_s = 600.0
    asked = Asked(run, start_s=start_s, stop_s=start_s + TABLE_MOMENTS, every_s=1.0)
    formats = formats_of("parquet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver.export(asked, folder / "ours", formats)
        files = [*(folder / "ours").rglob("*.parquet")]
        tables = [pq.read_table(file) for file in files]

        def theirs() -> None:
            for number, table in enumerate(tables):
                path = folder / f"{number}.parquet"
                options = write_options(table.schema)
                pq.write_table(table, path, row_group_size=ROWS_PER_GROUP, **options)

        pairs = [
            (seconds(lambda: driver.export(asked, folder / "ours", formats)), seconds(theirs))
            for _ in range(PAIRS)
        ]
        telemetry = [file for file in files if file.parent.name == "telemetry"]
        size = sum(file.stat().st_size for file in telemetry)
    ours, arrow, ratio = _medians(pairs)
    rows = TABLE_GPUS * TABLE_MOMENTS
    note = f"{rows / ours:,.0f} against {rows / arrow:,.0f} rows/s"
    return [
        Result(
            "Parquet of a run over Arrow writing its ready tables", ratio, "x", 0.5, False, note
        ),
        Result("Parquet of 4 metrics, a GPU and moment", size / rows, "B", 6, True),
    ]


def bench_jsonl() -> list[Result]:
    """The log of steps against orjson with the same fields, ready as dicts."""
    try:
        import orjson
    except ImportError:
        raise RequestError("bench jsonl needs the package orjson: pip install orjson") from None
    run = simulate(spec_of("llama-3-8b", 64, JSON_STEPS), 1)
    events = list(run.events(0.0, math.inf, sample_every=10**9))
    started = events[0]
    assert isinstance(started, RunStarted)
    writer = JsonlWriter(started)
    batches = [
        [event for event in batch if isinstance(event, StepsCompleted)] for batch in _slices(events)
    ]
    lines = [writer.accept_all(batch).splitlines() for batch in batches]
    ready: list[list[dict[str, Any]]] = [
        [row for row in map(orjson.loads, some) if row["event"] == "step"] for some in lines
    ]

    def ours(batch: list[StepsCompleted]) -> float:
        return _cpu_seconds(lambda: writer.accept_all(batch))

    def theirs(rows: list[dict[str, Any]]) -> float:
        def dump() -> None:
            for row in rows:
                orjson.dumps(row)

        return _cpu_seconds(dump)

    pairs = [
        (ours(batch), theirs(rows))
        for _ in range(PAIRS)
        for batch, rows in zip(batches, ready, strict=True)
    ]
    own_s, orjson_s, ratio = _medians(pairs)
    steps = len(ready[0])
    note = f"{steps / own_s:,.0f} against {steps / orjson_s:,.0f} rows/s of CPU time"
    return [Result("steps as JSON lines over orjson on ready dicts", ratio, "x", 1.0, False, note)]


def _slices(events: Sequence[Event], most_steps: int = 4096) -> Iterator[list[Event]]:
    """The events in lists as an export has them: of so many steps or a few more."""
    batch: list[Event] = []
    steps = 0
    for event in events:
        batch.append(event)
        steps += len(event.step) if isinstance(event, StepsCompleted) else 0
        if steps >= most_steps:
            yield batch
            batch, steps = [], 0
    yield batch


def bench_export_memory() -> list[Result]:
    """Peak memory of exports of telemetry of 16,384 GPUs, of two lengths."""
    peaks = [_peak_mb(moments) for moments in MEMORY_MOMENTS]
    note = f"{peaks[1]:.1f} against {peaks[0]:.1f} MB"
    return [
        Result("peak memory of eight times the export", peaks[1] / peaks[0], "x", 1.05, True, note),
        Result("peak memory of an export of 16,384 GPUs", peaks[1], "MB", 150, True),
    ]


def _peak_mb(moments: int) -> float:
    """Peak memory of `ghosttrain export` of so many moments of telemetry."""
    with tempfile.TemporaryDirectory() as folder:
        words = (
            "export",
            "llama-3.1-405b",
            "--gpus",
            str(MEMORY_GPUS),
            "--seed",
            "1",
            "--steps",
            "20000",
        )
        window = ("--from", "1h", "--to-time", f"{3600 + 30 * moments}s", "--log-interval", "1000")
        to = ("--to", folder, "--format", "parquet,labels")
        return peak_mb_of([sys.executable, "-m", "ghosttrain", *words, *window, *to])
