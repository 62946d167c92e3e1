"""Errors that GPUs have counted, and marks they bear: ECC, Xids, remapped rows, link errors.

Shapes: K = moments of one span; G = GPUs of the run.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters.moments import Moments, same_of_all
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import Timeline

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Marks:
    """Errors and marks of the GPUs of one run; `launches` are the first spans of the launches."""

    def __init__(self, plan: Plan, timeline: Timeline, launches: Mapping[int, int]) -> None:
        self.timeline, self._launches = timeline, launches
        self.gpus = plan.spec.cluster.gpus
        self._per_node = min(plan.spec.cluster.gpus_per_node, self.gpus)

    def signs(self, at: Moments, name: str) -> I64:
        """A counter or mark that incidents move, by the signs that show in the span."""
        table = self._signs
        which = np.array(self.timeline.sign_indices(at.span), np.int64)
        which = which[table.name[which] == name]
        if not len(which):
            return self._none(at)
        out = np.zeros((len(at.time_s), self.gpus), np.int64)
        values = table.values(which, at.time_s, table.gone_s[which])
        gpus = table.gpu[which]
        if name == "xid":  # the last one stays
            for column, gpu in zip(values.T, gpus.tolist(), strict=True):
                out[:, gpu] = np.where(column > 0, column, out[:, gpu])
        else:
            np.add.at(out.T, gpus, values.T)
        return out

    def _none(self, at: Moments) -> I64:
        return same_of_all(np.zeros(len(at.time_s), np.int64), self.gpus)

    @cached_property
    def _signs(self) -> _Signs:
        """All signs there ever were, as columns."""
        signs = self.timeline.signs
        numbers = np.array(
            [(s.first_gpu, s.start, s.per_hour, s.since_s, s.until_s, s.gone_s) for s in signs]
        ).reshape(-1, 6)
        left = [self._swapped_after(s.first_gpu, s.since_s) for s in signs]
        names = np.array([s.name for s in signs], dtype="U16")
        gpu, start, per_hour, since, until, gone = numbers.T
        return _Signs(
            names, gpu.astype(np.int64), start, per_hour, since, until, gone, np.array(left)
        )

    @cached_property
    def _swaps_of(self) -> dict[int, list[float]]:
        """When spares came to each node, in order."""
        found: dict[int, list[float]] = {}
        for made, node, _ in self.timeline.swaps:
            if (index := self._launches.get(made)) is not None:
                found.setdefault(node, []).append(self.timeline.spans[index].start_s)
        return found

    def _swapped_after(self, gpu: int, time_s: float) -> float:
        """When the node that holds a GPU at a moment was swapped; infinite: never."""
        swaps = self._swaps_of.get(gpu // self._per_node, [])
        at = bisect_right(swaps, time_s)
        return swaps[at] if at < len(swaps) else math.inf

    def _kept_on_board(self, at: Moments, name: str) -> I64:
        """What a sign has counted over resets, until its GPU left, shape (K, G)."""
        table = self._signs
        which = np.flatnonzero((table.name == name) & (table.since_s <= at.time_s[-1]))
        if not len(which):
            return self._none(at)
        out = np.zeros((len(at.time_s), self.gpus), np.int64)
        values = table.values(which, at.time_s, table.left_s[which])
        np.add.at(out.T, table.gpu[which], values.T)
        return out

    def ecc_sbe_aggregate(self, at: Moments) -> I64:
        """Corrected errors, over resets."""
        return self._kept_on_board(at, "ecc-corrected")

    def ecc_dbe_aggregate(self, at: Moments) -> I64:
        """Uncorrectable errors, over resets."""
        return self._kept_on_board(at, "ecc-uncorrected")

    def uncorrectable_remapped_rows(self, at: Moments) -> I64:
        """Rows of memory remapped for uncorrectable errors."""
        return self._marked(at, self._remaps)

    def row_remap_pending(self, at: Moments) -> I64:
        """Whether a row waits for a reset to be remapped."""
        return np.minimum(self._marked(at, self._pending), 1)

    def row_remap_failure(self, at: Moments) -> I64:
        """Whether a row could not be remapped."""
        return np.minimum(self._marked(at, self._remap_failures), 1)

    def _marked(self, at: Moments, marks: F64) -> I64:
        """Number of marks (GPU, from, until) of each GPU at each moment, shape (K, G)."""
        here = marks[marks[:, 1] <= at.time_s[-1]]
        if not len(here):
            return self._none(at)
        out = np.zeros((len(at.time_s), self.gpus), np.int64)
        there = (at.time_s >= here[:, 1:2]) & (at.time_s < here[:, 2:3])
        np.add.at(out.T, here[:, 0].astype(np.int64), there.astype(np.int64))
        return out

    @cached_property
    def _remaps(self) -> F64:
        """Rows remapped for uncorrectable errors (Xid 63): counted at once, on the board."""
        return self._xid_marks(63, is_pending=False)

    @cached_property
    def _pending(self) -> F64:
        """Rows remapped, but not before the next reset of their GPU."""
        return self._xid_marks(63, is_pending=True)

    @cached_property
    def _remap_failures(self) -> F64:
        """Rows that could not be remapped (Xid 64)."""
        return self._xid_marks(64, is_pending=False)

    def _xid_marks(self, xid: int, *, is_pending: bool) -> F64:
        """GPU, from when and until when incidents with this Xid leave their mark, (marks, 3)."""
        rows = []
        for made in self.timeline.incidents:
            struck_s = made.time_s if made.kind.course == "sign" else made.strike_s
            if xid in made.kind.xids and struck_s is not None:
                until_s = self._swapped_after(made.gpu, struck_s)
                if is_pending and made.kind.recovery in ("reset", "reboot"):
                    until_s = min(until_s, made.relaunch_s or math.inf)
                rows.append((float(made.gpu), struck_s, until_s))
        return np.array(rows).reshape(-1, 3)


@dataclass(frozen=True, slots=True, eq=False)
class _Signs:
    """Signs in columns, as `ActiveSign`; `left_s` is when a sign's GPU was swapped."""

    name: NDArray[np.str_]
    gpu: I64
    start: F64
    per_hour: F64
    since_s: F64
    until_s: F64
    gone_s: F64
    left_s: F64

    def values(self, which: I64, time_s: F64, end_s: F64) -> I64:
        """What signs `which` show at moments, gone from `end_s` on, shape (K, signs)."""
        at = time_s[:, None]
        hours = (np.minimum(at, self.until_s[which]) - self.since_s[which]) / 3600
        counted = (self.start[which] + self.per_hour[which] * hours).astype(np.int64)
        return np.where((at >= self.since_s[which]) & (at < end_s), counted, 0)
