"""Lines of who starts and ends the processes: torchrun's agent, Slurm, the people on call."""

from __future__ import annotations

from ghosttrain.core.identity import host_name, job_id, process_id
from ghosttrain.core.messages.writer import DOMAIN, PYTHON, Writer

# Lines of torch/distributed/elastic/multiprocessing/api.py.
_CLOSING, _FAILED = 900, 874
_RUN_LINE = 792  # of torch/distributed/run.py
_SIGNALS = {6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
_SCANCEL = -15
_WIDEST_BORDER = 60
_PROGRAM = "pretrain_gpt.py"
_SITE = "/opt/venv/lib/python3.12/site-packages/torch/distributed"


# -------------------------------------------------------------------------------- torchrun


def agent_start_lines(writer: Writer) -> list[str]:
    """What an agent of several workers says at its start, where OMP_NUM_THREADS is not set.

    Source: PyTorch 2.6, torch/distributed/run.py: config_from_args, with the blank at two ends.
    """
    if len(writer.local_ranks) <= 1:
        return []
    prefix = writer.agent_prefix("W", _RUN_LINE, file="run.py")
    stars = "*" * 41
    told = (
        "Setting OMP_NUM_THREADS environment variable for each process to be 1 in default, to "
        "avoid your system being overloaded, please further tune the variable for optimal "
        "performance in your application as needed. "
    )
    return [f"{prefix}{text}" for text in ("", stars, told, stars)]


def agent_sigterm_lines(writer: Writer, failed: int | None) -> list[str]:
    """A warning for each worker of the node that is left."""
    left = [rank for rank in writer.local_ranks if rank != failed]
    pids = [_pid(writer, rank) for rank in left]
    return [
        writer.agent_prefix("W", _CLOSING, n * 1e-3)
        + f"Sending process {pid} closing signal SIGTERM"
        for n, pid in enumerate(pids)
    ]


def agent_failed_lines(writer: Writer, code: int) -> list[str]:
    """The worker whose end the agent saw first."""
    which = f"local_rank: {writer.local} (pid: {writer.pid}) of binary: {PYTHON}"
    return [f"{writer.agent_prefix('E', _FAILED)}failed (exitcode: {code}) {which}"]


def agent_summary_lines(writer: Writer, code: int, failed: int, ago_s: float) -> list[str]:
    """The error torchrun ends with: `failed` workers of the node ended badly, this one first.

    A failure's time is when the agent saw it, `ago_s` before, ahead of what it says of it
    (PyTorch 2.6, elastic/multiprocessing/api.py: _poll; errors/__init__.py: ProcessFailure).
    """
    others = [rank for rank in writer.local_ranks if rank != writer.rank][: max(0, failed - 1)]
    root = _failure(writer, 0, writer.rank, code, ago_s)
    rest = [_failure(writer, n, rank, code, ago_s) for n, rank in enumerate(others, start=1)]
    title = f"{_PROGRAM} FAILED"
    widest = max(len(line) for block in (root, *rest) for line in block)
    width = max(len(title), min(_WIDEST_BORDER, widest))
    shown = [line for block in rest for line in block] or ["  <NO_OTHER_FAILURES>"]
    return [
        "Traceback (most recent call last):",
        f'  File "{_SITE}/run.py", line 892, in main',
        "    run(args)",
        f'  File "{_SITE}/launcher/api.py", line 264, in launch_agent',
        "    raise ChildFailedError(",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "=" * width,
        title,
        "-" * width,
        "Failures:",
        *shown,
        "-" * width,
        "Root Cause (first observed failure):",
        *root,
        "=" * width,
    ]


def _failure(writer: Writer, number: int, rank: int, code: int, ago_s: float) -> list[str]:
    pid = _pid(writer, rank)
    if code < 0:
        name = _SIGNALS.get(-code, "<N/A>")
        ending = f"Signal {-code} ({name}) received by PID {pid}"
    else:
        ending = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
    return [
        f"[{number}]:",
        f"  time      : {writer.stamp('%Y-%m-%d_%H:%M:%S', -ago_s)}",
        f"  host      : {writer.host}.{DOMAIN}",
        f"  rank      : {rank} (local_rank: {rank - writer.local_ranks[0]})",
        f"  exitcode  : {code} (pid: {pid})",
        "  error_file: <N/A>",
        f"  traceback : {ending}",
    ]


def _pid(writer: Writer, rank: int) -> int:
    return process_id(writer.machine, rank - writer.local_ranks[0], writer.attempt)


# ----------------------------------------------------------------------------------- Slurm


def node_failed_lines(writer: Writer) -> list[str]:
    """The controller gives the node up, and srun hears of it."""
    date, micro = writer.moment()
    at = f"{date:%Y-%m-%dT%H:%M:%S}.{micro // 1000:03d}"
    return [
        f"[{at}] error: Nodes {writer.host} not responding, setting DOWN",
        f"srun: error: Node failure on {writer.host}",
    ]


def task_exited_lines(writer: Writer) -> list[str]:
    """What srun says of a task that ended: its tasks are the agents, one a node.

    However a worker died, torchrun raises a Python exception and so exits with 1.
    """
    return [f"srun: error: {writer.host}: task {writer.node}: Exited with exit code 1"]


def step_cancelled_lines(writer: Writer, code: int) -> list[str]:
    """The rest of the job step is ended: after a node's failure, a task's, or by scancel (-15).

    A node that is gone says nothing: the first of the others does.
    """
    why, host = "DUE TO TASK FAILURE", writer.host
    if code == _SCANCEL:
        why = "DUE to SIGNAL Terminated"
    elif not code:
        why, host = "DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS", _witness(writer)
    job = job_id(writer.seed, writer.attempt)
    return [
        "srun: Job step aborted: Waiting up to 62 seconds for job step to finish.",
        f"slurmstepd: error: *** STEP {job}.0 ON {_cancelled(writer, host)} {why} ***",
    ]


def _witness(writer: Writer) -> str:
    """The first node that is not the writer's, or the writer's if it is alone."""
    nodes = range(writer.cluster.nodes)
    other = next((node for node in nodes if node != writer.node), writer.node)
    return host_name(writer.cluster, writer.spares.get(other, other))


def preempted_lines(writer: Writer) -> list[str]:
    """The scheduler wants the nodes for another job."""
    job = job_id(writer.seed, writer.attempt)
    at = _cancelled(writer, writer.host)
    return [f"slurmstepd: error: *** JOB {job} ON {at} DUE TO PREEMPTION ***"]


def out_of_time_lines(writer: Writer) -> list[str]:
    """The job has run as long as it may; `step_cancelled_lines` are of all other ends."""
    job = job_id(writer.seed, writer.attempt)
    return [
        "srun: Job step aborted: Waiting up to 62 seconds for job step to finish.",
        f"slurmstepd: error: *** STEP {job}.0 ON {_cancelled(writer, writer.host)} "
        "DUE TO TIME LIMIT ***",
    ]


def _cancelled(writer: Writer, host: str) -> str:
    return f"{host} CANCELLED AT {writer.stamp('%Y-%m-%dT%H:%M:%S')}"


# ------------------------------------------------------------------------- people on call


def noticed_lines(writer: Writer, since_s: float) -> list[str]:
    """Somebody looked at the charts."""
    minutes = max(1, round(since_s / 60))
    hours, minutes = divmod(minutes, 60)
    since = f"{hours}h{minutes:02d}m" if hours else f"{minutes}m"
    return [f"oncall: run looks wrong since about {since}, looking for the cause"]


def excluded_lines(writer: Writer) -> list[str]:
    """The node is drained, as Slurm is told."""
    command = f'scontrol update NodeName={writer.host} State=DRAIN Reason="drained by oncall"'
    return [f"oncall: {command}"]


def repaired_lines(writer: Writer, what: int) -> list[str]:
    """What was done: the node is free again, storage has room, a GPU was reset, a node rebooted."""
    resume = f"scontrol update NodeName={writer.host} State=RESUME"
    match what:
        case 1:
            return ["oncall: old checkpoints deleted, the file system has room again"]
        case 2:
            return [f"oncall: {writer.host}: nvidia-smi --gpu-reset -i {writer.local}; {resume}"]
        case 3:
            return [f"oncall: scontrol reboot ASAP nextstate=RESUME {writer.host}"]
        case _:
            return [f"oncall: {resume}"]
