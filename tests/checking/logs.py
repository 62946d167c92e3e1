"""Good logs, and ways to spoil them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from ghosttrain import catalog
from ghosttrain.checking import FileReport, check_lines
from ghosttrain.cli.check_random import classic_log, jsonl_log
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, ParallelRequest, Recipe, RunSpec

Row = dict[str, Any]
WATCHDOG_S = 250.0


def small_spec(**recipe: Any) -> RunSpec:
    """Two epochs of sixty steps of an 8B model on 16 GPUs, saved every 40 steps."""
    model, gpu = catalog.model("llama-3-8b"), catalog.gpu("h100-sxm")
    fields: dict[str, Any] = {
        "seq_len": 8192,
        "global_batch_size": 64,
        "epochs": 2,
        "steps_per_epoch": 60,
        "warmup_steps": 12,
        "checkpoint_interval_steps": 40,
    }
    return RunSpec(
        model,
        gpu,
        catalog.cluster(gpu, 16),
        catalog.dataset("fineweb-edu"),
        catalog.tokenizer(model.tokenizer),
        Recipe(**fields | recipe),
        ParallelRequest(sharding="fsdp"),
    )


@cache
def good_run(*, with_fault: bool = False) -> Run:
    """A run; with a fault, it strikes in step 84, of the second epoch."""
    spec = small_spec()
    run = simulate(spec, 11)
    if not with_fault:
        return run
    return simulate(struck(spec, in_step(run, 84)), 11)


def struck(spec: RunSpec, *times_s: float) -> RunSpec:
    """The spec with a GPU falling off the bus at these times, and its process hanging."""
    kind = replace(catalog.fault_kind("gpu-off-bus"), hang_share=1.0)
    injected = tuple(InjectedFault(kind, at_s=at) for at in times_s)
    return replace(spec, faults=Faults(injected=injected))


@cache
def faulty_run(*names: str, hangs: bool | None = None, **recipe: Any) -> Run:
    """Two epochs of 120 steps with faults of these kinds, each `name@step`, on GPU 5.

    `hangs` says whether processes hang or end, where both can be. The watchdog comes before
    Slurm misses a node.
    """
    injected = []
    for name in names:
        plain, _, step = name.partition("@")
        kind = catalog.fault_kind(plain)
        if hangs is not None:
            kind = replace(kind, hang_share=float(hangs))
        injected.append(InjectedFault(kind, at_step=int(step), gpu=5))
    spec = small_spec(**{"steps_per_epoch": 120} | recipe)
    faults = Faults(injected=tuple(injected), watchdog_timeout_s=WATCHDOG_S)
    return simulate(replace(spec, faults=faults), 11)


@cache
def faulty_jsonl(*names: str, hangs: bool | None = None, **recipe: Any) -> bytes:
    """That run as JSONL."""
    return jsonl_log(faulty_run(*names, hangs=hangs, **recipe))


def in_step(run: Run, step: int) -> float:
    """Run time in the middle of a step."""
    columns = run.steps(step, step)
    return float(columns.end_s[0] - columns.step_time_s[0] / 2)


@cache
def good_jsonl(*, with_fault: bool = False) -> bytes:
    """The run as JSONL."""
    return jsonl_log(good_run(with_fault=with_fault))


@cache
def good_classic(*, with_fault: bool = False) -> bytes:
    """The run as a classic log."""
    return classic_log(good_run(with_fault=with_fault))


def check(log: bytes, **options: bool) -> FileReport:
    """The report of a log."""
    return check_lines(io.BytesIO(log), **options)


def found(log: bytes, **options: bool) -> dict[str, list[tuple[int, str]]]:
    """Violations by invariant: lines and texts."""
    result: dict[str, list[tuple[int, str]]] = {}
    for violation in check(log, **options).violations():
        result.setdefault(violation.invariant, []).append((violation.line, violation.text))
    return result


def rows_of(log: bytes) -> list[Row]:
    """The rows of a JSONL log."""
    return [json.loads(line) for line in log.splitlines()]


def log_of(rows: list[Row]) -> bytes:
    """Rows as a JSONL log."""
    return b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)


def where(rows: list[Row], **fields: Any) -> int:
    """Index of the first row with these fields."""
    return next(
        i for i, row in enumerate(rows) if all(row.get(name) == v for name, v in fields.items())
    )


def spoilt_row(
    log: bytes, where_fields: Row, change: Row | Callable[[Row], None]
) -> tuple[bytes, int]:
    """The log with one row changed, and that row's line."""
    rows = rows_of(log)
    at = where(rows, **where_fields)
    if callable(change):
        change(rows[at])
    else:
        rows[at] |= change
    return log_of(rows), at + 1


def spoilt_line(
    log: bytes,
    marker: str,
    old: str | re.Pattern[str],
    new: str | Callable[[re.Match[str]], str],
    nth: int = 1,
) -> tuple[bytes, int]:
    """The log with `old` replaced in the nth line that holds `marker`, and that line's number.

    A pattern as `old` finds what the laws decide; `new` then is a template or a function of the
    match, as in `re.sub`.
    """
    lines = log.decode().splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if marker in line][nth - 1]
    pattern = old if isinstance(old, re.Pattern) else re.compile(re.escape(old))
    spoilt = pattern.sub(new, lines[at], count=1)
    assert spoilt != lines[at], f"{old!r} changes nothing in {lines[at]!r}"
    lines[at] = spoilt
    return "".join(lines).encode(), at + 1
