"""What a benchmark found, and how things are timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One figure against its goal.

    Attributes:
        value: The figure, in `unit`.
        goal: What it is held to.
        at_most: Whether the goal is an upper bound (else a lower one).
        note: What was set against what, in absolute figures.
    """

    name: str
    value: float
    unit: str
    goal: float
    at_most: bool
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], pairs: int
) -> tuple[float, float]:
    """Medians of both, taken alternately so that a busy machine hits both alike."""
    taken = [(ours(), theirs()) for _ in range(pairs)]
    return statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken)
