"""Benchmarks of the core: telemetry, plan and timeline, windows, the plain log, frames."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace

import numpy as np

from ghosttrain import catalog
from ghosttrain.bench.result import Result, in_turn, seconds
from ghosttrain.core.events import FleetSamples, Phase, StepsCompleted
from ghosttrain.core.history import draw_timeline
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, RunSpec
from ghosttrain.core.timeline import Span
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.playback import Player
from ghosttrain.validation.faults import realistic_plan

LOG_STEPS = 100_000  # 25 MB of text: the ready lines do not fit in the caches


def spec_of(model: str, gpus: int, steps: int, **asked: object) -> RunSpec:
    """A run of `steps` steps of a catalogue model, without stops unless they are asked for."""
    fields = {"model": model, "cluster.gpus": gpus, "recipe.steps": steps}
    fields |= {"recipe.checkpoint_interval_steps": 0, "recipe.validation_interval_steps": 0}
    fields |= asked
    return resolve(Request(asked=fields), seed=1)


def large_spec() -> RunSpec:
    """54 days of Llama-3.1-405B on 16,384 H100, saved every ten minutes, with drawn faults."""
    fast = {"recipe.checkpoint_interval_steps": 90, "recipe.validation_interval_steps": 5000}
    spec = spec_of("llama-3.1-405b", 16384, 700_000, **fast)
    kind = catalog.fault_kind("gpu-off-bus")
    # All 419 unexpected interruptions of Llama 3's 54 days, as this one kind.
    often = replace(kind, rate_per_1000_gpu_days=0.474)
    return replace(spec, faults=Faults(drawn=(often,)))


def telemetry(gpus: int, steps: int) -> tuple[float, float]:
    """Seconds for 4 metrics of `gpus` at every one of `steps` steps, and for raw normals."""
    run = simulate(spec_of("llama-3-8b", gpus, steps + 100), 1)
    span = _training_span(run)
    block = max(1, min(steps, (1 << 18) // gpus))

    def draw() -> None:
        for start in range(0, steps, block):
            _samples(run, span, start, block)

    def ours() -> float:
        return seconds(draw)

    generator = np.random.Generator(np.random.Philox(1))
    out = np.empty((block, 4, gpus), np.float32)

    def raw() -> None:
        for _ in range(0, steps, block):
            generator.standard_normal(dtype=np.float32, out=out)

    def theirs() -> float:
        return seconds(raw)

    return in_turn(ours, theirs, 5)


def _training_span(run: Run) -> Span:
    return max(run.timeline.spans, key=lambda span: span.steps)


def _samples(run: Run, span: Span, start: int, count: int) -> FleetSamples:
    count = min(count, span.steps - start)
    numbers = np.arange(start, start + count)
    columns = run._steps.columns(span, start, count)
    factors = columns.step_time_s / run.plan.step_time.total_s
    return run._fleet.during_steps(span, numbers, columns.end_s, factors)


def bench_telemetry() -> list[Result]:
    """Values per second against raw normals; steps per second of 64 GPUs at every step."""
    large, raw = telemetry(16384, 256)
    small, _ = telemetry(64, 20000)
    values = 16384 * 256 * 4
    return [
        Result(
            "telemetry of 16,384 GPUs x 4 metrics, values/s over raw Philox normals",
            raw / large,
            "x",
            2.0,
            False,
            f"{values / large / 1e6:.0f} against {values / raw / 1e6:.0f} M values/s",
        ),
        Result("telemetry of 64 GPUs at every step", 20000 / small, "steps/s", 150_000, False),
    ]


def bench_same_bytes() -> list[Result]:
    """Checksums of the same steps' telemetry drawn in blocks of several sizes and starts."""
    run = simulate(spec_of("llama-3-8b", 64, 3000), 1)
    span = _training_span(run)
    sums = set()
    for block, start in ((1000, 0), (64, 0), (7, 0), (333, 500), (1, 900)):
        parts = [_samples(run, span, s, min(block, 1000 - s)) for s in range(start, 1000, block)]
        crc = 0
        for name in ("power_w", "temp_c", "util_pct", "memory_gib"):
            column = np.concatenate([getattr(p, name) for p in parts])
            crc = zlib.crc32(column[-100:].tobytes(), crc)
        sums.add(crc)
    return [Result("checksums of telemetry over block sizes and starts", len(sums), "", 1, True)]


