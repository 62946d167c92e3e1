"""Heat map of a fleet: a cell a GPU, ruled by node; half blocks, then means, where it is large.

Colour is temperature, from cool to the card's slow-down temperature; height, where a GPU has a
cell of its own, is power as a share of the card's limit.

Shapes: G = GPUs, N = nodes, R = rows, C = columns of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.views.renderables.byte_cells import Ints
from ghosttrain.views.renderables.fleet_frame import (
    BAD_BELOW_SLOWDOWN_C,
    LOST,
    TEMP_MAX,
    WARM_BELOW_SLOWDOWN_C,
    FleetFrame,
)
from ghosttrain.views.renderables.line import Line, Raw
from ghosttrain.views.renderables.node_rows import power_level

if TYPE_CHECKING:
    from ghosttrain.core.spec import Gpu
    from ghosttrain.views.renderables.glyphs import Glyphs

# Shades of the 256-colour palette: cool to well, then the yellow and red of health, then lost.
_COOL = (25, 31, 37, 36, 35, 34, 40, 76, 112)
_COLORS = (*_COOL, 220, 214, 196, 201)
_SHADE_C = 4  # degrees a cool shade spans
_WARM_1, _WARM_2, _BAD, _LOST, _BLANK = range(len(_COOL), len(_COOL) + 5)
_STYLES = _BLANK + 1
_DIM, _RESET = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class MapForm:
    """How units (GPUs, or groups of nodes) are arranged.

    Attributes:
        half_blocks: Whether a cell holds two units, one above the other.
        columns: Cells of one group (a node, or a run of nodes).
        gap: Blank cells between groups.
        groups_per_line: Groups side by side.
        label_width: Cells of the label of a line, 0 for none.
    """

    half_blocks: bool
    columns: int
    gap: int
    groups_per_line: int
    label_width: int


def heat_map(
    frame: FleetFrame, gpu: Gpu, width: int, height: int, glyphs: Glyphs, *, color: bool
) -> list[Line]:
    """Heading and map of all GPUs, at most `width` cells by `height` lines."""
    if height < 2:
        return []
    halves = color and bool(glyphs.half_block)
    style, level = _units(frame, gpu, glyphs)
    group, step = frame.gpus_per_node, 1
    form = _map_form(frame.nodes, group, width, height - 1, frame.nodes, halves=halves)
    nodes_per_cell = 0
    while form is None:
        nodes_per_cell = max(1, 2 * nodes_per_cell)
        style, level = _merged(frame, gpu, glyphs, nodes_per_cell)
        group, step = min(16, style.size), 16 * nodes_per_cell
        groups = -(-style.size // group)
        form = _map_form(groups, group, width, height - 1, frame.nodes, halves=halves)
    heading = _heading(gpu, form, nodes_per_cell, width, glyphs, color=color)
    return [heading, *_rows(style, level, group, step, form, glyphs, color=color)]


# ------------------------------------------------------------------------------ arrangement


@lru_cache(maxsize=64)
def _map_form(
    groups: int, group: int, width: int, height: int, nodes: int, *, halves: bool
) -> MapForm | None:
    """The roomiest form that fits: a cell a unit, then half blocks; ruled, then not."""
    label = len(str(nodes - 1)) + 2
    half = -(-group // 2)
    options = [(False, group, 1, label), (True, half, 1, label), (False, group, 0, label)]
    options += [(True, half, 0, label), (False, group, 0, 0), (True, half, 0, 0)]
    for half_blocks, columns, gap, label_width in options:
        if half_blocks and (not halves or group == 1):
            continue
        beside = min(groups, (width - label_width + gap) // (columns + gap))
        if beside < 1 or -(-groups // beside) > height:
            continue
        for round_to in (8, 4, 2):  # lines that start at a round node are read more easily
            rounded = beside // round_to * round_to
            if rounded and rounded * 8 >= beside * 7 and -(-groups // rounded) <= height:
                beside = rounded
                break
        return MapForm(half_blocks, columns, gap, beside, label_width)
    return None


# ----------------------------------------------------------------------------------- values


@lru_cache(maxsize=8)
def _shades(slowdown_c: float) -> Ints:
    """Style by whole degrees and, last, of the lost; shape (TEMP_MAX + 2,)."""
    temp = np.arange(TEMP_MAX + 2)
    warm_c, bad_c = slowdown_c - WARM_BELOW_SLOWDOWN_C, slowdown_c - BAD_BELOW_SLOWDOWN_C
    cool = len(_COOL) + np.floor((temp - warm_c) / _SHADE_C)
    style: Ints = np.clip(cool, 0, len(_COOL) - 1).astype(np.intp)
    style[temp >= warm_c] = _WARM_1
    style[temp >= (warm_c + bad_c) / 2] = _WARM_2
    style[temp >= bad_c] = _BAD
    style[-1] = _LOST
    return style


def _units(frame: FleetFrame, gpu: Gpu, glyphs: Glyphs) -> tuple[Ints, Ints]:
    """Style and power level of each GPU, padded with blanks to whole nodes."""
    style = _shades(gpu.slowdown_c).take(frame.temp_c)
    level = power_level(frame.power_w, gpu.tdp_w, len(glyphs.ramp))
    missing = frame.nodes * frame.gpus_per_node - frame.gpus
    return _padded(style, missing, _BLANK), _padded(level, missing, 0)


def _padded(values: Ints, missing: int, fill: int) -> Ints:
    return np.concatenate((values, np.full(missing, fill))) if missing else values


def _merged(frame: FleetFrame, gpu: Gpu, glyphs: Glyphs, nodes_per_cell: int) -> tuple[Ints, Ints]:
    """Style and power level of runs of nodes: means, but one bad or lost GPU marks its run."""
    starts = np.arange(0, frame.gpus, frame.gpus_per_node * nodes_per_cell)
    alive = frame.health != LOST
    count = np.maximum(np.add.reduceat(alive.astype(np.intp), starts), 1)
    temp = np.add.reduceat(np.where(alive, frame.temp_c, 0), starts) // count
    power = np.add.reduceat(np.where(alive, frame.power_w, 0), starts) // count
    shades = _shades(gpu.slowdown_c)
    worst = np.maximum.reduceat(shades.take(frame.temp_c), starts)
    style = np.where(worst >= _BAD, worst, shades.take(temp))
    missing = -style.size % 16 if style.size > 16 else 0
    level = power_level(power, gpu.tdp_w, len(glyphs.ramp))
    return _padded(style, missing, _BLANK), _padded(level, missing, 0)


# ------------------------------------------------------------------------------------- rows


def _rows(
    style: Ints, level: Ints, group: int, step: int, form: MapForm, glyphs: Glyphs, *, color: bool
) -> list[Line]:
    groups = style.size // group
    missing = -groups % form.groups_per_line
    style = _padded(style, missing * group, _BLANK)
    if form.half_blocks:
        texts, index = _half_blocks(style, group, form, glyphs)
    else:
        level = _padded(level, missing * group, 0)
        texts, index = _full_cells(style, level, form, glyphs, color=color)
    return _joined(texts, index, step, form, color=color)


def _ruled(values: Ints, form: MapForm, blank: int) -> Ints:
    """Groups of cells as the lines of the map, with the gaps: shape (R, C)."""
    values = values.reshape(-1, form.columns)
    if form.gap:
        edge = np.full((values.shape[0], form.gap), blank)
        values = np.concatenate((values, edge), axis=1)
    return values.reshape(-1, form.groups_per_line * (form.columns + form.gap))


def _full_cells(
    style: Ints, level: Ints, form: MapForm, glyphs: Glyphs, *, color: bool
) -> tuple[tuple[str, ...], Ints]:
    levels = len(glyphs.ramp)
    code = style * levels + level
    texts = _full_cell_texts(glyphs, color=color)
    return texts, _repeats(_ruled(code, form, _BLANK * levels), levels, _STYLES)


def _half_blocks(
    style: Ints, group: int, form: MapForm, glyphs: Glyphs
) -> tuple[tuple[str, ...], Ints]:
    pairs = style.reshape(-1, group)
    if group % 2:
        pairs = np.concatenate((pairs, np.full((pairs.shape[0], 1), _BLANK)), axis=1)
    code = pairs[:, : form.columns] * _STYLES + pairs[:, form.columns :]
    lines = _ruled(code, form, _BLANK * _STYLES + _BLANK)
    return _half_block_texts(glyphs), _repeats(lines, 1, _STYLES * _STYLES)


def _repeats(code: Ints, levels: int, styles: int) -> Ints:
    """`code`, raised by the number of codes where a cell's style is that of the cell before."""
    style = code // levels if levels > 1 else code
    same = np.zeros(code.shape, np.bool_)
    np.equal(style[:, 1:], style[:, :-1], out=same[:, 1:])
    return code + same * (styles * levels)


