"""Lines of JSON of completed steps, a batch at a time.

All lines of a run have one form: numbers stand in columns, right-aligned, as JSON allows blanks
before a value and behind it. A line is a row of cells of four bytes: text, four digits, a point
and three of them, from one table. What no column holds (a loss that is NaN, a step of an hour) is
left to `%`, without blanks. How wide the columns are follows from the plan alone, so that batches
leave no trace.

Shapes: S = steps, F = numbers in a line, R = those of them with decimals, C = cells of a line,
K = those of them with digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import StepsCompleted
from ghosttrain.core.plan import Plan

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

LARGEST_EXPONENT = 700.0  # of a float64; a loss beyond has its perplexity cut there

_LINE = (
    '{"event":"step","time_s":%.6f,"attempt":%d,"step":%d,"loss":%.6f,"ppl":%.4f,'
    '"grad_norm":%.5f,"learning_rate":%.6e,"step_time_s":%.6f,"tokens_per_s":%.3f,"mfu":%.6f,'
    '"eta_s":%.3f,"tokens_seen":%d}\n'
)
_WRITTEN = (
    *("time_s", "attempt", "step", "loss", "ppl", "grad_norm", "learning_rate", "step_time_s"),
    *("tokens_per_s", "mfu", "eta_s", "tokens_seen"),
)
# In the order in which they are worked out: those without decimals, the others and how many.
_WHOLE = ("tokens_seen", "step", "attempt")
_DECIMALS = {
    "time_s": 6,
    "ppl": 4,
    "grad_norm": 5,
    "step_time_s": 6,
    "loss": 6,
    "learning_rate": 6,  # of it the mantissa; the exponent has a cell of its own
    "mfu": 6,
    "tokens_per_s": 3,
    "eta_s": 3,
}
_NAMES = (*_WHOLE, *_DECIMALS)
_COLUMNS = ("end_s", "loss", *list(_DECIMALS)[2:])  # of StepsCompleted, for `_DECIMALS`
_PERPLEXITY = list(_DECIMALS).index("ppl")
_RATE = list(_DECIMALS).index("learning_rate")
_UNIT = np.array([10.0**n for n in _DECIMALS.values()])[:, None]
_TO_MILLIONTHS = np.array([10.0 ** (6 - n) for n in _DECIMALS.values()])[:, None]
_MILLION = 10**6
_BELOW_TEN = np.nextafter(10.0, 0.0)
_LEAST_RATE, _MOST_EXPONENT = 1e-98, 99
_MOST_DIGITS = 15  # whole numbers are exact in a float64 up to that

# Sections of the table, by where they begin. Behind the last decimals a comma is in the cell.
_FOUR = 0  # four digits behind others
_BLANK = 10_000  # up to four, blanks before them; 0 is all blanks
_LAST = 20_000  # the same, but 0 is "0"
_POINT = 30_000  # a point and three digits
_THREE, _TWO, _ONE, _MANTISSA = 31_000, 32_000, 33_000, 34_000  # the first so many of three digits
_EXPONENT = 35_000 + _MOST_EXPONENT  # that of 0
_BEHIND = {6: _THREE, 5: _TWO, 4: _ONE}
_SECOND = np.array(
    [
        _MANTISSA if name == "learning_rate" else _BEHIND[digits]
        for name, digits in _DECIMALS.items()
        if digits > 3
    ],
    np.int32,
)[:, None]


@cache
def _table() -> U32:
    """All pieces that numbers are made of."""
    thousand = [b"%03d" % n for n in range(1000)]
    blanks = [b"%4d" % n for n in range(10_000)]
    pieces = [
        *(b"%04d" % n for n in range(10_000)),
        b"    ",
        *blanks[1:],
        *blanks,
        *(b"." + three for three in thousand),
        *((three[:digits] + b",").ljust(4) for digits in (3, 2, 1) for three in thousand),
        *(three + b"e" for three in thousand),
        *(f"{n:+03},".encode() for n in range(-_MOST_EXPONENT, _MOST_EXPONENT + 1)),
    ]
    return np.frombuffer(b"".join(pieces), dtype=np.uint32)


class Form(NamedTuple):
    """The form of the lines of a run.

    Attributes:
        tokens_per_step: Of the run.
        cells: A line, NUL where digits go, shape (C, 1).
        limit: What the columns of numbers with decimals hold, shape (R, 1); of the others.
        levels: Which numbers have two cells before the point or more, at which positions among
            `_NAMES`; which of those have three, at which positions among those; and so on.
        places: Which cells hold the digits: those before the point of each level, the points, what
            is behind them, the exponent, shape (K,).
        keep: Ones where cells before the point have digits; their first ones have text, too.
        around: That text; both of shape (K before the point, 1).
    """

    tokens_per_step: int
    cells: U32
    limit: F64
    limit_whole: I64
    levels: tuple[I64, ...]
    places: I64
    keep: U32
    around: U32


def form_of(plan: Plan) -> Form:
    """The form of the lines of a run: wide enough for what is to be expected of it."""
    recipe, step_s = plan.spec.recipe, plan.step_time.total_s
    expected_s = recipe.total_steps * step_s
    largest = {
        "tokens_seen": recipe.total_steps * recipe.tokens_per_step,
        "step": recipe.total_steps,
        "attempt": 100,
        "time_s": 2 * expected_s,
        "ppl": 2 * plan.spec.model.vocab_size,  # at first all tokens are as likely
        "tokens_per_s": 2 * recipe.tokens_per_step / step_s,
        "eta_s": 2 * expected_s,
        "grad_norm": 10,
        "step_time_s": 4 * step_s,
        "loss": 10,
        "learning_rate": 1,
        "mfu": 1,
    }
    return _form(
        {n: min(len(str(int(largest[n]))), _MOST_DIGITS) for n in _NAMES}, recipe.tokens_per_step
    )


def _form(least: dict[str, int], tokens_per_step: int) -> Form:
    """The form of a line, by the digits that each number must have room for before the point."""
    line, text = b"", '{"event":"step",'
    places: dict[str, int] = {}
    digits: dict[str, int] = {}
    for name in _WRITTEN:
        line += f'{text}"{name}":'.encode()
        digits[name] = least[name] + -(len(line) + least[name]) % 4
        line += bytes(digits[name])
        for four in range(-(-digits[name] // 4)):
            places[f"{name} {four}"] = len(line) // 4 - 1 - four
        if name in _DECIMALS:
            places[f"{name} point"], places[f"{name} behind"] = len(line) // 4, len(line) // 4 + 1
            line += bytes(8 if _DECIMALS[name] > 3 else 4)
        if name == "learning_rate":
            places["exponent"] = len(line) // 4
            line += bytes(4)
        text = "" if _DECIMALS.get(name, 0) > 3 else ","
    line += b"  }\n"
    above = [[n for n in _NAMES if digits[n] > 4 * level] for level in range(4)]
    before = [places[f"{name} {level}"] for level in range(4) for name in above[level]]
    behind = [places[f"{name} point"] for name in _DECIMALS]
    behind += [places[f"{name} behind"] for name in _DECIMALS if _DECIMALS[name] > 3]
    around = b"".join(line[4 * at : 4 * at + 4] for at in before)
    limits = [10 ** digits[name] for name in _NAMES]
    return Form(
        tokens_per_step,
        np.frombuffer(line, dtype=np.uint32)[:, None],
        np.array(limits[len(_WHOLE) :], dtype=float)[:, None] - 1,  # 9.9999999 is 10.000000
        np.array(limits[: len(_WHOLE)])[:, None],
        tuple(
            np.array([fewer.index(name) for name in those])
            for fewer, those in itertools.pairwise(above)
            if those
        ),
        np.array([*before, *behind, places["exponent"]]),
        np.frombuffer(around.translate(_MASK), dtype=np.uint32)[:, None],
        np.frombuffer(around, dtype=np.uint32)[:, None],
    )


_MASK = bytes([255]) + bytes(255)  # NUL, which is where digits go, becomes ones, all else nothing


class Scratch:
    """Memory that is used again: fresh pages would cost a fifth of the whole work."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, int], dtype: type) -> NDArray[Any]:
        """An array of any content, good until the next one of that name is asked for."""
        size = shape[0] * shape[1]
        if name not in self._kept or len(self._kept[name]) < size:
            self._kept[name] = np.empty(size, dtype)
        return self._kept[name][:size].reshape(shape)


