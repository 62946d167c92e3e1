"""A validation as plain data, as a Markdown file and as one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ghosttrain.validation.outcome import SIGNIFICANT_DIGITS, Outcome
from ghosttrain.validation.scatter import Point, scatter_svg
from ghosttrain.validation.scores import (
    GROUPINGS,
    Grouping,
    Scored,
    Statistics,
    bounds,
    group_of,
    grouped,
    reasons,
    worst,
)
from ghosttrain.validation.sections import (
    DEFAULT_WORST,
    Section,
    headline,
    laws_sentence,
    percent,
    rate,
    row_in_words,
    sections,
)

SCHEMA_VERSION = 1
_TITLE = "Predicted against published"
_MARK = "Predictions are simulated: no GPU ran for them."
_PICTURE = "Each point is a row; colours are kinds of GPU."
_STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444d; --good: #3fb950; --bad: #f85149; }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.remark { opacity: .75; margin: .2rem 0; }
"""


def outcome_data(outcome: Outcome, *, most_worst: int = DEFAULT_WORST) -> dict[str, Any]:
    """Everything for JSON, units in the names. A change of a key raises SCHEMA_VERSION."""
    whole = group_of(outcome.rows, "all")
    return {
        "schema_version": SCHEMA_VERSION,
        "simulated": True,
        "headline": headline(outcome),
        "table": outcome.where,
        "rows_in_all": len(outcome.rows),
        "rows_predicted": outcome.predicted,
        "not_predicted": [{"reason": r, "rows": count} for r, count in reasons(outcome.rows)],
        "speed": _statistics(whole.speed),
        "mfu_median_error_points": _number(whole.mfu_median_points),
        "memory": _statistics(whole.memory),
        "bounds": [
            _numbers(asdict(bound)) | {"is_met": bound.is_met} for bound in bounds(outcome.rows)
        ],
        "has_left_out": outcome.has_left_out,
        "groups": {by: _groups(outcome, by) for by in GROUPINGS},
        "worst_lines": [row.row.line for row in worst(outcome.rows, most_worst)],
        "rows": [_row(row) for row in outcome.rows],
        "orderings": [asdict(ordering) for ordering in outcome.orderings],
        "checks": [
            _numbers(asdict(check)) | {"miss_pct": _number(check.miss_pct), "is_met": check.is_met}
            for check in outcome.checks
        ],
    }


def _groups(outcome: Outcome, by: Grouping) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "speed": _statistics(group.speed),
            "mfu_median_error_points": _number(group.mfu_median_points),
            "memory": _statistics(group.memory),
        }
        for group in grouped(outcome.rows, by)
    ]


def _statistics(found: Statistics) -> dict[str, Any]:
    return _numbers(asdict(found))


def _row(row: Scored) -> dict[str, Any]:
    prediction = row.prediction
    return {
        "line": row.row.line,
        "source": row.row.text("source"),
        "model": row.row.text("model"),
        "gpu": row.row.text("gpu"),
        "gpus": row.row.count("gpus"),
        "verdict": prediction.verdict,
        "not_compared": list(row.row.unread),
        "kind": prediction.kind,
        "stack": prediction.stack,
        "params": _number(prediction.params) if prediction.params else None,
        "fits": prediction.fits,
        "predicted": _numbers(asdict(prediction.predicted)),
        "published": _numbers(asdict(prediction.published)),
        "error_pct": _number(row.error_pct),
        "left_out_error_pct": _number(row.left_out_pct),
        "mfu_error_points": _number(row.mfu_points),
        "memory_error_pct": _number(row.memory_pct),
    }


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """The values, floats with the digits that mean something."""
    return {k: _number(v) if isinstance(v, float) else v for k, v in values.items()}


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


# Pictures.


def speed_picture(outcome: Outcome, *, standalone: bool = False) -> str:
    """Throughput of every compared row."""
    points = [
        Point(known, found, row.prediction.gpu, _point_title(row, known, found))
        for row in outcome.rows
        if (known := row.prediction.published.tokens_per_s_per_gpu)
        and (found := row.prediction.predicted.tokens_per_s_per_gpu)
    ]
    return scatter_svg(
        points,
        title="Throughput, predicted against published",
        unit="tokens/s per GPU",
        standalone=standalone,
    )


