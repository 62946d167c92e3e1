"""Invariants of a run's end: the summary is what was seen."""

from __future__ import annotations

import math

from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import MOST_VALIDATIONS, History
from ghosttrain.checking.invariants.course import folder_of
from ghosttrain.checking.invariants.fleet import LAUNCH_SHARE, POWER_OVER_LIMIT
from ghosttrain.checking.observations import Observation
from ghosttrain.core.laws.faults import LOSS_EFFECTS
from ghosttrain.core.units import HOUR_S, TERA

ENERGY_SLACK = 0.08  # of the energy: samples are few, their mean is not that of all time
UTIL_SLACK_PCT = 1.0
MEMORY_SLACK_GIB = 0.02
SHARE_SLACK = 1e-5


def summary_counts_what_was_done(o: Observation, h: History) -> Findings:
    """Epochs, steps and tokens are those that were seen; a completed run has all its steps."""
    steps, tokens, epochs = o.get("steps"), o.get("tokens"), o.get("epochs")
    f = h.facts
    if steps is None:
        return
    if h.step is not None and not h.blind and f.prints_every_step:
        line, back = o.line_of("steps"), h.abort.get("checkpoint_step") if h.abort else None
        if back is not None:
            yield equal(line, "steps", steps.value, back.value, 0, "what the abort went back to")
        elif h.is_standing_still:
            top = float(h.saved_step or 0)
            yield within(line, "steps", steps.value, 0, top, "what the hang would go back to")
        else:
            yield equal(line, "steps", steps.value, float(h.step), 0, "the last one seen")
    if f.total_steps is not None and o.words.get("reason") == "completed":
        formula = "all: the run completed"
        yield equal(o.line_of("steps"), "steps", steps.value, f.total_steps.value, 0, formula)
    if tokens and f.tokens_per_step is not None:
        expected = steps.value * f.tokens_per_step.value
        yield equal(
            o.line_of("tokens"),
            "tokens",
            tokens.value,
            expected,
            tokens.half,
            "steps × tokens a step",
        )
    if epochs and f.steps_per_epoch is not None and f.steps_per_epoch.value >= 1:
        expected = steps.value // f.steps_per_epoch.value
        yield equal(
            o.line_of("epochs"), "epochs", epochs.value, expected, 0, "steps / steps per epoch"
        )


def summary_has_the_last_loss(o: Observation, h: History) -> Findings:
    """The final loss is that of the last step; perplexities are exp of their losses."""
    final, last, step = o.get("final_loss"), h.last.get("loss"), o.get("steps")
    at = h.last.get("step")
    if final and last and step and at and at.value == step.value and not h.blind:
        slack = final.half + last.half
        yield equal(
            o.line_of("final_loss"), "final loss", final.value, last.value, slack, "the last step's"
        )
    for loss_name, ppl_name in (("final_loss", "final_ppl"), ("validation_loss", "validation_ppl")):
        loss, ppl = o.get(loss_name), o.get(ppl_name)
        if loss and ppl:
            expected = math.exp(min(loss.value, 700.0))
            slack = ppl.half + expected * math.expm1(loss.half)
            yield equal(
                o.line_of(ppl_name),
                ppl_name.replace("_", " "),
                ppl.value,
                expected,
                slack,
                "exp(loss)",
            )


