"""Messages: the lines the machine's programs write when something is wrong.

An event says which program writes what about whom; the text is made here, as the real program
has it and without a prefix of ours, so that the log on the screen, the kernel log and the log
files are one. Names and numbers are those of `identity`; whatever the event leaves open (an
address, a port) is a pure function of seed, fault and place.
"""

from __future__ import annotations

from typing import assert_never

from ghosttrain.core.events import MessageKind, MessageLogged, Phase, WatchdogTimedOut
from ghosttrain.core.messages import kernel, launcher, pytorch, trainer
from ghosttrain.core.messages.places import Boot, booted_s, boots, ranks_that_write
from ghosttrain.core.messages.writer import Writer, launch_writer, message_time_s, writer_of
from ghosttrain.core.plan import Plan
from ghosttrain.core.timeline import Timeline

__all__ = [
    "Boot",
    "Writer",
    "booted_s",
    "boots",
    "launch_writer",
    "message_lines",
    "message_time_s",
    "ranks_that_write",
    "time_limit_lines",
    "writer_of",
    "written_lines",
]


def message_lines(
    event: MessageLogged | WatchdogTimedOut,
    plan: Plan,
    seed: int,
    *,
    rank: int | None = None,
) -> list[str]:
    """The raw lines of `event`, none where the fabric has no such message.

    Args:
        plan: The run's.
        seed: The run's.
        rank: Of those that write it, the one whose lines are wanted; the first where None.
    """
    return written_lines(writer_of(event, plan, seed, rank), event)


def time_limit_lines(plan: Plan, timeline: Timeline, seed: int) -> list[str]:
    """What srun and slurmstepd say at the end of a run that its time limit ends.

    None where the run ends otherwise, or where no trainer runs by then: the job is over while the
    run is down or its last checkpoint is exported.
    """
    last, done = timeline.spans[-2:]
    if timeline.completed or last.phase in (Phase.DOWN, Phase.EXPORT):
        return []
    writer = launch_writer(
        plan, timeline, seed, attempt=done.attempt, step=done.step, rank=0, time_s=done.start_s
    )
    return launcher.out_of_time_lines(writer)


def written_lines(writer: Writer, event: MessageLogged | WatchdogTimedOut) -> list[str]:
    """The raw lines of `event` as the writer has them."""
    if isinstance(event, WatchdogTimedOut):
        return pytorch.watchdog_lines(writer, event)
    return _lines(writer, event)


def _lines(writer: Writer, event: MessageLogged) -> list[str]:
    code, value, whole = event.code, event.value, int(event.value)
    match event.message:
        case MessageKind.XID:
            return kernel.xid_lines(writer, code, whole)
        case MessageKind.OOM_KILL:
            return kernel.oom_kill_lines(writer)
        case MessageKind.PANIC:
            return kernel.panic_lines(writer)
        case MessageKind.HARDWARE:
            return kernel.hardware_lines(writer, code)
        case MessageKind.LINK_DOWN | MessageKind.LINK_UP:
            return kernel.link_lines(writer, event.message)
        case MessageKind.THROTTLE:
            return kernel.throttle_lines(writer)
        case MessageKind.NCCL_PORT_ERROR:
            return pytorch.port_error_lines(writer)
        case MessageKind.NCCL_RETRY_EXCEEDED:
            return pytorch.retry_exceeded_lines(writer, whole)
        case MessageKind.NCCL_SOCKET_CLOSED:
            return pytorch.socket_closed_lines(writer, whole)
        case MessageKind.CUDA_ERROR:
            return pytorch.cuda_error_lines(writer, code)
        case MessageKind.CUDA_OOM:
            return pytorch.cuda_oom_lines(writer)
        case MessageKind.NCCL_ABORTED:
            return pytorch.nccl_aborted_lines(writer, whole)
        case MessageKind.WATCHDOG_STATUS:
            return pytorch.status_lines(writer, whole)
        case MessageKind.WATCHDOG_TEARDOWN:
            return pytorch.teardown_lines(writer)
        case MessageKind.DESYNC:
            return pytorch.desync_lines(writer, whole, code)
        case MessageKind.TRACEBACK:
            return trainer.software_error_lines(writer, code)
        case MessageKind.SIGTERM:
            return trainer.sigterm_lines(writer)
        case MessageKind.NAN_LOSS:
            return trainer.nan_loss_lines(writer, whole)
        case MessageKind.STORAGE_FULL:
            return trainer.storage_full_lines(writer)
        case MessageKind.STORAGE_SLOW:
            return trainer.storage_slow_lines(writer, value)
        case MessageKind.CHECKPOINT_CORRUPT:
            return trainer.corrupt_lines(writer, whole)
        case MessageKind.ROLLBACK:
            return trainer.rollback_lines(whole)
        case MessageKind.AGENT_SIGTERM:
            return launcher.agent_sigterm_lines(writer, event.rank)
        case MessageKind.AGENT_FAILED:
            return launcher.agent_failed_lines(writer, code)
        case MessageKind.AGENT_SUMMARY:
            return launcher.agent_summary_lines(writer, code, event.ranks, value)
        case MessageKind.NODE_FAILED:
            return launcher.node_failed_lines(writer)
        case MessageKind.TASK_EXITED:
            return launcher.task_exited_lines(writer)
        case MessageKind.STEP_CANCELLED:
            return launcher.step_cancelled_lines(writer, code)
        case MessageKind.PREEMPTED:
            return launcher.preempted_lines(writer)
        case MessageKind.OPERATOR_NOTICED:
            return launcher.noticed_lines(writer, value)
        case MessageKind.OPERATOR_EXCLUDED:
            return launcher.excluded_lines(writer)
        case MessageKind.OPERATOR_REPAIRED:
            return launcher.repaired_lines(writer, code)
        case _ as never:
            assert_never(never)
