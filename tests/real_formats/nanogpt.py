# ruff: noqa: E501 - a pattern is as long as the line it reads
"""Output of nanoGPT's train.py (karpathy/nanoGPT, master)."""

from __future__ import annotations

from tests.real_formats import job_output
from tests.real_formats.lines import Findings, Grammar, Line

_LOSS = r"(?:\d+\.\d{4}|nan|inf)"
KINDS = {
    "tokens": r"tokens per iteration will be: (?P<tokens>\d{1,3}(?:,\d{3})*)",
    "vocab": r"found vocab_size = (?P<vocab>\d+) \(inside \S+/meta\.pkl\)",
    "vocab-default": r"defaulting to vocab_size of GPT-2 to 50304 \(50257 rounded up for efficiency\)",
    "scratch": r"Initializing a new model from scratch",
    "resume": r"Resuming training from (?P<path>\S+)",
    "gpt2": r"Initializing from OpenAI GPT-2 weights: \S+",
    "parameters": r"number of parameters: (?P<millions>\d+\.\d\d)M",
    "decayed": r"num decayed parameter tensors: \d+, with (?P<count>\d{1,3}(?:,\d{3})*) parameters",
    "others": r"num non-decayed parameter tensors: \d+, with (?P<count>\d{1,3}(?:,\d{3})*) parameters",
    "fused": r"using fused AdamW: True",
    "compiling": r"compiling the model\.\.\. \(takes a ~minute\)",
    "iter": rf"iter (?P<n>\d+): loss (?P<loss>{_LOSS}), time (?P<ms>\d+\.\d\d)ms, "
    r"mfu (?P<mfu>-?\d+\.\d\d)%",
    "step": rf"step (?P<n>\d+): train loss (?P<train>{_LOSS}), val loss (?P<val>{_LOSS})",
    "saving": r"saving checkpoint to (?P<path>\S+)",
}
GRAMMAR = Grammar(KINDS | job_output.KINDS)
_STARTS = ["tokens", "vocab", "parameters", "decayed", "others", "fused", "compiling"]


def read(text: str, findings: Findings, *, every: int = 10) -> list[Line]:
    """The lines, all held to what train.py would have printed."""
    lines = GRAMMAR.read(text, findings)
    job_output.check(lines, findings, year=2026)
    launches: list[list[Line]] = [[]]
    for line in lines:
        if line.kind == "tokens" and launches[-1]:
            launches.append([])
        launches[-1].append(line)
    saved: list[int] = []
    for launch in launches:
        starts = [line.kind for line in launch if line.kind in _STARTS]
        findings.expect(starts == _STARTS[: len(starts)], launch[0], f"start: {starts}")
        _parameters(launch, findings)
        _iterations(launch, saved, findings, every)
    return lines


def _parameters(lines: list[Line], findings: Findings) -> None:
    by_kind = {line.kind: line for line in lines}
    if "others" in by_kind:
        total = by_kind["decayed"].number_of("count") + by_kind["others"].number_of("count")
        shown = by_kind["parameters"].number_of("millions") * 1e6
        # the position embedding, which only learned positions have, is not counted
        findings.expect(0 <= total - shown + 5e3 < 0.2 * total, by_kind["parameters"], "parameters")


def _iterations(lines: list[Line], saved: list[int], findings: Findings, every: int) -> None:
    begins = next((line for line in lines if line.kind in ("scratch", "resume")), None)
    due: int | None = None
    running: float | None = None
    count = 0
    scale: float | None = None
    for line in lines:
        if line.kind == "saving":
            before = lines[: lines.index(line)]
            previous = [other for other in before if other.kind in ("step", "iter")]
            saved.append(int(previous[-1]["n"]) if previous else 0)
        if line.kind != "iter":
            continue
        n = int(line["n"])
        if due is None and begins is not None:
            if begins.kind == "scratch":
                findings.expect(n == 0, line, "a new model begins at 0")
            else:
                at = [step for step in saved if step <= n]
                findings.expect(bool(at) and n - at[-1] <= every, line, f"resumes, saved {saved}")
        findings.expect(n % every == 0, line, "no multiple of the interval")
        findings.expect(due is None or n == due, line, f"iter {due} is due")
        due = n + every
        count += 1
        mfu, ms = float(line["mfu"]), float(line["ms"])
        if count <= 1:  # local_iter_num >= 5 (nanoGPT, train.py)
            findings.expect(mfu == -100.0 or every < 5 or n >= 5, line, "mfu too early")
        if mfu > 0:
            if running is None:
                scale = mfu * ms
                running = mfu
            else:
                assert scale is not None
                running = 0.9 * running + 0.1 * scale / ms
                findings.expect(abs(running - mfu) < 0.02 + 2e-3 * mfu, line, f"mfu is {running}")
                running = mfu
