"""Learning rate, mean loss, noise, gradient norm, validation, accuracy.

Shapes: S = steps, K = knots. Steps count from 1; the loss of step s is computed before its
update, so it belongs to s - 1 updates.

Sources: base law Besiroglu et al. 2024 (arXiv:2404.10102), a re-fit of Hoffmann et al. 2022;
learning-rate dependence Tissue et al. 2024 (arXiv:2408.11029) and Luo et al. 2025
(arXiv:2503.12811), the latter's form re-fitted on its public curves; repeated data Muennighoff
et al. 2023 (arXiv:2305.16264); noise and gradient norm: statistics of public training logs
(llm.c / modded-nanogpt GPT-2 124M, Megatron 15B, MLPerf GPT-3 and Llama-3.1-405B runs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.spec import Dataset, Recipe

F64 = NDArray[np.float64]

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658  # Besiroglu 2024, Table 1
MEAN_COSINE_RATIO = 0.55  # mean of a cosine to 10 %, the schedule the base law was fitted on
REPEAT_SCALE = 15.39  # R_D* of Muennighoff 2023, eq. 5
UNIGRAM_TOKENS = 2.25e8  # learning-rate-weighted tokens at which the power law takes over
EARLY_TOKENS = 1.05e4  # scale of the first, logarithmic fall (GPT-2 124M log)
GRAD_MEMORY = 0.7  # per step, of the slow part of log gradient norm
GRAD_TAPS = 8


def learning_rate_ratio(recipe: Recipe, step: F64) -> F64:
    """Learning rate of update `step` (1, 2, ...) over its peak, shape of `step`."""
    total, warmup = recipe.total_steps, recipe.warmup_steps
    floor = recipe.min_learning_rate_ratio
    x = np.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)
    match recipe.schedule:
        case "cosine":
            after = floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * x))
        case "linear":
            after = 1 - (1 - floor) * x
        case "wsd":
            into_decay = np.clip((x - (1 - recipe.decay_frac)) / recipe.decay_frac, 0.0, 1.0)
            after = 1 - (1 - floor) * np.sqrt(into_decay)  # 1 - sqrt, Hägele et al. 2024
        case "constant":
            after = np.ones_like(x)
    return np.where(step < warmup, step / max(1, warmup), after)


def schedule_phase(recipe: Recipe, step: int) -> str:
    """Word for where `step` stands in the schedule."""
    if step < recipe.warmup_steps:
        return "warmup"
    if recipe.schedule != "wsd":
        return recipe.schedule
    start = recipe.total_steps - recipe.decay_frac * (recipe.total_steps - recipe.warmup_steps)
    return "decay" if step > start else "stable"


def repeated_tokens(tokens: F64, unique: float) -> F64:
    """Unique-data value of `tokens` seen in passes over `unique` tokens."""
    repeats = np.maximum(tokens / unique - 1, 0.0)
    worth = unique * (1 + REPEAT_SCALE * -np.expm1(-repeats / REPEAT_SCALE))
    return np.where(tokens > unique, worth, tokens)


def chinchilla_loss(params: float, tokens: F64) -> F64:
    """Loss of a fully annealed model of `params` parameters after `tokens` tokens, nats."""
    return np.asarray(E + A * params**-ALPHA + B * np.maximum(tokens, 1e6) ** -BETA)


def annealing(ratio: F64, ratio_sum: F64, peak_learning_rate: float) -> F64:
    """Annealing term of Luo et al. 2025 at each knot: 1 at constant rate, less after decay.

    Args:
        ratio: Learning rate over its peak at the knots, shape (K,).
        ratio_sum: Sum of the ratio over all steps up to the knot, shape (K,).
        peak_learning_rate: Peak learning rate.
    """
    scale = 1.0e-3 * (peak_learning_rate / 3e-4) ** 0.65
    drop = np.maximum(-np.diff(ratio, prepend=ratio[0]), 0.0)
    drop[: int(np.argmax(ratio)) + 1] = 0.0
    reach = np.maximum(ratio_sum[:, None] - ratio_sum[None, :], 0.0)
    response = -np.expm1(
        -3.86 * np.log1p(scale * reach * np.maximum(ratio, 1e-3)[None, :] ** -0.71)
    )
    return np.asarray(1 - response @ drop)


@dataclass(frozen=True, slots=True, eq=False)
class LossCurve:
    """Mean training loss on knots, and the constants of the noise about it.

    Attributes:
        updates: Completed updates at the knots, increasing from 0, shape (K,).
        mean_loss: Mean loss of the step after that many updates, shape (K,).
        noise_sd: Standard deviation of log loss about the mean.
        skew_weight: Weight of the exponential part of the noise (0: Gaussian).
        grad_floor: Gradient norm late in training.
        from_scratch: Whether the run starts from random weights.
    """

    updates: F64
    mean_loss: F64
    noise_sd: float
    skew_weight: float
    grad_floor: float
    from_scratch: bool
    recipe: Recipe

    def mean(self, step: F64) -> F64:
        """Mean loss at `step` (1, 2, ...)."""
        return np.interp(step - 1, self.updates, self.mean_loss)

    def loss(self, step: F64, z_normal: F64, z_exponential: F64) -> F64:
        """Loss of each step: the mean times exp(noise), white in the step index."""
        w = self.skew_weight
        z = np.sqrt(1 - w * w) * z_normal + w * (z_exponential - 1)
        return np.asarray(self.mean(step) * np.exp(self.noise_sd * z))

    def grad_norm_trend(self, step: F64) -> F64:
        """Gradient norm without noise (form fitted on the GPT-2 124M log)."""
        t = step - 1
        stretch = max(self.recipe.warmup_steps, 1) / 700
        slow = 3 / (1 + (t / (600 * stretch)) ** 2)
        early = 56 * np.exp(-t / 6) + 7 * np.exp(-t / 25) if self.from_scratch else 0.0
        ratio = learning_rate_ratio(self.recipe, step)
        level = 1 + early + (slow if self.from_scratch else 0.3 * slow)
        late = np.asarray(0.82 + 0.18 * np.minimum(1, ratio / 0.3))
        decay = np.where(step < self.recipe.warmup_steps, 1.0, late)
        return np.asarray(self.grad_floor * level * decay)

    def grad_noise_sd(self, step: F64) -> F64:
        """Standard deviation of log gradient norm: 0.09 early to 0.036 late."""
        return np.asarray(0.036 + 0.054 * np.exp(-4 * (step - 1) / self.recipe.total_steps))

    def final_loss(self) -> float:
        """Mean loss after the last update."""
        return float(self.mean_loss[-1])


def _knots(total: int) -> F64:
    """Updates at which the curve is evaluated: dense at both ends, at most about 700."""
    log = np.geomspace(1, total, 360)
    linear = np.linspace(0, total, 340)
    return distinct(np.concatenate([[0.0], np.floor(log), np.floor(linear)]))


def distinct(values: F64) -> F64:
    """The values without repeats, ascending. np.unique would import numpy.ma, at 25 ms."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def _ratio_sum(recipe: Recipe, updates: F64) -> F64:
    """Sum of the learning-rate ratio over the first `updates` updates (trapezoids on knots)."""
    ratio = learning_rate_ratio(recipe, updates + 0.5)
    steps = np.diff(updates)
    return np.concatenate([[0.0], np.cumsum(steps * 0.5 * (ratio[1:] + ratio[:-1]))])


