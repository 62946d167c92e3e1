from __future__ import annotations

import re
from dataclasses import replace

from ghosttrain.core.events import CollectiveSamples, StepsCompleted
from ghosttrain.views.renderables.classic import ClassicWriter
from ghosttrain.views.renderables.glyphs import ASCII
from ghosttrain.views.renderables.log_lines import log_lines
from tests.views.renderables.fleets import card_of, faulty_events, faulty_run


def written(**options: object) -> list[bytes]:
    writer = ClassicWriter(**options)  # type: ignore[arg-type]
    return [writer.accept(event) for event in faulty_events()]


def test_events_become_whole_lines_without_escapes():
    for data in written():
        assert not data or data.endswith(b"\n")
        assert b"\x1b" not in data
        data.decode()


def test_the_log_is_the_lines_with_the_grids_between_them():
    card = card_of(faulty_run())
    lines = [line.text for event in faulty_events() for line in log_lines(event, card)]
    text = b"".join(written()).decode().splitlines()
    assert [line for line in text if not re.match(r"Node \d|GPU status", line)] == lines


def test_a_step_is_followed_by_its_collective_then_its_grid():
    text = b"".join(written()).decode().splitlines()
    at = next(i for i, line in enumerate(text) if "step  50/" in line)
    assert "NCCL reduce-scatter" in text[at + 1]
    assert text[at + 2].startswith("GPU status | step 50 | 64 x H100-SXM |")
    assert [line[:7] for line in text[at + 3 : at + 11]] == [f"Node {n}:" for n in range(8)]


def test_ascii_where_the_locale_has_nothing_else():
    assert b"".join(written(glyphs=ASCII)).isascii()


def test_batches_do_not_show():
    """A batch cut in two gives the same bytes."""
    events = faulty_events()
    batch = next(e for e in events if isinstance(e, StepsCompleted) and e.step.size > 20)
    assert batch.fleet is not None
    cut = batch.step.size // 2
    low, high = _part(batch, slice(None, cut)), _part(batch, slice(cut, None))
    writer = ClassicWriter()
    writer.accept(events[0])
    assert writer.accept(batch) == writer.accept(low) + writer.accept(high)


def _part(batch: StepsCompleted, rows: slice) -> StepsCompleted:
    names = ("step", "end_s", "step_time_s", "loss", "grad_norm", "learning_rate")
    columns = {n: getattr(batch, n)[rows] for n in (*names, "tokens_per_s", "mfu", "eta_s")}
    steps = columns["step"]
    fleet, timed = batch.fleet, batch.collectives
    if fleet is not None:
        at = (fleet.step >= steps[0]) & (fleet.step <= steps[-1])
        sampled = ("step", "time_s", "util_pct", "temp_c", "memory_gib", "power_w")
        fleet = replace(fleet, **{n: getattr(fleet, n)[at] for n in sampled})
    if timed is not None:
        at = (timed.step >= steps[0]) & (timed.step <= steps[-1])
        columns_of = ("step", "time_s", "layer", "duration_s", "busbw_gbs")
        timed = CollectiveSamples(**{n: getattr(timed, n)[at] for n in columns_of})
    return replace(batch, **columns, fleet=fleet, collectives=timed)
