"""Invariants of standstills: hangs, the end of a launch by a fault, the launch after it."""

from __future__ import annotations

import math

from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import STANDSTILLS, History
from ghosttrain.checking.invariants.course import slack_of
from ghosttrain.checking.observations import Observation, StepBlock

WATCHDOG_LATE_S = 1.0  # its thread looks at the clock ten times a second
SKIPPED_BATCHES = 200, 500
CUT_STEP_S = 120.0  # what a step that is cut may have taken over three others: compilation

_REASONS = {
    "fault": "strikes",
    "maintenance": "asks the run to end",
    "preempted": "asks the run to end",
    "operator": "is ended by leaving a node out",
    "rollback": "is undone by going back",
}
# Between the abort and the restart.
_NOT_WHILE_DOWN = (
    "training_started",
    "epoch_completed",
    "validation_completed",
    "checkpoint_saved",
    "shard_written",
    "gpus_detected",
    "all_reduce_tested",
    "warning_raised",
)


def standstills_have_a_fault(o: Observation, h: History) -> Findings:
    """Nothing moves because a fault has struck: at its onset, after its lead, or while saving."""
    if o.kind != "phase_started" or o.words.get("phase") != "hang" or not h.begins_here:
        return
    strikers = h.faults.strikers()
    yield Stated(o.line, bool(strikers), "a standstill without a cause", "a fault that strikes")
    if strikers and o.time is not None and h.facts.prints_every_step:
        lowest, highest = math.inf, -math.inf
        for fault in strikers:
            began = fault.told.time
            if began is not None and fault.kind is not None:
                lead_s = fault.kind.lead_high_s
                if fault.effect == "full-storage":
                    lead_s = math.inf if _in_phase(h, "checkpoint") else 0.0
                lowest = min(lowest, began.value)
                highest = max(highest, began.value + lead_s)
        slack = slack_of(o.time)
        low, high = lowest - slack, highest + slack
        yield within(o.line, "beginning of the standstill", o.time.value, low, high, "its fault's")


def _in_phase(h: History, name: str) -> bool:
    return h.phase is not None and h.phase.words.get("phase") == name


def cuts_come_within_a_step(o: Observation, h: History) -> Findings:
    """What ends a launch comes in the phase or the step that was in progress."""
    is_hang = o.kind == "phase_started" and o.words.get("phase") == "hang"
    if not (is_hang or o.kind == "run_aborted") or not h.facts.prints_every_step or h.blind:
        return
    since = h.idle_since
    if o.time is None or since is None or not h.begins_here or h.phase is not None:
        return
    longest = max([*h.pace, h.last["step_time_s"].value if "step_time_s" in h.last else 0.0])
    stalls = sum(f.told.numbers["severity"].value for f in h.faults.standing("stall"))
    room = CUT_STEP_S + 3 * longest + stalls if longest else math.inf
    passed = o.time.value - since.value
    slack = slack_of(o.time, since)
    if o.kind == "run_aborted" and h.hang is not None:
        room = 0.0
    yield within(o.line, "seconds since the last end", passed, -slack, room + slack, "a step's")


def watchdogs_wait_their_time(o: Observation, h: History) -> Findings:
    """The watchdog names a GPU of the fault, after its timeout; all that are left waited."""
    if o.kind != "watchdog_timed_out":
        return
    rank, waiting, timeout = o.get("rank"), o.get("waiting_ranks"), o.get("timeout_s")
    named = h.faults.of(o)
    faults = [named] if named is not None else h.faults.strikers()
    if rank and faults:
        places = [fault.gpus() for fault in faults if len(fault.gpus())]
        found = f"rank {rank.value:.0f} did not arrive"
        good = not places or any(int(rank.value) in gpus for gpus in places)
        yield Stated(o.line, good, found, f"{_span(places[0])}, the fault's" if places else "")
    gone = h.gone
    if waiting and h.facts.gpus is not None:
        absent = len(gone.gpus()) if gone is not None else 1
        expected = h.facts.gpus.value - absent
        yield equal(o.line, "waiting ranks", waiting.value, expected, 0, "the others")
    if timeout and o.time is not None and h.hang is not None and h.hang.time is not None:
        waited = o.time.value - h.hang.time.value
        slack = slack_of(o.time, h.hang.time)
        low, high = timeout.value - slack, timeout.value + WATCHDOG_LATE_S + slack
        yield within(o.line, "seconds waited", waited, low, high, "its timeout")
    elements = o.get("elements")
    if elements and h.collective is not None:
        expected = h.collective.value / 4
        slack = h.collective.half / 4 + 1
        yield equal(o.line, "elements", elements.value, expected, slack, "fp32 gradients")


