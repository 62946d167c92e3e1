"""The GPUs' part of a page: constant lines with holes for the values, filled in one go.

Labels are the same from one collection to the next, so they are written once per launch, into
templates of bytes; a page is `template % values` for each. Templates are cut into pieces that stay
in the processor's caches: 1.5 times faster than one for the page.
"""

# Shapes: G = GPUs of the fleet, g = GPUs on the page.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.identity import dcgm_pci_bus_id, gpu_uuid, host_name, job_id
from ghosttrain.core.timeline import physical_nodes
from ghosttrain.exporters.prometheus.dcgm import UNKNOWN_XID, XID_WORDS, Dialect

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.run import Run
    from ghosttrain.core.telemetry import Telemetry

LINES_A_PIECE = 1024  # about 200 kB: two pieces and their values fit in a second-level cache
KEPT_PAGES = 64  # templates of this many different pages: all nodes in both formats, single nodes
_XID = "DCGM_FI_DEV_XID_ERRORS"
_XID_TABLE = np.array(
    [XID_WORDS.get(code, UNKNOWN_XID).encode() for code in range(256)], dtype=object
)
# DCGM's sign for "no value" in a field of 64-bit integers and all above it: not found, not
# supported, no permission. Source: NVIDIA/DCGM, dcgmlib/dcgm_fields.h, DCGM_INT64_BLANK.
INT64_BLANK = 0x7FFFFFFFFFFFFFF0

Values = list[Any]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which GPUs are on a page, and how they are called.

    Attributes:
        attempt: The launch: spares bring other names, a scheduler another job.
        silent: GPUs that do not answer: lost, or of nodes that are down.
        node: The one node of the page, None for all.
    """

    attempt: int
    silent: tuple[int, ...] = ()
    node: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some lines of a page, and where their values stand in the row of all values."""

    template: bytes
    start: int
    stop: int


