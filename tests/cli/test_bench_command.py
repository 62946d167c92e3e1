"""`ghosttrain bench`: every group is there, and what is asked for is measured."""

from __future__ import annotations

import json

from ghosttrain.cli.bench import GROUPS
from ghosttrain.cli.main import main


def test_a_group_is_measured(capsys):
    assert main(["bench", "bytes"]) == 0
    assert "checksums of telemetry" in capsys.readouterr().out


def test_json_has_value_goal_and_verdict(capsys):
    assert main(["bench", "bytes", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["value"], row["goal"], row["reached"]) == (1, 1, True)


def test_an_unknown_group_is_refused_with_those_there_are(capfd):
    assert main(["bench", "speed"]) == 2
    said = capfd.readouterr().err
    assert "'speed'" in said
    assert all(group in said for group in GROUPS)
