"""What Slurm and torchrun's agents say: a file for each job, and one of the controller.

Each launch is a job of its own: `slurm-JOB.out` gets what srun collects of its agents, and what
srun and slurmstepd say themselves; `slurmctld.log` what the controller says of nodes. What ranks
write is in `stderr/`, as with `torchrun --redirects=3`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ghosttrain.core.events import (
    Event,
    MessageKind,
    MessageLogged,
    Phase,
    PhaseStarted,
    RunFinished,
)
from ghosttrain.core.identity import job_id
from ghosttrain.core.messages import (
    launch_writer,
    message_lines,
    ranks_that_write,
    time_limit_lines,
)
from ghosttrain.core.messages.launcher import agent_start_lines
from ghosttrain.core.messages.writer import drawn
from ghosttrain.exporters.machine.pending import Pending
from ghosttrain.exporters.writing import Asked, Chunk

CONTROLLER = "slurmctld.log"
_KINDS = (
    MessageKind.AGENT_SIGTERM,
    MessageKind.AGENT_FAILED,
    MessageKind.AGENT_SUMMARY,
    MessageKind.NODE_FAILED,
    MessageKind.TASK_EXITED,
    MessageKind.STEP_CANCELLED,
    MessageKind.PREEMPTED,
)
_ABOUT_NODES = MessageKind.NODE_FAILED  # one line for each; of all others one speaks
_DATE = re.compile(r"\[\d{4}-")  # only the controller's lines begin with one
_AGENTS_WITHIN_MS = 900  # after the launch, estimated: Python and PyTorch are imported


class SlurmOutput:
    """Makes the files of all jobs."""

    def __init__(self, asked: Asked) -> None:
        self._run = asked.run
        self._pending = Pending()

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What is due before the event."""
        yield from self._pending.before(event.time_s)
        if isinstance(event, PhaseStarted) and event.phase is Phase.WEIGHTS:
            self._launch(event)
        elif isinstance(event, MessageLogged) and event.message in _KINDS:
            self._keep(event)
        elif isinstance(event, RunFinished):
            run = self._run
            file = self._file(run.timeline.spans[-1].attempt)
            lines = time_limit_lines(run.plan, run.timeline, run.seed)
            self._pending.add(event.time_s, file, lines)

    def close(self) -> Iterable[Chunk]:
        """What is left."""
        yield from self._pending.before(math.inf)

    def _file(self, attempt: int) -> str:
        return f"slurm-{job_id(self._run.seed, attempt)}.out"

    def _launch(self, event: PhaseStarted) -> None:
        """Each node's agent starts its workers."""
        run, attempt, file = self._run, event.attempt, self._file(event.attempt)
        for node in range(run.spec.cluster.nodes):
            late_ms = 300 + drawn(_AGENTS_WITHIN_MS, "agent", run.seed, attempt, node)
            writer = launch_writer(
                run.plan,
                run.timeline,
                run.seed,
                attempt=attempt,
                step=event.step,
                rank=node * run.spec.cluster.gpus_per_node,
                time_s=event.time_s + late_ms / 1000,
            )
            self._pending.add(writer.time_s, file, agent_start_lines(writer))

    def _keep(self, event: MessageLogged) -> None:
        run = self._run
        ranks: Iterable[int | None] = (None,)
        if event.message is _ABOUT_NODES:
            ranks = ranks_that_write(event, run.plan, run.timeline)
        for rank in ranks:
            for line in message_lines(event, run.plan, run.seed, rank=rank):
                file = CONTROLLER if _DATE.match(line) else self._file(event.attempt)
                self._pending.add(event.time_s, file, [line])


def slurm_output(asked: Asked) -> SlurmOutput:
    """What makes the jobs' files."""
    return SlurmOutput(asked)
