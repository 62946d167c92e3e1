"""The table of nccl-tests' all_reduce_perf, over all GPUs, before the run begins.

Widths and texts are those of nccl-tests 2.18 (NVIDIA/nccl-tests, src/util.cu: writeDeviceReport,
writeResultHeader, writeBenchmarkLineBody, getFloatStr, writeResultFooter). Times are those of the
law that the run's own all-reduce test follows: the row of its size says what AllReduceTested says.
Out of place is the law; in place differs from it as two measurements do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import Event
from ghosttrain.core.identity import host_name, pci_bus_id, process_id
from ghosttrain.core.laws.network import bus_factor, collective
from ghosttrain.core.rng import Stream
from ghosttrain.core.spec import RunSpec
from ghosttrain.core.units import GB
from ghosttrain.exporters.writing import Asked

_VERSION = "2.18.3"
_FLOAT_BYTES = 4
# As `all_reduce_perf -b 8 -e 8G -f 2 -g 1`, the sweep of NVIDIA's guides.
_LEAST_BYTES, _MOST_BYTES = 8, 8 << 30
_IN_PLACE_SD = 0.004  # of a mean of 20 iterations; published sweeps differ by less than 1 %
_LAUNCH = 0  # the benchmark ran before the first launch of the run
_TIME_WIDTH, _RATE_WIDTH = 7, 6
_FOOT = "# %-20s : %s\n"
_DEVICE = "#  Rank %2d Group %2d Pid %6d on %10s device %2d [%s] %s\n"
_GROUPS = f"#{51 * ' '}           out-of-place                       in-place          \n"
_SHAPE, _TIMED = "%12d  %12d  %8s  %6s  %6s", "  %7s  %6s  %6s  %6g"
_COLUMNS = "# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %6s  %6s  %6s \n"


class AllReducePerf:
    """Writes the table once, whatever comes first."""

    def __init__(self, asked: Asked) -> None:
        self._text = "".join(table(asked.run.spec, asked.run.seed))

    def accept(self, _event: Event) -> bytes:
        """The table, the first time."""
        text, self._text = self._text, ""
        return text.encode()

    def close(self) -> bytes:
        """The table, if no event came."""
        return self._text.encode()


def all_reduce_perf_file(asked: Asked) -> AllReducePerf:
    """What makes the table.

    Raises:
        RequestError: If there is one GPU.
    """
    if asked.run.spec.cluster.gpus < 2:
        raise RequestError("all-reduce-perf needs 2 GPUs or more, the run has 1: raise --gpus")
    return AllReducePerf(asked)


def table(spec: RunSpec, seed: int) -> Iterator[str]:
    """The whole output of the benchmark, line by line."""
    yield from _head(spec)
    sizes = []
    size = _LEAST_BYTES
    while size <= _MOST_BYTES:
        sizes.append(size)
        size *= 2
    noise = Stream(seed, "machine.all-reduce-perf").normal(0, len(sizes))
    rates = []
    for size_bytes, z in zip(sizes, noise.tolist(), strict=True):
        law_s = all_reduce_s(spec, size_bytes)
        both = (law_s, law_s * math.exp(_IN_PLACE_SD * z))
        rates += [_bus_gbs(spec, size_bytes, took_s) for took_s in both]
        yield _row(spec, size_bytes, both)
    yield _FOOT % ("Out of bounds values", "0 OK")
    yield _FOOT % ("Avg bus bandwidth", f"{sum(rates) / len(rates):g} ")
    yield "#\n# Collective test concluded: all_reduce_perf\n#\n\n"


def all_reduce_s(spec: RunSpec, size_bytes: int) -> float:
    """Time of an all-reduce over all ranks, as the run's test has it."""
    cluster = spec.cluster
    return collective(
        "all_reduce", size_bytes, ranks=cluster.gpus, stride=1, gpu=spec.gpu, cluster=cluster
    ).duration_s


def _head(spec: RunSpec) -> Iterator[str]:
    cluster = spec.cluster
    major, minor, patch = ([int(part) for part in cluster.nccl.split(".")[:3]] + [0, 0, 0])[:3]
    code = 10000 * major + 100 * minor + patch
    yield f"# nccl-tests version {_VERSION} nccl-headers={code} nccl-library={code}\n"
    yield "# Collective test starting: all_reduce_perf\n"
    yield (
        f"# nThread 1 nGpus 1 minBytes {_LEAST_BYTES} maxBytes {_MOST_BYTES} step: 2(factor) "
        "warmup iters: 1 iters: 20 agg iters: 1 validation: 1 graph: 0 unalign: 0\n"
    )
    yield "#\n# Using devices\n"
    for rank in range(cluster.gpus):
        node, local = divmod(rank, cluster.gpus_per_node)
        yield _DEVICE % (
            rank,
            0,
            process_id(node, local, _LAUNCH),
            host_name(cluster, node),
            local,
            pci_bus_id(spec.gpu, local),
            spec.gpu.product_name,
        )
    yield "#\n"
    yield _GROUPS
    each = ("time", "algbw", "busbw", "#wrong")
    yield _COLUMNS % ("size", "count", "type", "redop", "root", *each, *each)
    units = ("(us)", "(GB/s)", "(GB/s)", "")
    yield _COLUMNS % ("(B)", "(elements)", "", "", "", *units, *units)


def _row(spec: RunSpec, size_bytes: int, both: tuple[float, float]) -> str:
    """One size: out of place, then in place."""
    shape = size_bytes, size_bytes // _FLOAT_BYTES, "float", "sum", "-1"
    text = _SHAPE % shape
    for took_s in both:
        text += _TIMED % (
            _number(1e6 * took_s, _TIME_WIDTH),
            _number(size_bytes / took_s / GB, _RATE_WIDTH),
            _number(_bus_gbs(spec, size_bytes, took_s), _RATE_WIDTH),
            0,
        )
    return text + "\n"


def _bus_gbs(spec: RunSpec, size_bytes: int, took_s: float) -> float:
    return size_bytes / took_s / GB * bus_factor("all_reduce", spec.cluster.gpus)


def _number(value: float, width: int) -> str:
    """The value with as many decimals, up to two, as the width has room for (getFloatStr)."""
    power = 0
    while value >= 10**power:
        power += 1
    if power < width - 2:
        return f"{value:{width}.2f}"
    if power < width - 1:
        return f"{value:{width}.1f}"
    if power < width + 1:
        return f"{value:{width}.0f}"
    return f"{value:{width}.{1 if width >= _TIME_WIDTH else 0}e}"
