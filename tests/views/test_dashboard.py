from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.events import (
    EpochCompleted,
    IncidentLabelled,
    MessageKind,
    MessageLogged,
    Phase,
    PhaseStarted,
    RunRestarted,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
)
from ghosttrain.views.dashboard import HISTORY_KEPT, Dashboard, LossHistory
from tests.views.renderables.fleets import faulty_events


def dashboard_after(kind: type, **wanted: object) -> Dashboard:
    """A dashboard that has seen all up to the first such event."""
    board = Dashboard()
    for event in faulty_events():
        board.accept(event)
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in wanted.items()):
            return board
    raise AssertionError("no such event")


def test_nothing_is_shown_before_a_run():
    assert Dashboard().progress() is None


def test_initialisation_has_a_phase_that_runs():
    board = dashboard_after(PhaseStarted, phase=Phase.WEIGHTS)
    now = board.progress(board.phase_expected_s / 2)
    assert now is not None
    assert (now.phase, now.training) == ("Initialising weights (seed 1234)", False)
    assert now.phase_frac == pytest.approx(0.5)


def test_a_phase_that_takes_longer_than_planned_stays_under_100_percent():
    board = dashboard_after(PhaseStarted, phase=Phase.WEIGHTS)
    now = board.progress(1e6)
    assert now is not None
    assert now.phase_frac == 0.99


def test_steps_show_the_last_of_their_batch():
    board = Dashboard()
    last = None
    for event in faulty_events():
        board.accept(event)
        if isinstance(event, StepsCompleted):
            last = event
            assert board.step == event.step[-1]
            assert board.loss == event.loss[-1]
    assert last is not None
    now = board.progress()
    assert now is not None
    assert (now.epoch, now.step_in_epoch, now.run_frac) == (3, 60, 1.0)


def test_an_epoch_ends_with_all_of_its_steps():
    now = dashboard_after(EpochCompleted, epoch=1).progress()
    assert now is not None
    assert (now.epoch, now.step_in_epoch, now.steps_per_epoch) == (1, 60, 60)


def test_the_time_to_go_runs_down_between_steps_but_not_in_a_hang():
    board = dashboard_after(TrainingStarted)
    for event in faulty_events():
        if isinstance(event, StepsCompleted):
            board.accept(event)
            break
    before, after = board.progress(board.time_s), board.progress(board.time_s + 1)
    assert before is not None
    assert after is not None
    assert before.eta_s - after.eta_s == pytest.approx(1)
    board = dashboard_after(PhaseStarted, phase=Phase.HANG)
    before, after = board.progress(board.time_s), board.progress(board.time_s + 60)
    assert before is not None
    assert after is not None
    assert before.eta_s == after.eta_s


def test_incidents_are_kept_in_order():
    board = dashboard_after(RunRestarted)
    names = [type(i).__name__ for i in board.incidents]
    wanted = ["FaultOccurred", "WatchdogTimedOut", "RunAborted", "RunRestarted"]
    assert [n for n in names if n not in ("WarningRaised", "MessageLogged")] == wanted


def test_errors_that_are_logged_are_incidents_and_labels_are_not():
    board = Dashboard()
    for event in faulty_events():
        board.accept(event)
    logged = [i for i in board.incidents if isinstance(i, MessageLogged)]
    assert any(m.message is MessageKind.XID and m.code == 79 for m in logged)
    assert not any(m.message is MessageKind.AGENT_SIGTERM for m in logged)
    assert not any(isinstance(i, IncidentLabelled) for i in board.incidents)


def test_a_loss_that_is_no_number_is_shown_and_widens_nothing():
    board = dashboard_after(StepsCompleted)
    steps = next(e for e in faulty_events() if isinstance(e, StepsCompleted))
    before = board.progress()
    board.accept(replace(steps, loss=np.full(len(steps.step), np.nan)))
    after = board.progress()
    assert before is not None
    assert after is not None
    assert np.isnan(after.loss)
    assert np.isfinite(after.widest_loss)


def test_a_restart_goes_back():
    board = dashboard_after(RunRestarted)
    assert (board.attempt, board.step) == (2, 0)


def test_the_validation_and_the_summary_are_kept():
    board = dashboard_after(ValidationCompleted)
    assert board.validation is not None
    for event in faulty_events():
        board.accept(event)
    assert board.phase is Phase.DONE
    assert board.summary is not None


def test_a_new_run_begins_from_nothing():
    board = Dashboard()
    for event in (*faulty_events(), faulty_events()[0]):
        board.accept(event)
    assert (board.step, board.history.step.size, board.summary) == (0, 0, None)


@given(cuts=st.lists(st.integers(1, 20_000), max_size=6), steps=st.integers(1, 20_000))
def test_the_history_does_not_depend_on_batches(cuts, steps):
    all_steps = np.arange(1, steps + 1)
    whole, parts = LossHistory(), LossHistory()
    whole.add(all_steps, np.sqrt(all_steps))
    for part in np.split(all_steps, sorted({c for c in cuts if c < steps})):
        if part.size:
            parts.add(part, np.sqrt(part))
    assert parts.step.size <= HISTORY_KEPT
    assert parts.stride == whole.stride
    assert np.array_equal(parts.step, whole.step)
    assert np.array_equal(parts.loss, np.sqrt(parts.step))


def test_steps_done_again_replace_the_old():
    history = LossHistory()
    history.add(np.arange(1, 101), np.full(100, 3.0))
    history.add(np.arange(51, 61), np.full(10, 2.0))
    assert history.step.tolist() == list(range(1, 61))
    assert history.loss[-1] == 2.0
    assert history.loss[49] == 3.0
