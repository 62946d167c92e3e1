"""What each course of a fault does to the run: pace, loss, checkpoints, restarts, telemetry."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ghosttrain import catalog
from ghosttrain.core.events import (
    CheckpointSaved,
    IncidentLabelled,
    MessageKind,
    MessageLogged,
    Phase,
    RunAborted,
    RunRestarted,
    StepsCompleted,
    ValidationCompleted,
    WatchdogTimedOut,
)
from ghosttrain.core.laws.faults import loss_excess, waiting_level
from ghosttrain.core.run import simulate
from ghosttrain.core.signals import SignalSource
from ghosttrain.core.slowdown import Slowdown
from ghosttrain.core.spec import Faults, InjectedFault
from tests.strategies import WATCHDOG_KIND, machine_spec

BASE = machine_spec("llama-3-8b", "h100-sxm", 64)
RECIPE = replace(
    BASE.recipe,
    seq_len=8192,
    global_batch_size=128,
    steps_per_epoch=600,
    checkpoint_interval_steps=150,
    warmup_steps=50,
)
SPEC = replace(BASE, recipe=RECIPE)
QUIET = simulate(SPEC, 7)


def fault(name, **values):
    return InjectedFault(catalog.fault_kind(name), **values)


def struck(*faults, spec=SPEC, seed=7):
    return simulate(replace(spec, faults=Faults(injected=faults)), seed)


def events(run, kind):
    return [event for event in run.events(0.0, math.inf) if isinstance(event, kind)]


def label(run, number=1):
    return next(e for e in events(run, IncidentLabelled) if e.incident == number)


def messages(run):
    return [e.message for e in events(run, MessageLogged)]


def end_of_step(step):
    return float(QUIET.steps(step, step).end_s[0])


# Slow.


def test_a_slow_gpu_slows_the_whole_job_by_the_laws_amount_and_only_after_it_began():
    at_s = end_of_step(200) + 0.1
    run = struck(fault("straggler-gpu", at_s=at_s, gpu=17, severity=0.07))
    ramp_s = run.timeline.effects[0].ramp_s
    before, after = run.steps(1, 201), run.steps(560, 599)
    assert np.array_equal(before.end_s, QUIET.steps(1, 201).end_s)
    assert after.end_s[0] > at_s + ramp_s
    law = 1 + Slowdown(run.plan).extra("slow-compute", 0.07)
    ratio = after.step_time_s / QUIET.steps(560, 599).step_time_s
    assert ratio == pytest.approx(np.full(40, law), rel=1e-9)
    assert 1.05 < law < 1.07


def test_who_waits_for_a_slow_gpu_draws_less_and_looks_as_busy():
    at_s = end_of_step(100)
    run = struck(fault("straggler-gpu", at_s=at_s, gpu=17, severity=0.10))
    late_s = at_s + run.timeline.effects[0].ramp_s + 300
    samples, usual = run.fleet(late_s), QUIET.fleet(late_s)
    source = SignalSource(run.plan, run.seed)
    signals, were = source.at(samples, 0), source.at(usual, 0)
    peers = np.arange(64) != 17
    # A reading swings by 2 %, all GPUs together: the mean of 40.
    watts, usually = (
        np.mean([r.fleet(float(t)).power_w[0, peers].mean() for t in r.steps(500, 580).end_s[::2]])
        for r in (run, QUIET)
    )
    factor = 1 + Slowdown(run.plan).extra("slow-compute", 0.10)
    dynamic = usually - SPEC.gpu.loaded_idle_w
    assert watts == pytest.approx(
        SPEC.gpu.loaded_idle_w + dynamic * float(waiting_level(factor)), rel=0.01
    )
    assert watts < usually - 25
    assert samples.util_pct[0, peers].mean() > 97
    assert (signals.tensor_active[peers] < were.tensor_active[peers] * 0.95).all()
    assert signals.tensor_active[17] > signals.tensor_active[peers].max()
    assert signals.sm_clock_mhz[17] < signals.sm_clock_mhz[peers].min()


@pytest.mark.parametrize("severity", [0.02, 0.07, 0.15])
def test_the_clock_of_a_slow_gpu_falls_by_the_time_its_kernels_take_longer(severity):
    run = struck(fault("straggler-gpu", at_s=end_of_step(100), gpu=17, severity=severity))
    clock, usual = (
        np.mean(
            [
                SignalSource(r.plan, r.seed).at(r.fleet(float(t)), 0).sm_clock_mhz[17]
                for t in r.steps(500, 580).end_s[::4]
            ]
        )
        for r in (run, QUIET)
    )
    assert clock / usual == pytest.approx(1 / (1 + severity), rel=0.01)


def test_the_worst_of_two_stragglers_sets_the_pace():
    at_s = end_of_step(100)
    both = [fault("straggler-gpu", at_s=at_s, gpu=g, severity=s) for g, s in ((3, 0.1), (40, 0.05))]
    alone = struck(both[0])
    together = struck(*both)
    late_s = at_s + max(e.ramp_s for e in together.timeline.effects) + 60
    spans = [next(s for s in r.timeline.spans if s.end_s > late_s) for r in (alone, together)]
    assert spans[0].slow == spans[1].slow


def test_a_repair_where_it_stands_gives_the_pace_back():
    run = struck(fault("noisy-neighbour", at_s=end_of_step(100), duration_s=120.0, severity=0.2))
    assert label(run).cleared_s == pytest.approx(end_of_step(100) + 120.0)
    late = run.steps(500, 599).step_time_s / QUIET.steps(500, 599).step_time_s
    assert late == pytest.approx(np.ones(100), rel=1e-9)
    lost_s = run.end_s - QUIET.end_s
    assert label(run).lost_s == pytest.approx(lost_s, rel=0.05)


def test_a_node_found_slow_is_left_out_at_the_next_launch():
    slow = replace(catalog.fault_kind("slow-node"), detect_low_s=30.0, detect_high_s=60.0)
    crash = replace(WATCHDOG_KIND, course="crash", hang_share=0.0)
    at_s = end_of_step(100)
    run = struck(InjectedFault(slow, at_s, 20), InjectedFault(crash, at_s + 300, 60))
    first, second = (label(run, number) for number in (1, 2))
    restarted = events(run, RunRestarted)[0].time_s
    assert first.mitigated_s == first.cleared_s == restarted == second.mitigated_s
    assert run.timeline.spares(2) == ((2, 8), (7, 9))
    assert max(s.slow for s in run.timeline.spans if s.attempt == 2) == 1.0


def test_patience_ends_and_the_run_is_stopped_in_order():
    slow = replace(catalog.fault_kind("slow-node"), detect_low_s=30.0, detect_high_s=60.0)
    spec = replace(SPEC, recipe=replace(RECIPE, steps_per_epoch=9000, checkpoint_interval_steps=0))
    run = struck(InjectedFault(slow, 700.0, 20), spec=spec)
    aborted = events(run, RunAborted)[0]
    saved = [e for e in events(run, CheckpointSaved) if e.time_s == aborted.time_s]
    assert (aborted.reason, aborted.step) == ("operator", aborted.checkpoint_step)
    assert [(e.step, e.reason) for e in saved] == [(aborted.step, "asked")]
    assert label(run).steps_lost == 0


def test_one_step_bears_the_wait_for_a_flapping_link():
    run = struck(fault("link-flap", at_step=200, gpu=9, severity=12.0))
    longer = run.steps(1, 600).step_time_s - QUIET.steps(1, 600).step_time_s
    assert np.flatnonzero(longer > 1.0).tolist() == [200]  # step 201, the one after
    assert longer[200] == pytest.approx(12.0, rel=0.02)
    assert messages(run) == [MessageKind.LINK_DOWN, MessageKind.LINK_UP]
    assert label(run).lost_s == pytest.approx(12.0)


def test_hot_air_throttles_at_the_slow_down_temperature_and_not_before():
    gentle = struck(fault("fan-failure", at_step=50, gpu=9, severity=0.2))
    harsh = struck(fault("fan-failure", at_step=50, gpu=9, severity=0.9))
    assert max(s.slow for s in gentle.timeline.spans) == 1.0
    assert [name for name, _ in label(gentle).signals] == ["temperature"]
    assert MessageKind.THROTTLE not in messages(gentle)
    assert max(s.slow for s in harsh.timeline.spans) > 1.02
    assert MessageKind.THROTTLE in messages(harsh)
    late = harsh.fleet(end_of_step(590))
    hot, cool = late.temp_c[0, 8:16], late.temp_c[0, 16:24]
    assert hot.max() <= SPEC.gpu.slowdown_c
    assert hot.min() > cool.max()
    assert late.power_w[0, 8:16].max() < late.power_w[0, 16:].min()


def test_a_power_cap_is_kept_by_the_rack_it_is_set_for():
    run = struck(fault("power-cap", at_step=50, gpu=0, severity=0.3, duration_s=1e6))
    late = run.fleet(end_of_step(590))
    cap = 0.7 * SPEC.gpu.tdp_w
    assert late.power_w[0, :32].max() <= cap + 0.01
    assert late.power_w[0, 32:].min() > cap
    assert label(run).entity == "rack 0"


# Loss.


def losses(run):
    out: dict[int, float] = {}
    for event in events(run, StepsCompleted):
        out.update(zip(event.step.tolist(), event.loss.tolist(), strict=True))
    return np.array([out[step] for step in range(1, 601)])


def test_a_spike_peaks_at_its_height_after_the_gradient_norm_and_heals():
    run = struck(fault("loss-spike", at_step=200, severity=2.0))
    excess = losses(run) - losses(QUIET)
    assert np.flatnonzero(excess > 1e-6)[0] == 200  # step 201 is the first touched one
    assert excess.argmax() == 204
    assert excess[204] == pytest.approx(2.0)
    grad = run.steps(1, 600).grad_norm / QUIET.steps(1, 600).grad_norm
    assert (np.diff(np.log(grad[200:205])) > 1).all()  # it leads, by a factor a step
    assert excess[270] < 0.15
    assert label(run).cleared_s is not None


def test_the_template_of_a_spike_is_blooms():
    """BLOOM-176B, 2022-04-12: 2.20; 2.22, 2.60, 2.24, 2.35, 5.10, 3.49, 3.21, 2.80 ... 2.216."""
    published = np.array([2.22, 2.60, 2.24, 2.35, 5.10, 3.49, 3.21, 2.80]) - 2.20
    ours = loss_excess("loss-spike", 2.9, np.arange(8.0))
    assert np.abs(ours[:5] - published[:5]).max() < 0.03
    assert np.abs(ours[5:] - published[5:]).max() < 0.15
    assert loss_excess("loss-spike", 2.9, np.array([35.0]))[0] < 0.05


def test_nan_stays_until_the_run_is_taken_back_and_other_batches_come():
    kind = replace(catalog.fault_kind("loss-nan"), detect_low_s=30.0, detect_high_s=60.0)
    run = struck(InjectedFault(kind, at_step=400))
    rows = [
        (event.attempt, step, loss)
        for event in events(run, StepsCompleted)
        for step, loss in zip(event.step.tolist(), event.loss.tolist(), strict=True)
    ]
    wrong = [(attempt, step) for attempt, step, loss in rows if math.isnan(loss)]
    assert wrong[0] == (1, 401)
    assert {attempt for attempt, _ in wrong} == {1}
    restarted = events(run, RunRestarted)[0]
    assert restarted.step == 300  # the newest checkpoint 100 steps before it
    assert 200 <= restarted.skipped_batches <= 500
    again = [loss for attempt, step, loss in rows if attempt == 2 and step <= 400]
    before = [loss for attempt, step, loss in rows if attempt == 1 and 300 < step <= 400]
    assert len(again) == len(before)
    assert not set(again) & set(before)
    assert MessageKind.NAN_LOSS in messages(run)


def test_a_validation_of_a_diverged_model_says_so_and_is_no_best():
    kind = replace(catalog.fault_kind("divergence"), detect_low_s=9e3, detect_high_s=9.1e3)
    unseen = struck(InjectedFault(kind, at_step=300, severity=4.0))
    (validation,) = events(unseen, ValidationCompleted)
    (usual,) = events(QUIET, ValidationCompleted)
    assert validation.loss > usual.loss + 2


def test_corruption_that_nobody_has_noticed_survives_a_launch():
    sdc = replace(catalog.fault_kind("silent-data-corruption"), detect_low_s=9e5, detect_high_s=1e6)
    crash = InjectedFault(WATCHDOG_KIND, at_step=320, gpu=50)
    run = struck(InjectedFault(sdc, at_step=100, gpu=3, severity=0.3), crash)
    assert label(run, 1).cleared_s is None
    assert (losses(run) - losses(QUIET))[590] == pytest.approx(0.3 * (1 - math.exp(-490 / 400)))


def test_replays_bring_the_same_spike_as_the_same_data():
    run = struck(
        fault("loss-spike", at_step=200, severity=2.0), InjectedFault(WATCHDOG_KIND, at_step=220)
    )
    seen: dict[int, float] = {}
    for event in events(run, StepsCompleted):
        for step, loss in zip(event.step.tolist(), event.loss.tolist(), strict=True):
            assert seen.setdefault(step, loss) == loss
    assert run.summary.attempts == 2


# Storage.


def test_slow_storage_makes_the_next_save_longer():
    run = struck(fault("storage-slow", at_step=100, severity=8.0, duration_s=60.0))
    saves, usual = (events(r, CheckpointSaved) for r in (run, QUIET))
    assert saves[0].duration_s == pytest.approx(8 * usual[0].duration_s)
    assert saves[1].duration_s == pytest.approx(usual[1].duration_s)  # it lapsed: one was met
    assert label(run).lost_s == pytest.approx(7 * usual[0].duration_s)
    signals = dict(label(run).signals)
    assert signals.keys() == {"checkpoint_time", "log"}  # the trainer prints its timers
    assert signals["checkpoint_time"] == saves[0].time_s
    assert signals["log"] == pytest.approx(saves[0].time_s, abs=0.01)


def test_full_storage_fails_the_save_and_the_checkpoint_before_stays_good():
    run = struck(fault("storage-full", at_step=200))
    failed = next(s for s in run.timeline.spans if s.phase is Phase.CHECKPOINT and s.cut)
    restarted = events(run, RunRestarted)[0]
    assert (failed.step, restarted.step) == (300, 150)
    assert [e.step for e in events(run, CheckpointSaved) if e.time_s < restarted.time_s] == [150]
    assert MessageKind.STORAGE_FULL in messages(run)


def test_a_corrupt_checkpoint_is_found_at_the_next_crash():
    run = struck(
        fault("checkpoint-corrupted", at_step=200), InjectedFault(WATCHDOG_KIND, at_step=350)
    )
    restarted = events(run, RunRestarted)[0]
    assert restarted.step == 150  # not 300, which cannot be read
    corrupt = [e for e in events(run, MessageLogged) if e.message is MessageKind.CHECKPOINT_CORRUPT]
    assert [(e.value, e.step) for e in corrupt] == [(300, 349)]  # tried in vain, then launched
    assert label(run, 1).detected_s == corrupt[0].time_s < restarted.time_s


def test_a_corrupt_checkpoint_that_nobody_reads_harms_nobody():
    run = struck(fault("checkpoint-corrupted", at_step=200))
    third = [e.time_s for e in events(run, CheckpointSaved)][2]
    assert (label(run).detected_s, label(run).cleared_s) == (None, third)
    assert label(run).lost_s == 0


# Who idles, who spins.


def test_gpus_of_a_slow_host_idle_while_the_others_spin():
    run = struck(fault("slow-node", at_step=100, gpu=20, severity=0.6))
    late_s = float(run.steps(500, 500).end_s[0])
    samples = run.fleet(late_s)
    signals = SignalSource(run.plan, run.seed).at(samples, 0)
    there, others = slice(16, 24), [*range(16), *range(24, 64)]
    assert samples.util_pct[0, there].max() < 70 < 95 < samples.util_pct[0, others].min()
    assert samples.power_w[0, there].mean() < samples.power_w[0, others].mean() - 10
    assert signals.sm_clock_mhz[there].mean() > signals.sm_clock_mhz[others].mean()


def test_a_card_shows_that_it_gets_too_hot_before_it_shuts_down():
    kind = replace(catalog.fault_kind("gpu-thermal-shutdown"), lead_low_s=300.0, lead_high_s=400.0)
    run = struck(InjectedFault(kind, at_step=100, gpu=17))
    incident = run.timeline.incidents[0]
    before = run.fleet(incident.strike_s - 1)
    assert before.temp_c[0, 17] > before.temp_c[0, 16] + 10
    assert next(name for name, _ in label(run).signals) == "temperature"


def test_a_spike_that_does_not_heal_is_taken_back_on_other_data():
    run = struck(fault("loss-spike-rollback", at_step=350, severity=2.0))
    excess = losses(run) - losses(QUIET)
    assert events(run, RunAborted)[0].reason == "rollback"
    made = [e for e in events(run, StepsCompleted) if e.attempt == 1]
    late = made[-1].loss[-1] - QUIET.steps(int(made[-1].step[-1]), int(made[-1].step[-1])).loss[0]
    assert late == pytest.approx(0.3, abs=0.05)
    assert abs(excess[-50:].mean()) < 0.02


def test_a_gpu_that_computes_wrongly_is_swapped_and_no_data_are_skipped():
    kind = catalog.fault_kind("silent-data-corruption")
    kind = replace(kind, detect_low_s=100.0, detect_high_s=200.0)
    run = struck(InjectedFault(kind, at_step=300, gpu=17))
    restarted = events(run, RunRestarted)[0]
    assert restarted.skipped_batches == 0
    assert run.timeline.spares(2) == ((2, 8),)


# Stops, crashes, hangs.


def speakers(run):
    return [(e.message, e.rank) for e in events(run, MessageLogged)]


def test_after_a_hang_those_who_waited_are_the_ones_who_abort():
    said = dict(speakers(struck(fault("nccl-hang", at_step=100, gpu=17))))
    assert said[MessageKind.AGENT_FAILED] == said[MessageKind.TASK_EXITED] == 0
    assert MessageKind.AGENT_SIGTERM not in said


def test_the_rank_that_writes_is_the_one_a_full_disk_ends():
    said = dict(speakers(struck(fault("storage-full", at_step=200))))
    assert said[MessageKind.STORAGE_FULL] == said[MessageKind.AGENT_FAILED] == 0
    assert said[MessageKind.NCCL_ABORTED] == 8  # the first rank of another node


def test_who_the_kernel_kills_is_who_torchrun_reports():
    said = dict(speakers(struck(fault("host-oom", at_step=200, gpu=19))))
    assert said[MessageKind.OOM_KILL] == said[MessageKind.AGENT_FAILED] == 19


def test_one_cable_takes_one_port_and_a_switch_those_of_its_rack():
    ports = {}
    for name in ("link-down", "switch-down"):
        run = struck(fault(name, at_step=200, gpu=19))
        down = [e for e in events(run, MessageLogged) if e.message is MessageKind.LINK_DOWN]
        ports[name] = [(e.rank, e.ranks) for e in down]
    assert ports == {"link-down": [(19, 1)], "switch-down": [(0, 32)]}


def test_slurm_misses_a_silent_node_before_the_watchdog_does():
    hanging = replace(catalog.fault_kind("host-crash"), hang_share=1.0)
    run = struck(InjectedFault(hanging, at_step=200, gpu=19))
    incident = run.timeline.incidents[0]
    assert 300 <= incident.detected_s - incident.strike_s <= 310
    assert not events(run, WatchdogTimedOut)
    assert MessageKind.NODE_FAILED in messages(run)


def test_nobody_on_a_node_without_power_says_a_word():
    closed = replace(catalog.fault_kind("host-crash"), hang_share=0.0)
    run = struck(InjectedFault(closed, at_step=200, gpu=19))
    ranks = [e.rank for e in events(run, MessageLogged) if e.rank is not None]
    assert ranks
    assert not set(ranks) & set(range(16, 24))


# Stops.


@pytest.mark.parametrize(
    ("name", "reason"), [("host-maintenance", "maintenance"), ("job-preempted", "preempted")]
)
def test_who_is_asked_to_end_saves_first_and_loses_no_step(name, reason):
    run = struck(fault(name, at_step=250, gpu=20))
    aborted, restarted = events(run, RunAborted)[0], events(run, RunRestarted)[0]
    assert (aborted.reason, aborted.step, restarted.step) == (reason, 250, 250)
    assert restarted.lost_steps == 0
    assert events(run, StepsCompleted)[-1].step[-1] == 600


def test_nvlink_errors_are_counted_before_the_link_fails():
    run = struck(fault("nvlink-error", at_step=100, gpu=17))
    incident = run.timeline.incidents[0]
    assert incident.strike_s is not None
    between = run.fleet((incident.time_s + incident.strike_s) / 2)
    signs = SignalSource(run.plan, run.seed).at(between, 0).signs
    assert [(name, gpu) for name, gpu, _ in signs] == [("nvlink-crc", 17)]
    assert run.timeline.spans[-1].step == 600


def test_all_gpus_of_a_crashed_host_are_lost_until_a_spare_is_there():
    run = struck(fault("host-crash", at_step=100, gpu=20))
    strike_s = run.timeline.incidents[0].strike_s
    assert run.fleet(strike_s + 1).lost == tuple(range(16, 24))
    assert run.fleet(events(run, RunRestarted)[0].time_s + 1).lost == ()
    assert run.timeline.spares(2) == ((2, 8),)


def test_a_hang_is_full_utilisation_with_idle_tensor_cores():
    run = struck(fault("nccl-hang", at_step=100))
    strike_s = run.timeline.incidents[0].strike_s
    samples = run.fleet(strike_s + 300)
    signals = SignalSource(run.plan, run.seed).at(samples, 0)
    assert samples.util_pct.min() == 100
    assert samples.power_w.max() < 0.35 * SPEC.gpu.tdp_w
    assert signals.tensor_active.max() == 0
    assert signals.network_bytes_per_s.max() == 0


def test_every_kind_runs_to_its_end_and_is_labelled():
    for name in catalog.names("fault"):
        run = struck(fault(name, at_step=200, gpu=17))
        assert label(run).kind == name
        assert run.timeline.spans[-1].step == 600


def test_each_incident_is_cleared_at_the_step_it_struck_at():
    """Two in a row: the first threw the run back from a later step than the second."""
    run = struck(
        fault("host-crash", at_step=120),
        InjectedFault(WATCHDOG_KIND, at_s=920.0),
    )
    first, second = run.timeline.incidents
    assert first.strike_step > second.strike_step > 0
    assert second.strike_attempt == 2
    assert first.cleared_s is not None
    assert second.cleared_s is not None
    again = [e for e in events(run, StepsCompleted) if e.attempt == 3]
    ends = dict(
        zip(
            np.concatenate([e.step for e in again]).tolist(),
            np.concatenate([e.end_s for e in again]).tolist(),
            strict=True,
        )
    )
    for made in (first, second):
        assert made.cleared_s == pytest.approx(ends[made.strike_step], abs=1e-6)