def summary_has_the_best_validation(o: Observation, h: History) -> Findings:
    """Last and best validation are those that were seen."""
    if not h.validations or h.has_holes or not h.begins_here:
        return
    # A run may end before its restart: then the last ones have not counted.
    steps = o.get("steps") if h.is_standing_still else None
    done = math.inf if steps is None else steps.value
    validations = [v for v in h.validations if v.step <= done]
    if not validations:
        return
    undone = h.validations[len(validations) :]
    least = undone[0].best_before if undone else h.best
    last, best, at = (
        o.get("validation_loss"),
        o.get("best_validation_loss"),
        o.get("best_validation_step"),
    )
    seen = validations[-1].loss
    if last:
        slack = last.half + seen.half
        yield equal(
            o.line_of("validation_loss"),
            "validation loss",
            last.value,
            seen.value,
            slack,
            "the last one",
        )
    if best:
        slack = best.half + least.half
        yield equal(
            o.line_of("best_validation_loss"),
            "best validation loss",
            best.value,
            least.value,
            slack,
            "the least",
        )
    if at:
        near = [
            float(v.step) for v in validations if abs(v.loss.value - least.value) <= 2 * least.half
        ]
        found = min(near, key=lambda step: abs(step - at.value), default=math.nan)
        yield equal(
            o.line_of("best_validation_step"),
            "best validation step",
            at.value,
            found,
            0,
            "where it was seen",
        )


def summary_has_the_run_time(o: Observation, h: History) -> Findings:
    """Run time is from the first line to the last; GPU-hours are that times the GPUs."""
    run, gpu_hours = o.get("run_time_s"), o.get("gpu_hours")
    ended = o.time or h.time
    if run and ended and h.began is not None:
        expected = ended.value - h.began.value
        slack = run.half + ended.half + h.began.half + 1e-6
        line = o.line_of("run_time_s")
        if o.time is None and o.words.get("reason") == "time_limit":  # it has no line of its own
            yield within(
                line, "run time", run.value, expected - slack, math.inf, "to the last line"
            )
        else:
            yield equal(line, "run time", run.value, expected, slack, "end − begin")
    if run and gpu_hours and h.facts.gpus is not None:
        expected = run.value * h.facts.gpus.value / HOUR_S
        slack = gpu_hours.half + run.half * h.facts.gpus.value / HOUR_S + 1e-6
        yield equal(
            o.line_of("gpu_hours"), "GPU-hours", gpu_hours.value, expected, slack, "GPUs × run time"
        )


def summary_shares_add_up(o: Observation, h: History) -> Findings:
    """Goodput and all that was no goodput make up the run time."""
    names = ("goodput", "init", "validation", "checkpoint", "fault", "export")
    shares = [o.get(n if n == "goodput" else f"{n}_share") for n in names]
    known = [share for share in shares if share is not None]
    for name, share in zip(names, shares, strict=True):
        if share is not None:
            yield within(
                o.line_of("goodput"), f"share of {name}", share.value, 0.0, 1.0 + share.half
            )
    if shares[0] is not None and len(known) > 1:
        total = sum(share.value for share in known)
        # A share that is not printed is under a twentieth of a percent.
        slack = (
            sum(share.half for share in known) + 0.0005 * (len(names) - len(known)) + SHARE_SLACK
        )
        yield equal(o.line_of("goodput"), "sum of shares", total, 1.0, slack, "the whole run")


def summary_books_the_time_seen(o: Observation, h: History) -> Findings:
    """Each share is the time seen for it over the run time."""
    run = o.get("run_time_s")
    if not run or not h.facts.prints_every_step or not h.begins_here or h.has_holes:
        return
    booked, end = h.booked, run.value
    open_s = 0.0
    if h.idle_since is not None and o.time is not None:
        open_s = o.time.value - h.idle_since.value  # what the time limit cut
    name = h.phase.words.get("phase", "") if h.phase else ""
    in_steps = h.phase is None and h.abort is None
    pending = booked.pending + (open_s if in_steps else 0.0)
    undone = 0.0
    if name == "hang":  # the run was over before its abort could be told
        if h.faults.stands("corrupt-checkpoint", *LOSS_EFFECTS):
            return  # what would have been gone back to nobody knows
        pending, undone = 0.0, pending
    steps = booked.steps + pending
    seen = {
        "goodput": steps,
        "init_share": booked.init,
        "validation_share": booked.validation,
        "checkpoint_share": booked.checkpoint,
        "fault_share": booked.down + booked.lost + undone,
        "export_share": booked.export,
    }
    slack = (h.steps_seen * 5e-7 + 1e-3) / end + 1e-8
    for share_name, seconds in seen.items():
        share = o.get(share_name)
        if share is None or (name and open_s > 1e-6 and share_name != "goodput"):
            continue
        formula = f"{seconds:.3f} s of {end:.3f} s"
        yield equal(
            o.line_of(share_name),
            share_name,
            share.value,
            seconds / end,
            slack + share.half,
            formula,
        )
    f = h.facts
    mfu, done = o.get("mean_mfu"), o.get("steps")
    if (
        mfu
        and done
        and steps
        and f.tokens_per_step
        and f.flops_per_token
        and f.gpus
        and f.peak_tflops
    ):
        flops = done.value * f.tokens_per_step.value * f.flops_per_token.value
        expected = flops / (f.gpus.value * f.peak_tflops.value * TERA * steps)
        formula = "FLOPs done / (GPUs × peak × time of steps that counted)"
        slack = mfu.half + expected * (h.steps_seen * 5e-7 + 1e-3) / steps
        yield equal(o.line_of("mean_mfu"), "mean MFU", mfu.value, expected, slack, formula)


