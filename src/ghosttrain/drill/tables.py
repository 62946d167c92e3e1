"""What the commands of a drill show: pure functions of readings and a width.

Shapes: S = steps, G = GPUs, N = nodes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import FleetSamples, StepsCompleted
from ghosttrain.core.spec import Gpu, RunSpec
from ghosttrain.drill.readings import COLUMNS, COUNTERS, Telemetry, robust_z
from ghosttrain.views.renderables.fleet_frame import FleetFrame
from ghosttrain.views.renderables.glyphs import Glyphs
from ghosttrain.views.renderables.gpu_cells import cell_form, cell_rows
from ghosttrain.views.renderables.gpu_grid import gpu_grid, grid_heading
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.node_rows import node_rows
from ghosttrain.views.renderables.numbers import duration

F64 = NDArray[np.float64]

STANDS_OUT = 4.0  # robust deviations; of 64 normal values one in 250 sets has such a one
CLEARLY = 8.0
_FOLD_INDENT = 4
_READABLE = 100  # cells of a row of prose
_MOST_NODES = 16
_MOST_A_COLUMN = 4  # rows of those that stand out in it
_MOST_COUNTERS = 8
_NARROWEST_SPARK, _WIDEST_SPARK = 8, 60
_NOW_STEPS = 20  # whose mean is "now"
_COMPARED = ("power", "temp", "clock", "tensor")

# Name, column of StepsCompleted, factor, format, and whether a peak is what matters.
_METRICS = (
    ("step time s", "step_time_s", 1.0, ",.3f", True),
    ("tokens/s", "tokens_per_s", 1.0, ",.0f", False),
    ("MFU %", "mfu", 100.0, ".1f", False),
    ("loss", "loss", 1.0, ".4f", True),
    ("grad norm", "grad_norm", 1.0, ".3f", True),
)


@dataclass(frozen=True, slots=True)
class Look:
    """How wide, and in what glyphs."""

    width: int
    height: int
    glyphs: Glyphs
    color: bool


def wrapped(text: str, width: int, *, indent: str = "") -> Iterator[Line]:
    """Text in as many rows as it takes; none longer than is pleasant to read."""
    for row in textwrap.wrap(
        text,
        max(20, min(width, _READABLE)),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ):
        yield Line.of(row)


def folded(line: Line, width: int) -> list[Line]:
    """The line in as many rows as it takes: of a message the end may say most."""
    if len(line) <= width:
        return [line]
    first, *rest = textwrap.wrap(
        line.text,
        max(20, width),
        subsequent_indent=" " * _FOLD_INDENT,
        break_on_hyphens=False,
    )
    return [line.fit(len(first), ellipsis=""), *map(Line.of, rest)]


def metrics_table(
    first: StepsCompleted | None, stretch: StepsCompleted | None, look: Look
) -> list[Line]:
    """Each metric at first and now, and how it went in the stretch."""
    if stretch is None:
        return [Line.of("No step ended in this stretch.")]
    low, high = int(stretch.step[0]), int(stretch.step[-1])
    room = look.width - 54
    cells = min(_WIDEST_SPARK, room) if room >= _NARROWEST_SPARK else 0
    span = f"steps {low:,} to {high:,}" if cells else ""
    lines = [
        Line.of((f"{'':12} {'at first':>12} {'now':>12} {'change':>10}   {span}".rstrip(), "dim"))
    ]
    for name, column, factor, form, peaks in _METRICS:
        values = factor * getattr(stretch, column)
        now = float(np.mean(values[-_NOW_STEPS:]))
        before = math.nan if first is None else factor * float(np.mean(getattr(first, column)))
        change = f"{100 * (now / before - 1):+.1f} %" if before and math.isfinite(before) else "-"
        spark = sparkline(values, cells, look.glyphs, peaks=peaks) if cells else ""
        texts = f"{_number(before, form):>12} {_number(now, form):>12} {change:>10}   "
        lines.append(Line.of((f"{name:12} ", ""), texts, (spark, "cyan")))
    return lines


def sparkline(values: F64, cells: int, glyphs: Glyphs, *, peaks: bool) -> str:
    """The values in so many cells: of each part the largest, or the smallest; `!` for no number.

    Differences below 2 % of the values are drawn small: noise shall not look like news.
    """
    parts = np.array_split(values, min(cells, len(values)))
    shown = np.array([np.max(part) if peaks else np.min(part) for part in parts])
    known = shown[np.isfinite(shown)]
    if not known.size:
        return "!" * len(shown)
    low = float(known.min())
    height = max(float(known.max()) - low, 0.02 * abs(low), 1e-12)
    levels = len(glyphs.ramp)
    marks = np.minimum(levels - 1, (levels * (np.nan_to_num(shown) - low) / height).astype(int))
    pairs = zip(shown.tolist(), marks.tolist(), strict=True)
    return "".join(glyphs.ramp[max(0, m)] if math.isfinite(v) else "!" for v, m in pairs)


def stalled_line(step: int, ended_s: float, now_s: float, step_s: float) -> list[Line]:
    """How long the last step is ago, where that is longer than steps take."""
    if now_s - ended_s < 3 * step_s:
        return []
    text = f"No step has ended since step {step:,}, {duration(now_s - ended_s)} ago."
    return [Line.of((text, "yellow"))]


def grid_lines(samples: FleetSamples, spec: RunSpec, look: Look, node: int | None) -> list[Line]:
    """The GPU grid at a moment, of all nodes or of one."""
    per_node = spec.cluster.gpus_per_node
    if node is None:
        return gpu_grid(
            samples,
            k=0,
            gpu=spec.gpu,
            gpus_per_node=per_node,
            width=look.width,
            height=look.height,
            glyphs=look.glyphs,
            color=look.color,
        )
    frame = FleetFrame.of(samples, k=0, gpu=spec.gpu, gpus_per_node=per_node)
    form = cell_form(spec.gpu, per_node, frame.nodes, look.width, look.height, shown=1)
    nodes = np.array([node])
    head = grid_heading(frame, spec.gpu, look.width, look.glyphs)
    if form is None:
        rows = node_rows(frame, nodes, spec.gpu, look.width, look.glyphs, color=look.color)
    else:
        rows = cell_rows(frame, nodes, form, spec.gpu, look.glyphs, color=look.color)
    return [head, *rows]


def gpu_table(
    gpu: int,
    now: Telemetry,
    stretch: Telemetry,
    usual: Telemetry | None,
    *,
    place: str,
    width: int,
) -> list[Line]:
    """All signals of one GPU beside those of the others."""
    lines = [
        Line.of((f"gpu {gpu}", "bold cyan"), f"  {place}"),
        Line.of(
            (
                f"{'':16} {'now':>9} {'mean':>9} {'fleet':>9} {'z':>7} {'at first':>9}",
                "dim",
            )
        ),
    ]
    for name, (title, unit, form) in COLUMNS.items():
        mean = stretch.columns[name]
        z = float(robust_z(mean)[gpu])
        first = math.nan if usual is None else float(usual.columns[name][gpu])
        known = mean[np.isfinite(mean)]
        fleet = float(np.median(known)) if known.size else math.nan
        cells = [_number(v, form) for v in (float(now.columns[name][gpu]), float(mean[gpu]), fleet)]
        head = f"{title + ' ' + unit:16} " + " ".join(f"{cell:>9}" for cell in cells)
        z_cell = (f" {_number(z, '+.1f'):>7}", _z_style(z))
        lines.append(Line.of(head, z_cell, f" {_number(first, form):>9}"))
    counts = {name: value for name, index, value in now.counters if index == gpu}
    texts = [f"{title} {counts.get(name, 0) or '-'}" for name, title in COUNTERS.items()]
    return [*lines, *wrapped(", ".join(texts), width)]


def compare_table(
    stretch: Telemetry, usual: Telemetry | None, spec: RunSpec, look: Look
) -> list[Line]:
    """Means of each node against the others, then GPUs that stand out, then counters."""
    per_node, nodes = spec.cluster.gpus_per_node, spec.cluster.nodes
    starts = np.arange(0, spec.cluster.gpus, per_node)
    means = {name: _by_node(stretch.columns[name], starts) for name in _COMPARED}
    z = {name: robust_z(values) for name, values in means.items()}
    heads = " ".join(
        f"{COLUMNS[name][0] + ' ' + COLUMNS[name][1]:>15} {'z':>5}"
        for name in _COMPARED[: _fit(look)]
    )
    lines = [Line.of((f"{'':8} {heads}", "dim"))]
    order = list(range(nodes))
    if nodes > _MOST_NODES:
        worst = np.max([np.nan_to_num(np.abs(v), nan=np.inf) for v in z.values()], axis=0)
        order = sorted(np.argsort(-worst, kind="stable")[:_MOST_NODES].tolist())
    for node in order:
        pieces: list[str | tuple[str, str]] = [f"{f'node {node}':8}"]
        for name in _COMPARED[: _fit(look)]:
            value, score = float(means[name][node]), float(z[name][node])
            pieces.append(f" {_number(value, COLUMNS[name][2]):>15}")
            pieces.append((f" {_number(score, '+.1f'):>5}", _z_style(score)))
        lines.append(Line.of(*pieces))
    if nodes > _MOST_NODES:
        lines.append(Line.of((f"and {nodes - _MOST_NODES:,} nodes that stand out less", "dim")))
    return [*lines, *_outliers(stretch, usual, per_node), *_counter_lines(stretch)]


def _fit(look: Look) -> int:
    """How many of the compared columns there is room for."""
    return max(1, min(len(_COMPARED), (look.width - 9) // 22))


def _by_node(values: F64, starts: NDArray[np.intp]) -> F64:
    """Mean of each node's GPUs that answer, shape (N,); NaN where none does."""
    there = np.isfinite(values)
    total = np.add.reduceat(np.where(there, values, 0.0), starts)
    count = np.add.reduceat(there.astype(np.float64), starts)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _outliers(stretch: Telemetry, usual: Telemetry | None, per_node: int) -> list[Line]:
    """Nodes and GPUs whose means have moved otherwise than the others' since the run's start."""
    gone = stretch.lost
    lines = [Line.of((f"gpu {g} (node {g // per_node}): does not answer", "red")) for g in gone[:8]]
    if len(gone) > 8:
        lines.append(Line.of((f"and {len(gone) - 8:,} more that do not answer", "red")))
    found = [
        row
        for name in _COMPARED
        for row in _column_outliers(name, stretch.columns[name], usual, per_node)
    ]
    if found:
        against = "the others" if usual is None else "the others, since the start"
        lines.append(Line.of((f"Otherwise than {against}:", "dim")))
    return [*lines, *found] or [Line.of(("No GPU stands out.", "dim"))]