@lru_cache(maxsize=8)
def _full_cell_texts(glyphs: Glyphs, *, color: bool) -> tuple[str, ...]:
    """By style and level: with the style's sequence, then again without it."""
    first, again = [], []
    for style in range(_STYLES):
        for glyph in glyphs.ramp:
            text = _glyph(style, glyph, color=color)
            first.append(_sgr(style) + text if color else text)
            again.append(text)
    return (*first, *again)


def _glyph(style: int, glyph: str, *, color: bool) -> str:
    if style == _BLANK:
        return " "
    if style == _LOST or (style == _BAD and not color):
        return "X"
    return "!" if style in (_WARM_1, _WARM_2) and not color else glyph


def _sgr(style: int) -> str:
    return _RESET if style == _BLANK else f"\x1b[38;5;{_COLORS[style]}m"


@lru_cache(maxsize=4)
def _half_block_texts(glyphs: Glyphs) -> tuple[str, ...]:
    """By upper and lower style: with the sequence of the pair, then again without it."""
    first, again = [], []
    for upper in range(_STYLES):
        for lower in range(_STYLES):
            glyph = " " if upper == _BLANK else glyphs.half_block
            back = "49" if lower == _BLANK else f"48;5;{_COLORS[lower]}"
            front = "39" if upper == _BLANK else f"38;5;{_COLORS[upper]}"
            first.append(_RESET + glyph if upper == _BLANK else f"\x1b[{front};{back}m{glyph}")
            again.append(glyph)
    return (*first, *again)


