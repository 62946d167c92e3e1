"""How the processes of an attempt end: who says what, from the strike to the next launch.

Delays are of the size that public failure logs show: a CUDA error surfaces at the next
synchronisation; torchrun looks at its workers ten times a second and ends the others at once;
ranks on other nodes learn of it from closed sockets within seconds; Slurm comes last, and misses a
silent node only after SlurmdTimeout (300 s by default).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from ghosttrain.core.cascade.speaker import Said, Speaker
from ghosttrain.core.events import MessageKind, MessageLogged, Phase, WatchdogTimedOut
from ghosttrain.core.laws.goodput import NODE_TIMEOUT_S
from ghosttrain.core.timeline import Span

_M = MessageKind
_CUDA_ERROR_AFTER_S = 0.4
_GSP_TIMEOUT_S = 6.0  # Xid 119 is a call that was not answered for so long
_WATCHDOG_SPREAD_S = 0.35
# After the first rank is gone: torchrun ends its mates, tells, sums up; peers on other nodes abort.
_AGENT_SIGNAL_S, _AGENT_FAILED_S, _AGENT_SUMMARY_S = 0.3, 1.9, 3.1
_PEERS_ABORT_S, _PEERS_SPREAD_S = 1.0, 2.5
_TASK_EXITED_S, _STEP_CANCELLED_S = 6.0, 9.0
_SCANCELLED_S = 0.4  # after somebody has typed it
_QUIET_S = 12.0  # all of it; scaled down where the run is launched again sooner
_SIGABRT, _SIGKILL, _SIGTERM, _EXCEPTION = -6, -9, -15, 1
_BUS_ERROR, _OUTAGE = 3, 64  # exceptions of the training software, by number (messages/trainer.py)
_OPERATIONS = {"all_reduce": "ALLREDUCE", "reduce_scatter": "_REDUCE_SCATTER_BASE"}


def attempt_ends(s: Speaker) -> Iterator[Said]:
    """All that is said of the end of an attempt that the incident has brought about."""
    i = s.incident
    if i.strike_s is None:
        return
    if i.reason == "fault":
        # As planned: a time limit that comes before changes nothing that was said until then.
        down_s = s.span_at(i.strike_s).due_s
        yield from _strike(s, i.strike_s, down_s)
    else:
        down_s = i.strike_s
        yield from _told_to_end(s, i.strike_s)
    down = s.span_at(down_s)
    if down.phase is Phase.DOWN:  # else the time limit came first
        yield from _aftermath(s, down)
        yield from _before_relaunch(s, down)


# From the strike to the detection.


def _strike(s: Speaker, struck_s: float, detected_s: float) -> Iterator[Said]:
    yield from _kernel(s, struck_s, detected_s - struck_s)
    if _is_watchdogs(s, struck_s, detected_s):
        yield from _watchdog(s, detected_s)
    elif s.has_lost_nodes:
        peer = s.rank_elsewhere()
        if peer is not None and not s.incident.hangs:
            late_s = detected_s - min(2.0, 0.3 * (detected_s - struck_s))
            last = s.incident.gpu + s.incident.gpus - 1
            yield s.say(late_s, _M.NCCL_SOCKET_CLOSED, rank=peer, value=last)
    else:
        yield from _victim(s, struck_s, detected_s - struck_s)


def _is_watchdogs(s: Speaker, struck_s: float, detected_s: float) -> bool:
    """Whether it was the watchdog that ended the wait."""
    return s.incident.hangs and detected_s - struck_s >= s.plan.spec.faults.watchdog_timeout_s


def _kernel(s: Speaker, struck_s: float, wait_s: float) -> Iterator[MessageLogged]:
    i, kind = s.incident, s.kind
    xid_s = struck_s + (min(_GSP_TIMEOUT_S, 0.5 * wait_s) if kind.name == "gsp-timeout" else 0.0)
    for before, xid in itertools.pairwise((0, *kind.xids)):
        yield s.say(xid_s, _M.XID, rank=i.gpu, code=xid, value=before)
    match kind.name:
        case "kernel-panic":
            yield s.say(struck_s, _M.PANIC)
        case "host-oom":
            yield s.say(struck_s, _M.OOM_KILL, rank=s.victim)
        case "host-hardware":
            yield s.say(struck_s, _M.HARDWARE, code=int(3 * s.u[1]))
        case _ if kind.family == "network":
            ports = i.gpus if kind.scope == "rack" else 1
            yield s.say(struck_s, _M.LINK_DOWN, rank=s.victim, ranks=ports)
            soon_s = struck_s + min(_CUDA_ERROR_AFTER_S, 0.2 * wait_s)
            yield s.say(soon_s, _M.NCCL_PORT_ERROR, rank=s.victim, ranks=ports)


def _victim(s: Speaker, struck_s: float, wait_s: float) -> Iterator[MessageLogged]:
    """What the rank says that fails first."""
    i, kind, rank = s.incident, s.kind, s.victim
    match kind.family:
        case "gpu" | "nvlink":
            soon_s = struck_s + min(_CUDA_ERROR_AFTER_S, 0.2 * wait_s)
            yield s.say(soon_s, _M.CUDA_ERROR, rank=rank, code=kind.xids[0] if kind.xids else 0)
        case "network":
            ports = i.gpus if kind.scope == "rack" else 1
            peer = (rank + s.per_node) % s.gpus
            late_s = struck_s + 0.9 * wait_s
            spread_s = 0.08 * wait_s if ports > 1 else 0.0
            yield s.say(
                late_s,
                _M.NCCL_RETRY_EXCEEDED,
                rank=rank,
                ranks=ports,
                spread_s=spread_s,
                value=peer,
            )
        case "storage":
            size = float(s.plan.checkpoint_bytes)
            yield s.say(struck_s, _M.STORAGE_FULL, rank=rank, value=size)
        case "host":
            yield s.say(struck_s + 0.5 * wait_s, _M.TRACEBACK, rank=rank, code=_BUS_ERROR)
        case _ if kind.name == "cuda-oom":
            yield s.say(struck_s, _M.CUDA_OOM, rank=rank)
        case _ if kind.name == "dependency-outage":
            yield s.say(struck_s, _M.TRACEBACK, rank=rank, code=_OUTAGE + int(3 * s.u[0]))
        case _ if kind.name != "host-oom":  # whom the kernel kills says nothing
            yield s.say(struck_s, _M.TRACEBACK, rank=rank, code=int(_OUTAGE * s.u[0]))


def _watchdog(s: Speaker, detected_s: float) -> Iterator[Said]:
    """The ranks that waited give up; the one they waited for says nothing."""
    i, (reporter, waiting) = s.incident, _waiting(s)
    if not waiting:
        return
    base, sequence = s.plan.gradient_collective, _sequence(s)
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
        timeout_s=s.plan.spec.faults.watchdog_timeout_s,
        spares=s.spares(detected_s),
    )
    if s.kind.name == "collective-desync":
        at_s = detected_s + 0.001
        yield s.say(at_s, _M.DESYNC, rank=reporter, code=i.rank, value=sequence)
    for message, late_s in ((_M.WATCHDOG_STATUS, 0.002), (_M.WATCHDOG_TEARDOWN, 0.004)):
        yield s.say(
            detected_s + late_s,
            message,
            rank=reporter,
            ranks=waiting,
            spread_s=_WATCHDOG_SPREAD_S,
            value=sequence,
        )


def _waiting(s: Speaker) -> tuple[int, int]:
    """The first rank that waits, and how many do: all but one, or but those of nodes gone."""
    i = s.incident
    first, count = (i.gpu, i.gpus) if s.has_lost_nodes else (i.rank, 1)
    return (count if first == 0 else 0), s.gpus - count


def _sequence(s: Speaker) -> int:
    """Number of the collective that never ended: three a layer and step, two thirds through."""
    i, layers = s.incident, s.plan.spec.model.layers
    began = next(span.step for span in s.timeline.spans if span.attempt == i.strike_attempt)
    return 3 * layers * (i.strike_step - began) + 2 * layers + 1


def _told_to_end(s: Speaker, struck_s: float) -> Iterator[MessageLogged]:
    """Somebody wants the run to end: it saves first, unless it is to go back."""
    i = s.incident
    if i.reason == "preempted":
        yield s.say(i.time_s, _M.PREEMPTED)
    if i.reason == "rollback":
        yield s.say(struck_s, _M.OPERATOR_NOTICED, value=struck_s - i.time_s)
    else:  # its last line, when the state is saved
        yield s.say(struck_s, _M.SIGTERM, rank=0, ranks=s.gpus, spread_s=0.05)


# While the run is down.


def _aftermath(s: Speaker, down: Span) -> Iterator[MessageLogged]:
    """Agents, peers and the scheduler, once the end has begun."""
    i = s.incident
    scale = min(1.0, (down.due_s - down.start_s) / _QUIET_S)

    def at(after_s: float) -> float:
        return down.start_s + scale * after_s

    if i.reason == "rollback":
        yield s.say(at(_SCANCELLED_S), _M.STEP_CANCELLED, node=0, code=_SIGTERM)
        return
    if i.reason != "fault":
        return
    assert i.strike_s is not None
    if s.has_lost_nodes:
        yield from _after_lost_nodes(s, down, scale, at)
        return
    if _is_watchdogs(s, i.strike_s, down.start_s):
        reporter, waiting = _waiting(s)
        if not waiting:
            return
        mates = s.per_node - (1 if i.rank // s.per_node == reporter // s.per_node else 0)
        times_s = at(_AGENT_FAILED_S), at(_AGENT_FAILED_S), at(_AGENT_SUMMARY_S)  # all are gone
        yield from _agent(s, reporter, _SIGABRT, times_s, mates)
        victim, code = reporter, _SIGABRT
    else:
        victim, code = s.victim, _exit_code(s)
        if s.per_node > 1:
            mates = s.per_node - 1
            yield s.say(at(_AGENT_SIGNAL_S), _M.AGENT_SIGTERM, rank=victim, ranks=mates)
        peer = s.rank_elsewhere()
        if peer is not None:
            yield _peers_abort(s, at(_PEERS_ABORT_S), scale, peer, s.gpus - s.per_node)
        times_s = at(_AGENT_SIGNAL_S), at(_AGENT_FAILED_S), at(_AGENT_SUMMARY_S)
        yield from _agent(s, victim, code, times_s, 1)
    yield s.say(at(_TASK_EXITED_S), _M.TASK_EXITED, rank=victim, code=code)
    cancelled = victim // s.per_node
    yield s.say(at(_STEP_CANCELLED_S), _M.STEP_CANCELLED, node=cancelled, code=code)


def _agent(
    s: Speaker,
    rank: int,
    code: int,
    times_s: tuple[float, float, float],
    failed: int,
) -> Iterator[MessageLogged]:
    """What torchrun says of a worker of its node, and of all that failed.

    Args:
        times_s: When the agent saw it, when it names the first, when it ends with the error.
    """
    seen_s, failed_s, summary_s = times_s
    ago_s = summary_s - seen_s
    yield s.say(failed_s, _M.AGENT_FAILED, rank=rank, code=code)
    yield s.say(summary_s, _M.AGENT_SUMMARY, rank=rank, ranks=failed, code=code, value=ago_s)


def _peers_abort(s: Speaker, from_s: float, scale: float, peer: int, ranks: int) -> MessageLogged:
    """Ranks of other nodes lose the connection to the one that is gone."""
    spread_s = scale * _PEERS_SPREAD_S
    gone = s.victim if not s.has_lost_nodes else s.incident.gpu + s.incident.gpus - 1
    return s.say(from_s, _M.NCCL_ABORTED, rank=peer, ranks=ranks, spread_s=spread_s, value=gone)


def _after_lost_nodes(
    s: Speaker, down: Span, scale: float, at: Callable[[float], float]
) -> Iterator[MessageLogged]:
    """The others' agents and Slurm: the node itself says nothing."""
    i, peer = s.incident, s.rank_elsewhere()
    assert i.strike_s is not None
    # Slurm gives the node up when the run hung on it, or later, if it is still missing then.
    missed_s = max(down.start_s, i.strike_s + NODE_TIMEOUT_S)
    if not i.hangs and peer is not None:
        left = s.gpus - i.gpus
        yield _peers_abort(s, at(_PEERS_ABORT_S), scale, peer, left)
        times_s = at(_AGENT_FAILED_S), at(_AGENT_FAILED_S), at(_AGENT_SUMMARY_S)
        yield from _agent(s, peer, _EXCEPTION, times_s, min(s.per_node, left))
        yield s.say(at(_TASK_EXITED_S), _M.TASK_EXITED, rank=peer, code=_EXCEPTION)
    if missed_s < down.due_s:
        yield s.say(missed_s, _M.NODE_FAILED, ranks=s.nodes)
        cancelled_s = min(missed_s + 0.5, 0.5 * (missed_s + down.due_s))
        yield s.say(cancelled_s, _M.STEP_CANCELLED)