class GpuPages:
    """Pages about the GPUs of one run, as a release of dcgm-exporter writes them."""

    def __init__(self, run: Run, metrics: Sequence[Metric], dialect: Dialect) -> None:
        self._run, self.metrics, self._dialect = run, tuple(metrics), dialect
        self._pieces = lru_cache(maxsize=KEPT_PAGES)(self._make_pieces)
        self._labels = lru_cache(maxsize=2)(self._make_labels)

    def render(
        self,
        telemetry: Telemetry,
        k: int = 0,
        *,
        node: int | None = None,
        openmetrics: bool = False,
    ) -> list[bytes]:
        """The page of a moment, in pieces.

        Args:
            telemetry: A block of moments with at least the metrics' fields.
            k: Which of its moments.
            node: The one node wanted, None for all that answer.
            openmetrics: Whether families are declared as OpenMetrics has them.
        """
        per_node = self._run.spec.cluster.gpus_per_node
        silent = set(telemetry.lost[k])
        for number in telemetry.nodes_down[k]:
            silent.update(range(number * per_node, (number + 1) * per_node))
        fleet = Fleet(int(telemetry.attempt[k]), tuple(sorted(silent)), node)
        gpus = self._gpus(fleet)
        values: Values = []
        blanks = []
        for metric in self.metrics:
            column = telemetry.columns.get(metric.field)
            found = None if column is None else column[k] if gpus is None else column[k][gpus]
            blanks.append(_add(values, metric, found))
        pieces = self._pieces(fleet, tuple(blanks), openmetrics)
        return [piece.template % tuple(values[piece.start : piece.stop]) for piece in pieces]

    def _gpus(self, fleet: Fleet) -> NDArray[np.intp] | None:
        """Indices of the GPUs on the page, None for all there are."""
        cluster = self._run.spec.cluster
        if fleet.node is None and not fleet.silent:
            return None
        first, last = 0, cluster.gpus
        if fleet.node is not None:
            first = fleet.node * cluster.gpus_per_node
            last = min(last, first + cluster.gpus_per_node)
        gpus = np.arange(first, last)
        return gpus[~np.isin(gpus, fleet.silent)]

    def _make_labels(self, attempt: int) -> list[bytes]:
        """For each GPU its labels, up to the closing brace, as a template has them."""
        spec, dialect = self._run.spec, self._dialect
        cluster, product = spec.cluster, _escaped(spec.gpu.product_name)
        physical = physical_nodes(self._run.timeline, cluster.nodes, attempt).tolist()
        slots = range(cluster.gpus_per_node)
        buses = [dcgm_pci_bus_id(spec.gpu, local) for local in slots]
        driver = _escaped(cluster.driver)
        names = (
            f'{{gpu="{local}",UUID="{gpu_uuid(cluster, node, local)}"'
            f',pci_bus_id="{buses[local]}",device="nvidia{local}",modelName="{product}"'
            f',{dialect.host_label}="{host}",DCGM_FI_DRIVER_VERSION="{driver}"'
            for node in physical
            for host in (_escaped(host_name(cluster, node)),)
            for local in slots
        )
        labels = [name.replace("%", "%%").encode() for name in names]
        return labels[: cluster.gpus]

    def _attributes(self, attempt: int, node: int) -> dict[str, str]:
        """What maps GPUs to those who use them."""
        match self._dialect.mapping:
            case "kubernetes":
                name = self._run.spec.model.name.lower().replace(" ", "-").replace(".", "-")
                return {"container": "pytorch", "namespace": "training"} | {
                    "pod": f"{name}-worker-{node}"
                }
            case "slurm":
                return {"hpc_job": str(job_id(self._run.seed, attempt))}
            case _:
                return {}

    def _make_pieces(
        self, fleet: Fleet, blanks: tuple[bytes | None, ...], openmetrics: bool
    ) -> list[Piece]:
        gpus = self._gpus(fleet)
        shown = range(self._run.spec.cluster.gpus) if gpus is None else gpus.tolist()
        labels = self._labels(fleet.attempt)
        plain = self._tails(fleet, is_xid=False)
        cutter = _Cutter()
        for metric, blank in zip(self.metrics, blanks, strict=True):
            if blank is None:
                continue
            on_page = shown
            if blank:
                hidden = np.frombuffer(blank, dtype=bool).tolist()
                on_page = [gpu for gpu, hide in zip(shown, hidden, strict=True) if not hide]
            if not on_page:
                continue
            name = metric.name.encode()
            is_xid = metric.name == _XID
            tails = self._tails(fleet, is_xid=True) if is_xid else plain
            end = b"} " + _hole(metric) + b"\n"
            per_node = self._run.spec.cluster.gpus_per_node
            kind = self._dialect.kind(metric)
            lines = declared(metric, kind, openmetrics=openmetrics)
            cutter.declare(lines.replace("%", "%%").encode())
            cutter.add(
                [name + labels[gpu] + tails[gpu // per_node] + end for gpu in on_page],
                holes=3 if is_xid else 1,
            )
        return cutter.pieces()

    def _tails(self, fleet: Fleet, *, is_xid: bool) -> list[bytes]:
        """For each node what stands behind the labels that all metrics have."""
        tails = []
        for node in range(self._run.spec.cluster.nodes):
            words = {
                key: _escaped(value).replace("%", "%%")
                for key, value in self._attributes(fleet.attempt, node).items()
            }
            if is_xid:
                words |= {"err_code": "%d", "err_msg": "%b"}
            tails.append("".join(f',{key}="{words[key]}"' for key in sorted(words)).encode())
        return tails


class _Cutter:
    """Gathers the lines of a page and cuts them into pieces."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._lines: list[bytes] = []
        self._start = self._stop = 0

    def declare(self, lines: bytes) -> None:
        self._lines.append(lines)

    def add(self, lines: list[bytes], *, holes: int) -> None:
        done = 0
        while done < len(lines):
            room = max(1, LINES_A_PIECE - len(self._lines))
            part = lines[done : done + room]
            self._lines += part
            self._stop += holes * len(part)
            done += len(part)
            if len(self._lines) >= LINES_A_PIECE:
                self._cut()

    def pieces(self) -> list[Piece]:
        if self._lines:
            self._cut()
        return self._pieces

    def _cut(self) -> None:
        self._pieces.append(Piece(b"".join(self._lines), self._start, self._stop))
        self._lines, self._start = [], self._stop


def _add(values: Values, metric: Metric, column: NDArray[Any] | None) -> bytes | None:
    """Append a metric's values; returns which GPUs of the page have none.

    That is b"" where all have one, None where nobody has.
    """
    if column is None:
        return None
    is_real = column.dtype.kind == "f"
    blank = np.isnan(column) if is_real else column >= INT64_BLANK
    hidden = b""
    if blank.any():
        hidden, column = blank.tobytes(), column[~blank]
    if not metric.decimals and is_real:
        column = np.rint(column).astype(np.int64)
    numbers = column.tolist()
    if metric.name != _XID:
        values += numbers
        return hidden
    holes: Values = [0] * (3 * len(numbers))
    holes[0::3] = holes[2::3] = numbers
    holes[1::3] = _XID_TABLE[np.clip(column, 0, 255).astype(np.intp)].tolist()
    values += holes
    return hidden


def _hole(metric: Metric) -> bytes:
    """How a value is written: Go's %d for integers, its %f for doubles.

    The driver measures power in whole milliwatts.
    """
    if not metric.decimals:
        return b"%d"
    return b"%.3f000" if metric.field.endswith("_w") else b"%.6f"


def declared(metric: Metric, kind: str, *, openmetrics: bool) -> str:
    """The two lines before a family.

    A counter of OpenMetrics has a name that ends in _total, which its family's has not. One that
    has none shall not be renamed: there it is of unknown type.
    """
    name, about = metric.name, metric.help
    if openmetrics:
        if kind == "counter" and name.endswith("_total"):
            name = name.removesuffix("_total")
        elif kind == "counter":
            kind = "unknown"
        about = about.replace("\\", "\\\\").replace('"', '\\"')
    return f"# HELP {name} {about}\n# TYPE {name} {kind}\n"


def _escaped(text: str) -> str:
    """A label's value."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
