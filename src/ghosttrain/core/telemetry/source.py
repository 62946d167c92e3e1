"""TelemetrySource: blocks of moments of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.counters import CounterSource, Moments
from ghosttrain.core.counters.moments import same_of_all
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import Phase
from ghosttrain.core.fleet import FleetSource
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.steps import StepSource
from ghosttrain.core.telemetry.block import Block, Sources
from ghosttrain.core.telemetry.fields import FIELDS, Column
from ghosttrain.core.timeline import Timeline, moments_by_span

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """A block of moments.

    Attributes:
        time_s: Moments, shape (K,).
        attempt: Launch at each, shape (K,).
        columns: By field, float32 or int64, shape (K, G); to be read, not written to.
        lost: At each moment the GPUs that do not answer; their values mean nothing.
        nodes_down: At each moment the nodes of which nothing answers.
    """

    time_s: F64
    attempt: I64
    columns: Mapping[str, Column]
    lost: tuple[tuple[int, ...], ...]
    nodes_down: tuple[tuple[int, ...], ...]

    def part(self, start: int, stop: int) -> Telemetry:
        """Moments [start, stop)."""
        at = slice(start, stop)
        columns = {name: column[at] for name, column in self.columns.items()}
        return Telemetry(
            self.time_s[at], self.attempt[at], columns, self.lost[at], self.nodes_down[at]
        )


class TelemetrySource:
    """Computes the telemetry of one run."""

    def __init__(
        self,
        plan: Plan,
        timeline: Timeline,
        fleet: FleetSource,
        steps: StepSource,
        signals: SignalSource,
    ) -> None:
        self.counters = CounterSource(plan, timeline, fleet, signals)
        self.sources = Sources(plan, timeline, fleet, signals, self.counters)
        self.plan, self.timeline, self.fleet, self.steps = plan, timeline, fleet, steps
        self.signals, self.starts_s = signals, np.asarray(timeline.starts_s)
        self.gpus, self.per_node = self.sources.gpus, self.sources.per_node

    def at(self, times_s: F64, fields: Sequence[str] | None = None) -> Telemetry:
        """Telemetry at ascending moments; only what `fields` need is computed (None: all).

        Raises:
            SpecError: If the moments do not ascend or there is no such field.
        """
        times = np.asarray(times_s, np.float64).reshape(-1)
        names = tuple(FIELDS) if fields is None else tuple(fields)
        _refuse_fields(names)
        blocks = [Block(self.sources, moments) for moments in self.moments(times)]
        columns = {
            name: _joined([FIELDS[name](block) for block in blocks], self.gpus) for name in names
        }
        return Telemetry(
            times,
            np.concatenate([np.full(len(b.at.time_s), b.at.span.attempt) for b in blocks])
            if blocks
            else np.empty(0, np.int64),
            MappingProxyType(columns),
            tuple(lost for block in blocks for lost in block.lost),
            tuple(nodes for block in blocks for nodes in block.silent),
        )

    def moments(self, times_s: F64) -> Iterator[Moments]:
        """Ascending moments by the span that holds them, with the steps in progress.

        Raises:
            SpecError: If they do not ascend.
        """
        times = np.asarray(times_s, np.float64).reshape(-1)
        _refuse_times(times)
        for index, low, high in moments_by_span(self.timeline, self.starts_s, times):
            span, part = self.timeline.spans[index], times[low:high]
            if span.phase is not Phase.TRAINING or not span.steps:
                yield Moments(index, span, part)
                continue
            yield Moments(index, span, part, self.steps.in_progress(span, part))


def _joined(parts: list[Column], gpus: int) -> Column:
    if not parts:
        return np.empty((0, gpus), np.float32)
    if len(parts) == 1:
        return parts[0]
    if any(part.strides[1] for part in parts):
        return np.concatenate(parts)
    return same_of_all(np.concatenate([part[:, 0] for part in parts]), gpus)


def _refuse_times(times: F64) -> None:
    if not (np.isfinite(times) & (times >= 0)).all():
        raise SpecError("moments of telemetry must be finite run seconds from 0 on")
    if (np.diff(times) < 0).any():
        raise SpecError("moments of telemetry must ascend: sort them")


def _refuse_fields(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in FIELDS]
    if unknown:
        raise SpecError(
            f"no field of telemetry is named {', '.join(unknown)}; "
            f"there are {', '.join(sorted(FIELDS))}"
        )
