"""What ranks wrote to stderr: watchdogs, tracebacks, CUDA's errors, NCCL's warnings.

Up to 64 ranks, or where GPUs were chosen, each rank that wrote something has its file, where
`torchrun --rdzv-id=$SLURM_JOB_ID --log-dir=stderr/HOST --redirects=2` puts it (PyTorch,
torch/distributed/elastic/multiprocessing/api.py: DefaultLogsSpecs):

    stderr/HOST/JOB_xxxxxxxx/attempt_0/LOCAL_RANK/stderr.log

Each launch is a job of its own, so that torchrun's attempt is always 0. Of more ranks there is a
file a node, `stderr/HOST.log`, as `torchrun --tee=2` prints the same lines: behind `[default3]:`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ghosttrain.core.events import Event, MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.identity import job_id
from ghosttrain.core.messages import ranks_that_write, writer_of, written_lines
from ghosttrain.core.messages.writer import Writer, drawn
from ghosttrain.exporters.machine.pending import Pending
from ghosttrain.exporters.writing import Asked, Chunk

FILE_PER_RANK_UP_TO = 64  # ranks
_KINDS = (
    MessageKind.NCCL_PORT_ERROR,
    MessageKind.NCCL_RETRY_EXCEEDED,
    MessageKind.NCCL_SOCKET_CLOSED,
    MessageKind.CUDA_ERROR,
    MessageKind.CUDA_OOM,
    MessageKind.NCCL_ABORTED,
    MessageKind.WATCHDOG_STATUS,
    MessageKind.WATCHDOG_TEARDOWN,
    MessageKind.DESYNC,
    MessageKind.TRACEBACK,
    MessageKind.NAN_LOSS,
    MessageKind.STORAGE_FULL,
    MessageKind.CHECKPOINT_CORRUPT,
)
_ON_STDOUT = (" loading distributed checkpoint from ",)  # Megatron-LM prints it
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"  # of the names mkdtemp makes up (CPython)


class StderrLogs:
    """Makes the files of all ranks."""

    def __init__(self, asked: Asked) -> None:
        self._run = asked.run
        self._ranks = None if asked.gpus is None else frozenset(asked.gpus)
        gpus = asked.run.spec.cluster.gpus
        self._per_rank = self._ranks is not None or gpus <= FILE_PER_RANK_UP_TO
        self._pending = Pending()

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What is due before the event."""
        yield from self._pending.before(event.time_s)
        if isinstance(event, WatchdogTimedOut) or (
            isinstance(event, MessageLogged) and event.message in _KINDS
        ):
            self._keep(event)

    def close(self) -> Iterable[Chunk]:
        """What is left."""
        yield from self._pending.before(math.inf)

    def _keep(self, event: MessageLogged | WatchdogTimedOut) -> None:
        run = self._run
        for rank in ranks_that_write(event, run.plan, run.timeline):
            if self._ranks is not None and rank not in self._ranks:
                continue
            writer = writer_of(event, run.plan, run.seed, rank)
            lines = written_lines(writer, event)
            lines = [line for line in lines if not line.startswith(_ON_STDOUT)]
            if not self._per_rank:
                lines = [f"[default{writer.local}]:{line}" for line in lines]
            self._pending.add(writer.time_s, self._file(writer), lines)

    def _file(self, writer: Writer) -> str:
        folder = f"stderr/{writer.host}"
        if not self._per_rank:
            return f"{folder}.log"
        job = job_id(writer.seed, writer.attempt)
        made_up = "".join(
            _LETTERS[drawn(len(_LETTERS), "log dir", job, writer.machine, n)] for n in range(8)
        )
        return f"{folder}/{job}_{made_up}/attempt_0/{writer.local}/stderr.log"


def stderr_logs(asked: Asked) -> StderrLogs:
    """What makes the ranks' files."""
    return StderrLogs(asked)