def _span(gpus: range) -> str:
    return f"{gpus[0]} to {gpus[-1]}" if len(gpus) > 1 else f"{gpus[0]}"


def hangs_are_silent(o: Observation, h: History) -> Findings:
    """Until the watchdog fires no rank says a word."""
    if o.kind == "watchdog_timed_out":
        spoken = h.spoken
        text = "" if spoken is None else spoken.words.get("message", "")
        line = o.line if spoken is None else spoken.line
        yield Stated(line, spoken is None, f"{text} before the watchdog", "silence")


# The end of a launch.


def aborts_have_a_fault(o: Observation, h: History) -> Findings:
    """A launch ends by a fault that stands and that can be a reason for it."""
    reason = o.words.get("reason")
    if o.kind != "run_aborted" or not h.begins_here:
        return
    attempt, number = o.get("attempt"), o.get("fault")
    if attempt and h.attempt is not None:
        yield equal(o.line, "attempt", attempt.value, float(h.attempt), 0, "the last one launched")
    if number is None:
        good = reason is None or any(reason in fault.reasons for fault in h.faults.standing())
        wanted = f"a fault that {_REASONS.get(reason or '', 'ends a launch')}"
        yield Stated(o.line, good, f"abort for {reason}", wanted)
        return
    fault = h.faults.of(o)
    found = f"abort by fault {number.value:.0f}"
    yield Stated(o.line, fault is not None and fault.label is None, found, "one that stands")
    if fault is None or fault.kind is None or reason is None:
        return
    fits = reason in fault.reasons
    wanted = f"a fault that {_REASONS.get(reason, 'ends a launch')}"
    yield Stated(o.line, fits, f"abort for {reason} by {fault.name}", wanted)
    if reason == "fault" and fault.kind.takes_gpus and h.lost_gpus is not None:
        lost = sorted(h.lost_gpus)
        good = lost == list(fault.gpus())
        yield Stated(o.line, good, f"lost GPUs {lost}", f"{_span(fault.gpus())} of {fault.name}")


def aborts_fall_back_to_a_checkpoint(o: Observation, h: History) -> Findings:
    """What is lost is counted from the last checkpoint that can be gone back to.

    That is the last one saved, unless one cannot be read or the loss is known to have gone
    astray by then.
    """
    if o.kind != "run_aborted":
        return
    saved, lost, step = o.get("checkpoint_step"), o.get("lost_steps"), o.get("step")
    if saved and h.saves is not None and not h.has_holes:
        last = float(h.saved_step or 0)
        if h.faults.stands("corrupt-checkpoint") or h.faults.astray():
            latest = last
            if o.words.get("reason") == "rollback" and (cause := h.faults.of(o)) is not None:
                latest = min(last, cause.latest_safe_step) if cause.shows_at(h.step) else last
            yield within(o.line, "checkpoint step", saved.value, 0, latest, "saved")
            known = saved.value == 0 or int(saved.value) in h.saves
            found = f"checkpoint step {saved.value:,.0f}"
            yield Stated(o.line, known, found, "one that was saved, or 0")
        else:
            yield equal(o.line, "checkpoint step", saved.value, last, 0, "the last one saved")
    if lost and step and saved:
        expected = step.value - saved.value
        yield equal(o.line, "lost steps", lost.value, expected, 0, "step − checkpoint step")


def nothing_moves_until_the_restart(o: Observation, h: History) -> Findings:
    """From the abort to the restart there is only downtime."""
    if h.abort is None:
        return
    name = o.words.get("phase", "")
    moves = o.kind in _NOT_WHILE_DOWN or (o.kind == "phase_started" and name not in STANDSTILLS)
    what = f"beginning of {name}" if name else o.kind
    yield Stated(o.line, not moves, f"{what} after the abort", "nothing before the restart")


def no_steps_in_a_standstill(block: StepBlock, h: History) -> Findings:
    """No step ends in a hang or in downtime, nor after the checkpoint that was asked for."""
    line = int(block.line[0])
    down = h.abort is not None or (h.hang is not None and _in_phase(h, "hang"))
    yield Stated(line, not down, "a step while nothing moves", "none before the restart")
    asked = h.asked is not None and h.begins_here
    yield Stated(line, not asked, "a step after the checkpoint that was asked for", "the abort")