class StepLines:
    """The lines of steps.

    Args:
        events: They may be of several attempts.
        form: Of the run.
        scratch: Memory to work in.
    """

    def __init__(
        self, events: Sequence[StepsCompleted], form: Form, scratch: Scratch | None = None
    ) -> None:
        step = np.concatenate([e.step for e in events])
        attempt = np.repeat([e.attempt for e in events], [len(e.step) for e in events])
        whole: I64 = np.stack((step * form.tokens_per_step, step, attempt))
        fractions = _fractions(events)
        self._by_hand: dict[int, bytes] = {}
        if not _all_fit(form, whole, fractions):
            fits = ((fractions >= 0) & (fractions < form.limit)).all(axis=0)
            fits &= (fractions[_RATE] == 0) | (fractions[_RATE] >= _LEAST_RATE)
            odd = ~(fits & (whole < form.limit_whole).all(axis=0))
            for at in np.flatnonzero(odd).tolist():
                self._by_hand[at] = _line([*whole[:, at].tolist(), *fractions[:, at].tolist()])
            whole, fractions = np.where(odd, 0, whole), np.where(odd, 0.0, fractions)
        self._data, self._width = (
            _written(form, whole, fractions, scratch or Scratch()),
            form.cells.nbytes,
        )

    def part(self, start: int, stop: int) -> bytes:
        """The lines of the steps at positions [start, stop)."""
        if not self._by_hand:
            return self._columns(start, stop)
        lines = []
        for at in [at for at in self._by_hand if start <= at < stop]:
            lines += [self._columns(start, at), self._by_hand[at]]
            start = at + 1
        return b"".join([*lines, self._columns(start, stop)])

    def _columns(self, start: int, stop: int) -> bytes:
        return self._data[start * self._width : stop * self._width]


