from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from ghosttrain import catalog
from ghosttrain.core.events import (
    GpusDetected,
    MessageLogged,
    Phase,
    PhaseEnded,
    RunFinished,
    RunStarted,
    StepsCompleted,
    ValidationCompleted,
    WarningKind,
    WarningRaised,
    WatchdogTimedOut,
)
from ghosttrain.core.spec import Faults, Layout
from ghosttrain.views.renderables.glyphs import ASCII
from ghosttrain.views.renderables.log_lines import log_lines
from ghosttrain.views.renderables.run_card import RunCard
from tests.views.renderables.fleets import card_of, faulty_events, faulty_run, with_recipe

STAMP = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ")
STEP = re.compile(
    r"step +(?P<step>\d+)/180  loss +(?P<loss>\d+\.\d{4})  ppl +(?P<ppl>\d+\.\d\d)  "
    r"grad +(?P<grad>\d+\.\d{3})  lr (?P<lr>\d\.\d\de-\d\d) (?P<phase>warmup|cosine)  BF16  "
    r"+(?P<time>\d+\.\d{3})s  +(?P<tokens>\d+) tok/s  +(?P<tflops>\d+\.\d) TFLOP/s/GPU  "
    r"MFU +(?P<mfu>\d+\.\d)%(?P<clipped>  clipped)?"
)


@pytest.fixture(scope="module")
def card() -> RunCard:
    return card_of(faulty_run())


def texts(kind: type, card: RunCard, **options: int) -> list[str]:
    return [
        line.text[22:]
        for event in faulty_events()
        if isinstance(event, kind)
        for line in log_lines(event, card, **options)
    ]


def whole_log(card: RunCard) -> list[str]:
    return [line.text for event in faulty_events() for line in log_lines(event, card)]


@pytest.mark.parametrize("flops_per_token", [999.94e9, 99.994e12])
def test_batch_and_layout_stay_within_120_columns_at_any_size(card, flops_per_token):
    """Every degree in use and larger than any cluster has, a batch of 1,048,576 sequences."""
    layout = Layout(16, 64, 16, 512, 16384, 16, 128, 1024, "zero1", "selective")
    recipe = replace(card.spec.recipe, global_batch_size=1_048_576, precision="bf16")
    moe = catalog.model("deepseek-v3")
    gpu = catalog.gpu("gb300")
    spec = replace(card.spec, recipe=recipe, model=moe, gpu=gpu)
    plan = replace(card.plan, spec=spec, layout=layout, flops_per_token=flops_per_token)
    plan = replace(plan, peak_tflops=gpu.fp8_tflops)
    ended = PhaseEnded(20.0, Phase.DATASET, 1, 0, 9.0)
    lines = [line.text for line in log_lines(ended, replace(card, plan=plan))]
    assert [line for line in lines if len(line) > 120] == []
    assert "EP 512 · DP 16384 (ZeRO-1) · selective recompute" in "\n".join(lines)


def test_what_was_chosen_takes_as_many_lines_as_it_needs(card):
    words = [f"choice {number} of somebody else" for number in range(12)]
    spec = replace(card.spec, chosen=tuple((word, word) for word in words))
    started = RunStarted(0.0, card.seed, replace(card.plan, spec=spec))
    _, *lines = (line.text for line in log_lines(started, RunCard.of(started)))
    assert max(len(line) for line in lines) <= 120
    assert " · ".join(line.partition("chosen: ")[2] for line in lines) == " · ".join(words)


def test_every_line_but_the_summary_is_stamped(card):
    log = whole_log(card)
    end = next(i for i, line in enumerate(log) if "Training Summary" in line)
    assert all(STAMP.match(line) for line in log[:end])
    assert log[-1] == "✔ Training completed successfully!"
    stamps = [line[:21] for line in log[:end]]
    assert stamps == sorted(stamps)


def test_initialisation_says_model_data_layout_and_network(card):
    log = "\n".join(whole_log(card))
    plan = faulty_run().plan
    for part in (
        "Llama-3-8B on 64 × H100-SXM (8 nodes), 3 epochs of 60 steps",
        "chosen: what most people train on",
        "8,030,261,248 parameters · 32 layers · hidden 4096 · 32 heads, 8 KV · FFN 14336",
        "Initialising weights (seed 1234)",
        "vocabulary 128,256, loaded in",
        "Batch: 128 sequences = ",
        f" · {plan.flops_per_token / 1e9:.1f} GFLOP a token",
        "DP 64",
        f"Each GPU: BF16 peak 989.0 TFLOP/s · {plan.memory_used_gib:.1f} of 79.6 GiB",
        "NCCL 2.27.3: world size 64, 8 nodes, 16 ring channels, NVLS, 8 × 400 Gb/s InfiniBand",
        "[Rank 12/64] [Node 1/8] NVIDIA H100 80GB HBM3, 79.6 GiB, ECC on, driver",
        "All-reduce test, 1 GiB over 64 ranks (",
        "======== Training Started ========",
    ):
        assert part in log


