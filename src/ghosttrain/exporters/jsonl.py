"""JSONL: the typed events, one row a line whatever the windows.

Each row has `event` and `time_s`; steps, collective timings and fleet samples are rows of
their own, in this order at equal times. The first row carries the schema's name and says that
everything is simulated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import (
    CollectiveSamples,
    Event,
    FleetSampled,
    FleetSamples,
    IncidentLabelled,
    RunStarted,
    StepsCompleted,
)
from ghosttrain.core.laws.architecture import attention_width
from ghosttrain.core.plan import Plan
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.units import GB
from ghosttrain.exporters.step_lines import Form, Scratch, StepLines, form_of
from ghosttrain.exporters.writing import Asked

SCHEMA = "ghosttrain.events/1"

_COLLECTIVE = (
    '{"event":"collective","time_s":%.6f,"step":%d,"op":"%s","layer":%d,"size_bytes":%d,'
    '"ranks":%d,"duration_s":%.9f,"busbw_gbs":%.3f}\n'
)
_FLEET = (
    '{"event":"fleet","time_s":%.6f,"step":%d,"util_pct":%s,"temp_c":%s,"memory_gib":%s,'
    '"power_w":%s,"sm_clock_mhz":%s,"sm_active":%s,"tensor_active":%s,"nvlink_gbs":%s,"ib_gbs":%s,'
    '"signs":%s,"lost":%s}\n'
)


class JsonlWriter:
    """Turns the events of one run after the other into lines of JSON.

    Args:
        started: The run, where its events may begin in the middle of it: the first row is of it
            then too, with the time at which the run began.
        from_s: Where they begin then.
    """

    def __init__(self, started: RunStarted | None = None, from_s: float = 0.0) -> None:
        self._plan: Plan | None = None
        self._seed = 0
        self._signals: SignalSource | None = None
        self._form: Form | None = None
        self._scratch = Scratch()
        self._started = started
        self._from_s = from_s

    def __getstate__(self) -> tuple[RunStarted | None, float, Plan | None, int]:
        """What it is made of; the source of signals has caches that cannot be saved."""
        return self._started, self._from_s, self._plan, self._seed

    def __setstate__(self, state: tuple[RunStarted | None, float, Plan | None, int]) -> None:
        """Be as saved."""
        self._started, self._from_s, self._plan, self._seed = state
        self._signals = None if self._plan is None else SignalSource(self._plan, self._seed)
        self._form = None if self._plan is None else form_of(self._plan)
        self._scratch = Scratch()

    def accept(self, event: Event) -> bytes:
        """The lines of one event, complete with their newlines."""
        return self.accept_all([event])

    def accept_all(self, events: Sequence[Event]) -> bytes:
        """The lines of events in their order; steps are written together, whatever is between."""
        if not events:
            return b""
        lines = [b"" if isinstance(events[0], RunStarted) else self._head()]
        self._started = None
        batches = [event for event in events if isinstance(event, StepsCompleted)]
        steps: StepLines | None = None
        written, done = 0, 0  # positions among all their steps
        for event in events:
            if isinstance(event, StepsCompleted):
                assert self._form is not None, "a run's events begin with RunStarted"
                steps = steps or StepLines(batches, self._form, self._scratch)
                for at, samples in self._samples(event):
                    lines += [steps.part(written, done + at + 1), *samples]
                    written = done + at + 1
                done += len(event.step)
                continue
            if steps is not None and written < done:
                lines.append(steps.part(written, done))
                written = done
            lines.append(self._other(event))
        if steps is not None:
            lines.append(steps.part(written, done))
        return b"".join(lines)

    def _head(self) -> bytes:
        """The first row of events that begin in the middle of a run, until they have begun."""
        started, self._started = self._started, None
        if started is None:
            return b""
        self._begin(started)
        return _line(run_row(started) | {"from_s": self._from_s})

    def _begin(self, started: RunStarted) -> None:
        self._plan, self._seed = started.plan, started.seed
        self._signals = SignalSource(started.plan, started.seed)
        self._form = form_of(started.plan)

    def _other(self, event: Event) -> bytes:
        """The line of an event that is no steps."""
        if isinstance(event, RunStarted):
            self._begin(event)
            return _line(run_row(event))
        if isinstance(event, FleetSampled):
            return self._fleet(event.samples, 0)
        return _line(event_row(event))

    def close(self) -> bytes:
        """What run it is of, if nothing happened; else every line has been given."""
        return self._head()

    def _samples(self, event: StepsCompleted) -> Iterator[tuple[int, list[bytes]]]:
        """Positions of steps at which samples were taken, and the lines of those."""
        after: dict[int, list[bytes]] = {}
        if event.collectives is not None:
            for k, at in enumerate((event.collectives.step - event.step[0]).tolist()):
                after.setdefault(at, []).append(self._collective(event.collectives, k))
        if event.fleet is not None:
            for k, at in enumerate((event.fleet.step - event.step[0]).tolist()):
                after.setdefault(at, []).append(self._fleet(event.fleet, k))
        yield from sorted(after.items())

    def _fleet(self, samples: FleetSamples, k: int) -> bytes:
        """One fleet row, values quantised as telemetry reports them."""
        assert self._plan is not None
        assert self._signals is not None
        signals = self._signals.at(samples, k)
        line = _FLEET % (
            samples.time_s[k],
            samples.step[k],
            _integers(samples.util_pct[k]),
            _integers(samples.temp_c[k]),
            _decimals(samples.memory_gib[k], 2),
            _decimals(samples.power_w[k], 1),
            _integers(signals.sm_clock_mhz),
            _decimals(signals.sm_active, 3),
            _decimals(signals.tensor_active, 3),
            _decimals(signals.nvlink_bytes_per_s / np.float32(GB), 1),
            _decimals(signals.network_bytes_per_s / np.float32(GB), 1),
            _signs(signals.signs),
            list(samples.lost),
        )
        return line.encode()

    def _collective(self, samples: CollectiveSamples, k: int) -> bytes:
        assert self._plan is not None
        base = self._plan.gradient_collective
        line = _COLLECTIVE % (
            samples.time_s[k],
            samples.step[k],
            base.op,
            samples.layer[k],
            base.size_bytes,
            base.ranks,
            samples.duration_s[k],
            samples.busbw_gbs[k],
        )
        return line.encode()


def event_row(event: Event) -> dict[str, Any]:
    """The row of an event whose fields are the row's."""
    row = {"event": _snake(type(event).__name__), **asdict(event)}
    if isinstance(event, IncidentLabelled):
        row["signals"] = dict(event.signals)
    plain: dict[str, Any] = _finite(row)
    return plain


