"""The real Prometheus that other tests lean on is there and answers."""

from __future__ import annotations

import pytest

from tests.real.prometheus import PrometheusServer, promtool


@pytest.mark.real
def test_the_server_starts_and_evaluates(tmp_path):
    with PrometheusServer(tmp_path, "global: {scrape_interval: 1s}\n") as server:
        (answer,) = server.get("query", query="vector(42)")["result"]
        assert answer["value"][1] == "42"


@pytest.mark.real
def test_promtool_tells_good_from_bad(tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: a, rules: [{alert: A, expr: up == 0}]}]\n")
    assert promtool("check", "rules", rules).returncode == 0
    rules.write_text("groups: [{name: a, rules: [{alert: A, expr: up ==}]}]\n")
    assert promtool("check", "rules", rules).returncode != 0
