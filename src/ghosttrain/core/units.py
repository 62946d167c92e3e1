"""Constants and conversions. GiB is 2**30 bytes, GB is 10**9: never mixed."""

from __future__ import annotations

MIB = 2**20
GIB = 2**30
KB = 10**3
MB = 10**6
GB = 10**9
TB = 10**12
TERA = 1e12

MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 86400.0