# The next launch.


def restarts_go_back_to_the_checkpoint(o: Observation, h: History) -> Findings:
    """A restart is the next attempt, from the abort's checkpoint, after the downtime it says."""
    if o.kind not in ("run_restarted", "nodes_replaced"):
        return
    step, lost, attempt = o.get("step"), o.get("lost_steps"), o.get("attempt")
    back = h.abort.get("checkpoint_step") if h.abort else None
    if step and back:
        yield equal(o.line, "restarts from step", step.value, back.value, 0, "as the abort said")
    if step and not h.has_holes and h.saves is not None:
        known = step.value == 0 or int(step.value) in h.saves
        yield Stated(o.line, known, f"restarts from step {step.value:,.0f}", "one that was saved")
    if attempt and h.attempt is not None:
        yield equal(o.line, "attempt", attempt.value, h.attempt + 1.0, 0, "the one after the last")
    at = h.abort.get("step") if h.abort else None
    if lost and step and at:
        expected = at.value - step.value
        yield equal(o.line, "lost steps", lost.value, expected, 0, "aborted step − checkpoint step")
    down = o.get("downtime_s")
    if down and h.abort and h.abort.time is not None and o.time is not None:
        expected = o.time.value - h.abort.time.value
        slack = slack_of(down, h.abort.time, o.time)
        yield equal(o.line, "downtime", down.value, expected, slack, "since the abort")


def restarts_follow_an_abort(o: Observation, h: History) -> Findings:
    """A run restarts only after it has ended."""
    if o.kind == "run_restarted" and h.begins_here and not h.blind:
        yield Stated(o.line, h.abort is not None, "a restart without an abort", "the abort before")


def spares_take_the_faulty_place(o: Observation, h: History) -> Findings:
    """A spare stands in for the node of the cause if that leaves, and for nodes of other faults."""
    if o.kind not in ("run_restarted", "nodes_replaced") or "downtime_s" not in o.numbers:
        return  # where lines tell of the nodes, the one of the restart does not
    nodes, cause = {int(node) for node in o.within("nodes")}, h.aborting
    others = h.faults.places_since(h.abort, but=cause)
    if cause is not None and cause.kind is not None and (told := cause.told.get("node")):
        place, kind = int(told.value), cause.kind
        leaves = kind.recovery in ("swap", "exclude", "rollback")
        if leaves and kind.scope in ("gpu", "node"):
            found = f"node {', '.join(map(str, sorted(nodes))) or 'none'} swapped"
            text = f"{found} after {cause.name}"
            yield Stated(o.line, place in nodes, text, f"node {place}, the faulty one")
            others = others | {place}
    elif not others:
        return  # the log does not say what is faulty
    if h.begins_here and not h.has_holes:
        expected = " or ".join(map(str, sorted(others))) or "the same nodes"
        for node in sorted(nodes - others):
            yield Stated(o.line, False, f"replaced node {node}", f"{expected}, of a fault")


def batches_are_skipped_by_a_rollback(o: Observation, h: History) -> Findings:
    """Only who goes back from a loss that the data have led astray leaves batches out."""
    skipped = o.get("skipped_batches")
    if o.kind != "run_restarted" or not skipped or not h.begins_here:
        return
    by_data = [f for f in h.faults.astray() if f.kind is None or f.kind.scope == "job"]
    cause, back = h.aborting, h.abort is not None and h.abort.words.get("reason") == "rollback"
    if skipped.value:
        low, high = SKIPPED_BATCHES
        yield within(o.line, "skipped batches", skipped.value, low, high)
        yield Stated(o.line, bool(by_data), "skipped batches", "a fault that is rolled back")
    elif back and cause is not None and cause in by_data and h.facts.prints_every_step:
        good = not cause.shows_at(h.step)
        yield Stated(o.line, good, f"no batches skipped after {cause.name}", "some")


STANDSTILL_INVARIANTS = (
    standstills_have_a_fault,
    cuts_come_within_a_step,
    watchdogs_wait_their_time,
    hangs_are_silent,
    aborts_have_a_fault,
    aborts_fall_back_to_a_checkpoint,
    nothing_moves_until_the_restart,
    restarts_go_back_to_the_checkpoint,
    restarts_follow_an_abort,
    spares_take_the_faulty_place,
    batches_are_skipped_by_a_rollback,
)
STEP_STANDSTILL_INVARIANTS = (no_steps_in_a_standstill,)
