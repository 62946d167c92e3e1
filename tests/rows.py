"""Events as flat rows: what remains of a stream when windows and batches are forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import NamedTuple

from ghosttrain.core.events import (
    CollectiveSamples,
    Event,
    FleetSampled,
    FleetSamples,
    PhaseEnded,
    PhaseStarted,
    RunStarted,
    StepsCompleted,
)

SAMPLES = ("fleet", "collectives")


class Row(NamedTuple):
    """One row: `value` holds every bit of it."""

    kind: str
    time_s: float
    value: tuple[object, ...]


def rows_of(events: Iterable[Event]) -> list[Row]:
    return [row for event in events for row in event_rows(event)]


def event_rows(event: Event) -> Iterator[Row]:
    match event:
        case StepsCompleted():
            yield from _step_rows(event)
        case FleetSampled():
            yield fleet_row(event.samples, 0)
        case RunStarted():  # the plan is compared as an object, where it should be the same
            yield Row("RunStarted", event.time_s, (event.seed,))
        case PhaseStarted() | PhaseEnded():
            yield Row(f"{type(event).__name__} {event.phase.value}", event.time_s, _values(event))
        case _:
            yield Row(type(event).__name__, event.time_s, _values(event))


def _values(event: object) -> tuple[object, ...]:
    # repr tells apart what == does not: 0.0 and -0.0; and nan is itself.
    return tuple(repr(getattr(event, f.name)) for f in fields(event))  # type: ignore[arg-type]


def _step_rows(event: StepsCompleted) -> Iterator[Row]:
    columns = [f.name for f in fields(event) if f.name not in {*SAMPLES, "attempt"}]
    fleet = _positions(event.fleet)
    timed = _positions(event.collectives)
    for i, step in enumerate(event.step.tolist()):
        values = tuple(getattr(event, name)[i].tobytes() for name in columns)
        yield Row("step", float(event.end_s[i]), (event.attempt, step, *values))
        if step in timed and event.collectives is not None:
            yield _collective_row(event.collectives, timed.pop(step))
        if step in fleet and event.fleet is not None:
            yield fleet_row(event.fleet, fleet.pop(step))
    assert not fleet, "a batch has fleet samples of steps that are not in it"
    assert not timed, "a batch has collective timings of steps that are not in it"


def _positions(samples: FleetSamples | CollectiveSamples | None) -> dict[int, int]:
    return {} if samples is None else {step: k for k, step in enumerate(samples.step.tolist())}


def _collective_row(samples: CollectiveSamples, k: int) -> Row:
    values = tuple(getattr(samples, f.name)[k].tobytes() for f in fields(samples))
    return Row("collective", float(samples.time_s[k]), values)


def fleet_row(samples: FleetSamples, k: int) -> Row:
    columns = ("util_pct", "temp_c", "memory_gib", "power_w")
    values = tuple(getattr(samples, name)[k].tobytes() for name in columns)
    return Row("fleet", float(samples.time_s[k]), (int(samples.step[k]), samples.lost, *values))
