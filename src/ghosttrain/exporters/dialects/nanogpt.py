"""nanoGPT's log: what train.py of karpathy/nanoGPT prints in rank 0 (master of 2025).

Iterations count from 0: iteration n is the run's step n + 1, and `step n:` is said when n steps are
done. At each multiple of the log interval

    iter {n}: loss {loss:.4f}, time {ms:.2f}ms, mfu {pct:.2f}%

with the loss of that step, the time since the step before it was done (stops between them
count), and an average of MFU that moves by a tenth each line. MFU is what nanoGPT takes for it: 6
FLOPs per parameter but the positions' and 12 layers heads head_dim sequence, against the 312
TFLOP/s of an A100, whatever the card; -100.00% in the first five iterations of a launch.

A log that begins in the middle of a run takes the first step's own time, and begins its average
of MFU, where it is told of none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.core.events import (
    Event,
    MessageLogged,
    Phase,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    StepsCompleted,
    TrainingStarted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.spec import GATED_MLPS, Model
from ghosttrain.exporters.dialects.launches import launch_of
from ghosttrain.exporters.dialects.programs import Program
from ghosttrain.exporters.dialects.rank_zero_log import RankZeroLog

if TYPE_CHECKING:
    from ghosttrain.core.plan import Plan
    from ghosttrain.exporters.writing import Asked

A100_FLOPS = 312e12  # model.py, estimate_mfu: "A100 GPU bfloat16 peak flops"
SETTLED = 5  # iterations of a launch before there is an MFU
KEPT = 0.9  # of the average, each line

_TRAIN = "/workspace/nanoGPT/train.py"
_MODULE = "/opt/venv/lib/python3.12/site-packages/torch/nn/modules/module.py"
PROGRAM = Program(
    name="train.py",
    main=(),
    step=(
        (_TRAIN, 300, "<module>", "logits, loss = model(X, Y)"),
        (_MODULE, 1739, "_wrapped_call_impl", "return self._call_impl(*args, **kwargs)"),
    ),
    load=((_TRAIN, 161, "<module>", "checkpoint = torch.load(ckpt_path, map_location=device)"),),
    save=((_TRAIN, 286, "<module>", "torch.save(checkpoint, os.path.join(out_dir, 'ckpt.pt'))"),),
    data=(
        (_TRAIN, 303, "<module>", "X, Y = get_batch('train')"),
        (
            _TRAIN,
            122,
            "get_batch",
            "x = torch.stack([torch.from_numpy((data[i:i+block_size]).astype(np.int64))"
            " for i in ix])",
        ),
    ),
    shard="ckpt.pt",
    is_sharded=False,
)


class NanoLog(RankZeroLog):
    """Turns the events of a run into nanoGPT's log."""

    program = PROGRAM

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._folder = asked.run.output_path
        self._flops = flops_per_iteration(asked.run.plan)
        self._attempt = 0
        self._first_step = 0  # last completed one when this launch began
        self._last_end_s: float | None = None
        self._running_mfu = -1.0

    def lines(self, event: Event) -> Iterator[str]:
        """The lines that `event` adds."""
        match event:
            case StepsCompleted():
                yield from self._steps(event)
            case PhaseStarted(phase=Phase.WEIGHTS):
                yield from self._start(event.step, event.time_s)
            case PhaseEnded(phase=Phase.ALL_REDUCE_TEST):
                yield "compiling the model... (takes a ~minute)"
            case PhaseStarted(phase=Phase.CHECKPOINT):
                yield f"saving checkpoint to {self._folder}"
            case TrainingStarted():
                self._enter(event.attempt)
                self._last_end_s = event.time_s
            case ValidationCompleted():
                losses = f"train loss {event.train_loss:.4f}, val loss {event.loss:.4f}"
                yield f"step {event.step}: {losses}"
            case MessageLogged() | WatchdogTimedOut() | RunFinished():
                yield from self.job(event)

    def loading(self, step: int, time_s: float) -> str:
        """The line before it is read."""
        del step, time_s  # there is one checkpoint, and no stamp
        return f"Resuming training from {self._folder}"

    def _start(self, step: int, time_s: float) -> Iterator[str]:
        """Until the model stands."""
        plan, model = self._plan, self._plan.spec.model
        yield f"tokens per iteration will be: {plan.spec.recipe.tokens_per_step:,}"
        yield f"found vocab_size = {model.vocab_size} (inside {self._meta_path})"
        yield self.loading(step, time_s) if step else "Initializing a new model from scratch"
        yield f"number of parameters: {_shown_params(plan) / 1e6:.2f}M"
        other_tensors, other = undecayed(model)
        tensors = decayed_tensors(model)
        decayed = f"{tensors}, with {plan.params.total - other:,} parameters"
        yield f"num decayed parameter tensors: {decayed}"
        yield f"num non-decayed parameter tensors: {other_tensors}, with {other:,} parameters"
        yield "using fused AdamW: True"

    @property
    def _meta_path(self) -> str:
        name = self._plan.spec.dataset.name.lower().replace(" ", "-")
        return f"data/{name}/meta.pkl"

    def _enter(self, attempt: int) -> None:
        self._attempt, self._running_mfu, self._last_end_s = attempt, -1.0, None
        self._first_step = launch_of(self._timeline, self._plan, attempt).step

    def _steps(self, event: StepsCompleted) -> Iterator[str]:
        if event.attempt != self._attempt:
            self._enter(event.attempt)
        before_s = self._last_end_s
        if before_s is None:
            before_s = float(event.end_s[0] - event.step_time_s[0])
        took_s = np.diff(event.end_s, prepend=before_s)
        at = np.flatnonzero((event.step - 1) % self._every == 0)
        columns = (event.step[at], event.loss[at], took_s[at])
        for step, loss, dt_s in zip(*(column.tolist() for column in columns), strict=True):
            if step - 1 - self._first_step >= SETTLED:
                mfu = self._flops / dt_s / A100_FLOPS
                moved = KEPT * self._running_mfu + (1 - KEPT) * mfu
                self._running_mfu = mfu if self._running_mfu == -1.0 else moved
            mfu_pct = 100 * self._running_mfu
            yield f"iter {step - 1}: loss {loss:.4f}, time {1000 * dt_s:.2f}ms, mfu {mfu_pct:.2f}%"
        self._last_end_s = float(event.end_s[-1])


