"""The page on testing alerts: its test passes, and each row of its table fires."""

from __future__ import annotations

import pytest

from ghosttrain.testing import RunServer
from tests.documents import blocks
from tests.how_to.pages import page, rows
from tests.real.prometheus import program
from tests.testing.projects import run_pytest

PAGE = page("test-your-alerts-in-five-minutes")
ROWS = [tuple(row[1:]) for row in rows(PAGE, "| the alert watches | `expr` | ask for |")]
RUN = "llama-3-8b --gpus 64 --steps 4000 --seed 7"

pytestmark = pytest.mark.real


def rule(expr: str) -> str:
    return f"groups:\n- name: g\n  rules:\n  - alert: A\n    expr: '{expr}'\n"


def test_its_test_passes(tmp_path):
    program("promtool")
    (rules,), (test,) = blocks(PAGE, "yaml"), blocks(PAGE, "python")
    (tmp_path / "rules.yml").write_text(rules, encoding="utf-8")
    done = run_pytest(tmp_path, test)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_table_was_read():
    assert len(ROWS) == 11


@pytest.mark.parametrize(("expr", "fault"), ROWS)
def test_each_row_fires_with_its_fault_and_not_before(ghosttrain_server, expr: str, fault: str):
    program("promtool")
    server: RunServer = ghosttrain_server(RUN, faults=fault, metrics="all")
    (truth,) = server.labels
    fired = server.alerts(rule(expr), start="25min", stop="70min")
    assert fired
    assert all(alert.start_s >= truth.onset_s for alert in fired)


def test_no_row_fires_without_a_fault(ghosttrain_server):
    program("promtool")
    server: RunServer = ghosttrain_server(RUN, metrics="all")
    rules = "groups:\n- name: g\n  rules:\n" + "".join(
        f"  - alert: A{number}\n    expr: '{expr}'\n" for number, (expr, _) in enumerate(ROWS)
    )
    assert server.alerts(rules, start="15min", stop="70min") == []
