# ruff: noqa: E501 - a pattern is as long as the line it reads
"""Megatron-LM's training log, by megatron/training/training.py, checkpointing.py, utils.py.

The lines of a start are many and differ between releases: those of the set-up are taken as they
are, those of the training are held to one another.
"""

from __future__ import annotations

import math

from tests.real_formats import job_output
from tests.real_formats.lines import Findings, Grammar, Line, moment_of

_STAMP = r"\[(?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})\]"
_EXP = r"(?:-?\d\.\d{6}E[+-]\d\d|nan|NAN|inf)"
_MB = r"\d+\.\d\d"
KINDS = {
    "iteration": rf" {_STAMP} iteration (?P<it>[ ]*\d+)/(?P<total>[ ]*\d+) \| consumed samples: (?P<samples>[ ]*\d+) \|"
    r"(?: skipped samples: [ ]*\d+ \|)? elapsed time per iteration \(ms\): (?P<ms>\d+\.\d) \|"
    rf" throughput per GPU \(TFLOP/s/GPU\): (?P<tflops>\d+\.\d) \| learning rate: (?P<lr>{_EXP}) \|"
    rf" global batch size: (?P<batch>[ ]*\d+) \|(?: lm loss: (?P<loss>{_EXP}) \|)?(?: \w+: {_EXP} \|)*"
    r" loss scale: (?P<scale>\d+\.\d) \|(?: grad norm: (?P<norm>\d+\.\d{3}|nan|inf) \|)?"
    r" number of skipped iterations: (?P<skipped>[ ]*\d+) \| number of nan iterations: (?P<nan>[ ]*\d+) \|",
    "validation": r" validation loss at iteration (?P<it>\d+)(?: on (?:validation|test) set)? \| lm loss "
    rf"value: (?P<loss>{_EXP}) \| lm loss PPL: (?P<ppl>{_EXP}) \| ",
    "saving": rf"{_STAMP} saving checkpoint at iteration (?P<it>[ ]*\d+) to (?P<path>\S+) in (?:torch_dist|fsdp_dtensor) format",
    "saved": rf"  {_STAMP} successfully saved checkpoint from iteration (?P<it>[ ]*\d+) to (?P<path>\S+) "
    r"\[ t \d+/(?P<tp>\d+), p \d+/(?P<pp>\d+) \]",
    "loading": r" loading distributed checkpoint from (?P<path>\S+) at iteration (?P<it>\d+)",
    "loaded": r"  successfully loaded checkpoint from (?P<path>\S+) \[ t \d+/\d+, p \d+/\d+ \] at iteration (?P<it>\d+)",
    "memory": rf"\[Rank (?P<rank>\d+)\] \((?:after (?P<it>\d+) iterations|(?:before|after) save_checkpoint for iteration \d+)\) "
    rf"memory \(MB\) \| allocated: (?P<allocated>{_MB}) \| max allocated: (?P<most>{_MB}) \| reserved: "
    rf"(?P<reserved>{_MB}) \| max reserved: (?P<most_reserved>{_MB})",
    "world": r"using world size: (?P<world>\d+), data-parallel size: (?P<dp>\d+), context-parallel size: (?P<cp>\d+), "
    r"hierarchical context-parallel sizes: None, tensor-model-parallel size: (?P<tp>\d+), pipeline-model-parallel size: (?P<pp>\d+)",
    "argument": r"  (?P<name>\w+) \.*\.{3} (?P<value>.*)",
    "timer": r"    (?P<name>[\w\-/]+) \.*: \((?P<least>\d+\.\d\d), (?P<most>\d+\.\d\d)\)",
    "timers": r"(?:INFO:megatron\.core\.timers:)?\(min, max\) time across ranks \(ms\):",
    "parameters": r" > number of parameters on \(tensor, pipeline\) model parallel rank \((?P<t>\d+), (?P<p>\d+)\): (?P<count>\d+)",
    "datetime": r"\[(?P<what>[a-z][^\]]*)\] datetime: (?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) ?",
    "target": r"    (?:train|validation|test): +\d+",
    "info": r"(?:INFO|WARNING):megatron\.core\.[\w.]+:.*",
    "theory": r"(?:Number of (?:active )?parameters|Total number of (?:active )?parameters|Theoretical memory|Activation memory|"
    r"compute_activation_memory|Memory penalty|Number of in-flight).*",
    "said": r"(?:>|using |accumulate|Number of virtual|training \.\.\.|Overwriting |building GPT|done with|time to initialize|"
    r"Storing|sharded_state|\(|MTP |fully |exiting ).*| > (?:datasets|padded).*| checkpoint version .*|-{20,} (?:arguments|end of arguments) -{20,}"
    r"|-{20} end of arguments -{21}|could not .*|WARNING: could not find the metadata file \S+|    will not load any .*"
    r"|  .*Rank \d+.*",
    "dashes": r"-{61,}",
    "blank": r"",
}
GRAMMAR = Grammar(KINDS | job_output.KINDS, first=True)


