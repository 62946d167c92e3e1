"""Invariants of the run's course: launches, epochs, validations, checkpoints, files."""

from __future__ import annotations

import math

import numpy as np

from ghosttrain.checking.findings import Findings, Stated, equal, within
from ghosttrain.checking.history import INIT_PHASES, STANDSTILLS, History
from ghosttrain.checking.observations import Observation, Value
from ghosttrain.core.laws.loss import next_token_accuracy
from ghosttrain.core.laws.network import bus_factor
from ghosttrain.core.laws.storage import shard_name
from ghosttrain.core.units import GB

ROUNDING_S = 1e-6  # times are rounded, then subtracted
WARNING_SLACK = 0.04  # of a step: what jitter may add to a warning's delay
MOST_SPREAD = 0.72  # of the logarithm of a phase's duration: six deviations of 0.12
VALIDATION_NEAR_TRAINING = 0.1  # share of the loss; losses fall fast while few steps are done


def slack_of(*values: Value | None) -> float:
    """What rounding may do to a sum or difference of these values."""
    return sum(value.half for value in values if value is not None) + ROUNDING_S


# Launches.


def phases_begin_and_end(o: Observation, h: History) -> Findings:
    """A phase ends before another begins, unless a standstill cuts it; what ends has begun."""
    if not h.begins_here or h.blind or not h.facts.prints_every_step:
        return
    name = o.words.get("phase", "")
    open_name = h.phase.words.get("phase", "") if h.phase is not None else ""
    if o.kind == "phase_started":
        good = not open_name or name in STANDSTILLS
        yield Stated(o.line, good, f"{name} begins inside {open_name}", "one at a time")
    elif o.kind == "phase_ended":
        expected = f"the end of {open_name}" if open_name else "no end: no phase has begun"
        yield Stated(o.line, open_name == name, f"end of {name}", expected)


def phases_take_their_time(o: Observation, h: History) -> Findings:
    """A phase lasts from its beginning to its end."""
    took = o.get("duration_s")
    if o.kind == "phase_ended" and took is not None and h.phase is not None and not h.blind:
        began, ended = h.phase.time, o.time
        if began is not None and ended is not None:
            expected = ended.value - began.value
            slack = slack_of(took, began, ended)
            name = o.words.get("phase", "")
            yield equal(o.line, f"duration of {name}", took.value, expected, slack, "end − begin")


def phases_follow_without_gap(o: Observation, h: History) -> Findings:
    """A phase begins when the last step or phase has ended."""
    if o.kind == "phase_started" and o.time is not None and not h.blind and h.begins_here:
        since, name = h.idle_since, o.words.get("phase", "")
        if since is not None and h.facts.prints_every_step and name != "hang":
            slack = slack_of(o.time, since)
            what = f"beginning of {name}"
            yield equal(o.line, what, o.time.value, since.value, slack, "the last end")


def launches_go_in_order(o: Observation, h: History) -> Findings:
    """Weights, tokenizer, dataset, NCCL, GPUs, all-reduce test; then training starts."""
    if not h.begins_here or h.blind:
        return
    if o.kind == "phase_started" and (name := o.words.get("phase")) in INIT_PHASES:
        done = [p for p in h.phases_ended if p in INIT_PHASES] if name != INIT_PHASES[0] else []
        expected = INIT_PHASES[len(done)] if len(done) < len(INIT_PHASES) else "training"
        yield Stated(o.line, name == expected, f"{name} phase", f"{expected} phase")
    elif o.kind == "training_started" and h.facts.prints_every_step:
        done = [p for p in h.phases_ended if p in INIT_PHASES]
        missing = [p for p in INIT_PHASES if p not in done]
        found = f"training starts without {missing[0]}" if missing else "all phases done"
        yield Stated(o.line, not missing, found, "all launch phases done")


