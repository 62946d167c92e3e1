"""Random short runs, written in both formats and checked: a sweep over what can be asked."""

from __future__ import annotations

import io
import sys
from collections import Counter
from dataclasses import replace

from ghosttrain import catalog
from ghosttrain.checking import FileReport, check_lines
from ghosttrain.core.errors import PlanError
from ghosttrain.core.rng import Stream
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, RunSpec
from ghosttrain.exporters.jsonl import JsonlWriter
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.views.renderables.classic import ClassicWriter

MOST_STEPS = 120  # of an epoch: a short run has everything a long one has
MOST_EPOCHS = 3
SHOWN = 3  # violations of an invariant that are printed in full


def check_random_runs(runs: int, first_seed: int) -> int:
    """Check `runs` random runs, from seed `first_seed` on; returns the exit code."""
    counts: Counter[str] = Counter()
    refused = checked = steps = 0
    for number in range(runs):
        seed = first_seed + number
        try:
            run = random_run(seed)
        except PlanError as error:
            refused += 1
            print(f"seed {seed}: refused: {error}")
            continue
        for name, report in check_both(run).items():
            checked += 1
            steps += report.steps
            for violation in report.violations():
                counts[violation.invariant] += 1
                if counts[violation.invariant] <= SHOWN:
                    where = f"seed {seed} ({run.spec.model.name}), {name}:{violation.line}"
                    print(f"{where}: {violation.invariant}: {violation.text}")
            for note in report.notes:
                print(f"seed {seed}, {name}: note: {note}")
        if (number + 1) % max(1, runs // 20) == 0:
            print(f"{number + 1:,} of {runs:,} runs", file=sys.stderr, flush=True)
    for invariant, times in counts.most_common():
        print(f"{invariant}: {times:,} violations")
    print(
        f"{runs - refused:,} runs, {checked:,} logs, {steps:,} rows of steps: "
        + (f"{counts.total():,} violations" if counts else "all invariants hold")
    )
    return 1 if counts or refused else 0


def random_run(seed: int) -> Run:
    """The random run of `seed`, cut short; with an odd seed a fault strikes at a random time."""
    spec = short(resolve(Request(), seed))
    run = simulate(spec, seed)
    if seed % 2 == 0:
        return run
    at_s = run.end_s * float(Stream(seed, "check.fault").uniform(0, 1)[0])
    return simulate(struck(spec, at_s), seed)


def short(spec: RunSpec) -> RunSpec:
    """The spec with few steps, and with the intervals of its steps in proportion."""
    recipe = spec.recipe
    epochs = min(recipe.epochs, MOST_EPOCHS)
    per_epoch = min(recipe.steps_per_epoch, MOST_STEPS)
    share = epochs * per_epoch / recipe.total_steps

    def scaled(steps: int) -> int:
        return max(1, round(steps * share)) if steps else 0

    recipe = replace(
        recipe,
        epochs=epochs,
        steps_per_epoch=per_epoch,
        warmup_steps=min(scaled(recipe.warmup_steps), epochs * per_epoch),
        validation_interval_steps=scaled(recipe.validation_interval_steps),
        checkpoint_interval_steps=scaled(recipe.checkpoint_interval_steps),
    )
    return replace(spec, recipe=recipe)


def struck(spec: RunSpec, *times_s: float) -> RunSpec:
    """The spec with a GPU falling off the bus at these times."""
    kind = catalog.fault_kind("gpu-off-bus")
    injected = tuple(InjectedFault(kind, at_s=at) for at in times_s)
    return replace(spec, faults=Faults(injected=injected))


def check_both(run: Run) -> dict[str, FileReport]:
    """The reports of a run's JSONL and classic logs."""
    logs = {"jsonl": jsonl_log(run), "classic": classic_log(run)}
    return {name: check_lines(io.BytesIO(log), complete=True) for name, log in logs.items()}


def jsonl_log(run: Run) -> bytes:
    """The run's events as JSONL."""
    writer = JsonlWriter()
    return b"".join(writer.accept(event) for event in run.events(0.0, float("inf")))


def classic_log(run: Run) -> bytes:
    """The run's classic log as a pipe gets it."""
    writer = ClassicWriter()
    return b"".join(writer.accept(event) for event in run.events(0.0, float("inf")))