def test_each_gpu_is_listed_once_an_attempt(card):
    ranks = [line for line in texts(GpusDetected, card) if "[Rank" in line]
    assert len(ranks) == 2 * 64


def test_many_gpus_are_condensed_with_their_count():
    card = card_of(faulty_run(128))
    lines = [
        line.text
        for event in faulty_events(128)
        if isinstance(event, GpusDetected) and event.attempt == 1
        for line in log_lines(event, card)
    ]
    assert 1 <= len(lines) <= 16
    assert "128" in lines[-1]


def test_detailed_lines_at_step_1_and_every_interval(card):
    first = [e for e in faulty_events() if isinstance(e, StepsCompleted) and e.attempt == 1]
    matches = [STEP.match(line) for line in texts(StepsCompleted, card) if line.startswith("step")]
    assert all(matches)
    steps = [int(m["step"]) for m in matches if m]
    assert steps[:3] == [1, 10, 20]
    every = [e.step for e in first]
    assert len([s for s in steps if s in (1, *range(10, 181, 10))]) == len(steps)
    assert every[0][0] == 1


def test_a_detailed_line_agrees_with_itself(card):
    """PPL = exp(loss), MFU = TFLOP/s over the peak, tokens/s = tokens / step time."""
    plan = faulty_run().plan
    for line in texts(StepsCompleted, card):
        if not (match := STEP.match(line)):
            continue
        loss, tokens = float(match["loss"]), float(match["tokens"])
        assert float(match["ppl"]) == pytest.approx(math.exp(loss), rel=1e-4)
        assert tokens * float(match["time"]) == pytest.approx(card.tokens_per_step, rel=1e-3)
        tflops = tokens * plan.flops_per_token / 64 / 1e12
        assert float(match["tflops"]) == pytest.approx(tflops, abs=0.06)
        assert float(match["mfu"]) == pytest.approx(100 * tflops / plan.peak_tflops, abs=0.06)
        assert bool(match["clipped"]) == (float(match["grad"]) > 1.0)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 160])
def test_a_narrow_detailed_line_keeps_what_matters(card, width):
    lines = [line for line in texts(StepsCompleted, card, width=width) if line.startswith("step")]
    assert all(len(line) + 22 <= width for line in lines)
    assert all("loss" in line for line in lines)
    if width >= 80:
        assert all("MFU" in line for line in lines)


def test_an_fp16_run_shows_its_loss_scale():
    card = with_recipe(faulty_run(), precision="fp16")
    event = next(e for e in faulty_events() if isinstance(e, StepsCompleted))
    assert "  scale    65536  " in log_lines(event, card)[0].text


def test_collectives_follow_their_step(card):
    lines = texts(StepsCompleted, card)
    at = next(i for i, line in enumerate(lines) if "NCCL" in line)
    assert lines[at - 1].startswith("step  50/")
    assert re.match(
        r"INFO    NCCL reduce-scatter, layer \d+: \d+ MB over 64 ranks, \d+\.\d\d ms, "
        r"bus bandwidth \d+ GB/s$",
        lines[at],
    )


@pytest.mark.parametrize(
    ("kind", "node", "value", "baseline", "text"),
    [
        (
            WarningKind.LATE_LOADER,
            5,
            1.84,
            2.46,
            "[Node 5/8] step 420 waited 1.840s for data, late loader (usual step 2.460s, +75%)",
        ),
        (
            WarningKind.SLOW_COLLECTIVE,
            1,
            0.25,
            2.5,
            "[Node 1/8] step 420 waited 0.250s, slow collectives (usual step 2.500s, +10%)",
        ),
        (
            WarningKind.WARM_INLET,
            2,
            31.2,
            22.5,
            "[Node 2/8] inlet air at 31.2°C (+8.7°C): GPUs run warmer",
        ),
        (
            WarningKind.GRAD_NORM_BURST,
            None,
            2.5,
            0.25,
            "step 420 gradient norm 2.500, 10.0 times its trend 0.250, clipped to 1",
        ),
    ],
)
def test_warnings_have_cause_and_numbers(card, kind, node, value, baseline, text):
    event = WarningRaised(60.0, kind, 420, node, None, value, baseline)
    (line,) = log_lines(event, card)
    assert line.text == f"[2026-01-01 00:01:00] WARNING {text}"
    assert ("WARNING", "yellow") in [(t.strip(), s) for t, s in line.pieces]


