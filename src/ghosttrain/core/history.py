"""History: draws a timeline. The one place where what comes depends on what came before.

What is decided here and nowhere else: when a fault strikes, what it interrupts or slows, when it
is noticed and what is done about it, from which checkpoint the run goes on, which node is
swapped, which validations improved.

A walk through the run adds span after span, and looks ahead for the next change. A hard change
(processes die) cuts the span at its moment. A soft one (a GPU slows, a repair is done) is noted at
its moment, and takes hold when the step in progress is over.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace

import numpy as np

from ghosttrain.core.agenda import Agenda, Change
from ghosttrain.core.events import AbortReason, Phase
from ghosttrain.core.fault_draws import Strike, faults_by_step
from ghosttrain.core.incidents import IncidentBook, OpenIncident
from ghosttrain.core.laws.faults import BUMP_STEPS, RAMP_PARTS, SPIKE_GONE_STEPS, SPIKE_OVER_STEPS
from ghosttrain.core.laws.goodput import NODE_TIMEOUT_S
from ghosttrain.core.laws.loss import validation_loss
from ghosttrain.core.laws.pace import PaceClock
from ghosttrain.core.plan import (
    FIRST_STEP_LOG_SD,
    FIRST_STEP_MEDIAN_S,
    FIRST_STEPS,
    FIRST_STEPS_SLOWER,
    Plan,
    checkpoint_steps,
    validation_steps,
)
from ghosttrain.core.rng import Rows, Stream
from ghosttrain.core.spec import Effect
from ghosttrain.core.timeline import (
    INIT_PHASES,
    Span,
    Timeline,
    Validated,
    Validations,
    expected_init_s,
    pace_clock,
)
from ghosttrain.core.units import HOUR_S

_DURATION_SD = 0.12  # of log duration of a phase about its plan
_WATCHDOG_SLACK_S = 0.08  # its thread looks at the clock ten times a second or so
_MID_STEP = 0.37  # of a step: where a fault asked for by step comes
# A launch comes anyway every few hours on large clusters. Operators who have found a slow node stop
# the run for it when waiting has cost what a stop costs: some 7 min against 4 to 6 % of the time.
_PATIENCE_S = 3 * HOUR_S
# PaLM's remedy for loss spikes: restart from about 100 steps before, skip 200 to 500 batches
# (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1).
_ROLLBACK_MARGIN_STEPS = 100
_SKIPPED_BATCHES = (200, 500)
_SEEN_AFTER_STEPS = 2.5  # the step in progress, the first touched one, and its line in the log
_NODE_SLACK_S = 10.0  # Slurm's controller pings now and then
_FOUND_AFTER_S = 2.0  # a launch finds what broke while it was down
_NOTICED_EXTRA = 0.01  # of a step: less than that nobody notices
_FULL_AT = 0.6  # of a checkpoint: where a full file system is noticed

_Under = tuple[tuple[int, ...], tuple[int, ...]]  # effects and signs in force


def draw_timeline(plan: Plan, seed: int, pace: PaceClock | None = None) -> Timeline:
    """Draw the history of a run. Specs whose faults differ only from t on agree before t."""
    clock = pace or pace_clock(plan, seed)
    return _Walk(plan, seed, clock).draw()


def draw_validations(plan: Plan, seed: int) -> Validations:
    """Losses of all planned validations."""
    steps = np.asarray(validation_steps(plan.spec.recipe), dtype=np.float64)
    stream = Stream(seed, "validation")
    z_set = float(stream.normal(0, 1)[0])
    z_step = stream.normal(4, len(steps))
    curve, dataset = plan.loss_curve, plan.spec.dataset
    loss = validation_loss(curve, dataset, steps, z_set, z_step)
    return Validations(tuple(int(s) for s in steps), tuple(loss.tolist()))


class _Walk:
    """State of the walk through one run's history."""

    def __init__(self, plan: Plan, seed: int, pace: PaceClock) -> None:
        self.plan, self.pace, self.spec = plan, pace, plan.spec
        self.recipe = plan.spec.recipe
        self.step_s = plan.step_time.total_s
        self.limit_s = plan.spec.time_limit_s
        self.validations = draw_validations(plan, seed)
        self.book = IncidentBook(plan, seed)
        self.agenda = Agenda(plan, seed)
        self.by_step = faults_by_step(plan, seed)
        self.spans: list[Span] = []
        self.validated: list[Validated] = []
        self.time_s = 0.0
        self.step = 0
        self.ordinal = 0
        self.attempt = 1
        self.skipped = 0
        self._clock = 0, 0.0  # of the ordinal last asked for
        self.seen_step = 0  # last completed step at the change that is looked at
        self.saves: list[tuple[int, bool]] = []  # step, and whether it can be read back
        self.standing: list[tuple[int, float]] = []  # validated steps, least loss up to each
        self.stalled: list[OpenIncident] = []  # stalls that the next step has to bear
        self.easing: list[OpenIncident] = []  # whose effect ends with the step in progress
        self.stopping: OpenIncident | None = None  # why the run is to save and end
        self.awaiting: list[OpenIncident] = []  # incidents whose lost steps are being done again
        self._phase_noise = Rows(Stream(seed, "phases").normal, 16, 16)
        self._phase_z: list[float] = []
        self._stop_noise = Rows(Stream(seed, "stops").normal, 2, 256)
        self._stops_made = 0
        self._interval_saves = checkpoint_steps(self.recipe)
        total = self.recipe.total_steps
        self._stops = sorted({*self.validations.step, *self._interval_saves, total})

    def draw(self) -> Timeline:
        """The whole history."""
        finished = False
        while self.time_s < self.limit_s and not finished:
            finished = self._attempt(self.recipe.total_steps)
        completed = finished and self.time_s <= self.limit_s
        incidents = self.book.incidents
        if not completed:
            self._cut_at(self.limit_s)
            incidents = [i for i in incidents if i.so_far.time_s < self.limit_s]
        self._add(Phase.DONE, self.time_s)
        return Timeline(
            spans=tuple(self.spans),
            incidents=tuple(incident.settled(self.time_s) for incident in incidents),
            effects=tuple(effect.settled() for effect in self.book.effects),
            signs=tuple(self.book.signs),
            validated=tuple(v for v in self.validated if v.end_s <= self.time_s),
            completed=completed,
            swaps=tuple(swap for swap in self.book.swaps if swap[0] <= self.attempt),
            starts_s=tuple(span.start_s for span in self.spans),
        )

    # Launches.

    def _attempt(self, total_steps: int) -> bool:
        """One launch: initialise, train with its stops, export. False when it ended early."""
        self._phase_z = self._phase_noise[self.attempt]
        for number, phase in enumerate(INIT_PHASES):
            expected = expected_init_s(self.plan, phase, self.attempt, self._saved_step())
            if not self._pass(phase, expected * self._phase_factor(number)):
                return False
        self._caught_up(self.step, self.time_s)
        if self.step < total_steps and not (
            self._warm_up(total_steps) and self._train(total_steps)
        ):
            return False
        return self._pass(Phase.EXPORT, self.plan.phases.export_s * self._phase_factor(7))

    def _saved_step(self) -> int:
        return self.saves[-1][0] if self.saves else 0

    def _phase_factor(self, number: int) -> float:
        return math.exp(_DURATION_SD * self._phase_z[number])

    def _warm_up(self, total_steps: int) -> bool:
        """The first steps of a launch are slow: compilation, autotuning, cold caches.

        Published logs: the first step takes 5 to 60 s more, the next few 2 to 20 % more.
        """
        z = self._phase_z[8:10]
        extra = min(60.0, FIRST_STEP_MEDIAN_S * math.exp(FIRST_STEP_LOG_SD * z[0]))
        first = 1 + extra / self.step_s
        then = (1 + FIRST_STEPS_SLOWER) * math.exp(0.04 * z[1])
        boundary = self._stops[bisect_right(self._stops, self.step)]
        for steps, factor in ((1, first), (FIRST_STEPS, then)):
            steps = min(steps, boundary - self.step)
            if steps and not self._train_stretch(steps, factor):
                return False
        return self._stop(boundary) if self.step == boundary else True

    def _train(self, total_steps: int) -> bool:
        """Train to the end through all stops; False when something ends the attempt."""
        while self.step < total_steps:
            boundary = self._stops[bisect_right(self._stops, self.step)]
            if not self._train_stretch(boundary - self.step, 1.0) or not self._stop(boundary):
                return False
        return True

    def _train_stretch(self, steps: int, warm: float) -> bool:
        """Train `steps` steps, span by span; False when something ends the attempt."""
        goal = self.step + steps
        while self.step < goal:
            if self.stopping is not None:
                return self._stop_in_order()
            if not self._train_span(goal - self.step, warm):
                return False
        return True

    # Spans.

    def _pass(self, phase: Phase, duration_s: float) -> bool:
        """Spend `duration_s` in `phase`; False when a fault cuts it."""
        due = self.time_s + duration_s
        under = self._under()
        hard = self._next_hard(due)
        if hard is not None:
            self._add(phase, max(self.time_s, hard.time_s), due_s=due, under=under)
            self._strike(hard)
            return False
        self._add(phase, due, under=under)
        return True

    def _under(self) -> _Under:
        """What is in force in a span that begins now, whatever comes while it lasts."""
        self.book.show(self.step, self.time_s)
        return self.book.in_force, self.book.shown_signs

    def _add(
        self,
        phase: Phase,
        end_s: float,
        *,
        due_s: float | None = None,
        incident: int = 0,
        under: _Under | None = None,
    ) -> None:
        """Add a span that ends at `end_s`, cut if it was due later."""
        effects, signs = under or self._under()
        self.spans.append(
            Span(
                phase,
                self.time_s,
                end_s,
                self.attempt,
                self.step,
                ordinal=self.ordinal,
                cut=due_s is not None,
                incident=incident,
                due_s=end_s if due_s is None else due_s,
                effects=effects,
                signs=signs,
                skipped_batches=self.skipped,
            )
        )
        self.time_s = end_s

    def _train_span(self, steps: int, warm: float) -> bool:
        """Train up to `steps` steps under what is in force now; False when a fault cuts it."""
        self._arm_by_step()
        if self.by_step:
            steps = max(1, min(steps, self.by_step[0][0] - 1 - self.step))
        self._take_soft(self.time_s)
        self.easing = []
        effects, signs = self._under()
        stalled, self.stalled = self.stalled, []
        slow = paced = self.book.slow(self.time_s)
        if stalled:
            steps = 1
            slow += sum(incident.so_far.severity for incident in stalled) / self.step_s
        begin = self._clock_at(self.ordinal)
        factor = warm + slow - 1  # compilation is the host's, and waits for no link
        scale = factor * self.step_s
        end = self._end_of(steps, begin, scale)
        hard: Change | None = None
        while (change := self.agenda.peek()) is not None and change.time_s < end:
            if change.is_hard:
                hard = change
                break
            done = self._completed_by(change.time_s, begin, scale, steps)
            self.seen_step = self.step + done
            if self._take(change) and done + 1 < steps:
                steps = done + 1
                end = self._end_of(steps, begin, scale)
        limit = min(self.limit_s, math.inf if hard is None else hard.time_s)
        done = self._completed_by(limit, begin, scale, steps) if limit < end else steps
        span = Span(
            Phase.TRAINING,
            self.time_s,
            end if hard is None else hard.time_s,
            self.attempt,
            self.step,
            done,
            self.ordinal,
            factor,
            slow,
            hard is not None,
            0,
            scale,
            effects=effects,
            signs=signs,
            skipped_batches=self.skipped,
        )
        self.spans.append(span)
        if self.awaiting:
            self._catch_up(span, begin)
        if paced > 1.0:
            self.book.book_slow(span.duration_s * (paced - 1) / factor)
        for incident in stalled:
            back_s = incident.so_far.time_s + incident.so_far.severity
            incident.lost_s += min(incident.so_far.severity, span.duration_s)
            incident.put(
                shown_s=span.start_s, mitigated_s=back_s, cleared_s=max(back_s, span.end_s)
            )
            self.book.over(incident, back_s)
        for incident in self.easing:  # slow to the end of the step in progress
            incident.put(cleared_s=span.end_s)
        self.time_s = span.end_s
        self.step += done
        self.seen_step = self.step
        self.ordinal += done + (1 if done < steps else 0)  # a step begun and lost has its ordinal
        if hard is not None:
            self._strike(hard)
        return hard is None and self.time_s < self.limit_s

    def _end_of(self, steps: int, begin: float, scale: float) -> float:
        return self.time_s + scale * (self._clock_at(self.ordinal + steps) - begin)

    def _clock_at(self, ordinal: int) -> float:
        """The pace clock; where a span ended the next one begins."""
        if ordinal != self._clock[0]:
            self._clock = ordinal, self.pace.at(ordinal)
        return self._clock[1]

    def _completed_by(self, limit_s: float, begin: float, scale: float, most: int) -> int:
        """How many of the next `most` steps end by `limit_s`, going by the ends that are shown."""
        near = self.pace.completed(begin + (limit_s - self.time_s) / scale) - self.ordinal
        first = max(0, min(near - 1, most))  # rounding may be off by one step
        last = max(first, min(near + 1, most))
        while first < last:
            end_s = (self.pace.end(self.ordinal + first) - begin) * scale + self.time_s
            if end_s > limit_s:
                break
            first += 1
        return first

    def _catch_up(self, span: Span, begin: float) -> None:
        """Incidents whose lost steps have been done again in `span`."""
        # In the order of the steps: a later target that is met too must not take its time.
        for incident in sorted(self.awaiting, key=lambda made: made.so_far.strike_step):
            target = incident.so_far.strike_step
            if target <= span.step + span.steps:
                end = self.pace.at(span.ordinal + target - span.step) - begin
                at_s = span.start_s + span.step_time_s * max(0.0, end)
                self._caught_up(target, min(span.end_s, at_s))

    def _caught_up(self, step: int, at_s: float) -> None:
        """The run is at `step` at `at_s`: incidents that threw it back to before are over."""
        for incident in tuple(self.awaiting):
            if incident.so_far.strike_step <= step:
                self.awaiting.remove(incident)
                incident.put(cleared_s=at_s)

    # Changes.

    def _next_hard(self, before_s: float) -> Change | None:
        """The next hard change before `before_s`; soft ones on the way are taken."""
        while (change := self.agenda.peek()) is not None and change.time_s < before_s:
            if change.is_hard:
                return change
            self._take(change)
        return None

    def _take_soft(self, until_s: float) -> None:
        """Take the soft changes up to and at `until_s`."""
        while (change := self.agenda.peek()) is not None and change.time_s <= until_s:
            if change.is_hard:
                return
            self._take(change)

    def _take(self, change: Change) -> bool:
        """Take a soft change; whether a new span must begin for it."""
        self.agenda.pop(change)
        if isinstance(change.what, Strike):
            return self._begin(change.what, change.time_s)
        owner, at_s = change.owner, change.time_s
        assert owner is not None
        match change.what:
            case "stop":
                if self.stopping is None:
                    owner.put(asked_s=at_s)
                    self.stopping = owner
            case "clear":  # the tail of its effect goes on
                owner.put(mitigated_s=at_s, cleared_s=at_s)
                return False
            case "end":
                effect = owner.effect
                waits = owner.kind.course == "save" and effect is not None
                if waits and effect is not None and (effect.is_busy or not effect.is_used):
                    owner.is_lapsed = True  # the stop that meets it ends it
                    return False
                self.book.over(owner, at_s, cleared=True)
                if owner.kind.course == "slow":
                    self.easing.append(owner)
            case "edge":
                pass
            case "strike" | "kill":
                raise AssertionError(change)
        return True

    def _arm_by_step(self) -> None:
        """Faults asked for by step come in the middle of that step."""
        while self.by_step and self.by_step[0][0] - 1 <= self.step:
            _, strike = self.by_step.pop(0)
            at_s = self.time_s + _MID_STEP * self.step_s
            self.agenda.push(at_s, replace(strike, time_s=at_s))

    def _open(self, strike: Strike, at_s: float) -> OpenIncident:
        return self.book.open(strike, at_s, attempt=self.attempt, step=self.seen_step)

    def _begin(self, strike: Strike, at_s: float) -> bool:
        """A fault that is soft at first begins; whether a new span must begin for it."""
        incident = self._open(strike, at_s)
        kind = incident.kind
        if kind.sign != "none":
            start = 0.0 if kind.sign_per_hour else 1.0
            self.book.add_sign(incident, kind.sign, at_s, start=start)
        match kind.course:
            case "stop":
                self.stopping = self.stopping or incident
            case "stall":
                incident.put(detected_s=at_s)
                self.stalled.append(incident)
            case "sign":
                if kind.xids:
                    self.book.add_sign(incident, "xid", at_s, start=float(kind.xids[0]))
                self.agenda.push(at_s + incident.duration_s, "end", incident)
            case "crash" | "hang":
                self.agenda.push(at_s + incident.lead_s, "strike", incident)
                if kind.effect != "none":  # it shows before it strikes
                    self._grow(incident, at_s)
            case "slow" | "loss" | "save":
                self._grow(incident, at_s)
                self._plan_the_end(incident, at_s)
        return True

    def _grow(self, incident: OpenIncident, at_s: float) -> None:
        """The effect of an incident comes into force, at once or bit by bit."""
        self.book.add_effect(incident, at_s)
        if incident.lead_s:
            for part in range(1, RAMP_PARTS + 1):
                at = at_s + incident.lead_s * part / RAMP_PARTS
                self.agenda.push(at, "edge", incident)

    def _plan_the_end(self, incident: OpenIncident, at_s: float) -> None:
        """When an effect that has begun will be noticed, and what will be done about it."""
        kind, push = incident.kind, self.agenda.push
        noticed_s = at_s + incident.detect_after_s
        if kind.course == "loss":  # nothing is to be seen before the next step is done
            noticed_s += _SEEN_AFTER_STEPS * self.step_s
        if kind.course == "loss" and kind.recovery == "self":
            is_bump = kind.effect == "loss-bump"
            over, gone = (BUMP_STEPS,) * 2 if is_bump else (SPIKE_OVER_STEPS, SPIKE_GONE_STEPS)
            push(at_s + over * self.step_s, "clear", incident)
            push(at_s + gone * self.step_s, "end", incident)
        elif incident.lasts or kind.recovery == "self":
            push(at_s + incident.duration_s, "end", incident)
            ends_s = at_s + incident.duration_s
            is_felt = kind.course == "slow" and self.book.extra(incident) >= _NOTICED_EXTRA
            if (is_felt or kind.family == "thermal") and noticed_s < ends_s:
                incident.put(detected_s=noticed_s)
        elif kind.recovery == "rollback":
            incident.put(detected_s=noticed_s)
            push(noticed_s, "kill", incident)
        elif kind.course == "slow":
            is_felt = self.book.extra(incident) >= _NOTICED_EXTRA
            if is_felt or kind.family == "thermal":  # heat raises an alarm by itself
                incident.put(detected_s=noticed_s)
            if kind.recovery == "repair" or (kind.family == "thermal" and not is_felt):
                push(noticed_s + incident.down_s, "end", incident)  # where it stands
            elif is_felt:
                push(noticed_s + _PATIENCE_S, "stop", incident)

    # Stops.

    def _stop(self, step: int) -> bool:
        """What is due after `step`: validation, checkpoint. False when the attempt ends."""
        z = self._stop_noise[self._stops_made]
        self._stops_made += 1
        save = step in self._interval_saves
        if self.validations.has(step):
            factor = math.exp(_DURATION_SD * z[0] / 2) * self.book.slow(self.time_s)
            if not self._met_pass(
                Phase.VALIDATION, self.plan.phases.validation_s * factor, "slow-validation"
            ):
                return False
            save = self._validate(step) or save
        if save and not self._save(z[1]):
            return False
        if self.stopping is None or self.step >= self.recipe.total_steps:
            return True
        return self._stop_in_order()

    def _met_pass(self, phase: Phase, duration_s: float, name: Effect) -> bool:
        """Pass a stop that effects of this name make longer; it ends those that lay in wait."""
        met = self.book.meet(name)
        worst = max((effect.severity for effect in met), default=1.0)
        passed = self._pass(phase, duration_s * max(1.0, worst))
        for effect in met:
            effect.is_busy = False
        if not passed:
            return False
        for effect in met:
            owner = effect.owner
            owner.lost_s += duration_s * max(0.0, effect.severity - 1)
            if not owner.kind.benign and owner.so_far.detected_s is None:
                owner.put(detected_s=self.time_s)
            if owner.is_lapsed:
                self.book.over(owner, self.time_s, cleared=True)
        return True

    def _validate(self, step: int) -> bool:
        """Note the validation's result; whether it is the best that stands."""
        base = self.validations.loss[self.validations.index(step)]
        loss = base + self.book.loss_excess(step, base)
        before = self.standing[-1][1] if self.standing else math.inf
        improved = loss < before
        best = loss if improved else before
        self.standing.append((step, best))
        shown = None if math.isnan(loss) else loss, None if math.isinf(best) else best
        self.validated.append(Validated(self.time_s, step, *shown, improved))
        return improved

    def _save(self, z: float) -> bool:
        """Write a checkpoint; False when the attempt ends with it."""
        duration_s = self.plan.phases.checkpoint_s * math.exp(_DURATION_SD * z)
        if (full := self.book.first("full-storage")) is not None:
            full_s, under = self.time_s + _FULL_AT * duration_s, self._under()
            if self._next_hard(full_s) is None:
                due_s = self.time_s + duration_s
                self._add(Phase.CHECKPOINT, full_s, due_s=due_s, under=under)
                self._end_attempt(full.owner, "fault")
                return False
        corrupt = self.book.first("corrupt-checkpoint")
        if not self._met_pass(Phase.CHECKPOINT, duration_s, "slow-storage"):
            return False
        self.saves.append((self.step, corrupt is None))
        if corrupt is not None:
            self.book.corrupt(corrupt, self.time_s)
        else:
            for incident in self.book.latent():  # nobody will read those before this one
                self.book.over(incident, self.time_s, cleared=True)
        return True

    def _stop_in_order(self) -> bool:
        """Save what is not saved and end the attempt, as somebody asked. Always False."""
        incident, self.stopping = self.stopping, None
        assert incident is not None
        if self._saved_step() != self.step and not self._save(0.0):
            return False
        reason: AbortReason = "operator"
        if incident.kind.course == "stop":
            reason = "preempted" if incident.kind.scope == "job" else "maintenance"
        self._end_attempt(incident, reason)
        return False

    # The end of an attempt.

    def _strike(self, change: Change) -> None:
        """A hard change strikes now."""
        self.agenda.pop(change)
        incident = change.owner
        if isinstance(change.what, Strike):
            incident = self._open(change.what, self.time_s)
            if incident.kind.sign != "none":
                self.book.add_sign(incident, incident.kind.sign, self.time_s, start=1.0)
        assert incident is not None
        if change.what == "kill":
            self._end_attempt(incident, "rollback")
            return
        self.book.stop_signs(incident, self.time_s)
        if incident.kind.xids:
            # What DCGM shows is the last one.
            self.book.add_sign(incident, "xid", self.time_s, start=float(incident.kind.xids[-1]))
        self._end_attempt(incident, "fault")

    def _end_attempt(self, incident: OpenIncident, reason: AbortReason) -> None:
        """Hang or not, abort, downtime, back to a checkpoint, on to the next attempt."""
        made, struck_s = incident.so_far, self.time_s
        incident.put(
            strike_s=struck_s, strike_step=self.step, strike_attempt=self.attempt, reason=reason
        )
        if reason == "fault":
            waited = incident.detect_after_s
            if made.hangs:
                waited = self.spec.faults.watchdog_timeout_s
                waited += _WATCHDOG_SLACK_S * incident.u_watchdog
                if incident.kind.takes_gpus and incident.kind.scope != "gpu":
                    waited = min(waited, NODE_TIMEOUT_S + _NODE_SLACK_S * incident.u_watchdog)
            self._add(Phase.HANG, struck_s + waited, incident=made.number)
            incident.put(detected_s=self.time_s)
        elif made.detected_s is None:
            incident.put(detected_s=made.time_s)
        down_until_s = self.time_s + incident.down_s
        self._add(Phase.DOWN, down_until_s, incident=made.number)
        self._drain(down_until_s)
        unreadable = self._try_to_read(self._go_back(incident))
        incident.put(
            checkpoint_step=self._saved_step(), unreadable=unreadable, relaunch_s=self.time_s
        )
        self._settle_at_launch(incident)
        self.awaiting.append(incident)
        self.attempt += 1
        self.step = self.seen_step = self._saved_step()
        while self.standing and self.standing[-1][0] > self.step:
            self.standing.pop()

    def _drain(self, until_s: float) -> None:
        """What comes while the processes are down: drawn faults find nothing to strike."""
        while (change := self.agenda.peek()) is not None and change.time_s < until_s:
            if isinstance(change.what, Strike):
                self.agenda.pop(change)
                if change.what.is_asked:  # it is there when the processes come back
                    at_s = until_s + _FOUND_AFTER_S
                    self.agenda.push(at_s, replace(change.what, time_s=at_s))
            elif change.is_hard:
                self.agenda.pop(change)
            else:
                self._take(change)

    def _go_back(self, incident: OpenIncident) -> list[int]:
        """Drop the checkpoints that cannot or must not be gone back to; unreadable ones' steps."""
        if astray := self.book.astray(self.time_s):
            first = min(effect.since_step for effect in astray)
            while self.saves and self.saves[-1][0] > first - _ROLLBACK_MARGIN_STEPS:
                self.saves.pop()
            if any(effect.owner.kind.scope == "job" for effect in astray):  # the data's fault
                low, high = _SKIPPED_BATCHES
                skipped = low + int(incident.u_skip * (high - low + 1))
                incident.put(skipped_batches=skipped)
                self.skipped += skipped
        unreadable = []
        while self.saves and not self.saves[-1][1]:
            unreadable.append(self.saves.pop()[0])
        return unreadable

    def _try_to_read(self, steps: list[int]) -> tuple[tuple[int, float], ...]:
        """Launches that cannot read their checkpoint: what they find when; the downtime grows."""
        if not steps:
            return ()
        each_s = self.plan.init_s + self.plan.phases.checkpoint_load_s
        began_s = self.time_s
        found = tuple((step, began_s + (n + 0.8) * each_s) for n, step in enumerate(steps))
        last = self.spans.pop()
        self.time_s = began_s + len(steps) * each_s
        self.spans.append(last._replace(end_s=self.time_s, due_s=self.time_s))
        self._drain(self.time_s)
        return found

    def _settle_at_launch(self, incident: OpenIncident) -> None:
        """The processes are gone: what that ends, and who is swapped for a spare."""
        book, now = self.book, self.time_s
        swapped: set[int] = set()
        for other in tuple(book.alive):
            if other is not incident and not self._ends_with_a_launch(other):
                continue
            leaves = other.kind.recovery in ("swap", "exclude", "rollback")
            if leaves and other.kind.scope in ("gpu", "node"):
                other.put(swapped=True)
                swapped.add(other.so_far.node)
            if other.kind.recovery in ("reset", "reboot"):
                book.reset(other, now)
            book.over(other, now)
            if other is not incident and other.so_far.cleared_s is None:
                other.put(cleared_s=now)
        book.swap(sorted(swapped), now, attempt=self.attempt + 1)
        if unreadable := incident.so_far.unreadable:
            for other in book.latent():
                other.put(detected_s=unreadable[0][1])
                book.over(other, now, cleared=True)
        if self.stopping is not None and self.stopping.is_over:
            self.stopping = None
        self.stalled = []

    def _ends_with_a_launch(self, incident: OpenIncident) -> bool:
        """Whether a new launch ends an incident that has not caused it."""
        kind, is_noticed = incident.kind, incident.noticed_by(self.time_s)
        match kind.course:
            case "crash" | "hang" | "stop" | "stall":
                return True  # what was to come finds other processes
            case "slow":
                return kind.recovery in ("exclude", "swap") and is_noticed and not incident.lasts
            case "loss":  # the same data bring the same loss, unless the run was taken back
                return kind.recovery == "rollback" and is_noticed
            case "save" | "sign":
                return False

    # The time limit.

    def _cut_at(self, limit_s: float) -> None:
        """End the row of spans at the time limit."""
        while self.spans and self.spans[-1].start_s >= limit_s:
            self.spans.pop()
        last = self.spans.pop()
        self.spans.append(last._replace(end_s=limit_s, cut=True))
        self.time_s = limit_s
        self.attempt, self.step = last.attempt, last.step + last.steps
        self.ordinal = last.ordinal + last.steps
        self.book.in_force, self.book.shown_signs = last.effects, last.signs
        if last.incident:  # what came after the checkpoint is lost
            incident = self.book.incidents[last.incident - 1]
            if last.phase is Phase.HANG:  # nobody has judged yet what can be gone back to
                incident.put(checkpoint_step=self._last_saved_in(last.attempt))
            self.step = incident.so_far.checkpoint_step

    def _last_saved_in(self, attempt: int) -> int:
        """The last step saved in a launch, the one it began after where it saved none."""
        spans = [span for span in self.spans if span.attempt == attempt]
        saved = [s.step for s in spans if s.phase is Phase.CHECKPOINT and not s.cut]
        return saved[-1] if saved else spans[0].step
