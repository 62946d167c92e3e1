"""Counter-based randomness: the only source of chance.

A draw is addressed by (seed, stream name, index): a pure function, so any window can be drawn
in any order and in blocks of any size. A stream is one Philox4x64 (Salmon et al. 2011) keyed
by a hash of seed and name, its counter set before each block; NumPy promises to keep the raw
bit stream of a bit generator, which is all that is used here. Samples come from raw bits
through quantile tables: 4 to 6 times the rate of `Generator.standard_normal`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U16 = NDArray[np.uint16]
U64 = NDArray[np.uint64]

_LANES = 4  # Philox4x64 yields four words per counter
_REACH_WORDS = 1000  # words drawn in the time it takes to move a stream to another place
_SQRT_HALF = float(np.sqrt(0.5))

# Acklam's coefficients, highest power first: the middle (a / b), and beyond _TAIL (c / d).
_TAIL = 0.02425
_ACKLAM_A = (
    -3.969683028665376e1,
    2.209460984245205e2,
    -2.759285104469687e2,
    1.383577518672690e2,
    -3.066479806614716e1,
    2.506628277459239e0,
)
_ACKLAM_B = (
    -5.447609879822406e1,
    1.615858368580409e2,
    -1.556989798598866e2,
    6.680131188771972e1,
    -1.328068155288572e1,
    1.0,
)
_ACKLAM_C = (
    -7.784894002430293e-3,
    -3.223964580411365e-1,
    -2.400758277161838e0,
    -2.549732539343734e0,
    4.374664141464968e0,
    2.938163982698783e0,
)
_ACKLAM_D = (
    7.784695709041462e-3,
    3.224671290700398e-1,
    2.445134137142996e0,
    3.754408661907416e0,
    1.0,
)


def stream_key(seed: int, name: str) -> tuple[int, int]:
    """Key of the stream `name` under `seed`, two 64-bit words."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


@cache
def normal_table() -> F32:
    """Standard normal quantiles at the centres of 65,536 equal slices, float32."""
    return normal_quantile((np.arange(65536) + 0.5) / 65536).astype(np.float32)


def _horner(coefficients: tuple[float, ...], x: F64) -> F64:
    """The polynomial with these coefficients, highest power first, at `x`."""
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


def normal_quantile(p: F64) -> F64:
    """Inverse of the standard normal distribution function, for 0 < p < 1.

    Source: P. J. Acklam's rational approximation (relative error under 1.2e-9).
    """
    out = np.empty_like(p)
    low, high = p < _TAIL, p > 1 - _TAIL
    mid = ~(low | high)
    q = p[mid] - 0.5
    r = q * q
    out[mid] = q * _horner(_ACKLAM_A, r) / _horner(_ACKLAM_B, r)
    if low.any():
        q = np.sqrt(-2 * np.log(p[low]))
        out[low] = _horner(_ACKLAM_C, q) / _horner(_ACKLAM_D, q)
    if high.any():
        q = np.sqrt(-2 * np.log1p(-p[high]))
        out[high] = -_horner(_ACKLAM_C, q) / _horner(_ACKLAM_D, q)
    return out


class Stream:
    """The draws of one named stream. Not safe to share between threads."""

    __slots__ = ("_philox", "_state")

    def __init__(self, seed: int, name: str) -> None:
        self._philox = np.random.Philox(key=stream_key(seed, name)[0])
        self._state = self._philox.state
        self._state["state"]["key"] = np.array(stream_key(seed, name), dtype=np.uint64)

    def words(self, start: int, count: int) -> U64:
        """Raw 64-bit words [start, start + count) of the stream."""
        counter, skip = divmod(start, _LANES)
        state = self._state
        state["state"]["counter"][0] = counter
        state["buffer_pos"] = _LANES
        self._philox.state = state
        drawn = self._philox.random_raw(count + skip)
        return drawn[skip:]

    def uniform(self, start: int, count: int) -> F64:
        """One uniform sample in (0, 1) per word, shape (count,)."""
        return ((self.words(start, count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, start: int, count: int) -> F64:
        """One standard normal sample per word, shape (count,); tails to 8 sigma."""
        return normal_quantile(self.uniform(start, count))

    def lanes(self, start: int, count: int) -> U16:
        """Four 16-bit lanes per word, shape (count, 4)."""
        return self.words(start, count).astype("<u8", copy=False).view(np.uint16).reshape(-1, 4)


class Rows:
    """Rows of `width` samples, `together` of them by one call of `draw`: calls are dear.

    Args:
        draw: Takes the first word and a number of words, as `Stream.normal`.
    """

    def __init__(self, draw: Callable[[int, int], F64], width: int, together: int) -> None:
        self._draw, self._width, self._together = draw, width, together
        self._chunk: tuple[int, list[list[float]]] = (-1, [])

    def __getitem__(self, index: int) -> list[float]:
        chunk, inside = divmod(index, self._together)
        if chunk != self._chunk[0]:
            size = self._width * self._together
            drawn = self._draw(size * chunk, size).reshape(-1, self._width)
            self._chunk = chunk, drawn.tolist()
        return self._chunk[1][inside]


def lanes_at(stream: Stream, ordinals: NDArray[np.int64], words: int) -> U16:
    """Lanes of the `words` words of each of some ascending ordinals, shape (K, 4 words).

    An ordinal may come more than once: several moments of one step, or of one second.
    """
    first, count = int(ordinals[0]), len(ordinals)
    reach = int(ordinals[-1]) - first + 1
    if reach * words > _REACH_WORDS * count:
        return np.stack([stream.lanes(e * words, words).ravel() for e in ordinals.tolist()])
    # Drawing what lies between costs less than moving the stream.
    lanes = stream.lanes(first * words, reach * words).reshape(reach, 4 * words)
    is_whole = reach == count and (count < 3 or bool((np.diff(ordinals) == 1).all()))
    return lanes if is_whole else lanes[ordinals - first]


def normal_from_lanes(first: U16, second: U16) -> F64:
    """Standard normal from two 16-bit lanes: smooth, with tails to 6 sigma."""
    table = normal_table()
    return (
        table.take(first, mode="clip").astype(np.float64) + table.take(second, mode="clip")
    ) * _SQRT_HALF
