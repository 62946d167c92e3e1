"""What NCCL, PyTorch, torchrun and Slurm write into a job's output."""

from __future__ import annotations

_RANK = r"\[rank\d+\]"

JOB = (
    _RANK + r":\[E\d{3,4} \d\d:\d\d:\d\d\.\d{9} ProcessGroupNCCL\.cpp:\d+\] \[(?:PG[^\]]*)?Rank "
    r"\d+\] Watchdog caught collective operation timeout: WorkNCCL\(SeqNum=\d+, OpType=\w+, "
    r"NumelIn=\d+, NumelOut=\d+, Timeout\(ms\)=\d+\) ran for \d+ milliseconds before timing out\.",
    _RANK + r":\[E\d{3,4} [\d:.]{18} ProcessGroupNCCL\.cpp:\d+\] \[PG ID \d+ PG GUID "
    r"\d+\(default_pg\) Rank \d+\] {1,2}(?:failure detected by watchdog at work sequence id: \d+ "
    r"PG status: last enqueued work: \d+, last completed work: \d+)?",
    _RANK + r":\[E\d{3,4} [\d:.]{18} ProcessGroupNCCL\.cpp:\d+\] \[Rank \d+\] (?:Some NCCL "
    r"operations have failed or timed out\. Due to the asynchronous nature of CUDA kernels, "
    r"subsequent GPU operations might run on corrupted/incomplete data\.|To avoid data "
    r"inconsistency, we are taking the entire process down\.)",
    r"terminate called after throwing an instance of 'c10::DistBackendError'",
    r"\t - \[\d+\] Timeout at collective: \w+, #\d+",
    r"\t - To our best knowledge, the lagging/dead/mismatched ranks that caused the desync are:",
    r"\t   - \[\d+\] finished collective #\d+, but didn't join collective #\d+ \(count from 1\)",
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \S+:\d+:\d+ \[\d+\] \S+:\d+ NCCL WARN .+",
    _RANK + r": Traceback \(most recent call last\):(?: \(RANK \d+\))?",
    _RANK + r':   File "/(?:workspace|opt)/\S+", line \d+, in \S+',
    _RANK + r":     \S.*",
    _RANK + r": (?:\w+\.)*\w+(?:[Ee]rror|Exception): .+",
    _RANK + r": (?:CUDA kernel errors might be .+|For debugging consider .+|Compile with .+|)",
    _RANK + r": (?:ncclRemoteError: .+|Last error:|socketProgress: .+)",
    r"[WE]\d{4} [\d:.]{15} \d+ \S*torch/distributed/elastic/multiprocessing/api\.py:\d+\] "
    r"(?:Sending process \d+ closing signal SIGTERM|failed \(exitcode: -?\d+\) local_rank: \d+ "
    r"\(pid: \d+\) of binary: \S+)",
    r"Traceback \(most recent call last\):",
    r'  File "/opt/venv/\S+/torch/distributed/(?:run|launcher/api)\.py", line \d+, in \w+',
    r"    (?:run\(args\)|raise ChildFailedError\()",
    r"torch\.distributed\.elastic\.multiprocessing\.errors\.ChildFailedError: ",
    r"={20,60}|-{20,60}",
    r"Failures:|  <NO_OTHER_FAILURES>|Root Cause \(first observed failure\):|\[\d+\]:",
    r"  (?:time      : \d{4}-\d\d-\d\d_[\d:]{8}|host      : \S+|"
    r"rank      : \d+ \(local_rank: \d+\)|exitcode  : -?\d+ \(pid: \d+\)|"
    r"error_file: <N/A>|traceback : .+)",
    r"srun: error: (?:Node failure on \S+|\S+: tasks? [\d,\-]+: .+)",
    r"srun: Job step aborted: Waiting up to 62 seconds for job step to finish\.",
    r"slurmstepd: error: \*\*\* (?:JOB|STEP) [\d.]+ ON \S+ CANCELLED AT \S+ DUE .+ \*\*\*",
)
