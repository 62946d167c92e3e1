"""The nodes' part of a page: what node_exporter would write."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from ghosttrain import catalog
from ghosttrain.exporters.prometheus.node_page import NodePages, go_float
from tests.exporters.pages import small_run
from tests.exporters.runs import run_with


def page(run=None, *, at_s: float = 180.0, **how) -> str:
    run = run or small_run()
    return (
        NodePages(run, catalog.metrics("node")).render(run.nodes(np.array([at_s])), **how).decode()
    )


def test_a_nodes_page_has_node_exporters_lines():
    text = page(node=1)
    lines = text.splitlines()
    assert "# TYPE node_load1 gauge" in lines
    assert lines.count("# TYPE node_cpu_seconds_total counter") == 1
    modes = [line for line in lines if line.startswith("node_cpu_seconds_total{")]
    assert len(modes) == 4
    assert 'node_cpu_seconds_total{mode="idle"} ' in text
    assert "instance" not in text
    total = next(line for line in lines if line.startswith("node_memory_MemTotal_bytes "))
    assert (
        float(total.split()[1])
        == small_run().nodes(np.array([0.0])).columns["memory_total_bytes"][0, 1]
    )


def test_a_page_of_all_nodes_says_whose_each_line_is():
    whole = {
        (s.name, s.labels.get("mode")): s.value
        for f in text_families(page())
        for s in f.samples
        if s.labels["instance"] == "gpu-0001"
    }
    own = {
        (s.name, s.labels.get("mode")): s.value
        for f in text_families(page(node=1))
        for s in f.samples
    }
    assert own == whole


def test_openmetrics_has_the_same_samples():
    def samples(families):
        return sorted(
            (s.name, *sorted(s.labels.items()), s.value) for f in families for s in f.samples
        )

    open_ = list(openmetrics_families(page(openmetrics=True) + "# EOF\n"))
    assert samples(open_) == samples(text_families(page()))
    assert {f.name: f.type for f in open_}["node_disk_written_bytes"] == "counter"


def test_a_node_that_is_down_says_nothing():
    run = run_with(("node-crash", 200.0, 9))
    down = next(s for s in run.timeline.spans if s.phase == "down")
    assert 'instance="gpu-0001"' not in page(run, at_s=down.start_s + 1)
    assert page(run, at_s=down.start_s + 1, node=1) == ""
    assert 'instance="gpu-0000"' in page(run, at_s=down.start_s + 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.21, "0.21"),
        (2.1082e-3, "0.0021082"),
        (123456.0, "123456"),
        (1e6, "1e+06"),
        (3831959552.0, "3.831959552e+09"),
        (1.7e9, "1.7e+09"),
        (1.23e-5, "1.23e-05"),
        (-2.5e7, "-2.5e+07"),
    ],
)
def test_numbers_are_written_as_go_does(value, text):
    """Some are of node_exporter's own collector/fixtures/e2e-output.txt."""
    assert go_float(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_exactly(value):
    assert float(go_float(value)) == value
    assert math.copysign(1, float(go_float(value))) == math.copysign(1, value or 1)
