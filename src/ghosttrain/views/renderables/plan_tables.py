"""The plan of a run as one sentence and a few tables."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import assert_never

from ghosttrain.core.forecast import CONFIDENCE, LIKELY, Forecast
from ghosttrain.core.laws.layout import Neighbour
from ghosttrain.core.laws.memory import StageMemory
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import InjectedFault
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.numbers import perplexity, size
from ghosttrain.views.renderables.plan_words import (
    STEP_WORDS,
    amount,
    dollars,
    few,
    in_one_unit,
    layout_words,
    limit_sentences,
    plan_sentence,
    span_in_words,
)

Row = tuple[str, ...]

_BAR_CELLS = 24
_FAULTS_SHOWN = 4  # by name, of those asked for
_CAUSES = {
    "step_time": "step-time law",
    "phases": "start-up, stops",
    "faults": "chance of faults",
    "fault_rate": "fault rate",
}
_FASTER = 0.005  # a neighbour is told to be faster from here on: less is noise


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, rows of cells with a label in front, which columns hold numbers, a note."""

    heading: str
    rows: Sequence[Row]
    numbers: tuple[int, ...] = ()
    note: str = ""


def plan_lines(
    plan: Plan,
    forecast: Forecast,
    neighbours: Sequence[Neighbour],
    width: int | None,
    *,
    price_asked: bool = False,
) -> list[Line]:
    """The sentence and the tables, wrapped and cut to `width` cells; None: never."""
    lines = [Line.of((text, "bold")) for text in _wrapped(plan_sentence(plan, forecast), width)]
    for table in (
        Table("What it takes", _cost_rows(plan, forecast, price_asked=price_asked)),
        Table("Why the interval", _cause_rows(forecast), (1,)),
        Table(
            "Where the time goes", _time_rows(plan, forecast), (1, 2), _faults_sentence(forecast)
        ),
        Table("Checkpoints", _saving_rows(forecast)),
        Table("Loss", _loss_rows(forecast), (1, 2, 3)),
        Table("Run", _run_rows(plan)),
        Table("Layout", _layout_rows(plan), (1,)),
        Table("Memory per GPU, GiB", _memory_rows(plan), (1, 2, 3)),
        Table("Where a step goes", _step_rows(plan), (1, 2)),
    ):
        lines += _drawn(table, width)
    lines += [Line.of(""), Line.of(("What limits it", "cyan"))]
    for sentence in [*limit_sentences(plan), *_faster_sentence(plan, neighbours)]:
        lines += _indented(sentence, width)
    for table in (
        Table("Layouts to try next", _neighbour_rows(plan, neighbours), (1, 2, 3)),
        Table("Around training", _phase_rows(plan), (1,)),
        Table("Chosen, since nobody asked", list(plan.spec.chosen)),
        Table("Notes", list(plan.spec.notes)),
    ):
        lines += _drawn(table, width)
    return lines if width is None else [line.fit(width) for line in lines]


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, width, break_long_words=False)


def _drawn(table: Table, width: int | None) -> list[Line]:
    """A heading and its rows; nothing where there are none."""
    if not table.rows:
        return []
    rows = _aligned(table.rows, table.numbers)
    note = _indented(table.note, width) if table.note else []
    return [Line.of(""), Line.of((table.heading, "cyan")), *rows, *note]


def _indented(text: str, width: int | None) -> list[Line]:
    return [Line.of(f"  {part}") for part in _wrapped(text, width and max(20, width - 2))]


def _cost_rows(plan: Plan, forecast: Forecast, *, price_asked: bool) -> list[Row]:
    """Time, GPU-hours, money, energy, each with what it rests on."""
    if math.isinf(forecast.duration_s):
        return []
    spec, share = plan.spec, f"({100 * CONFIDENCE:.0f} % interval)"
    ends = forecast.low_s / forecast.duration_s, forecast.high_s / forecast.duration_s
    low, mid, high, unit = in_one_unit(forecast.low_s, forecast.duration_s, forecast.high_s)
    hours, usd = forecast.gpu_hours, forecast.usd
    rows: list[Row] = [
        ("time", f"{mid} {unit}, {low} to {high} {share}; {span_in_words(plan.run_s)} undisturbed"),
        ("GPU-hours", f"{few(hours)}, {few(hours * ends[0])} to {few(hours * ends[1])}"),
    ]
    if usd:
        price = f"${spec.gpu.usd_per_gpu_hour:,.2f} a GPU-hour"
        note = "" if price_asked else ", a typical rent: --price gives yours"
        span = f"{dollars(usd * ends[0])} to {dollars(usd * ends[1])}"
        rows.append(("cost", f"{dollars(usd)}, {span}"))
        rows.append(("", f"at {price}{note}"))
    else:
        rows.append(("cost", "no price is known: --price gives one"))
    rows.append(("energy", f"{energy(forecast.gpu_mwh)} in the GPUs"))
    rows.append(
        (
            "",
            f"{energy(forecast.facility_mwh)} with servers ({forecast.host_w_per_gpu:.0f} W a GPU)"
            f", cooling (PUE {forecast.power_usage_effectiveness:g}, assumed)",
        )
    )
    if forecast.duration_s > spec.time_limit_s:
        limit = span_in_words(spec.time_limit_s)
        rows.append(("time limit", f"{limit}: ends the run before its last step"))
    return rows


