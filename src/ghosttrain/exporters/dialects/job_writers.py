"""Who of many ranks writes a message into the job's output, and when.

The output of a job is what its processes and their launchers write: the ranks, torchrun's agents,
srun and slurmstepd. The kernel's log, the controller's log and what people on call say are kept
elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.messages import message_lines, message_time_s, ranks_that_write
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import Timeline
from ghosttrain.exporters.dialects.job_output import Program, job_lines

_M = MessageKind
_ELSEWHERE = ("kernel_", "operator_")
_CONTROLLER = re.compile(r"^\[\d{4}-\d\d-\d\dT[\d:.]+\] error: ")  # slurmctld's log
# Written once, whatever the number of workers it is about.
_ONCE = (_M.AGENT_SIGTERM, _M.AGENT_FAILED, _M.AGENT_SUMMARY, _M.SIGTERM)
# Of many ranks that say the same so many are shown: thousands would bury the log.
_MOST_WRITERS, _MOST_TRACEBACKS = 64, 8


def said_in_job(
    event: MessageLogged | WatchdogTimedOut,
    plan: Plan,
    timeline: Timeline,
    seed: int,
    program: Program | None = None,
) -> Iterator[tuple[float, str]]:
    """(run time, lines) of each that writes it into the job's output; none where nobody does.

    Args:
        event: What is said.
        plan: The run's.
        timeline: The run's.
        seed: The run's.
        program: What the tracebacks go through; None for the program of core/messages itself.
    """
    if isinstance(event, MessageLogged) and event.message.startswith(_ELSEWHERE):
        return
    for rank in _writers(event, plan, timeline):
        if program is None:
            lines = message_lines(event, plan, seed, rank=rank)
        else:
            lines = job_lines(event, plan, seed, program, rank)
        kept = [line.rstrip("\n") for line in lines if not _CONTROLLER.match(line)]
        if kept:
            yield message_time_s(event, rank), "\n".join(kept)


def _writers(
    event: MessageLogged | WatchdogTimedOut, plan: Plan, timeline: Timeline
) -> Sequence[int | None]:
    """The ranks that write it, the first of them first; None for who is no rank."""
    first = event.reporter if isinstance(event, WatchdogTimedOut) else event.rank
    if isinstance(event, MessageLogged) and (
        first is None or event.ranks == 1 or event.message in _ONCE
    ):
        return [first]
    is_traceback = isinstance(event, MessageLogged) and event.message is _M.NCCL_ABORTED
    most = _MOST_TRACEBACKS if is_traceback else _MOST_WRITERS
    ranks = ranks_that_write(event, plan, timeline)
    return [first, *(rank for rank in ranks[: most + 1] if rank != first)][:most]
