# ruff: noqa: E501 - a pattern is as long as the line it reads
"""What PyTorch, NCCL, torchrun and Slurm write into a job's output when something ends it.

Grammar by pytorch v2.6: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, c10/util/Logging.cpp,
torch/distributed/elastic/multiprocessing/api.py and errors/__init__.py, torch/distributed/run.py;
Slurm: src/srun/libsrun, src/slurmd/slurmstepd; NCCL: src/debug.cc (WARN lines).
"""

from __future__ import annotations

from datetime import datetime

from tests.real_formats.lines import Findings, Line, moment_of

_GLOG = r"(?P<month>1?\d)(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)\.(?P<nano>\d{9}) "
_TORCH = rf"\[rank(?P<rank>\d+)\]:\[E{_GLOG}ProcessGroupNCCL\.cpp:\d+\] "
_GROUP = r"\[PG ID \d+ PG GUID \d+\([\w:]+\) Rank (?P<again>\d+)\]"
_RANK = r"\[Rank (?P<again>\d+)\] "
_OPS = (
    "ALLREDUCE|_REDUCE_SCATTER_BASE|_ALLGATHER_BASE|ALLTOALL_BASE|ALLGATHER|BROADCAST|SEND|RECV"
    "|COALESCED"
)
_AGENT = r"(?P<date>\d{4}) (?P<clock>\d\d:\d\d:\d\d\.\d{6}) (?P<agent>\d+) "
_API = r"torch/distributed/elastic/multiprocessing/api\.py:\d+\] "
_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"

KINDS = {
    "watchdog": rf"{_TORCH}{_RANK}Watchdog caught collective operation timeout: WorkNCCL\("
    rf"SeqNum=(?P<seq>\d+), OpType=(?P<op>{_OPS}), NumelIn=(?P<numel_in>\d+), "
    r"NumelOut=(?P<numel_out>\d+), Timeout\(ms\)=(?P<timeout_ms>\d+)\) ran for (?P<ran_ms>\d+) "
    r"milliseconds before timing out\.",
    "watchdog-status": rf"{_TORCH}{_GROUP}  failure detected by watchdog at work sequence id: "
    r"(?P<seq>\d+) PG status: last enqueued work: (?P<enqueued>\d+), last completed work: "
    r"(?P<completed>\d+)",
    "watchdog-corrupt": rf"{_TORCH}{_RANK}Some NCCL operations have failed or timed out\. Due to "
    r"the asynchronous nature of CUDA kernels, subsequent GPU operations might run on corrupted/"
    r"incomplete data\.",
    "watchdog-down": rf"{_TORCH}{_RANK}To avoid data inconsistency, we are taking the entire "
    r"process down\.",
    "terminate": r"terminate called after throwing an instance of 'c10::DistBackendError'",
    "desync": rf"{_TORCH}{_GROUP} ",
    "desync-more": r"\t {1,3}- .*",
    "agent-closing": rf"W{_AGENT}{_API}Sending process (?P<pid>\d+) closing signal SIGTERM",
    "agent-failed": rf"E{_AGENT}{_API}failed \(exitcode: (?P<code>-?\d+)\) local_rank: "
    r"(?P<local>\d+) \(pid: (?P<pid>\d+)\) of binary: /\S+",
    "omp": rf"W{_AGENT}torch/distributed/run\.py:\d+\] (?P<said>|\*{{41}}|Setting OMP_NUM_THREADS .* )",
    "traceback": r"Traceback \(most recent call last\):",
    "frame": r'  File "/\S+\.py", line \d+, in \S+',
    "code": r"    \S.*",
    "child-failed": r"torch\.distributed\.elastic\.multiprocessing\.errors\.ChildFailedError: ",
    "border": r"={20,60}",
    "rule": r"-{20,60}",
    "program-failed": r"(?P<program>\S+) FAILED",
    "failures": r"Failures:",
    "no-other": r"  <NO_OTHER_FAILURES>",
    "root-cause": r"Root Cause \(first observed failure\):",
    "failure": r"\[(?P<index>\d+)\]:",
    "failure-time": r"  time      : (?P<time>\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d)",
    "failure-host": r"  host      : (?P<host>[\w.-]+)",
    "failure-rank": r"  rank      : (?P<rank>\d+) \(local_rank: (?P<local>\d+)\)",
    "failure-code": r"  exitcode  : (?P<code>-?\d+) \(pid: (?P<pid>\d+)\)",
    "failure-file": r"  error_file: <N/A>",
    "failure-traceback": r"  traceback : (?:Signal (?P<signal>\d+) \(SIG\w+\) received by PID "
    r"(?P<pid>\d+)|To enable traceback see: https://pytorch\.org/docs/stable/elastic/errors\.html)",
    "rerun": r"WARNING: Rank (?P<rank>\d+), node (?P<host>[\w-]+), device (?P<dev>\d+), iteration "
    r"(?P<step>\d+): Unexpected result (?:nan|inf) \(message='found (?:NaN|Inf) in local forward loss "
    r"calculation'\)",
    "rank-said": r"\[rank(?P<rank>\d+)\]: .*",
    "nccl-warn": r"\[(?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\] (?P<host>[\w-]+):(?P<pid>\d+):"
    r"(?P<tid>\d+) \[(?P<dev>\d+)\] [\w/.]+:\d+ NCCL WARN .*",
    "task-exited": r"srun: error: (?P<host>[\w-]+): task (?P<task>\d+): Exited with exit code 1",
    "step-aborted": r"srun: Job step aborted: Waiting up to \d+ seconds for job step to finish\.",
    "step-cancelled": rf"slurmstepd: error: \*\*\* STEP (?P<job>\d+)\.0 ON (?P<host>[\w-]+) CANCELLED "
    rf"AT (?P<at>{_ISO}) (?:DUE TO TASK FAILURE|DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"
    r"|DUE to SIGNAL Terminated) \*\*\*",
    "job-preempted": rf"slurmstepd: error: \*\*\* JOB (?P<job>\d+) ON (?P<host>[\w-]+) CANCELLED AT "
    rf"(?P<at>{_ISO}) DUE TO PREEMPTION \*\*\*",
    "node-failure": r"srun: error: Node failure on (?P<host>[\w-]+)",
}


