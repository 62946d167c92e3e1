"""torchtitan 0.2's log, by torchtitan/components/metrics.py, train.py, components/checkpoint.py."""

from __future__ import annotations

from tests.real_formats import job_output
from tests.real_formats.lines import Findings, Grammar, Line, moment_of

_HEAD = r"\[titan\] (?P<stamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - root - "
_INFO = _HEAD + "INFO - "
_WARN = _HEAD + "WARNING - "
_NUMBER = r"(?:nan|inf|-?\d+\.\d+)"
_MEMORY = r"memory: (?P<gib>(?=[ \d.]{5,})[ ]*\d+\.\d\d)GiB\((?P<pct>\d+\.\d\d)%\)"

KINDS = {
    "step": _INFO + r"step: (?P<step>[ ]?\d|\d{2,})  loss: (?P<loss>[ ]*" + _NUMBER + ")  "
    r"grad_norm: (?P<grad_norm>[ ]*" + _NUMBER + ")  " + _MEMORY + "  "
    r"tps: (?P<tps>\d{1,3}(?:,\d{3})*)  tflops: (?P<tflops>\d{1,3}(?:,\d{3})*\.\d\d)  "
    r"mfu: (?P<mfu>\d+\.\d\d%|N/A)",
    "validate": _INFO
    + r"validate step: (?P<step>[ ]?\d|\d{2,})  loss: (?P<loss>[ ]*"
    + _NUMBER
    + ")  "
    + _MEMORY
    + r"  tps: (?P<tps>\d{1,3}(?:,\d{3})*)",
    "version": _INFO + r"torchtitan version: \d+\.\d+\.\d+ \(0\.0\.0 means __version__ is not "
    r"defined correctly\)\.",
    "env": _WARN + r"ENV\[\w+\] = \S+ will be overridden to \S+ based on job config",
    "mesh": _INFO + r"Building device mesh with parallelism: pp=(?P<pp>\d+), "
    r"dp_replicate=(?P<dp_replicate>\d+), dp_shard=(?P<dp_shard>\d+), cp=(?P<cp>\d+), "
    r"tp=(?P<tp>\d+), ep=(?P<ep>\d+)(?:, etp=\d+)?",
    "meshes": _INFO + r"Successfully created meshes with active dimensions: \[.*\]",
    "gc": _INFO + r"\[GC\] (?:Initial GC collection|Performing periodic GC collection|"
    r"GC collection (?:invoked by checkpointer|for checkpoint loading)\.) took \d+\.\d\d seconds",
    "tokenizer": _INFO + r"Loading tokenizer from \S+",
    "dataset": _INFO + r"Preparing \S+ dataset from \S+",
    "building": _INFO + r"Building (?P<name>\S+) (?P<flavor>\S+)",
    "capacity": _INFO + r"CUDA capacity: (?P<gpu>.+) with (?P<gib>\d+\.\d\d)GiB memory",
    "size": _INFO + r"Model (?P<name>\S+) (?P<flavor>\S+) size: (?P<params>\d{1,3}(?:,\d{3})*) "
    r"total parameters",
    "moe-size": _INFO + r"Total parameter count: dense \d{1,3}(?:,\d{3})*, sparse "
    r"\d{1,3}(?:,\d{3})*, active \d{1,3}(?:,\d{3})*",
    "peak-unknown": _WARN + r"Peak flops undefined for: .*, fallback to A100",
    "peak": _INFO + r"Peak FLOPS used for computing MFU: (?P<peak>\d\.\d{3}e\+\d\d)",
    "model-memory": _INFO + r"CUDA memory usage for model: \d+\.\d\dGiB\(\d+\.\d\d%\)",
    "applied": _INFO + r"(?:Applied .*|Compiling .*|Using pipeline schedule .*|Pipelining .*"
    r"|Mixed precision training .*|Converting .*|Float8 .*|Swapped to .*|MXFP8 .*|Stage \d+ .*"
    r"|PP rank .*|Float8 training active|Sharded .*)",
    "checkpointing": _INFO + r"Checkpointing active\. Checkpoints will be loaded from and saved to "
    r"(?P<folder>\S+)",
    "no-checkpoint": _INFO + r"Checkpoint .*",
    "trainer": _INFO + r"Trainer is initialized with local batch size (?P<local>\d+), global batch "
    r"size (?P<batch>\d+), gradient accumulation steps (?P<accumulation>\d+), sequence length "
    r"(?P<seq>\d+), total steps (?P<steps>\d+) \(warmup (?P<warmup>\d+)\)",
    "loading": _INFO + r"Loading the checkpoint from (?P<path>\S+)\.",
    "loaded": _INFO + r"Finished loading the checkpoint in \d+\.\d\d seconds\.",
    "begins": _INFO + r"Training starts at step (?P<step>\d+)",
    "timeout": _INFO + r"Synchronizing and adjusting timeout for all ProcessGroups to "
    r"\d+:\d\d:\d\d",
    "saving": _INFO + r"Saving the checkpoint \(or staging if async is enabled\)\.",
    "saving-last": _INFO
    + r"Saving a (?:full checkpoint|model only checkpoint in .*) at last step, "
    r"step (?P<step>\d+)\.",
    "saved": _INFO + r"Finished saving the checkpoint \(or staging if async is enabled\) in "
    r"(?P<seconds>\d+\.\d\d) seconds\.",
    "purging": _INFO + r"Deleting .*",
    "sleeping": _INFO + r"Sleeping 2 seconds for other ranks to complete",
    "completed": _INFO + r"Training completed",
    "destroyed": _INFO + r"Process group destroyed",
}
GRAMMAR = Grammar(KINDS | job_output.KINDS)
# In the order of Trainer.__init__ and train() of torchtitan/train.py.
_STARTS = ["version", "mesh", "tokenizer", "dataset", "building", "capacity", "size", "peak"]
_STARTS += ["checkpointing", "trainer", "loading", "loaded", "begins"]


