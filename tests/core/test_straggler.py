"""One GPU that is 7 % slow: what the run shows of it, in numbers.

The same run with and without the fault: its noise is the same step by step, so that what differs
is the fault. BLOOM's slow GPU (bigscience tr11) lengthened steps from 105 s to 111 s.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ghosttrain import catalog
from ghosttrain.core.laws.faults import WAITING_LEVEL, compute_share, slowed_level, waiting_level
from ghosttrain.core.run import simulate
from ghosttrain.core.spec import Faults, InjectedFault
from tests.strategies import machine_spec

SEED, GPU, ONSET_S, SLOW = 7, 17, 600.0, 0.07
FIRST, LAST = 900, 1100  # steps long after the ramp, which takes at most ten minutes
PEERS = [gpu for gpu in range(64) if gpu != GPU]


@pytest.fixture(scope="module")
def pair():
    """The run without and with the slow GPU, the steps and 21 samples of the GPUs of both."""
    spec = machine_spec("llama-3-8b", "h100-sxm", 64)
    recipe = replace(spec.recipe, seq_len=8192, global_batch_size=128, steps_per_epoch=1500)
    healthy = replace(spec, recipe=replace(recipe, epochs=1), faults=Faults())
    kind = catalog.fault_kind("straggler-gpu")
    assert kind.lead_high_s <= 600
    fault = InjectedFault(kind, at_s=ONSET_S, gpu=GPU, severity=SLOW)
    return tuple(
        seen(simulate(asked, SEED))
        for asked in (healthy, replace(healthy, faults=Faults(injected=(fault,))))
    )


def seen(run):
    steps = run.steps(FIRST, LAST)
    samples = [run.fleet(at_s) for at_s in steps.end_s[::10].tolist()]
    power = np.stack([sample.power_w[0] for sample in samples])
    return SimpleNamespace(
        run=run,
        step_time_s=steps.step_time_s,
        tokens_per_s=steps.tokens_per_s,
        loss=steps.loss,
        ends_s=steps.end_s,
        power_w=power.astype(np.float64).mean(axis=0),
        util_pct=np.stack([sample.util_pct[0] for sample in samples]),
        temp_c=np.stack([sample.temp_c[0] for sample in samples]).mean(axis=0),
    )


@pytest.fixture(scope="module")
def factor(pair):
    """How many times as long a step takes: the slow GPU's kernels are all that is longer."""
    share = compute_share(pair[0].run.plan.step_time)
    assert 0.9 < share < 1.0  # 8B on 64 GPUs computes nearly all of the time
    return 1 + SLOW * share


def dynamic(side, gpus):
    """Mean power of these GPUs over that of an idle, loaded one, W."""
    return (side.power_w[gpus] - side.run.plan.spec.gpu.loaded_idle_w).mean()


def test_it_has_grown_to_its_full_height_before_the_steps_that_are_compared(pair):
    _, slow = pair
    (incident,) = slow.run.timeline.incidents
    assert (incident.gpu, incident.gpus, incident.severity) == (GPU, 1, SLOW)
    effect = slow.run.timeline.effects[0]
    assert ONSET_S + effect.ramp_s < slow.ends_s[0]
    assert incident.strike_s is None  # nobody has stopped the run for it yet


def test_every_step_takes_longer_by_the_slowness_times_the_share_of_compute(pair, factor):
    healthy, slow = pair
    np.testing.assert_allclose(slow.step_time_s / healthy.step_time_s, factor, rtol=1e-9)
    np.testing.assert_allclose(healthy.tokens_per_s / slow.tokens_per_s, factor, rtol=1e-9)
    assert 1.063 < factor < 1.070


def test_the_run_is_longer_by_just_that_from_the_onset_on(pair, factor):
    healthy, slow = pair
    extra_s = slow.ends_s[-1] - slow.ends_s[0] - (healthy.ends_s[-1] - healthy.ends_s[0])
    assert extra_s == pytest.approx((factor - 1) * (healthy.ends_s[-1] - healthy.ends_s[0]))
    before = [side.run.steps(200, 300).end_s for side in pair]
    np.testing.assert_array_equal(*before)


def test_the_losses_are_the_same(pair):
    healthy, slow = pair
    np.testing.assert_array_equal(slow.loss, healthy.loss)


def test_the_peers_draw_less_power_because_they_wait(pair, factor):
    """While they spin they draw 18 % of the dynamic power, the rest of the step all of it."""
    healthy, slow = pair
    expected = float(waiting_level(factor))
    assert expected == pytest.approx(WAITING_LEVEL + (1 - WAITING_LEVEL) / factor)
    assert 0.94 < expected < 0.95
    fall = dynamic(slow, PEERS) / dynamic(healthy, PEERS)
    assert fall == pytest.approx(expected, abs=0.001)
    each = (slow.power_w - healthy.power_w)[PEERS]
    assert (each > -40).all()
    assert (each < -15).all()


def test_the_slow_gpu_draws_still_less_because_its_clock_is_lower(pair, factor):
    """Busy all of the time, at 1/1.07 of the clock: power falls as its 2.4th power."""
    healthy, slow = pair
    expected = float(slowed_level(SLOW, factor))
    assert expected == pytest.approx((1 / 1.07) ** 2.4, abs=0.001)
    fall = dynamic(slow, [GPU]) / dynamic(healthy, [GPU])
    assert fall == pytest.approx(expected, abs=0.001)
    assert fall < dynamic(slow, PEERS) / dynamic(healthy, PEERS) - 0.09


def test_gpu_utilisation_shows_nothing(pair):
    """A GPU that waits in a collective has a kernel running."""
    healthy, slow = pair
    np.testing.assert_array_equal(slow.util_pct, healthy.util_pct)
    assert slow.util_pct[:, PEERS].mean() > 98.5


def test_all_gpus_get_cooler_and_the_slow_one_most(pair):
    healthy, slow = pair
    cooler = healthy.temp_c - slow.temp_c
    assert (cooler[PEERS] > 0.5).all()
    assert (cooler[PEERS] < 3.0).all()
    assert cooler[GPU] == pytest.approx(
        cooler[PEERS].mean()
        * (1 - float(slowed_level(SLOW, 1.068)))
        / (1 - float(waiting_level(1.068))),
        rel=0.15,
    )
