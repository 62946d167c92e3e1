"""What Prometheus is told when it asks which targets there are (HTTP service discovery).

Source: https://prometheus.io/docs/prometheus/latest/http_sd/ for the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ghosttrain.exporters.prometheus.targets import JOB, target_labels

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
    found: list[Group] = []
    for node, target in enumerate(target_labels(run, attempt)):
        path = "/metrics" if port_per_node else f"/node/{node}/metrics"
        at = port + node if port_per_node else port
        found.append({"targets": [f"{host}:{at}"], "labels": {"__metrics_path__": path, **target}})
    job = {"__metrics_path__": "/job/metrics", "job": JOB, "instance": f"{host}:{port}"}
    found.append({"targets": [f"{host}:{port}"], "labels": job})
    return found