def _shown_params(plan: Plan) -> int:
    """Parameters as nanoGPT counts them: without the table of positions."""
    model = plan.spec.model
    return plan.params.total - model.learned_positions * model.hidden_size


def flops_per_iteration(plan: Plan) -> float:
    """FLOPs of one GPU in an iteration (model.py, estimate_mfu)."""
    model, recipe = plan.spec.model, plan.spec.recipe
    attention = 12 * model.layers * model.heads * model.head_dim * recipe.seq_len
    per_token = 6 * _shown_params(plan) + attention
    return per_token * recipe.tokens_per_step / plan.spec.cluster.gpus


def decayed_tensors(model: Model) -> int:
    """Tensors of two dimensions or more, queries, keys and values as one (model.py, GPT)."""
    feed_forward = 3 if model.mlp in GATED_MLPS else 2
    tables = 1 + bool(model.learned_positions) + (not model.tied_embeddings)
    return model.layers * (2 + feed_forward) + tables


def undecayed(model: Model) -> tuple[int, int]:
    """Tensors of one dimension and their parameters: norms and biases."""
    per_norm = 2 if model.norm == "layernorm" else 1
    norms = model.layers * model.norms_per_layer + model.final_norm
    heads = model.heads + 2 * model.kv_heads
    up = model.ffn_hidden_size * (2 if model.mlp in GATED_MLPS else 1)
    biases = (
        (model.qkv_bias, heads * model.head_dim),
        (model.output_bias, model.hidden_size),
        (model.mlp_bias, up),
        (model.mlp_bias, model.hidden_size),
    )
    tensors = norms * per_norm + model.layers * sum(has for has, _ in biases)
    params = norms * per_norm * model.hidden_size
    params += model.layers * sum(size for has, size in biases if has)
    return tensors, params


def nanogpt_log(asked: Asked) -> NanoLog:
    """What makes the log."""
    return NanoLog(asked)
