"""What simulated months of faults tell beside what is published: tables, and plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ghosttrain import catalog
from ghosttrain.core.units import HOUR_S
from ghosttrain.validation.faults import (
    LEAST_P,
    MONTH_DAYS,
    MOST_SIGMAS,
    PUBLISHED_DAYS,
    SIZE_TOLERANCE_PCT,
    Category,
    FaultOutcome,
    Size,
    Value,
)
from ghosttrain.validation.sections import Cell, Section, percent, significant

_DIGITS = 6
_MISSING = "-"


def fault_sections(found: FaultOutcome) -> list[Section]:
    """All there is to tell, in order."""
    return [
        table_section(found),
        values_section(found),
        sizes_section(found.sizes),
        others_section(found),
        costs_section(found),
    ]


def table_section(found: FaultOutcome) -> Section:
    """Interruptions by the rows of the published table."""
    up = found.tally.up_s / found.tally.run_s
    rows = [_table_row(category, found) for category in found.categories]
    whole = Category(
        "all",
        "all of the table",
        catalog.published_interruptions().total,
        sum(category.expected for category in found.categories),
        found.interruptions,
        sum(category.struck for category in found.categories),
    )
    return Section(
        "Interruptions, against table 5 of Llama 3 (arXiv:2407.21783)",
        ("", "cause", ">published", ">here", ">miss", ">expected", ">found", ">covered", ">sigmas"),
        (*rows, _table_row(whole, found)),
        (
            f"{found.tally.months} months of {MONTH_DAYS} days of Llama 3.1 405B on 16,384 H100 "
            "with realistic faults.",
            f"Published and here: interruptions in {PUBLISHED_DAYS} days. The rates of the kinds "
            "are fitted on this table; what is tested is what the history makes of them.",
            f"Expected: rate x time up. The run was up {percent(100 * up)} of the time; what comes "
            "while it is down finds nothing to strike, so that fewer are found than published.",
            "Covered: faults that were about to end the launch when another did. Sigmas: of both "
            "together.",
            f"Allowed: {MOST_SIGMAS:g} sigmas each; all together as far off or further by chance "
            f"in {_chance(found.p_value(found.categories))} (allowed: above {LEAST_P:g}).",
        ),
    )


def _table_row(category: Category, found: FaultOutcome) -> tuple[Cell, ...]:
    here = category.found * PUBLISHED_DAYS / (MONTH_DAYS * found.tally.months)
    published = category.published or 0
    return (
        _verdict(category.is_met),
        Cell(category.title),
        Cell(f"{published:,}"),
        Cell(f"{here:.1f}"),
        Cell(percent(100 * (here / published - 1), sign=True)),
        Cell(f"{category.expected:,.1f}"),
        Cell(f"{category.found:,}"),
        Cell(f"{category.struck - category.found:,}"),
        Cell(f"{category.sigmas:+.2f}"),
    )


def values_section(found: FaultOutcome) -> Section:
    """Figures of the whole run."""
    return Section(
        "The run under these faults",
        ("", "figure", ">published", ">here", "unit", ">miss", ">allowed", "what"),
        tuple(_value_row(value) for value in found.values),
    )


def _value_row(value: Value) -> tuple[Cell, ...]:
    return (
        _verdict(value.is_met),
        Cell(value.name),
        Cell(significant(value.published)),
        Cell(significant(value.ours)),
        Cell(value.unit),
        Cell(percent(value.miss_pct, sign=True)),
        Cell(value.allowed),
        Cell(value.about),
    )


def sizes_section(sizes: Iterable[Size]) -> Section:
    """Time between interruptions of clusters of many sizes."""
    return Section(
        "Mean time between interruptions by size, hours up",
        ("", ">GPUs", "of", ">law", ">drawn", ">sigmas", ">published", ">miss", "what"),
        tuple(_size_row(size) for size in sizes),
        (
            "The law: inversely as the number of GPUs, at the published rate. Drawn: so many days "
            f"of faults. Allowed: {MOST_SIGMAS:g} sigmas; {SIZE_TOLERANCE_PCT:g} % of what is "
            "published.",
        ),
    )


def _size_row(size: Size) -> tuple[Cell, ...]:
    known = size.published_s
    about = f"{size.about}: {size.reason}" if size.reason else size.about
    return (
        _verdict(size.is_met),
        Cell(f"{size.gpus:,}"),
        Cell(size.gpu),
        Cell(f"{size.law_s / HOUR_S:,.3g}"),
        Cell(f"{size.drawn_s / HOUR_S:,.3g}"),
        Cell(f"{size.sigmas:+.2f}"),
        Cell(_MISSING if known is None else f"{known / HOUR_S:,.3g}"),
        Cell(percent(size.miss_pct, sign=True)),
        Cell(about),
    )


def others_section(found: FaultOutcome) -> Section:
    """Faults of the kinds that are in no row of the published table."""
    chance = _chance(found.p_value(found.others))
    return Section(
        "Other faults: as often as the catalogue says",
        ("", "kind", ">expected", ">found", ">sigmas", "rate"),
        tuple(
            (
                _verdict(category.is_met),
                Cell(category.name),
                Cell(f"{category.expected:,.1f}"),
                Cell(f"{category.found:,}"),
                Cell(f"{category.sigmas:+.2f}"),
                Cell(found.kinds[category.name].source),
            )
            for category in found.others
        ),
        (f"All together as far off or further by chance in {chance}.",),
    )


def costs_section(found: FaultOutcome) -> Section:
    """Where the time went: of faults by their family, and of the run by what it did."""
    shares = (
        *(("faults", family, share) for family, share in found.cost_shares()),
        *(("run", name, share) for name, share in found.time_shares()),
    )
    return Section(
        "Where the time went",
        ("of", "what", ">share of the time"),
        tuple((Cell(of), Cell(what), Cell(f"{100 * share:.2f} %")) for of, what, share in shares),
        (
            "Of faults: what they slowed, stopped and threw back; two at a time are both counted.",
            "Of the run: all of its time. Steps that faults made slower count whole.",
        ),
    )


def _verdict(is_met: bool) -> Cell:
    return Cell("ok", "good") if is_met else Cell("MISSED", "bad")


def _chance(p: float) -> str:
    return f"{100 * p:.2g} % of cases"


def fault_data(found: FaultOutcome) -> dict[str, Any]:
    """Everything for JSON, units in the names."""
    tally = found.tally
    return {
        "months": tally.months,
        "up_share": _number(tally.up_s / tally.run_s),
        "is_met": found.is_met,
        "missed": list(found.missed),
        "categories": [_category_data(category) for category in found.categories],
        "categories_p": _number(found.p_value(found.categories)),
        "other_kinds": [_category_data(category) for category in found.others],
        "other_kinds_p": _number(found.p_value(found.others)),
        "figures": [
            _numbers(asdict(v)) | {"miss_pct": _number(v.miss_pct), "is_met": v.is_met}
            for v in found.values
        ],
        "sizes": [
            _numbers(asdict(s))
            | {
                "sigmas": _number(s.sigmas),
                "miss_pct": None if s.miss_pct is None else _number(s.miss_pct),
                "is_met": s.is_met,
            }
            for s in found.sizes
        ],
        "cost_share": {family: _number(share) for family, share in found.cost_shares()},
        "time_share": {name: _number(share) for name, share in found.time_shares()},
    }


def _category_data(category: Category) -> dict[str, Any]:
    more = {"sigmas": _number(category.sigmas), "is_met": category.is_met}
    return _numbers(asdict(category)) | more


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _number(v) if isinstance(v, float) else v for k, v in values.items()}


def _number(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
