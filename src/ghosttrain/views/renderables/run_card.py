"""RunCard: what every line about a run needs of its plan, worked out once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.events import RunStarted
from ghosttrain.core.laws.faults import LOSS_EFFECTS
from ghosttrain.core.plan import Plan
from ghosttrain.core.spec import RunSpec
from ghosttrain.core.units import TERA
from ghosttrain.views.renderables.glyphs import UNICODE, Glyphs

_DAY_S = 86400
_LOSS_MARGIN = 1.0  # nats above the first expected loss that still fit the column
_GRAD_WIDTH = len("12.345")  # of calm runs; spikes of the loss reach hundreds


@dataclass(frozen=True, slots=True, eq=False)
class RunCard:
    """A run's constants as drawings use them; equal only to itself, so that it is cheap to hash.

    Attributes:
        gpus, nodes: Ranks of the job, and the nodes they sit in.
        tflops_per_token_s: TFLOP/s of one GPU for a token per second of the whole job.
        step_width, loss_width, ppl_width, grad_width, tokens_width: Cells of the widest values
            expected.
        collectives_name: What the vendor calls its library.
    """

    plan: Plan
    seed: int
    glyphs: Glyphs
    gpus: int
    nodes: int
    total_steps: int
    steps_per_epoch: int
    samples_per_step: int
    tokens_per_step: int
    tflops_per_token_s: float
    step_width: int
    loss_width: int
    ppl_width: int
    grad_width: int
    tokens_width: int
    collectives_name: str

    @classmethod
    def of(cls, started: RunStarted, glyphs: Glyphs = UNICODE) -> RunCard:
        """The card of a run that has started."""
        plan, spec = started.plan, started.plan.spec
        recipe, gpus = spec.recipe, spec.cluster.gpus
        first = recipe.continued_loss or math.log(spec.model.vocab_size)
        astray = _may_go_astray(spec)
        if astray:
            first = max(first, math.log(spec.model.vocab_size))
        widest = first + _LOSS_MARGIN
        return cls(
            plan=plan,
            seed=started.seed,
            glyphs=glyphs,
            gpus=gpus,
            nodes=spec.cluster.nodes,
            total_steps=recipe.total_steps,
            steps_per_epoch=recipe.steps_per_epoch,
            samples_per_step=recipe.global_batch_size,
            tokens_per_step=recipe.tokens_per_step,
            tflops_per_token_s=plan.flops_per_token / gpus / TERA,
            step_width=len(str(recipe.total_steps)),
            loss_width=len(f"{widest:.4f}"),
            ppl_width=len(f"{math.exp(widest):.2f}"),
            grad_width=_GRAD_WIDTH + astray,
            tokens_width=len(f"{plan.tokens_per_s * 1.05:.0f}"),
            collectives_name="RCCL" if spec.gpu.vendor == "AMD" else "NCCL",
        )

    @property
    def spec(self) -> RunSpec:
        """What was asked."""
        return self.plan.spec

    def stamp(self, time_s: float) -> str:
        """`[2026-11-23 12:41:07]` of a moment of the run, UTC."""
        day, second = divmod(self.spec.start_unix_s + math.floor(time_s), _DAY_S)
        hour, rest = divmod(second, 3600)
        minute, second = divmod(rest, 60)
        return f"[{_date(day)} {hour:02d}:{minute:02d}:{second:02d}]"

    def stamp_columns(self, time_s: NDArray[np.float64]) -> dict[str, list[int] | list[str]]:
        """Date, hour, minute and second of many moments, as lists."""
        whole = np.floor(time_s).astype(np.int64)
        day, second = np.divmod(whole + self.spec.start_unix_s, _DAY_S)
        minute, second = np.divmod(second, 60)
        hour, minute = np.divmod(minute, 60)
        return {
            "date": [_date(d) for d in day.tolist()],
            "hour": hour.tolist(),
            "minute": minute.tolist(),
            "second": second.tolist(),
        }

    def place(self, rank: int) -> str:
        """`[Rank 12/64] [Node 1/8]` of a GPU by its global index."""
        width = len(str(self.gpus - 1))
        node = self.node(rank // self.spec.cluster.gpus_per_node)
        return f"[Rank {rank:{width}}/{self.gpus}] {node}"

    def node(self, node: int) -> str:
        """`[Node 1/8]`."""
        return f"[Node {node:{len(str(self.nodes - 1))}}/{self.nodes}]"


def _may_go_astray(spec: RunSpec) -> bool:
    """Whether a fault may drive the loss up, to that of a guess at worst."""
    kinds = (*(fault.kind for fault in spec.faults.injected), *spec.faults.drawn)
    return any(kind.effect in LOSS_EFFECTS for kind in kinds)


@lru_cache(maxsize=8)
def _date(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_S, UTC).strftime("%Y-%m-%d")
