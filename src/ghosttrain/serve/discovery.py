"""What Prometheus is told when it asks which targets there are (HTTP service discovery).

Source: https://prometheus.io/docs/prometheus/latest/http_sd/ for the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ghosttrain.core.identity import host_name, nodes_per_rack
from ghosttrain.core.timeline import physical_nodes

if TYPE_CHECKING:
    from ghosttrain.core.run import Run


class Group(TypedDict):
    """A target and its labels."""

    targets: list[str]
    labels: dict[str, str]


def groups(
    run: Run, attempt: int, host: str, port: int, *, port_per_node: bool = False
) -> list[Group]:
    """One target for each node, under the name of the machine it is now, and one for the job.

    Args:
        run: The run.
        attempt: The launch.
        host: Name or address under which we are reached.
        port: That of node 0, and of everything else.
        port_per_node: Whether node K answers on port + K.
    """
    cluster = run.spec.cluster
    per_rack = nodes_per_rack(run.spec.gpu, cluster)
    physical = physical_nodes(run.timeline, cluster.nodes, attempt).tolist()
    found: list[Group] = []
    for node in range(cluster.nodes):
        labels = {
            "__metrics_path__": "/metrics" if port_per_node else f"/node/{node}/metrics",
            "job": "ghosttrain",
            "instance": host_name(cluster, physical[node]),
            "node": str(node),
            "rack": str(node // per_rack),
        }
        at = port + node if port_per_node else port
        found.append({"targets": [f"{host}:{at}"], "labels": labels})
    job = {"__metrics_path__": "/job/metrics", "job": "ghosttrain", "instance": f"{host}:{port}"}
    found.append({"targets": [f"{host}:{port}"], "labels": job})
    return found