def _all_fit(form: Form, whole: I64, fractions: F64) -> bool:
    """Whether the columns hold all; a NaN is what no column holds."""
    largest = fractions.max(axis=1, keepdims=True)
    is_odd = (whole.max(axis=1, keepdims=True) >= form.limit_whole).any()
    rate = fractions[_RATE]
    is_odd |= bool(((rate < _LEAST_RATE) & (rate > 0)).any())
    return bool((largest < form.limit).all() and fractions.min() >= 0 and not is_odd)


def _line(values: list[float]) -> bytes:
    """A line some number of which has no column that holds it, of the values of `_NAMES`."""
    by_name = dict(zip(_NAMES, values, strict=True))
    line = _LINE % tuple(by_name[name] for name in _WRITTEN)
    for word in ("nan", "inf", "-inf"):  # JSON has none for it
        line = line.replace(f":{word},", ":null,")
    return line.encode()


def _fractions(events: Sequence[StepsCompleted]) -> F64:
    """The numbers with decimals, in the order of `_DECIMALS`, shape (R, S)."""
    values = np.empty((len(_DECIMALS), sum(len(e.step) for e in events)))
    for row, name in zip(values, _COLUMNS, strict=True):
        np.concatenate([getattr(e, name) for e in events], out=row)
    perplexity = values[_PERPLEXITY]  # so far the loss
    np.minimum(perplexity, LARGEST_EXPONENT, out=perplexity)
    np.exp(perplexity, out=perplexity)
    return values


def _written(form: Form, whole: I64, fractions: F64, scratch: Scratch) -> bytes:
    """The lines, all numbers of which the columns hold."""
    steps = whole.shape[1]
    indices = scratch.array("indices", (len(form.places), steps), np.int64)
    behind = len(form.keep)
    numbers = _behind_points(whole, fractions, indices[behind:])
    _before_points(numbers, form.levels, indices[:behind])
    digits = scratch.array("digits", indices.shape, np.uint32)
    _table().take(indices, out=digits, mode="clip")
    digits[:behind] &= form.keep
    digits[:behind] |= form.around
    cells = scratch.array("cells", (len(form.cells), steps), np.uint32)
    cells[:] = form.cells
    cells[form.places] = digits
    return cells.T.tobytes()


def _behind_points(whole: I64, fractions: F64, out: I64) -> I64:
    """Which cells of the table make what stands behind the points; what stands before them.

    Args:
        whole: Shape (F - R, S).
        fractions: Shape (R, S).
        out: Takes the indices of the points, of what is behind them, of the exponents.

    Returns:
        Whole numbers, shape (F, S).
    """
    exponent = _exponents(fractions[_RATE])
    mantissa = fractions[_RATE] * _powers().take(_MOST_EXPONENT - exponent)
    np.minimum(mantissa, _BELOW_TEN, out=mantissa)  # what the product has rounded up to ten
    floor = np.floor(fractions)
    behind = fractions - floor
    floor[_RATE] = np.floor(mantissa)
    behind[_RATE] = mantissa - floor[_RATE]
    behind *= _UNIT
    np.rint(behind, out=behind)
    behind *= _TO_MILLIONTHS
    numbers = np.concatenate((whole, floor.astype(np.int64)))
    millionths = behind.astype(np.int32)
    if millionths.max(initial=0) >= _MILLION:
        carry = millionths >= _MILLION
        millionths[carry] = 0
        numbers[len(whole) :] += carry
        rate = numbers[len(whole) + _RATE]
        exponent += rate >= 10
        rate[rate >= 10] = 1
    first = millionths // 1000
    np.add(first, np.int32(_POINT), out=out[: len(first)])
    seconds = len(_SECOND)
    first[:seconds] *= 1000
    millionths[:seconds] -= first[:seconds]
    np.add(millionths[:seconds], _SECOND, out=out[len(first) : -1])
    np.add(exponent, _EXPONENT, out=out[-1])
    return numbers


def _before_points(numbers: I64, levels: tuple[I64, ...], out: I64) -> None:
    """Which cells make the digits before the point, the last four of all numbers first."""
    section, rest = _LAST, numbers
    for those in levels:
        above = rest[those] // 10_000
        group, out = out[: len(rest)], out[len(rest) :]
        np.add(rest, section, out=group)
        group[those] += (above > 0) * (_FOUR - section) - above * 10_000
        section, rest = _BLANK, above
    np.add(rest, section, out=out)


@cache
def _powers() -> F64:
    """10 to the power of -99 ... 99."""
    return np.array([float(f"1e{n}") for n in range(-_MOST_EXPONENT, _MOST_EXPONENT + 1)])


def _exponents(values: F64) -> I64:
    """The exponents of ten that leave mantissas from 1 to below 10; 0 for 0."""
    exponent = np.floor(np.log10(np.maximum(values, _LEAST_RATE))).astype(np.int64)
    mantissa = values * _powers().take(_MOST_EXPONENT - exponent)
    exponent += mantissa >= 10  # the logarithm may be off by a rounding
    exponent -= mantissa < 1
    exponent[values == 0] = 0
    return exponent
