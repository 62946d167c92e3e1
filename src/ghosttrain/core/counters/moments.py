"""Moments of one span, and sums over spans."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.steps import Progress
from ghosttrain.core.timeline import Span

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Moments(NamedTuple):
    """Moments of one span, ascending, shape (K,), and the steps in progress then if any."""

    span_index: int
    span: Span
    time_s: F64
    steps: Progress | None = None


def summed(rows: F64) -> F64:
    """Sums before each row and past the last one."""
    return np.concatenate([np.zeros((1, *rows.shape[1:])), np.cumsum(rows, axis=0)])


def rounded(values: F64 | NDArray[np.float32]) -> I64:
    """Whole numbers, as counters are."""
    out = np.empty(values.shape, np.int64)
    np.rint(values, out=out, casting="unsafe")  # through NumPy's small buffer: no copy between
    return out


def same_of_all(values: NDArray[Any], gpus: int) -> NDArray[Any]:
    """One value of each moment for all GPUs, shape (K, G), read-only and without their memory."""
    return np.broadcast_to(values[:, None], (len(values), gpus))
