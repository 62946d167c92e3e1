"""Numbers as people read them: durations, sizes, counts."""

from __future__ import annotations

import math

from ghosttrain.core.units import DAY_S, HOUR_S, MINUTE_S

LARGEST_LOSS = 700.0  # exp() of more is no float


def duration(seconds: float) -> str:
    """`52s`, `16m52s`, `1h50m` or `3d04h`, at most six cells up to 99 days."""
    whole = max(0, round(seconds)) if math.isfinite(seconds) else 0
    if whole < MINUTE_S:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if whole < HOUR_S:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(whole // 60, 60)
    if whole < DAY_S:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def long_duration(seconds: float) -> str:
    """`2h 07m 41s`, with the days in front where there are any."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h {minutes:02d}m"
    if hours:
        return f"{hours}h {minutes:02d}m {rest:02d}s"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def short_time(seconds: float) -> str:
    """`12 us`, `5.97 ms`, `2.5s` or as `duration` from a minute on."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds:.1f}s" if seconds < MINUTE_S else duration(seconds)


def count(number: float) -> str:
    """`8.03 B`: three or more digits with K, M, B or T."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * scale:
            value = number / scale
            return f"{value:.{2 if value < 100 else 1}f} {unit}"
    return f"{number:.0f}"


def size(size_bytes: float) -> str:
    """`16.1 GB`, in powers of 1000."""
    for scale, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if size_bytes >= 0.9995 * scale:
            value = size_bytes / scale
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def binary_size(size_bytes: float) -> str:
    """`1 GiB` where it is whole, else as `size`."""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= scale and size_bytes % scale == 0:
            return f"{size_bytes / scale:.0f} {unit}"
    return size(size_bytes)


def perplexity(loss: float) -> float:
    """exp(loss), printed everywhere with two decimals."""
    return math.exp(min(loss, LARGEST_LOSS))


def percent(frac: float) -> int:
    """Whole percent of a share of work: 100 only when all of it is done."""
    if not frac < 1:
        return 100
    return min(99, max(0, round(100 * frac)))
