"""Numbers and dates, and lines of Megatron-LM that its fork under DeepSpeed prints too."""

from __future__ import annotations

FLOAT = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"  # a number as Python shows it
E6 = r"\d\.\d{6}E[+-]\d\d"
MICRO = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
SECOND = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"

VALIDATION = (
    r"-{60,}",
    rf" validation loss at iteration \d+ \| lm loss value: (?:{E6}|NAN) \| lm loss PPL: {E6} \| ",
)
ARGUMENTS = (
    r"------------------------ arguments ------------------------",
    r"-------------------- end of arguments ---------------------",
    r"  [a-zA-Z0-9_]+ \.+ .*",
)
TIMER = r"    [\w\-/]+ \.*: \(\d+\.\d\d, \d+\.\d\d\)"
COUNT = r" > number of parameters on \(tensor, pipeline\) model parallel rank \(\d+, \d+\): \d+"
