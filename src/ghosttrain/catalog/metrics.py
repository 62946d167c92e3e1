"""Metrics that telemetry exports: names, types and texts of the exporters they come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from ghosttrain.catalog import rows

MetricKind = Literal["gauge", "counter"]
MetricList = Literal["default", "extra", "profiling", "further", "node"]

_FILE: Final = "metrics.toml"


@dataclass(frozen=True, slots=True)
class Metric:
    """One exported metric, one row of the catalogue.

    Attributes:
        name: As exported; several rows may share one, with other labels.
        field: The column of `core.telemetry.FIELDS` it shows; of a node metric that of
            `core.node.NODE_FIELDS`.
        kind: Prometheus type.
        help: HELP text, exact.
        lists: Which lists of the exporter it is in (the file's head says what they are).
        decimals: Digits after the point.
        labels: Labels that tell it from others of its name, such as `mode="user"`.
        source: Where all this is from.
    """

    name: str
    field: str
    kind: MetricKind
    help: str
    lists: tuple[MetricList, ...]
    decimals: int
    source: str
    labels: str = ""


@cache
def metrics(wanted: MetricList | None = None) -> tuple[Metric, ...]:
    """All metrics of GPUs in the file's order, or those of one list."""
    found = (_metric(name) for name in rows.index(_FILE))
    return tuple(
        metric
        for metric in found
        if (wanted in metric.lists if wanted else "node" not in metric.lists)
    )


def _metric(name: str) -> Metric:
    values = rows.row(_FILE, name)
    return rows.record(Metric, {"name": name, **values, "lists": tuple(values["lists"])})
