"""Output of Hugging Face's Trainer: lines of transformers' trainer.py and trainer_callback.py.

Version 4.57 prints a dict with Python's repr of numbers; 5 prints each float as a string with four
significant digits (ProgressCallback.on_log).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.real_formats import job_output
from tests.real_formats.lines import Findings, Grammar, Line

_COUNT = r"\d{1,3}(?:,\d{3})*"
KINDS = {
    "running": r"\*\*\*\*\* Running training \*\*\*\*\*",
    "examples": rf"  Num examples = (?P<value>{_COUNT})",
    "eval-count": r"  Num examples = \d{4,}",
    "epochs": rf"  Num Epochs = (?P<value>{_COUNT})",
    "per-device": rf"  Instantaneous batch size per device = (?P<value>{_COUNT})",
    "batch": r"  Total train batch size \(w\. parallel, distributed & accumulation\) = "
    rf"(?P<value>{_COUNT})",
    "accumulation": r"  Gradient Accumulation steps = (?P<value>\d+)",
    "steps": rf"  Total optimization steps = (?P<value>{_COUNT})",
    "parameters": rf"  Number of trainable parameters = (?P<value>{_COUNT})",
    "continuing": r"  Continuing training from checkpoint, will skip to saved global_step",
    "from-epoch": r"  Continuing training from epoch (?P<value>\d+)",
    "from-step": r"  Continuing training from global step (?P<value>\d+)",
    "skipping": r"  Will skip the first (?P<epochs>\d+) epochs then the first (?P<batches>\d+) "
    r"batches in the first epoch\.",
    "loading": r"Loading model from (?P<path>\S+?)\.",
    "train": r"\{'loss': .*\}",
    "eval": r"\{'eval_loss': .*\}",
    "end": r"\{'train_runtime': .*\}",
    "evaluation": r"\*\*\*\*\* Running Evaluation \*\*\*\*\*",
    "eval-batch": r"  Batch size = \d+",
    "saving": r"Saving model checkpoint to (?P<path>\S+)",
    "config": r"Configuration saved in (?P<path>\S+)/(?:generation_)?config\.json",
    "weights": r"Model weights saved in (?P<path>\S+)/model\.safetensors",
    "split": r"The model is bigger than the maximum size per checkpoint \(\d+GB\) and is going to "
    r"be split in (?P<shards>\d+) checkpoint shards\. You can find where each parameters has been "
    r"saved in the index located at (?P<path>\S+)/model\.safetensors\.index\.json\.",
    "tokenizer": r"(?:tokenizer config file|Special tokens file|chat template) saved in "
    r"(?P<path>\S+)/\w+\.\w+",
    "deleting": r"Deleting older checkpoint \[(?P<path>\S+)\] due to args\.save_total_limit",
    "best": r"Loading best model from .*",
    "blank": r"",
    "completed": r"Training completed\. Do not forget to share your model on "
    r"huggingface\.co/models =\)",
}
GRAMMAR = Grammar(KINDS | job_output.KINDS)
_STARTS = ["running", "examples", "epochs", "per-device", "batch", "accumulation", "steps"]
_STARTS += ["parameters"]


_EVALUATED = ["eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"]
_EVALUATED += ["epoch"]
_ENDED = ["train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"]
_ENDED += ["epoch"]


@dataclass(frozen=True, slots=True)
class Row:
    """One dict of the log: what it was printed as, and its numbers."""

    line: Line
    shown: Mapping[str, object]
    values: Mapping[str, float]


def rows(lines: list[Line]) -> list[Row]:
    return [_row(line) for line in lines if line.kind in ("train", "eval", "end")]


def _row(line: Line) -> Row:
    shown = ast.literal_eval(re.sub(r"(?<=: )(nan|inf)(?=[,}])", r"'\1'", line.text))
    return Row(line, shown, {key: float(value) for key, value in shown.items()})


def read(text: str, findings: Findings, *, version: int, gpus: int, every: int = 10) -> list[Line]:
    """The lines, all held to what the Trainer would have printed."""
    lines = GRAMMAR.read(text, findings)
    job_output.check(lines, findings, year=2026)
    saved: list[int] = []
    launches: list[list[Line]] = [[]]
    for line in lines:
        if line.kind == "running" and any(other.kind == "running" for other in launches[-1]):
            launches.append([])
        launches[-1].append(line)
    for launch in launches:
        _launch(launch, saved, findings, version=version, gpus=gpus, every=every)
    return lines


def _launch(
    lines: list[Line],
    saved: list[int],
    findings: Findings,
    *,
    version: int,
    gpus: int,
    every: int,
) -> None:
    starts = [line.kind for line in lines if line.kind in _STARTS][: len(_STARTS)]
    if not starts:
        return
    findings.expect(starts == _STARTS, lines[0], f"start block: {starts}")
    facts: dict[str, int] = {}
    for line in lines:  # an evaluation has examples of its own behind those of the training
        if "value" in line.fields:
            facts.setdefault(line.kind, int(line["value"].replace(",", "")))
    per_step = facts["per-device"] * facts["accumulation"]
    replicas, odd = divmod(facts["batch"], per_step)
    findings.expect(odd == 0 and gpus % replicas == 0, lines[0], f"batch of {replicas} replicas")
    at = facts.get("from-step", 0)
    if at:
        findings.expect(at in saved, lines[0], f"goes on from {at}, saved were {saved}")
        findings.expect("skipping" in {line.kind for line in lines}, lines[0], "skips nothing")
    step = at - at % every
    steps_per_epoch = facts["steps"] / facts["epochs"]
    findings.expect(
        facts["examples"] // facts["batch"] == steps_per_epoch, lines[0], "examples of an epoch"
    )
    for row in rows(lines):
        keys = list(row.shown)
        line = row.line
        if line.kind == "train":
            step += every
            findings.expect(keys == ["loss", "grad_norm", "learning_rate", "epoch"], line, "keys")
            epoch = step / steps_per_epoch
            wanted = f"{epoch:.4g}" if version == 5 else round(epoch, 2)
            findings.expect(row.shown["epoch"] == wanted, line, f"epoch is {wanted}")
            findings.expect(row.values["loss"] >= 0, line, "loss below 0")
        elif line.kind == "eval":
            findings.expect(keys == _EVALUATED, line, "keys")
        else:
            findings.expect(keys == _ENDED, line, "keys")
            ran = row.values["train_runtime"]
            rate = row.values["train_samples_per_second"] * ran
            samples = facts["steps"] * facts["batch"]
            findings.expect(abs(rate / samples - 1) < 0.01, line, "samples per second x runtime")
        _spelt(row, findings, version)
    for line in lines:
        if line.kind == "saving":
            name = line["path"].rsplit("-", 1)[-1]
            if name.isdigit():
                saved.append(int(name))


_DECIMALS = {
    "loss": 4,
    "epoch": 2,
    "eval_runtime": 4,
    "eval_samples_per_second": 3,
    "eval_steps_per_second": 3,
    "train_runtime": 4,
    "train_samples_per_second": 3,
    "train_steps_per_second": 3,
}


def _spelt(row: Row, findings: Findings, version: int) -> None:
    for key, value in row.shown.items():
        if version == 5:
            same = isinstance(value, str) and (
                value in ("nan", "inf") or f"{float(value):.4g}" == value
            )
            findings.expect(same, row.line, f"{key} is not in %.4g")
        elif isinstance(value, float) and key in _DECIMALS:
            same = round(value, _DECIMALS[key]) == value
            findings.expect(same, row.line, f"{key} has more than {_DECIMALS[key]} decimals")


def read_state(text: str, findings: Findings) -> dict[str, Any]:
    """trainer_state.json: its keys, their order, what its history owes to its last step."""
    state: dict[str, Any] = json.loads(text)
    findings.expect(json.dumps(state, indent=2, sort_keys=True) + "\n" == text, None, "layout")
    wanted = [
        "best_global_step",
        "best_metric",
        "best_model_checkpoint",
        "epoch",
        "eval_steps",
        "global_step",
        "is_hyper_param_search",
        "is_local_process_zero",
        "is_world_process_zero",
        "log_history",
        "logging_steps",
        "max_steps",
        "num_input_tokens_seen",
        "num_train_epochs",
        "save_steps",
        "stateful_callbacks",
        "total_flos",
        "train_batch_size",
        "trial_name",
        "trial_params",
    ]
    findings.expect(list(state) == wanted, None, f"keys {list(state)}")
    steps = [entry["step"] for entry in state["log_history"]]
    findings.expect(steps == sorted(steps), None, "steps go back")
    findings.expect(max(steps) == state["global_step"], None, "the last entry is not the last step")
    for entry in state["log_history"]:
        if "loss" in entry and math.isfinite(state["epoch"]):
            epoch = entry["step"] / (state["global_step"] / state["epoch"])
            findings.expect(math.isclose(entry["epoch"], epoch, rel_tol=1e-9), None, f"{entry}")
    return state
