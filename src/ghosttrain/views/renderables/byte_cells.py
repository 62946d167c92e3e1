"""Tables of fixed-width byte strings: numbers become text by `take`, thousands at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.bytes_]
Ints = NDArray[np.intp]


@cache
def number_cells(
    width: int, largest: int, *, prefix: str = "", suffix: str = "", decimals: int = 0
) -> Cells:
    """Texts of 0 ... `largest` and, last, the dashes of a value nobody knows, all of one width.

    With `decimals` the numbers count tenths (1) or hundredths (2). A number too wide is written
    as the largest that is not. Shape (largest + 2,).
    """
    scale = 10**decimals
    widest = 10 ** (width - (decimals > 0)) - 1
    numbers = [f"{min(n, widest) / scale:{width}.{decimals}f}" for n in range(largest + 1)]
    rows = [prefix + n + suffix for n in (*numbers, "--".rjust(width))]
    return np.array([r.encode() for r in rows])


@cache
def text_cells(*texts: str, width: int = 0) -> Cells:
    """The texts as UTF-8, filled with NUL to `width` bytes or the longest of them.

    Whoever writes them removes the NULs.
    """
    rows = [t.encode() for t in texts]
    return np.array(rows, dtype=f"S{max(width, *map(len, rows))}")


@cache
def record(*parts: np.dtype[Any], times: tuple[int, ...] = ()) -> np.dtype[np.void]:
    """Parts one behind the other, as fields "0", "1", ...; a part comes `times` times in a row."""
    counts = times or (1,) * len(parts)
    named = enumerate(zip(parts, counts, strict=True))
    return np.dtype([(str(i), p, (n,)) if n > 1 else (str(i), p) for i, (p, n) in named])


def rounded(values: NDArray[np.float32], largest: int, *, scale: float = 1.0) -> Ints:
    """`values * scale` to the nearest integer, between 0 and `largest`."""
    nearest = values * np.float32(scale)
    nearest += np.float32(0.5)
    index = nearest.astype(np.intp)
    return np.clip(index, 0, largest, out=index)
