"""Dates of a run as logs write them: UTC, cut (not rounded) to what is shown."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

_MICRO = 1_000_000


class Dates:
    """Turns run times into dates.

    Args:
        start_unix_s: Date of run time 0.
    """

    def __init__(self, start_unix_s: int) -> None:
        self._start = start_unix_s

    def micro(self, time_s: float) -> str:
        """`2026-03-08 10:40:12.118402`."""
        date, micro = self._moment(time_s)
        return f"{date:%Y-%m-%d %H:%M:%S}.{micro:06d}"

    def milli(self, time_s: float) -> str:
        """`2026-03-08 10:40:12,118`, as Python's logging has it."""
        second, milli = divmod(math.floor(time_s * 1000), 1000)
        return f"{self._date(second):%Y-%m-%d %H:%M:%S},{milli:03d}"

    def second(self, time_s: float) -> str:
        """`2026-03-08 10:40:12`."""
        return f"{self._moment(time_s)[0]:%Y-%m-%d %H:%M:%S}"

    def unix(self, time_s: float) -> str:
        """`1772966412.118`, seconds since 1970."""
        milli = self._start * 1000 + math.floor(time_s * 1000)
        return f"{milli // 1000}.{milli % 1000:03d}"

    def micros(self, time_s: NDArray[np.float64]) -> list[str]:
        """`micro()` of many moments."""
        micro = np.floor(time_s * _MICRO).astype(np.int64) + self._start * _MICRO
        texts = np.datetime_as_string(micro.astype("datetime64[us]"))
        return [text.replace("T", " ") for text in texts.tolist()]

    def millis(self, time_s: NDArray[np.float64]) -> list[str]:
        """`milli()` of many moments."""
        return [text[:-3].replace(".", ",") for text in self.micros(time_s)]

    def _moment(self, time_s: float) -> tuple[datetime, int]:
        second, micro = divmod(math.floor(time_s * _MICRO), _MICRO)
        return self._date(second), micro

    def _date(self, second: int) -> datetime:
        return datetime.fromtimestamp(self._start + second, UTC)
