"""What a log says, whatever its format: the common stream that the invariants look at.

Every number comes with half a unit of its last printed digit, so that a check can allow for
rounding and for nothing else. Shapes: K = rows of a block, G = GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Value(NamedTuple):
    """A printed number and half a unit of its last digit (0: exact)."""

    value: float
    half: float = 0.0

    @property
    def relative(self) -> float:
        """What half a unit may change in a quotient by the value, as a share of it."""
        least = abs(self.value) - self.half
        return self.half / least if least > 0 else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """Printed numbers, shape (K,), NaN where nothing was printed, and their half units."""

    value: F64
    half: F64

    @property
    def relative(self) -> F64:
        """What half a unit may change in a quotient by the value, as a share of it."""
        return np.asarray(self.half / np.maximum(np.abs(self.value) - self.half, 1e-300))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the log has said of its run so far; None where it has not.

    Attributes:
        attention_width: Mean width of the attention products: a·d, for MLA what its heads have.
        planned_memory_gib: Memory per GPU of each pipeline stage.
        shard_bytes: Size of each file of the export.
        prints_every_step: Whether the format has a row for every step.
        is_thinned: Whether rows may be left out, as a terminal's are when a run goes fast.
    """

    model: str | None = None
    sharding: str | None = None
    schedule: str | None = None
    params: Value | None = None
    active_params: Value | None = None
    input_embedding_params: Value | None = None
    layers: Value | None = None
    heads: Value | None = None
    head_dim: Value | None = None
    attention_width: Value | None = None
    vocab_size: Value | None = None
    gpus: Value | None = None
    nodes: Value | None = None
    gpus_per_node: Value | None = None
    gpu_memory_gib: Value | None = None
    gpu_tdp_w: Value | None = None
    gpu_shutdown_c: Value | None = None
    peak_tflops: Value | None = None
    flops_per_token: Value | None = None
    seq_len: Value | None = None
    global_batch_size: Value | None = None
    tokens_per_step: Value | None = None
    epochs: Value | None = None
    steps_per_epoch: Value | None = None
    total_steps: Value | None = None
    continued_loss: Value | None = None
    loss_scale: Value | None = None
    peak_learning_rate: Value | None = None
    min_learning_rate_ratio: Value | None = None
    warmup_steps: Value | None = None
    decay_frac: Value | None = None
    tensor_parallel: Value | None = None
    pipeline_parallel: Value | None = None
    context_parallel: Value | None = None
    data_parallel: Value | None = None
    micro_batch_size: Value | None = None
    micro_batches: Value | None = None
    checkpoint_bytes: Value | None = None
    export_bytes: Value | None = None
    export_files: Value | None = None
    epoch_tokens: Value | None = None
    epoch_sequences: Value | None = None
    most_memory_gib: Value | None = None
    planned_memory_gib: tuple[float, ...] | None = None
    shard_bytes: tuple[int, ...] | None = None
    prints_every_step: bool = False
    is_thinned: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RunBegan:
    """A run begins; of its facts, what stands in the same line."""

    line: int
    facts: Facts
    time: Value
    says_simulated: bool | None = None
    schema: str | None = None
    is_in_midrun: bool = False  # it began before: the rows that follow are those of a window


@dataclass(frozen=True, slots=True, eq=False)
class FactsLearnt:
    """Further facts, by their names in Facts."""

    line: int
    facts: Mapping[str, object]


STEP_COLUMNS = (
    "time_s",
    "step",
    "attempt",
    "loss",
    "ppl",
    "grad_norm",
    "learning_rate",
    "step_time_s",
    "tokens_per_s",
    "tflops_per_gpu",
    "mfu",
    "eta_s",
    "tokens_seen",
    "epoch",
)


@dataclass(frozen=True, slots=True, eq=False)
class StepBlock:
    """Rows of steps with nothing but samples between them; `columns` by STEP_COLUMNS."""

    line: I64
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.line)

    def has(self, *names: str) -> bool:
        """Whether every one of these columns was printed."""
        return all(name in self.columns for name in names)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]


@dataclass(frozen=True, slots=True, eq=False)
class FleetBlock:
    """Samples of the GPUs. Values in columns of shape (K, G), with one half unit each.

    Attributes:
        row_step, row_time: Step and time of the step row each sample stands behind, NaN where
            it stands behind another row.
        lost: Indices of GPUs that do not answer, per sample.
        extra: Further columns by name, where the log has them, with their halves in `halves`.
        signs: Per sample, by name, what counters and marks of which GPUs show.
        means: Printed means of utilisation, temperature, power and memory, shape (K, 4).
    """

    line: I64
    time: Column
    step: I64
    row_step: F64
    row_time: F64
    util_pct: F64
    temp_c: F64
    memory_gib: F64
    power_w: F64
    halves: Mapping[str, float]
    lost: tuple[tuple[int, ...], ...]
    means: F64 | None = None
    extra: Mapping[str, F64] = field(default_factory=dict)
    signs: tuple[Mapping[str, Mapping[int, float]], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class CollectiveBlock:
    """Timings of collectives; `row_step` and `row_time` as in FleetBlock."""

    line: I64
    row_step: F64
    row_time: F64
    op: tuple[str, ...]
    columns: Mapping[str, Column]

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Any other row: its kind (the event's name) and what it says, by name.

    Attributes:
        lines: Where the numbers and words stand, if not all in `line`.
    """

    kind: str
    line: int
    time: Value | None = None
    numbers: Mapping[str, Value] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def line_of(self, name: str) -> int:
        """The line in which a number or word stands."""
        return self.lines.get(name, self.line)

    def get(self, name: str) -> Value | None:
        """The number of that name, None where it was not printed or is not finite."""
        value = self.numbers.get(name)
        return value if value is not None and math.isfinite(value.value) else None

    def within(self, name: str) -> list[float]:
        """The numbers of a list of that name."""
        return [v.value for key, v in self.numbers.items() if key.startswith(f"{name}.")]


@dataclass(frozen=True, slots=True, eq=False)
class Unreadable:
    """A line that breaks the format: the name of the broken rule, what was found and expected."""

    line: int
    rule: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class LogEnded:
    """The file is over; `truncated` if its last line has no newline."""

    line: int
    truncated: bool = False


Seen = (
    RunBegan
    | FactsLearnt
    | StepBlock
    | FleetBlock
    | CollectiveBlock
    | Observation
    | Unreadable
    | LogEnded
)