def energy(mwh: float) -> str:
    """`16,416 MWh`, `12.3 MWh` or `1.2 kWh`."""
    if mwh < 1:
        return f"{1000 * mwh:,.{1 if mwh < 0.1 else 0}f} kWh"
    return f"{mwh:,.{1 if mwh < 100 else 0}f} MWh"


def _cause_rows(forecast: Forecast) -> list[Row]:
    """What each cause would make of the duration by itself."""
    rows: list[Row] = []
    for cause in forecast.causes:
        low, _, high, unit = in_one_unit(cause.low_s, forecast.duration_s, cause.high_s)
        rows.append((_CAUSES[cause.name], f"{low} to {high} {unit}", cause.why))
    return rows


def _time_rows(plan: Plan, forecast: Forecast) -> list[Row]:
    """Shares of the whole run; what is shown adds up to 100 %."""
    cost, p = forecast.fault_cost, plan.phases
    if math.isinf(forecast.duration_s):
        return []
    parts = [
        ("training", plan.spec.recipe.total_steps * plan.step_time.total_s, ""),
        ("validation", plan.stops[0] * p.validation_s, f"{plan.stops[0]:,} times"),
        (
            "checkpoints",
            forecast.checkpoint_s,
            f"{plan.saves:,} of {span_in_words(p.checkpoint_s)}, all wait",
        ),
        ("first launch, export", plan.init_s + plan.warm_up_s + p.export_s, ""),
        ("faults found", cost.hang_s, f"{cost.faults:,.{0 if cost.faults >= 9.5 else 1}f} of them"),
        ("repair", cost.repair_s, "drain, spare node"),
        ("launch again", cost.launch_s, f"{span_in_words(plan.relaunch_s)} each"),
        ("work done again", cost.replay_s, "since the last checkpoint"),
    ]
    if cost.faults < LIKELY:
        parts = parts[:4]
    whole_s = math.fsum(seconds for _, seconds, _ in parts)
    shares = rounded_to_sum([100 * seconds / whole_s for _, seconds, _ in parts], 1)
    return [
        (name, f"{share:.1f} %", span_in_words(seconds), *([note] if note else []))
        for (name, seconds, note), share in zip(parts, shares, strict=True)
    ]


def _faults_sentence(forecast: Forecast) -> str:
    """How often faults come, and whose rates."""
    often = f"one every {span_in_words(forecast.load.mean_between_s)}"
    if forecast.fault_cost.faults < LIKELY:
        often = f"unlikely here, {often}"
    match forecast.basis:
        case "published":
            source = "Llama 3, arXiv:2407.21783: 419 in 54 days of 16,384 GPUs"
            return f"Faults at published rates ({source}): {often}."
        case "drawn":
            return f"Faults as the run draws them: {often}."
        case "injected":
            return f"Faults as asked for: {forecast.fault_cost.faults:.0f}."
        case basis:
            assert_never(basis)


def _saving_rows(forecast: Forecast) -> list[Row]:
    """The interval, the best one, what an asynchronous save would give back."""
    saving = forecast.saving
    rows: list[Row] = [("here", f"every {span_in_words(saving.interval_s)}")]
    if math.isinf(saving.best_interval_s) or forecast.fault_cost.faults < LIKELY:
        rows.append(("best", "faults are too rare in this run to matter"))
    else:
        gain = f"would give back {100 * saving.best_gain:.2f} % of the time"
        if saving.best_gain < 0.0005:
            gain = "no better within 0.05 %"
        rows.append(("best", f"every {span_in_words(saving.best_interval_s)} (Daly 2006): {gain}"))
    if saving.async_stall_s < saving.stall_s and saving.async_gain >= 0.0005:
        rows.append(
            (
                "asynchronous",
                f"would stall {span_in_words(saving.async_stall_s)}, giving back "
                f"{100 * saving.async_gain:.1f} % (not rehearsed yet)",
            )
        )
    return rows


