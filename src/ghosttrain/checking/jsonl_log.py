"""The JSONL event log as observations.

Which rows there are, and what stands in them, is read off the typed events themselves. Steps,
samples and collective timings come by the thousand: they are gathered into blocks, so that the
invariants compare columns. Whatever else comes ends a block.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, TypeGuard, get_args, get_origin, get_type_hints

import numpy as np

from ghosttrain.checking.lines import RawLine
from ghosttrain.checking.observations import (
    F64,
    CollectiveBlock,
    Column,
    Facts,
    FleetBlock,
    LogEnded,
    Observation,
    RunBegan,
    Seen,
    StepBlock,
    Unreadable,
    Value,
)
from ghosttrain.core import events

BLOCK_ROWS = 4096
BLOCK_VALUES = 1 << 20  # of one fleet metric in one block

# Columns of step rows and half a unit of their last digit; the learning rate is printed with
# seven digits, whatever its size.
_STEP_HALVES = {
    "time_s": 5e-7,
    "attempt": 0.0,
    "step": 0.0,
    "loss": 5e-7,
    "ppl": 5e-5,
    "grad_norm": 5e-6,
    "learning_rate": 0.0,
    "step_time_s": 5e-7,
    "tokens_per_s": 5e-4,
    "mfu": 5e-7,
    "eta_s": 5e-4,
    "tokens_seen": 0.0,
}
_LEARNING_RATE_RELATIVE_HALF = 5e-7
_COLLECTIVE_HALVES = {
    "time_s": 5e-7,
    "step": 0.0,
    "layer": 0.0,
    "size_bytes": 0.5,
    "ranks": 0.0,
    "duration_s": 5e-10,
    "busbw_gbs": 5e-4,
}
_FLEET_HALVES = {"util_pct": 0.5, "temp_c": 0.5, "memory_gib": 0.005, "power_w": 0.05}
# Columns that telemetry rows may have beside them.
_FLEET_EXTRA_HALVES = {
    "sm_clock_mhz": 0.5,
    "sm_active": 5e-4,
    "tensor_active": 5e-4,
    "nvlink_gbs": 5e-2,
    "ib_gbs": 5e-2,
}
_FLEET_TIME_HALF = 5e-7
_HALF = 5e-10  # of floats in all other rows
_WHOLE = frozenset({"step", "attempt", "tokens_seen", "layer", "ranks"})
# What has no value where the loss is no number: null.
_NULL_IN_STEPS = frozenset({"loss", "ppl", "grad_norm"})
_NULL_IN_ROWS = frozenset(
    {
        ("epoch_completed", "mean_loss"),
        ("validation_completed", "loss"),
        ("validation_completed", "accuracy"),
        ("validation_completed", "best_loss"),
    }
)

_STEP = itemgetter(*_STEP_HALVES)
_COLLECTIVE = itemgetter(*_COLLECTIVE_HALVES, "op")
_FLEET = itemgetter("time_s", "step", *_FLEET_HALVES, "lost")

_RUN_WORDS = ("model", "schedule")
_RUN_NUMBERS = (
    "params",
    "active_params",
    "input_embedding_params",
    "layers",
    "heads",
    "head_dim",
    "vocab_size",
    "gpu_memory_gib",
    "gpu_tdp_w",
    "gpus",
    "nodes",
    "peak_tflops",
    "flops_per_token",
    "seq_len",
    "global_batch_size",
    "tokens_per_step",
    "epochs",
    "steps_per_epoch",
    "total_steps",
    "continued_loss",
    "checkpoint_bytes",
    "export_bytes",
)
# Facts newer than the schema: checked where a log has them.
_RUN_OPTIONAL = (
    "attention_width",
    "gpus_per_node",
    "gpu_shutdown_c",
    "loss_scale",
    "peak_learning_rate",
    "min_learning_rate_ratio",
    "warmup_steps",
    "decay_frac",
)
_LAYOUT_NUMBERS = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "data_parallel",
    "micro_batch_size",
    "micro_batches",
)

Row = dict[str, Any]
Signs = dict[str, dict[int, float]]
Place = tuple[int, tuple[Any, ...]]  # line, the step row before
_NOWHERE = (math.nan, 0, math.nan)


class JsonlReader:
    """Turns lines of JSON into observations."""

    def __init__(self) -> None:
        self._decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
        self._kinds = event_fields()
        self._steps: list[tuple[Any, ...]] = []
        self._step_lines: list[int] = []
        self._fleet: list[tuple[Any, ...]] = []
        self._fleet_lines: list[Place] = []
        self._collectives: list[tuple[Any, ...]] = []
        self._collective_lines: list[Place] = []
        self._row_before: tuple[Any, ...] = _NOWHERE
        self._warnings: list[Seen] = []
        self._fleet_values = 0
        self._problems: list[Unreadable] = []

    def observations(self, lines: Iterable[RawLine]) -> Iterator[Seen]:
        """What the lines say, in order; samples stand behind the block of their steps."""
        last = RawLine(0, b"")
        for last in lines:
            row = self._row(last)
            if row is None:
                if self._problems:
                    yield from self._flush()
                continue
            kind = row["event"]
            if kind == "step":
                self._take(last.number, row)
            elif kind == "fleet":
                self._take_sample(last.number, row, _fleet_fields, self._fleet, self._fleet_lines)
                if self._fleet and isinstance(self._fleet[-1][2], list):
                    self._fleet_values += len(self._fleet[-1][2])
            elif kind == "collective":
                self._take_sample(
                    last.number, row, _COLLECTIVE, self._collectives, self._collective_lines
                )
            elif kind == "warning_raised" and self._steps:
                self._warnings += self._other(last.number, kind, row)
            else:
                yield from self._flush()
                self._row_before = _NOWHERE
                yield from self._other(last.number, kind, row)
                continue
            full = len(self._steps) >= BLOCK_ROWS or len(self._fleet) >= BLOCK_ROWS
            if full or self._fleet_values >= BLOCK_VALUES or self._problems:
                yield from self._flush()
        yield from self._flush()
        yield LogEnded(last.number, truncated=not last.has_newline)

    def _row(self, line: RawLine) -> Row | None:
        """The line as an object with an event name; None, with a problem noted, if it is none."""
        if line.is_too_long:
            self._wrong(line.number, "readable-lines", "the line is too long to be a row")
            return None
        try:
            text = line.data.decode()
            row, end = self._decode(text)
            if end != len(text) and text[end:].strip():
                raise ValueError(f"more behind its end at character {end + 1}")
        except UnicodeDecodeError as error:
            self._wrong(
                line.number, "readable-lines", f"byte {error.start + 1} of the line is not UTF-8"
            )
            return None
        except (ValueError, RecursionError) as error:
            if line.has_newline and line.data.strip():  # else: cut at the end, told by LogEnded
                what = str(error) if isinstance(error, ValueError) else "too deeply nested"
                self._wrong(
                    line.number,
                    "readable-lines",
                    f"{_excerpt(text)} is no JSON ({what}), expected one object a line",
                )
            elif line.has_newline:
                self._wrong(line.number, "readable-lines", "empty line, expected an object")
            return None
        if type(row) is not dict or type(row.get("event")) is not str:
            self._wrong(
                line.number,
                "readable-lines",
                f"{_excerpt(text)} is no row, expected an object with an `event`",
            )
            return None
        return row

    def _wrong(self, line: int, rule: str, text: str) -> None:
        self._problems.append(Unreadable(line, rule, text))

    def _take(self, line: int, row: Row) -> None:
        try:
            self._row_before = _STEP(row)
        except KeyError as missing:
            self._row_before = _NOWHERE
            self._wrong(line, "complete-rows", f"step row without {missing.args[0]}")
        else:
            self._steps.append(self._row_before)
            self._step_lines.append(line)

    def _take_sample(
        self,
        line: int,
        row: Row,
        getter: Callable[[Row], tuple[Any, ...]],
        rows: list[tuple[Any, ...]],
        places: list[Place],
    ) -> None:
        try:
            rows.append(getter(row))
        except KeyError as missing:
            self._wrong(line, "complete-rows", f"{row['event']} row without {missing.args[0]}")
        else:
            places.append((line, self._row_before))

    # Blocks.

    def _flush(self) -> Iterator[Seen]:
        """What has been gathered: steps, then samples, then what was wrong."""
        rows, self._steps = self._steps, []
        numbers, self._step_lines = self._step_lines, []
        good = self._numeric(rows, numbers, tuple(_STEP_HALVES), "step") if rows else None
        if good is None:
            if rows:
                yield _step_block(rows, numbers)
        else:
            yield from self._steps_between_bad_ones(rows, numbers, good)
        if self._collectives:
            yield from self._collective_block()
        if self._fleet:
            yield from self._fleet_block()
        problems, self._problems = self._problems, []
        raised, self._warnings = self._warnings, []
        yield from raised
        yield from problems

    def _steps_between_bad_ones(
        self, rows: list[tuple[Any, ...]], numbers: list[int], good: list[int]
    ) -> Iterator[Seen]:
        """Blocks of the good rows; what is wrong with the bad ones stands between."""
        problems = {problem.line: problem for problem in self._problems}
        first = 0
        keep = set(good)
        for stop in range(len(rows) + 1):
            if stop < len(rows) and stop in keep:
                continue
            if first < stop:
                yield _step_block(rows[first:stop], numbers[first:stop])
            if stop < len(rows):
                yield problems.pop(numbers[stop])
            first = stop + 1
        self._problems = list(problems.values())

    def _numeric(
        self, rows: list[tuple[Any, ...]], numbers: list[int], names: tuple[str, ...], kind: str
    ) -> list[int] | None:
        """Indices of the rows whose fields are finite numbers; None if all are."""
        odd = False
        for name, column in zip(names, zip(*rows, strict=True), strict=False):
            kinds = set(map(type, column))
            allowed = {int} if name in _WHOLE else {int, float}
            # An integer too large for a float is as bad as infinity.
            odd = odd or not kinds <= allowed
            odd = odd or not all(map(_fits, (min(column), max(column))))
        if not odd:
            return None
        good = []
        for index, (row, line) in enumerate(zip(rows, numbers, strict=True)):
            wrong = [
                (name, value)
                for name, value in zip(names, row, strict=False)
                if not _is_number(value, whole=name in _WHOLE)
                and not (value is None and name in _NULL_IN_STEPS)
            ]
            if wrong:
                name, value = wrong[0]
                self._wrong(line, "complete-rows", _not_a_number(kind, name, value))
            else:
                good.append(index)
        return good

    def _collective_block(self) -> Iterator[Seen]:
        rows, self._collectives = self._collectives, []
        places, self._collective_lines = self._collective_lines, []
        lines = [line for line, _ in places]
        good = self._numeric(rows, lines, tuple(_COLLECTIVE_HALVES), "collective")
        keep = [i for i in good or range(len(rows)) if isinstance(rows[i][-1], str)]
        if good is not None and not good:
            keep = []
        if not keep:
            return
        values = np.array([rows[i][:-1] for i in keep], dtype=np.float64)
        columns = {
            name: Column(values[:, i], np.full(len(keep), half))
            for i, (name, half) in enumerate(_COLLECTIVE_HALVES.items())
        }
        yield CollectiveBlock(
            np.array([lines[i] for i in keep]),
            *_rows_before([places[i] for i in keep]),
            tuple(rows[i][-1] for i in keep),
            columns,
        )

    def _fleet_block(self) -> Iterator[Seen]:
        rows, self._fleet = self._fleet, []
        places, self._fleet_lines = self._fleet_lines, []
        self._fleet_values = 0
        by_width: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for i, row in enumerate(rows):
            if wrong := _wrong_sample(row):
                self._wrong(places[i][0], "complete-rows", wrong)
            else:
                by_width.setdefault((len(row[2]), tuple(row[7])), []).append(i)
        for (_, names), keep in by_width.items():
            try:
                util, temp, memory, power = (
                    np.array([rows[i][2 + m] for i in keep], dtype=np.float64)
                    for m in range(len(_FLEET_HALVES))
                )
                extra = {
                    name: np.array([rows[i][7][name] for i in keep], dtype=np.float64)
                    for name in names
                }
            except (ValueError, TypeError, OverflowError):
                for i in keep:
                    self._wrong(places[i][0], "complete-rows", "fleet row with odd values")
                continue
            time = np.array([rows[i][0] for i in keep], dtype=np.float64)
            yield FleetBlock(
                np.array([places[i][0] for i in keep]),
                Column(time, np.full(len(keep), _FLEET_TIME_HALF)),
                np.array([rows[i][1] for i in keep], dtype=np.int64),
                *_rows_before([places[i] for i in keep]),
                util_pct=util,
                temp_c=temp,
                memory_gib=memory,
                power_w=power,
                halves=_FLEET_HALVES | _FLEET_EXTRA_HALVES,
                lost=tuple(tuple(rows[i][6]) for i in keep),
                extra=extra,
                signs=tuple(_signs(rows[i][8]) for i in keep),
            )

    # All other rows.

    def _other(self, line: int, kind: str, row: Row) -> Iterator[Seen]:
        if kind == "run_started":
            yield from self._run_began(line, row)
            return
        wanted = self._kinds.get(kind)
        if wanted is None:
            yield Unreadable(line, "known-events", f"unknown event {_excerpt(kind)}")
            return
        time = row.get("time_s")
        if not _is_number(time):
            yield Unreadable(line, "complete-rows", _not_a_number(kind, "time_s", time))
            return
        numbers: dict[str, Value] = {}
        words: dict[str, str] = {}
        flags: dict[str, bool] = {}
        for name, sort in wanted.items():
            value = _at(row, name)
            plain = name.rpartition(".")[2]
            if sort == "word" and isinstance(value, str):
                words[plain] = value
            elif sort == "flag" and isinstance(value, bool):
                flags[plain] = value
            elif sort in ("whole", "number") and _is_number(value, whole=sort == "whole"):
                half = 0.0 if isinstance(value, int) else _HALF
                numbers[plain] = Value(float(value), half)
            elif value is None and _has(row, name) and _may_be_null(kind, name, sort):
                numbers[plain] = Value(math.nan)
            elif sort in ("optional whole", "optional number") and _is_number(
                value, whole=sort == "optional whole"
            ):
                numbers[plain] = Value(float(value), 0.0 if isinstance(value, int) else _HALF)
            elif sort == "times" and _are_times(value):
                numbers |= {f"{plain}.{key}": Value(float(at), _HALF) for key, at in value.items()}
            elif sort == "wholes" and _are_wholes(value):
                numbers |= {f"{plain}.{each}": Value(float(each)) for each in value}
            elif sort == "pairs" and _are_pairs(value):
                numbers |= {f"{plain}.{first}": Value(float(second)) for first, second in value}
            else:
                yield Unreadable(line, "complete-rows", _not_as_wanted(kind, name, sort, row))
        if kind == "warning_raised":
            numbers |= self._numbers_of_row_before()
        yield Observation(kind, line, Value(float(time), _HALF), numbers, words, flags)

    def _numbers_of_row_before(self) -> dict[str, Value]:
        """What a warning is compared with: it is looked at when its block is over."""
        columns = zip(_STEP_HALVES.items(), self._row_before, strict=False)
        return {
            f"row_{name}": Value(float(value), half)
            for (name, half), value in columns
            if _is_number(value)
        }

    def _run_began(self, line: int, row: Row) -> Iterator[Seen]:
        facts: dict[str, Any] = {"prints_every_step": True}
        for name in (*_RUN_NUMBERS, *_RUN_OPTIONAL):
            value = row.get(name)
            if _is_number(value):
                # Only these are rounded; all others are integers or written in full.
                half = 5e-4 if name == "gpu_memory_gib" else 0.0 if type(value) is int else _HALF
                facts[name] = Value(float(value), half)
            elif name in _RUN_NUMBERS or value is not None:
                yield Unreadable(line, "complete-rows", _not_a_number("run_started", name, value))
        for name in _RUN_WORDS:
            value = row.get(name)
            if isinstance(value, str):
                facts[name] = value
            elif name == "model":
                yield Unreadable(
                    line, "complete-rows", f"run_started: model is {_excerpt(value)}, not a name"
                )
        layout = row.get("layout")
        if isinstance(layout, dict):
            for name in _LAYOUT_NUMBERS:
                if _is_number(layout.get(name), whole=True):
                    facts[name] = Value(float(layout[name]))
                else:
                    yield Unreadable(
                        line,
                        "complete-rows",
                        _not_a_number("run_started", f"layout.{name}", layout.get(name)),
                    )
            if isinstance(layout.get("sharding"), str):
                facts["sharding"] = layout["sharding"]
        else:
            yield Unreadable(line, "complete-rows", "run_started row without layout")
        for name, known in (("memory_gib", "planned_memory_gib"), ("shard_bytes", "shard_bytes")):
            value = row.get(name)
            if isinstance(value, list) and value and all(map(_is_number, value)):
                facts[known] = tuple(value)
            else:
                yield Unreadable(
                    line, "complete-rows", f"run_started: {name} is no list of numbers"
                )
        time = row.get("time_s")
        says = row.get("simulated")
        schema = row.get("schema")
        yield RunBegan(
            line,
            Facts(**facts),
            Value(float(time), _HALF) if _is_number(time) else Value(math.nan),
            says_simulated=says is True,
            schema=schema if isinstance(schema, str) else "",
            is_in_midrun=_is_number(row.get("from_s")) and row["from_s"] > 0,
        )


def _rows_before(places: list[Place]) -> tuple[F64, F64]:
    """Steps and times of the step rows that samples stand behind."""
    rows = [row for _, row in places]
    steps = [float(row[2]) if _is_number(row[2]) else math.nan for row in rows]
    times = [float(row[0]) if _is_number(row[0]) else math.nan for row in rows]
    return np.array(steps), np.array(times)


def _step_block(rows: list[tuple[Any, ...]], numbers: list[int]) -> StepBlock:
    values = np.array(rows, dtype=np.float64)
    columns = {
        name: Column(values[:, i], np.full(len(rows), half))
        for i, (name, half) in enumerate(_STEP_HALVES.items())
    }
    rate = columns["learning_rate"].value
    columns["learning_rate"] = Column(rate, _LEARNING_RATE_RELATIVE_HALF * np.abs(rate) + 1e-18)
    return StepBlock(np.array(numbers), columns)


@lru_cache(maxsize=1)
def event_fields() -> Mapping[str, Mapping[str, str]]:
    """Fields of every row but steps, samples and timings: event name to field name to its sort.

    Sorts: number, whole, both of them optional (or null), word, flag, times (an object of names
    and numbers), wholes (a list of whole numbers), pairs (of them). A record inside a row has its
    fields under `record.field`.
    """
    special = (
        events.RunStarted,
        events.StepsCompleted,
        events.FleetSampled,
    )
    kinds = [cls for cls in get_args(events.Event) if cls not in special]
    return {_snake(cls.__name__): dict(_sorts(cls)) for cls in kinds}


def _sorts(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, hint in get_type_hints(cls).items():
        if name == "time_s" and not prefix:
            continue
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _sorts(hint, f"{name}.")
        else:
            yield prefix + name, _sort(hint)


def _sort(hint: Any) -> str:
    if get_origin(hint) is types.UnionType:
        return f"optional {_sort(get_args(hint)[0])}"
    if get_origin(hint) is tuple:
        (each, _) = get_args(hint)
        if each is int:
            return "wholes"
        return "times" if str in get_args(each) else "pairs"
    if get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, str)):
        return "word"
    return {bool: "flag", int: "whole"}.get(hint, "number")


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _at(row: Row, name: str) -> Any:
    """The value of `name` or `record.name` in a row."""
    record, _, inner = name.rpartition(".")
    if not record:
        return row.get(inner)
    within = row.get(record)
    return within.get(inner) if isinstance(within, dict) else None


def _has(row: Row, name: str) -> bool:
    record, _, inner = name.rpartition(".")
    within = row.get(record) if record else row
    return isinstance(within, dict) and inner in within


def _fits(value: Any) -> bool:
    """Whether a number is finite as a float; words never get here alone."""
    return isinstance(value, (int, float)) and -1e300 < value < 1e300


def _is_number(value: Any, *, whole: bool = False) -> TypeGuard[float]:
    if type(value) is int:
        return _fits(value)
    return not whole and type(value) is float and math.isfinite(value)


def _are_times(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_wholes(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(each, whole=True) for each in value)


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_are_wholes(v) and len(v) == 2 for v in value)


def _may_be_null(kind: str, name: str, sort: str) -> bool:
    return sort.startswith("optional") or "." in name or (kind, name) in _NULL_IN_ROWS


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _excerpt(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _not_a_number(kind: str, name: str, value: Any) -> str:
    what = "missing or null" if value is None else _excerpt(value)
    wanted = "a whole number" if name in _WHOLE else "a finite number"
    return f"{kind}: {name} is {what}, expected {wanted}"


def _not_as_wanted(kind: str, name: str, sort: str, row: Row) -> str:
    if not _has(row, name):
        return f"{kind} row without {name}"
    wanted = {
        "word": "a text",
        "flag": "true or false",
        "whole": "a whole number",
        "optional whole": "a whole number or null",
        "optional number": "a finite number or null",
        "times": "an object of names and times",
        "wholes": "a list of whole numbers",
        "pairs": "a list of pairs of whole numbers",
    }.get(sort, "a finite number")
    return f"{kind}: {name} is {_excerpt(_at(row, name))}, expected {wanted}"


def _wrong_sample(row: tuple[Any, ...]) -> str:
    """What is wrong with the fields of a fleet row, "" if nothing is."""
    time, step = row[:2]
    metrics, lost, extra, signs = row[2:6], row[6], row[7], row[8]
    if not _is_number(time):
        return _not_a_number("fleet", "time_s", time)
    if not _is_number(step, whole=True):
        return _not_a_number("fleet", "step", step)
    for name, values in (*zip(_FLEET_HALVES, metrics, strict=True), *extra.items()):
        if not isinstance(values, list) or not values:
            return f"fleet: {name} is {_excerpt(values)}, expected a list of numbers"
        if len(values) != len(metrics[0]):
            return f"fleet: {len(values)} values of {name}, {len(metrics[0])} of util_pct"
        if not set(map(type, values)) <= {int, float}:
            odd = next(v for v in values if type(v) not in (int, float))
            return f"fleet: a value of {name} is {_excerpt(odd)}, expected numbers"
        if not all(map(_fits, (min(values), max(values)))):
            return f"fleet: a value of {name} is not finite"
    if not isinstance(lost, list) or not all(_is_number(i, whole=True) for i in lost):
        return f"fleet: lost is {_excerpt(lost)}, expected a list of GPU indices"
    if not _are_signs(signs):
        return f"fleet: signs is {_excerpt(signs)}, expected an object of GPUs' values by name"
    return ""


def _fleet_fields(row: Row) -> tuple[Any, ...]:
    """The fields of a fleet row, then those it may have: other columns by name, signs."""
    extra = {name: row[name] for name in _FLEET_EXTRA_HALVES if name in row}
    return *_FLEET(row), extra, row.get("signs", {})


def _are_signs(signs: Any) -> bool:
    """Whether it is an object of objects of numbers by GPU."""
    return isinstance(signs, dict) and all(
        isinstance(values, dict)
        and all(gpu.isdecimal() for gpu in values)
        and all(map(_is_number, values.values()))
        for values in signs.values()
    )


def _signs(signs: Mapping[str, Mapping[str, float]]) -> Signs:
    return {
        name: {int(gpu): float(value) for gpu, value in values.items()}
        for name, values in signs.items()
    }


def looks_like_jsonl(line: bytes) -> bool:
    """Whether a line can be told for a row of events."""
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("event"), str)
