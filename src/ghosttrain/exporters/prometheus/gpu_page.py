"""The GPUs' part of a page: constant lines with holes for the values, filled in one go.

Labels are the same from one collection to the next, so they are written once per launch, into
templates of bytes; a page is `template % values` for each. Templates are cut into pieces that stay
in the processor's caches: 1.5 times faster than one for the page.
"""

# Shapes: g = GPUs on the page.

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


class GpuPages:
    """Pages about the GPUs of one run, as a release of dcgm-exporter writes them."""

    def __init__(self, run: Run, metrics: Sequence[Metric], dialect: Dialect) -> None:
        self._run, self.metrics, self._dialect = run, tuple(metrics), dialect
        self._families = lru_cache(maxsize=KEPT_PAGES)(self._make_families)
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
        pieces: list[bytes] = []
        for family in self._families(fleet, openmetrics):
            column = telemetry.columns.get(family.metric.field)
            if column is not None:
                pieces += family.render(column[k] if gpus is None else column[k][gpus])
        return pieces

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
        cluster, product = spec.cluster, escaped(spec.gpu.product_name)
        physical = physical_nodes(self._run.timeline, cluster.nodes, attempt).tolist()
        slots = range(cluster.gpus_per_node)
        buses = [dcgm_pci_bus_id(spec.gpu, local) for local in slots]
        driver = escaped(cluster.driver)
        names = (
            f'{{gpu="{local}",UUID="{gpu_uuid(cluster, node, local)}"'
            f',pci_bus_id="{buses[local]}",device="nvidia{local}",modelName="{product}"'
            f',{dialect.host_label}="{host}",DCGM_FI_DRIVER_VERSION="{driver}"'
            for node in physical
            for host in (escaped(host_name(cluster, node)),)
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

    def _make_families(self, fleet: Fleet, openmetrics: bool) -> list[_Family]:
        per_node, gpus = self._run.spec.cluster.gpus_per_node, self._gpus(fleet)
        shown = range(self._run.spec.cluster.gpus) if gpus is None else gpus.tolist()
        labels = self._labels(fleet.attempt)
        families = []
        for is_xid in (False, True):
            tails = self._tails(fleet, is_xid=is_xid)
            named = [labels[gpu] + tails[gpu // per_node] for gpu in shown]
            families += [
                _Family(metric, self._head(metric, openmetrics=openmetrics), named)
                for metric in self.metrics
                if (metric.name == _XID) is is_xid
            ]
        families.sort(key=lambda family: self.metrics.index(family.metric))
        return families

    def _head(self, metric: Metric, *, openmetrics: bool) -> bytes:
        lines = declared(metric, self._dialect.kind(metric), openmetrics=openmetrics)
        return lines.replace("%", "%%").encode()

    def _tails(self, fleet: Fleet, *, is_xid: bool) -> list[bytes]:
        """For each node what stands behind the labels that all metrics have."""
        tails = []
        for node in range(self._run.spec.cluster.nodes):
            words = {
                key: escaped(value).replace("%", "%%")
                for key, value in self._attributes(fleet.attempt, node).items()
            }
            if is_xid:
                words |= {"err_code": "%d", "err_msg": "%b"}
            tails.append("".join(f',{key}="{words[key]}"' for key in sorted(words)).encode())
        return tails


class _Family:
    """A metric's lines for the GPUs of a page: templates, and what was last made of them.

    Many columns stand still from one collection to the next (counters of errors, memory, clocks):
    their lines are not written again.
    """

    def __init__(self, metric: Metric, head: bytes, labels: Sequence[bytes]) -> None:
        """A family without values yet.

        Args:
            metric: The metric.
            head: Its HELP and TYPE.
            labels: For each GPU of the page, up to the closing brace; shared with other families.
        """
        self.metric = metric
        self._head, self._labels = head, labels
        self._holes = 3 if metric.name == _XID else 1
        self._hidden: bytes | None = None
        self._templates: list[bytes] = []
        self._column: NDArray[Any] | None = None
        self._pieces: list[bytes] = []

    def render(self, column: NDArray[Any]) -> list[bytes]:
        """The family's lines, in pieces; nothing where no GPU of the page has a value.

        Args:
            column: Values of the page's GPUs, shape (g,).
        """
        if self._column is not None and np.array_equal(column, self._column):
            return self._pieces
        self._column = column.copy()
        blank = _blank(column)
        hidden = blank.tobytes() if blank.any() else b""
        if hidden != self._hidden:
            self._hidden, self._templates = hidden, self._cut(blank)
        values = _values(self.metric, column[~blank] if hidden else column)
        size = self._holes * LINES_A_PIECE
        self._pieces = [
            template % tuple(values[start : start + size])
            for start, template in zip(range(0, len(values), size), self._templates, strict=True)
        ]
        return self._pieces

    def _cut(self, blank: NDArray[np.bool_]) -> list[bytes]:
        """Templates of LINES_A_PIECE lines each, the first with the head."""
        name, end = self.metric.name.encode(), b"} " + _hole(self.metric) + b"\n"
        lines = [
            name + labels + end
            for labels, hide in zip(self._labels, blank.tolist(), strict=True)
            if not hide
        ]
        starts = range(0, len(lines), LINES_A_PIECE)
        cut = [b"".join(lines[start : start + LINES_A_PIECE]) for start in starts]
        return [self._head + cut[0], *cut[1:]] if cut else []


def _blank(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Where there is no value."""
    blank: NDArray[np.bool_]
    blank = np.isnan(column) if column.dtype.kind == "f" else column >= INT64_BLANK
    return blank


def _values(metric: Metric, column: NDArray[Any]) -> Values:
    """What goes into the holes of a family's templates, line by line."""
    if not metric.decimals and column.dtype.kind == "f":
        column = np.rint(column).astype(np.int64)
    numbers: Values = column.tolist()
    if metric.name != _XID:
        return numbers
    holes: Values = [0] * (3 * len(numbers))
    holes[0::3] = holes[2::3] = numbers
    holes[1::3] = _XID_TABLE[np.clip(column, 0, 255).astype(np.intp)].tolist()
    return holes


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


def escaped(text: str) -> str:
    """A label's value."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