def _loss_rows(forecast: Forecast) -> list[Row]:
    """Mean training loss and perplexity along the way."""
    rows: list[Row] = [("step", "tokens", "loss", "perplexity")]
    rows += [
        (f"{p.step:,}", amount(p.tokens), f"{p.loss:.4f}", f"{perplexity(p.loss):.2f}")
        for p in forecast.losses
    ]
    return rows


def _neighbour_rows(plan: Plan, neighbours: Sequence[Neighbour]) -> list[Row]:
    """The plan's layout, then those near it: step time against it, MFU, memory."""
    if not neighbours:
        return []
    step_s = plan.step_time.total_s
    rows = [
        ("", "step", "MFU", "GiB"),
        ("here", _step_cell(step_s), _mfu_cell(plan.mfu), f"{plan.memory_used_gib:.1f}"),
    ]
    for near in neighbours:
        longer = near.step_s / step_s
        change = f"{100 * (longer - 1):+.1f} %".replace("-", "−")
        mfu = _mfu_cell(plan.mfu / longer)
        rows.append((change, _step_cell(near.step_s), mfu, f"{near.used_gib:.1f}"))
    layouts = [plan.layout, *(near.layout for near in neighbours)]
    words = ["layout", *map(layout_words, layouts)]
    return [(*row, layout) for row, layout in zip(rows, words, strict=True)]


def _step_cell(seconds: float) -> str:
    return f"{seconds:,.3f} s" if seconds >= 1 else f"{1000 * seconds:,.2f} ms"


def _mfu_cell(mfu: float) -> str:
    return f"{100 * mfu:.1f} %"


def _faster_sentence(plan: Plan, neighbours: Sequence[Neighbour]) -> list[str]:
    """The fastest neighbour where it is faster."""
    if not neighbours or neighbours[0].step_s > (1 - _FASTER) * plan.step_time.total_s:
        return []
    near = neighbours[0]
    faster = 100 * (plan.step_time.total_s / near.step_s - 1)
    return [f"Try {layout_words(near.layout)}: {faster:.1f} % faster, {near.used_gib:.1f} GiB."]


def _aligned(rows: Sequence[Row], numbers: Sequence[int]) -> list[Line]:
    """Rows with their columns below one another, the columns of `numbers` to the right."""
    cells = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for label, *rest in rows:
        text = "  ".join(
            value.rjust(cells[i]) if i in numbers else value.ljust(cells[i])
            for i, value in enumerate(rest, start=1)
        )
        lines.append(Line.of((f"  {label:<{cells[0]}}  ", "dim"), text.rstrip()))
    return lines


def _run_rows(plan: Plan) -> list[Row]:
    spec, recipe = plan.spec, plan.spec.recipe
    dense = plan.params.active == plan.params.total
    active = "" if dense else f", {amount(plan.params.active)} active"
    epochs = f"{recipe.epochs:,} epoch{'s' if recipe.epochs > 1 else ''}"
    rows: list[Row] = [
        ("model", f"{spec.model.name}, {plan.params.total:,} parameters{active}"),
        ("dataset", f"{spec.dataset.name}, {amount(spec.dataset.tokens)} tokens"),
        ("steps", f"{recipe.total_steps:,} in {epochs} of {recipe.steps_per_epoch:,}"),
        (
            "batch",
            f"{recipe.global_batch_size:,} × {recipe.seq_len:,} = "
            f"{recipe.tokens_per_step:,} tokens a step",
        ),
        (
            "throughput",
            f"{plan.tokens_per_s:,.0f} tokens/s, {plan.mfu * plan.peak_tflops:,.0f} TFLOP/s a GPU",
        ),
        (
            "MFU",
            f"{100 * plan.mfu:.1f} % of {plan.peak_tflops:,.1f} TFLOP/s "
            f"{recipe.precision.upper()}, {plan.flops_per_token / 1e9:,.1f} GFLOP a token",
        ),
        ("checkpoint", size(plan.checkpoint_bytes)),
        ("export", f"{size(plan.export_bytes)}, {_files(len(plan.shard_bytes))}"),
    ]
    if spec.faults.drawn or spec.faults.injected:
        kinds = ["drawn at published rates"] if spec.faults.drawn else []
        asked = spec.faults.injected
        kinds += [_fault_in_words(fault) for fault in asked[:_FAULTS_SHOWN]]
        if len(asked) > _FAULTS_SHOWN:
            kinds.append(f"{len(asked) - _FAULTS_SHOWN:,} more")
        rows.append(("faults", ", ".join(kinds)))
    return rows


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _layout_rows(plan: Plan) -> list[Row]:
    a = plan.layout
    chunks = f"{a.virtual_stages} chunks a stage" if a.virtual_stages > 1 else ""
    words = {
        "ddp": "replicated",
        "zero1": "ZeRO-1: optimizer sharded",
        "zero2": "ZeRO-2: gradients too",
        "fsdp": "FSDP",
    }
    return [
        ("tensor parallel", f"{a.tensor_parallel:,}"),
        ("pipeline parallel", f"{a.pipeline_parallel:,}", chunks),
        ("context parallel", f"{a.context_parallel:,}"),
        ("expert parallel", f"{a.expert_parallel:,}"),
        ("data parallel", f"{a.data_parallel:,}", words[a.sharding]),
        ("micro-batch", f"{a.micro_batch_size:,}", f"× {a.micro_batches:,} a step"),
        ("recomputation", "", a.recompute),
    ]


