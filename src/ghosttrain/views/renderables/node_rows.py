"""A line a node: `N0 ▇▇▇▆▇▇▇▇  99%  63C  65/80G  611W`, a glyph a GPU and the node's mean.

A glyph's height is power as a share of the card's limit, its colour health.

Shapes: N = nodes drawn, G = GPUs to a node.
"""

from __future__ import annotations

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
    LOST,
    MEMORY_MAX,
    OK,
    POWER_MAX,
    TEMP_MAX,
    UTIL_MAX,
    FleetFrame,
)
from ghosttrain.views.renderables.gpu_cells import (
    HEALTH_SGR,
    MARKS,
    RESET,
    digits,
    node_labels,
    raw_rows,
)
from ghosttrain.views.renderables.line import Line

if TYPE_CHECKING:
    from ghosttrain.core.spec import Gpu
    from ghosttrain.views.renderables.glyphs import Glyphs


def power_level(power_w: NDArray[np.intp], tdp_w: float, levels: int) -> Ints:
    """Height of a glyph: power as a share of the limit, to the nearest of `levels`, any shape."""
    level = (power_w * ((levels - 1) / tdp_w) + 0.5).astype(np.intp)
    return np.clip(level, 0, levels - 1, out=level)


def node_rows(
    frame: FleetFrame, nodes: Ints, gpu: Gpu, width: int, glyphs: Glyphs, *, color: bool
) -> list[Line]:
    """One line for each of `nodes`, cut to the means that fit."""
    gpus = nodes[:, None] * frame.gpus_per_node + np.arange(frame.gpus_per_node)
    here = gpus < frame.gpus
    health = frame.health.take(gpus, mode="clip")
    power = frame.power_w.take(gpus, mode="clip")
    levels = len(glyphs.ramp)
    table = _glyph_table(glyphs, color=color)
    glyph = table.take(health.astype(np.intp) * levels + power_level(power, gpu.tdp_w, levels))
    glyph[~here] = b" "
    labels = node_labels(frame.nodes, long=False, color=color)
    room = width - len(str(frame.nodes - 1)) - 2 - frame.gpus_per_node
    means = _means(frame, gpus, here & (health != LOST), _mean_tables(gpu, room))
    parts = [labels.take(nodes), text_cells(" "), glyph, text_cells(RESET if color else ""), *means]
    times = (1, 1, frame.gpus_per_node, 1, *(1 for _ in means))
    rows = np.zeros(nodes.size, record(*(part.dtype for part in parts), times=times))
    for i, part in enumerate(parts):
        field = rows[str(i)]
        field[...] = part.reshape(field.shape) if part.size == field.size else part
    lines = raw_rows(rows.tobytes(), nodes.size)
    return [line.fit(width, ellipsis=glyphs.ellipsis) for line in lines]


@lru_cache(maxsize=8)
def _glyph_table(glyphs: Glyphs, *, color: bool) -> Cells:
    """Glyphs by health and level."""
    texts = []
    for health, sgr in enumerate(HEALTH_SGR):
        for glyph in glyphs.ramp:
            if color:
                texts.append(sgr + ("X" if health == LOST else glyph))
            else:
                texts.append(glyph if health == OK else MARKS[health])
    return text_cells(*texts)


@lru_cache(maxsize=32)
def _mean_tables(gpu: Gpu, room: int) -> tuple[Cells, ...]:
    """Texts of the means that fit in `room` cells, two spaces apart if possible."""
    temp, memory, watt = digits(gpu)
    total = f"/{gpu.memory_gib:.0f}G"
    for count, gap in ((4, "  "), (4, " "), (3, " "), (2, " "), (1, " ")):
        tables = (
            number_cells(3, UTIL_MAX, prefix=gap, suffix="%"),
            number_cells(temp, TEMP_MAX, prefix=gap, suffix="C"),
            number_cells(memory, MEMORY_MAX, prefix=gap, suffix=total),
            number_cells(watt, POWER_MAX, prefix=gap, suffix="W"),
        )[:count]
        if sum(table.dtype.itemsize for table in tables) <= room:
            return tables
    return ()


def _means(
    frame: FleetFrame, gpus: Ints, alive: NDArray[np.bool_], tables: tuple[Cells, ...]
) -> list[Cells]:
    """Texts of the means over GPUs that answer, each of shape (N,)."""
    columns = (frame.util_pct, frame.temp_c, frame.memory_gib, frame.power_w)
    count = alive.sum(axis=1)
    out = []
    for column, table in zip(columns, tables, strict=False):
        total = np.where(alive, column.take(gpus, mode="clip"), 0).sum(axis=1)
        mean = np.rint(total / np.maximum(count, 1)).astype(np.intp)
        mean[count == 0] = len(table) - 1
        out.append(table.take(mean))
    return out
