"""The targets of a run, one a node, and the labels that a scrape of them adds to each series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghosttrain.core.identity import host_name, nodes_per_rack
from ghosttrain.core.timeline import physical_nodes

if TYPE_CHECKING:
    from ghosttrain.core.run import Run

JOB = "ghosttrain"


def target_labels(run: Run, attempt: int) -> list[dict[str, str]]:
    """For each node the labels of its target, under the name of the machine it is in a launch."""
    cluster = run.spec.cluster
    per_rack = nodes_per_rack(run.spec.gpu, cluster)
    physical = physical_nodes(run.timeline, cluster.nodes, attempt).tolist()
    return [
        {
            "job": JOB,
            "instance": host_name(cluster, physical[node]),
            "node": str(node),
            "rack": str(node // per_rack),
        }
        for node in range(cluster.nodes)
    ]
