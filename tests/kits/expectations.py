"""The kit's promises: which scenario makes which alert fire and clear, and when."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ghosttrain.cli import run as run_command
from ghosttrain.cli.common import new_parser, request_from_args, settle
from ghosttrain.cli.main import parse
from ghosttrain.core.events import IncidentLabelled
from ghosttrain.core.identity import host_name
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.timeline import physical_nodes
from ghosttrain.inputs.durations import parse_duration
from ghosttrain.inputs.request import resolve
from tests.kits.evaluation import Cadence, Firing
from tests.kits.files import KITS

PATH = KITS / "expectations.toml"
Place = Literal["gpu", "node", "nodes", "any-node", "job"]


@dataclass(frozen=True, slots=True)
class Promise:
    """A row of `fires`: see the head of the file."""

    alert: str
    fault: str
    at: Place
    within_s: float
    start: str = "onset"
    until: str = ""
    clears_s: float = 0.0
    nth: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """What is promised of a scenario, on which machine."""

    scenario: str
    faults: str  # what asks for it: its name, where it is one of the library's
    machine: str
    promises: tuple[Promise, ...]
    may: tuple[str, ...]
    silent: dict[str, str]


@cache
def cadence() -> Cadence:
    """How often the scenarios are scraped and the rules evaluated."""
    play = _file()["play"]
    return Cadence(round(parse_duration(play["scrape"])), round(parse_duration(play["evaluate"])))


@cache
def expected() -> dict[str, Expected]:
    """The promises by scenario."""
    return {name: _read(name, row) for name, row in _file().items() if name != "play"}


def played(scenario: str) -> Run:
    """The run of a scenario on the machine of its promises."""
    parser = new_parser("run", "", ())
    run_command.add_arguments(parser)
    promised = expected()[scenario]
    words = f"{promised.machine} --faults {promised.faults} --format jsonl"
    args = parse(parser, words.split())
    settle(args, watched=False)
    return simulate(resolve(request_from_args(args), args.seed), args.seed)


def broken(expected: Expected, run: Run, firings: Sequence[Firing]) -> list[str]:
    """In words, each promise that was not kept, and each alert that nobody promised."""
    labels = sorted(run.labels(), key=lambda label: label.onset_s)
    kinds: dict[str, list[IncidentLabelled]] = defaultdict(list)
    for label in labels:
        kinds[label.kind].append(label)
    found: list[str] = []
    explained: set[Firing] = set()
    first_s = labels[0].onset_s if labels else run.end_s
    for promise in expected.promises:
        for number, label in enumerate(kinds[promise.fault], start=1):
            of_it = [f for f in firings if f.alert == promise.alert]
            here = [f for f in of_it if _is_there(f, promise, label, run)]
            explained.update(here)
            if not promise.nth or number in promise.nth:
                found += _unkept(promise, label, here, run)
        if not kinds[promise.fault]:
            found.append(f"{promise.alert}: no {promise.fault} came")
    for firing in firings:
        if firing not in explained and firing.alert not in expected.may:
            found.append(f"nobody promised {_words(firing)}")
        if firing.start_s < first_s and firing.label("severity") != "info":
            found.append(f"before the first fault ({first_s:.0f} s): {_words(firing)}")
    return found


def _unkept(
    promise: Promise, label: IncidentLabelled, firings: Sequence[Firing], run: Run
) -> Iterator[str]:
    """What of a promise was not kept for one fault."""
    about = f"{promise.alert} for {label.kind} at {label.entity} (onset {label.onset_s:.0f} s)"
    start_s = _moment(label, promise.start)
    if start_s is None or start_s + promise.within_s > run.end_s:
        yield f"{about}: the run has no time for it"
        return
    last_s = start_s + promise.within_s
    fired = [f for f in firings if f.start_s <= last_s and (f.stop_s or run.end_s) > start_s]
    missing = _places(promise, label, run) - {_host(f) for f in fired}
    if promise.at == "any-node":
        missing = set() if fired else missing
    if missing or not fired:
        where = ", ".join(sorted(missing))
        yield f"{about}: did not fire by {last_s:.0f} s {where}; {_all(firings)}"
        return
    if not promise.until:
        return
    cleared_s = _moment(label, promise.until)
    for firing in fired:
        if cleared_s is None:
            if firing.stop_s is not None:
                yield f"{about}: cleared though the fault stayed; {_words(firing)}"
        elif cleared_s + promise.clears_s < run.end_s and (
            firing.stop_s is None or firing.stop_s > cleared_s + promise.clears_s
        ):
            yield f"{about}: not gone by {cleared_s + promise.clears_s:.0f} s; {_words(firing)}"


def _is_there(firing: Firing, promise: Promise, label: IncidentLabelled, run: Run) -> bool:
    places = _places(promise, label, run)
    if promise.at == "gpu":
        local = label.first_rank % run.spec.cluster.gpus_per_node
        return _host(firing) in places and firing.label("gpu") == str(local)
    return promise.at == "job" or _host(firing) in places


def _places(promise: Promise, label: IncidentLabelled, run: Run) -> set[str]:
    """Names of the machines that a fault is at; those of its onset."""
    if promise.at == "job":
        return set()
    cluster = run.spec.cluster
    attempt = run.span_at(label.onset_s).attempt
    physical = physical_nodes(run.timeline, cluster.nodes, attempt)
    per_node = cluster.gpus_per_node
    first, last = label.first_rank, label.first_rank + label.ranks - 1
    nodes = range(first // per_node, last // per_node + 1)
    return {host_name(cluster, int(physical[node])) for node in nodes}


def _host(firing: Firing) -> str:
    return firing.label("Hostname") or firing.label("instance")


def _moment(label: IncidentLabelled, name: str) -> float | None:
    moment: float | None = getattr(label, f"{name}_s")
    return moment


def _words(firing: Firing) -> str:
    stop = "the end" if firing.stop_s is None else f"{firing.stop_s:.0f} s"
    where = " ".join(filter(None, (_host(firing), firing.label("gpu"))))
    return f"{firing.alert} {where} from {firing.start_s:.0f} s to {stop}"


def _all(firings: Iterable[Firing]) -> str:
    return "; ".join(map(_words, firings)) or "it never did"


def _read(name: str, row: dict[str, Any]) -> Expected:
    play = _file()["play"]
    return Expected(
        name,
        row.get("faults", name),
        f"{row.get('machine', play['machine'])} {play['flags']}",
        tuple(_promise(fires) for fires in row.get("fires", ())),
        tuple(row.get("may", ())),
        dict(row.get("silent", {})),
    )


def _promise(row: dict[str, Any]) -> Promise:
    return Promise(
        row["alert"],
        row["fault"],
        row["at"],
        parse_duration(row["within"]),
        row.get("from", "onset"),
        row.get("until", ""),
        parse_duration(row["clears"]) if "clears" in row else 0.0,
        tuple(row.get("nth", ())),
    )


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(PATH.read_text(encoding="utf-8"))
