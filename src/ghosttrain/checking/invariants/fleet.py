"""Invariants of the samples of the GPUs, and of the timings of collectives."""

# Shapes: K = samples, G = GPUs.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import History
from ghosttrain.checking.observations import F64, CollectiveBlock, FleetBlock
from ghosttrain.core.laws.network import CollectiveOp, bus_factor
from ghosttrain.core.units import GB

COLDEST_C = 5.0
HOTTEST_C = 100.0  # where the log does not say when the card shuts down
POWER_OVER_LIMIT = 1.03  # short excursions above the limit, as the power law allows
MEMORY_SPREAD_GIB = 0.5  # of a GPU over its stage's plan
LAUNCH_SHARE = 0.985  # of the plateau, in the first steps of a launch
MEMORY_DRIFT_GIB = 0.02
FASTEST_BUS_GBS = 1000.0  # above any NVLink of the catalogue


def samples_cover_all_gpus(block: FleetBlock, h: History) -> Findings:
    """A sample has a value for every GPU of the run."""
    if h.facts.gpus is not None:
        width = np.full(len(block.line), float(block.util_pct.shape[1]))
        yield equal(block.line, "GPUs in the sample", width, h.facts.gpus.value, 0)


def samples_belong_to_their_step(block: FleetBlock, _: History) -> Findings:
    """A sample behind a step's row has that step's number and its end's time."""
    step = block.step.astype(np.float64)
    yield equal(block.line, "sample's step", step, block.row_step, 0, "the row before")
    yield equal(
        block.line,
        "sample's time",
        block.time.value,
        block.row_time,
        2 * block.time.half,
        "the end of its step",
    )


def gpu_utilisation_is_a_percentage(block: FleetBlock, h: History) -> Findings:
    """Utilisation from 0 to 100 %."""
    yield from _bounded(block, "utilisation %", block.util_pct, lambda _: (0.0, 100.0), h)


def gpu_temperatures_are_survivable(block: FleetBlock, h: History) -> Findings:
    """No GPU colder than its air or hotter than where it shuts down."""
    top = h.facts.gpu_shutdown_c.value if h.facts.gpu_shutdown_c else HOTTEST_C
    half = block.halves["temp_c"]
    # A GPU of 0 C does not answer, which is another invariant's.
    temp = np.where(block.temp_c == 0, COLDEST_C, block.temp_c)
    yield from _bounded(block, "temperature C", temp, lambda _: (COLDEST_C - half, top + half), h)


def gpu_power_keeps_its_limit(block: FleetBlock, h: History) -> Findings:
    """Power above 0 and no further over the limit than the power law allows."""
    if h.facts.gpu_tdp_w is not None:
        top = POWER_OVER_LIMIT * h.facts.gpu_tdp_w.value + block.halves["power_w"]
        yield from _bounded(block, "power W", block.power_w, lambda _: (1.0, top), h)


def gpu_memory_fits_the_card(block: FleetBlock, h: History) -> Findings:
    """No GPU uses more memory than it has."""
    card = h.facts.gpu_memory_gib
    if card is not None:
        top = card.value + card.half + block.halves["memory_gib"]
        yield from _bounded(block, "memory GiB", block.memory_gib, lambda _: (0.0, top), h)


