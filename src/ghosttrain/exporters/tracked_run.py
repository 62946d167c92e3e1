"""What trackers call a run: its name, its launches, its configuration, its rows of values.

A tracker's row holds all that is told of a step: Megatron's learning rate, its iteration time and
a validation after that step come at different moments and stand in one row.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ghosttrain import __version__
from ghosttrain.core.events import RunStarted
from ghosttrain.core.identity import host_name
from ghosttrain.core.run import Run
from ghosttrain.core.timeline import physical_nodes
from ghosttrain.exporters.jsonl import run_row
from ghosttrain.exporters.scalars import Scalars
from ghosttrain.exporters.tag_sets import Framework, framework_of, metrics_rank

PROJECT = "ghosttrain"


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a run, as its tracker sees it.

    Attributes:
        number: From 1.
        made_s: When it began, run time.
        host: Of the process that tells the tracker.
        rank: That process.
    """

    number: int
    made_s: float
    host: str
    rank: int


def launches(run: Run, framework: Framework | None = None) -> tuple[Launch, ...]:
    """The launches of a run, in order; `framework` tells, or the one that suits the run."""
    cluster = run.spec.cluster
    rank = metrics_rank(framework or framework_of(run.plan), run.plan)
    made_s: dict[int, float] = {}
    for span in run.timeline.spans:
        made_s.setdefault(span.attempt, span.start_s)
    found = []
    for number in sorted(made_s):
        physical = physical_nodes(run.timeline, cluster.nodes, number)
        host = host_name(cluster, int(physical[rank // cluster.gpus_per_node]))
        found.append(Launch(number, made_s[number], host, rank))
    return tuple(found)


def run_name(run: Run) -> str:
    """A name for people, which the seed makes its own."""
    spec = run.spec
    model = spec.model.name.lower().replace(" ", "-").replace("/", "-")
    return f"{model}-{spec.cluster.gpus}gpus-seed{run.seed}"


def run_digest(run: Run, *words: object) -> bytes:
    """32 bytes of what was asked and the seed: the same for the same run, always."""
    facts = (replace(run.spec, chosen=(), notes=()), run.seed, *words)
    return hashlib.sha256(repr(facts).encode()).digest()


def config(run: Run) -> dict[str, Any]:
    """What a trainer would give as its configuration, and that nothing of it is real."""
    facts = run_row(RunStarted(0.0, run.seed, run.plan))
    made_by = {"simulated": True, "simulated_by": f"ghosttrain {__version__}"}
    return made_by | {
        key: value
        for key, value in facts.items()
        if key not in ("event", "time_s", "schema", "simulated")
    }


@dataclass(slots=True)
class Row:
    """All that was told of a step; `time_s` of the last of it."""

    step: int
    time_s: float
    values: dict[str, float]


class Rows:
    """Joins what is told of one step; gives a row when the next step is told of."""

    def __init__(self) -> None:
        self._open: Row | None = None

    @property
    def since_s(self) -> float | None:
        """Time of the row that may still grow, None if there is none."""
        return self._open.time_s if self._open else None

    def accept(self, told: Sequence[Scalars]) -> Iterator[Row]:
        """The rows that are complete."""
        for time_s, step, values in _moments(told):
            row = self._open
            if row is not None and row.step == step:
                row.time_s = time_s
                row.values |= values
                continue
            if row is not None:
                yield row
            self._open = Row(step, time_s, dict(values))

    def close(self) -> Iterator[Row]:
        """The last row."""
        if self._open:
            yield self._open
        self._open = None


def _moments(told: Iterable[Scalars]) -> Iterator[tuple[float, int, dict[str, float]]]:
    """(time, step, values by tag), merged by time; without the twins over other axes."""
    lanes = [_lane(one) for one in told if not one.tags[0].endswith(" vs samples")]
    return heapq.merge(*lanes, key=lambda moment: moment[0])


def _lane(one: Scalars) -> Iterator[tuple[float, int, dict[str, float]]]:
    rows = zip(one.time_s.tolist(), one.step.tolist(), one.values.tolist(), strict=True)
    for time_s, step, values in rows:
        told = dict(zip(one.tags, values, strict=True))
        if one.nan_is_absent:
            told = {tag: value for tag, value in told.items() if not math.isnan(value)}
        yield time_s, step, told
