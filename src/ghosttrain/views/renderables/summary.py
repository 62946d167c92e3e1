"""The table at the end of a run: two columns, or one where two do not fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.numbers import count, long_duration, perplexity, size
from ghosttrain.views.renderables.run_card import RunCard

if TYPE_CHECKING:
    from ghosttrain.core.events import Summary

Row = tuple[str, str]

_TITLE = " Training Summary "
_TITLE_WIDTH = 48
_TWO_COLUMNS_FROM = 80
_INDENT, _LABEL, _GAP, _RIGHT_LABEL = 2, 17, 3, 14  # cells


def summary_lines(summary: Summary, card: RunCard, width: int = _TWO_COLUMNS_FROM) -> list[Line]:
    """The table, at most `width` cells wide."""
    left, right, below = _left(summary, card), _right(summary, card), _below(summary)
    title = Line.of((_TITLE.center(min(width, _TITLE_WIDTH), "="), "bold cyan"))
    left_width = max(len(value) for _, value in left) + _GAP
    right_width = max(len(value) for _, value in right)
    needed = _INDENT + _LABEL + left_width + _RIGHT_LABEL + right_width
    if width >= max(needed, _TWO_COLUMNS_FROM):
        pairs = zip(left, right, strict=True)
        lines = [_row(name, value, left_width, *other) for (name, value), other in pairs]
        rest = below
    else:
        lines, rest = [], [*left, *right, *below]
    lines += [_row(name, value) for name, value in rest]
    plain = [Line(tuple((card.glyphs.plain(t), s) for t, s in line.pieces)) for line in lines]
    return [line.fit(width, ellipsis=card.glyphs.ellipsis) for line in (title, *plain)]


def _row(name: str, value: str, width: int = 0, name2: str = "", value2: str = "") -> Line:
    label = (f"{'':{_INDENT}}{name:<{_LABEL}}", "dim")
    if not value2:
        return Line.of(label, value)
    return Line.of(label, f"{value:<{width}}", (f"{name2:<{_RIGHT_LABEL}}", "dim"), value2)


def _left(summary: Summary, card: RunCard) -> list[Row]:
    return [
        ("Model", f"{card.spec.model.name} ({count(card.plan.params.total)})"),
        ("Run time", long_duration(summary.run_time_s)),
        ("Epochs, steps", f"{summary.epochs}, {summary.steps:,}"),
        ("Tokens", count(summary.tokens)),
        ("GPU time", f"{summary.gpu_hours:,.{0 if summary.gpu_hours >= 100 else 1}f} GPU-h"),
        ("Energy", _energy(summary.energy_kwh)),
    ]


def _right(summary: Summary, card: RunCard) -> list[Row]:
    final, val, best = summary.final_loss, summary.validation_loss, summary.best_validation_loss
    known = math.isfinite(val)
    return [
        ("Final loss", f"{final:.4f}" + (f" (val {val:.4f})" if known else "")),
        (
            "Final PPL",
            f"{perplexity(final):.2f}" + (f" (val {perplexity(val):.2f})" if known else ""),
        ),
        ("Best val", f"{best:.4f} at step {summary.best_validation_step:,}" if known else "none"),
        ("Mean MFU", f"{100 * summary.mean_mfu:.1f}%"),
        ("Utilisation", f"{summary.mean_util_pct:.1f}%"),
        ("Peak memory", f"{summary.peak_memory_gib:.1f} of {card.spec.gpu.memory_gib:.1f} GiB"),
    ]


def _below(summary: Summary) -> list[Row]:
    rows = [("Goodput", f"{100 * summary.goodput:.1f}% ({_shares(summary)})")]
    if summary.faults:
        rows.append(("Faults", f"{summary.faults}, {summary.attempts} attempts"))
    shards = f"{summary.shards} shard" + "s" * (summary.shards != 1)
    if summary.shards:
        where = f"{summary.saved_path}, {size(summary.saved_bytes)} in {shards}"
        rows.append(("Saved", where))
    return rows


def _shares(summary: Summary) -> str:
    """`init 0.8, val 1.1, ckpt 1.4`: where the rest of the time went, percent."""
    shares = [
        ("init", summary.init_share),
        ("val", summary.validation_share),
        ("ckpt", summary.checkpoint_share),
        ("faults", summary.fault_share),
        ("export", summary.export_share),
    ]
    seen = [(name, share) for name, share in shares if share >= 0.0005]
    return ", ".join(f"{name} {100 * share:.1f}" for name, share in seen)


def _energy(kwh: float) -> str:
    return f"{kwh:,.1f} kWh" if kwh < 10_000 else f"{kwh / 1000:,.1f} MWh"
