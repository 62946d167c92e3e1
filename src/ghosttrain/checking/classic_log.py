"""The classic log as observations: what a pipe got, or what a terminal was shown.

A capture of a terminal may still have its escapes: colours are dropped, moves of the cursor end
a line. What has been cut with an ellipsis is read up to the last whole word. Lines we do not
know are passed over; a line that begins as one of ours and goes on otherwise is reported.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ghosttrain.checking.classic_lines import (
    INFO_LINES,
    OTHER_LINES,
    Said,
    is_like_a_warning,
    size,
    summary_of,
)
from ghosttrain.checking.lines import RawLine
from ghosttrain.checking.observations import (
    F64,
    CollectiveBlock,
    Column,
    Facts,
    FactsLearnt,
    FleetBlock,
    LogEnded,
    Observation,
    RunBegan,
    Seen,
    StepBlock,
    Unreadable,
    Value,
)

BLOCK_ROWS = 4096
BLOCK_VALUES = 1 << 20
_STAMP_HALF_S = 0.5  # stamps are whole seconds, rounded down

_ESCAPES_TO_DROP = re.compile(
    rb"\x1b\[[0-9;]*[mK]|\x1b\[\?[0-9;]*[hl]|\x1b[=>]|\x1b\][^\x07\x1b]*\x07?"
)
_ESCAPES_THAT_MOVE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")
_STAMPED = re.compile(r"\[(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)\] (?:(INFO|WARNING|ERROR) +)?(.*)")
_STAMPED_BYTES = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (INFO |WARNING |ERROR |step )")
_F = r"\d+(?:\.\d+)?"
_STEP = re.compile(
    r"step +(\d+)/(\d+)"
    rf"(?:  loss +({_F}|nan))?"
    rf"(?:  ppl +({_F}|nan))?"
    rf"(?:  grad +({_F}|nan))?"
    rf"(?:  lr +({_F}(?:e[+-]?\d+)?)(?: [a-z]+)?)? *"
    r"(?:  (?:scale +\d+|BF16|FP16|FP8))?"
    rf"(?:  +({_F})s)?"
    r"(?:  +(\d+) tok/s)?"
    rf"(?:  +({_F}) TFLOP/s/GPU)?"
    rf"(?:  MFU +({_F})%)?"
    r"(?:  clipped)? *$"
)
_CUT_STEP = re.compile(_STEP.pattern.removesuffix(" *$"))
_COLUMNS = (
    # name, group of _STEP, half a unit, factor
    ("step", 1, 0.0, 1.0),
    ("loss", 3, 5e-5, 1.0),
    ("ppl", 4, 5e-3, 1.0),
    ("grad_norm", 5, 5e-4, 1.0),
    ("learning_rate", 6, 0.0, 1.0),
    ("step_time_s", 7, 5e-4, 1.0),
    ("tokens_per_s", 8, 0.5, 1.0),
    ("tflops_per_gpu", 9, 0.05, 1.0),
    ("mfu", 10, 5e-4, 0.01),
)
_COLLECTIVE = re.compile(
    r"(?:NCCL|RCCL) (all-reduce|reduce-scatter|all-gather|all-to-all), layer (\d+): "
    rf"({_F} [KMGTP]?B) over (\d+) ranks, ({_F}) ms, bus bandwidth ({_F}) GB/s$"
)
_GRID = re.compile(
    r"GPU status \| step (\d+) \| (\d+) x .+ \| "
    rf"mean +(\d+)% +(\d+)C +(\d+)W +({_F})/({_F})GiB(?: \| (\d+) lost)?$"
)
_GRID_HALVES = {"util_pct": 0.5, "temp_c": 0.5, "memory_gib": 0.05, "power_w": 0.5}
_BAR = re.compile(rf"Loss: ({_F}|nan) \| PPL: ({_F}|nan) \|(?:.*?MFU ({_F})%)?")
_DIGITS = bytes(c if c in b"0123456789.-" else 32 for c in range(256))
_TERMINAL_GRID = "GPU status ·".encode()
_CUT_BYTES = ("…".encode(), b"~")
Grid = tuple[int, re.Match[str], float, list[bytes]]  # line, heading, last step, nodes
_NUMBERS_A_CELL = 6  # index, utilisation, temperature, memory, card, power


class ClassicReader:
    """Turns lines of the classic log into observations."""

    def __init__(self) -> None:
        self._facts = Facts()
        self._dates: dict[str, float] = {}
        self._steps: list[tuple[str | None, ...]] = []
        self._step_places: list[tuple[int, float]] = []
        self._samples: list[Grid] = []
        self._grid: Grid | None = None
        self._collectives: list[tuple[int, float, re.Match[str]]] = []
        self._values = 0
        self._last_step = math.nan
        self._attempt = 1
        self._ranks = 0
        self._summary: list[tuple[int, str]] | None = None
        self._is_cut = False
        self._is_capture = False

    def observations(self, lines: Iterable[RawLine]) -> Iterator[Seen]:
        """What the lines say, in order; samples stand behind the block of their steps."""
        last = RawLine(0, b"")
        for last in lines:
            if last.is_too_long:
                yield from self._flush()
                yield Unreadable(last.number, "readable-lines", "the line is too long to be ours")
                continue
            data = last.data
            is_of_terminal = b"\x1b" in data or b"\r" in data or data.startswith(_TERMINAL_GRID)
            if is_of_terminal and not self._is_capture:
                self._is_capture = True
                yield from self._learn(last.number, {"is_thinned": True})
            if is_of_terminal:
                for part in _parts(data):
                    yield from self._line(last, part)
            else:
                yield from self._line(last, data)
            full = len(self._steps) >= BLOCK_ROWS or len(self._samples) >= BLOCK_ROWS
            if full or self._values >= BLOCK_VALUES:
                yield from self._flush()
        yield from self._flush()
        yield LogEnded(last.number, truncated=not last.has_newline)

    def _line(self, raw: RawLine, data: bytes) -> Iterator[Seen]:
        if self._grid is not None and data.startswith(b"Node "):
            if raw.has_newline and not data.endswith(_CUT_BYTES):
                self._grid[3].append(data)
            else:
                self._grid = None  # not all of it is there
            return
        text = data.decode("utf-8", "replace").rstrip()
        if self._grid is not None:
            self._close_grid()
        if not text:
            return
        if not raw.has_newline and not text.startswith("✔"):
            return  # cut in the middle of a line, told by LogEnded
        self._is_cut = text.endswith(("…", "~"))
        if self._is_cut:
            text = text[:-1].rpartition(" ")[0].rstrip()
        if text.startswith("["):
            yield from self._stamped(raw.number, text)
        elif text.startswith("GPU status |"):
            yield from self._grid_heading(raw.number, text)
        elif self._summary is not None or "= Training Summary =" in text:
            yield from self._in_summary(raw.number, text)
        elif text.startswith("Interrupted"):
            yield from self._flush()
            yield Observation("interrupted", raw.number)
        elif "Loss: " in text and (bar := _BAR.search(text)):
            yield from self._bar(raw.number, bar)

    def _stamped(self, line: int, text: str) -> Iterator[Seen]:
        found = _STAMPED.match(text)
        if found is None:
            return
        date, hour, minute, second, level, body = found.groups()
        day = self._day(date)
        clock = day + int(hour) * 3600 + int(minute) * 60 + int(second) + _STAMP_HALF_S
        if math.isnan(day) or int(hour) > 23 or int(minute) > 59 or int(second) > 59:
            yield from self._unreadable(line, f"{text[:21]} is no date")
            return
        if level is None and body.startswith("step "):
            yield from self._step(line, clock, body)
        elif body.startswith(("NCCL ", "RCCL ")) and (timing := _COLLECTIVE.match(body)):
            self._collectives.append((line, clock, timing))
        else:
            yield from self._flush()
            yield from self._said(line, clock, level, body)

    def _day(self, date: str) -> float:
        """Unix seconds of a day's beginning, NaN where there is no such day."""
        if date not in self._dates:
            try:
                parsed = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
                self._dates[date] = parsed.timestamp()
            except ValueError:
                self._dates[date] = math.nan
        return self._dates[date]

    # Steps, samples, timings.

    def _step(self, line: int, clock: float, body: str) -> Iterator[Seen]:
        found = (_CUT_STEP if self._is_cut else _STEP).match(body)
        if found is None or found[3] is None:
            yield from self._unreadable(line, f"{body[:60]!r} is no line of a step")
            return
        if self._facts.total_steps is None or found[2] != f"{self._facts.total_steps.value:.0f}":
            yield from self._learn(line, {"total_steps": Value(float(found[2]))})
        groups = found.groups()
        if self._steps and [g is None for g in groups] != [g is None for g in self._steps[-1]]:
            yield from self._flush()  # the width has changed: other columns
        self._steps.append(groups)
        self._step_places.append((line, clock))
        self._last_step = float(found[1])

    def _grid_heading(self, line: int, text: str) -> Iterator[Seen]:
        found = _GRID.match(text)
        if found is None:
            yield from self._unreadable(line, f"{text[:60]!r} is no heading of a grid")
            return
        if self._facts.gpu_memory_gib is None:
            yield from self._learn(line, {"gpu_memory_gib": Value(float(found[7]), 0.05)})
        self._grid = (line, found, self._last_step, [])

    def _close_grid(self) -> None:
        if self._grid is not None:
            self._samples.append(self._grid)
            self._values += int(self._grid[1][2])
            self._grid = None

    def _flush(self) -> Iterator[Seen]:
        """What has been gathered: steps, then timings, then samples."""
        self._close_grid()
        if self._steps:
            rows, self._steps = self._steps, []
            places, self._step_places = self._step_places, []
            yield from _step_block(rows, places)
        if self._collectives:
            timings, self._collectives = self._collectives, []
            yield _collective_block(timings)
        if self._samples:
            samples, self._samples = self._samples, []
            self._values = 0
            yield from _fleet_blocks(samples)

    # All other lines.

    def _learn(self, line: int, facts: dict[str, Any]) -> Iterator[Seen]:
        """Facts a line tells, and those that follow from them."""
        merged = {name: value for name, value in facts.items() if value is not None}
        known = replace(self._facts, **merged)
        if known.global_batch_size is not None and known.seq_len is not None:
            tokens = known.global_batch_size.value * known.seq_len.value
            if known.tokens_per_step is None:
                merged["tokens_per_step"] = Value(tokens)
        self._facts = replace(self._facts, **merged)
        yield from self._flush()
        yield FactsLearnt(line, merged)

    def _said(self, line: int, clock: float, level: str | None, body: str) -> Iterator[Seen]:
        """What a line with a level says."""
        for start, pattern, reader in INFO_LINES:
            if not body.startswith(start):
                continue
            found = pattern.search(body)
            if found is None:
                what = f"a line beginning with {start.strip()!r}"
                yield from self._unreadable(line, f"{body[:60]!r} does not go on as {what} does")
            else:
                yield from self._told(line, clock, body, reader(found))
            return
        for pattern, reader in OTHER_LINES:
            if found := pattern.match(body):
                yield from self._told(line, clock, body, reader(found))
                return
        if level == "WARNING" and is_like_a_warning(body):
            yield from self._unreadable(line, f"{body[:60]!r} is no warning of ours")

    def _unreadable(self, line: int, what: str) -> Iterator[Seen]:
        """That a line breaks the format; of one that is cut nobody knows."""
        yield from self._flush()
        if not self._is_cut:
            yield Unreadable(line, "readable-lines", what)

    def _told(self, line: int, clock: float, body: str, said: Iterable[Said]) -> Iterator[Seen]:
        time = Value(clock, _STAMP_HALF_S)
        try:
            sayings = list(said)
        except (ValueError, IndexError, KeyError):
            yield from self._unreadable(line, f"{body[:60]!r} has a number that is none")
            return
        for kind, numbers, words, flags in sayings:
            if kind == "run":
                facts = {**numbers, **words, "is_thinned": self._is_capture}
                self._facts = Facts(**facts)
                self._attempt, self._ranks, self._summary = 1, 0, None
                self._last_step = math.nan
                yield RunBegan(line, self._facts, time)
            elif kind == "facts":
                yield from self._learn(line, {**numbers, **words})
            elif kind == "gpus_detected":
                yield self._gpus(line, time, numbers)
            else:
                if kind == "run_restarted":
                    self._ranks = 0
                if words.get("phase") == "hang":
                    self._last_step = math.nan  # steps since the last row were not due for one
                yield Observation(kind, line, time, numbers, words, flags)

    def _gpus(self, line: int, time: Value, numbers: dict[str, Value]) -> Observation:
        """Ranks that report: one, some, or all so far."""
        if "up_to" in numbers:
            first = float(self._ranks)
            numbers = {
                "first_rank": Value(first),
                "count": Value(numbers["up_to"].value - first),
            }
        self._ranks = int(numbers["first_rank"].value + numbers["count"].value)
        return Observation("gpus_detected", line, time, numbers)

    def _in_summary(self, line: int, text: str) -> Iterator[Seen]:
        if self._summary is None:
            yield from self._flush()
            self._summary = []
            return
        completed = text.endswith("Training completed successfully!")
        limited = text.startswith("Time limit reached at step")
        if not completed and not limited:
            self._summary.append((line, text))
            return
        rows, self._summary = self._summary, None
        try:
            numbers, words, lines = summary_of(rows)
        except (ValueError, IndexError, KeyError):
            yield from self._unreadable(line, "the summary has a number that is none")
            return
        words["reason"] = "completed" if completed else "time_limit"
        yield Observation("run_finished", line, None, numbers, words, lines=lines)

    def _bar(self, line: int, bar: re.Match[str]) -> Iterator[Seen]:
        loss, ppl, mfu = bar.groups()
        numbers = {"loss": _value(loss), "ppl": _value(ppl)}
        if mfu is not None:
            numbers["mfu"] = Value(float(mfu) / 100, 5e-4)
        yield Observation("bar", line, None, numbers)


