"""The GPU grid for pipes and files, whole: a line a node, every value of every GPU.

All samples of an event are written at once: numbers become text by table, and cells of a fixed
number of bytes are laid side by side, so that the text costs about what moving it costs.

Shapes: K = samples, G = GPUs, N = nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ghosttrain.views.renderables.byte_cells import number_cells
from ghosttrain.views.renderables.fleet_frame import (
    LOST,
    WARM_BELOW_SLOWDOWN_C,
    WARM_MEMORY_FRAC,
    gpu_health,
    gpu_label,
)
from ghosttrain.views.renderables.gpu_cells import digits

if TYPE_CHECKING:
    from ghosttrain.core.events import FleetSamples
    from ghosttrain.core.spec import Gpu

F32 = NDArray[np.float32]

_BETWEEN = " | "  # in front of each cell but the first, where the label stands
_COLUMNS = ("util_pct", "temp_c", "power_w", "memory_gib")
# One past what any GPU reports; the entry behind it is for a GPU that does not answer.
_TOPS = _UTIL_TOP, _TEMP_TOP, _POWER_TOP, _MEMORY_TOP = 127, 199, 9999, 9999
_LOST_INDEX = np.array(_TOPS)[:, None, None] + 1
_SCALES = (np.float32(1), np.float32(1), np.float32(1), np.float32(10))
_HALF = np.float32(0.5)
_CACHED_VALUES = 2048  # of a metric, written at once: their text and indices stay in the L2 cache
_MARKS = np.frombuffer(b" !XX", np.uint8)  # by health


def plain_grid(samples: FleetSamples, gpu: Gpu, gpus_per_node: int) -> list[bytes]:
    """Heading and grid of each sample, as complete lines."""
    return PlainGrid(gpu, gpus_per_node, samples.util_pct.shape[1]).write(samples)


@dataclass(frozen=True, slots=True)
class _Form:
    """Bytes of one node's line, and the tables its fields are taken from.

    Attributes:
        cells: The line's cells with blanks for the numbers, shape (GPUs per node,).
        tables: Texts of utilisation, temperature, power and memory, as integers of their size.
        labels: "Node 0: " and so on, shape (N,).
        row: A line: cells and, over their first bytes, the label; then the newline.
    """

    cells: NDArray[np.void]
    tables: tuple[NDArray[np.uint32] | NDArray[np.uint64], ...]
    labels: NDArray[np.bytes_]
    row: np.dtype[np.void]


class PlainGrid:
    """Writes grids of one fleet; the buffers it keeps hold all that never changes."""

    def __init__(self, gpu: Gpu, gpus_per_node: int, gpus: int) -> None:
        self._gpu, self._gpus = gpu, gpus
        nodes = -(-gpus // gpus_per_node)
        self._form = form = _form(gpu, gpus_per_node, nodes)
        self._at_once = at_once = max(1, _CACHED_VALUES // gpus)
        self._missing = nodes * gpus_per_node - gpus
        self._cells = np.empty((at_once, nodes, gpus_per_node), form.cells.dtype)
        _pieces(self._cells)[...] = _pieces(form.cells)
        self._rows = np.empty((at_once, nodes), form.row)
        self._rows["end"] = b"\n"
        # Indices past the last GPU stay 0: they are written, and cut off with their cells.
        self._scaled = np.zeros((4, at_once, nodes * gpus_per_node), np.float32)
        self._index = np.zeros((4, at_once, nodes * gpus_per_node), np.intp)
        self._marked = False

    def write(self, samples: FleetSamples) -> list[bytes]:
        """Heading and grid of each sample, as complete lines."""
        blocks: list[bytes] = []
        for first in range(0, samples.step.size, self._at_once):
            part = slice(first, first + self._at_once)
            columns = tuple(getattr(samples, name)[part] for name in _COLUMNS)
            blocks += self._write(samples.step[part], columns, list(samples.lost))
        return blocks

    def _write(
        self, step: NDArray[np.int64], columns: tuple[F32, ...], lost: list[int]
    ) -> list[bytes]:
        count = step.size
        cells, index = self._cells[:count], self._index[:, :count]
        health = self._health(columns, lost)
        headings = self._scale(step, columns, lost)
        if lost:
            index[:, :, lost] = _LOST_INDEX
        flat = cells.reshape(-1)
        for name, column, table in zip("utpm", index, self._form.tables, strict=True):
            flat[name] = table.take(column.reshape(-1), mode="clip")
        if health is not None:
            cells.reshape(count, -1)["h"][:, : self._gpus] = _MARKS.take(health)
        elif self._marked:
            flat["h"] = _MARKS[0]
        self._marked = health is not None
        rows = self._rows[:count]
        rows["cells"] = _pieces(cells)
        rows["label"] = self._form.labels
        return self._blocks(rows, headings)

    def _health(self, columns: tuple[F32, ...], lost: list[int]) -> NDArray[np.uint8] | None:
        """Health of shape (K, G), None where every GPU is well."""
        gpu, (_, temp_c, _, memory_gib) = self._gpu, columns
        warm_c = gpu.slowdown_c - WARM_BELOW_SLOWDOWN_C
        warm_gib = WARM_MEMORY_FRAC * gpu.memory_gib
        if not lost and temp_c.max() < warm_c - 0.5 and memory_gib.max() < warm_gib:
            return None
        frac = memory_gib / np.float32(gpu.memory_gib)
        health = gpu_health((temp_c + _HALF).astype(np.intp), frac, gpu.slowdown_c)
        health[:, lost] = LOST
        return health

    def _scale(
        self, step: NDArray[np.int64], columns: tuple[F32, ...], lost: list[int]
    ) -> list[bytes]:
        """Fills the indices of all values; returns the headings, which show their means."""
        count = step.size
        scaled, gpus = self._scaled[:, :count], slice(self._gpus)
        for values, scale, out in zip(columns, _SCALES, scaled, strict=True):
            np.multiply(values, scale, out=out[:, gpus])
        means = np.add.reduce(scaled[:, :, gpus], axis=2)
        means /= np.float32(max(1, self._gpus - len(lost)))
        means += _HALF
        filled = scaled[:, :, gpus]
        filled += _HALF
        np.copyto(self._index[:, :count], scaled, casting="unsafe")
        numbers = np.empty((6, count), np.intp)
        numbers[0] = step
        numbers[1:5] = means
        np.divmod(numbers[4], 10, numbers[4], numbers[5])
        return self._headings(numbers, lost)

    def _headings(self, numbers: NDArray[np.intp], lost: list[int]) -> list[bytes]:
        """`GPU status | step 410 | 64 x H100-SXM | mean 99% 64C 611W 65.2/79.6GiB`, each sample."""
        gpu = self._gpu
        template = (
            f"GPU status | step %d | {self._gpus} x {gpu_label(gpu)} | "
            f"mean %d%% %dC %dW %d.%d/{gpu.memory_gib:.1f}GiB"
            + (f" | {len(lost)} lost\n" if lost else "\n")
        )
        # All in one template: a third of the time of one after the other.
        text: str = template * numbers.shape[1] % tuple(numbers.T.ravel().tolist())
        return text.encode().splitlines(keepends=True)

    def _blocks(self, rows: NDArray[np.void], headings: list[bytes]) -> list[bytes]:
        """Each heading with its lines, the cells past the last GPU cut off."""
        size = rows.itemsize * rows.shape[1]
        cut = self._missing * self._cells.itemsize
        end = b"\n" if cut else b""
        stop = size - cut - 1 if cut else size
        data = rows.view(np.uint8).reshape(-1).data
        return [
            b"".join((heading, data[start : start + stop], end))
            for heading, start in zip(headings, range(0, len(data), size), strict=True)
        ]


def _pieces(cells: NDArray[np.void]) -> NDArray[np.void]:
    """The cells of each node as one item, which is copied in one piece."""
    size = cells.shape[-1] * cells.dtype.itemsize
    return cells.view(f"V{size}").reshape(cells.shape[:-1])


@lru_cache(maxsize=8)
def _form(gpu: Gpu, gpus_per_node: int, nodes: int) -> _Form:
    temp, memory, watt = digits(gpu)
    widest = len(str(gpus_per_node - 1))
    total = f"/{gpu.memory_gib:.1f}GiB "
    # Fields of 4 or 8 bytes: what follows the memory of a large card is part of its text.
    memory_suffix, total = ("", total) if memory == 2 else (total[:3], total[3:])
    tables = (
        number_cells(3, _UTIL_TOP, suffix="%"),
        number_cells(3, _TEMP_TOP, suffix="C"),
        number_cells(3, _POWER_TOP, suffix="W") if watt == 3 else number_cells(4, _POWER_TOP),
        number_cells(memory + 2, _MEMORY_TOP, suffix=memory_suffix, decimals=1),
    )
    util_gap, unit = " " * (temp == 3), "W" * (watt == 4)
    texts = [f"{_BETWEEN}GPU{i:{widest}}" for i in range(gpus_per_node)]
    offset = len(texts[0])
    parts = {"h": 1, "u": 4, " ": len(util_gap), "t": 4, "  ": 1}
    parts |= {"m": tables[3].dtype.itemsize, "/": len(total), "p": 4, "W": len(unit)}
    template = " " + " " * 4 + util_gap + " " * 4 + " " + " " * parts["m"] + total + " " * 4 + unit
    offsets = {}
    for name, size in parts.items():
        offsets[name] = offset
        offset += size
    formats = ["u1", "u4", "u4", f"u{parts['m']}", "u4"]
    cell = np.dtype(
        {
            "names": list("hutmp"),
            "formats": formats,
            "offsets": [offsets[name] for name in "hutmp"],
            "itemsize": offset,
        }
    )
    cells = np.frombuffer("".join(text + template for text in texts).encode(), cell)
    label_width = len(str(nodes - 1))
    labels = np.array([f"Node {n:{label_width}}: ".encode() for n in range(nodes)])
    label, size = labels.dtype.itemsize, gpus_per_node * cell.itemsize
    start = label - len(_BETWEEN)  # the label covers the separator of the first cell
    row = np.dtype(
        {
            "names": ["cells", "label", "end"],
            "formats": [f"V{size}", labels.dtype, "S1"],
            "offsets": [start, 0, start + size],
            "itemsize": start + size + 1,
        }
    )
    words = tuple(table.view(f"u{table.dtype.itemsize}") for table in tables)
    return _Form(cells, words, labels, row)
