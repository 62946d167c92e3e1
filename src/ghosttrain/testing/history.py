"""The past as OpenMetrics text: what a Prometheus would hold had it scraped the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ghosttrain.core.errors import SpecError
from ghosttrain.exporters.driver import moments_in, most_moments
from ghosttrain.exporters.openmetrics import Backfill
from ghosttrain.exporters.writing import Asked, Chunk

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.run import Run

_END = b"# EOF\n"


def history_of(
    run: Run, metrics: Sequence[Metric], start_s: float, stop_s: float, every_s: float
) -> str:
    """OpenMetrics text of [start, stop), for `promtool tsdb create-blocks-from openmetrics`.

    Args:
        run: The run.
        metrics: What its pages have; those of node_exporter are left out.
        start_s, stop_s: Run time.
        every_s: Between two moments, which are multiples of it.

    Raises:
        SpecError: If no moment lies there.
    """
    fields = tuple(dict.fromkeys(m.field for m in metrics if "node" not in m.lists))
    asked = Asked(run, start_s=start_s, stop_s=stop_s, every_s=every_s, metrics=fields)
    if every_s <= 0:
        raise SpecError(f"every {every_s:g} s: give a time above 0")
    moments = moments_in(start_s, stop_s, run.end_s, every_s)
    if not len(moments):
        raise SpecError(
            f"{start_s:,.3f} s to {stop_s:,.3f} s: no multiple of {every_s:g} s lies there"
        )
    writer = Backfill(asked)
    chunks: list[Chunk] = []
    for first in range(0, len(moments), most_moments(asked)):
        block = run.telemetry(moments[first : first + most_moments(asked)], writer.fields)
        chunks += writer.sample(block)
    return _one_text([*chunks, *writer.close()]).decode()


def _one_text(chunks: Iterable[Chunk]) -> bytes:
    """The files of all days as one: each family is declared once, and one end is at the end."""
    days: dict[str, list[bytes]] = {}
    for name, data in chunks:
        days.setdefault(name, []).append(data)
    text, told = b"", set[bytes]()
    for number, pieces in enumerate(days.values()):
        day = b"".join(pieces).removesuffix(_END)
        if number == 0 and len(days) == 1:
            return day + _END
        text += b"".join(_without(told, day))
    return text + _END


def _without(told: set[bytes], day: bytes) -> Iterable[bytes]:
    for line in day.splitlines(keepends=True):
        if not line.startswith(b"#"):
            yield line
        elif line not in told:
            told.add(line)
            yield line
