"""Invariants of labels: the ground truth of a fault is what the log tells of it."""

from __future__ import annotations

import math

from ghosttrain.checking.faults import Fault
from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import History
from ghosttrain.checking.invariants.course import slack_of
from ghosttrain.checking.observations import Observation, Value


def labels_are_of_their_fault(o: Observation, h: History) -> Findings:
    """A label has number, kind, place, severity and onset of a fault that has none yet."""
    if o.kind != "incident_labelled" or not h.begins_here:
        return
    number, fault = o.get("incident"), h.faults.of(o, "incident")
    if number is None:
        return
    found = f"label of fault {number.value:.0f}"
    yield Stated(o.line, fault is not None, found, "a fault that has occurred")
    if fault is None:
        return
    yield Stated(o.line, fault.label is None, f"another {found}", "one label a fault")
    said = fault.told.words.get("kind", "")
    told = o.words.get("kind", "")
    yield Stated(o.line, told == said, f"label of {told}", f"{said}, as occurred")
    for name, of in (("node", "node"), ("first_rank", "gpu"), ("ranks", "gpus")):
        mine, its = o.get(name), fault.told.get(of)
        if mine and its:
            yield equal(o.line, name, mine.value, its.value, 0, "the fault's")
    mine, its = o.get("severity"), fault.told.get("severity")
    if mine and its:
        yield equal(o.line, "severity", mine.value, its.value, mine.half + its.half, "the fault's")
    onset = o.get("onset_s")
    if onset and fault.told.time is not None:
        slack = slack_of(onset, fault.told.time)
        yield equal(o.line, "onset", onset.value, fault.told.time.value, slack, "the fault's")


def labels_are_as_the_catalogue_says(o: Observation, h: History) -> Findings:
    """Family, scope and harmlessness are the kind's; the entity is what that scope breaks."""
    fault = h.faults.of(o, "incident")
    if o.kind != "incident_labelled" or fault is None or fault.kind is None:
        return
    kind = fault.kind
    for name, wanted in (("family", kind.family), ("scope", kind.scope)):
        if (word := o.words.get(name)) is not None:
            yield Stated(o.line, word == wanted, f"{name} {word}", f"{wanted} for {kind.name}")
    if (benign := o.flags.get("benign")) is not None:
        found = f"{kind.name} {'benign' if benign else 'not benign'}"
        yield Stated(o.line, benign == kind.benign, found, "as the catalogue has it")
    entity, node = o.words.get("entity"), o.get("node")
    if entity is not None and len(fault.gpus()):
        start = kind.scope if kind.scope != "rack" else "rack "
        expected = {
            "gpu": f"gpu {fault.gpus()[0]}",
            "node": f"node {node.value:.0f}" if node else entity,
        }.get(kind.scope, entity if entity.startswith(start) else kind.scope)
        yield Stated(o.line, entity == expected, f"entity {entity!r}", f"{expected!r}")


def labels_tell_times_in_order(o: Observation, h: History) -> Findings:
    """Onset, detection, mitigation and clearing follow one another; no sign comes before or after.

    A label comes when its fault is cleared, else at the run's end.
    """
    onset, noticed = o.get("onset_s"), o.get("noticed_after_s")
    fault = h.faults.of(o, "incident")
    if o.kind != "incident_labelled" or o.time is None:
        return
    if noticed and fault is not None and fault.told.time is not None:
        began = fault.told.time
        top = o.time.value - began.value + slack_of(noticed, began, o.time)
        yield within(o.line, "noticed after seconds", noticed.value, 0, top, "before the label")
    if onset is None:
        return
    slack = slack_of(onset, o.time)
    low, high = onset.value - slack, o.time.value + slack
    for name in ("detected_s", "mitigated_s", "cleared_s"):
        if at := o.get(name):
            yield within(o.line, name, at.value, low, high, "onset to label")
    before, after = o.get("mitigated_s"), o.get("cleared_s")
    if detected := o.get("detected_s"):
        top = min((t.value for t in (before, after) if t is not None), default=math.inf)
        yield within(o.line, "detected_s", detected.value, low, top + slack, "before it ends")
    if before and after:
        yield within(o.line, "cleared_s", after.value, before.value - slack, high, "once mitigated")
    if after:
        yield equal(o.line, "time of the label", o.time.value, after.value, slack, "cleared_s")
    for name, value in o.numbers.items():
        if name.startswith("signals."):
            yield within(o.line, name, value.value, low, high, "onset to label")


