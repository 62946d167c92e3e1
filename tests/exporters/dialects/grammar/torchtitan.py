"""torchtitan."""

from __future__ import annotations

import re

_STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
_SECONDS = r"\d+\.\d\d seconds"

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
