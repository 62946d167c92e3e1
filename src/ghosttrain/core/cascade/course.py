"""What is said while an incident lasts and the run goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ghosttrain.core.cascade.speaker import Speaker
from ghosttrain.core.events import MessageKind, MessageLogged, Phase
from ghosttrain.core.laws.faults import HEAT_EFFECTS, ActiveEffect
from ghosttrain.core.timeline import Span

_M = MessageKind
_BEFORE_THE_END_S = 1e-3  # a save's timers are printed just before it is over


def while_it_lasts(s: Speaker) -> Iterator[MessageLogged]:
    """Messages of links, kernels, storage, the trainer and the operators."""
    i, kind = s.incident, s.kind
    if kind.course == "stall":
        yield s.say(i.time_s, _M.LINK_DOWN, rank=i.rank)
        yield s.say(i.time_s + i.severity, _M.LINK_UP, rank=i.rank)
    if kind.course == "sign":
        for before, xid in itertools.pairwise((0, *kind.xids)):
            yield s.say(i.time_s, _M.XID, rank=i.gpu, code=xid, value=before)
    if kind.name == "host-maintenance":
        yield s.say(i.time_s, _M.OPERATOR_EXCLUDED)
    for effect in s.effects:
        yield from _of_effect(s, effect)
    yield from _of_operators(s)


def _of_effect(s: Speaker, effect: ActiveEffect) -> Iterator[MessageLogged]:
    i, kind = s.incident, s.kind
    if i.shown_s is None:
        return
    if effect.effect in HEAT_EFFECTS:
        hot_c = s.plan.spec.gpu.slowdown_c
        full_s = max(i.shown_s, effect.since_s + 0.9 * effect.ramp_s)
        throttles = s.slowdown.kernel_extra(effect.effect, effect.severity) > 0
        is_of_the_air = kind.scope != "gpu"  # the hosts feel it too, and say so
        if throttles and is_of_the_air and full_s < effect.until_s:
            yield s.say(full_s, _M.THROTTLE, rank=i.gpu, ranks=i.gpus, value=hot_c)
    elif effect.effect == "slow-storage" and not kind.benign:
        for span in spans_of(s, Phase.CHECKPOINT, effect.since_s, effect.until_s):
            at_s = max(span.start_s, span.end_s - _BEFORE_THE_END_S)
            yield s.say(at_s, _M.STORAGE_SLOW, rank=0, value=span.duration_s)
    elif effect.effect == "loss-nan":
        span = s.span_at(i.shown_s)
        if span.phase is Phase.TRAINING and span.steps:
            at_s = min(span.end_s, i.shown_s + 1.02 * span.step_time_s)
            yield s.say(at_s, _M.NAN_LOSS, rank=s.gpus - 1, value=effect.since_step)


def _of_operators(s: Speaker) -> Iterator[MessageLogged]:
    """What people notice of what goes on, and what they do without ending the run."""
    i, kind = s.incident, s.kind
    if kind.course == "slow" and i.detected_s is not None:
        yield s.say(i.detected_s, _M.OPERATOR_NOTICED, value=i.detected_s - i.time_s)
    if i.strike_s is not None or i.mitigated_s is None:
        return
    if i.swapped:  # at a launch that something else has made necessary
        down = s.timeline.spans[s.timeline.index_at(i.mitigated_s) - 1]
        yield s.say(down.end_s - 0.05 * down.duration_s, _M.OPERATOR_EXCLUDED)
    elif kind.course == "slow" and kind.recovery in ("repair", "swap") and i.detected_s is not None:
        yield s.say(i.mitigated_s, _M.OPERATOR_REPAIRED)


def spans_of(s: Speaker, phase: Phase, since_s: float, until_s: float) -> list[Span]:
    """Whole spans of a phase that began within [since_s, until_s)."""
    found = []
    for span in s.timeline.spans[s.timeline.index_at(since_s) :]:
        if span.start_s >= until_s:
            break
        if span.phase is phase and span.start_s >= since_s and not span.cut:
            found.append(span)
    return found
