"""Collections: the state of the run at one moment, which all scrapers see until the next one.

As dcgm-exporter does: what it serves is what it last collected.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from ghosttrain.exporters.prometheus.page import Moment, Pages, moment_of
from ghosttrain.exporters.prometheus.quirks import USUAL, Quirks

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.run import Run
    from ghosttrain.exporters.prometheus.dcgm import Dialect
    from ghosttrain.serve.live import LiveRun

KEPT_PAGES = 16  # of a collection: both formats of all nodes, plain and packed, and some nodes
PACKED_FROM_BYTES = 1024  # less is not worth packing
GATHERED_BYTES = 64 * 1024

Part = int | Literal["all", "job"]


class Wanted(NamedTuple):
    """Which page somebody wants: of a node, of all, or of the job; in which form."""

    part: Part
    openmetrics: bool = False
    packed: bool = False


class Page(NamedTuple):
    """A page as it is sent: its pieces, and whether they are packed."""

    pieces: tuple[bytes, ...]
    packed: bool

    @property
    def size(self) -> int:
        """Its length, bytes."""
        return sum(map(len, self.pieces))


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """The state of a run that all scrapers see until the next collection."""

    run: Run
    moment: Moment
    wall_s: float
    pages: OrderedDict[Wanted, Page] = field(default_factory=OrderedDict)


class Collector:
    """Collects when somebody asks and the last collection is too old.

    Its methods may be called from any thread; one at a time works.
    """

    def __init__(
        self,
        live: LiveRun,
        metrics: Sequence[Metric],
        dialect: Dialect,
        *,
        interval_s: float = 1.0,
        quirks: Quirks = USUAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.live = live
        self._metrics, self._dialect = tuple(metrics), dialect
        self._interval_s, self._quirks, self._clock = interval_s, quirks, clock
        self._lock = threading.RLock()
        self._pages = Pages(live.run, metrics, dialect)
        self._last: Collection | None = None

    def ready(self, wanted: Wanted) -> Page | None:
        """The page, if it is there already and young enough. Never waits."""
        last = self._last
        if last is None or self._clock() - last.wall_s >= self._interval_s:
            return None
        return last.pages.get(wanted)

    def collection(self) -> Collection:
        """The present collection."""
        with self._lock:
            now, last = self._clock(), self._last
            if last is None or now - last.wall_s >= self._interval_s:
                playing = self.live.move()
                run = self.live.run
                moment = moment_of(run, self._metrics, playing, self._quirks)
                last = Collection(run, moment, now)
                self._last = last
            return last

    def page(self, wanted: Wanted) -> Page | None:
        """A page of the present collection, None for a node that is down."""
        with self._lock:
            return self._page_of(self.collection(), wanted)

    def change(self, act: Callable[[LiveRun], None]) -> Collection:
        """Act on the run, and collect anew: what has been asked for shows at once.

        All of it is done at one moment, or nothing.
        """
        with self._lock:
            self.live.move()
            before = self.live.state()
            try:
                act(self.live)
            except BaseException:
                self.live.restore(before)
                raise
            self._last = None
            return self.collection()

    def _page_of(self, now: Collection, wanted: Wanted) -> Page | None:
        """A page of a collection, from those that are kept if it is there."""
        if isinstance(wanted.part, int) and wanted.part in now.moment.down:
            return None
        page = now.pages.get(wanted)
        if page is None:
            page = now.pages[wanted] = self._made(now, wanted)
            while len(now.pages) > KEPT_PAGES:
                now.pages.popitem(last=False)
        return page

    def _made(self, now: Collection, wanted: Wanted) -> Page:
        if wanted.packed:
            plain = self._page_of(now, wanted._replace(packed=False))
            assert plain is not None  # whoever asked knows that the node answers
            if plain.size < PACKED_FROM_BYTES:
                return plain
            return Page(tuple(_gathered(_packed(plain.pieces))), packed=True)
        if self._pages.run is not now.run:
            self._pages = Pages(now.run, self._metrics, self._dialect)
        pages, openmetrics = self._pages, wanted.openmetrics
        match wanted.part:
            case "all":
                pieces = pages.whole(now.moment, openmetrics=openmetrics)
            case "job":
                pieces = pages.job(now.moment, openmetrics=openmetrics)
            case node:
                pieces = pages.node(now.moment, node, openmetrics=openmetrics)
        return Page(tuple(_gathered(pieces)), packed=False)


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as one gzip file, as fast as it goes: a page of 94 MB is read once."""
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    yield from map(packer.compress, pieces)
    yield packer.flush()


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes with small pieces put together: each piece is a write of its own."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= GATHERED_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
