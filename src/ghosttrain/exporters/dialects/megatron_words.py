"""Lines that Megatron-LM and its fork under DeepSpeed print alike."""

from __future__ import annotations

import math

from ghosttrain.core.events import ValidationCompleted
from ghosttrain.core.spec import Recipe

_TIMER_WIDTH = 48  # name and dots
_LARGEST_EXPONENT = 20.0  # of a perplexity


def timers_lines(
    *timers: tuple[str, float, float], logger: str = "INFO:megatron.core.timers:"
) -> list[str]:
    """A block of timers.

    Args:
        timers: (name, least, most) over the ranks, milliseconds.
        logger: What stands before its first line.
    """
    return [
        f"{logger}(min, max) time across ranks (ms):",
        *(
            f"    {(name + ' ').ljust(_TIMER_WIDTH, '.')}: ({least:.2f}, {most:.2f})"
            for name, least, most in timers
        ),
    ]


def samples_wanted(recipe: Recipe, *, eval_interval: int, eval_iters: int) -> tuple[int, int, int]:
    """How many samples training, all validations and the test have to have."""
    batch, validations = recipe.global_batch_size, recipe.total_steps // eval_interval + 1
    return recipe.total_steps * batch, validations * eval_iters * batch, eval_iters * batch


def targets_lines(wanted: tuple[int, int, int]) -> list[str]:
    """How the report on the data sets begins."""
    train, validation, test = wanted
    return [
        "> building train, validation, and test datasets ...",
        " > datasets target sizes (minimum size):",
        f"    train:      {train}",
        f"    validation: {validation}",
        f"    test:       {test}",
    ]


def perplexity(loss: float) -> float:
    """exp(min(20, loss)), which is what a loss that is no number comes to as well."""
    return math.exp(min(_LARGEST_EXPONENT, loss))


def validation_lines(event: ValidationCompleted) -> list[str]:
    """The loss of a validation between dashes."""
    text = (
        f" validation loss at iteration {event.step} | lm loss value: {event.loss:.6E} | "
        f"lm loss PPL: {perplexity(event.loss):.6E} | "
    )
    dashes = "-" * (len(text) + 1)
    return [dashes, text, dashes]
