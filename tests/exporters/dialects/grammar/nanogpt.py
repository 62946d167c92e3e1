"""nanoGPT."""

from __future__ import annotations

import re

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
