"""The files an exporter makes of a run, and runs with faults to make them of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from ghosttrain import catalog
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.formats import EXPORTERS
from ghosttrain.exporters.savepoint import restored_exporters, saved_exporters
from ghosttrain.exporters.writing import Asked, Chunk
from tests.golden.timelines import SEED, case_spec

KINDS = tuple(catalog.names("fault"))


@cache
def faulty_run(kind: str) -> Run:
    """The run of the golden timelines with this fault."""
    return simulate(case_spec(kind), SEED)


def files_of(
    asked: Asked, name: str, cuts: Iterable[float] = (), every: int = 1000
) -> dict[str, str]:
    """What the format makes of the whole run, its events asked for in windows.

    At each cut the exporter is saved and had again, as in an export that was killed.
    """
    exporter = EXPORTERS[name].exporter(asked)
    made: dict[str, bytes] = {}

    def write(chunks: Iterable[Chunk]) -> None:
        for file, data in chunks:
            made[file] = made.get(file, b"") + data

    for start_s, stop_s in pairwise([0.0, *sorted(cuts), math.inf]):
        for event in asked.run.events(start_s, stop_s, sample_every=every):
            write(exporter.accept(event))
        (exporter,) = restored_exporters(saved_exporters([exporter], asked), asked)
    write(exporter.close())
    return {file: data.decode() for file, data in made.items()}


def lines_of(files: dict[str, str]) -> Iterable[tuple[str, str]]:
    """(file, line) of all of them."""
    for file, text in files.items():
        *lines, rest = text.split("\n")
        assert rest == "", file
        for line in lines:
            yield file, line
