"""History for Prometheus: what a scraper of `/metrics` would have stored, as OpenMetrics text.

`promtool tsdb create-blocks-from openmetrics` makes blocks of it. The lines of a moment are those
of the page at that moment, with what a scrape adds to them: the target's labels, a timestamp,
`up`. They stand in the order of time, which promtool takes and which needs no memory; each family
is declared where it first comes. promtool reads a file once for each block it makes, so there is
a file for each day (UTC).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from prometheus_client.utils import floatToGoString

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError
from ghosttrain.core.events import Event
from ghosttrain.core.run import Run
from ghosttrain.exporters.prometheus.dcgm import Dialect, chosen_metrics
from ghosttrain.exporters.prometheus.gpu_page import GpuPages, escaped
from ghosttrain.exporters.prometheus.job import Playing, families, written
from ghosttrain.exporters.prometheus.targets import JOB, target_labels
from ghosttrain.exporters.writing import Asked, Chunk

if TYPE_CHECKING:
    from ghosttrain.core.telemetry import Telemetry

FOLDER = "openmetrics"
JOB_INSTANCE = "127.0.0.1:9400"  # where `ghosttrain serve` answers unless told otherwise
_END = b"# EOF\n"
_UP = b"# HELP up Whether the target answered (simulated).\n# TYPE up gauge\n"


def targets(run: Run, attempt: int) -> list[bytes]:
    """For each node the labels of its target, as they stand in a line."""
    return [
        ",".join(f'{key}="{word}"' for key, word in labels.items()).encode()
        for labels in target_labels(run, attempt)
    ]


class ScrapedPages(GpuPages):
    """Pages whose lines have their target's labels too."""

    # What GpuPages makes of it, a template for each line, takes longer names as well.
    def _make_labels(self, attempt: int) -> list[bytes]:
        per_node = self._run.spec.cluster.gpus_per_node
        added = targets(self._run, attempt)
        return [
            labels + b"," + added[gpu // per_node]
            for gpu, labels in enumerate(super()._make_labels(attempt))
        ]


class Backfill:
    """Turns telemetry, and the job's state at its moments, into files by the day.

    Attributes:
        fields: The telemetry it wants.
    """

    def __init__(self, asked: Asked) -> None:
        self._run, self._chosen = asked.run, asked.gpus
        self._pages: ScrapedPages | None = None
        self._names = ",".join(metric.name for metric in wanted_metrics(asked.metrics))
        self.fields = tuple(dict.fromkeys(m.field for m in _metrics(self._names)))
        self._file = ""
        self._told: set[bytes | str] = set()  # what the file has declared

    def __getstate__(self) -> dict[str, Any]:
        # The templates of the pages are quickly made again, and are no small thing to save.
        return self.__dict__ | {"_pages": None}

    def accept(self, _event: Event) -> Iterable[Chunk]:
        """Nothing: all is told at moments."""
        return ()

    def sample(self, block: Telemetry) -> Iterable[Chunk]:
        """What a block of telemetry adds."""
        shown = self._only_chosen(block)
        for k, time_s in enumerate(block.time_s.tolist()):
            unix_s = self._run.spec.start_unix_s + time_s
            yield from self._open(unix_s)
            end = b" %.3f\n" % unix_s
            for piece in self._pieces(shown, k):  # not joined: a page may be hundreds of MB
                yield self._file, b"".join(self._stamped(piece, end))
            rest = chain(self._job(time_s, end), self._up(shown, k, end))
            yield self._file, b"".join(rest)

    def close(self) -> Iterable[Chunk]:
        """The end of the last file."""
        if self._file:
            yield self._file, _END

    def _open(self, unix_s: float) -> Iterator[Chunk]:
        """Begin the file of the day, if it is another one."""
        day = datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
        file = f"{FOLDER}/{day}.om"
        if file == self._file:
            return
        yield from self.close()
        self._file, self._told = file, set()

    def _only_chosen(self, block: Telemetry) -> Telemetry:
        """The block without the GPUs that are not wanted."""
        if self._chosen is None:
            return block
        rest = tuple(sorted(set(range(self._run.spec.cluster.gpus)) - set(self._chosen)))
        return replace(block, lost=tuple((*lost, *rest) for lost in block.lost))

    def _pieces(self, block: Telemetry, k: int) -> list[bytes]:
        """What the page says of the GPUs at moment `k`."""
        if self._pages is None:
            self._pages = ScrapedPages(self._run, _metrics(self._names), Dialect.of())
        return self._pages.render(block, k, openmetrics=True)

    def _stamped(self, piece: bytes, end: bytes) -> Iterator[bytes]:
        """A piece of a page whose samples end with `end`."""
        for declared, lines in parted(piece):
            yield from self._new(declared)
            yield lines.replace(b"\n", end)

    def _job(self, time_s: float, end: bytes) -> Iterator[bytes]:
        """The lines of the job, as its page has them."""
        for family in families(self._run, self._run.job(time_s), Playing(1.0, time_s)):
            if family.name not in self._told:
                self._told.add(family.name)
                page = written([family], openmetrics=True)
                yield next(parted(page.removesuffix(_END)))[0]
            for name, labels, value, *_ in family.samples:
                own = "".join(f'{key}="{escaped(word)}",' for key, word in labels.items())
                told = floatToGoString(value)  # type: ignore[no-untyped-call]  # it has no types
                yield f'{name}{{{own}job="{JOB}",instance="{JOB_INSTANCE}"}} {told}'.encode() + end

    def _up(self, block: Telemetry, k: int, end: bytes) -> Iterator[bytes]:
        """Which targets answer."""
        yield from self._new(_UP)
        per_node, down = self._run.spec.cluster.gpus_per_node, set(block.nodes_down[k])
        added = targets(self._run, int(block.attempt[k]))
        nodes: Iterable[int] = range(len(added))
        if self._chosen is not None:
            nodes = sorted({gpu // per_node for gpu in self._chosen})
        for node in nodes:
            yield b"up{%b} %d" % (added[node], node not in down) + end
        yield f'up{{job="{JOB}",instance="{JOB_INSTANCE}"}} 1'.encode() + end

    def _new(self, declared: bytes) -> Iterator[bytes]:
        """A declaration, if the file has not got it yet."""
        if declared not in self._told:
            self._told.add(declared)
            yield declared


def parted(page: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The families of a page: the lines that declare one, and its samples."""
    at = 0
    while at < len(page):
        samples = at
        while page.startswith(b"#", samples):
            samples = page.index(b"\n", samples) + 1
        end = page.find(b"#", samples)  # one byte is found ten times as fast as two
        while end > 0 and page[end - 1 : end] != b"\n":
            end = page.find(b"#", end + 1)
        end = len(page) if end < 0 else end
        yield page[at:samples], page[samples:end]
        at = end


def wanted_metrics(fields: tuple[str, ...] | None) -> tuple[catalog.Metric, ...]:
    """The metrics of these fields of telemetry; None: those that `ghosttrain serve` has.

    Raises:
        SpecError: If dcgm-exporter has no metric of any of them.
    """
    if fields is None:
        return _metrics("default")
    named = [m.name for m in catalog.metrics() if m.field in fields and "node" not in m.lists]
    if not named:
        raise SpecError(
            f"--metrics {','.join(fields)}: dcgm-exporter has none of them;"
            " `ghosttrain list metrics` has what it has"
        )
    return _metrics(",".join(named))


def _metrics(words: str) -> tuple[catalog.Metric, ...]:
    return chosen_metrics(words, catalog.metrics())


def backfill(asked: Asked) -> Backfill:
    """What writes the files."""
    return Backfill(asked)
