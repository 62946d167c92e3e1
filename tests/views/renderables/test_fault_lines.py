"""What the classic log says when something goes wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ghosttrain.core.events import (
    FaultOccurred,
    IncidentLabelled,
    MessageKind,
    Phase,
    PhaseStarted,
    RunAborted,
    RunRestarted,
    RunStarted,
)
from ghosttrain.core.messages import message_lines
from ghosttrain.views.renderables.fault_lines import message_level
from ghosttrain.views.renderables.glyphs import ASCII
from ghosttrain.views.renderables.log_lines import log_lines
from ghosttrain.views.renderables.run_card import RunCard
from tests.core.test_messages import message, planned, timed_out

GRAMMAR = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (INFO   |WARNING|ERROR  ) +\S")
FAULT = FaultOccurred(7200.0, 4, "straggler-gpu", 0, 2, 17, 1, 0.12, 1800, 1)
LABEL = IncidentLabelled(
    time_s=15000.0,
    incident=4,
    kind="straggler-gpu",
    family="straggler",
    scope="gpu",
    entity="gpu 17",
    node=2,
    first_rank=17,
    ranks=1,
    severity=0.12,
    onset_s=7200.0,
    signals=(("step_time", 7210.0),),
    detected_s=15000.0,
    mitigated_s=15100.0,
    cleared_s=15500.0,
    steps_lost=0,
    lost_s=192.0,
    benign=False,
)


@pytest.fixture(scope="module")
def card() -> RunCard:
    return RunCard.of(RunStarted(0.0, 7, planned()))


def texts(event: object, card: RunCard) -> list[str]:
    """Lines behind their timestamp."""
    return [line.text[22:] for line in log_lines(event, card)]  # type: ignore[arg-type]


def test_a_fault_says_where_it_begins_and_how_bad_it_is(card):
    assert texts(FAULT, card) == [
        "INFO    [fault 4] straggler-gpu begins at [Rank 17/64] [Node 2/8], step 1,800, "
        "severity 0.12"
    ]
    rack = replace(FAULT, kind="switch-down", gpu=32, node=4, gpus=32, severity=0.0)
    assert texts(rack, card) == [
        "INFO    [fault 4] switch-down begins at [Rank 32/64] [Node 4/8] × 32, step 1,800"
    ]


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "noticed after 2h10m, 0 steps lost, 3m12s lost"),
        ({"detected_s": None}, "never noticed, 0 steps lost, 3m12s lost"),
        (
            {"detected_s": 7230.0, "steps_lost": 1234, "benign": True},
            "noticed after 30s, 1,234 steps lost, 3m12s lost, benign",
        ),
    ],
)
def test_a_fault_that_is_over_says_what_it_cost(card, changes, end):
    (line,) = texts(replace(LABEL, **changes), card)
    assert line == f"INFO    [fault 4] straggler-gpu over: {end}"


def test_the_kernels_line_stands_behind_its_host(card):
    event = message(MessageKind.XID, code=94, ranks=1)
    (raw,) = message_lines(event, planned(), 7)
    (line,) = texts(event, card)
    assert line == f"ERROR   gpu-0002 {raw.partition('] ')[2]}"
    assert line.index("): 94") < 80 - len("[2026-11-23 12:41:07] ")  # seen at 80 columns


def test_a_nodes_kernel_has_no_rank(card):
    line = texts(message(MessageKind.PANIC, rank=None, ranks=1), card)[-1]
    assert line == "ERROR   gpu-0002 kernel: Kernel panic - not syncing: Fatal machine check"


def test_torchruns_signals_to_many_workers_are_one_line_and_a_count(card):
    first, more = texts(message(MessageKind.AGENT_SIGTERM, ranks=7), card)
    assert re.fullmatch(
        r"WARNING gpu-0002 torchrun\[\d+\]: Sending process \d+ closing signal SIGTERM", first
    )
    assert more == "WARNING   (and 6 more processes)"


def test_a_spares_lines_come_from_its_own_host(card):
    event = message(MessageKind.XID, code=94, ranks=1, spares=((2, 8),))
    assert texts(event, card)[0].startswith("ERROR   gpu-0008 NVRM: ")


def test_lines_that_name_their_rank_stand_as_they_are(card):
    event = message(MessageKind.CUDA_OOM, ranks=1)
    raw = message_lines(event, planned(), 7)
    assert texts(event, card) == [f"ERROR   {line}" for line in raw]


def test_stamps_of_others_are_left_out(card):
    (line,) = texts(message(MessageKind.NCCL_PORT_ERROR, ranks=1), card)
    assert line.startswith("WARNING gpu-0002:")
    controller = texts(message(MessageKind.NODE_FAILED, rank=None, ranks=1), card)[0]
    assert controller == "ERROR   error: Nodes gpu-0002 not responding, setting DOWN"
    (told,) = texts(message(MessageKind.SIGTERM, ranks=64), card)
    assert told == (
        "WARNING [Rank 17/64] [Node 2/8] [exiting program after receiving SIGTERM.] datetime: "
        "2026-01-01 01:37:01.418200"
    )


def test_many_ranks_are_told_once_with_their_count(card):
    lines = texts(message(MessageKind.NCCL_ABORTED), card)
    assert lines[-1] == "ERROR     (and 61 more ranks within 0.4s)"
    assert sum("DistBackendError" in line for line in lines) == 1
    nodes = texts(message(MessageKind.NODE_FAILED, rank=None, ranks=4, spread_s=0.0), card)
    assert nodes[-1] == "ERROR     (and 3 more nodes within 0.1s)"


@pytest.mark.parametrize("kind", [MessageKind.AGENT_SIGTERM, MessageKind.AGENT_SUMMARY])
def test_an_agent_speaks_once_for_all_its_workers(card, kind):
    lines = texts(message(kind, ranks=7, code=-6), card)
    assert not any("more ranks" in line for line in lines)


def test_torchruns_block_has_a_line_each(card):
    lines = texts(message(MessageKind.AGENT_SUMMARY, ranks=1, code=-6), card)
    assert f"ERROR   {54 * '='}" in lines
    assert "ERROR   pretrain_gpt.py FAILED" in lines
    assert "ERROR     host      : gpu-0002.cluster" in lines


def test_a_fabric_without_such_a_message_has_no_line():
    ethernet = RunCard.of(RunStarted(0.0, 7, planned(fabric="Ethernet")))
    assert texts(message(MessageKind.NCCL_PORT_ERROR), ethernet) == []


@pytest.mark.parametrize(
    ("kind", "code", "level"),
    [
        (MessageKind.XID, 79, "ERROR"),
        (MessageKind.XID, 63, "WARNING"),
        (MessageKind.LINK_DOWN, 0, "WARNING"),
        (MessageKind.LINK_UP, 0, "INFO"),
        (MessageKind.STORAGE_SLOW, 0, "WARNING"),
        (MessageKind.STORAGE_FULL, 0, "ERROR"),
        (MessageKind.AGENT_SIGTERM, 0, "WARNING"),
        (MessageKind.OPERATOR_REPAIRED, 0, "INFO"),
    ],
)
def test_levels(card, kind, code, level):
    event = message(kind, code=code)
    assert message_level(event) == level
    assert all(line.startswith(f"{level:<8}") for line in texts(event, card))


@pytest.mark.parametrize("kind", list(MessageKind))
def test_every_message_keeps_the_grammar(card, kind):
    for line in log_lines(message(kind, code=-6, value=5.0), card):
        assert GRAMMAR.match(line.text)
        assert line.text == line.text.rstrip()
        assert "\t" not in line.text
    plain = replace(card, glyphs=ASCII)
    assert all(line.text.isascii() for line in log_lines(message(kind, code=-6), plain))


def test_the_watchdog_is_quoted_and_explained(card):
    event = timed_out()
    raw, meaning = texts(event, card)
    (line,) = message_lines(event, planned(), 7)
    assert raw == f"ERROR   [rank0]: {line[line.index('Watchdog caught') :]}"
    assert meaning == (
        "ERROR   [Rank 17/64] [Node 2/8] did not arrive: 63 ranks waited 10m00s, all processes end"
    )


@pytest.mark.parametrize(
    ("reason", "level", "end"),
    [
        ("fault", "ERROR  ", "lost"),
        ("maintenance", "WARNING", "lost (maintenance)"),
        ("rollback", "WARNING", "lost (rollback)"),
    ],
)
def test_an_attempt_ends_with_its_reason(card, reason, level, end):
    event = RunAborted(9000.0, 2, 4, 1800, 1680, reason)
    assert texts(event, card) == [
        f"{level} Attempt 2 ended at step 1,800: 120 steps since the checkpoint at step 1,680 {end}"
    ]


def test_a_restart_says_what_is_new(card):
    event = RunRestarted(9600.0, 3, 1680, 120, 600.0, (2,), 0)
    assert texts(event, card) == [
        "INFO    [Node 2/8] replaced by a spare after 10m00s down",
        "INFO    Attempt 3 starts from step 1,680, 120 steps to repeat",
    ]
    assert texts(replace(event, nodes=(), step=0, skipped_batches=200), card) == [
        "INFO    Same nodes again after 10m00s down",
        "INFO    Attempt 3 starts from the beginning, 120 steps to repeat, 200 batches skipped",
    ]
    both, _ = texts(replace(event, nodes=(2, 5)), card)
    assert both == "INFO    Nodes 2, 5 replaced by spares after 10m00s down"


def test_waiting_is_told_with_its_time(card):
    hang = PhaseStarted(9000.0, Phase.HANG, 1, 1800, 600.0)
    down = PhaseStarted(9600.0, Phase.DOWN, 1, 1800, 300.0)
    assert texts(hang, card) == ["WARNING No progress since step 1,800; watchdog in 10m00s"]
    assert texts(down, card) == ["WARNING Draining and requeueing, about 5m00s"]


def test_lines_of_ours_stay_within_120_columns(card):
    """What the real programs write is as long as it is."""
    aborted = RunAborted(9e6, 4, 12, 9_876, 9_800, "operator")
    restarted = RunRestarted(9e6, 12, 1_234_560, 7, 9e5, tuple(range(2040, 2048)), 12_345)
    for event in (FAULT, replace(FAULT, gpus=32), LABEL, aborted, restarted):
        assert all(len(line) <= 120 for line in (x.text for x in log_lines(event, card)))
