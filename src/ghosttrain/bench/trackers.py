"""Benchmarks of what trackers read: TensorBoard's event files."""

from __future__ import annotations

import tempfile

from ghosttrain.bench.core import spec_of
from ghosttrain.bench.result import Result, in_turn, seconds
from ghosttrain.core.run import simulate
from ghosttrain.exporters.scalars import NO_SAMPLES
from ghosttrain.exporters.writing import Asked

_STEPS = 20_000
_THEIR_STEPS = 500  # tensorboardX takes a hundred times as long for each
_PER_STEP = 10  # scalars that Megatron's tags have each step


def bench_tensorboard() -> list[Result]:
    """Scalars a second in Megatron's event files, against tensorboardX's add_scalar.

    Ours are simulated, encoded and written; theirs are there already.
    """
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # it has none

    from ghosttrain.exporters.tensorboard import event_files

    run = simulate(spec_of("llama-3-8b", 64, _STEPS), 1)

    def write() -> None:
        exporter = event_files(Asked(run), "megatron")
        with tempfile.TemporaryFile() as file:
            for event in run.events(0.0, float("inf"), sample_every=NO_SAMPLES):
                for _, data in exporter.accept(event):
                    file.write(data)

    def add() -> None:
        with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
            for step in range(_THEIR_STEPS):
                for tag in range(_PER_STEP):
                    writer.add_scalar(f"tag-{tag}", 1.5 * step, step, 1.0 * step)

    ours, theirs = in_turn(lambda: seconds(write) / _STEPS, lambda: seconds(add) / _THEIR_STEPS, 5)
    per_s = [_PER_STEP / step_s / 1000 for step_s in (ours, theirs)]
    note = f"{per_s[0]:,.0f}k against {per_s[1]:,.1f}k scalars/s"
    return [Result("TensorBoard scalars over tensorboardX", theirs / ours, "x", 5.0, False, note)]
