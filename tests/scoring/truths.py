"""Hand-made truths and alarms."""

from __future__ import annotations

import json

from ghosttrain.scoring.predictions import Alarm
from ghosttrain.scoring.truth import Incident, Truth


def incident(number, onset_s, cleared_s, *, kind="gpu-off-bus", entity="gpu 9", benign=False):
    node = int(entity.split()[1]) // 8 if entity.startswith("gpu") else 0
    return Incident(number, kind, entity, node, onset_s, cleared_s, benign)


def truth(*incidents, end_s=10_000.0):
    return Truth(7, end_s, tuple(sorted(incidents, key=lambda i: i.onset_s)))


def alarms(*starts):
    """Alarms at the given times, numbered from line 1."""
    return [Alarm(line, float(start)) for line, start in enumerate(starts, 1)]


RUN_ROW = {
    "kind": "run", "run": 7, "simulated": True, "schema": "ghosttrain.labels/1", "seed": 7,
    "model": "m", "gpus": 16, "nodes": 2, "start": "2026-01-01T00:00:00Z", "end_s": 10_000.0,
}  # fmt: skip


def incident_row(number, onset_s, cleared_s, **changes):
    row = {
        "kind": "incident", "run": 7, "id": number, "class": "gpu-off-bus", "family": "gpu",
        "scope": "gpu", "entity": "gpu 9", "node": 1, "first_rank": 9, "ranks": 1,
        "severity": 0.0, "onset_s": onset_s, "signals": {"log": onset_s}, "detected_s": None,
        "mitigated_s": None, "cleared_s": cleared_s, "steps_lost": 0, "lost_s": 0.0,
        "benign": False,
    }  # fmt: skip
    return row | changes


LABELS = [
    RUN_ROW,
    incident_row(1, 100.0, 400.0),
    incident_row(2, 1000.0, 1100.0, **{"class": "host-crash"}, entity="node 0", node=0),
    incident_row(3, 5000.0, 5600.0, **{"class": "loss-bump"}, entity="job", benign=True),
    incident_row(4, 9000.0, None, **{"class": "straggler-gpu"}, entity="gpu 3", node=0),
    {"kind": "clean", "run": 7, "start_s": 0.0, "end_s": 100.0},
]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)
