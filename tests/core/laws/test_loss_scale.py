"""The loss scale of FP16 runs."""

import numpy as np

from ghosttrain.core.laws.loss_scale import fp16_loss_scale


def test_it_doubles_every_2000_steps_and_is_held_at_2_to_the_24():
    step = np.array([0, 1, 1999, 2000, 4000, 16_000, 10**6])
    assert fp16_loss_scale(step).tolist() == [2**n for n in (16, 16, 16, 17, 18, 24, 24)]
