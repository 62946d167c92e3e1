"""Counters: what GPUs have counted by a moment, in closed form.

A counter is its gauge's integral by the law, without the gauge's noise: energy is that of the mean
power. Sums over spans are made once; a moment adds what its span has brought by then, so that it
costs the same wherever it lies.

**What survives what.** All counters outlive a restart of the processes. Energy, bytes and violation
times count from the load of the driver: they start anew where a node was rebooted, and where a
spare took its place (which brings its own count, from before the run). Volatile ECC counts, the
last Xid and link errors end with a reset of the GPU too (recovery "reset"). Aggregate ECC counts
and remapped rows are kept on the board and leave with it.

Shapes: K = moments of one span, ascending; G = GPUs of the run; P = spans.
"""

from ghosttrain.core.counters.moments import Moments
from ghosttrain.core.counters.source import CounterSource

__all__ = ["CounterSource", "Moments"]
