# ruff: noqa: E501 - a pattern is as long as the line it reads
"""Megatron-DeepSpeed's log: training lines (megatron/training.py) among DeepSpeed's own.

DeepSpeed: deepspeed/runtime/engine.py (step=...), utils/timer.py (ThroughputTimer).
"""

from __future__ import annotations

import ast
import math
from itertools import pairwise

from tests.real_formats.lines import Findings, Grammar, Line

_STAMP = r"\[(?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\]"
_EXP = r"(?:\d\.\d{6}E[+-]\d\d|nan|inf)"
KINDS = {
    "step": rf"{_STAMP} \[INFO\] \[logging\.py:\d+:log_dist\] \[Rank 0\] step=(?P<step>\d+), skipped=(?P<skipped>\d+), "
    r"lr=(?P<lr>\[.*\]), mom=(?P<mom>\[.*\])",
    "throughput": rf"{_STAMP} \[INFO\] \[timer\.py:\d+:stop\] epoch=(?P<epoch>\d+)/micro_step=(?P<micro>\d+)/global_step=(?P<step>\d+), "
    r"RunningAvgSamplesPerSec=(?P<average>[\d.]+), CurrSamplesPerSec=(?P<current>[\d.]+), MemAllocated=[\d.]+GB, MaxMemAllocated=[\d.]+GB",
    "iteration": r" iteration (?P<it>[ ]*\d+)/(?P<total>[ ]*\d+) \| consumed samples: (?P<samples>[ ]*\d+) \| consumed tokens: "
    r"(?P<tokens>[ ]*\d+) \| elapsed time per iteration \(ms\): (?P<ms>\d+\.\d) \| learning rate: \d\.\d{3}E[+-]\d\d \| global batch size: "
    rf"(?P<batch>[ ]*\d+) \|(?: lm loss: (?P<loss>{_EXP}) \|)?(?: [\w ]+: {_EXP} \|)* loss scale: (?P<scale>\d+\.\d) \|"
    r"(?: grad norm: \S+ \|)?(?: num zeros: \S+ \|)? actual seqlen: (?P<seq>[ ]*\d+) \| number of skipped iterations: [ ]*\d+ \| number of nan iterations: [ ]*\d+ \| "
    r"samples per second: (?P<sps>\d+\.\d{3}) \| tokens per gpu per second \(tgs\): (?P<tgs>\d+\.\d{3}) \| TFLOPs: (?P<tflops>\d+\.\d\d) \|",
    "validation": rf" validation loss at iteration (?P<it>\d+)(?: on \S+ set)? \| lm loss value: (?P<loss>{_EXP}) \| lm loss PPL: (?P<ppl>{_EXP}) \| ",
}
GRAMMAR = Grammar(KINDS)


def read(text: str, findings: Findings, *, gpus: int) -> list[Line]:
    """The lines about training; the many of the set-up are left out."""
    marks = ("step=", "RunningAvg", " iteration ", " validation loss")
    kept = [
        line
        for line in text.splitlines()
        if (
            any(mark in line for mark in marks)
            and line[:1] in ("[", " ")
            and "saved checkpoint" not in line
            and "[Torch]" not in line
            and "[rank" not in line
            and "loading" not in line
            and "Rank 0] step" in line
        )
        or line.startswith((" iteration ", " validation loss"))
        or "RunningAvg" in line
    ]
    lines = GRAMMAR.read("".join(f"{line}\n" for line in kept), findings)
    for line in lines:
        if line.kind == "step":
            rates = ast.literal_eval(line["lr"])
            findings.expect(len(set(rates)) == 1, line, "rates of the groups")
            findings.expect(len(ast.literal_eval(line["mom"])) == len(rates), line, "groups")
        if line.kind == "iteration":
            n, batch, seq = int(line["it"]), int(line["batch"]), int(line["seq"])
            findings.expect(int(line["samples"]) == n * batch, line, "consumed samples")
            findings.expect(int(line["tokens"]) == n * batch * seq, line, "consumed tokens")
            slack = 0.06 / float(line["ms"])
            sps = batch / float(line["ms"]) * 1e3
            same = abs(float(line["sps"]) - sps) < slack * sps + 6e-4
            findings.expect(same, line, f"sps {sps}")
            tgs = sps * seq / gpus
            same = abs(float(line["tgs"]) - tgs) < slack * tgs + 6e-4
            findings.expect(same, line, f"tgs {tgs}")
        if line.kind == "validation" and line["loss"] != "nan":
            ppl = math.exp(min(20, float(line["loss"])))
            findings.expect(math.isclose(ppl, float(line["ppl"]), rel_tol=3e-6), line, f"PPL {ppl}")
    _pairs(lines, findings)
    return lines


def _pairs(lines: list[Line], findings: Findings) -> None:
    """The engine's steps, the timer's and the program's, each on its own grid.

    The engine and the program count the steps of the run, the timer those of its launch; so the
    timer's lines fall on others' once a launch has begun behind a step that is no multiple.
    """
    micro: float | None = None
    last = {"step": 0, "iteration": 0}
    for before, line in pairwise(lines):
        if line.kind == "throughput":
            ratio = int(line["micro"]) / int(line["step"])
            micro = micro or ratio
            findings.expect(ratio == micro, line, "micro steps")
        if line.kind in last:
            last[line.kind] = int(line["step" if line.kind == "step" else "it"])
        if line.kind == "iteration" and before.kind == "step":
            findings.expect(last["step"] == last["iteration"], line, "another step")
