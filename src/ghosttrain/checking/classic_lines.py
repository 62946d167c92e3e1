"""The lines of the classic log that come with a level, and its summary: pattern and meaning.

Numbers as people read them come back with half a unit of what was printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from ghosttrain.checking.observations import Value
from ghosttrain.core.units import DAY_S, HOUR_S, MINUTE_S

Numbers = dict[str, Any]
Said = tuple[str, Numbers, dict[str, str], dict[str, bool]]
"""A kind of observation (or "run", "facts"), its numbers, words and flags."""

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15}
_TIME_UNITS = {
    "d": DAY_S,
    "h": HOUR_S,
    "m": MINUTE_S,
    "min": MINUTE_S,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
}
# Patterns of numbers: decimal, whole with commas, decimal with commas, with K, M, B or T behind.
_F = r"\d+(?:\.\d+)?"
_L = rf"(?:{_F}|nan)"  # of what follows from a loss that is none
_I = r"\d[\d,]*"
_N = r"(\d[\d,]*(?:\.\d+)?)"
_COUNTED = rf"({_F}(?: [KMBT])?)"
_TIMES = re.compile(rf"({_F}) ?(ms|us|min|d|h|m|s)")
_SHARDING = {"DDP": "ddp", "ZeRO-1": "zero1", "ZeRO-2": "zero2", "FSDP": "fsdp"}


def number(text: str) -> Value:
    """`1,048,576` exactly; `2.5` to half a tenth."""
    plain = text.replace(",", "")
    decimals = len(plain.partition(".")[2])
    return Value(float(plain), 0.5 * 10.0**-decimals if decimals else 0.0)


def rounded(text: str) -> Value:
    """A number that was rounded to what is printed, whole numbers too."""
    plain = text.replace(",", "")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return Value(float(plain), 0.5 * 10.0 ** (int(exponent or 0) - decimals))


def count(text: str) -> Value:
    """`8.03 B`: a rounded number with K, M, B or T behind it, exact without."""
    digits, _, unit = text.strip().partition(" ")
    if not unit:
        return number(digits)
    value = rounded(digits)
    return Value(value.value * _UNITS[unit], value.half * _UNITS[unit])


def size(text: str) -> Value:
    """`16.1 GB`, `1 GiB`: bytes."""
    digits, _, unit = text.strip().partition(" ")
    if unit.endswith("iB"):
        power = "KMGT".index(unit[0]) + 1
        return Value(float(digits) * 1024**power)
    value = rounded(digits)
    factor = _UNITS[unit.removesuffix("B")]
    return Value(value.value * factor, value.half * factor)


def seconds(text: str) -> Value:
    """`5.97 ms`, `13.0s`, `16m52s`, `1h50m`, `2h 07m 41s`."""
    parts = _TIMES.findall(text)
    total = sum(float(digits) * _TIME_UNITS[unit] for digits, unit in parts)
    digits, unit = parts[-1]
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2]) * _TIME_UNITS[unit]
    if len(parts) > 1 and unit != "s":
        half = _TIME_UNITS[unit]  # cut to the whole unit, not rounded to it
    return Value(total, half)


def _run(m: re.Match[str]) -> Iterator[Said]:
    epochs, steps = number(m[5]), number(m[6])
    gpus, nodes = number(m[2]), number(m[4])
    numbers: Numbers = {
        "gpus": gpus,
        "nodes": nodes,
        "epochs": epochs,
        "steps_per_epoch": steps,
        "total_steps": Value(epochs.value * steps.value),
    }
    if nodes.value >= 1 and gpus.value % nodes.value == 0:
        numbers["gpus_per_node"] = Value(gpus.value / nodes.value)
    yield "run", numbers, {"model": m[1]}, {}


def _building(m: re.Match[str]) -> Iterator[Said]:
    yield "facts", {}, {"model": m[1]}, {}
    yield "phase_started", {}, {"phase": "weights"}, {}


def _shape(m: re.Match[str]) -> Iterator[Said]:
    facts: Numbers = {"params": number(m[1]), "layers": number(m[3]), "heads": number(m[4])}
    facts["active_params"] = count(m[2]) if m[2] else number(m[1])
    yield "facts", facts, {}, {}


def _from_scratch(_: re.Match[str]) -> Iterator[Said]:
    yield "facts", {"continued_loss": Value(0.0)}, {}, {}


def _weights_ready(m: re.Match[str]) -> Iterator[Said]:
    yield "phase_ended", {"duration_s": seconds(m[1])}, {"phase": "weights"}, {}


def _tokenizer(m: re.Match[str]) -> Iterator[Said]:
    yield "facts", {"vocab_size": number(m[1])}, {}, {}


def _dataset(m: re.Match[str]) -> Iterator[Said]:
    facts = {"epoch_tokens": count(m[1]), "epoch_sequences": number(m[2])}
    yield "facts", {**facts, "seq_len": number(m[3])}, {}, {}


def _batch(m: re.Match[str]) -> Iterator[Said]:
    flops = rounded(m[5])
    factor = 1e12 if m[6] == "T" else 1e9
    facts = {
        "global_batch_size": number(m[1]),
        "micro_batch_size": number(m[2]),
        "data_parallel": number(m[3]),
        "micro_batches": number(m[4]) if m[4] else Value(1.0),
        "flops_per_token": Value(flops.value * factor, flops.half * factor),
    }
    yield "facts", facts, {}, {}


def _layout(m: re.Match[str]) -> Iterator[Said]:
    facts: Numbers = {
        "tensor_parallel": number(m[1]),
        "pipeline_parallel": number(m[2]),
        "context_parallel": number(m[3]),
        "data_parallel": number(m[4]),
    }
    yield "facts", facts, {"sharding": _SHARDING.get(m[5], m[5])}, {}


def _each_gpu(m: re.Match[str]) -> Iterator[Said]:
    facts: Numbers = {
        "peak_tflops": rounded(m[1]),
        "gpu_memory_gib": rounded(m[3]),
        "most_memory_gib": rounded(m[2]),
    }
    yield "facts", facts, {}, {}


def _schedule(m: re.Match[str]) -> Iterator[Said]:
    facts = {"warmup_steps": number(m[2]), "peak_learning_rate": rounded(m[3])}
    yield "facts", facts, {"schedule": m[1]}, {}


def _world(m: re.Match[str]) -> Iterator[Said]:
    yield "facts", {"gpus": number(m[1]), "nodes": number(m[2])}, {}, {}


def _rank(m: re.Match[str]) -> Iterator[Said]:
    yield "facts", {"gpus": number(m[2]), "nodes": number(m[4])}, {}, {}
    numbers = {"first_rank": number(m[1]), "count": Value(1.0), "node": number(m[3])}
    yield "gpus_detected", numbers, {}, {}


def _ranks(m: re.Match[str]) -> Iterator[Said]:
    yield "gpus_detected", {"first_rank": number(m[1]), "count": number(m[2])}, {}, {}


def _all_reduce(m: re.Match[str]) -> Iterator[Said]:
    numbers = {
        "size_bytes": size(m[1]),
        "ranks": number(m[2]),
        "duration_s": seconds(m[3]),
        "busbw_gbs": rounded(m[4]),
    }
    yield "all_reduce_tested", numbers, {}, {}


def _training_started(_: re.Match[str]) -> Iterator[Said]:
    yield "training_started", {"step": Value(0.0), "attempt": Value(1.0)}, {}, {}


def _training_resumed(m: re.Match[str]) -> Iterator[Said]:
    step = Value(number(m[1]).value - 1)
    yield "training_started", {"step": step, "attempt": number(m[2])}, {}, {}


def _epoch(m: re.Match[str]) -> Iterator[Said]:
    numbers = {
        "epoch": number(m[1]),
        "mean_loss": rounded(m[3]),
        "step": number(m[4]),
        "duration_s": seconds(m[5]),
        "tokens": count(m[6]),
    }
    yield "facts", {"epochs": number(m[2])}, {}, {}
    yield "epoch_completed", numbers, {}, {}


def _validating(m: re.Match[str]) -> Iterator[Said]:
    yield "phase_started", {"step": number(m[1])}, {"phase": "validation"}, {}


def _validation(m: re.Match[str]) -> Iterator[Said]:
    loss, best = rounded(m[1]), m[7]
    numbers = {
        "loss": loss,
        "ppl": rounded(m[2]),
        "accuracy": Value(rounded(m[3]).value / 100, 5e-4),
        "train_loss": rounded(m[4]),
        "gap": rounded(m[5]),
        "best_loss": rounded(best) if best else loss,
    }
    yield "validation_completed", numbers, {}, {"improved": not best}


def _validation_took(m: re.Match[str]) -> Iterator[Said]:
    took = seconds(m[2])
    numbers = {"tokens": count(m[1]), "duration_s": took, "tokens_per_s": rounded(m[3])}
    yield "validation_timed", numbers, {}, {}
    yield "phase_ended", {"duration_s": took}, {"phase": "validation"}, {}


def _saving(m: re.Match[str]) -> Iterator[Said]:
    numbers = {"step": number(m[1]), "size_bytes": size(m[2])}
    yield "phase_started", numbers, {"phase": "checkpoint"}, {}


def _saved(m: re.Match[str]) -> Iterator[Said]:
    step = re.search(r"step_(\d+)$", m[1])
    took = seconds(m[3])
    numbers: Numbers = {"size_bytes": size(m[2]), "duration_s": took}
    if step:
        numbers["step"] = Value(float(step[1]))
    yield "checkpoint_saved", numbers, {"path": m[1], "reason": m[4]}, {}
    yield "phase_ended", {"duration_s": took}, {"phase": "checkpoint"}, {}


def _exporting(_: re.Match[str]) -> Iterator[Said]:
    yield "phase_started", {}, {"phase": "export"}, {}


def _serialising(m: re.Match[str]) -> Iterator[Said]:
    yield "facts", {"export_bytes": size(m[1]), "export_files": number(m[2])}, {}, {}


def _shard(m: re.Match[str]) -> Iterator[Said]:
    numbers = {"index": number(m[1]), "count": number(m[2]), "size_bytes": size(m[4])}
    yield "shard_written", numbers, {"name": m[3]}, {}


def _exported(m: re.Match[str]) -> Iterator[Said]:
    yield "phase_ended", {"duration_s": seconds(m[1])}, {"phase": "export"}, {}


def _warning(kind: str) -> Callable[[re.Match[str]], Iterator[Said]]:
    def read(m: re.Match[str]) -> Iterator[Said]:
        value, usual = rounded(m["value"]), rounded(m["usual"])
        if kind == "warm_inlet":  # the line has the difference
            usual = Value(value.value - usual.value, value.half + usual.half)
        numbers: Numbers = {"value": value, "baseline": usual}
        known = m.groupdict()
        if known.get("step"):
            numbers["step"] = number(m["step"])
        if known.get("node"):
            numbers["node"] = number(m["node"])
        yield "warning_raised", numbers, {"kind": kind}, {}

    return read


def _fault(m: re.Match[str]) -> Iterator[Said]:
    numbers: Numbers = {
        "fault": number(m[1]),
        "gpu": number(m[3]),
        "node": number(m[4]),
        "gpus": number(m[5]) if m[5] else Value(1.0),
        "step": number(m[6]),
        "severity": rounded(m[7]) if m[7] else Value(0.0),
    }
    yield "fault_occurred", numbers, {"kind": m[2]}, {}


def _fault_over(m: re.Match[str]) -> Iterator[Said]:
    numbers: Numbers = {
        "incident": number(m[1]),
        "steps_lost": number(m[4]),
        "lost_s": seconds(m[5]),
    }
    if m[3]:
        numbers["noticed_after_s"] = seconds(m[3])
    yield "incident_labelled", numbers, {"kind": m[2]}, {"benign": bool(m[6])}


def _xid(m: re.Match[str]) -> Iterator[Said]:
    yield "message_logged", {"code": number(m[1])}, {"message": "kernel_xid"}, {}


def _rank_line(m: re.Match[str]) -> Iterator[Said]:
    yield "message_logged", {"rank": number(m[1])}, {"message": "torch_line"}, {}


def _no_progress(m: re.Match[str]) -> Iterator[Said]:
    yield "phase_started", {"step": number(m[1])}, {"phase": "hang"}, {}


def _watchdog(m: re.Match[str]) -> Iterator[Said]:
    numbers = {
        "reporter": number(m[1]),
        "elements": number(m[2]),
        "timeout_s": Value(float(m[3]) / 1000, 5e-4),
    }
    yield "watchdog_timed_out", numbers, {}, {}


def _absent(m: re.Match[str]) -> Iterator[Said]:
    numbers = {"rank": number(m[1]), "waiting_ranks": number(m[2])}
    yield "watchdog_timed_out", numbers, {}, {}


def _attempt_ended(m: re.Match[str]) -> Iterator[Said]:
    numbers = {
        "attempt": number(m[1]),
        "step": number(m[2]),
        "lost_steps": number(m[3]),
        "checkpoint_step": number(m[4]) if m[4] else Value(0.0),
    }
    if not m[5]:
        yield "phase_ended", {}, {"phase": "hang"}, {}
    yield "run_aborted", numbers, {"reason": m[5] or "fault"}, {}


def _nodes_replaced(m: re.Match[str]) -> Iterator[Said]:
    took = seconds(m[2])
    yield "phase_ended", {"duration_s": took}, {"phase": "down"}, {}
    nodes = {f"nodes.{node}": number(node) for node in re.findall(r"\d+", m[1])}
    yield "nodes_replaced", {**nodes, "downtime_s": took}, {}, {}


def _same_nodes(m: re.Match[str]) -> Iterator[Said]:
    took = seconds(m[1])
    yield "phase_ended", {"duration_s": took}, {"phase": "down"}, {}
    yield "nodes_replaced", {"downtime_s": took}, {}, {}


def _attempt_started(m: re.Match[str]) -> Iterator[Said]:
    step = number(m[2]) if m[2] else Value(0.0)
    numbers = {
        "attempt": number(m[1]),
        "step": step,
        "lost_steps": number(m[3]),
        "skipped_batches": number(m[4]) if m[4] else Value(0.0),
    }
    yield "run_restarted", numbers, {}, {}


def _draining(_: re.Match[str]) -> Iterator[Said]:
    yield "phase_started", {}, {"phase": "down"}, {}


_NODE = r"(?:\[Node +(?P<node>\d+)/\d+\] )?"
_X = "[×x]"
_DOT = "[·|]"
INFO_LINES: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], Iterator[Said]]], ...] = (
    (
        "Run: ",
        re.compile(
            rf"Run: (.+) on ({_I}) {_X} (.+) \(({_I}) nodes?\), "
            rf"({_I}) epochs? of ({_I}) steps"
        ),
        _run,
    ),
    ("Building model: ", re.compile(r": (.+)$"), _building),
    (
        "Initialising weights",
        re.compile(r"Initialising weights"),
        _from_scratch,
    ),
    ("Model ready in ", re.compile(r"in (.+)$"), _weights_ready),
    ("Tokenizer ", re.compile(rf"vocabulary ({_I})"), _tokenizer),
    (
        "Dataset: ",
        re.compile(rf", ({_F}(?: [KMBT])?) tokens in ({_I}) sequences of ({_I})"),
        _dataset,
    ),
    (
        "Batch: ",
        re.compile(
            rf"Batch: ({_I}) sequences = micro (\d+) {_X} DP (\d+)(?: {_X} (\d+) accumulated)?"
            rf" {_DOT} ({_F}) ([GT])FLOP a token"
        ),
        _batch,
    ),
    (
        "Layout: ",
        re.compile(
            rf"TP (\d+) {_DOT} PP (\d+) {_DOT} CP (\d+) {_DOT} (?:EP \d+ {_DOT} )?DP (\d+) "
            rf"\(([\w-]+)\) {_DOT} "
        ),
        _layout,
    ),
    (
        "Each GPU: ",
        re.compile(rf"peak {_N} TFLOP/s {_DOT} ({_F}) of ({_F}) GiB"),
        _each_gpu,
    ),
    (
        "Schedule: ",
        re.compile(rf": (\w+), ({_I}) warmup steps, peak learning rate ({_F}(?:e[+-]?\d+)?)"),
        _schedule,
    ),
    ("Ranks ", re.compile(rf"Ranks (\d+)-\d+: ({_I}) {_X} "), _ranks),
    (
        "All-reduce test",
        re.compile(rf"test, ({_F} \w+) over ({_I}) ranks \(.+\): (.+), bus bandwidth ({_F}) GB/s"),
        _all_reduce,
    ),
    ("======== Training Started", re.compile(""), _training_started),
    (
        "======== Training Resumed",
        re.compile(rf"at step ({_I}) \(attempt (\d+)\)"),
        _training_resumed,
    ),
    (
        "Epoch ",
        re.compile(
            rf"Epoch (\d+)/(\d+) completed: mean loss ({_L}), step ({_I}), (\w+), "
            rf"({_F}(?: [KMBT])?) tokens seen"
        ),
        _epoch,
    ),
    ("Validating at step ", re.compile(rf"step ({_I}):"), _validating),
    (
        "Validation: ",
        re.compile(
            rf": loss ({_L})  ppl ({_L})  accuracy ({_L})%  train ({_F}) \(([+-]{_L})\)  "
            rf"(best so far|best ({_L}))"
        ),
        _validation,
    ),
    ("Saving checkpoint of step ", re.compile(rf"step ({_I}): ({_F} \w*B)"), _saving),
    (
        "Checkpoint: ",
        re.compile(rf": (.+), ({_F} \w*B) in (.+) \((improved|interval|asked)\)$"),
        _saved,
    ),
    ("Exporting model", re.compile(""), _exporting),
    ("Serialising to ", re.compile(rf", ({_F} \w*B) in ({_I}) files?"), _serialising),
    ("Model exported in ", re.compile(r"in (.+)$"), _exported),
    ("No progress since step ", re.compile(rf"step ({_I});"), _no_progress),
    ("Draining ", re.compile(""), _draining),
)
OTHER_LINES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Iterator[Said]]], ...] = (
    (
        re.compile(
            rf"Attempt (\d+) ended at step ({_I}): ({_I}) steps since "
            rf"(?:the checkpoint at step ({_I})|the start) lost"
            r"(?: \((maintenance|preempted|operator|rollback)\))?$"
        ),
        _attempt_ended,
    ),
    (
        re.compile(
            rf"Attempt (\d+) starts from (?:step ({_I})|the beginning), ({_I}) steps to repeat"
            rf"(?:, ({_I}) batches skipped)?$"
        ),
        _attempt_started,
    ),
    (re.compile(r"\[Node +(\d+)/\d+\] replaced by a spare after (\w+) down"), _nodes_replaced),
    (re.compile(r"Nodes ([\d, ]+) replaced by spares after (\w+) down"), _nodes_replaced),
    (re.compile(r"\[Rank +(\d+)/(\d+)\] \[Node +(\d+)/(\d+)\] [^\[]+ GiB, "), _rank),
    (
        re.compile(
            rf"({_I}) parameters(?: {_DOT} ({_F}(?: [KMBT])?) active)? {_DOT} (\d+) layers"
            rf" {_DOT} hidden \d+ {_DOT} (\d+) heads"
        ),
        _shape,
    ),
    (re.compile(rf"({_F}(?: [KMBT])?) tokens in (.+), (\d+) tok/s$"), _validation_took),
    (re.compile(rf"\[ *(\d+)/(\d+)\] (\S+\.safetensors)  ({_F} \w*B)$"), _shard),
    (
        re.compile(
            rf"\[fault (\d+)\] (\S+) begins at \[Rank +(\d+)/\d+\] \[Node +(\d+)/\d+\]"
            rf"(?: {_X} ({_I}))?, step ({_I})(?:, severity (\S+))?$"
        ),
        _fault,
    ),
    (
        re.compile(
            r"\[fault (\d+)\] (\S+) over: (?:noticed after (\S+)|never noticed), "
            rf"({_I}) steps lost, (\S+) lost(, benign)?$"
        ),
        _fault_over,
    ),
    (
        re.compile(
            r"\[rank(\d+)\]:.* Watchdog caught collective operation timeout: .+"
            r"NumelIn=(\d+), .*Timeout\(ms\)=(\d+)"
        ),
        _watchdog,
    ),
    (re.compile(r"\[rank(\d+)\]:"), _rank_line),
    (re.compile(r".*\bNVRM: Xid \(.+?\): (\d+)"), _xid),
    (re.compile(r"Same nodes again after (\w+) down"), _same_nodes),
    (re.compile(rf"\[Rank +(\d+)/\d+\] .+ did not arrive: ({_I}) ranks waited"), _absent),
    (re.compile(rf"(?:NCCL|RCCL) \S+: world size (\d+), ({_I}) nodes?"), _world),
    (
        re.compile(
            _NODE + rf"step (?P<step>{_I}) waited (?P<value>{_F})s for data, late loader "
            rf"\(usual step (?P<usual>{_F})s"
        ),
        _warning("late_loader"),
    ),
    (
        re.compile(
            _NODE + rf"step (?P<step>{_I}) waited (?P<value>{_F})s, slow collectives "
            rf"\(usual step (?P<usual>{_F})s"
        ),
        _warning("slow_collective"),
    ),
    (
        re.compile(_NODE + rf"inlet air at (?P<value>{_F})°?C \((?P<usual>[+-]{_F})°?C\)"),
        _warning("warm_inlet"),
    ),
    (
        re.compile(
            rf"step (?P<step>{_I}) gradient norm (?P<value>{_F}), {_F} times its trend "
            rf"(?P<usual>{_F})"
        ),
        _warning("grad_norm_burst"),
    ),
)
_WARNING_STARTS = re.compile(r"(?:\[Node +\d+/\d+\] )?(?:step |inlet )")


def is_like_a_warning(body: str) -> bool:
    """Whether a line begins as our warnings do."""
    return _WARNING_STARTS.match(body) is not None


# The summary's table.

_LABELS = (
    "Model|Run time|Epochs, steps|Tokens|GPU time|Energy|Goodput|Faults|Saved|Final loss|Final PPL"
    "|Best val|Mean MFU|Utilisation|Peak memory"
)
_BETWEEN_CELLS = re.compile(rf"\s{{2,}}(?=(?:{_LABELS})\s{{2,}})")
_SUMMARY: tuple[tuple[re.Pattern[str], tuple[tuple[str, Callable[[str], Value]], ...]], ...] = (
    (re.compile(r"Run time +(.+)$"), (("run_time_s", seconds),)),
    (re.compile(rf"Epochs, steps +(\d+), ({_I})$"), (("epochs", number), ("steps", number))),
    (re.compile(rf"Tokens +{_COUNTED}$"), (("tokens", count),)),
    (re.compile(rf"GPU time +{_N} GPU-h$"), (("gpu_hours", rounded),)),
    (re.compile(rf"Energy +{_N} kWh$"), (("energy_kwh", rounded),)),
    (re.compile(rf"Energy +{_N} MWh$"), (("energy_mwh", rounded),)),
    (
        re.compile(rf"Saved +.+, ({_F} \w*B) in ({_I}) shards?$"),
        (("saved_bytes", size), ("shards", number)),
    ),
    (re.compile(r"Faults +(\d+), (\d+) attempts"), (("faults", number), ("attempts", number))),
    (
        re.compile(rf"Final loss +{_N}(?: +\(val {_N}\))?$"),
        (("final_loss", rounded), ("validation_loss", rounded)),
    ),
    (
        re.compile(rf"Final PPL +{_N}(?: +\(val {_N}\))?$"),
        (("final_ppl", rounded), ("validation_ppl", rounded)),
    ),
    (
        re.compile(rf"Best val +{_N} at step ({_I})$"),
        (("best_validation_loss", rounded), ("best_validation_step", number)),
    ),
    (re.compile(rf"Mean MFU +{_N} ?%$"), (("mean_mfu_pct", rounded),)),
    (re.compile(rf"Utilisation +{_N} ?%$"), (("mean_util_pct", rounded),)),
    (re.compile(rf"Peak memory +{_N} of {_N} GiB$"), (("peak_memory_gib", rounded),)),
    (re.compile(rf"Goodput +{_N} ?%"), (("goodput_pct", rounded),)),
)
_SHARE = re.compile(rf"(init|val|ckpt|faults|export) ({_F})(?=[,)])")
_SHARE_NAMES = {
    "init": "init_share",
    "val": "validation_share",
    "ckpt": "checkpoint_share",
    "faults": "fault_share",
    "export": "export_share",
}
_OTHER_UNITS = (
    ("mean_mfu_pct", "mean_mfu", 0.01),
    ("goodput_pct", "goodput", 0.01),
    ("energy_mwh", "energy_kwh", 1000.0),
)


def summary_of(
    rows: list[tuple[int, str]],
) -> tuple[Numbers, dict[str, str], dict[str, int]]:
    """The numbers and words of the summary's table, and the lines they stand in."""
    numbers: Numbers = {}
    words: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, text in rows:
        for cell in _BETWEEN_CELLS.split(text):
            said = _words_of(cell.strip())
            told = _numbers_of(cell.strip())
            words |= said
            numbers |= told
            lines |= dict.fromkeys((*said, *told), line)
    return numbers, words, lines


def _words_of(cell: str) -> dict[str, str]:
    """The model or the path in a cell of the summary."""
    if named := re.match(rf"Model +(.+) \({_F}(?: [KMBT])?\)$", cell):
        return {"model": named[1].strip()}
    if saved := re.match(rf"Saved +(.+), {_F} \w*B in ", cell):
        return {"saved_path": saved[1]}
    return {}


def _numbers_of(cell: str) -> Numbers:
    """The numbers in a cell of the summary, shares as such."""
    numbers: Numbers = {}
    for pattern, names in _SUMMARY:
        if found := pattern.match(cell):
            for (name, read), text in zip(names, found.groups(), strict=False):
                if text is not None:
                    numbers[name] = read(text)
    for name, plain, factor in _OTHER_UNITS:
        if name in numbers:
            value, half = numbers.pop(name)
            numbers[plain] = Value(value * factor, half * factor)
    if "(init " in cell and cell.endswith(")"):  # else it is cut
        for name, text in _SHARE.findall(cell):
            value, half = rounded(text)
            numbers[_SHARE_NAMES[name]] = Value(value / 100, half / 100)
    return numbers
