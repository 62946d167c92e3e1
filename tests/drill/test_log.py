"""What the player reads gives nothing away."""

from __future__ import annotations

import pytest

from ghosttrain import catalog
from ghosttrain.core.events import FaultOccurred, IncidentLabelled, Phase, PhaseStarted
from ghosttrain.drill.log import PlayersLog, hiding_card, step_interval
from ghosttrain.views.renderables.glyphs import UNICODE
from tests.drill.cases import case_of

KINDS = ("gpu-off-bus", "nccl-hang", "loss-spike", "straggler", "storage-slow", "murphy", "sdc")


@pytest.mark.parametrize("scenario", KINDS)
def test_the_log_names_no_fault(scenario):
    run = case_of(scenario).run
    told = {type(event) for event in run.events(0, float("inf"), sample_every=10**6)}
    assert {FaultOccurred, IncidentLabelled} <= told
    text = "\n".join(
        line.text for line in PlayersLog(run, UNICODE).lines(0, float("inf"), every=10)
    )
    assert "The run is over" in text
    assert "fault " not in text
    for kind in catalog.names("fault"):
        assert kind not in text


def test_a_hang_is_silent_until_the_watchdog():
    run = case_of("nccl-hang").run
    hang = next(
        e for e in run.events(0, float("inf"), sample_every=10**6)
        if isinstance(e, PhaseStarted) and e.phase is Phase.HANG
    )  # fmt: skip
    log = PlayersLog(run, UNICODE)
    assert not list(log.lines(hang.time_s, hang.time_s + 590.0, every=10))
    later = "\n".join(line.text for line in log.lines(hang.time_s, hang.time_s + 620.0, every=10))
    assert "Watchdog caught collective operation timeout" in later
    assert "Draining and requeueing, about" not in later


def test_columns_are_as_wide_whatever_is_hidden():
    """A loss column that is wide from step 1 would tell that the loss will go astray."""
    cards = [hiding_card(case_of(scenario).run, UNICODE) for scenario in KINDS]
    widths = {(c.step_width, c.loss_width, c.ppl_width, c.tokens_width) for c in cards}
    assert len(widths) == 1
    assert len({card.spec.faults for card in cards}) == 1


def test_the_same_lines_whatever_the_windows():
    run = case_of("gpu-off-bus").run
    log = PlayersLog(run, UNICODE)
    whole = [line.text for line in log.lines(100, 3000, every=20)]
    parts = [
        line.text for start in range(100, 3000, 50)
        for line in log.lines(start, start + 50, every=20)
    ]  # fmt: skip
    assert parts == whole


@pytest.mark.parametrize(
    ("steps", "every"), [(0, 10), (120, 10), (121, 20), (600, 50), (601, 100), (1e6, 100_000)]
)
def test_few_lines_of_any_stretch(steps, every):
    assert step_interval(steps) == every
