"""JSONL: one row a line, read back with the standard reader."""

from __future__ import annotations

import json

from ghosttrain.exporters.jsonl import JsonlWriter
from tests.views.renderables.test_fault_lines import LABEL


def test_signals_of_an_incident_are_an_object_of_name_and_time():
    row = json.loads(JsonlWriter().accept(LABEL))
    assert row["event"] == "incident_labelled"
    assert row["signals"] == {"step_time": 7210.0}
    assert (row["incident"], row["kind"], row["detected_s"]) == (4, "straggler-gpu", 15000.0)