def _annealing_excess(recipe: Recipe, updates: F64, params: float) -> F64:
    """Nats above the fully annealed law, from how far the learning rate has come down."""
    grid = distinct(np.floor(np.linspace(0, recipe.total_steps, 200)))
    psi = annealing(
        learning_rate_ratio(recipe, grid + 1), _ratio_sum(recipe, grid), recipe.peak_learning_rate
    )
    reference = _reference_annealing(recipe, grid)
    size = min(0.22, 0.133 * (params / 1e8) ** 0.126)
    return np.asarray(size * (np.interp(updates, grid, psi) - reference))


def _reference_annealing(recipe: Recipe, grid: F64) -> float:
    """Annealing term at the end of a cosine to 10 % over the same steps."""
    after_warmup = max(1, recipe.total_steps - recipe.warmup_steps)
    x = np.clip((grid - recipe.warmup_steps) / after_warmup, 0, 1)
    ratio = np.where(
        grid < recipe.warmup_steps,
        (grid + 1) / max(1, recipe.warmup_steps),
        0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * x)),
    )
    total = np.concatenate([[0.0], np.cumsum(np.diff(grid) * 0.5 * (ratio[1:] + ratio[:-1]))])
    return float(annealing(ratio, total, recipe.peak_learning_rate)[-1])