def read(text: str, findings: Findings, *, gpus: int, every: int = 10) -> list[Line]:
    """The log's lines, all held to what the program would have printed."""
    lines = GRAMMAR.read(text, findings)
    year = int(lines[0]["stamp"][:4]) if lines and "stamp" in lines[0].fields else 2026
    job_output.check(lines, findings, year=year)
    last = ""
    for line in lines:
        if line.text.startswith("[titan]"):
            findings.expect(line["stamp"] >= last, line, "time goes back")
            last = line["stamp"]
    for launch in _launches(lines):
        _Launch(findings, gpus, every).check(launch)
    _resumes(_launches(lines), findings, every)
    return lines


def _launches(lines: list[Line]) -> list[list[Line]]:
    launches: list[list[Line]] = [[]]
    for line in lines:
        if line.kind == "version" and launches[-1]:
            launches.append([])
        launches[-1].append(line)
    return launches


class _Launch:
    """What one launch's lines owe to one another."""

    def __init__(self, findings: Findings, gpus: int, every: int) -> None:
        self.findings, self.gpus, self.every = findings, gpus, every

    def check(self, lines: list[Line]) -> None:
        self._start(lines)
        by_kind = {line.kind: line for line in lines}
        if "trainer" in by_kind:
            self._arithmetic(by_kind["trainer"], by_kind["mesh"])
        if "begins" in by_kind and "trainer" in by_kind:
            self._steps(lines, by_kind)

    def _start(self, lines: list[Line]) -> None:
        seen = [line.kind for line in lines if line.kind in _STARTS]
        wanted = [kind for kind in _STARTS if kind in seen]
        self.findings.expect(seen == wanted, lines[0], f"order of the start: {seen}")
        if "begins" in seen:
            missing = set(_STARTS) - set(seen) - {"loading", "loaded", "checkpointing"}
            self.findings.expect(not missing, lines[0], f"without {missing}")
            self.findings.expect(("loading" in seen) == ("loaded" in seen), lines[0], "half loaded")

    def _arithmetic(self, trainer: Line, mesh: Line) -> None:
        degrees = {name: int(mesh[name]) for name in ("pp", "dp_replicate", "dp_shard", "cp", "tp")}
        world = 1
        for degree in degrees.values():
            world *= degree
        self.findings.expect(world == self.gpus, mesh, f"degrees are of {world} GPUs")
        data = degrees["dp_replicate"] * degrees["dp_shard"]
        batch = int(trainer["local"]) * int(trainer["accumulation"]) * data
        self.findings.expect(batch == int(trainer["batch"]), trainer, f"batch is {batch}")

    def _steps(self, lines: list[Line], by_kind: dict[str, Line]) -> None:
        trainer, findings = by_kind["trainer"], self.findings
        first, total = int(by_kind["begins"]["step"]), int(trainer["steps"])
        tokens = int(trainer["batch"]) * int(trainer["seq"])
        peak = float(by_kind["peak"]["peak"]) if "peak" in by_kind else 0.0
        card = float(by_kind["capacity"]["gib"])
        due = self._due(first, total)
        before: Line | None = None
        ratio: tuple[float, float] | None = None
        blocked = False
        for line in lines[lines.index(by_kind["begins"]) :]:
            if line.kind in ("saving", "validate"):
                blocked = True
            if line.kind != "step":
                continue
            step, wanted = int(line["step"]), next(due, None)
            findings.expect(step == wanted, line, f"step {wanted} is due")
            findings.expect(line["step"] == f"{step:2}", line, "width of the step")
            for name, width, digits in (("loss", 8, 5), ("grad_norm", 7, 4), ("gib", 5, 2)):
                value = float(line[name])
                same = line[name] == f"{value:{width}.{digits}f}"
                findings.expect(same, line, f"width or decimals of {name}")
            share = 100 * float(line["gib"]) / card
            findings.expect(abs(share - float(line["pct"])) < 0.02, line, f"memory is {share} %")
            findings.expect(float(line["pct"]) < 100, line, "more memory than the card has")
            tps, tflops = line.number_of("tps"), line.number_of("tflops")
            if tps > 3000:
                now = tflops / tps
                slack = 0.5 / tps + 0.005 / tflops
                ratio = ratio or (now, slack)
                same = abs(now / ratio[0] - 1) < slack + ratio[1]
                findings.expect(same, line, "FLOPs a token change")
            if peak and line["mfu"] != "N/A":
                mfu = 100 * tflops * 1e12 / peak
                findings.expect(abs(mfu - float(line["mfu"][:-1])) < 0.011, line, f"MFU is {mfu}")
            if before is not None and not blocked:
                took = _time(line) - _time(before)
                steps = step - int(before["step"])
                expected = steps * tokens / (tps * self.gpus)
                slack = 0.02 + expected * 0.6 / tps
                findings.expect(
                    abs(took - expected) < slack, line, f"{took} s, tps says {expected}"
                )
            before, blocked = line, False
        if "completed" in by_kind:
            findings.expect(next(due, None) is None, by_kind["completed"], "steps are missing")

    def _due(self, first: int, total: int):
        for step in range(first, total + 1):
            if step == 1 or step % self.every == 0:
                yield step


def _resumes(launches: list[list[Line]], findings: Findings, every: int) -> None:
    """A launch goes on behind a step whose checkpoint was written before.

    The line of a checkpoint names no step: it is that of the last line, or one of the next few.
    """
    saved: list[int] = []
    for launch in launches:
        step = 0
        for line in launch:
            if line.kind == "begins":
                begins = int(line["step"])
                at = begins - 1
                if launch is not launches[0]:
                    is_known = any(step <= at < step + every for step in saved)
                    findings.expect(at == 0 or is_known, line, f"no checkpoint of {saved}")
                loading = [other for other in launch if other.kind == "loading"]
                if loading and at:
                    path = loading[0]["path"]
                    findings.expect(path.endswith(f"step-{at}"), loading[0], "another step")
            if line.kind == "step":
                step = int(line["step"])
            if line.kind in ("saved", "saving-last"):
                saved.append(step)


def _time(line: Line) -> float:
    return moment_of(line["stamp"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
