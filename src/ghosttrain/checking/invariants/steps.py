"""Invariants of the rows of steps: what each row says agrees with itself and with the last."""

from __future__ import annotations

import numpy as np

from ghosttrain.checking.findings import Findings, equal, within
from ghosttrain.checking.history import History
from ghosttrain.checking.observations import F64, StepBlock, Value
from ghosttrain.core.laws.loss import LOWEST_FLOOR, learning_rate_ratio
from ghosttrain.core.spec import Recipe
from ghosttrain.core.units import TERA

LOWEST_LOSS_SCALE = 0.4  # below the easiest corpus of the catalogue (0.45)
LARGEST_NOISE_C = 15.0  # of sd(log loss) = c / sqrt(tokens per step); see core/spec.py: Dataset
FIRST_LOSS = -0.3, 1.6  # of a run from scratch, against ln V
MOST_EQUAL_LOSSES = 8  # in a row, or of the lowest of a run: chance gives no more
# The pace of some steps against the planned one: jitter of up to 0.6 % a step, levels of 0.08 %,
# one hiccup of up to 1.2 steps in 200.
PACE_SLACK = 0.02


def ppl_is_exp_of_loss(block: StepBlock, _: History) -> Findings:
    """Perplexity is exp(loss), to half a unit of either printed value."""
    if block.has("ppl", "loss"):
        loss, ppl = block["loss"], block["ppl"]
        expected = np.exp(np.minimum(loss.value, 700.0))
        slack = ppl.half + expected * np.expm1(loss.half)
        yield equal(block.line, "ppl", ppl.value, expected, slack, "exp(loss)")


def tokens_per_s_is_tokens_over_step_time(block: StepBlock, h: History) -> Findings:
    """Tokens/s times step time is the tokens of a step."""
    tokens = h.facts.tokens_per_step
    if tokens is not None and block.has("tokens_per_s", "step_time_s"):
        rate, time = block["tokens_per_s"], block["step_time_s"]
        expected = tokens.value / np.maximum(time.value, 1e-300)
        slack = rate.half + expected * (time.relative + tokens.relative)
        formula = f"{tokens.value:,.0f} tokens / step time"
        yield equal(block.line, "tokens/s", rate.value, expected, slack, formula)


def mfu_follows_tokens_per_s(block: StepBlock, h: History) -> Findings:
    """MFU is FLOPs per token × tokens/s / (GPUs × peak)."""
    f = h.facts
    if f.flops_per_token is None or f.gpus is None or f.peak_tflops is None:
        return
    if block.has("mfu", "tokens_per_s"):
        rate, mfu = block["tokens_per_s"], block["mfu"]
        expected = rate.value * f.flops_per_token.value
        expected = expected / (f.gpus.value * f.peak_tflops.value * TERA)
        loose = rate.relative + f.flops_per_token.relative + f.peak_tflops.relative
        slack = mfu.half + expected * loose
        formula = "FLOPs a token × tokens/s / (GPUs × peak)"
        yield equal(block.line, "MFU", mfu.value, expected, slack, formula)


def tflops_follow_tokens_per_s(block: StepBlock, h: History) -> Findings:
    """TFLOP/s a GPU is FLOPs per token × tokens/s / GPUs."""
    f = h.facts
    if f.flops_per_token is None or f.gpus is None:
        return
    if block.has("tflops_per_gpu", "tokens_per_s"):
        rate, found = block["tokens_per_s"], block["tflops_per_gpu"]
        expected = rate.value * f.flops_per_token.value / f.gpus.value / TERA
        slack = found.half + expected * (rate.relative + f.flops_per_token.relative)
        formula = "FLOPs a token × tokens/s / GPUs"
        yield equal(block.line, "TFLOP/s/GPU", found.value, expected, slack, formula)


def mfu_is_at_most_one(block: StepBlock, _: History) -> Findings:
    """No GPU does more than its peak."""
    if block.has("mfu"):
        yield within(block.line, "MFU", block["mfu"].value, 0.0, 1.0)


def steps_count_up(block: StepBlock, h: History) -> Findings:
    """Each row's step is the one after the last row's; in logs by interval, the next due."""
    step = block["step"].value
    before = np.concatenate([[np.nan if h.step is None or h.blind else h.step], step[:-1]])
    if h.facts.prints_every_step:
        yield equal(block.line, "step", step, before + 1, 0, "the step after the last")
    elif h.log_interval is not None and not h.facts.is_thinned:
        due = before - before % h.log_interval + h.log_interval
        due[(before == 0) & (step == 1)] = 1
        yield equal(block.line, "step", step, due, 0, f"every {h.log_interval} steps")
    else:
        yield within(block.line, "step", step, before + 1, np.inf, "later than the last")