def test_a_fault_is_told_from_the_kernel_to_the_restart(card):
    log = "\n".join(line[22:] for line in whole_log(card) if STAMP.match(line))
    parts = (
        "INFO    [fault 1] gpu-off-bus begins at [Rank 13/64] [Node 1/8], step ",
        "ERROR   gpu-0001 NVRM: Xid (PCI:0000:",
        "): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "WARNING No progress since step",
        "ERROR   [rank0]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=",
        "Timeout(ms)=600000",
        "ERROR   [Rank 13/64] [Node 1/8] did not arrive: 63 ranks waited 10m00s",
        "ERROR   Attempt 1 ended at step",
        "INFO    [Node 1/8] replaced by a spare after",
        "INFO    Attempt 2 starts from the beginning",
        "INFO    [fault 1] gpu-off-bus over: noticed after ",
    )
    places = [log.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 12.5, 1e6])
@pytest.mark.parametrize("width", [60, 100, 10_000])
def test_a_loss_gone_astray_moves_no_column(card, loss, width):
    """No number, infinite, or as bad as a guess: fields stand where they stood."""
    card = replace(card, grad_width=7)
    event = next(e for e in faulty_events() if isinstance(e, StepsCompleted))
    count = len(event.step)
    grad = np.full(count, math.nan if math.isnan(loss) else 960.0)
    astray = replace(event, loss=np.full(count, loss), grad_norm=grad)
    before = log_lines(event, card, width=width)[0].text
    after = log_lines(astray, card, width=width)[0].text
    assert before.index("  loss") == after.index("  loss")
    if not loss > 700:  # its perplexity is no float
        assert before.find("  lr ") == after.find("  lr ")
        assert before.find("MFU") == after.find("MFU")


def test_a_run_that_may_go_astray_has_room_for_the_loss_of_a_guess():
    run = faulty_run()
    calm = with_recipe(run, continued_loss=2.0)
    kind = replace(run.spec.faults.injected[0].kind, effect="loss-spike")
    spec = replace(calm.spec, faults=Faults(drawn=(kind,)))
    wild = RunCard.of(RunStarted(0.0, 1, replace(calm.plan, spec=spec)))
    assert (calm.loss_width, calm.ppl_width) == (6, 5)
    assert wild.loss_width == len(f"{math.log(128256):.4f}")
    assert wild.ppl_width >= len(f"{128256:.2f}")


def test_a_validation_is_compared_with_training_and_the_best(card):
    event = ValidationCompleted(90.0, 60, 1, 2.7163, 0.435, 2.7089, 2.7163, True, 7.0, 2**23)
    first, second = log_lines(event, card)
    assert first.text[30:] == (
        "Validation: loss 2.7163  ppl 15.12  accuracy 43.5%  train 2.7089 (+0.0074)  best so far"
    )
    assert second.text[30:] == "  8.39 M tokens in 7.0s, 1198373 tok/s"
    worse = replace(event, improved=False, best_loss=2.7)
    assert log_lines(worse, card)[0].text.endswith("  best 2.7000")


def test_ascii_logs_are_ascii():
    run = faulty_run()
    card = replace(card_of(run), glyphs=ASCII)
    log = [line.text for event in faulty_events() for line in log_lines(event, card)]
    assert [line for line in log if not line.isascii()] == []


def test_lines_stay_within_120_columns(card):
    """All but the words of other programs, which break no line."""
    lines = [
        line.text
        for event in faulty_events()
        if not isinstance(event, MessageLogged | WatchdogTimedOut)
        for line in log_lines(event, card, width=120)
    ]
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("width", [20, 60, 79, 80, 100, 120])
def test_the_summary_fits(card, width):
    event = next(e for e in faulty_events() if isinstance(e, RunFinished))
    lines = log_lines(event, card, width=width)[:-1]
    assert all(len(line) <= width for line in lines)
    two = "Final loss" in lines[1].text
    assert two == (width >= 80)


def test_a_run_that_met_its_limit_says_so(card):
    event = next(e for e in faulty_events() if isinstance(e, RunFinished))
    last = log_lines(replace(event, reason="time_limit"), card)[-1]
    assert last.text == "Time limit reached at step 180 of 180"
