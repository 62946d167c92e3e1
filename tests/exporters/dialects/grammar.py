"""Every line these programs print, as regular expressions of whole lines.

Those of step lines are of the published formats; the others are the programs' templates.
"""

from __future__ import annotations

import re

_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|nan)"
_STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
_RANK = r"\[rank\d+\]"
_SECONDS = r"\d+\.\d\d seconds"

# Of NCCL, PyTorch, torchrun and Slurm.
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
    r"={20,60}|-{20,60}|(?:torchtitan\.train|run_clm\.py|train\.py) FAILED",
    r"Failures:|  <NO_OTHER_FAILURES>|Root Cause \(first observed failure\):|\[\d+\]:",
    r"  (?:time      : \d{4}-\d\d-\d\d_[\d:]{8}|host      : \S+|"
    r"rank      : \d+ \(local_rank: \d+\)|exitcode  : -?\d+ \(pid: \d+\)|"
    r"error_file: <N/A>|traceback : .+)",
    r"srun: error: (?:Node failure on \S+|\S+: tasks? [\d,\-]+: .+)",
    r"srun: Job step aborted: Waiting up to 62 seconds for job step to finish\.",
    r"slurmstepd: error: \*\*\* (?:JOB|STEP) [\d.]+ ON \S+ CANCELLED AT \S+ DUE .+ \*\*\*",
)

TITAN_STEP = re.compile(
    rf"\[titan\] (?P<at>{_STAMP}) - root - INFO - step: {{1,2}}(?P<step>\d+)  "
    r"loss: +(?P<loss>\d+\.\d{5}|nan)  grad_norm: +(?P<gn>\d+\.\d{4}|nan)  "
    r"memory: +(?P<gib>\d+\.\d\d)GiB\((?P<pct>\d+\.\d\d)%\)  tps: (?P<tps>[\d,]+)  "
    r"tflops: (?P<tflops>[\d,]+\.\d\d)  mfu: (?P<mfu>\d+\.\d\d%|N/A)"
)
TITAN_VALIDATION = re.compile(
    rf"\[titan\] (?P<at>{_STAMP}) - root - INFO - validate step: {{1,2}}(?P<step>\d+)  "
    r"loss: +(?P<loss>\d+\.\d{4}|nan)  memory: +(?P<gib>\d+\.\d\d)GiB\((?P<pct>\d+\.\d\d)%\)  "
    r"tps: (?P<tps>[\d,]+)"
)
_TITAN_TEXTS = (
    r"torchtitan version: 0\.2\.2 \(0\.0\.0 means __version__ is not defined correctly\)\.",
    r"Building device mesh with parallelism: pp=\d+, dp_replicate=\d+, dp_shard=\d+, cp=\d+, "
    r"tp=\d+, ep=\d+",
    r"Successfully created meshes with active dimensions: \[(?:'\w+'(?:, '\w+')*)?\]",
    rf"\[GC\] (?:Initial GC collection|Performing periodic GC collection|GC collection invoked by "
    rf"checkpointer\.|GC collection for checkpoint loading\.) took {_SECONDS}",
    r"Loading tokenizer from tokenizer\.json",
    r"Preparing \S+ dataset from \S+",
    r"Building \S+ \S+",
    r"Float8 tensorwise scaled training active",
    r"Swapped to Float8Linear layers with enable_fsdp_float8_all_gather=(?:True|False)",
    r"CUDA capacity: .+ with \d+\.\d\dGiB memory",
    r"Total parameter count: dense [\d,]+, sparse [\d,]+, active [\d,]+",
    r"Model \S+ \S+ size: [\d,]+ total parameters",
    r"Compiling (?:the loss function|each TransformerBlock) with torch\.compile",
    r"Applied (?:Tensor Parallelism|Context Parallel|(?:selective|full) activation checkpointing|"
    r"FSDP|HSDP|DDP) to the model",
    r"Peak FLOPS used for computing MFU: \d\.\d{3}e\+\d\d",
    r"CUDA memory usage for model: \d+\.\d\dGiB\(\d+\.\d\d%\)",
    r"Checkpointing active\. Checkpoints will be loaded from and saved to \S+",
    r"Mixed precision training is handled by (?:fully_shard|AMP)",
    r"Trainer is initialized with local batch size \d+, global batch size \d+, gradient "
    r"accumulation steps \d+, sequence length \d+, total steps \d+ \(warmup \d+\)",
    r"Loading the checkpoint from \S+/checkpoint/step-\d+\.",
    rf"Finished loading the checkpoint in {_SECONDS}\.",
    r"Training starts at step \d+",
    r"Synchronizing and adjusting timeout for all ProcessGroups to (?:\d+ days?, )?\d+:\d\d:\d\d",
    r"Saving the checkpoint \(or staging if async is enabled\)\.",
    rf"Finished saving the checkpoint \(or staging if async is enabled\) in {_SECONDS}\.",
    r"Saving a full checkpoint at last step, step \d+\.",
    r"Sleeping 2 seconds for other ranks to complete|Training completed|Process group destroyed",
)
TITAN = (
    TITAN_STEP.pattern,
    TITAN_VALIDATION.pattern,
    *(rf"\[titan\] {_STAMP} - root - INFO - (?:{text})" for text in _TITAN_TEXTS),
    rf"\[titan\] {_STAMP} - root - WARNING - (?:ENV\[TORCH_NCCL_ASYNC_ERROR_HANDLING\] = 1 will be "
    r"overridden to 3 based on job config|Peak flops undefined for: .+, fallback to A100)",
)

