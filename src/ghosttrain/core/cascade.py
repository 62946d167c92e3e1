"""What an incident makes the run tell: the fault, who says what in which order, the label.

The order is that of real failures: the kernel first, then the rank that is hit, then its peers,
the agent that launched them, the scheduler, the operators. A hang is silent until the watchdog.
Nothing here is dense: an incident is worth a dozen events.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ghosttrain.core.events import (
    FaultOccurred,
    IncidentLabelled,
    MessageKind,
    MessageLogged,
    Phase,
    WatchdogTimedOut,
)
from ghosttrain.core.identity import nodes_per_rack
from ghosttrain.core.laws.faults import (
    COMPUTE_EFFECTS,
    HEAT_EFFECTS,
    LOSS_EFFECTS,
    PACE_EFFECTS,
    ActiveEffect,
)
from ghosttrain.core.plan import Plan
from ghosttrain.core.rng import Stream
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.timeline import Incident, Span, Timeline

Aside = FaultOccurred | MessageLogged | WatchdogTimedOut | IncidentLabelled

_M = MessageKind
_ORDER: tuple[type[Aside], ...] = (WatchdogTimedOut, FaultOccurred, MessageLogged, IncidentLabelled)

# Seconds after the cause (or before the detection), as public failure logs show them: a CUDA error
# surfaces at the next synchronisation; torchrun looks at its workers ten times a second and ends
# the others at once; peers abort within seconds of a closed socket; Slurm notices last.
_CUDA_ERROR_AFTER_S = 0.4
_ABORT_SPREAD_S = 2.0
_WATCHDOG_SPREAD_S = 0.35
_AGENT_AFTER_S = (0.6, 1.9, 3.1)  # signal, exit code, summary
_SCHEDULER_AFTER_S = (6.0, 9.0)
_SIGABRT, _SIGKILL, _EXCEPTION = -6, -9, 1
_STOP_SIGNALS = {
    "slow-storage": (Phase.CHECKPOINT, "checkpoint_time"),
    "slow-validation": (Phase.VALIDATION, "validation_time"),
}
_OPERATIONS = {"all_reduce": "ALLREDUCE", "reduce_scatter": "_REDUCE_SCATTER_BASE"}


class Cascade:
    """All that incidents make the run tell; of a window only what its incidents do is worked out.

    Args:
        plan: What was planned.
        timeline: What happened.
        seed: Of the run.
        done_at: The last completed step at a moment.
    """

    def __init__(
        self, plan: Plan, timeline: Timeline, seed: int, done_at: Callable[[float], int]
    ) -> None:
        self.plan, self.timeline, self.seed, self.done_at = plan, timeline, seed, done_at
        self.slowdown = Slowdown(plan)
        self._told: dict[int, list[Aside]] = {}
        incidents, end_s = timeline.incidents, timeline.end_s
        self._from_s = np.array([i.time_s for i in incidents])
        self._until_s = np.array([end_s if i.cleared_s is None else i.cleared_s for i in incidents])
        self._effects: dict[int, list[ActiveEffect]] = {}
        for effect in timeline.effects:
            self._effects.setdefault(effect.incident, []).append(effect)

    def between(self, start_s: float, stop_s: float) -> list[Aside]:
        """What is told in [start_s, stop_s), in order."""
        if not len(self._from_s):
            return []
        open_then = (self._from_s < stop_s) & (self._until_s >= start_s)
        told = [
            event
            for at in np.flatnonzero(open_then).tolist()
            for event in self._of(at)
            if start_s <= event.time_s < stop_s
        ]
        return sorted(told, key=lambda e: (e.time_s, _ORDER.index(type(e))))

    def effects_of(self, incident: Incident) -> list[ActiveEffect]:
        """The effects of an incident."""
        return self._effects.get(incident.number, [])

    def _of(self, at: int) -> list[Aside]:
        """What the incident at an index tells, as far as the run goes."""
        if at not in self._told:
            events = _Telling(self, self.timeline.incidents[at]).events()
            end_s = self.timeline.end_s
            self._told[at] = [
                e for e in events if e.time_s < end_s or isinstance(e, IncidentLabelled)
            ]
        return self._told[at]


class _Telling:
    """The events of one incident."""

    def __init__(self, cascade: Cascade, incident: Incident) -> None:
        self.cascade, self.incident = cascade, incident
        self.plan, self.timeline = cascade.plan, cascade.timeline
        self.kind = incident.kind
        self.gpus = self.plan.spec.cluster.gpus
        self.per_node = min(self.plan.spec.cluster.gpus_per_node, self.gpus)
        self._slowdown = cascade.slowdown
        self._u = Stream(cascade.seed, "faults.telling").uniform(4 * incident.number, 4).tolist()

    def events(self) -> Iterator[Aside]:
        """The fault, what is said, the label."""
        i = self.incident
        yield FaultOccurred(
            time_s=i.time_s,
            fault=i.number,
            kind=self.kind.name,
            xid=self.kind.xids[0] if self.kind.xids else 0,
            node=i.node,
            gpu=i.gpu,
            gpus=i.gpus,
            severity=i.severity,
            step=i.step,
            attempt=i.attempt,
        )
        yield from self._while_it_lasts()
        if i.strike_s is not None:
            match i.reason:
                case "fault":
                    yield from self._processes_end()
                case "rollback":
                    yield from self._rollback()
                case "maintenance" | "preempted" | "operator":
                    yield from self._told_to_end()
            yield from self._until_relaunch()
        yield self.label()

    def _say(
        self,
        time_s: float,
        message: MessageKind,
        *,
        rank: int | None = None,
        ranks: int = 1,
        spread_s: float = 0.0,
        code: int = 0,
        value: float = 0.0,
    ) -> MessageLogged:
        i = self.incident
        return MessageLogged(
            time_s=time_s,
            message=message,
            fault=i.number,
            step=self.cascade.done_at(time_s),
            attempt=self.timeline.spans[self.timeline.index_at(time_s)].attempt,
            node=i.node if rank is None else rank // self.per_node,
            rank=rank,
            ranks=ranks,
            spread_s=spread_s,
            code=code,
            value=value,
            spares=self._spares(time_s),
        )

    def _spares(self, time_s: float) -> tuple[tuple[int, int], ...]:
        """Places that spares have taken by then, with the physical nodes there."""
        attempt = self.timeline.spans[self.timeline.index_at(time_s)].attempt
        return self.timeline.spares(attempt)

    # While the run goes on.

    def _while_it_lasts(self) -> Iterator[MessageLogged]:
        i, kind = self.incident, self.kind
        if kind.course == "stall":
            yield self._say(i.time_s, _M.LINK_DOWN, rank=i.rank)
            yield self._say(i.time_s + i.severity, _M.LINK_UP, rank=i.rank)
        if kind.course == "sign":
            for xid in kind.xids:
                yield self._say(i.time_s, _M.XID, rank=i.gpu, code=xid)
        for effect in self.cascade.effects_of(i):
            if effect.effect in HEAT_EFFECTS and i.shown_s is not None:
                full_s = max(i.shown_s, effect.since_s + effect.ramp_s)
                hot_c = self.plan.spec.gpu.slowdown_c
                extra = self._slowdown.kernel_extra(effect.effect, effect.severity)
                if extra and full_s < effect.until_s:
                    yield self._say(full_s, _M.THROTTLE, rank=i.gpu, ranks=i.gpus, value=hot_c)
            if effect.effect == "slow-storage" and not kind.benign:
                for span in self._affected(Phase.CHECKPOINT, effect.since_s, effect.until_s):
                    yield self._say(span.end_s, _M.STORAGE_SLOW, rank=0, value=span.duration_s)
            if effect.effect == "loss-nan" and i.shown_s is not None:
                yield from self._first_nan(effect.since_step)
        noticed_s = i.detected_s
        if kind.course == "slow" and noticed_s is not None and i.strike_s != noticed_s:
            after_s = noticed_s - i.time_s
            yield self._say(noticed_s, _M.OPERATOR_NOTICED, value=after_s)
            if kind.recovery == "repair" and i.mitigated_s is not None and i.strike_s is None:
                yield self._say(i.mitigated_s, _M.OPERATOR_REPAIRED)

    def _affected(self, phase: Phase, since_s: float, until_s: float) -> list[Span]:
        """Whole spans of a phase that began within [since_s, until_s)."""
        spans = self.timeline.spans
        found = []
        for span in spans[self.timeline.index_at(since_s) :]:
            if span.start_s >= until_s:
                break
            if span.phase is phase and span.start_s >= since_s and not span.cut:
                found.append(span)
        return found

    def _first_nan(self, step: int) -> Iterator[MessageLogged]:
        shown_s = self.incident.shown_s
        assert shown_s is not None
        span = self.timeline.spans[self.timeline.index_at(shown_s)]
        if span.phase is Phase.TRAINING and span.steps:
            end_s = min(span.end_s, shown_s + 1.02 * span.step_time_s)
            yield self._say(end_s, _M.NAN_LOSS, rank=self.gpus - 1, value=step)

    # The end of the processes.

    def _processes_end(self) -> Iterator[MessageLogged | WatchdogTimedOut]:
        """From the strike to the detection."""
        i, kind, struck_s = self.incident, self.kind, self.incident.strike_s
        assert struck_s is not None
        for before, xid in itertools.pairwise((0, *kind.xids)):
            yield self._say(struck_s, _M.XID, rank=i.gpu, code=xid, value=before)
        # As planned: the time limit may come before, but changes nothing that was said until then.
        detected_s = self.timeline.spans[self.timeline.index_at(struck_s)].due_s
        wait_s = detected_s - struck_s
        if kind.name == "kernel-panic":
            yield self._say(struck_s, _M.PANIC)
        if kind.name == "host-oom":
            yield self._say(struck_s, _M.OOM_KILL, rank=i.rank)
        if kind.family == "network":
            yield self._say(struck_s, _M.LINK_DOWN, rank=i.gpu, ranks=i.gpus)
        if i.hangs:
            yield from self._watchdog(detected_s)
            return
        early_s = struck_s + min(_CUDA_ERROR_AFTER_S, 0.2 * wait_s)
        late_s = detected_s - min(_ABORT_SPREAD_S, 0.3 * wait_s)
        match kind.family:
            case "gpu" | "nvlink":
                code = kind.xids[0] if kind.xids else 0
                yield self._say(early_s, _M.CUDA_ERROR, rank=i.gpu, ranks=i.gpus, code=code)
            case "network":
                yield self._say(early_s, _M.NCCL_PORT_ERROR, rank=i.gpu, ranks=i.gpus)
                yield self._say(
                    late_s,
                    _M.NCCL_RETRY_EXCEEDED,
                    rank=i.gpu,
                    ranks=i.gpus,
                    spread_s=0.2 * (detected_s - late_s),
                    value=(i.gpu + self.per_node) % self.gpus,
                )
            case "host":
                peer = self._peer()
                if peer is not None:
                    yield self._say(late_s, _M.NCCL_SOCKET_CLOSED, rank=peer, value=i.gpu)
            case "storage":
                size = float(self.plan.checkpoint_bytes)
                yield self._say(struck_s, _M.STORAGE_FULL, rank=0, value=size)
            case _:
                if kind.name == "cuda-oom":
                    yield self._say(struck_s, _M.CUDA_OOM, rank=i.rank)
                elif kind.name != "host-oom":
                    yield self._say(struck_s, _M.TRACEBACK, rank=i.rank, code=int(64 * self._u[0]))
        yield from self._peers_abort(late_s, detected_s)

    def _watchdog(self, detected_s: float) -> Iterator[MessageLogged | WatchdogTimedOut]:
        """The ranks that waited give up; the one they waited for says nothing."""
        i = self.incident
        # Those that wait: all but the one they wait for, or but those whose node is gone.
        is_gone = self.kind.takes_gpus and self.kind.scope != "gpu"
        first, count = (i.gpu, i.gpus) if is_gone else (i.rank, 1)
        waiting = self.gpus - count
        if not waiting:
            return
        reporter, sequence = (count if first == 0 else 0), self._sequence()
        base = self.plan.gradient_collective
        yield WatchdogTimedOut(
            time_s=detected_s,
            fault=i.number,
            attempt=i.strike_attempt,
            step=i.strike_step,
            rank=i.rank,
            reporter=reporter,
            waiting_ranks=waiting,
            spread_s=_WATCHDOG_SPREAD_S,
            sequence=sequence,
            operation=_OPERATIONS.get(base.op, "ALLREDUCE"),
            elements=int(base.size_bytes / 4),
            timeout_s=self.plan.spec.faults.watchdog_timeout_s,
            spares=self._spares(detected_s),
        )
        if self.kind.name == "collective-desync":
            yield self._say(detected_s + 0.001, _M.DESYNC, rank=reporter, value=sequence)
        for message, late_s in ((_M.WATCHDOG_STATUS, 0.002), (_M.WATCHDOG_TEARDOWN, 0.004)):
            yield self._say(
                detected_s + late_s,
                message,
                rank=reporter,
                ranks=waiting,
                spread_s=_WATCHDOG_SPREAD_S,
                value=sequence,
            )

    def _sequence(self) -> int:
        """Number of the collective that never ended: three a layer and step, two thirds through."""
        i, layers = self.incident, self.plan.spec.model.layers
        began = next(s.step for s in self.timeline.spans if s.attempt == i.strike_attempt)
        return 3 * layers * (i.strike_step - began) + 2 * layers + 1

    def _peer(self) -> int | None:
        """A rank that is none of the incident's, None where there is none."""
        i = self.incident
        rank = i.gpu + i.gpus if i.gpu + i.gpus < self.gpus else i.gpu - 1
        return rank if rank >= 0 else None

    def _peers_abort(self, from_s: float, until_s: float) -> Iterator[MessageLogged]:
        peers = self.gpus - (self.incident.gpus if self.incident.gpus < self.gpus else 1)
        rank = self._peer()
        if peers and rank is None:
            rank = 1 if self.incident.rank == 0 else 0
        if peers and rank is not None:
            spread_s = 0.8 * (until_s - from_s)
            yield self._say(from_s, _M.NCCL_ABORTED, rank=rank, ranks=peers, spread_s=spread_s)

    def _rollback(self) -> Iterator[MessageLogged]:
        i = self.incident
        assert i.strike_s is not None
        yield self._say(i.strike_s, _M.ROLLBACK, value=i.skipped_batches)

    def _told_to_end(self) -> Iterator[MessageLogged]:
        """Somebody asks the run to save and end."""
        i = self.incident
        assert i.strike_s is not None
        asked_s = i.time_s if self.kind.course == "stop" else i.asked_s
        if asked_s is None:
            return
        if i.reason == "preempted":
            yield self._say(asked_s, _M.PREEMPTED)
        # Its last line, when the state is saved.
        yield self._say(i.strike_s, _M.SIGTERM, rank=0, ranks=self.gpus, spread_s=0.05)

    def _until_relaunch(self) -> Iterator[MessageLogged]:
        """Agents, scheduler and operators, while the run is down; what the next launch finds."""
        i, kind = self.incident, self.kind
        down_s = i.detected_s if i.reason == "fault" else i.strike_s
        if down_s is None:
            return
        down = self.timeline.spans[self.timeline.index_at(down_s)]
        if down.phase is not Phase.DOWN:
            return  # the time limit came first
        room_s = down.due_s - down_s
        scale = min(1.0, room_s / 12.0)
        code = self._exit_code()
        if i.reason == "fault":
            first = i.gpu if kind.scope in ("gpu", "node", "rack") else i.rank
            if kind.scope == "storage":
                first = 0  # who writes
            gone = kind.takes_gpus and kind.scope != "gpu"  # the node and its agent are gone
            signal_s, failed_s, summary_s = (down_s + scale * s for s in _AGENT_AFTER_S)
            if gone:
                yield self._say(down_s, _M.NODE_FAILED, ranks=-(-i.gpus // self.per_node))
            else:
                if self.per_node > 1:
                    mates = self.per_node - 1
                    yield self._say(signal_s, _M.AGENT_SIGTERM, rank=first, ranks=mates)
                yield self._say(failed_s, _M.AGENT_FAILED, rank=first, code=code)
                yield self._say(summary_s, _M.AGENT_SUMMARY, rank=first, code=code)
                exited_s = down_s + scale * _SCHEDULER_AFTER_S[0]
                yield self._say(exited_s, _M.TASK_EXITED, rank=first, code=code)
            cancelled_s = down_s + scale * _SCHEDULER_AFTER_S[1]
            yield self._say(cancelled_s, _M.STEP_CANCELLED, code=0 if gone else code)
        if i.swapped:
            yield self._say(down.due_s - 0.05 * room_s, _M.OPERATOR_EXCLUDED)
        elif kind.recovery == "repair":
            yield self._say(down.due_s - 0.05 * room_s, _M.OPERATOR_REPAIRED)
        if i.relaunch_s is None:
            return
        weights = self.timeline.spans[self.timeline.index_at(i.relaunch_s)]
        loads = len(i.unreadable_steps) + 1
        for number, step in enumerate(i.unreadable_steps, 1):
            at_s = weights.start_s + weights.duration_s * number / loads
            if at_s < weights.end_s and not weights.cut:
                yield self._say(at_s, _M.CHECKPOINT_CORRUPT, rank=0, value=step)

    def _exit_code(self) -> int:
        if self.kind.name == "host-oom":
            return _SIGKILL
        if self.incident.hangs or self.kind.family == "network":
            return _SIGABRT
        return _EXCEPTION

    # Ground truth.

    def label(self) -> IncidentLabelled:
        """What is true of the incident, told when it is over or the run ends."""
        i, kind = self.incident, self.kind
        told_s = self.timeline.end_s if i.cleared_s is None else i.cleared_s
        # An effect may be over before the step that would have shown it is.
        seen = [(name, at_s) for name, at_s in self._signals() if at_s <= told_s]
        return IncidentLabelled(
            time_s=told_s,
            incident=i.number,
            kind=kind.name,
            family=kind.family,
            scope=kind.scope,
            entity=entity_words(self.plan, i),
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

    def _signals(self) -> Iterator[tuple[str, float]]:
        """When which signal first shows it."""
        i, kind = self.incident, self.kind
        if kind.sign != "none":
            name = {"nvlink-crc": "nvlink", "pcie-replay": "pcie"}.get(kind.sign, "ecc")
            yield name, i.time_s
        if kind.course == "sign" and kind.xids:
            yield "xid", i.time_s
        for effect in self.cascade.effects_of(i):
            if i.shown_s is not None:
                yield from self._effect_signals(effect, i.shown_s)
        if kind.course == "stall" and i.shown_s is not None and i.cleared_s is not None:
            yield "ib", i.shown_s
            yield "power", i.shown_s
            yield "step_time", i.cleared_s
        if i.strike_s is not None and i.reason in ("maintenance", "preempted", "operator"):
            yield "log", i.time_s if i.reason == "preempted" else i.strike_s
        if i.strike_s is not None and i.reason == "fault":
            if kind.xids:
                yield "xid", i.strike_s
            if kind.takes_gpus:
                yield "telemetry_lost", i.strike_s
            if kind.course != "save":
                yield "step_time", i.strike_s
                yield "power", i.strike_s
                yield "tensor_active", i.strike_s
            yield "log", i.detected_s if i.hangs and i.detected_s is not None else i.strike_s

    def _effect_signals(self, effect: ActiveEffect, shown_s: float) -> Iterator[tuple[str, float]]:
        name = effect.effect
        if name in LOSS_EFFECTS:
            if (end_s := self._first_touched_step(effect, shown_s)) is not None:
                yield "loss", end_s
                if name != "loss-bump":
                    yield "grad_norm", end_s
        elif name in _STOP_SIGNALS:
            phase, signal = _STOP_SIGNALS[name]
            if met := self._affected(phase, effect.since_s, effect.until_s):
                yield signal, met[0].end_s
        elif name in PACE_EFFECTS:
            if name in HEAT_EFFECTS:
                yield "temperature", effect.since_s
            if (slow := self._first_slow(effect, shown_s)) is None:
                return  # it is felt, but no step takes longer
            yield "step_time", slow.start_s + slow.step_time_s
            yield "throughput", slow.start_s + slow.step_time_s
            yield "power", slow.start_s
            yield "tensor_active", slow.start_s
            if name in COMPUTE_EFFECTS:
                yield "sm_clock", slow.start_s
            if name == "slow-link":
                yield "ib", slow.start_s
        elif self.incident.unreadable_steps and self.incident.relaunch_s is not None:
            yield "log", self.incident.relaunch_s

    def _first_touched_step(self, effect: ActiveEffect, shown_s: float) -> float | None:
        """When the first step ended that had it in force, None where none had."""
        spans = self.timeline.spans
        for span in spans[self.timeline.index_at(shown_s) :]:
            if span.start_s >= effect.until_s:
                return None
            if span.phase is Phase.TRAINING and span.steps:
                return min(span.end_s, span.start_s + span.step_time_s)
        return None

    def _first_slow(self, effect: ActiveEffect, shown_s: float) -> Span | None:
        """The first stretch of training that it makes slower."""
        spans = self.timeline.spans
        for span in spans[self.timeline.index_at(shown_s) :]:
            if span.start_s >= effect.until_s:
                return None
            if span.phase is Phase.TRAINING and span.steps and span.slow > 1:
                level = effect.stretch_level(span.start_s)
                if self._slowdown.extra(effect.effect, level) > 0:
                    return span
        return None


def entity_words(plan: Plan, incident: Incident) -> str:
    """What broke: "gpu 17", "node 2", "rack 1", or what all share."""
    match incident.kind.scope:
        case "gpu":
            return f"gpu {incident.gpu}"
        case "node":
            return f"node {incident.node}"
        case "rack":
            size = (
                nodes_per_rack(plan.spec.gpu, plan.spec.cluster) * plan.spec.cluster.gpus_per_node
            )
            return f"rack {incident.gpu // size}"
        case scope:
            return str(scope)