def looks_classic(line: bytes) -> bool:
    """Whether a line can be told for one of the classic log."""
    plain = _ESCAPES_TO_DROP.sub(b"", line)
    return _STAMPED_BYTES.search(plain) is not None


def _parts(data: bytes) -> list[bytes]:
    """A line of a terminal without its colours, split where the cursor moved."""
    return _ESCAPES_THAT_MOVE.sub(b"\n", _ESCAPES_TO_DROP.sub(b"", data)).split(b"\n")


def _value(text: str) -> Value:
    decimals = len(text.partition(".")[2])
    return Value(float(text), 0.5 * 10.0**-decimals)


def _step_block(
    rows: list[tuple[str | None, ...]], places: list[tuple[int, float]]
) -> Iterator[Seen]:
    lines = np.array([line for line, _ in places])
    clock = np.array([time for _, time in places])
    columns = {"time_s": Column(clock, np.full(len(rows), _STAMP_HALF_S))}
    for name, group, half, factor in _COLUMNS:
        texts = [row[group - 1] for row in rows]
        if texts[0] is None:
            continue
        try:
            values = np.array([float(text or "nan") for text in texts]) * factor
        except ValueError:
            for line, text in zip(lines.tolist(), texts, strict=True):
                if not _is_float(text):
                    yield Unreadable(line, "readable-lines", f"{name} is {text!r}, no number")
            continue
        halves = np.full(len(rows), half)
        if name == "learning_rate":  # three digits, whatever its size
            exponent = np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
            halves = np.where(values > 0, 0.005 * 10.0**exponent, 1e-300)
        columns[name] = Column(values, halves)
    if "step" in columns:
        yield StepBlock(lines, columns)


