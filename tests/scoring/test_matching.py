"""The rules by which alarms find incidents."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.scoring.matching import match, place_of
from ghosttrain.scoring.predictions import Alarm
from tests.scoring.truths import alarms, incident, truth


def outcomes(matching):
    return [(v.outcome, v.incident.number if v.incident else None) for v in matching.verdicts]


@pytest.mark.parametrize(
    ("start_s", "outcome"),
    [
        (99.999, "false"),
        (100.0, "found"),
        (250.0, "found"),
        (400.0, "found"),
        (460.0, "found"),
        (460.001, "false"),
    ],
)
def test_an_alarm_hits_from_the_onset_to_the_end_of_the_grace(start_s, outcome):
    matching = match(truth(incident(1, 100.0, 400.0)), alarms(start_s), 60.0)
    assert [v.outcome for v in matching.verdicts] == [outcome]


def test_without_a_clear_time_it_can_be_found_to_the_end():
    assert outcomes(match(truth(incident(1, 100.0, None)), alarms(10_000.0))) == [("found", 1)]


def test_the_earliest_hit_finds_and_the_rest_are_repeats_whatever_their_order_in_the_file():
    matching = match(truth(incident(1, 100.0, 400.0)), alarms(300, 150, 200))
    assert [(v.alarm.start_s, v.outcome) for v in matching.verdicts] == [
        (150.0, "found"),
        (200.0, "repeat"),
        (300.0, "repeat"),
    ]
    assert matching.missed == ()


def test_benign_incidents_make_false_alarms_of_their_own():
    known = truth(incident(1, 100.0, 400.0, benign=True), incident(2, 1000.0, 1100.0))
    matching = match(known, alarms(150, 700, 1050))
    assert outcomes(matching) == [("benign", 1), ("false", None), ("found", 2)]


def test_who_hits_a_real_and_a_benign_one_has_hit_the_real_one():
    known = truth(incident(1, 100.0, 400.0, benign=True), incident(2, 100.0, 400.0))
    assert outcomes(match(known, alarms(150))) == [("found", 2)]


def test_of_two_that_are_open_the_one_that_ends_first_is_found_first_so_that_both_can_be():
    known = truth(incident(1, 100.0, 400.0), incident(2, 200.0, 900.0))
    assert outcomes(match(known, alarms(250, 800))) == [("found", 1), ("found", 2)]


def test_one_alarm_finds_one_incident():
    known = truth(incident(1, 100.0, 400.0), incident(2, 100.0, 400.0))
    assert len(match(known, alarms(150)).missed) == 1


def test_what_an_alarm_names_decides_which_one_it_found():
    known = truth(incident(1, 100.0, 400.0, entity="gpu 3"), incident(2, 200.0, 900.0))
    by_place = Alarm(1, 250.0, entity="gpu 9")
    assert outcomes(match(known, [by_place])) == [("found", 2)]
    by_node = Alarm(1, 250.0, entity="node 1")
    assert outcomes(match(known, [by_node])) == [("found", 2)]


def test_repeats_for_one_incident_do_not_find_another_one_by_the_way():
    known = truth(incident(1, 100.0, 400.0), incident(2, 100.0, 900.0, entity="gpu 3"))
    told = [Alarm(line, 150.0 + line, entity="gpu 9") for line in (1, 2, 3)]
    matching = match(known, told)
    assert outcomes(matching) == [("found", 1), ("repeat", 1), ("repeat", 1)]
    assert [i.number for i in matching.missed] == [2]


@pytest.mark.parametrize(
    ("named", "broken", "place"),
    [
        ("gpu 9", "gpu 9", "exact"),
        ("node 1", "gpu 9", "near"),
        ("node 0", "gpu 9", "wrong"),
        ("gpu 8", "gpu 9", "wrong"),
        ("gpu 0", "node 0", "wrong"),
        (None, "gpu 9", None),
    ],
)
def test_near_is_the_node_of_the_gpu(named, broken, place):
    assert place_of(Alarm(1, 0.0, entity=named), incident(1, 0.0, 1.0, entity=broken)) == place


def test_clean_time_leaves_out_the_windows_once_and_lookalikes_count_as_clean():
    known = truth(
        incident(1, 100.0, 400.0),
        incident(2, 200.0, 300.0),
        incident(3, 5000.0, 6000.0, benign=True),
        incident(4, 9900.0, None),
    )
    assert match(known, []).clean_s == pytest.approx(10_000 - 360 - 100)


spans = st.tuples(st.floats(0, 9000), st.floats(0, 900), st.booleans())


@given(
    spans=st.lists(spans, max_size=6),
    starts=st.lists(st.floats(0, 10_000), max_size=12),
    grace_s=st.sampled_from((0.0, 60.0)),
)
def test_every_alarm_has_one_verdict_and_every_incident_is_found_once_or_missed(
    spans, starts, grace_s
):
    known = truth(*(incident(n, s, s + long, benign=b) for n, (s, long, b) in enumerate(spans, 1)))
    matching = match(known, alarms(*starts), grace_s)
    assert sorted(v.alarm.start_s for v in matching.verdicts) == sorted(starts)
    found = [v.incident.number for v in matching.of("found") if v.incident]
    assert len(found) == len(set(found))
    real = {i.number for i in known.incidents if not i.benign}
    assert {*found} | {i.number for i in matching.missed} == real
    hit = {
        i.number
        for i in known.incidents
        if not i.benign and any(i.onset_s <= s <= (i.cleared_s or 0) + grace_s for s in starts)
    }
    assert set(found) <= hit
    for v in matching.of("found"):
        assert v.incident is not None
        assert v.alarm.start_s >= v.incident.onset_s
    assert 0 <= matching.clean_s <= known.end_s


def test_of_a_window_only_its_own_time_counts_as_clean():
    whole = truth(incident(1, 100.0, 400.0), incident(2, 9_900.0, None))
    window = replace(whole, start_s=300.0, end_s=9_950.0)
    assert match(window, [], 60.0).clean_s == pytest.approx((9_950 - 300) - (460 - 300) - 50)
    later = replace(whole, start_s=1000.0, end_s=2000.0, incidents=whole.incidents[:1])
    assert match(later, [], 60.0).clean_s == 1000.0