def _exit_code(s: Speaker) -> int:
    if s.kind.name == "host-oom":
        return _SIGKILL
    return _SIGABRT if s.kind.family == "network" else _EXCEPTION


def _before_relaunch(s: Speaker, down: Span) -> Iterator[MessageLogged]:
    """What operators do, and what the next launch finds or is told."""
    i, kind = s.incident, s.kind
    room_s = down.due_s - down.start_s
    done_s = down.due_s - 0.05 * room_s
    for step, found_s in i.unreadable:
        yield s.say(found_s, _M.CHECKPOINT_CORRUPT, rank=0, value=step)
    if kind.scope == "rack" and kind.family == "network":
        yield s.say(done_s - 0.01 * room_s, _M.LINK_UP, rank=i.gpu, ranks=i.gpus)
    if i.swapped and kind.name != "host-maintenance":  # that was said when it began
        yield s.say(done_s, _M.OPERATOR_EXCLUDED)
    elif kind.recovery in ("repair", "reset", "reboot"):
        is_shared = kind.scope == "storage"
        node = 0 if is_shared else None
        code = {"reset": 2, "reboot": 3}.get(kind.recovery, 1 if is_shared else 0)
        rank = i.gpu if code == 2 else None
        ranks = s.nodes if kind.scope == "rack" else 1
        yield s.say(done_s, _M.OPERATOR_REPAIRED, rank=rank, ranks=ranks, node=node, code=code)
    if i.skipped_batches:
        yield s.say(down.due_s, _M.ROLLBACK, rank=0, value=i.skipped_batches)
