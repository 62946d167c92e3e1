"""Two lanes of items, each in the order of its times, joined into one such order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TimeMerge(Generic[Item]):
    """Holds items of a lane until the others have passed them.

    Events and telemetry reach an exporter by turns, in batches of any size; what comes out of
    here is in the order of time, at equal times of the lanes, and so is the same for all batches.
    """

    def __init__(self, lanes: int) -> None:
        self._waiting: list[deque[tuple[float, Item]]] = [deque() for _ in range(lanes)]
        self._passed_s = [-math.inf] * lanes

    def put(self, lane: int, time_s: float, item: Item) -> None:
        """Add an item to a lane; times of a lane never decrease."""
        self._waiting[lane].append((time_s, item))

    def passed(self, lane: int, time_s: float) -> None:
        """Nothing of this lane is earlier than `time_s` from now on."""
        self._passed_s[lane] = time_s

    def ready(self, *, all_of_them: bool = False) -> Iterator[tuple[float, Item]]:
        """What no lane can be ahead of any more, in order; with `all_of_them` the rest too."""
        horizon_s = math.inf if all_of_them else min(self._passed_s)
        while True:
            heads = [(lane[0][0], number) for number, lane in enumerate(self._waiting) if lane]
            if not heads:
                return
            time_s, number = min(heads)
            if time_s >= horizon_s:
                return
            yield self._waiting[number].popleft()
