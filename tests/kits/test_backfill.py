"""A run's history in a real server's storage: alerts asked of it are those of the rule engine.

A server evaluates no alerts for the past. Asked for an alert's expression at each evaluation, with
its `for:` counted here, it must tell what promtool's engine made of the same run scraped live. Only
of targets that stay: a history has no markers of staleness. An evaluation apart: `promtool tsdb
create-blocks-from rules` shifts those of a group by a part of the interval, as servers do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ghosttrain.inputs.durations import parse_duration
from tests.kits import files
from tests.kits.evaluation import RULES, evaluated, rule_metrics
from tests.kits.expectations import cadence, expected, played
from tests.real.prometheus import PrometheusServer, promtool

pytestmark = pytest.mark.real

SCENARIO = "double-trouble"
ALERTS = ("TargetDown", "JobRestarted", "JobStalled", "JobGoodputLow", "JobVerySlow")
NO_SCRAPES = "global: {evaluation_interval: 1h}\n"


def test_alerts_of_a_history_are_those_of_the_run_scraped_live(tmp_path: Path) -> None:
    run = played(SCENARIO)
    start_s = run.spec.start_unix_s
    end_s = start_s + int(run.end_s // cadence().scrape_s) * cadence().scrape_s
    blocks = history(tmp_path)
    with PrometheusServer(tmp_path, NO_SCRAPES, storage=blocks) as server:
        recorded(server, blocks, start_s, end_s)
    with PrometheusServer(tmp_path, NO_SCRAPES, storage=blocks) as server:
        stays = {found["metric"]["instance"] for found in server.query("up", end_s)}
        past = [
            (alert, instance, begin_s - start_s, (stop_s or end_s) - start_s)
            for alert in ALERTS
            for instance, begin_s, stop_s in asked(server, files.alerts()[alert], start_s, end_s)
            if instance in stays
        ]
    live = [
        (firing.alert, instance, firing.start_s, firing.stop_s or end_s - start_s)
        for firing in evaluated(run, cadence(), tmp_path)
        if firing.alert in ALERTS and (instance := firing.label("instance")) in stays
    ]
    assert {alert for alert, *_ in past} >= {"TargetDown", "JobRestarted", "JobStalled"}
    assert len(past) == len(live)
    for ours, theirs in zip(sorted(past), sorted(live), strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2:] == pytest.approx(theirs[2:], abs=cadence().evaluate_s), ours


def history(folder: Path) -> Path:
    """Blocks of the scenario's history, as `ghosttrain export` and promtool make them."""
    names = ",".join(dict.fromkeys(m.name for m in rule_metrics() if "node" not in m.lists))
    words = f"export {expected()[SCENARIO].machine} --faults {SCENARIO} --format openmetrics"
    words += f" --every {cadence().scrape_s}s --metrics {names} --to {folder / 'out'}"
    subprocess.run([sys.executable, "-m", "ghosttrain", *words.split()], check=True)
    blocks = folder / "blocks"
    for path in sorted((folder / "out" / "openmetrics").glob("*.om")):
        made = promtool("tsdb", "create-blocks-from", "openmetrics", path, blocks)
        assert made.returncode == 0, made.stderr
    return blocks


def recorded(server: PrometheusServer, blocks: Path, start_s: float, end_s: float) -> None:
    """Blocks of what the recording rules make of the history."""
    made = promtool(
        *("tsdb", "create-blocks-from", "rules", "--url", server.url, "--output-dir", blocks),
        *("--start", f"{start_s:.0f}", "--end", f"{end_s:.0f}"),
        *("--eval-interval", f"{cadence().evaluate_s}s", RULES / "recording.yml"),
    )
    assert made.returncode == 0, made.stderr


def asked(
    server: PrometheusServer, rule: dict[str, Any], start_s: float, end_s: float
) -> list[tuple[str, float, float | None]]:
    """Where (the `instance`) and when an alert fires: its expression, and its `for:` counted."""
    step_s = cadence().evaluate_s
    for_s = parse_duration(rule["for"]) if "for" in rule else 0.0
    evaluations = range(int(start_s), int(end_s) + 1, step_s)
    found: list[tuple[str, float, float | None]] = []
    for series in server.query_range(rule["expr"], start_s, evaluations[-1], step_s):
        active = {round(float(time)) for time, _ in series["values"]}
        since: float | None = None
        begin: float | None = None
        for time_s in evaluations:
            if time_s in active:
                since = time_s if since is None else since
                if begin is None and time_s - since >= for_s:
                    begin = time_s
                continue
            if begin is not None:
                found.append((series["metric"]["instance"], begin, float(time_s)))
            since = begin = None
        if begin is not None:
            found.append((series["metric"]["instance"], begin, None))
    return found
