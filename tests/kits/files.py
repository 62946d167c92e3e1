"""The kit's files, read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

KITS = Path(__file__).resolve().parents[2] / "kits"
PROMETHEUS = KITS / "prometheus"
DASHBOARD = KITS / "grafana" / "ghosttrain.json"
SEVERITIES = ("critical", "warning", "info")
_METRIC = re.compile(r"\b(?:DCGM_|node_|ghosttrain_)\w+")


def read_yaml(path: Path) -> Any:
    """A YAML file's content."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def rules() -> list[dict[str, Any]]:
    """All rules, recording ones and alerts."""
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in read_yaml(path)["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts, by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def metrics_in(expression: str) -> set[str]:
    """Names of the scraped metrics that an expression reads."""
    return set(_METRIC.findall(expression))


def dashboard() -> Any:
    """The dashboard."""
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panel_expressions() -> Iterator[tuple[str, str]]:
    """(title, PromQL) of the dashboard's panels, variables and annotations, as Grafana sends it."""
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], _filled(target["expr"])
    for annotation in board["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], _filled(annotation["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            series = variable["query"]["query"].removeprefix("label_values(").rpartition(",")[0]
            yield variable["name"], _filled(series)


def _filled(expression: str) -> str:
    filled = expression.replace("$__interval", "1m").replace("$top", "8")
    return re.sub(r"\$(job|node|gpu)\b", ".*", filled)
