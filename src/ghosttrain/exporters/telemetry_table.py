"""The table of telemetry: a row for each moment and GPU, in this order.

Shapes: K = moments of a block, M = moments of a part, C = chosen GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ghosttrain.core.identity import host_name
from ghosttrain.core.telemetry import Telemetry
from ghosttrain.core.timeline import physical_nodes
from ghosttrain.exporters.metric_choice import chosen_metrics
from ghosttrain.exporters.parquet_parts import (
    ROWS_PER_GROUP,
    ROWS_PER_PART,
    Column,
    part_name,
    schema_of,
    written,
)
from ghosttrain.exporters.writing import Asked, Chunk

SCHEMA = "ghosttrain.telemetry/1"
PLACES = (
    Column("time_s", "double", False, "Moment, simulated seconds since the run began."),
    Column("attempt", "int32", False, "Launch it is in, from 1."),
    Column("gpu", "int32", False, "Rank of the GPU."),
    Column("node", "int32", False, "Node of the rank."),
    Column("host", "dictionary", False, "Host name of the machine in that place: a spare's too."),
)


class TelemetryTable:
    """Collects the moments of a part and makes files of them.

    Args:
        said: What its files say of themselves.

    Attributes:
        fields: Of `Telemetry.columns`.
    """

    def __init__(self, asked: Asked, said: Mapping[str, str]) -> None:
        self._asked, self._said = asked, {**said, "schema": SCHEMA}
        cluster = asked.run.spec.cluster
        self._metrics = chosen_metrics(asked.metrics)
        self.fields = tuple(metric.field for metric in self._metrics)
        gpus = range(cluster.gpus) if asked.gpus is None else asked.gpus
        self._gpus = np.array(gpus, np.int32)
        self._moments = max(1, ROWS_PER_PART // len(self._gpus))  # of a part
        self._parts = 0
        self._time_s: list[float] = []
        self._attempt: list[int] = []
        self._blocks: list[tuple[NDArray[Any], ...]] = []  # values by metric, each (K, C)
        self._silent: list[NDArray[np.bool_] | None] = []  # GPUs that do not answer, by moment

    def sample(self, block: Telemetry) -> Iterator[Chunk]:
        """The files that a block completes."""
        done = 0
        while done < len(block.time_s):
            take = min(len(block.time_s) - done, self._moments - len(self._time_s))
            self._keep(block.part(done, done + take))
            done += take
            if len(self._time_s) == self._moments:
                yield self._file()

    def close(self) -> Iterator[Chunk]:
        """The last file; an empty one if there was no moment at all."""
        if self._time_s or not self._parts:
            yield self._file()

    def _keep(self, block: Telemetry) -> None:
        self._time_s += block.time_s.tolist()
        self._attempt += block.attempt.tolist()
        self._blocks.append(
            tuple(
                metric.quantised(block.columns[metric.field][:, self._columns])
                for metric in self._metrics
            )
        )
        self._silent += [
            self._mask(lost, nodes)
            for lost, nodes in zip(block.lost, block.nodes_down, strict=True)
        ]

    @property
    def _columns(self) -> slice | NDArray[np.int32]:
        return slice(None) if self._asked.gpus is None else self._gpus

    def _mask(self, lost: Sequence[int], nodes: Sequence[int]) -> NDArray[np.bool_] | None:
        """Which of the chosen GPUs do not answer; None if all do."""
        if not lost and not nodes:
            return None
        per_node = self._asked.run.spec.cluster.gpus_per_node
        mask = np.isin(self._gpus, lost) | np.isin(self._gpus // per_node, nodes)
        return mask if mask.any() else None

    def _file(self) -> Chunk:
        columns = [*PLACES, *(Column(m.field, m.type, True, "") for m in self._metrics)]
        schema = schema_of(columns, self._said)
        data = written(schema, self._groups())
        name = part_name("telemetry", self._parts)
        self._parts += 1
        self._time_s, self._attempt, self._blocks, self._silent = [], [], [], []
        return name, data

    def _groups(self) -> Iterator[Mapping[str, Any]]:
        """The rows kept, some moments at a time."""
        values = [np.concatenate(parts) for parts in zip(*self._blocks, strict=True)]
        some = max(1, min(ROWS_PER_GROUP // len(self._gpus), len(self._time_s)))
        gpus = np.tile(self._gpus, some)
        nodes = gpus // np.int32(self._asked.run.spec.cluster.gpus_per_node)
        for first in range(0, len(self._time_s), some):
            at = slice(first, min(first + some, len(self._time_s)))
            attempts = np.array(self._attempt[at], np.int32)
            rows = len(attempts) * len(self._gpus)
            yield {
                "time_s": np.repeat(np.array(self._time_s[at]), len(self._gpus)),
                "attempt": np.repeat(attempts, len(self._gpus)),
                "gpu": gpus[:rows],
                "node": nodes[:rows],
                "host": self._hosts(attempts),
                **dict(self._values(at, values)),
            }

    def _hosts(self, attempts: NDArray[np.int32]) -> pa.Array:
        """Host name of each row; spares may have come with an attempt."""
        run = self._asked.run
        cluster = run.spec.cluster
        nodes = self._gpus // cluster.gpus_per_node
        machines = {
            attempt: physical_nodes(run.timeline, cluster.nodes, attempt)
            for attempt in dict.fromkeys(attempts.tolist())
        }
        there = np.unique(np.concatenate([m[nodes] for m in machines.values()]))
        index = {
            attempt: np.searchsorted(there, m).astype(np.int32)[nodes]
            for attempt, m in machines.items()
        }
        rows = np.concatenate([index[attempt] for attempt in attempts.tolist()])
        names = [host_name(cluster, int(node)) for node in there]
        return pa.DictionaryArray.from_arrays(rows, names)

    def _values(
        self, at: slice, values: Iterable[NDArray[Any]]
    ) -> Iterator[tuple[str, NDArray[Any] | pa.Array]]:
        """The metrics, null where a GPU does not answer."""
        masks = self._silent[at]
        mask: NDArray[np.bool_] | None = None
        if any(m is not None for m in masks):
            none = np.zeros(len(self._gpus), bool)
            mask = np.concatenate([none if m is None else m for m in masks])
        for metric, column in zip(self._metrics, values, strict=True):
            flat = column[at].reshape(-1)
            yield metric.field, flat if mask is None else pa.array(flat, mask=mask)
