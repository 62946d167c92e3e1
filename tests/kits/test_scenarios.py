"""Every scenario of the library under the kit's rules: what is promised fires and clears."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ghosttrain.catalog.scenarios import scenario_kinds, scenario_names
from ghosttrain.core.run import Run
from tests.kits import expectations, files
from tests.kits.evaluation import Firing, evaluated
from tests.kits.expectations import cadence, expected, played

WORKERS = 2  # of which each waits for its promtool most of the time

Evaluated = tuple[Run, list[Firing]]


@pytest.fixture(scope="session")
def scenes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Evaluated]]]:
    """The scenarios that are asked for, evaluated side by side."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    names = {spec.params.get("scenario") for spec in asked if spec} & set(expected())
    folder = tmp_path_factory.mktemp("scenes")
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {name: pool.submit(_evaluated, name, folder) for name in sorted(names)}


def _evaluated(scenario: str, folder: Path) -> Evaluated:
    run = played(scenario)
    place = folder / scenario
    place.mkdir()
    return run, evaluated(run, cadence(), place)


def test_every_scenario_has_its_promises_and_says_which_faults_make_none():
    assert {name for name, e in expected().items() if e.faults == name} == set(scenario_names())
    for name, promised in expected().items():
        told = {promise.fault for promise in promised.promises}
        assert not set(promised.silent) & told, name
        kinds = scenario_kinds(name) if promised.faults == name else told
        assert told | set(promised.silent) == set(kinds), name


def test_promises_name_alerts_that_there_are():
    named = {p.alert for e in expected().values() for p in e.promises}
    assert named <= set(files.alerts())
    for promised in expected().values():
        assert set(promised.may) <= set(files.alerts()), promised.scenario


@pytest.mark.real
@pytest.mark.parametrize("scenario", expected())
def test_what_is_promised_fires_and_clears_and_nothing_else_does(scenario, scenes):
    run, firings = scenes[scenario].result()
    assert expectations.broken(expected()[scenario], run, firings) == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("scenario", "severities"),
    [("calm-night", {"info"}), ("red-herring", {"info", "warning"})],
)
def test_lookalikes_wake_nobody(scenario, severities, scenes):
    _, firings = scenes[scenario].result()
    assert {firing.label("severity") for firing in firings} <= severities
    if scenario == "red-herring":  # the card with the errors is not the one that is accused
        assert not {f.label("gpu") for f in firings if f.alert == "GpuEccCorrectedMany"} & {
            f.label("gpu") for f in firings if f.label("severity") == "warning"
        } - {""}