def summary_energy_is_possible(o: Observation, h: History) -> Findings:
    """Energy is within GPUs × limit × time, and near the sampled power over the steps' time."""
    energy, run, f = o.get("energy_kwh"), o.get("run_time_s"), h.facts
    if not energy or not run or f.gpus is None:
        return
    gpu_hours = run.value * f.gpus.value / HOUR_S
    if f.gpu_tdp_w is not None:
        top = POWER_OVER_LIMIT * gpu_hours * f.gpu_tdp_w.value / 1000 + energy.half
        yield within(
            o.line_of("energy_kwh"), "energy kWh", energy.value, 0.0, top, "GPUs × limit × time"
        )
    good = o.get("goodput")
    if good and h.samples_at_pace >= 8 and not h.has_holes:
        mean_kw = h.power_sum / h.samples_at_pace / 1000
        trained = good.value
        if f.prints_every_step:
            trained += (h.booked.lost - h.booked.slowed) / run.value
        elif h.faults.told:
            trained = 0.0  # how long steps were slowed such a log does not say
        low = (1 - ENERGY_SLACK) * mean_kw * gpu_hours * trained - energy.half
        high = (1 + ENERGY_SLACK) * mean_kw * gpu_hours + energy.half
        formula = f"sampled mean of {1000 * mean_kw:.0f} W"
        yield within(o.line_of("energy_kwh"), "energy kWh", energy.value, low, high, formula)


def summary_has_the_gpus_seen(o: Observation, h: History) -> Findings:
    """Mean utilisation and peak memory are those of the samples."""
    util, memory = o.get("mean_util_pct"), o.get("peak_memory_gib")
    if util:
        yield within(o.line_of("mean_util_pct"), "mean utilisation %", util.value, 0.0, 100.0)
    if util and h.samples_in_training >= 8:
        line, slack = o.line_of("mean_util_pct"), UTIL_SLACK_PCT + util.half
        expected = h.util_sum / h.samples_in_training
        if not h.faults.has_slowed:
            yield equal(line, "mean utilisation %", util.value, expected, slack, "of the samples")
        else:  # a step that is slow may be so by doing nothing, and have no sample
            low, high = h.util_range
            low *= 1 - _slowed_share(h)
            what = "mean utilisation %"
            yield within(line, what, util.value, low - slack, high + slack, "of the samples")
    if memory and h.highest_memory_gib is not None and h.begins_here:
        highest, half = h.highest_memory_gib
        slack = MEMORY_SLACK_GIB + half + memory.half
        # A launch may have ended before a sample was due at its plateau.
        all_seen = h.samples_in_training >= 4 and not h.faults.told
        top = highest if all_seen else highest / LAUNCH_SHARE
        if not h.samples_in_training:  # phases of a launch hold more, one after the other
            top = h.facts.gpu_memory_gib.value if h.facts.gpu_memory_gib else math.inf
        line = o.line_of("peak_memory_gib")
        low, high = highest - slack, top + slack
        yield within(line, "peak memory GiB", memory.value, low, high, "of the samples")