def _joined(
    texts: tuple[str, ...], index: Ints, step: int, form: MapForm, *, color: bool
) -> list[Line]:
    """The lines: label and cells, joined from ready texts."""
    out: list[Line] = []
    dim, reset = (_DIM, _RESET) if color else ("", "")
    columns = index.shape[1] - form.gap
    for row, codes in enumerate(index[:, :columns].tolist()):
        first = f"N{row * form.groups_per_line * step}"
        label = f"{dim}{first:<{form.label_width}}{reset}" if form.label_width else ""
        body = "".join([texts[code] for code in codes])
        out.append(Raw(f"{label}{body}{reset}", form.label_width + columns))
    last = out[-1].ansi(color=True).removesuffix(reset).rstrip(" ")  # its groups may be fewer
    return [*out[:-1], Raw(last + reset)]


# ---------------------------------------------------------------------------------- heading


def _heading(
    gpu: Gpu, form: MapForm, nodes_per_cell: int, width: int, glyphs: Glyphs, *, color: bool
) -> Line:
    """What a cell is, and what colour and height mean, as much as fits."""
    dot = (f" {glyphs.separator} ", "dim")
    unit = ("GPU", "node")[nodes_per_cell] if nodes_per_cell < 2 else f"{nodes_per_cell} nodes"
    title = [("Heat map", "bold cyan"), dot, (f"a cell: {unit}", "dim")]
    height = [] if form.half_blocks else [dot, (f"height: power, full at {gpu.tdp_w:.0f}W", "dim")]
    legend = _color_legend(gpu, form, glyphs, dot) if color else _mark_legend(gpu, dot)
    for pieces in ([*title, *legend, *height], [*title, *legend], [title[0], *legend], title):
        line = Line(tuple(pieces))
        if len(line) <= width:
            return line
    return line.fit(width, ellipsis=glyphs.ellipsis)


def _color_legend(
    gpu: Gpu, form: MapForm, glyphs: Glyphs, dot: tuple[str, str]
) -> list[tuple[str, str]]:
    cool_c = gpu.slowdown_c - WARM_BELOW_SLOWDOWN_C - _SHADE_C * (len(_COOL) - 1)
    block = glyphs.ramp[-1]
    scale = [(block, f"38;5;{shade}") for shade in _COLORS[:_LOST]]
    lost = (block if form.half_blocks else "X", f"38;5;{_COLORS[_LOST]}")
    hot = (f" {gpu.slowdown_c:.0f}C", "dim")
    return [dot, (f"{cool_c:.0f}C ", "dim"), *scale, hot, dot, lost, (" lost", "dim")]


def _mark_legend(gpu: Gpu, dot: tuple[str, str]) -> list[tuple[str, str]]:
    warm_c = gpu.slowdown_c - WARM_BELOW_SLOWDOWN_C
    bad_c = gpu.slowdown_c - BAD_BELOW_SLOWDOWN_C
    return [dot, (f"! from {warm_c:.0f}C", "dim"), dot, (f"X from {bad_c:.0f}C or lost", "dim")]