def _memory_rows(plan: Plan) -> list[Row]:
    """Memory by kind; of a pipeline the first, the last and the fullest stage."""
    stages = plan.stage_memory
    fullest = max(range(len(stages)), key=lambda i: stages[i].used_gib)
    shown = sorted({0, fullest, len(stages) - 1})
    rows: list[Row] = []
    if len(stages) > 1:
        rows.append(("", *(f"stage {i + 1}/{len(stages)}" for i in shown)))
    for name in asdict(stages[0]):
        values = [getattr(stages[i], name) for i in shown]
        if any(values):
            rows.append((name.removesuffix("_gib"), *(f"{v:.2f}" for v in values)))
    rows.append(("used", *(_used(stages[i]) for i in shown)))
    rows.append(("card", *(f"{plan.spec.gpu.memory_gib:.2f}" for _ in shown)))
    return rows


def _used(stage: StageMemory) -> str:
    return f"{stage.used_gib:.2f}"


def _step_rows(plan: Plan) -> list[Row]:
    """The parts of a step, the largest first; what is shown adds up to what is shown."""
    total = plan.step_time.total_s
    unit, scale = ("s", 1.0) if total >= 1 else ("ms", 1e3)
    digits = 3 if total >= 1 else 2
    parts = sorted(plan.step_time.shares().items(), key=lambda part: -part[1])
    parts = [part for part in parts if part[1] > 0]
    times = rounded_to_sum([share * total * scale for _, share in parts], digits)
    shares = rounded_to_sum([100 * share for _, share in parts], 1)
    rows: list[Row] = [
        (
            STEP_WORDS.get(name, name).removeprefix("the "),
            f"{time:,.{digits}f} {unit}",
            f"{share:.1f} %",
            *([bar] if (bar := "█" * round(_BAR_CELLS * share / shares[0])) else []),
        )
        for (name, _), time, share in zip(parts, times, shares, strict=True)
    ]
    return [*rows, ("step", f"{sum(times):,.{digits}f} {unit}", "100.0 %")]


def rounded_to_sum(values: Sequence[float], digits: int) -> list[float]:
    """The values rounded up or down so that they add up to their rounded sum."""
    scale = 10**digits
    floors = [math.floor(value * scale) for value in values]
    missing = round(math.fsum(values) * scale) - sum(floors)
    nearest = sorted(range(len(values)), key=lambda i: floors[i] - values[i] * scale)
    for i in nearest[: max(0, missing)]:
        floors[i] += 1
    return [value / scale for value in floors]


def _phase_rows(plan: Plan) -> list[Row]:
    validations, saves = plan.stops
    p = plan.phases
    return [
        ("initialisation", span_in_words(plan.init_s)),
        ("validation", span_in_words(p.validation_s), f"× {validations:,}"),
        ("checkpoint", span_in_words(p.checkpoint_s), f"× {saves:,} or more"),
        ("export", span_in_words(p.export_s)),
    ]


def _fault_in_words(fault: InjectedFault) -> str:
    """`straggler-gpu at step 400`, `gpu-off-bus after 2 h`."""
    when = f"at step {fault.at_step:,}" if fault.at_step else f"after {span_in_words(fault.at_s)}"
    return f"{fault.kind.name} {when}"
