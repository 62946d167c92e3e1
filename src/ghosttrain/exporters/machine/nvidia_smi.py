"""nvidia-smi's logs of each host: CSV of a query, and dmon.

`nvidia-smi/HOST.csv` is what `nvidia-smi --query-gpu=... --format=csv -lms N` writes,
`dmon/HOST.log` what `nvidia-smi dmon -d N` does, N being the time between moments of telemetry. A
node that is down writes nothing; a spare that takes its place has files of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from ghosttrain.core.events import Event
from ghosttrain.core.identity import host_name
from ghosttrain.exporters.machine.smi_rows import (
    DMON_FIELDS,
    DMON_HEADER,
    QUERY_FIELDS,
    QUERY_HEADER,
    dmon_rows,
    query_rows,
)
from ghosttrain.exporters.writing import Asked, Chunk

if TYPE_CHECKING:
    from ghosttrain.core.telemetry import Telemetry

_HEADER_EVERY = 20  # rows: dmon repeats its header about as often


class HostFiles:
    """Files of hosts, made of telemetry alone.

    Attributes:
        fields: The telemetry they need.
        pattern: Name of a host's file.
        ranks: Whose rows are wanted, ascending.
    """

    fields: tuple[str, ...] = ()
    pattern = "{host}"

    def __init__(self, asked: Asked) -> None:
        self.run = asked.run
        cluster = asked.run.spec.cluster
        self.per_node = cluster.gpus_per_node
        self.ranks = list(range(cluster.gpus) if asked.gpus is None else asked.gpus)
        self._parts: list[tuple[int, slice]] = []  # node, and where its ranks are among these
        for node, ranks in groupby(self.ranks, lambda rank: rank // self.per_node):
            first = self._parts[-1][1].stop if self._parts else 0
            self._parts.append((node, slice(first, first + len(list(ranks)))))

    def accept(self, _event: Event) -> Iterable[Chunk]:
        """Nothing: events say nothing of this."""
        return ()

    def close(self) -> Iterable[Chunk]:
        """Nothing: every line has been given."""
        return ()

    def _file(self, node: int, attempt: int) -> str:
        machine = dict(self.run.timeline.spares(attempt)).get(node, node)
        return self.pattern.format(host=host_name(self.run.spec.cluster, machine))


class HostLogs(HostFiles, ABC):
    """Files that grow by some rows at each moment."""

    def sample(self, block: Telemetry) -> Iterable[Chunk]:
        """The lines of all moments of the block, by file."""
        lines: dict[str, list[str]] = {}
        hosts: dict[int, list[str]] = {}
        for moment, attempt in enumerate(block.attempt.tolist()):
            if attempt not in hosts:
                hosts[attempt] = [self._file(node, attempt) for node, _ in self._parts]
            down = frozenset(block.nodes_down[moment])
            rows = self._rows(block, moment)
            for (node, part), file in zip(self._parts, hosts[attempt], strict=True):
                if node not in down:
                    mine = rows[part]
                    lines.setdefault(file, []).extend((*self._head(file, len(mine)), *mine))
        for file, written in lines.items():
            yield file, "".join(f"{line}\n" for line in written).encode()

    @abstractmethod
    def _rows(self, block: Telemetry, moment: int) -> list[str]:
        """A row for each of the ranks."""

    @abstractmethod
    def _head(self, file: str, rows: int) -> Iterator[str]:
        """What stands before so many rows of a moment in a file."""


class QueryLogs(HostLogs):
    """`nvidia-smi --query-gpu`, one CSV a host."""

    fields = QUERY_FIELDS
    pattern = "nvidia-smi/{host}.csv"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._begun: set[str] = set()

    def _rows(self, block: Telemetry, moment: int) -> list[str]:
        spec = self.run.spec
        return query_rows(block, moment, self.ranks, spec)

    def _head(self, file: str, rows: int) -> Iterator[str]:
        del rows
        if file not in self._begun:
            self._begun.add(file)
            yield QUERY_HEADER


class DmonLogs(HostLogs):
    """`nvidia-smi dmon`, one log a host."""

    fields = DMON_FIELDS
    pattern = "dmon/{host}.log"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._since_header: dict[str, int] = {}

    def _rows(self, block: Telemetry, moment: int) -> list[str]:
        return dmon_rows(block, moment, self.ranks, self.run.spec)

    def _head(self, file: str, rows: int) -> Iterator[str]:
        since = self._since_header.get(file, _HEADER_EVERY)
        if since >= _HEADER_EVERY:
            yield from DMON_HEADER
            since = 0
        self._since_header[file] = since + rows


def query_logs(asked: Asked) -> QueryLogs:
    """What makes the CSV files."""
    return QueryLogs(asked)


def dmon_logs(asked: Asked) -> DmonLogs:
    """What makes dmon's logs."""
    return DmonLogs(asked)
