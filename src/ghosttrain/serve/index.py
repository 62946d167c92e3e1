"""The page at `/`: what there is and where."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghosttrain.serve.collection import Collection

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>ghosttrain</title></head>
<body>
<h1>ghosttrain</h1>
<p>{run}. All of it is simulated.</p>
<ul>
{links}
</ul>
</body>
</html>
"""


def index_page(now: Collection, *, port: int, port_per_node: bool) -> str:
    """The page's HTML."""
    spec, nodes = now.run.spec, now.run.spec.cluster.nodes
    run = f"{spec.model.name} on {spec.cluster.gpus:,} × {spec.gpu.name}, seed {now.run.seed}"
    whole = "node 0" if port_per_node else "all nodes and the job"
    links = [
        ("/metrics", f"{whole}, for Prometheus"),
        ("/job/metrics", "the job alone"),
        *((f"/node/{node}/metrics", f"node {node} alone") for node in range(min(nodes, 8))),
        ("/sd", "targets, for Prometheus' HTTP service discovery"),
        ("/api/v1/state", "where the run is, as JSON"),
        ("/healthz", "whether we live"),
    ]
    rows = [f'<li><a href="{path}">{path}</a>: {escape(about)}</li>' for path, about in links]
    if nodes > 8:
        rows.insert(10, f"<li>and so on, up to /node/{nodes - 1}/metrics</li>")
    if port_per_node and nodes > 1:
        rows.insert(1, f"<li>/metrics on ports {port + 1} to {port + nodes - 1}: other nodes</li>")
    return _PAGE.format(run=escape(run), links="\n".join(rows))
