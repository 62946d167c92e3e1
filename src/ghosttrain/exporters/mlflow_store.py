"""MLflow: a run for each launch in a file store, `mlruns/`, that MLflow reads and migrates.

Metrics are those of the Trainer's MLflowCallback, and of MLflow's own monitor of the GPUs beside
it. MLflow's store would write the same lines, but one file opened for every point.

Source: mlflow/mlflow, mlflow/store/tracking/file_store.py; system_metrics/metrics/gpu_monitor.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ghosttrain.core.events import (
    Event,
    Phase,
    RunAborted,
    RunFinished,
    RunRestarted,
    RunStarted,
)
from ghosttrain.core.units import MB, MIB
from ghosttrain.exporters.scalars import Scalars, caught_up
from ghosttrain.exporters.tag_sets import tag_set
from ghosttrain.exporters.tracked_run import PROJECT, config, launches, run_digest, run_name
from ghosttrain.exporters.writing import Asked, Chunk
from ghosttrain.inputs.spec_file import write_spec_file

if TYPE_CHECKING:
    from ghosttrain.core.telemetry import Telemetry

FOLDER = "mlruns"
EXPERIMENT = "451019201204213114"  # what all runs of ours stand in: digits, as MLflow's own
_USER = "ghosttrain"
_RUNNING, _FINISHED, _FAILED = 1, 3, 4  # mlflow/protos/service.proto, RunStatus
_SOURCE_LOCAL = 4
_MEMORY = ("fb_used_mib", "fb_free_mib", "fb_reserved_mib")
_FIELDS = ("gpu_util_pct", "power_w", "power_limit_w", *_MEMORY)


class FileStore:
    """Turns events and telemetry of the node that tells into runs of a file store.

    Attributes:
        fields: The telemetry it wants.
    """

    fields = _FIELDS

    def __init__(self, asked: Asked) -> None:
        run = asked.run
        tags = tag_set("hf", run, asked.log_interval)
        self._tags = caught_up(tags, run, asked.start_s)
        self._run, self._every_s = run, asked.every_s
        self._launches = launches(run, "hf")
        self._ids = [run_digest(run, "mlflow", one.number)[:16].hex() for one in self._launches]
        self._launch = run.span_at(asked.start_s).attempt
        self._begun: set[int] = set()
        self._ended: set[int] = set()

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What `event` adds."""
        if isinstance(event, RunRestarted):
            self._launch = event.attempt
        if isinstance(event, RunStarted | RunRestarted):
            yield from self._begin(self._launch)
        for told in self._tags.accept(event):
            yield from self._begin(self._launch)
            yield from self._metrics(told)
        if isinstance(event, RunAborted):
            yield from self._end(event.attempt, _FAILED, event.time_s)
        if isinstance(event, RunFinished):
            yield from self._end(self._launch, _FINISHED, event.time_s)

    def sample(self, block: Telemetry) -> Iterable[Chunk]:
        """What a block of telemetry adds."""
        lines: dict[str, list[str]] = {}
        for k, time_s in enumerate(block.time_s.tolist()):
            if self._run.span_at(time_s).phase is Phase.DOWN:
                continue  # nobody is there to read them
            number = int(block.attempt[k])
            yield from self._begin(number)
            launch = self._launches[number - 1]
            step = round(time_s / self._every_s) - math.ceil(launch.made_s / self._every_s)
            for key, value in self._gpu_metrics(block, k).items():
                line = f"{self._millis(time_s)} {value} {step}\n"
                lines.setdefault(f"{self._folder(number)}/metrics/system/{key}", []).append(line)
        for name, added in lines.items():
            yield name, "".join(added).encode()

    def close(self) -> Iterable[Chunk]:
        """What is left: a launch that still goes on."""
        yield from self._begin(self._launch)
        for number in sorted(self._begun - self._ended):
            yield from self._end(number, _RUNNING, None)

    def _gpu_metrics(self, block: Telemetry, k: int) -> dict[str, float]:
        """What MLflow's monitor reads of the GPUs of the first node at moment `k`."""
        columns, lost = block.columns, set(block.lost[k])
        cluster = self._run.spec.cluster
        values: dict[str, float] = {}
        for gpu in range(min(cluster.gpus_per_node, cluster.gpus)):
            if gpu in lost:
                continue
            util, power_w, limit_w, *memory = (float(columns[name][k, gpu]) for name in _FIELDS)
            used_mib = memory[0]
            values |= {
                f"gpu_{gpu}_memory_usage_percentage": round(100 * used_mib / sum(memory), 1),
                f"gpu_{gpu}_memory_usage_megabytes": round(used_mib * MIB / MB, 1),
                f"gpu_{gpu}_utilization_percentage": round(util, 1),
                f"gpu_{gpu}_power_usage_watts": round(power_w, 1),
                f"gpu_{gpu}_power_usage_percentage": round(100 * power_w / limit_w, 1),
            }
        return values

    def _metrics(self, told: Scalars) -> Iterator[Chunk]:
        folder = self._folder(self._launch)
        stamps = [self._millis(time_s) for time_s in told.time_s.tolist()]
        steps = told.step.tolist()
        for tag, column in zip(told.tags, told.values.T.tolist(), strict=True):
            rows = zip(stamps, column, steps, strict=True)
            lines = "".join(f"{stamp} {value} {step}\n" for stamp, value, step in rows)
            yield f"{folder}/metrics/{_trainer_key(tag)}", lines.encode()

    def _begin(self, number: int) -> Iterator[Chunk]:
        """The experiment, parameters and tags of a launch, once."""
        if number in self._begun:
            return
        if not self._begun:
            yield f"{FOLDER}/{EXPERIMENT}/meta.yaml", self._experiment()
        self._begun.add(number)
        folder, name = self._folder(number), self._name(number)
        for key, value in _flat(config(self._run) | {"launch": number}):
            yield f"{folder}/params/{key}", value.encode()
        tags = {
            "mlflow.runName": name,
            "mlflow.user": _USER,
            "mlflow.source.name": "ghosttrain",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": "Simulated by ghosttrain: no GPU was there.",
            "simulated": "true",
            "seed": str(self._run.seed),
            "host": self._launches[number - 1].host,
        }
        for key, value in tags.items():
            yield f"{folder}/tags/{key}", value.encode()
        yield f"{folder}/artifacts/run.toml", write_spec_file(self._run.spec).encode()

    def _end(self, number: int, status: int, time_s: float | None) -> Iterator[Chunk]:
        """What the store says of a launch, written when it is known how it ended."""
        yield from self._begin(number)
        self._ended.add(number)
        facts: dict[str, Any] = {
            "artifact_uri": f"mlflow-artifacts:/{EXPERIMENT}/{self._ids[number - 1]}/artifacts",
            "end_time": None if time_s is None else self._millis(time_s),
            "entry_point_name": "",
            "experiment_id": EXPERIMENT,
            "lifecycle_stage": "active",
            "run_id": self._ids[number - 1],
            "run_name": self._name(number),
            "run_uuid": self._ids[number - 1],
            "source_name": "",
            "source_type": _SOURCE_LOCAL,
            "source_version": "",
            "start_time": self._millis(self._launches[number - 1].made_s),
            "status": status,
            "tags": [],
            "user_id": _USER,
        }
        yield f"{self._folder(number)}/meta.yaml", _yaml(facts)

    def _experiment(self) -> bytes:
        began = self._millis(0.0)
        return _yaml(
            {
                "artifact_location": f"mlflow-artifacts:/{EXPERIMENT}",
                "creation_time": began,
                "experiment_id": EXPERIMENT,
                "last_update_time": began,
                "lifecycle_stage": "active",
                "name": PROJECT,
            }
        )

    def _folder(self, number: int) -> str:
        return f"{FOLDER}/{EXPERIMENT}/{self._ids[number - 1]}"

    def _name(self, number: int) -> str:
        return f"{run_name(self._run)}-launch{number}"

    def _millis(self, time_s: float) -> int:
        return round(1000 * (self._run.spec.start_unix_s + time_s))


def _trainer_key(tag: str) -> str:
    """The Trainer's own key, which TensorBoard's callback made a tag of."""
    where, _, key = tag.partition("/")
    return f"eval_{key}" if where == "eval" else key


def _flat(facts: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Keys with dots for what is nested, and values as text."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", str(value)


def _yaml(facts: dict[str, Any]) -> bytes:
    """A flat mapping; JSON's scalars are YAML's."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in facts.items()).encode()


def file_store(asked: Asked) -> FileStore:
    """What writes the store."""
    return FileStore(asked)
