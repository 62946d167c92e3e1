"""Goodput: what faults and checkpoints cost, how often to save, what a run costs.

Faults strike at an even rate while the processes are up (a Poisson process). Each costs its
detection and repair, a launch, and the work since the last checkpoint, which is done again.
What that comes to on average is closed: a segment of s seconds between two saves takes
(M + D) e^(I/M) (e^(s/M) - 1), with M between faults, D down and I to launch (Daly 2006, whose
R is in our launch). To first order the share of useful time is M / (M + R + s/2), R = D + I.

Sources: Young 1974 (CACM 17:9); Daly 2006 (FGCS 22:3); Llama 3 (arXiv:2407.21783, table 5) and
Kokolis et al. 2024 (arXiv:2410.21680) for rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ghosttrain.core.spec import FaultKind, Gpu
from ghosttrain.core.units import DAY_S, GB

# Llama 3, table 5: 419 unexpected interruptions in 54 days of 16,384 GPUs.
PUBLISHED_PER_1000_GPU_DAYS = 419 / (54 * 16.384)
# Rates of clusters differ: 2.34 to 6.50 per 1,000 node-days (Kokolis 2024, RSC-2 and RSC-1; Llama
# 3 has 3.79 in between). Taken as nine in ten clusters, that is this sd of the log rate.
PUBLISHED_RATE_LOG_SD = math.log(6.50 / 2.34) / 2 / 1.645
# Of those interruptions, the kinds whose peers wait for the watchdog: GPUs off the bus and
# hosts that vanish, GSP timeouts, NCCL hangs; about a quarter of the table (our reading).
_WATCHDOG_SHARE = 0.25
PUBLISHED_FAULTS = (
    FaultKind(
        name="published",
        scope="gpu",
        hang_share=_WATCHDOG_SHARE,
        rate_per_1000_gpu_days=PUBLISHED_PER_1000_GPU_DAYS,
        # 1 to 30 s until a dead worker is noticed (the record's default).
        # Automatic drain and spare swap: 1 to 10 min in nine of ten cases (estimated, as in the
        # catalogue).
        downtime_median_s=190.0,
        downtime_sigma=0.7,
    ),
)
NODE_TIMEOUT_S = 300.0  # Slurm's SlurmdTimeout, by default: a silent node ends the job
NINE_IN_TEN = 1.645  # normal quantile: 90 % lie within so many sd to either side
# Of 683 published throughputs nine in ten lie within this share of the law (`ghosttrain validate`:
# lower, or higher by the factor 1 + it).
STEP_TIME_ERROR = 0.21
_ENDLESS = 300.0  # a segment of so many times the mean between faults is never finished

ASYNC_COPY_BYTES_PER_S = 20 * GB  # GPU to host memory, contended PCIe 5 (15 to 25 GB/s)
ASYNC_FIXED_S = 1.5  # 0.5 to 3 s to plan and start an asynchronous save

POWER_USAGE_EFFECTIVENESS = 1.2  # assumed; hyperscale 1.1, industry mean 1.56 (Uptime 2024)


@dataclass(frozen=True, slots=True)
class FaultLoad:
    """How often faults strike a cluster, and what each costs before the next launch.

    Attributes:
        per_s: Faults a second of the whole cluster.
        hang_s: Mean time to detection.
        repair_s: Mean time from detection to the launch.
        down_square_s2: Mean square of their sum.
    """

    per_s: float
    hang_s: float
    repair_s: float
    down_square_s2: float

    @property
    def mean_between_s(self) -> float:
        """Mean time between faults of a cluster that is up, seconds."""
        return 1 / self.per_s if self.per_s else math.inf

    @property
    def down_s(self) -> float:
        """Mean time from a fault to the launch."""
        return self.hang_s + self.repair_s


@dataclass(frozen=True, slots=True)
class FaultCost:
    """What faults add to a stretch of a run: their expected number and seconds."""

    faults: float = 0.0
    hang_s: float = 0.0
    repair_s: float = 0.0
    launch_s: float = 0.0
    replay_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it, seconds."""
        return self.hang_s + self.repair_s + self.launch_s + self.replay_s

    def __add__(self, other: FaultCost) -> FaultCost:
        return FaultCost(
            self.faults + other.faults,
            self.hang_s + other.hang_s,
            self.repair_s + other.repair_s,
            self.launch_s + other.launch_s,
            self.replay_s + other.replay_s,
        )

    def times(self, count: float) -> FaultCost:
        """That of `count` such stretches."""
        return FaultCost(
            count * self.faults,
            count * self.hang_s,
            count * self.repair_s,
            count * self.launch_s,
            count * self.replay_s,
        )


def mean_between_faults_s(rate_per_1000_gpu_days: float, gpus: int) -> float:
    """Mean time between faults of `gpus` GPUs, seconds; inversely as their number."""
    return 1000 * DAY_S / (rate_per_1000_gpu_days * gpus)


