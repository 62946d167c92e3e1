"""Incidents as far as they have come: what has begun, what is in force, what each has cost.

The walk through a run (`history.py`) decides when; this book keeps what. When the walk is done
the book is settled into the records of the timeline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ghosttrain.core.fault_draws import Strike, touched_gpus
from ghosttrain.core.laws.faults import (
    LOSS_EFFECTS,
    PACE_EFFECTS,
    RAMP_PARTS,
    ActiveEffect,
    ActiveSign,
    bounded_excess,
    loss_excess,
)
from ghosttrain.core.plan import Plan
from ghosttrain.core.rng import F64, Rows, Stream, normal_quantile
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.spec import Effect, FaultKind, Sign
from ghosttrain.core.timeline import Incident

_WORDS = 16  # random words of an incident, those of 64 drawn together
_DRAWN_TOGETHER = 64


@dataclass(slots=True, eq=False)
class OpenIncident:
    """An incident as far as it has come, and what has been drawn for it.

    Attributes:
        so_far: The record as far as it is known.
        duration_s: How long its effect lasts by itself.
        lasts: Whether that duration was asked for.
        detect_after_s: From the strike to its detection, where no watchdog waits.
        down_s: From the detection to the next launch.
        lead_s: From the onset to the strike, or to the full effect.
        u_watchdog, u_skip: Draws kept for later.
        lost_s: Time lost to it while the run went on.
        is_over: Whether its cause is gone.
        is_lapsed: Whether its effect ends with the stop that meets it.
    """

    so_far: Incident
    duration_s: float
    lasts: bool
    detect_after_s: float
    down_s: float
    lead_s: float
    u_watchdog: float
    u_skip: float
    effect: OpenEffect | None = None
    signs: list[int] = field(default_factory=list)
    lost_s: float = 0.0
    is_over: bool = False
    is_lapsed: bool = False

    @property
    def kind(self) -> FaultKind:
        """Its kind."""
        return self.so_far.kind

    def put(self, **values: Any) -> None:
        """Note fields of the record.

        It is this object's alone until the book is settled: filling it in is a tenth cheaper for
        the whole drawing than copying its fields each time.
        """
        for name, value in values.items():
            object.__setattr__(self.so_far, name, value)

    def noticed_by(self, time_s: float) -> bool:
        """Whether it has been noticed at `time_s`."""
        detected_s = self.so_far.detected_s
        return detected_s is not None and detected_s <= time_s

    def settled(self, end_s: float) -> Incident:
        """The record as the end of the run leaves it: what would have come later never came."""
        made = self.so_far
        lost_s = self.lost_s
        changes: dict[str, Any] = {}
        for name in ("shown_s", "asked_s", "detected_s", "mitigated_s", "cleared_s", "relaunch_s"):
            value = getattr(made, name)
            if value is not None and value > end_s:
                changes[name] = None
        if made.strike_s is not None:
            if made.strike_s >= end_s:
                changes |= {"strike_s": None, "checkpoint_step": -1, "skipped_batches": 0}
            else:
                lost_s += min(end_s, made.cleared_s or end_s) - made.strike_s
        if made.mitigated_s is not None and (made.detected_s or 0.0) > made.mitigated_s:
            changes["detected_s"] = None
        self.put(lost_s=min(lost_s, end_s - made.time_s), **changes)
        return made


@dataclass(slots=True, eq=False)
class OpenEffect:
    """An effect as far as it has come.

    `is_used` once a save or a validation has met it, `is_busy` while one does.
    """

    owner: OpenIncident
    index: int
    effect: Effect
    severity: float
    since_s: float
    ramp_s: float
    until_s: float = math.inf
    since_step: int = 0
    is_used: bool = False
    is_busy: bool = False

    def level(self, start_s: float) -> float:
        """Severity in a stretch from `start_s`, as ActiveEffect.stretch_level has it."""
        if self.ramp_s <= 0:
            return self.severity
        ahead = start_s + self.ramp_s / (2 * RAMP_PARTS) - self.since_s
        return self.severity * min(1.0, max(0.0, ahead / self.ramp_s))

    def settled(self) -> ActiveEffect:
        """The record."""
        made = self.owner.so_far
        return ActiveEffect(
            made.number,
            self.effect,
            made.gpu,
            made.gpus,
            self.severity,
            self.since_s,
            self.until_s,
            self.ramp_s,
            self.since_step,
        )


class IncidentBook:
    """All incidents of a run, their effects and signs.

    Attributes:
        incidents: All, by number.
        alive: Those whose cause is not gone.
        effects, signs: All there ever were.
        in_force: Indices of the effects in force; `shown_signs` of the signs that still show.
        swaps: (first attempt, node, spare) of all spares taken.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self.spec = plan.spec
        self.incidents: list[OpenIncident] = []
        self.alive: list[OpenIncident] = []
        self.effects: list[OpenEffect] = []
        self.signs: list[ActiveSign] = []
        self.in_force: tuple[int, ...] = ()
        self.shown_signs: tuple[int, ...] = ()
        self.swaps: list[tuple[int, int, int]] = []
        self._paced: list[OpenEffect] = []  # of those in force, those that slow steps
        self._shares: list[tuple[OpenEffect, float]] = []  # of what effects cost together
        self._slow = 1.0
        self._steady_from_s = math.inf  # from when on the pace last found stays
        self._waiting: list[OpenEffect] = []  # of those in force, those that wait for a stop
        self._written: list[OpenIncident] = []  # of those that spoil a checkpoint
        self._fresh: list[OpenEffect] = []  # begun, and in no span yet
        self._slowdown = Slowdown(plan)
        self._noise = Stream(seed, "faults.course")
        self._drawn = Rows(self._draw, _WORDS, _DRAWN_TOGETHER)

    # What begins.

    def open(self, strike: Strike, at_s: float, *, attempt: int, step: int) -> OpenIncident:
        """A fault has come: what will become of it is drawn."""
        number, kind = len(self.incidents) + 1, strike.kind
        u = self._drawn[number]
        z = u[8:10]
        gpu, gpus = touched_gpus(self.spec, kind, strike.gpu)
        severity, duration_s = strike.severity, strike.duration_s
        if severity is None:
            severity = log_uniform(u[0], kind.severity_low, kind.severity_high)
        lasts = duration_s is not None
        if duration_s is None:
            duration_s = kind.duration_median_s * math.exp(kind.duration_sigma * z[0])
        made = Incident(
            number=number,
            kind=kind,
            time_s=at_s,
            gpu=gpu,
            gpus=gpus,
            rank=strike.gpu,
            node=gpu // self.spec.cluster.gpus_per_node,
            attempt=attempt,
            step=step,
            severity=severity,
            hangs=kind.course == "hang" or u[2] < kind.hang_share,
        )
        incident = OpenIncident(
            made,
            duration_s=duration_s,
            lasts=lasts,
            detect_after_s=log_uniform(u[3], kind.detect_low_s, kind.detect_high_s),
            down_s=kind.downtime_median_s * math.exp(kind.downtime_sigma * z[1]),
            lead_s=log_uniform(u[4], kind.lead_low_s, kind.lead_high_s),
            u_watchdog=u[5],
            u_skip=u[6],
        )
        self.incidents.append(incident)
        self.alive.append(incident)
        return incident

    def _draw(self, start: int, count: int) -> F64:
        """Uniform draws of some incidents; words 8 and 9 of each as standard normals."""
        words = self._noise.uniform(start, count).reshape(-1, _WORDS)
        words[:, 8:10] = normal_quantile(words[:, 8:10])
        return words

    def add_effect(self, incident: OpenIncident, at_s: float) -> OpenEffect:
        """The effect of an incident comes into force."""
        effect = OpenEffect(
            incident,
            len(self.effects),
            incident.kind.effect,
            incident.so_far.severity,
            at_s,
            incident.lead_s,
        )
        incident.effect = effect
        self.effects.append(effect)
        self._fresh.append(effect)
        self.in_force = (*self.in_force, effect.index)
        if effect.effect in PACE_EFFECTS:
            self._paced.append(effect)
            self._steady_from_s = math.inf
        if incident.kind.course == "save":
            self._waiting.append(effect)
        return effect

    def add_sign(
        self, incident: OpenIncident, name: Sign | Literal["xid"], at_s: float, *, start: float
    ) -> None:
        """A counter or mark of an incident's first GPU begins to move."""
        per_hour = incident.kind.sign_per_hour if name == incident.kind.sign else 0.0
        made = incident.so_far
        sign = ActiveSign(made.number, name, made.gpu, 1, start, per_hour, at_s, math.inf, math.inf)
        incident.signs.append(len(self.signs))
        self.shown_signs = (*self.shown_signs, len(self.signs))
        self.signs.append(sign)

    def show(self, step: int, at_s: float) -> None:
        """A span begins at `at_s` after `step`: effects that are new are felt from here on."""
        for effect in self._fresh:
            effect.since_step = step + 1
            effect.owner.put(shown_s=at_s)
        self._fresh.clear()

    # What is in force.

    def slow(self, start_s: float) -> float:
        """Step time over the undisturbed one in a stretch from `start_s`."""
        if not self._paced:
            return 1.0
        if start_s >= self._steady_from_s:  # none has begun or ended, none is growing
            return self._slow
        extra = self._slowdown.extra
        costs = [(e, extra(e.effect, e.level(start_s))) for e in self._paced]
        total = sum(cost for _, cost in costs)
        self._shares = [(e, cost / total) for e, cost in costs if cost]
        self._slow = self._slowdown.factor((e.effect, cost) for e, cost in costs)
        if start_s >= max(e.since_s + e.ramp_s for e in self._paced):
            self._steady_from_s = start_s
        return self._slow

    def book_slow(self, lost_s: float) -> None:
        """Time lost in the stretch last asked for, to each effect by what it costs alone."""
        for effect, share in self._shares:
            effect.owner.lost_s += lost_s * share

    def extra(self, incident: OpenIncident) -> float:
        """How much longer a step takes by an incident's whole effect alone, as a share."""
        return self._slowdown.extra(incident.kind.effect, incident.so_far.severity)

    def loss_excess(self, step: int, loss: float) -> float:
        """Nats that effects add to a validation's `loss`."""
        total = 0.0
        for effect in self._in_force():
            if effect.effect in LOSS_EFFECTS:
                since = np.array([float(step - effect.since_step)])
                total += float(loss_excess(effect.effect, effect.severity, since)[0])
        if not total:
            return 0.0
        excess, base = np.array([total]), np.array([loss])
        return float(bounded_excess(excess, base, self.spec.model.vocab_size)[0])

    def meet(self, name: Effect) -> list[OpenEffect]:
        """Effects of this name in force, which a stop meets now."""
        if not self._waiting:
            return []
        met = [effect for effect in self._waiting if effect.effect == name]
        for effect in met:
            effect.is_used = effect.is_busy = True
        return met

    def first(self, name: Effect) -> OpenEffect | None:
        """The oldest effect of this name that waits for a stop."""
        if not self._waiting:
            return None
        return next((effect for effect in self._waiting if effect.effect == name), None)

    def _in_force(self) -> Iterator[OpenEffect]:
        return (self.effects[i] for i in self.in_force)

    def latent(self) -> list[OpenIncident]:
        """Incidents whose checkpoint is written and cannot be read."""
        return [incident for incident in self._written if not incident.is_over]

    def corrupt(self, effect: OpenEffect, at_s: float) -> None:
        """The checkpoint that is written at `at_s` will be found unreadable."""
        self.end_effect(effect, at_s)
        self._written.append(effect.owner)

    def astray(self, time_s: float) -> list[OpenEffect]:
        """Effects on the loss that somebody has noticed and wants to take the run back from."""
        return [
            effect
            for effect in self._in_force()
            if effect.owner.kind.recovery == "rollback"
            and effect.since_step
            and effect.owner.noticed_by(time_s)
        ]

    # What ends.

    def end_effect(self, effect: OpenEffect, at_s: float) -> None:
        """An effect is in force no more."""
        effect.until_s = at_s
        self._steady_from_s = math.inf
        self.in_force = tuple(i for i in self.in_force if i != effect.index)
        for kept in (self._paced, self._waiting, self._fresh):
            if effect in kept:
                kept.remove(effect)

    def over(self, incident: OpenIncident, at_s: float, *, cleared: bool = False) -> None:
        """The cause of an incident is gone."""
        if not incident.is_over:
            incident.is_over = True
            self.alive.remove(incident)
        if incident.so_far.mitigated_s is None:
            incident.put(mitigated_s=at_s)
        if cleared and incident.so_far.cleared_s is None:
            incident.put(cleared_s=at_s)
        if incident.effect is not None and incident.effect.index in self.in_force:
            self.end_effect(incident.effect, at_s)
        self.stop_signs(incident, at_s)

    def stop_signs(self, incident: OpenIncident, at_s: float) -> None:
        """What an incident counts, it counts no further."""
        for i in incident.signs:
            if math.isinf(self.signs[i].until_s):
                self.signs[i] = replace(self.signs[i], until_s=at_s)

    def reset(self, incident: OpenIncident, at_s: float) -> None:
        """Its GPU is reset: what was counted since its driver was loaded is gone."""
        for i in incident.signs:
            self.signs[i] = replace(self.signs[i], gone_s=min(at_s, self.signs[i].gone_s))
        self.shown_signs = tuple(i for i in self.shown_signs if i not in incident.signs)

    def swap(self, nodes: list[int], at_s: float, *, attempt: int) -> None:
        """Spares take the places of `nodes` from `attempt` on; old counts go with old nodes."""
        for node in nodes:
            self.swaps.append((attempt, node, self.spec.cluster.nodes + len(self.swaps)))
        if not nodes:
            return
        per_node, kept = self.spec.cluster.gpus_per_node, []
        for i in self.shown_signs:
            if self.signs[i].first_gpu // per_node in nodes:
                self.signs[i] = replace(self.signs[i], gone_s=at_s)
            else:
                kept.append(i)
        self.shown_signs = tuple(kept)


def log_uniform(u: float, low: float, high: float) -> float:
    """Between `low` and `high`, evenly in the logarithm; evenly where `low` is 0."""
    if low <= 0:
        return low + u * (high - low)
    return low * math.pow(high / low, u)
