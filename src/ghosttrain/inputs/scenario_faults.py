"""From the `[[fault]]` tables of a scenario to the faults they ask for in a run.

What a table leaves to chance is drawn from a stream of its own: another fault behind it changes
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np

from ghosttrain.core.errors import SpecError, UnknownNameError
from ghosttrain.core.identity import nodes_per_rack
from ghosttrain.core.plan import MAX_FAULT_S, MAX_FAULTS, MAX_STEPS
from ghosttrain.core.rng import F64, Stream
from ghosttrain.core.spec import FaultKind, InjectedFault
from ghosttrain.inputs.faults import Setting, named_fault, read_moment, refuse_severity
from ghosttrain.inputs.scenario import KEYS, MOMENTS, TOP_KEYS, FaultTable, nearest
from ghosttrain.inputs.toml_lines import HEADER

LARGEST_SHARE = 10.0  # of the planned run
SOME_TIME = (0.25, 0.75)  # at_share where a table says nothing: the middle half
SAME_MOMENT_S = 1.0
LARGEST_NUMBER = 1e15
LONGEST_WORD = 60  # of names and times, and of what messages show

_PLACE = re.compile(r"(gpu|node|rack)[ -]?(\d{1,9})", re.ASCII)

Place = int | Literal["any", "same"]


class Range(NamedTuple):
    """From where to where something is drawn; the ends are the same where it is given."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Order:
    """What a table asks for, checked.

    `moment` is in the unit of its key: seconds, steps or a share; so is `every`, in steps where
    the moment is a step.
    """

    table: FaultTable
    kind: FaultKind
    when: str
    moment: Range
    place: Place
    severity: Range | None
    duration: Range | None
    repeat: int
    every: Range


def compile_tables(
    tables: Sequence[FaultTable], setting: Setting, *, first: int = 0
) -> tuple[InjectedFault, ...]:
    """The faults that tables ask for in a run, in the order of the tables.

    Args:
        tables: Those of one file.
        setting: The run.
        first: Number of the first table among all of a request: which stream it draws from.

    Raises:
        SpecError: If a value makes no sense, here or at all; file and line come first.
    """
    orders: list[_Order] = []
    total = 0
    for table in tables:
        orders.append(_read(table, setting, is_first=not orders))
        total += orders[-1].repeat
        if total > MAX_FAULTS:
            table.refuse("repeat", f"{total:,} faults up to here: {MAX_FAULTS:,} is the most")
    found: list[InjectedFault] = []
    kept: list[tuple[FaultTable, InjectedFault]] = []
    for n, order in enumerate(orders, first):
        before = found[-1] if found else None
        for fault in _compile(order, setting, f"scenario.{n}", before):
            found.append(fault)
            if order.kind.interrupts:
                kept.append((order.table, fault))
    _refuse_overlaps(kept, setting)
    return tuple(found)


# ---------------------------------------------------------------------------------- reading


def _read(table: FaultTable, setting: Setting, *, is_first: bool) -> _Order:
    for key in table.values:
        if key in TOP_KEYS:
            table.refuse(key, f"{key} stands above the first [[fault]]")
        if key not in KEYS:
            table.refuse(key, f"unknown key {key[:60]!r}: {nearest(key, KEYS)}")
    kind = _read_kind(table)
    when, moment = _read_moment(table, is_first=is_first)
    repeat, every = _read_repeat(table, in_steps=when == "at_step")
    severity = _read_range(table, "severity", float) if "severity" in table.values else None
    for value in severity or ():
        try:
            refuse_severity(kind, value)
        except SpecError as error:
            table.refuse("severity", str(error))
    return _Order(
        table=table,
        kind=kind,
        when=when,
        moment=moment,
        place=_read_place(table, setting, is_first=is_first),
        severity=severity,
        duration=_read_range(table, "duration", str) if "duration" in table.values else None,
        repeat=repeat,
        every=every,
    )


def _read_kind(table: FaultTable) -> FaultKind:
    if "kind" not in table.values:
        table.refuse(HEADER, "[[fault]] has no kind: see `ghosttrain list faults`")
    name = table.values["kind"]
    if not isinstance(name, str) or len(name) > LONGEST_WORD:
        table.refuse("kind", f"kind is {_short(name)}; it must be a name in quotes")
    try:
        return named_fault(name)
    except (SpecError, UnknownNameError) as error:
        table.refuse("kind", str(error))


def _read_moment(table: FaultTable, *, is_first: bool) -> tuple[str, Range]:
    """Which key says when, and what it says."""
    given = [key for key in MOMENTS if key in table.values]
    if len(given) > 1:
        one, other = sorted(given[:2], key=table.line)
        line = table.line(one)
        table.refuse(other, f"{other} and {one} (line {line}) both say when: leave one out")
    if not given:
        return "at_share", Range(*SOME_TIME)
    when = given[0]
    if when == "after" and is_first:
        table.refuse(when, "after is the time since the fault before it, and this is the first")
    if when == "at_step":
        return when, _read_range(table, when, int, low=1, high=MAX_STEPS)
    if when == "at_share":
        return when, _read_range(table, when, float, high=LARGEST_SHARE)
    return when, _read_range(table, when, str)


