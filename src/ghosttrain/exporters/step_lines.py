"""Lines of JSON of completed steps, a batch at a time.

All lines of a run have one form: numbers stand in columns, right-aligned, as JSON allows blanks
before a value. Digits are put there by fours, or as a point and three of them, four bytes from a
table. What no column holds (a loss that is NaN, a step of an hour) is left to `%`, without blanks.
How wide the columns are follows from the plan alone, so that batches leave no trace.

Shapes: S = steps, F = numbers in a line, R = those of them with decimals, K = pieces of a line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

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
    "tokens_per_s": 3,
    "eta_s": 3,
    "grad_norm": 5,
    "step_time_s": 6,
    "loss": 6,
    "learning_rate": 6,  # of it the mantissa; the exponent is a piece of its own
    "mfu": 6,
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

# Sections of the table, by where they begin. What a piece does not fill is NUL.
_FOUR = 0  # four digits behind others
_BLANK = 10_000  # up to four, blanks before them; 0 is all blanks
_LAST = 20_000  # the same, but 0 is "0"
_POINT = 30_000  # a point and three digits
_THREE, _TWO, _ONE = 31_000, 32_000, 33_000  # the first so many of three digits
_NONE = 34_000
_EXPONENT = 34_001 + _MOST_EXPONENT  # that of 0
_BEHIND = {6: _THREE, 5: _TWO, 4: _ONE, 3: _NONE}
_SECOND = np.array([_BEHIND[n] for n in _DECIMALS.values()], np.int32)[:, None]


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
        *(three[:digits].ljust(4, b"\0") for digits in (3, 2, 1) for three in thousand),
        b"\0\0\0\0",
        *(f"e{n:+03}".encode() for n in range(-_MOST_EXPONENT, _MOST_EXPONENT + 1)),
    ]
    return np.frombuffer(b"".join(pieces), dtype=np.uint32)


class Form(NamedTuple):
    """The form of the lines of a run.

    Attributes:
        tokens_per_step: Of the run.
        line: The text, NUL where digits go, as one item.
        limit: What the columns of numbers with decimals hold, shape (R, 1); of the others.
        levels: Which numbers have two groups of four digits or more, at which positions among
            `_NAMES`; which of those have three, at which positions among those; and so on.
        offsets: Where in the line the pieces go: those of each level, those behind the points by
            twos, the exponent.
        keep: Ones where the pieces of levels have digits, shape (K, 1): before the first digits
            they have blanks.
        around, around_pairs: What stands around the digits of pieces, shapes (K, 1), (R, 1, 2).
    """

    tokens_per_step: int
    line: NDArray[np.void]
    limit: F64
    limit_whole: I64
    levels: tuple[I64, ...]
    offsets: tuple[int, ...]
    keep: U32
    around: U32
    around_pairs: U32


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


def _form(digits: dict[str, int], tokens_per_step: int) -> Form:
    """The form of a line, by the digits that each number may have before the point."""
    line, offsets = b'{"event":"step"', {}
    for name in _WRITTEN:
        line += f',"{name}":'.encode() + bytes(digits[name])
        for four in range(-(-digits[name] // 4)):
            offsets[f"{name} {four}"] = len(line) - 4 * (four + 1)
        if name in _DECIMALS:
            offsets[f"{name} point"] = len(line)
            line += bytes(1 + _DECIMALS[name])
        if name == "learning_rate":
            offsets["exponent"] = len(line)
            line += bytes(4)
    line += b"}\n"
    above = [[n for n in _NAMES if digits[n] > 4 * level] for level in range(4)]
    before = [offsets[f"{name} {level}"] for level in range(4) for name in above[level]]
    points = [offsets[f"{name} point"] for name in _DECIMALS]
    around = b"".join(line[at : at + 4] for at in before)
    around_pairs = b"".join(line[at : at + 8] for at in points)
    limits = [10 ** digits[name] for name in _NAMES]
    return Form(
        tokens_per_step,
        np.frombuffer(line, dtype=f"V{len(line)}"),
        np.array(limits[len(_WHOLE) :], dtype=float)[:, None] - 1,  # 9.9999999 is 10.000000
        np.array(limits[: len(_WHOLE)])[:, None],
        tuple(
            np.array([before.index(name) for name in those])
            for before, those in itertools.pairwise(above)
            if those
        ),
        (*before, *points, offsets["exponent"]),
        np.frombuffer(around.translate(_MASK), dtype=np.uint32)[:, None],
        np.frombuffer(around, dtype=np.uint32)[:, None],
        np.frombuffer(around_pairs, dtype=np.uint32).reshape(-1, 1, 2),
    )


_MASK = bytes([255]) + bytes(255)  # NUL, which is where digits go, becomes ones, all else nothing


class StepLines:
    """The lines of steps.

    Args:
        events: They may be of several attempts.
        form: Of the run.
    """

    def __init__(self, events: Sequence[StepsCompleted], form: Form) -> None:
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
        self._data, self._width = _written(form, whole, fractions), form.line.dtype.itemsize

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


def _digits(whole: I64, fractions: F64) -> tuple[I64, I64, I64]:
    """What stands before the point, and which pieces make what stands behind it.

    Args:
        whole: Shape (F - R, S).
        fractions: Shape (R, S).

    Returns:
        Whole numbers, shape (F, S); indices into the table, of both pieces behind the points,
        shape (R, S, 2), and of the exponents, shape (S,).
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
    millionths -= first * 1000
    pairs = np.empty((*first.shape, 2), np.int64)
    np.add(first, np.int32(_POINT), out=pairs[..., 0])
    np.add(millionths, _SECOND, out=pairs[..., 1])
    return numbers, pairs, exponent + _EXPONENT


def _written(form: Form, whole: I64, fractions: F64) -> bytes:
    """The lines, all numbers of which the columns hold."""
    numbers, pairs, exponent = _digits(whole, fractions)
    rows = np.empty(numbers.shape[1], form.line.dtype)
    rows[:] = form.line
    before = _table().take(np.concatenate(_fours(form.levels, numbers)))
    before &= form.keep
    before |= form.around
    behind = _table().take(pairs)
    behind |= form.around_pairs
    for offset, pieces in zip(
        form.offsets,
        (*before, *behind.view(np.uint64)[..., 0], _table().take(exponent)),
        strict=True,
    ):
        np.ndarray(len(rows), pieces.dtype, rows.data, offset, rows.strides)[:] = pieces
    return rows.tobytes()


def _fours(levels: tuple[I64, ...], numbers: I64) -> list[I64]:
    """Which pieces make the digits before the point, the last four of all numbers first."""
    made: list[I64] = []
    section, rest = _LAST, numbers
    for those in levels:
        above = rest[those] // 10_000
        group = rest + section
        group[those] += (above > 0) * (_FOUR - section) - above * 10_000
        made.append(group)
        section, rest = _BLANK, above
    made.append(rest + section)
    return made


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