def labels_agree_with_the_course(o: Observation, h: History) -> Findings:
    """Who struck was detected by the abort and mitigated by the launch after it."""
    fault = h.faults.of(o, "incident")
    if o.kind != "incident_labelled" or fault is None or h.has_holes:
        return
    aborted, relaunched = fault.aborted, fault.relaunched
    detected, mitigated = _detected(o, fault), o.get("mitigated_s")
    if aborted is not None and aborted.time is not None:
        slack = slack_of(aborted.time, detected)
        if aborted.words.get("reason") == "fault":
            found = math.nan if detected is None else detected.value
            yield Stated(o.line, detected is not None, "a strike never detected", "by the abort")
            yield equal(o.line, "detected_s", found, aborted.time.value, slack, "the abort")
        elif detected is not None:
            top = aborted.time.value + slack
            yield within(o.line, "detected_s", detected.value, 0, top, "before the abort")
    for abort in fault.met if detected is not None and fault.step is not None else ():
        back, at = abort.get("checkpoint_step"), abort.get("step")
        known = (
            detected is not None and abort.time is not None and detected.value <= abort.time.value
        )
        if known and back and at and fault.shows_at(at.value):
            text = f"{fault.name}, noticed, fell back to"
            yield within(o.line, text, back.value, 0, fault.latest_safe_step, "before it began")
    if relaunched is not None and relaunched.time is not None and mitigated is not None:
        slack = slack_of(relaunched.time, mitigated)
        expected = relaunched.time.value
        yield within(o.line, "mitigated_s", mitigated.value, 0, expected + slack, "by the restart")


def _detected(label: Observation, fault: Fault) -> Value | None:
    """When the label says that the fault was noticed."""
    after, began = label.get("noticed_after_s"), fault.told.time
    if after is not None and began is not None:
        return Value(began.value + after.value, began.half + after.half)
    return label.get("detected_s")


def labels_count_what_was_lost(o: Observation, h: History) -> Findings:
    """Steps lost are those its restart repeats; time lost is no more than there was."""
    fault = h.faults.of(o, "incident")
    if o.kind != "incident_labelled" or fault is None:
        return
    lost, steps = o.get("lost_s"), o.get("steps_lost")
    onset = o.get("onset_s") or fault.told.time
    if lost and onset and o.time is not None:
        top = o.time.value - onset.value + slack_of(lost, onset, o.time)
        yield within(o.line, "seconds lost", lost.value, 0, top, "since its onset")
    if not steps or h.has_holes or not h.begins_here:
        return
    expected = 0.0
    if fault.aborted is not None:
        at, back = fault.aborted.get("step"), fault.aborted.get("checkpoint_step")
        expected = at.value - back.value if at and back else math.nan
    elif not h.facts.prints_every_step or h.hang is not None:
        expected = math.nan  # a log that does not name it, or that ends before the abort
    yield equal(o.line, "steps lost", steps.value, expected, 0, "as its restart repeats")


def every_fault_has_a_label(o: Observation, h: History) -> Findings:
    """When the run is over, so is every fault, and is labelled."""
    if o.kind != "run_finished" or h.has_holes or not h.begins_here:
        return
    open_faults = [f.name for f in h.faults.by_number.values() if f.label is None]
    text = f"{', '.join(open_faults[:3])} without a label"
    yield Stated(o.line, not open_faults, text, "one label a fault")


LABEL_INVARIANTS = (
    labels_are_of_their_fault,
    labels_are_as_the_catalogue_says,
    labels_tell_times_in_order,
    labels_agree_with_the_course,
    labels_count_what_was_lost,
    every_fault_has_a_label,
)