def _is_float(text: str | None) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _collective_block(timings: list[tuple[int, float, re.Match[str]]]) -> CollectiveBlock:
    count = len(timings)
    rows = [match.groups() for _, _, match in timings]
    sizes = [size(row[2]) for row in rows]
    nan = np.full(count, math.nan)

    def column(index: int, half: float, factor: float = 1.0) -> Column:
        values = np.array([float(row[index]) for row in rows]) * factor
        return Column(values, np.full(count, half * factor))

    columns = {
        "layer": column(1, 0.0),
        "size_bytes": Column(
            np.array([size.value for size in sizes]), np.array([size.half for size in sizes])
        ),
        "ranks": column(3, 0.0),
        "duration_s": column(4, 0.005, 1e-3),
        "busbw_gbs": column(5, 0.5),
    }
    lines = np.array([line for line, _, _ in timings])
    ops = tuple(row[0].replace("-", "_") for row in rows)
    return CollectiveBlock(lines, nan, nan, ops, columns)


def _fleet_blocks(samples: list[Grid]) -> Iterator[Seen]:
    """Samples of the same width together; what cannot be read is told."""
    by_width: dict[int, list[tuple[Grid, F64, tuple[int, ...]]]] = {}
    for grid in samples:
        line, nodes = grid[0], grid[3]
        cells = _cells(nodes)
        lost: tuple[int, ...] = ()
        if cells is None:
            wrong = next((i for i, node in enumerate(nodes) if _node_cells(node) is None), 0)
            if nodes:
                text = nodes[wrong][:50].decode("utf-8", "replace")
                yield Unreadable(
                    line + wrong + 1, "readable-lines", f"{text!r} is no row of a grid"
                )
            continue
        if b"--" in b"".join(nodes):
            lost = tuple(np.flatnonzero(np.isnan(cells[:, 1])).tolist())
            cells = np.nan_to_num(cells)
        by_width.setdefault(len(cells), []).append((grid, cells, lost))
    for kept in by_width.values():
        yield _fleet_block(kept)