def loss_curve(
    recipe: Recipe,
    dataset: Dataset,
    *,
    params_total: float,
    params_active: float,
    vocab_size: int,
    tokens_trained: float,
) -> LossCurve:
    """Mean loss over the run, from ln(vocabulary) or from the base model's loss.

    A mixture of experts counts as a dense model of sqrt(active x total) parameters, a rule of
    thumb. `tokens_trained` are those the base model has seen where the run continues.
    """
    params = (params_active * params_total) ** 0.5
    updates = _knots(recipe.total_steps)
    weighted = _ratio_sum(recipe, updates) * recipe.tokens_per_step
    unique = float(recipe.steps_per_epoch * recipe.tokens_per_step)
    seen = repeated_tokens(weighted / MEAN_COSINE_RATIO, unique)
    if recipe.continued_loss:
        mean = _continued_mean(recipe, dataset, updates, seen, params, tokens_trained)
    else:
        law = dataset.loss_scale * chinchilla_loss(params, seen)
        law = law + _annealing_excess(recipe, updates, params)
        start = np.log(vocab_size) + 0.15  # seen 0 to 1.4 above ln V; GPT-2 124M 0.18
        early = start - 0.62 * (start / 11) * np.log1p(weighted / EARLY_TOKENS)
        w = weighted**2 / (weighted**2 + UNIGRAM_TOKENS**2)
        mean = w * law + (1 - w) * early
    tokens = recipe.tokens_per_step
    return LossCurve(
        updates=updates,
        mean_loss=mean,
        noise_sd=dataset.noise_c / tokens**0.5,
        skew_weight=0.55 * min(1.0, (5e5 / tokens) ** 0.5),
        grad_floor=max(0.1, 0.27 * (tokens / 524288) ** -0.3),
        from_scratch=not recipe.continued_loss,
        recipe=recipe,
    )


def _continued_mean(
    recipe: Recipe, dataset: Dataset, updates: F64, seen: F64, params: float, tokens_trained: float
) -> F64:
    """Loss of a continued run: the law past the base model's tokens, plus a first cost.

    What the new domain costs at first fades as 1/sqrt(1 + t/60 steps). A base model of which no
    tokens are published has seen what is optimal for its size, 20 a parameter (Hoffmann 2022).
    """
    tokens_trained = tokens_trained or 20 * params
    law = dataset.loss_scale * chinchilla_loss(params, tokens_trained + seen)
    return np.asarray(law + (recipe.continued_loss - law[0]) / np.sqrt(1 + updates / 60))


def validation_loss(
    curve: LossCurve, dataset: Dataset, step: F64, z_set: float, z_step: F64
) -> F64:
    """Loss on the fixed validation set after `step` steps.

    The set's own error is one offset for the whole run (`z_set`); each measurement adds 2
    mnats. The gap to training grows by 4 mnats a repeated epoch.
    """
    recipe = curve.recipe
    offset = curve.final_loss() * dataset.noise_c / recipe.validation_tokens**0.5 * z_set
    repeats = np.maximum(step / recipe.steps_per_epoch - 1, 0.0)
    gap = dataset.validation_gap + offset + 0.004 * repeats
    return np.asarray(curve.mean(step + 1) + gap + 0.002 * z_step)


def next_token_accuracy(loss: float) -> float:
    """Top-1 next-token accuracy at a loss, 0..1 (0.53 at 2 nats, 0.41 at 3; a loose fit)."""
    return float(0.86 * np.exp(-0.245 * loss))