def _column_outliers(
    name: str, values: F64, usual: Telemetry | None, per_node: int
) -> Iterator[Line]:
    """Rows of those that stand out in a column, the worst first."""
    title, unit, form = COLUMNS[name]
    moved = values if usual is None else values - usual.columns[name]
    z = np.nan_to_num(_moved_z(moved, values))
    middle = float(np.nanmedian(moved)) if np.isfinite(moved).any() else 0.0
    found: list[tuple[float, str, NDArray[np.intp]]] = []
    for first in range(0, len(values), per_node):
        gpus = np.arange(first, min(first + per_node, len(values)))
        for sign in (1, -1):
            out = gpus[sign * z[gpus] >= STANDS_OUT]
            if len(gpus) > 1 and 2 * len(out) > len(gpus):  # a matter of the node
                found.append((float(np.median(z[gpus])), f"node {first // per_node}", gpus))
            else:
                found += [(float(z[g]), f"gpu {g} (node {g // per_node})", g[None]) for g in out]
    found.sort(key=lambda row: -abs(row[0]))
    for score, who, gpus in found[:_MOST_A_COLUMN]:
        value, more = float(np.nanmean(values[gpus])), float(np.nanmean(moved[gpus])) - middle
        text = f"{title} {value:{form}} {unit}, {more:+{form}} {unit}"
        yield Line.of((f"  {who:15}  z {score:+6.1f}", _z_style(score)), f"  {text}")
    if (more_rows := len(found) - _MOST_A_COLUMN) > 0:
        yield Line.of((f"  and {more_rows:,} more in {title}", "dim"))