def all_gpus_report(o: Observation, h: History) -> Findings:
    """Ranks report in order, each once; before training starts all have."""
    gpus = h.facts.gpus
    if h.ranks_detected is None or gpus is None or h.blind or h.has_holes:
        return
    if o.kind == "gpus_detected":
        first, count = o.get("first_rank"), o.get("count")
        if first is not None and count is not None:
            yield equal(o.line, "first rank", first.value, float(h.ranks_detected), 0, "the next")
            node, per_node = o.get("node"), h.facts.gpus_per_node
            if node is not None and per_node is not None:
                expected = float(first.value // per_node.value)
                yield equal(o.line, "node", node.value, expected, 0, "rank / GPUs per node")
            top = gpus.value - h.ranks_detected
            yield within(o.line, "GPUs that report", count.value, 1, max(top, 1))
    elif o.kind == "training_started" and h.begins_here:
        yield equal(o.line, "GPUs that reported", float(h.ranks_detected), gpus.value, 0, "all")


def all_reduce_test_adds_up(o: Observation, h: History) -> Findings:
    """The test spans all GPUs; its bus bandwidth is size × 2(n-1)/n / time."""
    if o.kind != "all_reduce_tested":
        return
    size, time, found = o.get("size_bytes"), o.get("duration_s"), o.get("busbw_gbs")
    ranks = o.get("ranks")
    if ranks is not None and h.facts.gpus is not None:
        yield equal(o.line, "ranks of the test", ranks.value, h.facts.gpus.value, 0, "all GPUs")
    if size and time and found and ranks and ranks.value >= 1 and time.value > 0:
        expected = size.value * bus_factor("all_reduce", int(ranks.value)) / time.value / GB
        slack = found.half + expected * (size.relative + time.relative)
        what = "bus bandwidth GB/s"
        yield equal(o.line, what, found.value, expected, slack, "size × 2(n−1)/n / time")


def training_starts_where_it_was_saved(o: Observation, h: History) -> Findings:
    """Training starts from step 0, or from the step its launch went back to."""
    step = o.get("step")
    if o.kind == "training_started" and step is not None and h.saved_step is not None:
        yield equal(o.line, "starts from step", step.value, float(h.saved_step), 0, "as saved")


# Epochs and validations.


def epochs_end_in_order(o: Observation, h: History) -> Findings:
    """Epoch n ends after n × steps of an epoch, one after the other, with its tokens."""
    if o.kind != "epoch_completed":
        return
    epoch, step, tokens = o.get("epoch"), o.get("step"), o.get("tokens")
    per_epoch, per_step = h.facts.steps_per_epoch, h.facts.tokens_per_step
    if epoch and step and per_epoch is not None:
        expected = epoch.value * per_epoch.value
        yield equal(o.line, "epoch's last step", step.value, expected, 0, "epoch × its steps")
    if epoch and h.begins_here and not h.has_holes:
        yield equal(o.line, "epoch", epoch.value, h.epochs_done + 1.0, 0, "the one after the last")
    if step and tokens and per_step is not None:
        expected = step.value * per_step.value
        yield equal(o.line, "tokens", tokens.value, expected, tokens.half, "steps × tokens a step")


def epoch_means_are_of_its_losses(o: Observation, h: History) -> Findings:
    """The mean loss of an epoch is the mean of its steps' losses."""
    epoch, mean, size = o.get("epoch"), o.get("mean_loss"), h.facts.steps_per_epoch
    if o.kind != "epoch_completed" or not epoch or not mean or size is None or h.has_holes:
        return
    losses = h.epoch_sums.get(int(epoch.value))
    if h.facts.prints_every_step and losses and losses.count == size.value:
        slack = mean.half + 1e-6
        formula = f"mean of its {losses.count:,} losses"
        yield equal(o.line, "mean loss", mean.value, losses.total / losses.count, slack, formula)


def only_unknown_losses_have_no_mean(o: Observation, h: History) -> Findings:
    """An epoch has no mean loss when, and only when, one of its losses is no number."""
    epoch, size = o.get("epoch"), h.facts.steps_per_epoch
    if o.kind != "epoch_completed" or "mean_loss" not in o.numbers or not epoch or size is None:
        return
    losses = h.epoch_sums.get(int(epoch.value))
    known = not math.isnan(o.numbers["mean_loss"].value)
    if losses and losses.count + losses.nan == size.value and h.facts.prints_every_step:
        found = f"{'a' if known else 'no'} mean of {losses.nan:,} unknown losses"
        yield Stated(o.line, known == (not losses.nan), found, "one where all are known")


def unknown_validations_have_a_cause(o: Observation, h: History) -> Findings:
    """A validation's loss is a number unless a fault makes it none."""
    if o.kind != "validation_completed" or "loss" not in o.numbers or not h.begins_here:
        return
    if math.isnan(o.numbers["loss"].value):
        good = h.faults.stands("loss-nan")
        yield Stated(o.line, good, "a validation without a loss", "a fault that makes it none")
        improved = o.flags.get("improved", False)
        yield Stated(o.line, not improved, "no loss that improved", "not improved")


def epochs_take_their_time(o: Observation, h: History) -> Findings:
    """An epoch lasts from the beginning of its first step to the end of its last."""
    took, epoch = o.get("duration_s"), o.get("epoch")
    if o.kind != "epoch_completed" or took is None or h.has_holes or o.time is None:
        return
    began = h.epoch_begins.get(int(epoch.value)) if epoch else None
    if began is not None and h.facts.prints_every_step:
        expected = o.time.value - began.value
        slack = slack_of(took, o.time, began)
        yield equal(o.line, "epoch's seconds", took.value, expected, slack, "end − begin")


def events_name_the_last_step(o: Observation, h: History) -> Findings:
    """Whatever happens between steps names the step that was completed last."""
    step = o.get("step")
    named = (
        "warning_raised",
        "epoch_completed",
        "validation_completed",
        "checkpoint_saved",
        "fault_occurred",
        "message_logged",
        "watchdog_timed_out",
        "run_aborted",
        "phase_started",
        "phase_ended",
    )
    if o.kind in named and step is not None and (row := o.get("row_step")):
        yield equal(o.line, f"step of {o.kind}", step.value, row.value, 0, "the row before")
    elif o.kind in named and step is not None and h.step is not None and not h.blind:
        if h.facts.prints_every_step:
            yield equal(o.line, f"step of {o.kind}", step.value, float(h.step), 0, "the last one")
        elif h.facts.is_thinned:
            yield within(o.line, f"step of {o.kind}", step.value, h.step, math.inf, "the last one")
        elif h.log_interval is not None and h.begins_here and h.phase is None and not h.abort:
            low, high = float(h.step), float(h.step + h.log_interval)
            yield within(o.line, f"step of {o.kind}", step.value, low, high, "the last one")


def best_validation_is_the_least(o: Observation, h: History) -> Findings:
    """A validation improved when its loss is below all before; the best is the least of all."""
    if o.kind != "validation_completed" or h.has_holes or not h.begins_here:
        return
    loss, best, improved = o.get("loss"), o.get("best_loss"), o.flags.get("improved")
    if loss is None:
        return
    least = min(h.best.value, loss.value)
    slack = loss.half + (h.best.half if math.isfinite(h.best.value) else 0.0)
    if best is not None:
        formula = "least of all validations"
        yield equal(o.line, "best loss", best.value, least, slack + best.half, formula)
    apart = abs(loss.value - h.best.value) > slack  # else the printed digits cannot tell
    if improved is not None and apart:
        better = loss.value < h.best.value
        found = f"loss {loss.value:.6g} {'improved' if improved else 'not improved'}"
        before = f"{h.best.value:.6g} before" if math.isfinite(h.best.value) else "the first"
        word = "improved" if better else "not improved"
        yield Stated(o.line, improved == better, found, f"{word} (best {before})")


def validations_agree_with_themselves(o: Observation, h: History) -> Findings:
    """Perplexity is exp(loss), accuracy follows the loss, the epoch follows the step."""
    loss = o.get("loss")
    if o.kind != "validation_completed" or loss is None:
        return
    if ppl := o.get("ppl"):
        expected = math.exp(min(loss.value, 700.0))
        slack = ppl.half + expected * math.expm1(loss.half)
        yield equal(o.line, "ppl", ppl.value, expected, slack, "exp(loss)")
    if accuracy := o.get("accuracy"):
        expected = next_token_accuracy(loss.value)
        slack = accuracy.half + 0.25 * expected * loss.half
        yield equal(o.line, "accuracy", accuracy.value, expected, slack, "the law of accuracy")
    epoch, step, size = o.get("epoch"), o.get("step"), h.facts.steps_per_epoch
    if epoch and step and size is not None:
        expected = math.ceil(step.value / size.value)
        yield equal(o.line, "epoch", epoch.value, float(expected), 0, "step / steps per epoch")
    train, gap = o.get("train_loss"), o.get("gap")
    if train and gap:
        expected = loss.value - train.value
        slack = slack_of(loss, train, gap)
        yield equal(o.line, "gap", gap.value, expected, slack, "validation − training loss")


def validations_take_their_time(o: Observation, _: History) -> Findings:
    """Tokens/s of a validation is its tokens over its time."""
    took, tokens, rate = o.get("duration_s"), o.get("tokens"), o.get("tokens_per_s")
    if o.kind == "validation_timed" and took and tokens and rate and took.value > 0:
        expected = tokens.value / took.value
        slack = rate.half + expected * (took.relative + tokens.relative)
        yield equal(o.line, "validation tokens/s", rate.value, expected, slack, "tokens / time")


def bars_agree_with_themselves(o: Observation, _: History) -> Findings:
    """The pinned bars show a perplexity of exp(loss) and an MFU of at most 1."""
    loss, ppl, mfu = o.get("loss"), o.get("ppl"), o.get("mfu")
    if o.kind == "bar" and loss and ppl:
        expected = math.exp(min(loss.value, 700.0))
        slack = ppl.half + expected * math.expm1(loss.half)
        yield equal(o.line, "ppl", ppl.value, expected, slack, "exp(loss)")
    if o.kind == "bar" and mfu:
        yield within(o.line, "MFU", mfu.value, 0.0, 1.0)


def validation_is_near_training(o: Observation, h: History) -> Findings:
    """The training loss a validation compares with is that of the steps around it."""
    train, last = o.get("train_loss"), h.last.get("loss")
    if o.kind != "validation_completed" or train is None or last is None or h.has_holes:
        return
    counted = [losses.loss[-16:] for losses in h.losses[-16:] if not losses.is_undone]
    if counted and not h.is_astray:
        recent = np.concatenate(counted)[-16:]
        if len(recent) < 8:
            return
        room = VALIDATION_NEAR_TRAINING * last.value
        low, high = float(recent.min()) - room, float(recent.max()) + room
        yield within(o.line, "training loss", train.value, low, high, "the last losses")


def replayed_validations_are_the_same(o: Observation, h: History) -> Findings:
    """A step is validated once; after a restart to before it, once more."""
    step = o.get("step")
    if o.kind == "validation_completed" and step is not None and h.validations:
        last = float(h.validations[-1].step)
        yield within(o.line, "validated step", step.value, last + 1, math.inf, "after the last")


# Checkpoints and files.


def checkpoints_hold_the_state(o: Observation, h: History) -> Findings:
    """A checkpoint is as large as the run said, 14 bytes a parameter."""
    size, said = o.get("size_bytes"), h.facts.checkpoint_bytes
    if o.kind in ("checkpoint_saved", "phase_started") and size is not None:
        if said is None and h.facts.params is not None:
            said = Value(14 * h.facts.params.value)
        if said is not None and o.words.get("phase", "checkpoint") == "checkpoint":
            slack = size.half + said.half
            what = "checkpoint bytes"
            yield equal(o.line, what, size.value, said.value, slack, "14 bytes a parameter")


def checkpoints_are_named_by_step(o: Observation, h: History) -> Findings:
    """The path of a checkpoint names the model and the step."""
    path, step = o.words.get("path"), o.get("step")
    if o.kind != "checkpoint_saved" or path is None:
        return
    if step is not None:
        name = f"step_{int(step.value):07d}"
        yield Stated(o.line, path.endswith(f"/{name}"), f"path {path}", f"one ending in /{name}")
    if h.facts.model is not None:
        folder = folder_of(h.facts.model)
        yield Stated(o.line, f"/{folder}/" in f"/{path}", f"path {path}", f"one under {folder}/")


def checkpoints_have_a_reason(o: Observation, h: History) -> Findings:
    """A checkpoint because validation improved comes after one that did.

    Nobody asks for one unless the run has to end.
    """
    reason = o.words.get("reason")
    if o.kind != "checkpoint_saved" or reason is None or h.has_holes or not h.begins_here:
        return
    last = h.validations[-1] if h.validations else None
    here = last is not None and last.step == h.step_now(o)
    improved = last is not None and here and last.loss.value < last.best_before.value
    found = f"checkpoint for {reason}"
    if improved:
        yield Stated(o.line, reason == "improved", found, "improved")
    elif reason == "asked":
        asks = [fault for fault in h.faults.standing() if fault.asks_to_end]
        yield Stated(o.line, bool(asks), "checkpoint somebody asked for", "a fault to end for")
    elif not here:
        yield Stated(o.line, reason == "interval", found, "interval")


def phases_last_as_planned(o: Observation, h: History) -> Findings:
    """A phase of a launch or between steps takes about its plan, unless a fault stretches it."""
    took, name = o.get("duration_s"), o.words.get("phase", "")
    planned = h.expected_s.get(name)
    if o.kind != "phase_ended" or took is None or not planned or h.blind or not h.begins_here:
        return
    if name in STANDSTILLS or not h.facts.prints_every_step:
        return
    low, high = (planned * math.exp(sign * MOST_SPREAD) for sign in (-1, 1))
    top = math.inf if h.is_stretched else high + took.half
    yield within(o.line, f"duration of {name}", took.value, low - took.half, top, "about its plan")


def results_take_their_phase_s_time(o: Observation, h: History) -> Findings:
    """A validation or checkpoint says it took as long as its phase."""
    took = o.get("duration_s")
    if o.kind not in ("validation_completed", "checkpoint_saved") or took is None:
        return
    if h.last_phase_s is not None and h.facts.prints_every_step and not h.blind:
        slack = slack_of(took, h.last_phase_s)
        what = f"duration of {o.kind}"
        yield equal(o.line, what, took.value, h.last_phase_s.value, slack, "its phase's")


def shards_are_named_and_sized(o: Observation, h: History) -> Findings:
    """Files come in order, named by index and count, as large as planned."""
    if o.kind != "shard_written":
        return
    index, count, size = o.get("index"), o.get("count"), o.get("size_bytes")
    planned, name = h.facts.shard_bytes, o.words.get("name")
    if not index or not count:
        return
    if not h.has_holes and h.begins_here:
        yield equal(o.line, "shard", index.value, h.shards + 1.0, 0, "the one after the last")
    if name is not None:
        expected = shard_name(int(index.value), int(count.value))
        yield Stated(o.line, name == expected, f"file {name}", expected)
    if h.facts.export_files is not None:
        announced = h.facts.export_files.value
        yield equal(o.line, "shards", count.value, announced, 0, "as announced")
    if planned:
        yield equal(o.line, "shards", count.value, float(len(planned)), 0, "as planned")
        if size and 1 <= index.value <= len(planned):
            expected_bytes = float(planned[int(index.value) - 1])
            yield equal(
                o.line, "shard's bytes", size.value, expected_bytes, size.half, "as planned"
            )


def shards_add_up(o: Observation, h: History) -> Findings:
    """When the export is over all files are written, and they are 2 bytes a parameter."""
    is_last = o.kind == "shard_written" and o.get("index") == o.get("count")
    if not is_last or h.has_holes or not h.begins_here or h.facts.params is None:
        return
    size, index = o.get("size_bytes"), o.get("index")
    if size is None or index is None:
        return
    expected = 2 * h.facts.params.value
    slack = h.shard_half + size.half
    found = h.shard_bytes + size.value
    yield equal(o.line, "bytes of all shards", found, expected, slack, "2 bytes a parameter")


def folder_of(model: str) -> str:
    """The folder a model's files are written to."""
    return model.lower().replace(" ", "-").replace("/", "-")


# Warnings.


def warnings_have_a_cause(o: Observation, h: History) -> Findings:
    """What a warning says of its step is in the step's row."""
    if o.kind != "warning_raised":
        return
    value, usual, kind = o.get("value"), o.get("baseline"), o.words.get("kind")
    step = o.get("step")
    if value is None or usual is None:
        return
    if kind != "late_loader" and kind != "slow_collective":
        yield within(o.line, f"{kind} value", value.value, usual.value, math.inf, "its baseline")
    row = o.get("row_step") or h.last.get("step")
    if row is None or step is None or row.value != step.value:
        return
    took = o.get("row_step_time_s") or h.last.get("step_time_s")
    grad = o.get("row_grad_norm") or h.last.get("grad_norm")
    if kind in ("late_loader", "slow_collective") and took is not None:
        expected = usual.value + value.value
        slack = WARNING_SLACK * usual.value + slack_of(value, usual, took)
        formula = "usual time + delay"
        yield equal(o.line, f"time of step {step.value:.0f}", took.value, expected, slack, formula)
    if kind == "grad_norm_burst" and grad is not None:
        slack = slack_of(value, grad)
        yield equal(o.line, "gradient norm", value.value, grad.value, slack, "the step's row")


def warnings_are_of_a_node(o: Observation, h: History) -> Findings:
    """A node that is named is one of the run's."""
    node = o.get("node")
    named = [node.value] if node and o.kind in ("warning_raised", "fault_occurred") else []
    if h.facts.nodes is not None:
        for value in (*named, *o.within("nodes")):
            yield within(o.line, "node", value, 0, h.facts.nodes.value - 1)


COURSE_INVARIANTS = (
    phases_begin_and_end,
    phases_take_their_time,
    phases_follow_without_gap,
    launches_go_in_order,
    all_gpus_report,
    all_reduce_test_adds_up,
    training_starts_where_it_was_saved,
    epochs_end_in_order,
    epoch_means_are_of_its_losses,
    only_unknown_losses_have_no_mean,
    unknown_validations_have_a_cause,
    epochs_take_their_time,
    events_name_the_last_step,
    best_validation_is_the_least,
    validations_agree_with_themselves,
    validations_take_their_time,
    bars_agree_with_themselves,
    validation_is_near_training,
    replayed_validations_are_the_same,
    checkpoints_hold_the_state,
    checkpoints_are_named_by_step,
    checkpoints_have_a_reason,
    phases_last_as_planned,
    results_take_their_phase_s_time,
    shards_are_named_and_sized,
    shards_add_up,
    warnings_have_a_cause,
    warnings_are_of_a_node,
)
