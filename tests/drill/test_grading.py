"""The score, case by case as docs/drill.md has it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ghosttrain.core.errors import RequestError
from ghosttrain.core.events import IncidentLabelled
from ghosttrain.drill.grading import Answer, grade, read_answer, shown_s, verdict
from tests.drill.cases import case_of

END_S = 9000.0
SLOW = IncidentLabelled(
    time_s=END_S,
    incident=1,
    kind="straggler-gpu",
    family="straggler",
    scope="gpu",
    entity="gpu 17",
    node=2,
    first_rank=17,
    ranks=1,
    severity=0.07,
    onset_s=1000.0,
    signals=(("power", 1001.0), ("step_time", 1003.0)),
    detected_s=3001.0,
    mitigated_s=None,
    cleared_s=None,
    steps_lost=0,
    lost_s=100.0,
    benign=False,
)
CRASH = replace(
    SLOW, incident=2, kind="hbm-ecc", family="gpu", entity="gpu 40", node=5, onset_s=5000.0,
    signals=(("xid", 5000.0),), detected_s=5001.0,
)  # fmt: skip


def scored(*answers: tuple[float, str, str | None], hints: int = 0, labels=(SLOW,)) -> int:
    given = [Answer(*answer) for answer in answers]
    return grade(given, labels, hints=hints, end_s=END_S).score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ((1001.0, "straggler-gpu", "gpu 17"), 100),  # at the first signal
        ((1000.5, "straggler-gpu", "gpu 17"), 100),  # between onset and first signal
        ((3001.0, "straggler-gpu", "gpu 17"), 90),  # as quick as the run: half of 20
        ((5001.0, "straggler-gpu", "gpu 17"), 80),  # twice its time
        ((8000.0, "straggler-gpu", "gpu 17"), 80),
        ((1001.0, "straggler-gpu", "node 2"), 75),  # 40 + 20 + 20 * 60/80
        ((1001.0, "straggler-gpu", "node 3"), 50),  # 40 + 20 * 40/80
        ((1001.0, "slow-node", "gpu 17"), 75),  # same family
        ((1001.0, "hbm-ecc", "gpu 17"), 50),
        ((1001.0, "slow-node", "node 2"), 50),
        ((1001.0, "hbm-ecc", "gpu 3"), 0),
        ((1001.0, "straggler-gpu", None), 50),
        ((999.0, "straggler-gpu", "gpu 17"), 0),  # nothing was wrong yet
    ],
)
def test_one_answer(answer, score):
    assert scored(answer) == score


def test_hints_and_other_tries_cost_ten_each():
    right = (1001.0, "straggler-gpu", "gpu 17")
    early = (500.0, "straggler-gpu", "gpu 17")
    assert scored(right, hints=2) == 80
    assert scored(early, (900.0, "hbm-ecc", "gpu 1"), right, hints=1) == 70
    assert scored((1001.0, "hbm-ecc", None), hints=3) == 0
    assert scored() == 0
    assert scored(hints=3) == 0


def test_the_best_try_counts_not_the_last():
    assert scored((1001.0, "straggler-gpu", "node 2"), (1500.0, "hbm-ecc", "gpu 1")) == 65


def test_a_crash_leaves_a_person_ten_minutes():
    """It is noticed within a second: nobody could be as quick."""
    assert scored((5300.0, "hbm-ecc", "gpu 40"), labels=(SLOW, CRASH)) == 95
    assert scored((5600.0, "hbm-ecc", "gpu 40"), labels=(SLOW, CRASH)) == 90


def test_any_of_several_faults_counts():
    assert scored((1001.0, "straggler-gpu", "gpu 17"), labels=(SLOW, CRASH)) == 100
    assert verdict(Answer(1001.0, "hbm-ecc", "gpu 40"), (SLOW, CRASH)) == "wrong"
    assert verdict(Answer(5001.0, "hbm-ecc", "gpu 40"), (SLOW, CRASH)) == "right"


def test_never_noticed_is_measured_by_the_end():
    unseen = replace(SLOW, detected_s=None)
    assert shown_s(unseen) == 1001.0
    halfway_s = 1001.0 + (END_S - 1001.0)
    assert scored((halfway_s, "straggler-gpu", "gpu 17"), labels=(unseen,)) == 90


def test_an_early_right_answer_looks_like_a_wrong_one():
    assert verdict(Answer(999.0, "straggler-gpu", "gpu 17"), (SLOW,)) == "wrong"
    assert verdict(Answer(999.0, "hbm-ecc", "gpu 3"), (SLOW,)) == "wrong"


@pytest.mark.parametrize(
    ("words", "kind", "entity"),
    [
        ("straggler gpu 17", "straggler-gpu", "gpu 17"),
        ("xid-79 GPU17", "gpu-off-bus", "gpu 17"),
        ("slow-node node-2", "slow-node", "node 2"),
        ("slow-node gpu-0002", "slow-node", "node 2"),  # a host name, though it says gpu
        ("oom rank 63", "cuda-oom", "gpu 63"),
        ("hot-inlet rack 1", "hot-inlet", "rack 1"),
        ("congestion", "network-congestion", "fabric"),
        ("nan", "loss-nan", "job"),
        ("straggler", "straggler-gpu", None),
    ],
)
def test_answers_are_read_as_people_write_them(words, kind, entity):
    answer = read_answer(words.split(), case_of("straggler").run.spec, 5.0)
    assert answer == Answer(5.0, kind, entity)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "diagnose what"),
        ("straggly gpu 17", "did you mean straggler"),
        ("straggler gpu 64", "gpu 0 to 63"),
        ("straggler rack 2", "rack 0 to 1"),
        ("straggler kitchen", "no place 'kitchen'"),
    ],
)
def test_what_is_no_answer_is_told(words, message):
    with pytest.raises(RequestError, match=message):
        read_answer(words.split(), case_of("straggler").run.spec, 5.0)
