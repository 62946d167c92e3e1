"""Interval: sums over the steps between two printed lines.

Sums are of whole numbers (nanoseconds, parts of a nat), so that they come out the same however
the steps are cut into batches; a sum of floats would depend on it in its last digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

PER_SECOND = 1e9
PER_NAT = 1e11  # a month of steps between two lines still fits into 63 bits


class Interval:
    """Keeps sums of some columns since the last line that began a new interval.

    Args:
        columns: How many.
    """

    def __init__(self, columns: int) -> None:
        self._carried = np.zeros(columns, np.int64)

    def reset(self) -> None:
        """Begin a new interval."""
        self._carried[:] = 0

    def totals(self, values: I64, printed: NDArray[np.intp], begins_new: NDArray[np.bool_]) -> I64:
        """Sums at printed steps, each since the last one that began a new interval.

        Args:
            values: What the steps of a batch add, shape (columns, S).
            printed: Positions of the printed ones, ascending, shape (P,).
            begins_new: Whether a new interval begins behind each of them, shape (P,).

        Returns:
            Shape (columns, P).
        """
        sums = self._carried[:, None] + np.cumsum(values, axis=1)
        at = sums[:, printed]
        # What to take away at each: the sum at the last printed step that began a new interval.
        base = np.concatenate((np.zeros((len(sums), 1), np.int64), at[:, begins_new]), axis=1)
        before = np.concatenate(([0], np.cumsum(begins_new)))
        self._carried = sums[:, -1] - base[:, -1]
        taken: I64 = at - base[:, before[:-1]]
        return taken


def whole(values: F64, per_unit: float) -> I64:
    """The values in whole parts of their unit; those that are no number count as 0."""
    return np.rint(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) * per_unit).astype(
        np.int64
    )
