"""What is hidden suits the level and the machine, and follows from the seed."""

from __future__ import annotations

import pytest

from ghosttrain import catalog
from ghosttrain.catalog.scenarios import scenario_kinds
from ghosttrain.core.errors import RequestError
from ghosttrain.core.spec import FaultKind
from ghosttrain.drill.choice import draw_case, is_silent
from ghosttrain.inputs.request import Request, resolve
from tests.drill.cases import case_of


def real_kinds(scenario: str) -> list[FaultKind]:
    return [k for k in map(catalog.fault_kind, scenario_kinds(scenario)) if not k.benign]


@pytest.mark.parametrize("seed", range(12))
def test_an_easy_drill_ends_the_run_and_a_hard_one_is_silent(seed):
    easy, hard = case_of(None, seed, "easy"), case_of(None, seed, "hard")
    assert all(kind.interrupts for kind in real_kinds(easy.scenario))
    assert all(is_silent(kind) for kind in real_kinds(hard.scenario))
    noise = [k for k in scenario_kinds(easy.scenario) if catalog.fault_kind(k).benign]
    assert {label.kind for label in easy.lookalikes} <= set(noise)
    assert len(hard.lookalikes) >= 2


@pytest.mark.parametrize("seed", range(12))
def test_something_real_shows_before_the_run_is_nearly_over(seed):
    case = case_of(None, seed)
    first_s = min(time_s for label in case.labels for _, time_s in label.signals)
    assert first_s < 0.9 * case.run.end_s
    assert not any(label.benign for label in case.labels)


def test_same_seed_same_case_and_another_seed_another():
    spec = resolve(Request(spec="llama-3-8b"), 7)
    again = draw_case(spec, 7, None, "normal")
    assert again.run.timeline == case_of(None, 7).run.timeline
    scenarios = {case_of(None, seed).scenario for seed in range(12)}
    assert len(scenarios) > 4


def test_the_run_around_it_is_the_one_without_faults():
    plain = resolve(Request(spec="llama-3-8b"), 7)
    assert case_of("straggler").run.spec.recipe == plain.recipe
    assert case_of("straggler").run.seed == 7


def test_a_machine_gets_only_faults_it_can_have():
    """NVLink 5 is Blackwell's; one node has no network between nodes."""
    spec = resolve(Request(spec="llama-3-8b", asked={"cluster.gpus": 8}), 3)
    for seed in range(25):
        case = draw_case(spec, seed, None, "normal")
        kinds = {fault.kind for fault in case.run.spec.faults.injected}
        assert not any(k.family == "network" or k.name == "nvlink5-error" for k in kinds)


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("stragler", "straggler-gpu"),
        ("straggler-7-precent", "straggler-7-percent"),
        ("calm-night", "it only looks so"),
        ("none", "may hide nothing"),
        ("realistic", "may hide nothing"),
        ("./no-such.toml", "no-such.toml"),
        ("straggler@90h", "nothing of it shows"),
    ],
)
def test_what_cannot_be_hidden_is_refused(scenario, words):
    spec = resolve(Request(spec="llama-3-8b"), 7)
    with pytest.raises(RequestError, match=words):
        draw_case(spec, 7, scenario, "normal")
