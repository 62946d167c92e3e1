"""The kit's files agree with one another, with the catalogue and with the page that is served."""

from __future__ import annotations

import re

import pytest
import yaml  # type: ignore[import-untyped]

from docs import alerts
from ghosttrain import catalog
from ghosttrain.exporters.prometheus.dcgm import Dialect, chosen_metrics, known_metrics
from ghosttrain.exporters.prometheus.job import Playing
from ghosttrain.exporters.prometheus.page import Pages, moment_of
from tests.exporters.runs import real_run
from tests.kits import files
from tests.kits.files import KITS, PROMETHEUS


def test_every_alert_has_a_severity_words_for_people_and_what_to_do():
    for name, rule in files.alerts().items():
        assert rule["labels"]["severity"] in files.SEVERITIES, name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert all(len(text) > 15 for text in rule["annotations"].values()), name


def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not():
    tests = [
        test
        for path in (PROMETHEUS / "tests").glob("*.yml")
        for test in files.read_yaml(path)["tests"]
    ]
    fires: set[str] = set()
    silent: set[str] = set()
    for test in tests:
        for case in test.get("alert_rule_test", ()):
            (fires if case["exp_alerts"] else silent).add(case["alertname"])
        for case in test["promql_expr_test"]:
            asked = re.search(r'alertname=~?"([^"]+)"', case["expr"])
            assert asked, case
            of = {name for name in files.alerts() if re.fullmatch(asked[1], name)}
            found = str(case["exp_samples"])
            if not case["exp_samples"]:
                silent |= of
            elif "alertname=" in found:
                fires |= set(re.findall(r'alertname="(\w+)"', found))
            else:
                fires |= of
    assert fires == set(files.alerts())
    assert silent == set(files.alerts())


def test_the_slow_down_temperatures_are_those_of_the_catalogue():
    table = {
        rule["labels"]["modelName"]: float(rule["expr"].removeprefix("vector(").rstrip(")"))
        for rule in files.rules()
        if rule.get("record") == "model:gpu_slowdown:celsius"
    }
    cards = [catalog.gpu(name) for name in catalog.names("gpu")]
    assert table == {
        card.product_name: card.slowdown_c for card in cards if card.vendor == "NVIDIA"
    }


def test_recording_rules_that_are_read_exist():
    named = re.compile(r"\b(?:model|node|fleet|gpu|job):\w+(?::\w+)?")
    recorded = {rule["record"] for rule in files.rules() if "record" in rule}
    read = {name for rule in files.rules() for name in named.findall(rule["expr"])}
    read |= {name for _, expr in files.panel_expressions() for name in named.findall(expr)}
    assert read <= recorded
    # Each is read by somebody: none is left over.
    assert recorded <= read


def test_the_dashboard_lets_choose_source_job_node_and_gpu():
    variables = {v["name"]: v for v in files.dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "node", "gpu", "top"]
    assert variables["datasource"]["type"] == "datasource"
    for panel in files.dashboard()["panels"]:
        if panel["type"] not in ("row", "alertlist"):
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


@pytest.mark.parametrize(("title", "expr"), list(files.panel_expressions()))
def test_a_panel_shows_few_series_however_large_the_fleet(title, expr):
    """16,384 GPUs in one chart help nobody: aggregated, or cut to the top few."""
    if "DCGM_" not in expr or title in ("job", "node", "gpu"):
        return
    cut = r"^(topk|bottomk|sum|avg|min|max|count|quantile|count_values)\b"
    assert re.match(cut, expr), expr


def test_panels_do_not_overlap_and_have_their_own_numbers():
    panels = files.dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_compose_file_mounts_what_is_there_and_starts_what_it_names():
    compose = files.read_yaml(KITS / "compose.yaml")
    assert set(compose["services"]) == {"ghosttrain", "prometheus", "grafana"}
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            assert (KITS / volume.split(":")[0]).exists(), volume
    # The kit's own configuration, but for the name of the machine.
    inner = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    outer = files.read_yaml(PROMETHEUS / "prometheus.yml")
    assert str(inner).replace("//ghosttrain:", "//127.0.0.1:") == str(outer)
    for path in (KITS / "grafana" / "provisioning").rglob("*.yml"):
        assert files.read_yaml(path)["apiVersion"] == 1


def test_the_page_about_alerts_is_fresh():
    stale = "stale: run `PYTHONPATH=src python docs/alerts.py`"
    assert alerts.PAGE.read_text(encoding="utf-8") == alerts.page(), stale


def test_every_metric_that_is_read_is_on_a_page():
    run = real_run(steps=60, faults="ecc-sbe-storm@3min")
    metrics = chosen_metrics("all", known_metrics())
    pages = Pages(run, metrics, Dialect())
    page = b"".join(pages.whole(moment_of(run, metrics, Playing(1.0, run.end_s - 1)))).decode()
    served = set(re.findall(r"^(\w+)[{ ]", page, re.MULTILINE))
    read = {name for rule in files.rules() for name in files.metrics_in(rule["expr"])}
    read |= {name for _, expr in files.panel_expressions() for name in files.metrics_in(expr)}
    assert read <= served
