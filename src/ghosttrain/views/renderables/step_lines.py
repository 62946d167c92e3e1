"""The detailed lines of steps, and of the collectives timed at some of them.

A line is one %-template filled from columns converted at once: a hundred lines cost less than
one drawn piece by piece. The widths decide what a line leaves out on a narrow terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.laws.loss import schedule_phase
from ghosttrain.core.laws.loss_scale import fp16_loss_scale
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.numbers import LARGEST_LOSS, size
from ghosttrain.views.renderables.run_card import RunCard

if TYPE_CHECKING:
    from ghosttrain.core.events import CollectiveSamples, StepsCompleted

WIDE = 10_000  # cells of a pipe or file: nothing is left out

# In the order they stand in a line; the numbers say which goes first where the width is short.
_FIELDS = (
    ("loss", 0),
    ("ppl", 3),
    ("grad", 5),
    ("lr", 4),
    ("precision", 9),
    ("time", 2),
    ("tokens", 7),
    ("tflops", 6),
    ("mfu", 1),
    ("clipped", 8),
)
_OPERATIONS = {
    "all_reduce": "all-reduce",
    "reduce_scatter": "reduce-scatter",
    "all_gather": "all-gather",
    "all_to_all": "all-to-all",
}
_HEAD = ("date", "hour", "minute", "second", "step")
_PHASE_WIDTH = 6  # of "warmup", "cosine", "stable"


@dataclass(frozen=True, slots=True)
class StepForm:
    """Templates of a line's fields that fit, with the names of the columns they take."""

    template: str
    columns: tuple[str, ...]


def due(step: NDArray[np.int64], every: int) -> NDArray[np.intp]:
    """Positions of the steps that get a detailed line: the first of the run and each `every`."""
    return np.flatnonzero((step % every == 0) | (step == 1))


def detail_texts(
    event: StepsCompleted, card: RunCard, every: int, width: int = WIDE
) -> tuple[list[int], list[str]]:
    """Steps that are due and the text of their lines."""
    at = due(event.step, every)
    if not at.size:
        return [], []
    form = _form(card, width)
    columns = _columns(event, card, at, form.columns)
    template = form.template
    rows = zip(*(columns[name] for name in form.columns), strict=True)
    return event.step[at].tolist(), [template % row for row in rows]


def detail_lines(event: StepsCompleted, card: RunCard, every: int, width: int = WIDE) -> list[Line]:
    """The detailed lines that are due, each as one piece."""
    return [Line(((text, ""),)) for text in detail_texts(event, card, every, width)[1]]


@lru_cache(maxsize=16)
def _form(card: RunCard, width: int) -> StepForm:
    """The template with as many fields as fit."""
    spec, glyphs = card.spec, card.glyphs
    precision = "scale %8d" if spec.recipe.precision == "fp16" else spec.recipe.precision.upper()
    texts = {
        "loss": f"loss %{card.loss_width}.4f",
        "ppl": f"ppl %{card.ppl_width}.2f",
        "grad": f"grad %{card.grad_width}.3f",
        "lr": f"lr %.2e %-{_PHASE_WIDTH}s",
        "precision": precision,
        "time": "%6.3fs",
        "tokens": f"%{card.tokens_width}.0f tok/s",
        "tflops": "%5.1f TFLOP/s/GPU",
        "mfu": "MFU %4.1f%%",
        "clipped": "%s",
    }
    taken = {"lr": ("lr", "phase"), "precision": ("scale",) if "%" in precision else ()}
    cells = {name: len(text % _sample(name, precision)) + 2 for name, text in texts.items()}
    head = f"[%s %02d:%02d:%02d] step %{card.step_width}d/{card.total_steps}"
    room = width - len("[2026-11-23 12:41:07] step /") - 2 * card.step_width
    kept = set()
    for name, _ in sorted(_FIELDS, key=lambda field: field[1]):
        if cells[name] <= room:
            room -= cells[name]
            kept.add(name)
    if "grad" not in kept:
        kept.discard("clipped")
    order = [name for name, _ in _FIELDS if name in kept]
    body = "".join(texts[name] if name == "clipped" else f"  {texts[name]}" for name in order)
    columns = [column for name in order for column in taken.get(name, (name,))]
    return StepForm(glyphs.plain(head + body), (*_HEAD, *columns))


def _sample(name: str, precision: str) -> tuple[float | str, ...]:
    """Values to measure a field's text with."""
    if name == "lr":
        return (1.0, "")
    if name == "precision":
        return (1.0,) if "%" in precision else ()
    return ("clipped",) if name == "clipped" else (1.0,)


def _columns(
    event: StepsCompleted, card: RunCard, at: NDArray[np.intp], names: tuple[str, ...]
) -> dict[str, list[float] | list[int] | list[str]]:
    """The columns asked for, as Python lists."""
    step = event.step[at].tolist()
    loss = event.loss[at]
    clip = card.spec.recipe.grad_clip
    grad = event.grad_norm[at].tolist()
    tokens = event.tokens_per_s[at]
    wanted = set(names)
    columns: dict[str, list[float] | list[int] | list[str]] = {
        **card.stamp_columns(event.end_s[at]),
        "step": step,
        "loss": loss.tolist(),
        "ppl": np.exp(np.minimum(loss, LARGEST_LOSS)).tolist(),
        "grad": grad,
        "lr": event.learning_rate[at].tolist(),
        "time": event.step_time_s[at].tolist(),
        "tokens": tokens.tolist(),
        "tflops": (tokens * card.tflops_per_token_s).tolist(),
        "mfu": (100 * event.mfu[at]).tolist(),
    }
    if "phase" in wanted:
        columns["phase"] = _phases(card, step)
    if "clipped" in wanted:
        calm = not clip or max(grad) <= clip
        columns["clipped"] = [""] * len(grad) if calm else ["  clipped" * (g > clip) for g in grad]
    if "scale" in wanted:
        columns["scale"] = fp16_loss_scale(event.step[at]).tolist()
    return columns


def _phases(card: RunCard, step: list[int]) -> list[str]:
    """Phase of the schedule at ascending steps; mostly it is the same at both ends."""
    first, last = (schedule_phase(card.spec.recipe, s) for s in (step[0], step[-1]))
    if first == last:
        return [first] * len(step)
    return [schedule_phase(card.spec.recipe, s) for s in step]


def collective_lines(samples: CollectiveSamples, card: RunCard) -> list[Line]:
    """A line for each timing: what was moved, over whom, how long it took."""
    base = card.plan.gradient_collective
    name = f"{card.collectives_name} {_OPERATIONS[base.op]}"
    what = f"{size(base.size_bytes)} over {base.ranks} ranks"
    template = f"{name}, layer %d: {what}, %.2f ms, bus bandwidth %.0f GB/s"
    rows = zip(
        samples.time_s.tolist(),
        samples.layer.tolist(),
        (samples.duration_s * 1e3).tolist(),
        samples.busbw_gbs.tolist(),
        strict=True,
    )
    return [log_line(card, at, template % (layer, ms, gbs)) for at, layer, ms, gbs in rows]