def gpu_memory_follows_the_plan(block: FleetBlock, h: History) -> Findings:
    """While training each GPU holds what its pipeline stage was planned to, and a little more."""
    stages = h.facts.planned_memory_gib
    if not stages or not h.in_training:
        return
    gpus = block.memory_gib.shape[1]
    stage = np.minimum(np.arange(gpus) // max(1, gpus // len(stages)), len(stages) - 1)
    plan = np.array(stages)[stage]
    half = block.halves["memory_gib"] + 5e-4
    card = h.facts.gpu_memory_gib.value if h.facts.gpu_memory_gib else np.inf
    low = np.minimum(LAUNCH_SHARE * plan, card - 0.5) - half
    high = plan + MEMORY_SPREAD_GIB + half
    yield from _bounded(
        block, "memory GiB", block.memory_gib, lambda g: (float(low[g]), float(high[g])), h
    )


def gpu_memory_is_flat_while_training(block: FleetBlock, h: History) -> Findings:
    """After the first steps of a launch a GPU's memory stays as it is."""
    if not h.in_training or h.memory_now is None:
        return
    if block.memory_gib.shape[1] != len(h.memory_now):
        return
    memory = np.concatenate([h.memory_now[None, :], block.memory_gib])
    change = np.abs(np.diff(memory, axis=0))
    settled = memory[:-1] / np.maximum(memory[1:], 1e-9) > (1 + LAUNCH_SHARE) / 2
    change = np.where(settled, change, 0.0)  # the step up to the plateau
    worst = change.max(axis=1)
    room = MEMORY_DRIFT_GIB + 2 * block.halves["memory_gib"]
    yield within(block.line, "memory of a GPU changes by GiB", worst, 0.0, room, "flat")


def grid_means_are_of_its_cells(block: FleetBlock, _: History) -> Findings:
    """The means in a grid's heading are those of its cells."""
    if block.means is None:
        return
    metrics = (
        ("utilisation %", block.util_pct, "util_pct"),
        ("temperature C", block.temp_c, "temp_c"),
        ("power W", block.power_w, "power_w"),
        ("memory GiB", block.memory_gib, "memory_gib"),
    )
    answering = [max(1, block.util_pct.shape[1] - len(lost)) for lost in block.lost]
    for k, (what, values, name) in enumerate(metrics):
        expected = values.sum(axis=1) / np.array(answering)
        slack = 2 * block.halves[name] + 1e-3
        yield equal(block.line, f"mean {what}", block.means[:, k], expected, slack, "of its cells")


def lost_gpus_read_zero(block: FleetBlock, _: History) -> Findings:
    """A GPU that does not answer has no values; all others have."""
    gpus = block.util_pct.shape[1]
    for k, lost in enumerate(block.lost):
        line = int(block.line[k])
        beyond = [g for g in lost if not 0 <= g < gpus]
        if beyond:
            yield Stated(line, False, f"lost GPU {beyond[0]}", f"one of 0 to {gpus - 1}")
            continue
        if lost:
            at = list(lost)
            found = [block.power_w[k, at].max(), block.temp_c[k, at].max()]
            yield equal(line, "W and C of a lost GPU", float(max(found)), 0.0, 0.0)
            for name, values in block.extra.items():
                yield equal(line, f"{name} of a lost GPU", float(values[k, at].max()), 0.0, 0.0)
    answering = np.array([gpus - len(set(lost)) for lost in block.lost])
    alive = (block.temp_c > 0).sum(axis=1)
    yield equal(block.line, "GPUs that answer", alive.astype(float), answering.astype(float), 0)


def lost_gpus_are_those_of_the_fault(block: FleetBlock, h: History) -> Findings:
    """GPUs stop to answer when a fault has taken them: all of its GPUs, in a standstill."""
    if not h.begins_here or h.has_holes:
        return
    taken = [list(f.gpus()) for f in h.faults.standing() if f.kind is None or f.kind.takes_gpus]
    for k, lost in enumerate(block.lost):
        good = not lost or (h.hang is not None and sorted(lost) in taken)
        found = f"lost GPUs {_few(lost)}" if lost else "no lost GPU"
        expected = " or ".join(map(_few, taken)) if h.hang is not None and taken else "none"
        yield Stated(int(block.line[k]), good, found, expected)


def _few(gpus: Sequence[int]) -> str:
    shown = ", ".join(map(str, gpus[:3]))
    return f"{shown}, … ({len(gpus)})" if len(gpus) > 3 else shown


def activity_is_part_of_utilisation(block: FleetBlock, h: History) -> Findings:
    """SMs are active at most while a kernel runs, and tensor cores at most while SMs are."""
    active, tensor = block.extra.get("sm_active"), block.extra.get("tensor_active")
    for name, values, top in (
        ("SM activity", active, (block.util_pct + block.halves["util_pct"]) / 100),
        ("tensor activity", tensor, np.inf if active is None else active + 5e-4),
    ):
        if values is not None:
            worst = (values - top).argmax(axis=1)
            rows = np.arange(len(values))
            bound = np.broadcast_to(top, values.shape)[rows, worst] + 5e-4
            yield within(block.line, name, values[rows, worst], 0.0, np.minimum(bound, 1.0))
            yield within(block.line, name, values.min(axis=1), 0.0, 1.0)


def nothing_is_computed_in_a_hang(block: FleetBlock, h: History) -> Findings:
    """While a collective does not return, no tensor core works and no link carries anything."""
    if h.hang is None or h.phase is not h.hang:
        return
    for name in ("tensor_active", "nvlink_gbs", "ib_gbs"):
        if name in block.extra:
            highest = block.extra[name].max(axis=1)
            yield equal(block.line, f"{name} in a hang", highest, 0.0, 0.0)


def clocks_run(block: FleetBlock, _: History) -> Findings:
    """Every GPU that answers has a clock; links carry no less than nothing."""
    clock = block.extra.get("sm_clock_mhz")
    if clock is not None:
        silent = np.array([len(set(lost)) for lost in block.lost], dtype=np.float64)
        still = (clock <= 0).sum(axis=1).astype(np.float64)
        yield equal(block.line, "GPUs without a clock", still, silent, 0, "those that are lost")
    for name in ("nvlink_gbs", "ib_gbs"):
        if name in block.extra:
            yield within(block.line, name, block.extra[name].min(axis=1), 0.0, np.inf)


def signs_are_of_a_fault(block: FleetBlock, h: History) -> Findings:
    """A counter or mark is on a GPU because a fault put it there, and stays until a spare comes.

    Counters never go down.
    """
    if not h.begins_here or h.has_holes:
        return
    last = dict(h.signs_shown)
    for k, signs in enumerate(block.signs):
        line = int(block.line[k])
        for name, values in signs.items():
            for gpu, value in values.items():
                good = h.faults.has_sign(name, gpu)
                yield Stated(line, good, f"{name} at GPU {gpu}", "a fault that leaves it there")
                if name != "xid":
                    low = last.get((name, gpu), 1.0)
                    yield within(line, f"{name} of GPU {gpu}", value, low, np.inf, "no less")
                    last[name, gpu] = value


def _bounded(
    block: FleetBlock,
    what: str,
    values: F64,
    bounds: Callable[[int], tuple[float, float]],
    _: History,
) -> Findings:
    """The worst value of each sample within its bounds; GPUs that do not answer are left out."""
    gpus = values.shape[1]
    edges = [bounds(g) for g in range(gpus)] if bounds(0) != bounds(gpus - 1) else [bounds(0)]
    low = np.array([e[0] for e in edges])
    high = np.array([e[1] for e in edges])
    off = np.maximum(low - values, values - high)
    for k, lost in enumerate(block.lost):
        if lost:
            off[k, [g for g in lost if 0 <= g < gpus]] = -np.inf
    worst = off.argmax(axis=1)
    rows = np.arange(len(values))
    found = np.where(off.max(axis=1) > 0, values[rows, worst], np.nan)
    at = worst if len(low) > 1 else np.zeros_like(worst)
    broken = np.flatnonzero(~np.isnan(found))
    if not len(broken):
        yield within(block.line[:1], what, 0.0, 0.0, 0.0)  # looked at, and all is well
    for k in broken.tolist():
        yield within(
            int(block.line[k]),
            f"GPU {worst[k]}: {what}",
            float(found[k]),
            float(low[at[k]]),
            float(high[at[k]]),
        )


def busbw_follows_size_and_time(block: CollectiveBlock, _: History) -> Findings:
    """Bus bandwidth is size × factor / time (nccl-tests: 2(n-1)/n for all-reduce, else (n-1)/n)."""
    size, time, found = block["size_bytes"], block["duration_s"], block["busbw_gbs"]
    ranks = block["ranks"].value
    factor = np.array([_factor(op, n) for op, n in zip(block.op, ranks.tolist(), strict=True)])
    expected = size.value * factor / np.maximum(time.value, 1e-30) / GB
    slack = found.half + expected * (size.relative + time.relative)
    formula = "size × bus factor / time"
    yield equal(block.line, "bus bandwidth GB/s", found.value, expected, slack, formula)


def _factor(op: str, ranks: float) -> float:
    known: tuple[CollectiveOp, ...] = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")
    for name in known:
        if name == op and ranks >= 1:
            return bus_factor(name, int(ranks))
    return float("nan")


def busbw_is_physical(block: CollectiveBlock, _: History) -> Findings:
    """A collective takes time, and no bus is faster than any NVLink."""
    found = block["busbw_gbs"].value
    yield within(block.line, "bus bandwidth GB/s", found, 0.0, FASTEST_BUS_GBS)
    time = block["duration_s"]
    yield within(block.line, "collective's seconds", time.value + time.half, 1e-9, 3600.0)


def collective_matches_sharding(block: CollectiveBlock, h: History) -> Findings:
    """Gradients are all-reduced under DDP, reduce-scattered when optimizer or more is sharded.

    Where no ranks share gradients, the traffic is tensor-parallel: an all-reduce.
    """
    sharding, ranks = h.facts.sharding, _gradient_ranks(h)
    if sharding is None or ranks is None:
        return
    wanted = "all_reduce" if sharding == "ddp" or ranks == 1 else "reduce_scatter"
    for k, op in enumerate(block.op):
        line = int(block.line[k])
        yield Stated(line, op == wanted, f"{op} under {sharding}", wanted)


def collective_spans_its_ranks(block: CollectiveBlock, h: History) -> Findings:
    """The gradient collective spans DP × CP ranks, or TP where that is 1."""
    ranks, tensor = _gradient_ranks(h), h.facts.tensor_parallel
    if ranks is None or tensor is None:
        return
    expected = float(ranks) if ranks > 1 else tensor.value
    yield equal(block.line, "ranks", block["ranks"].value, expected, 0, "DP × CP, or TP")


def _gradient_ranks(h: History) -> int | None:
    data, context = h.facts.data_parallel, h.facts.context_parallel
    return None if data is None or context is None else int(data.value * context.value)


def collectives_keep_their_size(block: CollectiveBlock, h: History) -> Findings:
    """A layer's gradients are the same number of bytes at every step."""
    size = block["size_bytes"]
    first = h.collective or None
    value = first.value if first else float(size.value[0])
    half = first.half if first else float(size.half[0])
    yield equal(block.line, "message bytes", size.value, value, half + size.half, "as before")


def collectives_belong_to_their_step(block: CollectiveBlock, _: History) -> Findings:
    """A timing behind a step's row has that step's number and its end's time."""
    if "step" in block.columns:
        found = block["step"].value
        yield equal(block.line, "timing's step", found, block.row_step, 0, "the row before")
    if "time_s" in block.columns:
        time = block["time_s"]
        slack = 2 * time.half
        yield equal(block.line, "timing's time", time.value, block.row_time, slack, "its step's")


def collective_layers_exist(block: CollectiveBlock, h: History) -> Findings:
    """The layer is one of the model's."""
    if h.facts.layers is not None and "layer" in block.columns:
        top = h.facts.layers.value - 1
        yield within(block.line, "layer", block["layer"].value, 0, top)


FLEET_INVARIANTS = (
    samples_cover_all_gpus,
    samples_belong_to_their_step,
    gpu_utilisation_is_a_percentage,
    gpu_temperatures_are_survivable,
    gpu_power_keeps_its_limit,
    gpu_memory_fits_the_card,
    gpu_memory_follows_the_plan,
    gpu_memory_is_flat_while_training,
    grid_means_are_of_its_cells,
    lost_gpus_read_zero,
    lost_gpus_are_those_of_the_fault,
    activity_is_part_of_utilisation,
    nothing_is_computed_in_a_hang,
    clocks_run,
    signs_are_of_a_fault,
)
COLLECTIVE_INVARIANTS = (
    busbw_follows_size_and_time,
    busbw_is_physical,
    collective_matches_sharding,
    collective_spans_its_ranks,
    collectives_keep_their_size,
    collectives_belong_to_their_step,
    collective_layers_exist,
)
