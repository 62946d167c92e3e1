"""Lines of steps, made a thousand at a time: each is what one `%` makes, with blanks."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ghosttrain.core.events import StepsCompleted
from ghosttrain.core.plan import plan
from ghosttrain.exporters.step_lines import _LINE, LARGEST_EXPONENT, StepLines, form_of
from tests.exporters.runs import real_run, small_spec

PLAN = plan(small_spec())
FORM = form_of(PLAN)
TOKENS = PLAN.spec.recipe.tokens_per_step
COLUMNS = (
    *("end_s", "loss", "grad_norm", "learning_rate", "step_time_s", "tokens_per_s"),
    *("mfu", "eta_s"),
)


def an_event(rows, *, attempt=1, first=1) -> StepsCompleted:
    """Steps with the values of `COLUMNS` in each row."""
    columns: dict[str, Any] = {
        name: np.array([row[at] for row in rows], float) for at, name in enumerate(COLUMNS)
    }
    return StepsCompleted(attempt=attempt, step=np.arange(first, first + len(rows)), **columns)


def one_by_one(event: StepsCompleted) -> list[bytes]:
    """The lines as `%` makes them."""
    lines = []
    for at, step in enumerate(event.step.tolist()):
        time_s, loss, norm, rate, step_s, tokens_per_s, mfu, eta_s = (
            float(getattr(event, name)[at]) for name in COLUMNS
        )
        ppl = float(np.exp(min(loss, LARGEST_EXPONENT)))
        line = _LINE % (
            *(time_s, event.attempt, step, loss, ppl, norm, rate, step_s, tokens_per_s, mfu),
            *(eta_s, step * TOKENS),
        )
        for word in ("nan", "inf", "-inf"):
            line = line.replace(f":{word},", ":null,")
        lines.append(line.encode())
    return lines


def lines_of(*events: StepsCompleted) -> bytes:
    return StepLines(events, FORM).part(0, sum(len(e.step) for e in events))


usual = st.floats(0, 9) | st.floats(0, 1e7) | st.integers(0, 10**6).map(lambda n: n / 1000)
unusual = st.sampled_from(
    [0.0, 9.9999996, 0.9999999, 99.9999995, 1e-4, 1e-99, 1e-300, 1e15, 1e300, math.nan, math.inf,
     9999.9999999, 9.9999999999999e-05, 1e-5, 3e-323, -1.0]
)  # fmt: skip
rows = st.lists(st.tuples(*[usual | unusual] * len(COLUMNS)), min_size=1, max_size=12)


@given(rows, st.sampled_from([1, 12, 1234]), st.sampled_from([1, 9998, 10**7]))
@example([(1.0, 2.0, 3.0, 1e-4, 4.0, 5.0, 6.0, 7.0)], 1, 1)
@example([(1.0, 2.0, 3.0, 9.9999999999999e-05, 4.0, 5.0, 6.0, 7.0)] * 2, 1, 1)
def test_lines_are_those_of_percent_but_for_blanks(rows, attempt, first):
    event = an_event(rows, attempt=attempt, first=first)
    made = lines_of(event)
    for line, expected in zip(made.splitlines(keepends=True), one_by_one(event), strict=True):
        ours, theirs = json.loads(line), json.loads(expected)
        assert [*ours] == [*theirs]
        for name, value in theirs.items():  # half a unit of the last digit may go either way
            assert ours[name] == value or math.isclose(ours[name], value, rel_tol=2e-6), name
        if ours == theirs:
            assert line.replace(b" ", b"") == expected


@given(rows, st.data())
def test_batches_leave_no_trace(rows, data):
    event = an_event(rows)
    cut = data.draw(st.integers(0, len(rows)))
    whole = lines_of(event)
    parts = [event.part(a, b) for a, b in ((0, cut), (cut, len(rows))) if a < b]
    assert b"".join(lines_of(part) for part in parts) == whole
    assert lines_of(*parts) == whole
    lines = StepLines([event], FORM)
    assert lines.part(0, cut) + lines.part(cut, len(rows)) == whole


def test_a_run_is_written_in_columns_and_digit_by_digit_as_percent_does():
    run = real_run(steps=3000, faults="nan-loss@30min")
    form = form_of(run.plan)
    tokens = run.spec.recipe.tokens_per_step
    widths, checked = set(), 0
    for event in run.events(0.0, math.inf, sample_every=10**9):
        if isinstance(event, StepsCompleted):
            made = StepLines([event], form).part(0, len(event.step)).splitlines(keepends=True)
            expected = one_by_one(event)
            for at, (line, theirs) in enumerate(zip(made, expected, strict=True)):
                ours = line.replace(b" ", b"").rpartition(b":")[0]
                assert ours == theirs.rpartition(b":")[0]
                assert json.loads(line)["tokens_seen"] == int(event.step[at]) * tokens
                widths.add(len(line))
                checked += 1
    assert checked >= 3000
    assert len(widths) <= 6, "all but a few lines have one width"