def _slowed_share(h: History) -> float:
    """Share of the time of steps that a fault may have slowed; all where the log has no times."""
    booked = h.booked
    total = booked.steps + booked.pending + booked.lost
    return min(1.0, booked.slowed / total) if h.facts.prints_every_step and total else 1.0


def summary_names_the_model_and_files(o: Observation, h: History) -> Findings:
    """One model from start to summary; what was saved is what was exported."""
    model, path = o.words.get("model"), o.words.get("saved_path")
    said = h.facts.model
    if model is not None and said is not None:
        yield Stated(
            o.line_of("model"), model == said, f"model {model}", f"{said}, named at the start"
        )
    if path is not None and said is not None:
        folder = folder_of(said)
        yield Stated(
            o.line_of("saved_path"),
            f"/{folder}/" in f"/{path}/",
            f"saved as {path}",
            f"under {folder}/",
        )
    size, shards = o.get("saved_bytes"), o.get("shards")
    if o.words.get("reason") != "completed" or h.has_holes or not h.begins_here:
        return
    if size and h.facts.params is not None:
        expected = 2 * h.facts.params.value
        yield equal(
            o.line_of("saved_bytes"),
            "saved bytes",
            size.value,
            expected,
            size.half,
            "2 bytes a parameter",
        )
    if shards:
        yield equal(
            o.line_of("shards"), "shards", shards.value, float(h.shards), 0, "those written"
        )


def summary_counts_faults(o: Observation, h: History) -> Findings:
    """Faults and attempts are those seen."""
    faults, attempts = o.get("faults"), o.get("attempts")
    if h.begins_here and not h.has_holes:
        if faults:
            yield equal(
                o.line_of("faults"), "faults", faults.value, float(h.faults.told), 0, "those seen"
            )
        if attempts and h.attempt is not None:
            yield equal(
                o.line_of("attempts"), "attempts", attempts.value, float(h.attempt), 0, "those seen"
            )


def eta_counted_the_stops(o: Observation, h: History) -> Findings:
    """What ETA had beyond the remaining steps were the stops still to come, as planned.

    Every validation was expected to improve, so that each had a checkpoint behind it.
    """
    total, expected = h.facts.total_steps, h.expected_s
    if total is None or o.words.get("reason") != "completed" or h.has_holes:
        return
    too_many = max(len(h.validated_steps), len(h.saved_steps)) >= MOST_VALIDATIONS
    if "export" not in expected or len(h.pace) < 16 or too_many:
        return
    pace = sorted(h.pace)[len(h.pace) // 2]
    for step, eta, line in h.eta_samples:
        validations = sum(1 for at in h.validated_steps if at >= step)
        saves = sum(1 for at in h.validated_steps | h.saved_steps if at >= step)
        if (validations and "validation" not in expected) or (
            saves and "checkpoint" not in expected
        ):
            continue
        stops = validations * expected.get("validation", 0.0)
        stops += saves * expected.get("checkpoint", 0.0) + expected["export"]
        remaining = (total.value - step) * pace
        slack = 0.02 * remaining + eta.half + 1e-3
        formula = f"{total.value - step:,.0f} steps of {pace:.4g} s and stops of {stops:.1f} s"
        yield equal(line, f"ETA at step {step:,}", eta.value, remaining + stops, slack, formula)


SUMMARY_INVARIANTS = (
    summary_counts_what_was_done,
    summary_has_the_last_loss,
    summary_has_the_best_validation,
    summary_has_the_run_time,
    summary_shares_add_up,
    summary_books_the_time_seen,
    summary_energy_is_possible,
    summary_has_the_gpus_seen,
    summary_names_the_model_and_files,
    summary_counts_faults,
    eta_counted_the_stops,
)