def _read_repeat(table: FaultTable, *, in_steps: bool) -> tuple[int, Range]:
    repeat = table.values.get("repeat", 1)
    if "repeat" in table.values:
        if not isinstance(repeat, int) or isinstance(repeat, bool) or repeat < 1:
            table.refuse("repeat", f"repeat is {_short(repeat)}; it must be a whole number above 0")
        if repeat > MAX_FAULTS:
            many = f"{repeat:,}" if repeat < LARGEST_NUMBER else "far too many"
            table.refuse("repeat", f"{many} faults: {MAX_FAULTS:,} is the most")
    if "every" not in table.values:
        if repeat > 1:
            table.refuse("repeat", "repeat needs every: the time from one to the next")
        return repeat, Range(0, 0)
    if "repeat" not in table.values:
        table.refuse("every", "every needs repeat: how many times in all")
    if in_steps:
        return repeat, _read_range(table, "every", int, low=1, high=MAX_STEPS)
    every = _read_range(table, "every", str)
    if not every.low:
        table.refuse("every", "every is 0: give a time above 0, as in 3min")
    return repeat, every


def _read_place(table: FaultTable, setting: Setting, *, is_first: bool) -> Place:
    """The GPU where it is, or how to find one."""
    words = table.values.get("where", "any")
    if words == "any":
        return "any"
    if words == "same":
        if is_first:
            table.refuse("where", "where is 'same' as the fault before it, and this is the first")
        return "same"
    found = _PLACE.fullmatch(words.strip().lower()) if isinstance(words, str) else None
    if found is None:
        examples = "'gpu 17', 'node 3', 'rack 0', 'any' or 'same'"
        table.refuse("where", f"where is {_short(words)}; it must be as {examples}")
    part, index = found[1], int(found[2])
    cluster = setting.cluster
    gpus = {"gpu": 1, "node": cluster.gpus_per_node}
    gpus["rack"] = cluster.gpus_per_node * nodes_per_rack(setting.gpu, cluster)
    count = -(-cluster.gpus // gpus[part])
    if index >= count:
        name = "GPU" if part == "gpu" else part
        has = f"{name}s 0 to {count - 1:,}" if count > 1 else f"{name} 0 only"
        table.refuse("where", f"there is no {name} {index:,}: the cluster has {has}")
    return index * gpus[part]


def _read_range(
    table: FaultTable, key: str, kind: type, *, low: float = 0, high: float = MAX_FAULT_S
) -> Range:
    """A value, or the two ends of where it is drawn from; `kind` str means a time."""
    value = table.values[key]
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2:
        table.refuse(key, f"{key} is a list of {len(ends)}: give one value, or [lowest, highest]")
    numbers = [_number(table, key, end, kind) for end in ends]
    if key != "severity":  # whose bounds are its effect's
        for number in numbers:
            if not low <= number <= high:
                unit = " s" if kind is str else ""
                possible = f"it must be from {low:,g} to {high:,.0f}{unit}"
                table.refuse(key, f"{key} is {number:,}{unit}: {possible}")
    if numbers[0] > numbers[1]:
        table.refuse(key, f"{key} goes from {numbers[0]:,} to {numbers[1]:,}: lowest first")
    return Range(numbers[0], numbers[1])


def _number(table: FaultTable, key: str, value: Any, kind: type) -> float:
    if kind is str and isinstance(value, str) and len(value) <= LONGEST_WORD:
        try:
            return read_moment(value)
        except SpecError as error:
            table.refuse(key, f"{key}: {error}")
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and (kind is int or not isinstance(value, float)):
        words = {str: "a time as in '2h10min', or seconds", int: "a whole number"}
        table.refuse(key, f"{key} is {_short(value)}; it must be {words.get(kind, 'a number')}")
    if abs(value) > LARGEST_NUMBER:  # endless ints are no floats
        table.refuse(key, f"{key} is beyond all bounds")
    return value if kind is int else float(value)


def _short(value: Any) -> str:
    """The value as a message shows it: one line, not endless."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value)  # dates as they were written
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= LONGEST_WORD else f"{text[: LONGEST_WORD - 3]}..."


# -------------------------------------------------------------------------------- compiling


def _compile(
    order: _Order, setting: Setting, stream: str, before: InjectedFault | None
) -> Iterator[InjectedFault]:
    """The faults of one table: as many as it repeats, all at one place.

    Its stream gives the moment, the place, then for each repeat severity, duration and the time
    to the next.
    """
    draws = Stream(setting.seed, stream).uniform(0, 2 + 3 * order.repeat)
    severities, durations, gaps = draws[2:].reshape(order.repeat, 3).T
    gpu = _gpu(order, setting, float(draws[1]), before)
    starts = _start(order, setting, float(draws[0]), before) + _offsets(order, gaps)
    starts[1:] = np.round(starts[1:], 3)  # what is given stays as it is
    if (latest := float(starts[-1])) > (most := MAX_STEPS if order.when == "at_step" else 1e9):
        key = "every" if order.repeat > 1 else order.when
        order.table.refuse(key, f"comes to {latest:,.0f}: nothing is later than {most:,.0f}")
    in_steps = order.when == "at_step"
    columns = (
        starts.tolist(),
        _drawn(order.severity, severities, 6).tolist(),
        _drawn(order.duration, durations, 3).tolist(),
    )
    for start, severity, duration in zip(*columns, strict=True):
        yield InjectedFault(
            order.kind,
            at_s=0.0 if in_steps else start,
            gpu=gpu,
            at_step=int(start) if in_steps else 0,
            severity=None if order.severity is None else severity,
            duration_s=None if order.duration is None else duration,
        )


def _start(order: _Order, setting: Setting, draw: float, before: InjectedFault | None) -> float:
    """When the first one is: run time, or a step."""
    if order.when == "at_step":
        return float(_whole(order.moment, np.array([draw]))[0])
    value = float(_drawn(order.moment, np.array([draw]), 9)[0])
    if order.when == "at_share":
        return round(setting.moment_s(value), 3)
    if order.when == "at":
        return value if order.moment.low == order.moment.high else round(value, 3)
    assert before is not None
    if before.at_step:
        order.table.refuse("after", "the fault before it is at a step: say `at_step` here too")
    return round(before.at_s + value, 3)


def _offsets(order: _Order, draws: F64) -> F64:
    """From the first one to each, shape (repeat,)."""
    in_steps = order.when == "at_step"
    gaps = _whole(order.every, draws) if in_steps else _drawn(order.every, draws, 3)
    return np.concatenate(([0.0], np.cumsum(gaps[:-1])))


def _gpu(order: _Order, setting: Setting, draw: float, before: InjectedFault | None) -> int:
    if order.place == "any":
        return int(draw * setting.cluster.gpus)
    if order.place == "same":
        assert before is not None
        assert before.gpu is not None
        return before.gpu
    return order.place


def _drawn(span: Range | None, draws: F64, decimals: int) -> F64:
    """Uniform between the ends, in so many decimals, so that the numbers can be written."""
    if span is None or span.low == span.high:
        return np.full(draws.shape, 0.0 if span is None else span.low)
    rounded = np.round(span.low + (span.high - span.low) * draws, decimals)
    return np.clip(rounded, span.low, span.high)


def _whole(span: Range, draws: F64) -> F64:
    """Uniform whole numbers from one end to the other, both included."""
    return np.minimum(np.floor(span.low + (span.high - span.low + 1) * draws), span.high)


def _refuse_overlaps(
    interrupting: Sequence[tuple[FaultTable, InjectedFault]], setting: Setting
) -> None:
    """Refuse to lose a node twice at once: it is gone, nothing can strike it.

    Raises:
        SpecError: Naming both lines.
    """
    last: dict[tuple[bool, int], tuple[float, FaultTable]] = {}
    for table, fault in sorted(interrupting, key=lambda pair: (pair[1].at_step, pair[1].at_s)):
        in_steps = fault.at_step > 0
        now = float(fault.at_step if in_steps else fault.at_s)
        for node in _nodes(fault, setting):
            then, other = last.get((in_steps, node), (-np.inf, table))
            if now - then < SAME_MOMENT_S:
                moment = "at the same step" if in_steps else "within a second"
                _refuse_overlap(other, table, f"end node {node} {moment}")
            last[in_steps, node] = (now, table)


def _refuse_overlap(one: FaultTable, other: FaultTable, what: str) -> NoReturn:
    if one is other:
        one.refuse("every", f"its repeats {what}: lengthen every")
    first, second = sorted((one, other), key=FaultTable.line)
    names = f"{second.values['kind']} and {first.values['kind']} (line {first.line()})"
    second.refuse(HEADER, f"{names} both {what}: set them apart")


def _nodes(fault: InjectedFault, setting: Setting) -> range:
    """The nodes that a fault strikes: its own, or those of its rack."""
    cluster = setting.cluster
    node = (fault.gpu or 0) // cluster.gpus_per_node
    if fault.kind.scope != "rack":
        return range(node, node + 1)
    size = nodes_per_rack(setting.gpu, cluster)
    start = node // size * size
    return range(start, min(start + size, cluster.nodes))
