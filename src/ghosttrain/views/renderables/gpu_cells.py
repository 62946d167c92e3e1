"""Full cells, one a GPU: `● 99% 61C 65/80G 612W`, or as much of it as the width allows.

Texts come from tables of fixed width: nothing moves when a digit comes or goes, and a thousand
GPUs cost a fraction of a millisecond.

Shapes: G = GPUs, N = nodes drawn, B = blocks (the cells of one node on one line).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ghosttrain.views.renderables.byte_cells import (
    Cells,
    Ints,
    number_cells,
    record,
    text_cells,
)
from ghosttrain.views.renderables.fleet_frame import (
    MEMORY_MAX,
    POWER_MAX,
    TEMP_MAX,
    UTIL_MAX,
    FleetFrame,
)
from ghosttrain.views.renderables.line import Line, Raw

if TYPE_CHECKING:
    from ghosttrain.core.spec import Gpu
    from ghosttrain.views.renderables.glyphs import Glyphs

HEALTH_SGR = ("\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[31m")  # by health
MARKS = ("*", "!", "X", "X")  # by health, without colour
DIM, RESET = "\x1b[2m", "\x1b[0m"
# The numbers of a healthy GPU keep the usual colour, those of another have that of its dot.
_NUMBERS_SGR = ("\x1b[39m", *HEALTH_SGR[1:])
_GAP = "  "  # between nodes on one line


@dataclass(frozen=True, slots=True)
class CellForm:
    """How cells are arranged.

    Attributes:
        total, power: Whether cells show the card's memory, and power.
        gpus_per_line: Cells of one node on one line.
        nodes_per_line: Nodes side by side (machines of fewer than 8 GPUs).
        label_width: Cells of "Node 12", or of "N12" where `long_label` is not set.
    """

    total: bool
    power: bool
    gpus_per_line: int
    nodes_per_line: int
    label_width: int
    long_label: bool


@lru_cache(maxsize=64)
def cell_form(
    gpu: Gpu, gpus_per_node: int, nodes: int, width: int, height: int, *, shown: int = 0
) -> CellForm | None:
    """The widest form of at most `width` by `height`, None where cells do not fit.

    `shown` is the number of nodes to draw where it is not all `nodes`.
    """
    shown = shown or nodes
    for lines in (1, 2, 4):
        per_line = -(-gpus_per_node // lines)
        if lines > 1 and per_line < 4:
            break
        side_by_side = max(1, 8 // gpus_per_node) if lines == 1 else 1
        for beside in range(min(side_by_side, shown), 0, -1):
            if -(-shown // beside) * lines <= height:
                form = _widest(gpu, nodes, width, per_line, beside, lines)
                if form is not None:
                    return form
    return None


def _widest(
    gpu: Gpu, nodes: int, width: int, gpus_per_line: int, nodes_per_line: int, lines: int
) -> CellForm | None:
    """The form with the most in a cell; a node on several lines shows the card's total first."""
    one_line = ((True, True), (False, True), (True, False), (False, False))
    for total, power in one_line if lines == 1 else one_line[::2] + one_line[3:]:
        cells = gpus_per_line * _cell_width(gpu, total=total, power=power)
        for long in (True, False):
            if not (long or total or lines == 1):
                break  # so little on so many lines: a line of glyphs says more
            label = len(str(nodes - 1)) + (5 if long else 1)
            if nodes_per_line * (label + cells + len(_GAP)) - len(_GAP) <= width:
                return CellForm(total, power, gpus_per_line, nodes_per_line, label, long)
    return None


def digits(gpu: Gpu) -> tuple[int, int, int]:
    """Digits of temperature, memory and power this card may need."""
    temp = 3 if gpu.shutdown_c >= 100 else 2
    return temp, len(f"{gpu.memory_gib:.0f}"), 4 if gpu.tdp_w >= 900 else 3


def _cell_width(gpu: Gpu, *, total: bool, power: bool) -> int:
    """Cells of ` ● 99% 61C 65/80G 612W`, the space in front counted."""
    temp, memory, watt = digits(gpu)
    return 2 + 4 + 2 + temp + 2 + memory + (1 + memory) * total + (2 + watt) * power


