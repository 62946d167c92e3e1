"""The nodes' part of a page: what node_exporter says of each machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from ghosttrain.core.identity import host_name
from ghosttrain.core.timeline import physical_nodes
from ghosttrain.exporters.prometheus.gpu_page import declared

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.node import NodeTelemetry
    from ghosttrain.core.run import Run


class NodePages:
    """Pages about the nodes of one run.

    A node's own page says nothing of its name, as node_exporter's does not: whoever scrapes knows
    whom. On a page of all nodes each line has its node's name as `instance`.
    """

    def __init__(self, run: Run, metrics: Sequence[Metric]) -> None:
        self._run, self.metrics = run, tuple(metrics)

    def render(
        self,
        nodes: NodeTelemetry,
        k: int = 0,
        *,
        node: int | None = None,
        openmetrics: bool = False,
    ) -> bytes:
        """The page of a moment; of one node, or of all that answer."""
        count = self._run.spec.cluster.nodes
        shown = range(count) if node is None else range(node, node + 1)
        shown_up = [number for number in shown if number not in nodes.down[k]]
        hosts = self._hosts(int(nodes.attempt[k])) if node is None else None
        lines: list[str] = []
        for _, rows in itertools.groupby(self.metrics, key=lambda metric: metric.name):
            family = list(rows)
            if shown_up:
                lines.append(declared(family[0], family[0].kind, openmetrics=openmetrics))
            for metric in family:
                values = nodes.columns[metric.field][k].tolist()
                for number in shown_up:
                    host = f'instance="{hosts[number]}"' if hosts else ""
                    labels = ",".join(filter(None, (host, metric.labels)))
                    name = f"{metric.name}{{{labels}}}" if labels else metric.name
                    lines.append(f"{name} {go_float(values[number])}\n")
        return "".join(lines).encode()

    def _hosts(self, attempt: int) -> Sequence[str]:
        cluster = self._run.spec.cluster
        physical: Iterable[int] = physical_nodes(
            self._run.timeline, cluster.nodes, attempt
        ).tolist()
        return [host_name(cluster, number) for number in physical]


def go_float(value: float) -> str:
    """A number as Go's %g has it with as many digits as it takes, as its client library writes.

    Source: Go, strconv/ftoa.go: with the fewest digits that tell it, an exponent is written below
    1e-4 and from 1e6 on, of two digits at least: 3.831959552e+09.
    """
    if not value:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        return repr(value).removesuffix(".0")
    digits, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
    return f"{digits}e{exponent[0]}{int(exponent[1:]):02d}"