def steps_are_of_the_run(block: StepBlock, h: History) -> Findings:
    """No step beyond the run's last."""
    total = h.facts.total_steps
    if total is not None:
        yield within(block.line, "step", block["step"].value, 1, total.value, "steps of the run")


def rows_name_their_attempt(block: StepBlock, h: History) -> Findings:
    """The attempt of a row is the one launched last."""
    if block.has("attempt") and h.attempt is not None and h.begins_here:
        found = block["attempt"].value
        yield equal(block.line, "attempt", found, float(h.attempt), 0, "the last one launched")


def tokens_seen_follow_steps(block: StepBlock, h: History) -> Findings:
    """Tokens seen are steps × tokens per step."""
    tokens = h.facts.tokens_per_step
    if block.has("tokens_seen") and tokens is not None:
        expected = block["step"].value * tokens.value
        found = block["tokens_seen"].value
        yield equal(block.line, "tokens seen", found, expected, 0, "step × tokens per step")


def step_times_add_up(block: StepBlock, h: History) -> Findings:
    """A step begins when the last step, stop or launch ended: no gap but for those."""
    if not block.has("time_s", "step_time_s"):
        return
    end, took = block["time_s"], block["step_time_s"]
    if h.facts.prints_every_step:
        known = h.idle_since is not None and not h.blind
        first = h.idle_since if known and h.idle_since is not None else Value(np.nan)
        before = np.concatenate([[first.value], end.value[:-1]])
        before_half = np.concatenate([[first.half], end.half[:-1]])
        # Twice: the writer rounds the end of a span as well as of a step.
        slack = end.half + took.half + 2 * before_half + 1e-6
        found = end.value - before
        formula = "step time, since the last step or stop ended"
        yield equal(block.line, "time passed", found, took.value, slack, formula)
        return
    step = block["step"].value
    passed, steps = np.diff(end.value), np.diff(step)
    if len(step) > 1:
        recent = np.concatenate([h.pace, took.value])
        usual = float(np.median(recent))
        slow = np.maximum(took.value[1:], took.value[:-1])
        half = end.half[1:] + end.half[:-1]
        # Of a few rows each may be a slow one: a hiccup adds up to 1.2 steps.
        fast = float(recent.min()) / (1 if len(recent) >= 8 else 2.3)
        low = steps * fast * (1 - PACE_SLACK) - half
        slowed = h.slowed(step)
        # The first steps of a launch are slow: some compile, which takes up to a minute.
        cold = np.where(step[:-1] < 5, 60.0, 0.0)
        hiccups = 1.3 * (steps // 200 + 2) * usual
        high = steps * np.maximum(usual, 1.1 * slow) * (1 + PACE_SLACK) + hiccups + cold + half
        high = np.where(slowed[1:] | slowed[:-1], np.inf, high)
        formula = f"steps of {usual:.4g} s"
        yield within(block.line[1:], "seconds between rows", passed, low, high, formula)


def eta_counts_down(block: StepBlock, h: History) -> Findings:
    """ETA covers the remaining steps at the present pace, and falls by a step's time a step.

    Tolerance: PACE_SLACK of the pace, plus three robust deviations of the recent step times.
    What it has beyond that, the planned stops, is checked at the end of the run. While a fault
    slows steps the pace may change, between the undisturbed one and that of the slowest row.
    """
    total = h.facts.total_steps
    if total is None or not block.has("eta_s", "step_time_s"):
        return
    took, eta, step = block["step_time_s"].value, block["eta_s"], block["step"].value
    slowed = h.slowed(step)
    recent = np.array([*h.pace, *took[h.at_pace(step)].tolist()])
    if len(recent) < 16:
        return
    pace, spread = pace_of(recent)
    slack = PACE_SLACK * pace + 3 * spread
    remaining = total.value - step
    low = remaining * (pace - slack) - eta.half
    high = np.full(len(step), np.inf)
    if slowed.any() and h.planned_stops_s:
        slowest = max(float(took.max()), pace)
        room = h.planned_stops_s + 2 * PACE_SLACK * pace * total.value + eta.half
        high = np.where(slowed, remaining * slowest * (1 + 2 * PACE_SLACK) + room, high)
    yield within(block.line, "ETA", eta.value, low, high, f"remaining steps × {pace:.4g} s")
    if len(step) > 1:
        fall = -np.diff(eta.value)
        expected = np.diff(step) * pace
        room = np.diff(step) * slack + eta.half[1:] + eta.half[:-1]
        room = np.where(slowed[1:] | slowed[:-1], np.nan, room)
        formula = f"{pace:.4g} s a step"
        yield equal(block.line[1:], "ETA falls by", fall, expected, room, formula)


def pace_of(step_times: F64) -> tuple[float, float]:
    """Median of step times and their robust standard deviation."""
    pace = float(np.median(step_times))
    return pace, 1.4826 * float(np.median(np.abs(step_times - pace)))


def learning_rate_follows_schedule(block: StepBlock, h: History) -> Findings:
    """Learning rate from 0 to its peak, by the schedule where the log tells it."""
    if not block.has("learning_rate"):
        return
    rate, peak = block["learning_rate"], h.facts.peak_learning_rate
    high = 1.0 if peak is None else peak.value + peak.half
    yield within(block.line, "learning rate", rate.value, 0.0, high + rate.half, "0 to its peak")
    recipe = _recipe(h)
    if recipe is not None and peak is not None:
        expected = peak.value * learning_rate_ratio(recipe, block["step"].value)
        slack = rate.half + expected * peak.relative
        told_in_full = h.facts.min_learning_rate_ratio is not None
        if not told_in_full or (
            recipe.schedule == "wsd" and h.facts.decay_frac is None
        ):  # the end of the schedule is not told
            ends = recipe.schedule != "constant"
            told = block["step"].value <= (recipe.warmup_steps if ends else np.inf)
            expected = np.where(told, expected, np.nan)
        formula = f"{recipe.schedule}, {recipe.warmup_steps:,} steps of warmup"
        yield equal(block.line, "learning rate", rate.value, expected, slack, formula)


def _recipe(h: History) -> Recipe | None:
    """What the schedule needs of a recipe, None where the log does not tell all of it."""
    f = h.facts
    if f.schedule not in ("cosine", "linear", "wsd", "constant"):
        return None
    if f.warmup_steps is None or f.total_steps is None:
        return None
    return Recipe(
        seq_len=1,
        global_batch_size=1,
        epochs=1,
        steps_per_epoch=int(f.total_steps.value),
        schedule=f.schedule,  # type: ignore[arg-type]
        warmup_steps=int(f.warmup_steps.value),
        min_learning_rate_ratio=f.min_learning_rate_ratio.value if f.min_learning_rate_ratio else 0,
        decay_frac=f.decay_frac.value if f.decay_frac else 0.2,
    )


def learning_rate_is_continuous(block: StepBlock, h: History) -> Findings:
    """Learning rate rises as at first, and falls by no more than a cosine of these steps does.

    In a square-root decay over a tenth of the steps the first is the steepest.
    """
    total = h.facts.total_steps
    if not block.has("learning_rate") or total is None:
        return
    rate, step = block["learning_rate"], block["step"].value
    last = h.last.get("learning_rate")
    first = Value(np.nan) if last is None or h.blind or not h.last.get("step") else last
    same_attempt = h.step is not None and h.last.get("step", Value(-1.0)).value == h.step
    before = np.concatenate([[first.value if same_attempt else np.nan], rate.value[:-1]])
    steps = step - np.concatenate([[h.step if h.step is not None else np.nan], step[:-1]])
    half = rate.half + np.concatenate([[first.half], rate.half[:-1]])
    peak = h.facts.peak_learning_rate
    highest = peak.value if peak is not None else max(float(np.nanmax(rate.value)), first.value)
    highest = highest if np.isfinite(highest) else float(np.nanmax(rate.value))
    warmup = h.facts.warmup_steps
    rise = highest if warmup is None else highest * steps / max(warmup.value, 1.0)
    if warmup is None:
        # A warmup that has begun rises by the same at every step.
        rise = np.where(before > 0, before / np.maximum(step - steps, 1) * steps * 1.001, highest)
    fall = highest * np.minimum(
        1.0, np.sqrt(np.maximum(steps, 0) / max(1.0, 0.05 * total.value)) + 0.02
    )
    change = rate.value - before
    yield within(
        block.line, "learning rate changes by", change, -fall - half, rise + half, "continuous"
    )


def losses_are_finite_and_positive(block: StepBlock, h: History) -> Findings:
    """Loss, perplexity, gradient norm, step time, tokens/s: all above zero.

    Loss and gradient norm are no numbers only while a fault makes them so, and then all three.
    """
    if h.begins_here and block.has("loss"):
        unknown = np.isnan(block["loss"].value)
        lawful = block["step"].value <= h.faults.felt_until("loss-nan")
        for name in ("loss", "ppl", "grad_norm"):
            if block.has(name):
                is_nan = np.isnan(block[name].value)
                found, wanted = is_nan.astype(np.float64), (unknown & lawful).astype(np.float64)
                yield equal(block.line, f"rows without {name}", found, wanted, 0.0, "a fault's")
    for name, least in (
        ("loss", 0.0),
        ("ppl", 1.0),
        ("grad_norm", 0.0),
        ("step_time_s", 0.0),
        ("tokens_per_s", 0.0),
    ):
        if block.has(name):
            column = block[name]
            # A printed 0.000 may be a small number.
            above = np.where(column.value + column.half > least, np.inf, -np.inf)
            yield within(block.line, name, column.value, least, np.maximum(above, least), "above 0")


def first_loss_is_lawful(block: StepBlock, h: History) -> Findings:
    """The first loss is near ln V, or near the base model's where the run continues from one."""
    f = h.facts
    if not block.has("loss") or block["step"].value[0] != 1 or h.is_astray:
        return
    loss, line = float(block["loss"].value[0]), block.line[:1]
    half = float(block["loss"].half[0])
    if f.continued_loss is not None and f.continued_loss.value > 0:
        base = f.continued_loss.value
        tokens = f.tokens_per_step.value if f.tokens_per_step else 2.0**19
        slack = base * 6 * LARGEST_NOISE_C / tokens**0.5 + 0.02 + half
        yield equal(line, "first loss", loss, base, slack, "the base model's loss")
    elif f.vocab_size is not None and f.continued_loss is not None:
        start = float(np.log(f.vocab_size.value))
        low, high = start + FIRST_LOSS[0] - half, start + FIRST_LOSS[1] + half
        yield within(line, "first loss", loss, low, high, f"ln V is {start:.4f}")


def loss_stays_above_its_floor(block: StepBlock, h: History) -> Findings:
    """No loss is below the irreducible one of the scaling law for its corpus."""
    if block.has("loss"):
        scale = h.facts.loss_scale.value if h.facts.loss_scale else LOWEST_LOSS_SCALE
        tokens = h.facts.tokens_per_step.value if h.facts.tokens_per_step else 2.0**17
        floor = scale * LOWEST_FLOOR * np.exp(-6 * LARGEST_NOISE_C / tokens**0.5)
        loss = block["loss"]
        low = floor - loss.half
        yield within(block.line, "loss", loss.value, low, 20.0, "the law's floor to 20 nats")


def loss_is_not_constant(block: StepBlock, h: History) -> Findings:
    """Losses differ: no value stands for long, and the lowest is not a floor."""
    if not block.has("loss"):
        return
    loss = block["loss"].value
    last = h.last.get("loss")
    changes = np.concatenate([[last is None or last.value != loss[0]], np.diff(loss) != 0])
    ordinal = np.arange(len(loss))
    start = np.maximum.accumulate(np.where(changes, ordinal, -1))
    run = np.where(start >= 0, ordinal - start + 1, ordinal + 1 + h.equal_losses)
    # Once per stretch: where it reaches one too many.
    reached = np.where(run == MOST_EQUAL_LOSSES + 1, run, 0)
    yield within(
        block.line, "equal losses in a row", reached, 0, MOST_EQUAL_LOSSES, "chance gives no more"
    )


def replayed_losses_are_the_same(block: StepBlock, h: History) -> Findings:
    """A step done again after a restart has the loss it had, of the same batches.

    Unless an effect of a fault is in one of them.
    """
    steps = block["step"].value.astype(np.int64)
    if not block.has("loss") or steps[0] > h.furthest or h.is_astray:
        return
    for old in reversed(h.losses):
        if not old.is_lawful or old.step[-1] < steps[0] or old.step[0] > steps[-1]:
            continue
        _, here, there = np.intersect1d(steps, old.step, return_indices=True)
        if len(here):
            loss = block["loss"]
            slack = loss.half[here] + old.half[there]
            yield equal(
                block.line[here],
                "replayed loss",
                loss.value[here],
                old.loss[there],
                slack,
                "the same step before the restart",
            )


def epochs_follow_steps(block: StepBlock, h: History) -> Findings:
    """A step of the n-th `steps per epoch` steps is of epoch n."""
    per_epoch = h.facts.steps_per_epoch
    if block.has("epoch") and per_epoch is not None:
        expected = np.ceil(block["step"].value / per_epoch.value)
        found = block["epoch"].value
        yield equal(block.line, "epoch", found, expected, 0, "step / steps per epoch")


STEP_INVARIANTS = (
    ppl_is_exp_of_loss,
    tokens_per_s_is_tokens_over_step_time,
    mfu_follows_tokens_per_s,
    tflops_follow_tokens_per_s,
    mfu_is_at_most_one,
    steps_count_up,
    steps_are_of_the_run,
    rows_name_their_attempt,
    tokens_seen_follow_steps,
    step_times_add_up,
    eta_counts_down,
    learning_rate_follows_schedule,
    learning_rate_is_continuous,
    losses_are_finite_and_positive,
    first_loss_is_lawful,
    loss_stays_above_its_floor,
    loss_is_not_constant,
    replayed_losses_are_the_same,
    epochs_follow_steps,
)