@lru_cache(maxsize=16)
def _tables(
    gpu: Gpu, glyphs: Glyphs, *, total: bool, power: bool, color: bool
) -> tuple[Cells, ...]:
    """Texts by health (two or three tables), utilisation, temperature, memory (and power)."""
    temp, memory, watt = digits(gpu)
    suffix = f"/{gpu.memory_gib:.0f}G" if total else "G"
    dots = (glyphs.dot, glyphs.dot, glyphs.dot, "X") if color else MARKS
    marks = tuple(
        f" {sgr}{dot}{after}" if color else f" {dot}"
        for sgr, dot, after in zip(HEALTH_SGR, dots, _NUMBERS_SGR, strict=True)
    )
    tables = (
        text_cells(*marks),
        number_cells(3, UTIL_MAX, suffix="%"),
        number_cells(temp, TEMP_MAX, prefix=" ", suffix="C"),
        number_cells(memory, MEMORY_MAX, prefix=" ", suffix=suffix),
    )
    return (*tables, number_cells(watt, POWER_MAX, prefix=" ", suffix="W")) if power else tables


@lru_cache(maxsize=8)
def node_labels(nodes: int, *, long: bool, color: bool) -> Cells:
    """Labels of nodes 0 ... `nodes - 1`, and blanks of the same width behind them."""
    width = len(str(nodes - 1))
    word = "Node " if long else "N"
    texts = [f"{word}{n:{width}}" for n in range(nodes)]
    texts.append(" " * len(texts[0]))
    return text_cells(*(f"{DIM}{t}{RESET}" if color else t for t in texts))


def cell_rows(
    frame: FleetFrame, nodes: Ints, form: CellForm, gpu: Gpu, glyphs: Glyphs, *, color: bool
) -> list[Line]:
    """The GPUs of `nodes` as rows of cells."""
    tables = _tables(gpu, glyphs, total=form.total, power=form.power, color=color)
    cells = _cells(frame, nodes, tables)
    lines = -(-frame.gpus_per_node // form.gpus_per_line)
    labels = node_labels(frame.nodes, long=form.long_label, color=color)
    label = np.full((nodes.size, lines), frame.nodes)
    label[:, 0] = nodes
    ends = text_cells((RESET if color else "") + _GAP)
    block = record(labels.dtype, cells.dtype, ends.dtype, times=(1, form.gpus_per_line, 1))
    rows = -(-label.size // form.nodes_per_line)
    blocks = np.zeros(rows * form.nodes_per_line, block)
    used = blocks[: label.size]
    used["0"] = labels.take(label.ravel())
    used["2"] = ends[0]
    padded = np.zeros((nodes.size, lines * form.gpus_per_line), cells.dtype)
    padded[:, : frame.gpus_per_node] = cells
    used["1"] = padded.reshape(used["1"].shape)
    return raw_rows(blocks.tobytes(), rows)


def _cells(frame: FleetFrame, nodes: Ints, tables: tuple[Cells, ...]) -> NDArray[np.void]:
    """The cells of the GPUs of `nodes`, shape (N, GPUs per node), zeros where there is no GPU."""
    gpus = nodes[:, None] * frame.gpus_per_node + np.arange(frame.gpus_per_node)
    health = frame.health.astype(np.intp)
    columns = (health, frame.util_pct, frame.temp_c, frame.memory_gib, frame.power_w)
    cells = np.zeros(gpus.shape, record(*(table.dtype for table in tables)))
    for i, (table, column) in enumerate(zip(tables, columns, strict=False)):
        value: Ints = column.take(gpus, mode="clip")
        cells[str(i)] = table.take(value, mode="clip")
    whole = cells.view(f"V{cells.itemsize}")  # copied in one piece, not field by field
    if gpus.max() >= frame.gpus:
        whole[gpus >= frame.gpus] = np.zeros((), whole.dtype)
    return whole


def raw_rows(data: bytes, rows: int) -> list[Line]:
    """`rows` rows of equal length in `data`; NULs and blanks at the end are nothing."""
    size = len(data) // rows
    out: list[Line] = []
    cells = None  # of a row without NULs: they are all alike
    for start in range(0, len(data), size):
        row = data[start : start + size]
        if b"\0" in row:
            out.append(Raw(row.replace(b"\0", b"").rstrip(b" ").decode()))
        else:
            line = Raw(row.rstrip(b" ").decode(), cells)
            cells = line.cells
            out.append(line)
    return out