def _moved_z(moved: F64, values: F64) -> F64:
    """Robust deviations of what has moved; half a percent of the values is no news."""
    known = moved[np.isfinite(moved)]
    if not known.size:
        return np.full_like(moved, np.nan)
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle)))
    scale = abs(float(np.nanmedian(values)))
    return np.asarray((moved - middle) / max(spread, 1.25e-3 * scale, 1e-9))


def _counter_lines(stretch: Telemetry) -> list[Line]:
    """Counters and marks above 0."""
    return [
        Line.of((f"gpu {gpu}", "yellow"), f": {COUNTERS[name]} {value:,}")
        for name, gpu, value in stretch.counters[:_MOST_COUNTERS]
    ]


def describe_gpu(gpu: int, spec: RunSpec, host: str) -> str:
    """`node 2, gpu-0002, H100 80GB HBM3`."""
    return f"node {gpu // spec.cluster.gpus_per_node}, {host}, {_product(spec.gpu)}"


def _product(gpu: Gpu) -> str:
    return gpu.product_name.removeprefix("NVIDIA ")


def _z_style(z: float) -> str:
    if not math.isfinite(z) or abs(z) < STANDS_OUT:
        return "dim"
    return "red" if abs(z) >= CLEARLY else "yellow"


def _number(value: float, form: str) -> str:
    """The value, `-` where there is none, `nan` and `inf` never."""
    return format(value, form) if math.isfinite(value) else "-"
