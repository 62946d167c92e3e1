"""Random short runs, written in both formats and checked: a sweep over what can be asked."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ghosttrain import catalog
from ghosttrain.catalog.scenarios import scenario_names, scenario_text
from ghosttrain.checking import FileReport, check_lines
from ghosttrain.core.errors import PlanError
from ghosttrain.core.plan import SEVERITIES
from ghosttrain.core.rng import Stream
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import Faults, InjectedFault, RunSpec
from ghosttrain.core.units import DAY_S
from ghosttrain.exporters.jsonl import JsonlWriter
from ghosttrain.inputs.faults import Setting
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.inputs.scenario import scenario_tables
from ghosttrain.inputs.scenario_faults import compile_tables
from ghosttrain.views.renderables.classic import ClassicWriter

MOST_STEPS = 120  # of an epoch: a short run has everything a long one has
MOST_EPOCHS = 3
MOST_FAULTS = 12  # of a run
SCENARIOS, DRAWN = 0.2, 0.2  # shares of the faulty runs with a scenario, with all kinds at a rate
LIMITED = 0.2  # share of them that meet a time limit
LONGEST_RUN = 20.0  # times as long as without faults: where they come too often it never ends
SHORTEST_LIMIT_S = 60.0  # that a spec may have
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
    """The random run of `seed`, cut short; with an odd seed things go wrong in it."""
    spec = short(resolve(Request(), seed))
    run = simulate(spec, seed)
    return simulate(faulty(spec, run.end_s, seed), seed) if seed % 2 else run


def faulty(spec: RunSpec, end_s: float, seed: int) -> RunSpec:
    """The spec with faults of any kinds, a scenario, or all kinds far too often.

    `end_s` is when the run ends without them; some of the runs meet a time limit before that.
    """
    u = iter(Stream(seed, "check.fault").uniform(0, 8 * MOST_FAULTS).tolist())
    way, often, limit = next(u), next(u), next(u)
    runs = 0.2 + limit / LIMITED if limit < LIMITED else LONGEST_RUN
    spec = replace(spec, time_limit_s=max(SHORTEST_LIMIT_S, runs * end_s))
    if way < SCENARIOS:
        library = scenario_names()
        faults = scenario_faults(library[int(often * len(library))], spec, end_s, seed)
    elif way < SCENARIOS + DRAWN:
        faults = drawn_faults(spec, end_s, 1 + often * MOST_FAULTS)
    else:
        count = 1 + int(often**2 * MOST_FAULTS)
        faults = Faults(tuple(any_fault(spec, end_s, u) for _ in range(count)))
    return replace(spec, faults=faults)


def scenario_faults(name: str, spec: RunSpec, end_s: float, seed: int) -> Faults:
    """A scenario of the library in a run that ends at `end_s`."""
    tables = scenario_tables(scenario_text(name), f"scenario {name}")
    setting = Setting(
        seed, spec.gpu, spec.cluster, lambda share: share * end_s, lambda _: 0.5 * end_s
    )
    return Faults(injected=compile_tables(tables, setting))


def drawn_faults(spec: RunSpec, end_s: float, expected: float) -> Faults:
    """All realistic faults, so often that so many are expected until `end_s`."""
    kinds = catalog.realistic_faults(spec.gpu)
    rate = sum(kind.rate_per_1000_gpu_days for kind in kinds)
    factor = expected / (rate / 1000 * spec.cluster.gpus * end_s / DAY_S)
    return Faults(
        drawn=tuple(
            replace(kind, rate_per_1000_gpu_days=factor * kind.rate_per_1000_gpu_days)
            for kind in kinds
        )
    )


def any_fault(spec: RunSpec, end_s: float, u: Iterator[float]) -> InjectedFault:
    """A fault of any kind, some of it asked for and the rest left open."""
    names = catalog.names("fault")
    kind = catalog.fault_kind(names[int(next(u) * len(names))])
    at, how, place, severity, duration = (next(u) for _ in range(5))
    low, high = SEVERITIES[kind.effect]
    return InjectedFault(
        kind,
        at_s=1.1 * at * end_s,
        at_step=1 + int(at * spec.recipe.total_steps) if how < 0.2 else 0,
        gpu=int(place * spec.cluster.gpus) if how < 0.7 else None,
        severity=low + severity * (min(high, 20.0) - low) if high and severity < 0.3 else None,
        duration_s=duration * end_s if duration < 0.2 and kind.effect != "none" else None,
    )


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
