"""Every line a training program prints, as regular expressions of whole lines.

Those of steps, validations, checkpoints and failures are the published ones of parsers of such
logs; the others are the programs' format strings with their fields opened. A file for each
program, `job.py` for what others write into the same output.
"""

from __future__ import annotations

import re
from functools import cache

from tests.exporters.dialects.grammar.deepspeed import DEEPSPEED
from tests.exporters.dialects.grammar.hf import HF
from tests.exporters.dialects.grammar.job import JOB
from tests.exporters.dialects.grammar.megatron import MEGATRON
from tests.exporters.dialects.grammar.nanogpt import NANO
from tests.exporters.dialects.grammar.nemo import NEMO
from tests.exporters.dialects.grammar.torchtitan import TITAN

LINES = {
    "torchtitan": TITAN,
    "hf": HF,
    "hf-v4": HF,
    "nanogpt": NANO,
    "megatron": MEGATRON,
    "deepspeed": DEEPSPEED,
    "nemo": NEMO,
}


NAMES = {  # as torchrun says that they have failed
    "torchtitan": "torchtitan.train",
    "hf": "run_clm.py",
    "hf-v4": "run_clm.py",
    "nanogpt": "train.py",
    "megatron": "pretrain_gpt.py",
    "deepspeed": "pretrain_gpt.py",
    "nemo": "pretrain.py",
}


@cache
def line_of(dialect: str) -> re.Pattern[str]:
    """What a line of its log fulfils as a whole; groups lose their names."""
    failed = rf"{re.escape(NAMES[dialect])} FAILED"
    forms = (*LINES[dialect], failed, *JOB)
    patterns = (re.sub(r"\(\?P<\w+>", "(?:", form) for form in forms)
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def strangers(dialect: str, text: str) -> list[str]:
    """Lines that the program never prints."""
    known = line_of(dialect)
    assert text == "" or text.endswith("\n")
    return [line for line in dict.fromkeys(text.split("\n")[:-1]) if not known.fullmatch(line)]
