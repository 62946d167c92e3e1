"""The GPU status grid, in the widest form that fits.

Full cells where there is room (`● 99% 61C 65/80G 612W`), else a row of glyphs a node, and where
even the nodes are more than the lines: those worth a look over a heat map of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.views.renderables.fleet_frame import BAD, LOST, WARM, FleetFrame, gpu_label
from ghosttrain.views.renderables.gpu_cells import cell_form, cell_rows
from ghosttrain.views.renderables.heat_map import heat_map
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.node_rows import node_rows

if TYPE_CHECKING:
    from ghosttrain.core.events import FleetSamples
    from ghosttrain.core.spec import Gpu
    from ghosttrain.views.renderables.glyphs import Glyphs

Pieces = list[tuple[str, str]]

_MAP_LINES_MIN = 4  # its heading and three rows, before nodes are shown in full above it


def gpu_grid(
    samples: FleetSamples,
    *,
    k: int,
    gpu: Gpu,
    gpus_per_node: int,
    width: int,
    height: int,
    glyphs: Glyphs,
    color: bool,
) -> list[Line]:
    """Heading and grid of sample `k`, at most `width` cells by `height` lines."""
    if height <= 0 or width <= 0:
        return []
    frame = FleetFrame.of(samples, k=k, gpu=gpu, gpus_per_node=gpus_per_node)
    heading = grid_heading(frame, gpu, width, glyphs)
    form = cell_form(gpu, gpus_per_node, frame.nodes, width, height - 1)
    if form is not None:
        body = cell_rows(frame, np.arange(frame.nodes), form, gpu, glyphs, color=color)
    elif frame.nodes < height:
        body = node_rows(frame, np.arange(frame.nodes), gpu, width, glyphs, color=color)
    else:
        body = _overview(frame, gpu, width, height - 1, glyphs, color=color)
    return [heading, *body]


def grid_heading(frame: FleetFrame, gpu: Gpu, width: int, glyphs: Glyphs) -> Line:
    """What is common to all GPUs and how many are not well, less of it where `width` is small."""
    util, temp, memory, power = frame.mean
    dot = (f" {glyphs.separator} ", "dim")
    title = [("GPU status", "bold cyan"), dot]
    count = (f"{frame.gpus:,} {glyphs.times} {gpu_label(gpu)}", "")
    step = [dot, (f"step {frame.step}", "")]
    values = f"{util:2.0f}% {temp:2.0f}C {power:3.0f}W"
    mean = [dot, ("mean", "dim"), (f" {values}, {memory:.1f}/{gpu.memory_gib:.1f} GiB", "")]
    short = (f"{values} {memory:.1f}/{gpu.memory_gib:.1f}G", "")
    trouble = _trouble(frame, dot)
    worst = trouble[:2]
    for pieces in (
        [*title, count, *step, *mean, *trouble],
        [*title, count, *step, *mean, *worst],
        [count, *step, *mean, *worst],
        [count, *step, dot, short, *worst],
        [count, dot, short, *worst],
        [short, *worst],
        [short],
    ):
        line = Line(tuple(pieces))
        if len(line) <= width:
            return line
    return line.fit(width, ellipsis=glyphs.ellipsis)


def _trouble(frame: FleetFrame, dot: tuple[str, str]) -> Pieces:
    """Counts of GPUs that are not well, the worst first, each behind a separator."""
    if not frame.health.any():
        return []
    counts = np.bincount(frame.health, minlength=4).tolist()
    named = ((LOST, "lost", "bold red"), (BAD, "critical", "red"), (WARM, "warm", "yellow"))
    found = [
        (f"{counts[health]:,} {word}", style) for health, word, style in named if counts[health]
    ]
    return [piece for entry in found for piece in (dot, entry)]


def _overview(
    frame: FleetFrame, gpu: Gpu, width: int, height: int, glyphs: Glyphs, *, color: bool
) -> list[Line]:
    """The nodes worth a look in full, as many as leave room for a heat map of all."""
    worth = _worth_a_look(frame)
    for shown in range(len(worth), 0, -1):
        nodes = np.array([node for _, node, _ in worth[:shown]])
        room = height - 1 - _MAP_LINES_MIN
        form = cell_form(gpu, frame.gpus_per_node, frame.nodes, width, room, shown=shown)
        if form is not None:
            rows = cell_rows(frame, nodes, form, gpu, glyphs, color=color)
        elif shown <= room:
            rows = node_rows(frame, nodes, gpu, width, glyphs, color=color)
        else:
            continue
        dot = f" {glyphs.separator} "
        why = Line.of((dot.join(f"{w} N{n} {v}".rstrip() for w, n, v in worth[:shown]), "dim"))
        head = [why.fit(width, ellipsis=glyphs.ellipsis), *rows]
        rest = heat_map(frame, gpu, width, height - len(head), glyphs, color=color)
        return [*head, *rest]
    return heat_map(frame, gpu, width, height, glyphs, color=color)


def _worth_a_look(frame: FleetFrame) -> list[tuple[str, int, str]]:
    """Up to three nodes as (why, node, its value), each once: lost, hottest, lowest power."""
    alive = frame.health != LOST
    found: dict[int, tuple[str, int, str]] = {}
    if not alive.all():
        node = int(alive.argmin()) // frame.gpus_per_node
        found[node] = ("lost", node, "")
    temp = np.where(alive, frame.temp_c, -1)
    hottest = np.maximum.reduceat(temp, frame.node_starts)
    for word in ("hottest", "next hottest"):
        hottest[list(found)] = -1
        node = int(hottest.argmax())
        if hottest[node] >= 0:
            found[node] = (word, node, f"{hottest[node]}C")
        if word == "hottest":
            power = np.minimum.reduceat(np.where(alive, frame.power_w, 99999), frame.node_starts)
            power[list(found)] = 99999
            node = int(power.argmin())
            if power[node] < 99999:
                found[node] = ("lowest power", node, f"{power[node]}W")
    return list(found.values())[:3]
