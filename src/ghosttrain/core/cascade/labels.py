"""Ground truth: what is true of an incident, and which signal first shows it when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ghosttrain.core.cascade.course import spans_of
from ghosttrain.core.cascade.speaker import Said, Speaker
from ghosttrain.core.events import IncidentLabelled, MessageKind, Phase
from ghosttrain.core.identity import nodes_per_rack
from ghosttrain.core.laws.faults import (
    CLOCK_EFFECTS,
    HEAT_EFFECTS,
    LOSS_EFFECTS,
    NETWORK_EFFECTS,
    PACE_EFFECTS,
    ActiveEffect,
)
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import Incident, Span

_STOP_SIGNALS = {
    "slow-storage": (Phase.CHECKPOINT, "checkpoint_time"),
    "slow-validation": (Phase.VALIDATION, "validation_time"),
}
_SIGN_SIGNALS = {"nvlink-crc": "nvlink", "pcie-replay": "pcie"}  # the others count ECC errors
# What people say is no signal of the machine.
_PEOPLE = (
    MessageKind.OPERATOR_NOTICED,
    MessageKind.OPERATOR_EXCLUDED,
    MessageKind.OPERATOR_REPAIRED,
)


def first_said_s(said: Sequence[Said]) -> float | None:
    """When a machine first said something, None if none did."""
    times = [m.time_s for m in said if getattr(m, "message", None) not in _PEOPLE]
    return min(times, default=None)


def label(s: Speaker, said_s: float | None) -> IncidentLabelled:
    """What is true of the incident, told when it is over or the run ends."""
    i, kind = s.incident, s.kind
    told_s = s.timeline.end_s if i.cleared_s is None else i.cleared_s
    signals = list(_signals(s))
    if kind.effect == "corrupt-checkpoint":
        said_s = i.detected_s  # of it speaks the launch that cannot read it
    if said_s is not None:
        signals.append(("log", said_s))
    # An effect may be over before the step that would have shown it is.
    seen = [(name, at_s) for name, at_s in signals if at_s <= told_s]
    return IncidentLabelled(
        time_s=told_s,
        incident=i.number,
        kind=kind.name,
        family=kind.family,
        scope=kind.scope,
        entity=entity_words(s.plan, i),
        node=i.node,
        first_rank=i.gpu,
        ranks=i.gpus,
        severity=i.severity,
        onset_s=i.time_s,
        signals=tuple(sorted(seen, key=lambda pair: (pair[1], pair[0]))),
        detected_s=i.detected_s,
        mitigated_s=i.mitigated_s,
        cleared_s=i.cleared_s,
        steps_lost=i.steps_lost,
        lost_s=i.lost_s,
        benign=kind.benign,
    )


def entity_words(plan: Plan, incident: Incident) -> str:
    """What broke: "gpu 17", "node 2", "rack 1", or what all share."""
    cluster = plan.spec.cluster
    match incident.kind.scope:
        case "gpu":
            return f"gpu {incident.gpu}"
        case "node":
            return f"node {incident.node}"
        case "rack":
            size = nodes_per_rack(plan.spec.gpu, cluster) * cluster.gpus_per_node
            return f"rack {incident.gpu // size}"
        case scope:
            return str(scope)


def _signals(s: Speaker) -> Iterator[tuple[str, float]]:
    """When which signal first shows it, the log apart."""
    i, kind = s.incident, s.kind
    if kind.sign != "none":
        yield _SIGN_SIGNALS.get(kind.sign, "ecc"), i.time_s
    if kind.course == "sign" and kind.xids:
        yield "xid", i.time_s
    for effect in s.effects:
        if i.shown_s is not None:
            yield from _effect_signals(s, effect, i.shown_s)
    if kind.course == "stall" and i.shown_s is not None and i.cleared_s is not None:
        yield "ib", i.shown_s
        yield "power", i.shown_s
        yield "step_time", i.cleared_s
    if i.strike_s is not None and i.reason == "fault":
        if kind.xids:
            yield "xid", i.strike_s
        if kind.takes_gpus:
            yield "telemetry_lost", i.strike_s
        if kind.course != "save":
            yield "step_time", i.strike_s
            yield "power", i.strike_s
            yield "tensor_active", i.strike_s


def _effect_signals(
    s: Speaker, effect: ActiveEffect, shown_s: float
) -> Iterator[tuple[str, float]]:
    name = effect.effect
    if name in LOSS_EFFECTS:
        if (end_s := _first_touched_step(s, effect, shown_s)) is not None:
            yield "loss", end_s
            if name != "loss-bump":
                yield "grad_norm", end_s
    elif name in _STOP_SIGNALS:
        phase, signal = _STOP_SIGNALS[name]
        if met := spans_of(s, phase, effect.since_s, effect.until_s):
            yield signal, met[0].end_s
    elif name in PACE_EFFECTS:
        if name in HEAT_EFFECTS:
            yield "temperature", effect.since_s
        if (slow := _first_slow(s, effect, shown_s)) is None:
            return  # it is felt, but no step takes longer
        yield "step_time", slow.start_s + slow.step_time_s
        yield "throughput", slow.start_s + slow.step_time_s
        yield "power", slow.start_s
        yield "tensor_active", slow.start_s
        if name in CLOCK_EFFECTS:
            yield "sm_clock", slow.start_s
        if name in NETWORK_EFFECTS:
            yield "ib", slow.start_s


def _first_touched_step(s: Speaker, effect: ActiveEffect, shown_s: float) -> float | None:
    """When the first step ended that had it in force, None where none had."""
    for span in s.timeline.spans[s.timeline.index_at(shown_s) :]:
        if span.start_s >= effect.until_s:
            return None
        if span.phase is Phase.TRAINING and span.steps:
            return min(span.end_s, span.start_s + span.step_time_s)
    return None


def _first_slow(s: Speaker, effect: ActiveEffect, shown_s: float) -> Span | None:
    """The first stretch of training that it makes slower."""
    for span in s.timeline.spans[s.timeline.index_at(shown_s) :]:
        if span.start_s >= effect.until_s:
            return None
        if span.phase is Phase.TRAINING and span.steps and span.slow > 1:
            level = effect.stretch_level(span.start_s)
            if s.slowdown.extra(effect.effect, level) > 0:
                return span
    return None