def fault_load(kinds: Iterable[FaultKind], *, gpus: int, watchdog_timeout_s: float) -> FaultLoad:
    """The load of those of these kinds that end a launch, each at its rate.

    What slower steps cost is not in it, nor the stops that operators make because of them.
    """
    per_s = hang = repair = square = 0.0
    for kind in kinds:
        if not kind.ends_launch or not kind.rate_per_1000_gpu_days:
            continue
        rate = 1 / mean_between_faults_s(kind.rate_per_1000_gpu_days, gpus)
        waited, waited_var = detection_s(kind, watchdog_timeout_s)
        down = kind.downtime_median_s * math.exp(kind.downtime_sigma**2 / 2)
        down_var = down**2 * math.expm1(kind.downtime_sigma**2)
        per_s += rate
        hang += rate * waited
        repair += rate * down
        square += rate * ((waited + down) ** 2 + waited_var + down_var)
    if not per_s:
        return FaultLoad(0.0, 0.0, 0.0, 0.0)
    return FaultLoad(per_s, hang / per_s, repair / per_s, square / per_s)


def detection_s(kind: FaultKind, watchdog_timeout_s: float) -> tuple[float, float]:
    """Mean time from a strike of `kind` to its detection, and its variance, s and s2.

    Of a kind that is rolled back it is the time the run goes astray, thrown away as a hang's is.
    """
    low, high = kind.detect_low_s, kind.detect_high_s
    if kind.course == "stop":  # it is asked for
        return 0.0, 0.0
    if high > low > 0:  # log-uniform
        span = math.log(high / low)
        seen, square = (high - low) / span, (high**2 - low**2) / (2 * span)
    else:  # even, as the history draws it
        seen, square = (low + high) / 2, (low**2 + low * high + high**2) / 3
    hangs = 1.0 if kind.course == "hang" else kind.hang_share
    waited = watchdog_timeout_s
    if kind.takes_gpus and kind.scope != "gpu":  # Slurm may miss the node first
        waited = min(waited, NODE_TIMEOUT_S)
    mean = hangs * waited + (1 - hangs) * seen
    return mean, hangs * waited**2 + (1 - hangs) * square - mean**2


def segment_cost(segment_s: float, load: FaultLoad, launch_s: float) -> FaultCost:
    """What faults add to a segment that begins saved and is saved again after `segment_s`.

    Infinite where faults come so often that it would never be finished.
    """
    mean = load.mean_between_s
    if not load.per_s or not segment_s:
        return FaultCost()
    if (segment_s + launch_s) / mean > _ENDLESS:
        return FaultCost(*(math.inf,) * 5)
    tries = math.expm1(segment_s / mean)
    faults = math.exp(launch_s / mean) * tries
    return FaultCost(
        faults,
        faults * load.hang_s,
        faults * load.repair_s,
        # Launches that faults cut short count with what they took.
        faults * mean * -math.expm1(-launch_s / mean),
        mean * tries - segment_s,
    )


def effective_time_ratio(
    interval_s: float, stall_s: float, load: FaultLoad, launch_s: float
) -> float:
    """Useful share of the time when `stall_s` is spent to save after each `interval_s` of work."""
    segment = interval_s + stall_s
    return interval_s / (segment + segment_cost(segment, load, launch_s).total_s)


def young_interval_s(stall_s: float, mean_between_s: float) -> float:
    """The best time between saves to first order, sqrt(2 stall x mean between faults)."""
    return math.sqrt(2 * stall_s * mean_between_s)


def daly_interval_s(stall_s: float, mean_between_s: float) -> float:
    """The best time of work between saves, seconds (Daly 2006, eq. 37); infinite without faults."""
    if math.isinf(mean_between_s):
        return math.inf
    if stall_s >= 2 * mean_between_s:
        return mean_between_s
    ratio = math.sqrt(stall_s / (2 * mean_between_s))
    first_order = young_interval_s(stall_s, mean_between_s)
    return first_order * (1 + ratio / 3 + ratio**2 / 9) - stall_s


def async_stall_s(bytes_per_gpu: float) -> float:
    """What an asynchronous save would hold up: the copy to host memory, and starting it."""
    return bytes_per_gpu / ASYNC_COPY_BYTES_PER_S + ASYNC_FIXED_S


def host_w_per_gpu(gpu: Gpu) -> float:
    """Power of a GPU's share of its server: CPUs, memory, NICs, fans, conversion (estimated).

    100 W and a quarter of the card's limit: 1.6 kW for 8 A100; 2.2 kW for 8 H100, as the nodes'
    7.0 kW in MLPerf power logs of GPT-3 leave when the GPUs draw 600 W; 2.8 kW for 8 B200.
    """
    return 100 + 0.25 * gpu.tdp_w
