"""Exporters of trackers driven over windows, with the telemetry they ask for."""

from __future__ import annotations

import pickle
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ghosttrain.core.run import Run

EVERY_S = 30.0


def exported(
    exporter: Any,
    run: Run,
    cuts: tuple[float, ...],
    *,
    pickled: bool = False,
    every_s: float = EVERY_S,
) -> dict[str, bytes]:
    """The files of the windows between `cuts`; `pickled`: the exporter is, between any two."""
    files: dict[str, bytes] = defaultdict(bytes)
    for start_s, stop_s in pairwise(cuts):
        if pickled:
            exporter = pickle.loads(pickle.dumps(exporter))
        for event in run.events(start_s, stop_s):
            for name, data in exporter.accept(event):
                files[name] += data
        moments = np.arange(np.ceil(start_s / every_s), 1 + run.end_s // every_s) * every_s
        moments = moments[(start_s <= moments) & (moments < stop_s)]
        if len(moments) and hasattr(exporter, "fields"):
            for name, data in exporter.sample(run.telemetry(moments, exporter.fields)):
                files[name] += data
    for name, data in exporter.close():
        files[name] += data
    return dict(files)


def put(files: dict[str, bytes], folder: Path) -> None:
    """Write the files below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