def check(lines: list[Line], findings: Findings, *, year: int) -> None:
    """What the lines of one job's end owe to each other."""
    _watchdogs(lines, findings)
    _agents(lines, findings, year)
    _blocks(lines, findings)


def _watchdogs(lines: list[Line], findings: Findings) -> None:
    said: dict[str, str] = {}
    order = ["watchdog", "watchdog-status", "watchdog-corrupt", "watchdog-down"]
    for line in lines:
        if line.kind not in order:
            continue
        rank = line["rank"]
        findings.expect(line["again"] == rank, line, "two ranks in one line")
        before = said.get(rank)
        wanted = order[order.index(before) + 1 if before and before != order[-1] else 0]
        findings.expect(line.kind == wanted, line, f"{wanted} should come first")
        said[rank] = line.kind
        if line.kind == "watchdog":
            over = int(line["ran_ms"]) - int(line["timeout_ms"])
            findings.expect(0 < over < 2000, line, "the watchdog looks every 100 ms")
        if line.kind == "watchdog-status":
            findings.expect(int(line["completed"]) < int(line["seq"]), line, "it is not done")
            findings.expect(int(line["enqueued"]) >= int(line["seq"]), line, "it was enqueued")


def _agents(lines: list[Line], findings: Findings, year: int) -> None:
    """Failures are captured before the agent closes the rest and says which was first."""
    first: datetime | None = None
    agent = ""
    for line in lines:
        if line.kind in ("agent-closing", "agent-failed"):
            at = moment_of(f"{year}{line['date']} {line['clock']}", "%Y%m%d %H:%M:%S.%f")
            first = min(first, at) if first and line["agent"] == agent else at
            agent = line["agent"]
        if line.kind == "failure-time" and first:
            at = moment_of(line["time"], "%Y-%m-%d_%H:%M:%S")
            findings.expect(at <= first, line, f"failed after the agent saw it, at {first}")
        if line.kind == "step-aborted":
            first = None


_FAILURE = [
    "failure",
    "failure-time",
    "failure-host",
    "failure-rank",
    "failure-code",
    "failure-file",
    "failure-traceback",
]


def _blocks(lines: list[Line], findings: Findings) -> None:
    """The block of torchrun: its order, its width, its numbering, who is named twice."""
    kinds = [line.kind for line in lines]
    for start, kind in enumerate(kinds):
        if kind != "child-failed":
            continue
        try:
            end = kinds.index("border", kinds.index("border", start) + 1)
        except ValueError:
            findings.expect(False, lines[start], "the block does not end")
            continue
        _block(lines[start + 1 : end + 1], lines[:start], findings)


def _block(block: list[Line], before: list[Line], findings: Findings) -> None:
    kinds = [line.kind for line in block]
    count = kinds.count("failure")
    others = _FAILURE * (count - 1) if count > 1 else ["no-other"]
    wanted = ["border", "program-failed", "rule", "failures", *others, "rule", "root-cause"]
    wanted += [*_FAILURE, "border"]
    findings.expect(kinds == wanted, block[0], f"order of the block: {kinds}")
    bodies = [line.text for line in block if line.kind in _FAILURE or line.kind == "failure"]
    width = max(len(block[1].text), min(60, max(map(len, bodies))))
    for line in block:
        if line.kind in ("border", "rule"):
            findings.expect(len(line.text) == width, line, f"is not {width} wide")
    indices = [int(line["index"]) for line in block if line.kind == "failure"]
    findings.expect(indices == [*range(1, count), 0], block[0], f"numbers {indices}")
    root = {line.kind: line for line in block[-len(_FAILURE) - 1 : -1]}
    failed = [line for line in before if line.kind == "agent-failed"]
    if failed and "failure-code" in root:
        last = failed[-1]
        same = last["pid"] == root["failure-code"]["pid"]
        findings.expect(same, last, "the agent's first failure is not the root cause")
        same = last["code"] == root["failure-code"]["code"]
        findings.expect(same, last, "two exit codes of one process")
        same = last["local"] == root["failure-rank"]["local"]
        findings.expect(same, last, "two local ranks of one process")
    codes = [line["pid"] for line in block if line.kind == "failure-code"]
    findings.expect(len(set(codes)) == len(codes), block[0], "a process fails twice")
    for code, told in zip(
        (line for line in block if line.kind == "failure-code"),
        (line for line in block if line.kind == "failure-traceback"),
        strict=True,
    ):
        if "signal" in told.fields:
            findings.expect(int(told["signal"]) == -int(code["code"]), told, "another signal")
            findings.expect(told["pid"] == code["pid"], told, "another process")
        else:
            findings.expect(int(code["code"]) >= 0, told, "a signal is told as one")