HF_STEP = re.compile(
    rf"\{{'loss': '?(?P<loss>{_NUMBER})'?, 'grad_norm': '?(?P<gn>{_NUMBER})'?, "
    rf"'learning_rate': '?(?P<lr>{_NUMBER})'?, 'epoch': '?(?P<epoch>{_NUMBER})'?\}}"
)
_HF_DICTS = tuple(
    r"\{" + ", ".join(rf"'{key}': '?{_NUMBER}'?" for key in keys.split()) + r"\}"
    for keys in (
        "eval_loss eval_runtime eval_samples_per_second eval_steps_per_second epoch",
        "train_runtime train_samples_per_second train_steps_per_second train_loss epoch",
    )
)
HF = (
    HF_STEP.pattern,
    *_HF_DICTS,
    r"\*\*\*\*\* Running training \*\*\*\*\*",
    r"  Num examples = [\d,]+|  Num Epochs = [\d,]+|  Batch size = \d+",
    r"  Instantaneous batch size per device = [\d,]+",
    r"  Total train batch size \(w\. parallel, distributed & accumulation\) = [\d,]+",
    r"  Gradient Accumulation steps = \d+|  Total optimization steps = [\d,]+",
    r"  Number of trainable parameters = [\d,]+",
    r"  Continuing training from checkpoint, will skip to saved global_step",
    r"  Continuing training from (?:epoch|global step) \d+",
    r"  Will skip the first \d+ epochs then the first \d+ batches in the first epoch\.",
    r"|\*\*\*\*\* Running Evaluation \*\*\*\*\*",
    r"Loading model from \S+/checkpoint-\d+\.",
    r"Saving model checkpoint to \S+/(?:checkpoint-\d+|final)",
    r"Configuration saved in \S+/(?:config|generation_config)\.json",
    r"Model weights saved in \S+/model\.safetensors",
    r"The model is bigger than the maximum size per checkpoint \(50?GB\) and is going to be split "
    r"in \d+ checkpoint shards\. You can find where each parameters has been saved in the index "
    r"located at \S+/model\.safetensors\.index\.json\.",
    r"tokenizer config file saved in \S+/tokenizer_config\.json",
    r"Special tokens file saved in \S+/special_tokens_map\.json",
    r"Training completed\. Do not forget to share your model on huggingface\.co/models =\)",
)

NANO_ITER = re.compile(
    r"iter (?P<n>\d+): loss (?P<loss>\d+\.\d{4}|nan), time (?P<ms>\d+\.\d\d)ms, "
    r"mfu (?P<mfu>-?\d+\.\d\d)%"
)
NANO_EVAL = re.compile(
    r"step (?P<n>\d+): train loss (?P<train>\d+\.\d{4}|nan), val loss (?P<val>\d+\.\d{4}|nan)"
)
NANO = (
    NANO_ITER.pattern,
    NANO_EVAL.pattern,
    r"saving checkpoint to \S+|Resuming training from \S+",
    r"Initializing a new model from scratch|compiling the model\.\.\. \(takes a ~minute\)",
    r"tokens per iteration will be: [\d,]+",
    r"found vocab_size = \d+ \(inside data/\S+/meta\.pkl\)",
    r"number of parameters: \d+\.\d\dM|using fused AdamW: True",
    r"num (?:non-)?decayed parameter tensors: \d+, with [\d,]+ parameters",
)

LINES = {"torchtitan": TITAN, "hf": HF, "hf-v4": HF, "nanogpt": NANO}


def whole(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression that a line must fulfil as a whole; groups lose their names."""
    return re.compile("|".join(re.sub(r"\(\?P<\w+>", "(?:", f"(?:{p})") for p in patterns))
