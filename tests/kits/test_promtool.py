"""Prometheus's own tool accepts the kit."""

from __future__ import annotations

import json

import pytest

from tests.kits import files
from tests.kits.files import PROMETHEUS
from tests.real.prometheus import promtool

pytestmark = pytest.mark.real


def test_the_rules_and_the_configuration_are_valid():
    rules = promtool("check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    assert rules.returncode == 0, rules.stderr
    config = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert config.returncode == 0, config.stderr


@pytest.mark.parametrize("path", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda p: p.stem)
def test_the_unit_tests_of_the_alerts_pass(path):
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_expression_of_the_dashboard_parses(tmp_path):
    rules = [
        {"record": f"panel:number{k}", "expr": expr}
        for k, (_, expr) in enumerate(files.panel_expressions())
    ]
    assert len(rules) > 40
    path = tmp_path / "panels.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_rule_is_noticed(tmp_path):
    """Of the tests above: a rule that is wrong, and an expectation that is, fail."""
    source = (PROMETHEUS / "rules" / "gpu.yml").read_text()
    bad = tmp_path / "bad.yml"
    bad.write_text(source.replace("group_left ()", "group_left ("))
    assert promtool("check", "rules", bad).returncode != 0
    unit = (PROMETHEUS / "tests" / "gpu.yml").read_text()
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        unit.replace("../rules/*.yml", f"{PROMETHEUS}/rules/*.yml").replace(
            "is at 82 C", "is at 83 C"
        )
    )
    done = promtool("test", "rules", wrong)
    assert done.returncode != 0
    assert "GpuHot" in done.stdout + done.stderr