def read(text: str, findings: Findings, *, gpus: int, every: int = 10) -> list[Line]:
    """The lines, those of training held to one another."""
    lines = GRAMMAR.read(text, findings)
    job_output.check(lines, findings, year=2026)
    launches: list[list[Line]] = [[]]
    for line in lines:
        if line.kind == "world" and any(other.kind == "world" for other in launches[-1]):
            launches.append([])
        launches[-1].append(line)
    saved: list[int] = []
    for launch in launches:
        _start(launch, findings, gpus)
        _training(launch, saved, findings, every)
        _blocks(launch, findings)
    return lines


def _start(lines: list[Line], findings: Findings, gpus: int) -> None:
    by_kind = {line.kind: line for line in reversed(lines)}
    if "world" not in by_kind:
        return
    world = by_kind["world"]
    degrees = [int(world[name]) for name in ("dp", "cp", "tp", "pp")]
    findings.expect(math.prod(degrees) == gpus == int(world["world"]), world, "degrees")
    told = [line for line in lines if line.kind == "argument"]
    names = [line["name"] for line in told]
    findings.expect(names == sorted(names, key=str.lower), world, "order of the arguments")
    for line in told:
        dots = "." * (48 - len(line["name"]))
        findings.expect(line.text.startswith(f"  {line['name']} {dots} "), line, "dots")
    facts = {line["name"]: line.fields.get("value", "") for line in told}
    if "global_batch_size" in facts:
        micro = int(facts["micro_batch_size"]) * int(world["dp"])
        findings.expect(int(facts["global_batch_size"]) % micro == 0, world, "batch arithmetic")
    places = {(line["t"], line["p"]) for line in lines if line.kind == "parameters"}
    if places:
        count = int(world["tp"]) * int(world["pp"])
        findings.expect(len(places) == count, world, f"parameters of {len(places)} places")


def _training(lines: list[Line], saved: list[int], findings: Findings, every: int) -> None:
    due: int | None = None
    before: Line | None = None
    work: tuple[float, float] | None = None
    at = lines_seen = 0
    began: Line | None = None
    paused = False
    for line in lines:
        if "stamp" in line.fields and before is not None:
            findings.expect(line["stamp"] >= before["stamp"], line, "time goes back")
        if line.kind in ("loading", "loaded"):
            at = int(line["it"])
            findings.expect(at in saved, line, f"loads what was not saved: {saved}")
        if line.kind == "datetime" and line["what"] == "before the start of training step":
            began = line
        if line.kind in ("saving", "validation"):
            paused = True
        if line.kind == "saved":
            saved.append(int(line["it"]))
            findings.expect(line["it"] == f"{int(line['it']):7d}", line, "width")
        if line.kind == "validation" and line["loss"] not in ("nan", "NAN"):
            ppl = math.exp(min(20, float(line["loss"])))
            findings.expect(math.isclose(ppl, float(line["ppl"]), rel_tol=3e-6), line, f"PPL {ppl}")
        if line.kind != "iteration":
            continue
        n = int(line["it"])
        if due is None:
            first = at + 1
            due = first if first == 1 else -(-first // every) * every
            findings.expect(n in (due, first), line, f"goes on from {at}")
        else:
            findings.expect(n == due, line, f"iteration {due} is due")
        due = (n // every + 1) * every
        findings.expect(line["it"] == f"{n:8d}", line, "width of the iteration")
        findings.expect(int(line["samples"]) == n * int(line["batch"]), line, "consumed samples")
        findings.expect(line["samples"] == f"{int(line['samples']):12d}", line, "width")
        now = float(line["ms"]) * float(line["tflops"])
        slack = 0.06 / float(line["tflops"]) + 0.06 / float(line["ms"])
        if work is not None:
            same = abs(now / work[0] - 1) < slack + work[1]
            findings.expect(same, line, "FLOPs an iteration change")
        work = work or (now, slack)
        all_lost = "loss" not in line.fields
        whole = int(line["skipped"]) >= every or (n == 1 and int(line["skipped"]) == 1)
        findings.expect(not all_lost or whole, line, "no loss though not all were skipped")
        # The line behind the first iteration of a launch does not begin a new interval.
        first_two = lines_seen < 2
        since = began if first_two else before
        count = n - (at if first_two or before is None else int(before["it"]))
        if since is not None and not paused:
            took, told = _time(line) - _time(since), count * float(line["ms"]) / 1e3
            findings.expect(
                abs(took - told) < 6e-5 * count + 2e-6, line, f"took {took}, not {told}"
            )
        lines_seen += 1
        before, paused = line, False


def _blocks(lines: list[Line], findings: Findings) -> None:
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.kind == "validation":
            for rule in (before, after):
                same = rule.text == "-" * (len(line.text) + 1) or rule.text == "-" * len(line.text)
                findings.expect(same and rule.kind in ("dashes", "rule"), rule, "dashes")
    saving: Line | None = None
    for line in lines:
        if line.kind == "saving":
            saving = line
        if line.kind == "saved":
            findings.expect(saving is not None and saving["it"] == line["it"], line, "never begun")
            saving = None
        if line.kind == "memory":
            allocated, most, reserved = (
                float(line[n]) for n in ("allocated", "most", "most_reserved")
            )
            findings.expect(allocated <= most <= reserved, line, "memory")


def _time(line: Line) -> float:
    return moment_of(line["stamp"], "%Y-%m-%d %H:%M:%S.%f").timestamp()
