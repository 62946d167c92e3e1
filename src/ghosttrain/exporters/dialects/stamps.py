"""Dates of lines: run time to UTC, in the forms that programs print."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def logging_stamp(start_unix_s: int, time_s: float) -> str:
    """`2026-04-02 09:14:51,318`: asctime of Python's logging, milliseconds cut off, in UTC."""
    second, milli = divmod(math.floor(time_s * 1000), 1000)
    return f"{datetime.fromtimestamp(start_unix_s + second, UTC):%Y-%m-%d %H:%M:%S},{milli:03d}"