def bench_large_run() -> list[Result]:
    """Plan and timeline of the large run, and an hour in the middle of it."""
    spec = large_spec()
    runs: list[Run] = []
    once = min(seconds(lambda: runs.append(simulate(spec, 1))) for _ in range(3))
    run = runs[-1]

    def hour() -> None:
        fresh = Run(run.plan, run.timeline, run.seed)
        middle = 0.5 * run.end_s
        for _ in fresh.events(middle, middle + 3600):
            pass

    window = min(seconds(hour) for _ in range(3))
    spans, faults = len(run.timeline.spans), len(run.timeline.incidents)
    days = run.end_s / 86400
    note = f"{days:.0f} days, {spans:,} spans, {faults} faults"
    return [
        Result(
            "plan and timeline of a 54-day, 16,384-GPU run with faults", once, "s", 0.3, True, note
        ),
        Result("one hour of it, from cold", 1000 * window, "ms", 50, True),
    ]


def bench_realistic_month() -> list[Result]:
    """Timeline of a month of Llama-3.1-405B on 16,384 H100 with faults as often as published."""
    plan = realistic_plan()
    drawn = draw_timeline(plan, 1)
    taken = min(seconds(lambda: draw_timeline(plan, 1)) for _ in range(3))
    note = f"{len(drawn.spans):,} spans, {len(drawn.incidents)} faults"
    name = "timeline of a month of 16,384 GPUs with realistic faults"
    return [Result(name, taken, "s", 0.2, True, note)]


def bench_plain_log() -> list[Result]:
    """The plain classic log of 64 GPUs at full speed, against joining and writing ready lines."""
    from ghosttrain.views.renderables.classic import ClassicWriter

    run = simulate(spec_of("llama-3-8b", 64, LOG_STEPS), 1)
    sink = os.open(os.devnull, os.O_WRONLY)

    def text() -> list[bytes]:
        writer = ClassicWriter()
        fresh = Run(run.plan, run.timeline, run.seed)
        player = Player(fresh, speed="max")
        parts = []
        while not player.finished:
            parts.append(writer.write(player.advance(0.0)))
        return parts

    def ours() -> float:
        return seconds(lambda: os.write(sink, b"".join(text())))

    lines = b"".join(text()).splitlines(keepends=True)

    def theirs() -> float:
        return seconds(lambda: os.write(sink, b"".join(lines)))

    taken, ready = in_turn(ours, theirs, 3)
    os.close(sink)
    written = sum(map(len, lines))
    note = (
        f"{written / taken / 1e6:.0f} against {written / ready / 1e6:.0f} MB/s, "
        f"{LOG_STEPS / taken:,.0f} steps/s"
    )
    return [Result("plain log over joining ready lines", ready / taken, "x", 0.25, False, note)]


def bench_grid() -> list[Result]:
    """A frame of 1,024 GPUs against the same cells in a rich Table."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    from ghosttrain.views.renderables.glyphs import UNICODE
    from ghosttrain.views.renderables.gpu_grid import gpu_grid

    run = simulate(spec_of("llama-3-8b", 1024, 200), 1)
    middle = next(s for s in run.timeline.spans if s.phase is Phase.TRAINING and s.steps > 100)
    event = next(
        e
        for e in run.events(middle.start_s, middle.end_s)
        if isinstance(e, StepsCompleted) and e.fleet is not None
    )
    fleet = event.fleet
    assert fleet is not None
    gpu = run.spec.gpu

    def ours() -> float:
        def draw() -> None:
            lines = gpu_grid(
                fleet,
                k=0,
                gpu=gpu,
                gpus_per_node=8,
                width=200,
                height=400,
                glyphs=UNICODE,
                color=True,
            )
            "\n".join(line.ansi(color=True) for line in lines)

        return min(seconds(draw) for _ in range(5))

    def theirs() -> float:
        table = Table.grid(padding=(0, 1))
        for node in range(128):
            cells = [
                f"[green]●[/] {fleet.util_pct[0, g]:3.0f}% {fleet.temp_c[0, g]:2.0f}C "
                f"{fleet.memory_gib[0, g]:3.0f}/80G {fleet.power_w[0, g]:4.0f}W"
                for g in range(8 * node, 8 * node + 8)
            ]
            table.add_row(*cells)
        console = Console(file=StringIO(), width=200, force_terminal=True)
        return seconds(lambda: console.print(table))

    drawn, rich = in_turn(ours, theirs, 3)
    note = f"{1000 * drawn:.2f} against {1000 * rich:.0f} ms"
    return [
        Result("a 1,024-GPU grid frame over a rich Table", drawn / rich, "x", 1 / 20, True, note)
    ]
