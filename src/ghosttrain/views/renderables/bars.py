"""The bars that stay at the bottom of the screen: epoch, step and their metrics, or a phase.

Numbers have a fixed width: columns are as wide as the widest value of late, so that they narrow
as the loss falls but never jump to and fro.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ghosttrain.views.renderables.glyphs import Glyphs
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.numbers import duration, percent, perplexity

EPOCH_WIDTH, STEP_WIDTH = 25, 35  # cells between the brackets
ONE_LINE_FROM = 125  # columns from which the metrics stand on the step bar's line
NARROWEST = 40  # columns below which there are no bars
_LABEL = len("Epoch: ")
_BAR_MIN = 8
_DURATION_WIDTH = 6

Piece = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Progress:
    """What the bars show of a run at a moment.

    Attributes:
        epoch, epochs: The epoch in progress (1, 2, ...), and how many there are.
        step_in_epoch, steps_per_epoch: Completed steps of it.
        run_frac: Share of all steps that is done.
        elapsed_s, eta_s: Run time so far, and still to go.
        tokens_width: Cells of the widest tokens per second expected.
        widest_loss: Largest loss of late: its width is that of the loss, and of its perplexity.
        phase: Label of the phase that holds the steps up (validation, a hang), "" for none.
        phase_frac: Share of the phase that is over, 0..1.
        phase_detail: A word behind the phase's bar.
    """

    epoch: int
    epochs: int
    step_in_epoch: int
    steps_per_epoch: int
    run_frac: float
    loss: float
    learning_rate: float
    grad_norm: float
    mfu: float
    tokens_per_s: float
    samples_per_s: float
    elapsed_s: float
    eta_s: float
    tokens_width: int = 6
    widest_loss: float = 0.0
    phase: str = ""
    phase_frac: float = 0.0
    phase_detail: str = ""
    training: bool = True


def bar(frac: float, width: int) -> str:
    """`[===>      ]`, `width` cells between the brackets, by the whole percent shown beside it."""
    whole = percent(frac)
    filled = (whole * width + 50) // 100
    if whole >= 100:
        body = "=" * width
    elif filled:
        body = "=" * (filled - 1) + ">"
    else:
        body = ""
    return f"[{body:<{width}}]"


def epoch_line(progress: Progress, width: int) -> Line:
    """`Epoch: [===>                     ] 1/3  14%`."""
    digits = len(str(progress.epochs))
    tail = f" {progress.epoch:{digits}}/{progress.epochs} {percent(progress.run_frac):3d}%"
    cells = min(EPOCH_WIDTH, max(1, width - _LABEL - 2 - len(tail)))
    return _barred("Epoch:", progress.run_frac, cells, tail)


def step_line(progress: Progress, width: int) -> Line:
    """The step bar, followed by as much as has room: all metrics on a wide line, else the pace."""
    line = _step_bar(progress, width)
    separator = (" | ", "dim")
    fields = _fields(progress)
    order = _BY_IMPORTANCE if width >= ONE_LINE_FROM else ("tokens", "steps")
    kept = _fitting(fields, order, width - len(line), len(separator[0]), leading=True)
    return Line((*line.pieces, *(p for f in kept for p in (separator, *f))))


def metrics_line(progress: Progress, width: int) -> Line:
    """The third line of a narrow screen: what the step line has no room for."""
    above = len(_step_bar(progress, width))
    fields = _fields(progress)
    taken = _names_fitting(fields, ("tokens", "steps"), width - above, 3, leading=True)
    rest = tuple(name for name in _BY_IMPORTANCE if name not in taken)
    kept = _fitting(fields, rest, width, 3, leading=False)
    pieces = [piece for i, f in enumerate(kept) for piece in (((" | ", "dim"), *f) if i else f)]
    return Line(tuple(pieces))


def phase_line(
    label: str, frac: float, detail: str, width: int, *, cells: int = STEP_WIDTH
) -> Line:
    """`Validation [=====>        ]  41% | 6.1s left`, cut to `width`."""
    head = f"{label} "
    tail = f" {percent(frac):3d}%"
    room = width - len(head) - len(tail) - 2
    if room < _BAR_MIN:
        return Line.of(f"{label}{tail}").fit(width)
    line = Line.of((head, "bold"), (bar(frac, min(cells, room)), "cyan"), tail)
    separated = f" | {detail}"
    if detail and len(line) + len(separated) <= width:
        line = Line((*line.pieces, (" | ", "dim"), (detail, "")))
    return line


def pinned_lines(progress: Progress, width: int, glyphs: Glyphs) -> list[Line]:
    """The lines that stay the last on the screen; none where it is too narrow for bars."""
    if width < NARROWEST:
        return []
    if not progress.training and not progress.phase:
        return []
    lines = [epoch_line(progress, width)]
    lines.append(_phase(progress, width) if progress.phase else step_line(progress, width))
    if progress.training and width < ONE_LINE_FROM:
        lines.append(metrics_line(progress, width))
    return [line.fit(width, ellipsis=glyphs.ellipsis) for line in lines]


def _phase(progress: Progress, width: int) -> Line:
    """The bar of a phase; on a wide line with where the run stands, as there is no third line."""
    line = phase_line(progress.phase, progress.phase_frac, progress.phase_detail, width)
    if not progress.training or width < ONE_LINE_FROM:
        return line
    kept = _fitting(_fields(progress), _BESIDE_PHASES, width - len(line), 3, leading=True)
    return Line((*line.pieces, *(p for f in kept for p in ((" | ", "dim"), *f))))


# ------------------------------------------------------------------------------------ parts

# Names of the fields, the last to go first; and in the order in which they stand.
_BY_IMPORTANCE = ("eta", "loss", "tokens", "ppl", "lr", "mfu", "grad", "steps", "samples")
_BESIDE_PHASES = ("eta", "loss", "ppl")
_IN_ORDER = ("loss", "ppl", "lr", "grad", "mfu", "tokens", "samples", "steps", "eta")


def _step_bar(progress: Progress, width: int) -> Line:
    frac = progress.step_in_epoch / progress.steps_per_epoch if progress.steps_per_epoch else 0.0
    tail = f" {percent(frac):3d}%"
    cells = min(STEP_WIDTH, max(1, width - _LABEL - 2 - len(tail)))
    return _barred("Step:", frac, cells, tail)


def _barred(label: str, frac: float, cells: int, tail: str) -> Line:
    return Line.of((f"{label:<{_LABEL}}", "bold"), (bar(frac, cells), "green"), tail)


def _fields(progress: Progress) -> dict[str, tuple[Piece, ...]]:
    """Every field as pieces, each of a width that stays, also while the loss is no number."""
    seen = (progress.loss, progress.widest_loss)
    widest = max((loss for loss in seen if math.isfinite(loss)), default=0.0)
    loss_width = len(f"{widest:.4f}")
    ppl_width = len(f"{perplexity(widest):.2f}")
    digits = len(str(progress.steps_per_epoch))
    steps = f"{progress.step_in_epoch:{digits}}/{progress.steps_per_epoch}"
    elapsed, eta = duration(progress.elapsed_s), duration(progress.eta_s)
    return {
        "loss": _labelled("Loss: ", f"{progress.loss:{loss_width}.4f}", "bold"),
        "ppl": _labelled("PPL: ", f"{perplexity(progress.loss):{ppl_width}.2f}"),
        "lr": _labelled("LR: ", f"{progress.learning_rate:.2e}"),
        "grad": _labelled("grad ", f"{progress.grad_norm:6.3f}"),
        "mfu": _labelled("MFU ", f"{100 * progress.mfu:4.1f}%"),
        "tokens": (
            (f"{progress.tokens_per_s:{progress.tokens_width}.0f}", "bold"),
            (" tok/s", "dim"),
        ),
        "samples": ((f"{progress.samples_per_s:6.1f}", ""), (" samples/s", "dim")),
        "steps": ((steps, ""),),
        "eta": ((f"{elapsed:>{_DURATION_WIDTH}}<{eta:<{_DURATION_WIDTH}}".rstrip(), ""),),
    }


def _labelled(label: str, value: str, style: str = "") -> tuple[Piece, ...]:
    return ((label, "dim"), (value, style))


def _names_fitting(
    fields: dict[str, tuple[Piece, ...]],
    names: tuple[str, ...],
    room: int,
    separator: int,
    *,
    leading: bool,
) -> tuple[str, ...]:
    """The names, by importance, of the fields that fit; separators count as they stand."""
    kept: list[str] = []
    for name in names:
        cells = sum(len(text) for text, _ in fields[name])
        if name == "eta":
            cells = 2 * _DURATION_WIDTH + 1  # room for the widest, so that nothing comes and goes
        needed = cells + (separator if kept or leading else 0)
        if needed <= room:
            kept.append(name)
            room -= needed
    return tuple(kept)


def _fitting(
    fields: dict[str, tuple[Piece, ...]],
    names: tuple[str, ...],
    room: int,
    separator: int,
    *,
    leading: bool,
) -> list[tuple[Piece, ...]]:
    """The fields that fit, in the order in which they stand."""
    kept = _names_fitting(fields, names, room, separator, leading=leading)
    return [fields[name] for name in _IN_ORDER if name in kept]
