"""What others than the training program write into a job's output when something is wrong.

NCCL, PyTorch, torchrun and Slurm write to stderr, which ends in the same file. The kernel's log,
the controller's log and what people on call say are kept elsewhere. Nor is here what only one
program says of itself; of the exceptions it raises the frames are the program's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.messages import message_lines, message_time_s, ranks_that_write
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import Timeline
from ghosttrain.exporters.dialects.programs import Program, own_lines

_M = MessageKind
_ELSEWHERE = ("kernel_", "operator_")
_CONTROLLER = re.compile(r"^\[\d{4}-\d\d-\d\dT[\d:.]+\] error: ")  # slurmctld's log
# What the trainer that core/messages/trainer.py speaks for says of itself.
_OTHER_TRAINERS = (_M.SIGTERM, _M.NAN_LOSS, _M.STORAGE_SLOW, _M.ROLLBACK)
# Written once, whatever the number of workers it is about.
_ONCE = (_M.AGENT_SIGTERM, _M.AGENT_FAILED, _M.AGENT_SUMMARY, _M.SIGTERM)
# Of many ranks that say the same so many are shown: thousands would bury the log.
_MOST_WRITERS, _MOST_TRACEBACKS = 64, 8


def job_lines(
    event: MessageLogged | WatchdogTimedOut,
    plan: Plan,
    seed: int,
    program: Program | None,
    rank: int | None = None,
) -> list[str]:
    """The lines of `event` in the job's output, none where it is told elsewhere.

    Args:
        event: What is said.
        plan: The run's.
        seed: The run's.
        program: What the tracebacks go through; None for the program of core/messages itself.
        rank: Of those that write it, the one whose lines are wanted; the first where None.
    """
    if _is_elsewhere(event):
        return []
    if program and isinstance(event, MessageLogged) and event.message in _OTHER_TRAINERS:
        return []
    raw = message_lines(event, plan, seed, rank=rank)
    lines = [line for line in raw if not _CONTROLLER.match(line)]
    if program is None:
        return lines
    return own_lines(lines, program, is_unreadable=unreadable_step(event) is not None)


def said_in_job(
    event: MessageLogged | WatchdogTimedOut,
    plan: Plan,
    timeline: Timeline,
    seed: int,
    program: Program | None,
) -> Iterator[tuple[float, str]]:
    """(run time, lines) of each that writes it into the job's output; none where nobody does."""
    if _is_elsewhere(event):
        return
    for rank in _writers(event, plan, timeline):
        if lines := job_lines(event, plan, seed, program, rank):
            yield message_time_s(event, rank), "\n".join(line.rstrip("\n") for line in lines)


def unreadable_step(event: MessageLogged | WatchdogTimedOut) -> int | None:
    """The step whose checkpoint turns out to be unreadable, None where the event is another."""
    if isinstance(event, MessageLogged) and event.message is _M.CHECKPOINT_CORRUPT:
        return int(event.value)
    return None


def _is_elsewhere(event: MessageLogged | WatchdogTimedOut) -> bool:
    return isinstance(event, MessageLogged) and event.message.startswith(_ELSEWHERE)


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