def memory_picture(outcome: Outcome) -> str:
    """Peak memory of every row that has one."""
    points = [
        Point(
            known,
            found,
            row.prediction.gpu,
            f"{row_in_words(row.row)}: published {known:.1f} GiB, predicted {found:.1f}",
        )
        for row in outcome.rows
        if (known := row.prediction.published.peak_mem_gib)
        and (found := row.prediction.predicted.peak_mem_gib)
    ]
    return scatter_svg(
        points, title="Peak memory, predicted against published", unit="GiB", standalone=False
    )


def _point_title(row: Scored, known: float, found: float) -> str:
    return (
        f"{row_in_words(row.row)}: published {rate(known)}, predicted {rate(found)} tokens/s "
        f"per GPU, {percent(row.error_pct, sign=True)} (line {row.row.line})"
    )


def _compares(outcome: Outcome) -> tuple[bool, bool]:
    """Whether there are throughputs to draw, and memories."""
    return (
        any(row.error_pct is not None for row in outcome.rows),
        any(row.memory_pct is not None for row in outcome.rows),
    )


# Files.


def markdown_report(
    outcome: Outcome,
    picture: str,
    *,
    by: Sequence[Grouping] | None = None,
    most_worst: int = DEFAULT_WORST,
    more: Sequence[Section] = (),
) -> str:
    """The report as Markdown, `more` at its end; the picture is a file of that name beside it."""
    parts = [f"# {_TITLE}", _markdown(headline(outcome)), _MARK, _markdown(laws_sentence(outcome))]
    if _compares(outcome)[0]:
        parts.append(f"![Throughput, predicted against published](<{picture}>)\n\n{_PICTURE}")
    for section in (*sections(outcome, by=by, most_worst=most_worst), *more):
        parts += [f"## {section.heading}", *section.remarks, _markdown_table(section)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(section: Section) -> str:
    titles = [_markdown(title.removeprefix(">")) for title in section.columns]
    rules = ["--:" if title.startswith(">") else "---" for title in section.columns]
    lines = [titles, rules, *([_markdown(c.text) for c in row] for row in section.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    line = " ".join(text.split())
    for sign in ("\\", "|", "<", ">", "*", "_", "`", "[", "]", "~"):
        line = line.replace(sign, f"\\{sign}")
    return line


def html_report(
    outcome: Outcome,
    *,
    by: Sequence[Grouping] | None = None,
    most_worst: int = DEFAULT_WORST,
    more: Sequence[Section] = (),
) -> str:
    """The report as one page that needs no other file, `more` at its end."""
    body = [
        f"<h1>{_TITLE}</h1>",
        f"<p><strong>{html.escape(headline(outcome))}</strong></p>",
        f'<p class="remark">{_MARK} {html.escape(laws_sentence(outcome))}</p>',
    ]
    has_speed, has_memory = _compares(outcome)
    if has_speed:
        body += [f'<div class="wide">{speed_picture(outcome)}</div>', f"<p>{_PICTURE}</p>"]
    for section in (*sections(outcome, by=by, most_worst=most_worst), *more):
        body += [f"<h2>{html.escape(section.heading)}</h2>"]
        body += [f'<p class="remark">{html.escape(remark)}</p>' for remark in section.remarks]
        body += [f'<div class="wide">{_html_table(section)}</div>']
    if has_memory:
        body += ["<h2>Peak memory</h2>", f'<div class="wide">{memory_picture(outcome)}</div>']
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="ghosttrain validate (simulated)">\n'
        f"<title>{_TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html_table(section: Section) -> str:
    right = [title.startswith(">") for title in section.columns]
    head = "".join(
        f"<th{_class('right' if is_right else '')}>{html.escape(title.removeprefix('>'))}</th>"
        for title, is_right in zip(section.columns, right, strict=True)
    )
    rows = []
    for row in section.rows:
        cells = [
            f"<td{_class('right' if is_right else '', cell.tone)}>{html.escape(cell.text)}</td>"
            for cell, is_right in zip(row, right, strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    joined = "\n".join(rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{joined}\n</tbody>\n</table>"


def _class(*names: str) -> str:
    given = " ".join(name for name in names if name)
    return f' class="{given}"' if given else ""
