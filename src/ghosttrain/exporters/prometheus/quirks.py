"""Quirks: in what exporters differ where a GPU has erred or is gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.core.errors import SpecError

if TYPE_CHECKING:
    from ghosttrain.core.run import Run
    from ghosttrain.core.telemetry import Telemetry

# How long an Xid shows where it does not stay: two collections of dcgm-exporter's 30 s.
XID_SHOWN_S = 60.0


@dataclass(frozen=True, slots=True)
class Quirks:
    """What dcgm-exporter does with DCGM 4, each of which can be switched off.

    Attributes:
        sticky_xid: The last Xid stays until the driver is loaded anew; else it is 0 again after
            XID_SHOWN_S, as in exporters that count events.
        lost_vanish: A GPU that does not answer has no lines; else its last values stay, as in
            exporters that repeat what they have read.
    """

    sticky_xid: bool = True
    lost_vanish: bool = True


USUAL = Quirks()
NAMES = {"sticky-xid": "sticky_xid", "lost-vanish": "lost_vanish"}


def quirks_of(text: str) -> Quirks:
    """The quirks that `text` names by commas; "none" for none.

    Raises:
        SpecError: If there is no such quirk.
    """
    words = {word.strip().lower() for word in text.split(",")} - {"", "none"}
    if unknown := sorted(words - set(NAMES)):
        raise SpecError(f"unknown quirk {unknown[0]!r}: there are {', '.join(NAMES)}, none")
    return Quirks(**{field: name in words for name, field in NAMES.items()})


def quirky_telemetry(
    run: Run, at_s: float, fields: Sequence[str], quirks: Quirks = USUAL
) -> Telemetry:
    """The GPUs at a moment, as an exporter with these quirks shows them."""
    telemetry = run.telemetry(np.array([at_s]), fields)
    if not quirks.lost_vanish:
        telemetry = _with_last_values(run, telemetry)
    if not quirks.sticky_xid and "xid" in telemetry.columns:
        telemetry = _with_fading_xids(run, telemetry)
    return telemetry


def _with_last_values(run: Run, telemetry: Telemetry) -> Telemetry:
    """What lost GPUs said last; but a node that is gone has taken its exporter along."""
    at_s, per_node = float(telemetry.time_s[0]), run.spec.cluster.gpus_per_node
    gone = {gpu for gpu in telemetry.lost[0] if gpu // per_node in telemetry.nodes_down[0]}
    stale = [gpu for gpu in telemetry.lost[0] if gpu not in gone]
    span = run.span_at(at_s)
    struck_s = run.timeline.incidents[span.incident - 1].strike_s if span.incident else None
    if not stale or struck_s is None:
        return telemetry
    last = run.telemetry(np.array([math.nextafter(struck_s, 0.0)]), tuple(telemetry.columns))
    columns = {}
    for name, column in telemetry.columns.items():
        columns[name] = np.array(column)
        columns[name][0, stale] = last.columns[name][0, stale]
    return replace(telemetry, columns=columns, lost=(tuple(sorted(gone)),))


def _with_fading_xids(run: Run, telemetry: Telemetry) -> Telemetry:
    """Only the Xids that came within XID_SHOWN_S."""
    before_s = np.array([max(0.0, float(telemetry.time_s[0]) - XID_SHOWN_S)])
    before = run.telemetry(before_s, ("xid",)).columns["xid"]
    now = telemetry.columns["xid"]
    return replace(telemetry, columns={**telemetry.columns, "xid": np.where(now == before, 0, now)})
