"""What is hidden: which scenario of the library strikes which run, and when.

All of it follows from the seed, from a stream of its own: a drill changes no other draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from ghosttrain import catalog
from ghosttrain.catalog.names import fold
from ghosttrain.catalog.scenarios import (
    scenario_kinds,
    scenario_names,
    scenario_text,
    scenario_title,
)
from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import IncidentLabelled
from ghosttrain.core.plan import plan
from ghosttrain.core.rng import Stream
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import FaultKind, InjectedFault, RunSpec
from ghosttrain.inputs.faults import Setting, read_faults

Level = Literal["easy", "normal", "hard"]

LEVELS: Final[tuple[Level, ...]] = ("easy", "normal", "hard")
DRAWN: Final = ("any", "random")  # words for: hide what you like
_LOOKALIKES: Final[dict[Level, int]] = {"easy": 0, "normal": 1, "hard": 2}
# Where in the run's training a fault comes that has no time of its own: late enough that there
# is something to compare with, early enough that there is time to look.
_ONSET = (0.15, 0.55)
_LOOKALIKE_ONSET = (0.05, 0.8)
_LATEST_SHOWN = 0.9  # of the run: a drawn scenario has shown something by then
_TRIES = 40
_WORDS = 16  # random words of a try


@dataclass(frozen=True, slots=True)
class Case:
    """A run with hidden faults.

    Attributes:
        scenario: Name of the scenario or words of the faults.
        title, story: Of the scenario, "" where it is none.
        labels: The truth, without lookalikes, in order of the onset; at least one.
        lookalikes: The lookalikes' truth.
    """

    run: Run
    scenario: str
    title: str
    story: str
    labels: tuple[IncidentLabelled, ...]
    lookalikes: tuple[IncidentLabelled, ...]


def draw_case(spec: RunSpec, seed: int, scenario: str | None, level: Level) -> Case:
    """Hide a fault in the run of `spec` under `seed`.

    Args:
        spec: The run, without faults.
        seed: Of the run and of what is hidden in it.
        scenario: A scenario, its file or a fault kind; None: drawn from the library.
        level: How loud the drawn scenario is, and how many lookalikes come with it.

    Raises:
        RequestError: If there is no such scenario, or it shows nothing in this run.
    """
    if scenario is not None and scenario.strip() in ("none", "realistic"):
        raise RequestError(
            f"drill {scenario.strip()!r}: that may hide nothing; name a scenario of"
            " `ghosttrain list scenarios` or a fault of `ghosttrain list faults`"
        )
    drawn = _scenarios_for(spec, level)
    names = [scenario] if scenario is not None else drawn
    if not names:
        raise RequestError(f"no scenario of level {level} suits this run: try another --level")
    stream = Stream(seed, "drill")
    for number in range(_TRIES):
        u = stream.uniform(_WORDS * number, _WORDS).tolist()
        name = names[int(u[0] * len(names))]
        case = _hidden(spec, seed, name, level, u, number)
        latest_s = _LATEST_SHOWN * case.run.end_s if scenario is None else math.inf
        if case.labels and min(s for label in case.labels for _, s in label.signals) < latest_s:
            return case
        if scenario is not None and not case.labels and case.lookalikes and not _has_real(case):
            raise RequestError(
                f"drill {scenario!r}: nothing is wrong there, it only looks so;"
                " name one that breaks something"
            )
    what = f"drill {scenario!r}" if scenario is not None else f"level {level}"
    raise RequestError(f"{what}: nothing of it shows in this run: ask for a longer one, as --steps")


def labels_of(run: Run) -> list[IncidentLabelled]:
    """The truth about all incidents, in order of the onset."""
    end_s = run.end_s
    times = {end_s if i.cleared_s is None else i.cleared_s for i in run.timeline.incidents}
    found = [
        event
        for time_s in sorted(times)
        for event in run.events(
            time_s, math.inf if time_s >= end_s else np.nextafter(time_s, end_s)
        )
        if isinstance(event, IncidentLabelled)
    ]
    return sorted(found, key=lambda label: (label.onset_s, label.incident))


def is_loud(kind: FaultKind) -> bool:
    """Whether it ends the processes, so that messages tell of it."""
    return kind.interrupts


def is_silent(kind: FaultKind) -> bool:
    """Whether only numbers show it: slowness, storage, wrong sums."""
    silent = kind.course in ("slow", "save") or kind.effect == "corruption"
    return silent and kind.effect != "full-storage"


def _scenarios_for(spec: RunSpec, level: Level) -> list[str]:
    """Scenarios of the library that suit the run and the level."""
    possible = _possible_kinds(spec)
    found = []
    for name in scenario_names():
        names = scenario_kinds(name)
        real = [kind for kind in map(catalog.fault_kind, names) if not kind.benign]
        if not real or not possible.issuperset(names):
            continue
        match level:
            case "easy":
                fits = all(map(is_loud, real))
            case "hard":
                fits = all(map(is_silent, real))
            case "normal":
                fits = True
        if fits:
            found.append(name)
    return found


def _possible_kinds(spec: RunSpec) -> set[str]:
    """Kinds that such a machine can have."""
    struck = {kind.name for kind in catalog.realistic_faults(spec.gpu)}
    kinds = map(catalog.fault_kind, catalog.names("fault"))
    return {
        kind.name
        for kind in kinds
        if (kind.name in struck or not kind.rate_per_1000_gpu_days)
        and (spec.cluster.nodes > 1 or kind.family != "network")
    }


def _hidden(
    spec: RunSpec, seed: int, name: str, level: Level, u: Sequence[float], number: int
) -> Case:
    """The case of scenario `name`, with what else random words `u` of try `number` put in."""
    planned = plan(spec)
    rest = iter(u[2:])

    def moment_s(share: float) -> float:
        return planned.init_s + share * (planned.run_s - planned.init_s)

    def some_time_s(_name: str) -> float:
        low, high = _ONSET
        return round(moment_s(low + (high - low) * next(rest, u[1])), 3)

    # Scenarios draw from the run's seed: another try needs another.
    other = seed if not number else int(u[1] * 2**53)
    setting = Setting(other, spec.gpu, spec.cluster, moment_s, some_time_s)
    faults = read_faults(name, setting, watchdog_timeout_s=spec.faults.watchdog_timeout_s)
    noise = _lookalikes(spec, faults.injected, level, u, moment_s(0.0), planned.run_s)
    faults = replace(faults, injected=(*faults.injected, *noise))
    run = simulate(replace(spec, faults=faults), seed)
    labels = labels_of(run)
    title, story = _told(name)
    return Case(
        run=run,
        scenario=name,
        title=title,
        story=story,
        labels=tuple(label for label in labels if not label.benign and label.signals),
        lookalikes=tuple(label for label in labels if label.benign),
    )


def _lookalikes(
    spec: RunSpec,
    injected: Sequence[InjectedFault],
    level: Level,
    u: Sequence[float],
    begin_s: float,
    end_s: float,
) -> Iterator[InjectedFault]:
    """Harmless noise, of kinds that are not in it anyway."""
    there = {fault.kind.name for fault in injected}
    benign = [
        kind
        for kind in map(catalog.fault_kind, sorted(_possible_kinds(spec)))
        if kind.benign and kind.name not in there
    ]
    words = u[6:]
    for n in range(_LOOKALIKES[level]):
        if not benign:
            return
        kind = benign.pop(int(words[3 * n] * len(benign)))
        low, high = _LOOKALIKE_ONSET
        at_s = begin_s + (low + (high - low) * words[3 * n + 1]) * (end_s - begin_s)
        gpu = int(words[3 * n + 2] * spec.cluster.gpus)
        yield InjectedFault(kind, round(at_s, 3), gpu)


def _told(name: str) -> tuple[str, str]:
    """Title and story of a scenario of the library."""
    if (key := fold(name)) not in scenario_names():
        return "", ""
    import tomllib  # 4 ms: not before it is needed

    story = tomllib.loads(scenario_text(key)).get("story", "")
    return scenario_title(key), " ".join(story.split())


def _has_real(case: Case) -> bool:
    """Whether anything is asked for that is no lookalike."""
    return any(not fault.kind.benign for fault in case.run.spec.faults.injected)
