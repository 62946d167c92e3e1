"""What an invariant says of what it saw, and the report that collects it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SHOWN_PER_INVARIANT = 10


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant: where, what was found, what was expected."""

    line: int
    invariant: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Numbers and the bounds they must keep; NaN in any of them: no check.

    Each of `line`, `found`, `low` and `high` is a scalar or of shape (K,).
    """

    line: I64 | int
    what: str
    found: F64 | float
    low: F64 | float
    high: F64 | float
    formula: str
    is_bound: bool

    def broken(self) -> Iterator[tuple[int, str]]:
        """(line, text) of each number out of its bounds."""
        out = (self.found < self.low) | (self.found > self.high)
        if not np.any(out):
            return
        columns = np.broadcast_arrays(self.line, self.found, self.low, self.high)
        lines, found, lows, highs = (np.atleast_1d(column) for column in columns)
        for i in np.flatnonzero(out).tolist():
            low, high = float(lows[i]), float(highs[i])
            expected = _range(low, high) if self.is_bound else _value(low, high)
            why = f" ({self.formula})" if self.formula else ""
            yield int(lines[i]), f"{self.what} {_text(float(found[i]))}, expected {expected}{why}"


@dataclass(frozen=True, slots=True)
class Stated:
    """Something that is so or not so."""

    line: int
    holds: bool
    found: str
    expected: str

    def broken(self) -> Iterator[tuple[int, str]]:
        """(line, text) if it is not so."""
        if not self.holds:
            yield self.line, f"{self.found}, expected {self.expected}"


Finding = Compared | Stated
Findings = Iterator[Finding]


def equal(
    line: I64 | int,
    what: str,
    found: F64 | float,
    expected: F64 | float,
    slack: F64 | float,
    formula: str = "",
) -> Compared:
    """`found` must be `expected` within `slack`, and what floating point itself may differ by."""
    room = slack + 1e-12 * np.abs(expected)
    return Compared(line, what, found, expected - room, expected + room, formula, is_bound=False)


def within(
    line: I64 | int,
    what: str,
    found: F64 | float,
    low: F64 | float,
    high: F64 | float,
    formula: str = "",
) -> Compared:
    """`found` must be from `low` to `high`."""
    return Compared(line, what, found, low, high, formula, is_bound=True)


def _text(value: float) -> str:
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    return f"{value:.9g}"


def _value(low: float, high: float) -> str:
    centre, slack = (low + high) / 2, (high - low) / 2
    if slack <= 4e-12 * abs(centre) + 1e-15:
        return _text(round(centre, 6) if abs(centre) >= 1 else centre)
    return f"{centre:.9g} ± {slack:.2g}"


def _range(low: float, high: float) -> str:
    if low == -np.inf:
        return f"at most {_text(high)}"
    if high == np.inf:
        return f"at least {_text(low)}"
    return f"{_text(low)} to {_text(high)}"


@dataclass(slots=True)
class Report:
    """Violations of one file: the first few of each invariant, the count of all."""

    shown: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    exercised: set[str] = field(default_factory=set)
    per_invariant: int = SHOWN_PER_INVARIANT

    def take(self, invariant: str, finding: Finding) -> None:
        """Take what an invariant said."""
        self.exercised.add(invariant)
        for line, text in finding.broken():
            self.add(Violation(line, invariant, text))

    def add(self, violation: Violation) -> None:
        """Take one violation."""
        self.exercised.add(violation.invariant)
        self.counts[violation.invariant] += 1
        if self.counts[violation.invariant] <= self.per_invariant:
            self.shown.append(violation)

    @property
    def total(self) -> int:
        """All violations, shown or not."""
        return self.counts.total()

    def by_line(self) -> list[Violation]:
        """Those to be shown, in order of their lines."""
        return sorted(self.shown, key=lambda v: (v.line, v.invariant))
