"""NCCL's log with NCCL_DEBUG=INFO: how communicators come to be at each launch, and warnings.

One stream of all its ranks, as the output of a job has it: every line names host, process, thread
and device. All ranks up to 64; of more those of the first node, unless GPUs are chosen. Lines come
as they do in a run: the world in the phase `nccl`, groups split from it when that is over, its
rings when the all-reduce test needs them, those of the groups when training starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from ghosttrain.core.events import (
    Event,
    MessageKind,
    MessageLogged,
    Phase,
    PhaseEnded,
    PhaseStarted,
    TrainingStarted,
)
from ghosttrain.core.messages import launch_writer, ranks_that_write, writer_of, written_lines
from ghosttrain.exporters.machine.nccl_groups import groups_of, world
from ghosttrain.exporters.machine.nccl_init import opening_lines, split_lines, world_lines
from ghosttrain.exporters.machine.nccl_links import connected_lines, peer_lines
from ghosttrain.exporters.machine.nccl_rank import NcclRank
from ghosttrain.exporters.machine.pending import Pending
from ghosttrain.exporters.writing import Asked

ALL_UP_TO = 64  # ranks: of 16,384 they would be gigabytes
_WARNINGS = (
    MessageKind.NCCL_PORT_ERROR,
    MessageKind.NCCL_RETRY_EXCEEDED,
    MessageKind.NCCL_SOCKET_CLOSED,
)
_BY_PEERS = ("pp", "ep")  # groups that talk to single peers, not in rings


class NcclLog:
    """Makes the stream."""

    def __init__(self, asked: Asked) -> None:
        self._run = asked.run
        self._ranks = logged_ranks(asked)
        self._pending = Pending()

    def accept(self, event: Event) -> bytes:
        """What is due before the event, and what it adds."""
        due = self._due(event.time_s)
        match event:
            case PhaseStarted(phase=Phase.NCCL | Phase.ALL_REDUCE_TEST) | TrainingStarted():
                return due + _joined(self._staged(event))
            case PhaseEnded(phase=Phase.NCCL):
                return due + _joined(self._staged(event))
            case MessageLogged() if event.message in _WARNINGS:
                self._keep(event)
            case _:
                pass
        return due

    def close(self) -> bytes:
        """What is left."""
        return self._due(math.inf)

    def _due(self, time_s: float) -> bytes:
        return b"".join(data for _, data in self._pending.before(time_s))

    def _staged(self, event: PhaseStarted | PhaseEnded | TrainingStarted) -> Iterator[str]:
        """What each rank says at this stage of a launch."""
        run, everyone = self._run, world(self._run.plan)
        for rank in self._ranks:
            writer = launch_writer(
                run.plan,
                run.timeline,
                run.seed,
                attempt=event.attempt,
                step=event.step,
                rank=rank,
                time_s=event.time_s,
            )
            nccl = NcclRank(writer)
            match event:
                case PhaseEnded():
                    yield from world_lines(nccl, everyone, event.duration_s)
                    for group in groups_of(run.plan, rank):
                        yield from split_lines(nccl, group, everyone)
                case TrainingStarted():
                    for group in groups_of(run.plan, rank):
                        if group.name in _BY_PEERS:
                            yield from peer_lines(nccl, group)
                        else:
                            yield from connected_lines(nccl, group)
                case PhaseStarted(phase=Phase.NCCL):
                    yield from opening_lines(nccl, everyone)
                case _:
                    algorithm = run.plan.test_collective.algorithm
                    yield from connected_lines(nccl, everyone, algorithm)

    def _keep(self, event: MessageLogged) -> None:
        run, shown = self._run, frozenset(self._ranks)
        for rank in ranks_that_write(event, run.plan, run.timeline):
            if rank in shown:
                writer = writer_of(event, run.plan, run.seed, rank)
                self._pending.add(writer.time_s, "", written_lines(writer, event))


def _joined(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def logged_ranks(asked: Asked) -> Sequence[int]:
    """The ranks whose lines are shown: the chosen ones, or all, or those of the first node."""
    if asked.gpus is not None:
        return asked.gpus
    cluster = asked.run.spec.cluster
    return range(cluster.gpus if cluster.gpus <= ALL_UP_TO else cluster.gpus_per_node)


def nccl_log(asked: Asked) -> NcclLog:
    """What makes the log."""
    return NcclLog(asked)
