"""Step-to-step variation of the pace, by the ordinal of the executed step.

The ordinal e counts every executed step, replayed ones too: noise of the machine belongs to
the moment, noise of the loss to the data. `PaceClock.at(e)` is the sum of the pace factors of
the first e steps, reachable at any e: blocks of 1,000 steps have a drawn level, the jitter
inside a block is scaled to it, and rare hiccups come on top.

Size of the jitter: public step-time logs (MLPerf GPT-3 and Llama-3.1-405B runs, 512 to 8,192
GPUs): robust CV 0.1 to 0.3 % on quiet systems, up to 1 % at thousands of GPUs, neighbouring
steps nearly independent; tails to 1.6x (p99 1.002 to 1.1).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.rng import Stream, normal_from_lanes, normal_quantile

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

BLOCK = 1000  # steps whose jitter is scaled together
HICCUP_BLOCK = 200  # steps that share one hiccup
_HICCUP_GROUP = 64 * HICCUP_BLOCK  # steps whose hiccups are drawn together
LATE_LOADER, SLOW_COLLECTIVE, WARM_INLET = 0, 1, 2
_KEPT_BLOCKS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Hiccups:
    """One small disturbance per 200 executed steps, in columns of shape (hiccups,).

    Attributes:
        ordinal: Executed step it strikes.
        kind: LATE_LOADER, SLOW_COLLECTIVE (both lengthen the step) or WARM_INLET.
        delay: Time added to the step, in steps; 0 for a warm inlet.
        warmth_c: Degrees the inlet of the node rises; 0 for the others.
        node_share: Which node, as a share of the nodes (0..1).
    """

    ordinal: I64
    kind: I64
    delay: F64
    warmth_c: F64
    node_share: F64

    def between(self, start: int, stop: int) -> Hiccups:
        """Those that strike executed steps [start, stop)."""
        low, high = np.searchsorted(self.ordinal, (start, stop)).tolist()
        at = slice(low, high)
        return Hiccups(
            self.ordinal[at], self.kind[at], self.delay[at], self.warmth_c[at], self.node_share[at]
        )


class PaceClock:
    """Pace of the executed steps of one run, in steps of undisturbed length."""

    def __init__(self, seed: int, *, gpus: int, total_steps: int) -> None:
        self._jitter = Stream(seed, "pace.jitter")
        self._level = Stream(seed, "pace.level")
        self._hiccup = Stream(seed, "pace.hiccup")
        self._sd = 0.0015 + 0.0004 * max(0.0, math.log2(gpus / 8))
        self._hiccup_groups = lru_cache(maxsize=4)(self._draw_hiccups)
        self._first_hiccup_before = min(HICCUP_BLOCK, total_steps)
        # Per block, grown when needed: start on the clock, level, hiccups (position, delay).
        self._starts: F64 = np.zeros(1)
        self._levels: F64 = np.empty(0)
        self._late_at: I64 = np.empty((0, BLOCK // HICCUP_BLOCK), dtype=np.int64)
        self._late_delay: F64 = np.empty((0, BLOCK // HICCUP_BLOCK))
        self._blocks: OrderedDict[int, tuple[F64, F64]] = OrderedDict()

    def hiccups(self, start: int, stop: int) -> Hiccups:
        """Hiccups of the executed steps [start, stop)."""
        groups = range(max(start, 0) // _HICCUP_GROUP, max(stop - 1, 0) // _HICCUP_GROUP + 1)
        parts = [self._hiccup_groups(group).between(start, stop) for group in groups]
        if len(parts) == 1:
            return parts[0]
        return Hiccups(
            np.concatenate([p.ordinal for p in parts]),
            np.concatenate([p.kind for p in parts]),
            np.concatenate([p.delay for p in parts]),
            np.concatenate([p.warmth_c for p in parts]),
            np.concatenate([p.node_share for p in parts]),
        )

    def _draw_hiccups(self, group: int) -> Hiccups:
        """Hiccups of one group of blocks."""
        count = _HICCUP_GROUP // HICCUP_BLOCK
        first = group * count
        u = self._hiccup.uniform(4 * first, 4 * count).reshape(count, 4)
        room = np.full(count, HICCUP_BLOCK)
        if group == 0:
            room[0] = self._first_hiccup_before
        inside_block = (u[:, 0] * room).astype(np.int64)
        ordinal = np.arange(first, first + count) * HICCUP_BLOCK + inside_block
        kind = (u[:, 1] * 3).astype(np.int64)
        size = np.exp(0.8 * normal_quantile(u[:, 2]))
        delay = np.where(kind == LATE_LOADER, 0.14, 0.10) * size
        delay = np.where(kind == WARM_INLET, 0.0, np.clip(delay, 0.05, 1.2))
        warmth = np.where(kind == WARM_INLET, np.clip(4.5 * size**0.4, 3.0, 8.0), 0.0)
        return Hiccups(ordinal, kind, delay, warmth, u[:, 3].copy())

    def factors(self, start: int, stop: int) -> F64:
        """Pace factor of the executed steps [start, stop): step time over the undisturbed one."""
        return self._columns(start, stop)[0]

    def at(self, ordinal: int) -> float:
        """Sum of the factors of the first `ordinal` executed steps."""
        block, inside = divmod(ordinal, BLOCK)
        start: float = self._block_starts(block + 1).item(block)
        if not inside:
            return start
        within: float = self._block(block)[1].item(inside - 1)
        return start + within

    def ends(self, start: int, stop: int) -> F64:
        """`at(e + 1)` of the executed steps [start, stop)."""
        return self._columns(start, stop)[1]

    def end(self, ordinal: int) -> float:
        """`ends` of one step, as a number."""
        block, inside = divmod(ordinal, BLOCK)
        start: float = self._block_starts(block + 1).item(block)
        within: float = self._block(block)[1].item(inside)
        return start + within

    def completed(self, clock: float) -> int:
        """Number of executed steps that are complete at `clock` (inverse of `at`)."""
        if clock <= 0:
            return 0
        blocks = max(1, int(clock / BLOCK) + 2)
        while self._block_starts(blocks)[-1] <= clock:
            blocks *= 2
        block = int(self._starts.searchsorted(clock, side="right")) - 1
        rest = clock - self._starts.item(block)
        return block * BLOCK + int(self._block(block)[1].searchsorted(rest, side="right"))

    def _block_starts(self, blocks: int) -> F64:
        """`at` of the first step of each block, shape (>= blocks + 1,); grown when needed."""
        known = len(self._starts) - 1
        if blocks > known:
            more = max(blocks, 2 * known, 64)
            levels = 1 + 0.0008 * self._level.normal(known, more - known)
            late = self.hiccups(known * BLOCK, more * BLOCK)
            late_at = (late.ordinal % BLOCK).reshape(-1, BLOCK // HICCUP_BLOCK)
            late_delay = late.delay.reshape(late_at.shape)
            sums = BLOCK * levels + late_delay.sum(axis=1)
            grown = np.cumsum(np.concatenate([self._starts[-1:], sums]))
            self._starts = np.concatenate([self._starts, grown[1:]])
            self._levels = np.concatenate([self._levels, levels])
            self._late_at = np.concatenate([self._late_at, late_at])
            self._late_delay = np.concatenate([self._late_delay, late_delay])
        return self._starts

    def _block(self, block: int) -> tuple[F64, F64]:
        """Factors of one block and their running sum, shape (BLOCK,) each."""
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        self._block_starts(block + 1)
        lanes = self._jitter.lanes(block * BLOCK, BLOCK)
        jitter = 1 + self._sd * normal_from_lanes(lanes[:, 0], lanes[:, 1])
        jitter *= BLOCK * self._levels[block] / jitter.sum()
        jitter[self._late_at[block]] += self._late_delay[block]
        self._blocks[block] = jitter, np.cumsum(jitter)
        if len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[block]

    def _columns(self, start: int, stop: int) -> tuple[F64, F64]:
        """Factors and running clock of [start, stop), both shape (stop - start,)."""
        if stop <= start:
            return np.empty(0), np.empty(0)
        factors, ends = [], []
        for b in range(start // BLOCK, (stop - 1) // BLOCK + 1):
            low, high = max(start - b * BLOCK, 0), min(stop - b * BLOCK, BLOCK)
            factor, running = self._block(b)
            factors.append(factor[low:high])
            ends.append(self._block_starts(b + 1)[b] + running[low:high])
        return np.concatenate(factors), np.concatenate(ends)