def jsonl_log(asked: Asked) -> JsonlWriter:
    """What makes the log."""
    return JsonlWriter(RunStarted(0.0, asked.run.seed, asked.run.plan), asked.start_s)


def _signs(signs: tuple[tuple[str, int, int], ...]) -> str:
    """Counters and marks by name, then by GPU."""
    table: dict[str, dict[int, int]] = {}
    for name, gpu, value in signs:
        table.setdefault(name, {})[gpu] = value
    return json.dumps(table, separators=(",", ":"))


def _integers(values: NDArray[np.float32]) -> str:
    return str(np.rint(values).astype(np.int64).tolist()).replace(" ", "")


def _decimals(values: NDArray[np.float32], digits: int) -> str:
    return str(np.round(values.astype(np.float64), digits).tolist()).replace(" ", "")


def run_row(event: RunStarted) -> dict[str, Any]:
    """The facts of the run, as its first row gives them."""
    plan = event.plan
    spec, recipe, layout = plan.spec, plan.spec.recipe, plan.layout
    return {
        "event": "run_started",
        "time_s": event.time_s,
        "schema": SCHEMA,
        "simulated": True,
        "seed": event.seed,
        "start": datetime.fromtimestamp(spec.start_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": spec.model.name,
        "params": plan.params.total,
        "active_params": plan.params.active,
        "input_embedding_params": plan.params.input_embedding,
        "layers": spec.model.layers,
        "heads": spec.model.heads,
        "head_dim": spec.model.head_dim,
        "attention_width": attention_width(spec.model),
        "vocab_size": spec.model.vocab_size,
        "dataset": spec.dataset.name,
        "loss_scale": spec.dataset.loss_scale,
        "gpu": spec.gpu.product_name,
        "gpu_memory_gib": round(spec.gpu.memory_gib, 3),
        "gpu_tdp_w": spec.gpu.tdp_w,
        "gpu_shutdown_c": spec.gpu.shutdown_c,
        "gpus": spec.cluster.gpus,
        "nodes": spec.cluster.nodes,
        "gpus_per_node": spec.cluster.gpus_per_node,
        "precision": recipe.precision,
        "peak_tflops": plan.peak_tflops,
        "flops_per_token": plan.flops_per_token,
        "seq_len": recipe.seq_len,
        "global_batch_size": recipe.global_batch_size,
        "tokens_per_step": recipe.tokens_per_step,
        "epochs": recipe.epochs,
        "steps_per_epoch": recipe.steps_per_epoch,
        "total_steps": recipe.total_steps,
        "continued_loss": recipe.continued_loss,
        "schedule": recipe.schedule,
        "peak_learning_rate": recipe.peak_learning_rate,
        "min_learning_rate_ratio": recipe.min_learning_rate_ratio,
        "warmup_steps": recipe.warmup_steps,
        "decay_frac": recipe.decay_frac,
        "layout": asdict(layout),
        "memory_gib": [round(stage.used_gib, 3) for stage in plan.stage_memory],
        "checkpoint_bytes": plan.checkpoint_bytes,
        "export_bytes": plan.export_bytes,
        "shard_bytes": list(plan.shard_bytes),
    }


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(_finite(row), separators=(",", ":")).encode() + b"\n"


def _finite(value: Any) -> Any:
    """The value with floats JSON has no word for as null, and short decimals."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