def _cells(nodes: list[bytes]) -> F64 | None:
    """The numbers of all cells of a grid, shape (G, 6), NaN for dashes; None if it is no grid."""
    text = b"\n".join(nodes)
    if b"--" not in text:
        plain = text.translate(_DIGITS)
        with suppress(ValueError, DeprecationWarning), warnings.catch_warnings():
            warnings.simplefilter("error")
            numbers = np.fromstring(plain.decode("ascii"), sep=" ")
            row = len(numbers) // len(nodes) if nodes else 0
            if row * len(nodes) == len(numbers) and row % _NUMBERS_A_CELL == 1:
                return numbers.reshape(len(nodes), row)[:, 1:].reshape(-1, _NUMBERS_A_CELL)
    rows = [_node_cells(node) for node in nodes]
    whole = [row for row in rows if row is not None]
    return np.concatenate(whole) if whole and len(whole) == len(rows) else None


def _node_cells(node: bytes) -> F64 | None:
    """The numbers of the cells of one node."""
    words = node.partition(b":")[2].translate(_DIGITS).split()
    try:
        numbers = [math.nan if word == b"--" else float(word) for word in words]
    except ValueError:
        return None
    if not numbers or len(numbers) % _NUMBERS_A_CELL:
        return None
    return np.array(numbers).reshape(-1, _NUMBERS_A_CELL)


def _fleet_block(samples: list[tuple[Grid, F64, tuple[int, ...]]]) -> FleetBlock:
    grids = [grid for grid, _, _ in samples]
    cells = np.stack([cells for _, cells, _ in samples])
    lost = tuple(lost for _, _, lost in samples)
    nan = np.full(len(samples), math.nan)
    last = np.array([step for _, _, step, _ in grids])
    means = [heading.groups()[2:6] for _, heading, _, _ in grids]
    return FleetBlock(
        np.array([line for line, _, _, _ in grids]),
        Column(nan, nan),
        np.array([int(heading[1]) for _, heading, _, _ in grids]),
        last,
        nan,
        util_pct=cells[:, :, 1],
        temp_c=cells[:, :, 2],
        memory_gib=cells[:, :, 3],
        power_w=cells[:, :, 5],
        halves=_GRID_HALVES,
        lost=lost,
        means=np.array([[float(m) for m in row] for row in means]),
    )
