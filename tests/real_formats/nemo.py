# ruff: noqa: E501 - a pattern is as long as the line it reads
"""NeMo 2's progress lines, by nemo/lightning/pytorch/callbacks/progress_printer.py.

Metrics are means over the interval but for global_step; floats have four significant digits.
"""

from __future__ import annotations

import re

from tests.real_formats.lines import Findings, Grammar, Line

_NUMBER = r"(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|nan|inf)"
KINDS = {
    "train": r"Training epoch (?P<epoch>\d+), iteration (?P<it>\d+)/(?P<last>\d+)(?P<values>(?: \| [\w ]+: "
    + _NUMBER
    + ")+)",
    "launch": r"GPU available: True \(cuda\), used: True",
    "validation": r"Validation: iteration (?P<it>\d+)/(?P<last>\d+)",
}
GRAMMAR = Grammar(KINDS)
_ORDER = [
    "lr",
    "global_batch_size",
    "global_step",
    "peak_memory_usage",
    "memory_allocated",
    "loss_scale",
]
_ORDER += [
    "reduced_train_loss",
    "grad_norm",
    "train_step_timing in s",
    "tokens_per_sec_per_gpu",
    "TFLOPS_per_GPU",
]
_ORDER += ["consumed_samples", "val_loss"]


def values_of(line: Line) -> dict[str, float]:
    """Name and number of a line's metrics, in their order."""
    return {k: float(v) for k, v in re.findall(r" \| ([\w ]+): (\S+)", line["values"])}


def read(text: str, findings: Findings, *, every: int = 10) -> list[Line]:
    """The progress lines, held to one another."""
    marks = ("Training epoch", "Validation:", "GPU available")
    kept = [line for line in text.splitlines() if line.startswith(marks)]
    lines = GRAMMAR.read("".join(f"{line}\n" for line in kept), findings)
    batch, last = 0.0, -1
    for line in lines:
        if line.kind == "launch":
            last = -1
        if line.kind != "train":
            continue
        values = values_of(line)
        known = [name for name in _ORDER if name in values]
        findings.expect(list(values) == known, line, f"order {list(values)}")
        findings.expect(values["global_step"] == int(line["it"]), line, "two steps")
        findings.expect((int(line["it"]) + 1) % every == 0, line, "no end of an interval")
        batch = batch or values["global_batch_size"]
        findings.expect(values["global_batch_size"] == batch, line, "another batch")
        # An interval that began with a launch has fewer steps, and is divided by as many.
        before = int(line["it"]) - every
        if "consumed_samples" in values and before == last >= 0:
            mean = batch * (int(line["it"]) + 1 - (every - 1) / 2)
            close = abs(values["consumed_samples"] / mean - 1) < 6e-4
            findings.expect(close, line, f"consumed samples are {mean}")
        last = int(line["it"])
    return lines
