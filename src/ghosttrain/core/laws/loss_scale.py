"""Loss scale of training: 1, or dynamic with FP16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ghosttrain.core.spec import Precision

I64 = NDArray[np.int64]

START_LOG2 = 16
GROWTH_INTERVAL_STEPS = 2000
END_LOG2 = 24  # our choice: about where the gradients of real runs begin to overflow


def loss_scale(precision: Precision, step: I64) -> I64:
    """Loss scale after `step` steps in any precision: 1 but in FP16, shape of `step`."""
    return fp16_loss_scale(step) if precision == "fp16" else np.ones_like(step)


def fp16_loss_scale(step: I64) -> I64:
    """Loss scale after `step` steps while none of them overflows, shape of `step`.

    It doubles every 2,000 steps from 2^16 on, and is held at 2^24.

    Source: pytorch/pytorch, torch/amp/grad_scaler.py: init_scale, growth_interval.
    """
    doubled = np.minimum(START_LOG2 + step // GROWTH_INTERVAL_STEPS, END_LOG2)
    return np.left_shift(np.int64(1), doubled)
