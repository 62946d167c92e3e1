"""From what was asked to a complete RunSpec: what nobody asked for is chosen, and shown.

Every choice that needs chance draws from a stream named for the field, so that asking for one
field changes no other choice of the same seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ghosttrain import catalog
from ghosttrain.core.errors import InputFileError, SpecError
from ghosttrain.core.laws.architecture import ParameterCounts, parameter_counts
from ghosttrain.core.laws.loss import chinchilla_loss
from ghosttrain.core.plan import Plan, plan
from ghosttrain.core.rng import Stream
from ghosttrain.core.spec import (
    Cluster,
    Dataset,
    Faults,
    Gpu,
    InjectedFault,
    Mla,
    Model,
    Moe,
    ParallelRequest,
    Recipe,
    RunSpec,
    Tokenizer,
)
from ghosttrain.inputs.durations import parse_duration
from ghosttrain.inputs.fields import Asked, asked_of, checked
from ghosttrain.inputs.hf_config import read_hf_config
from ghosttrain.inputs.spec_file import read_spec_file

RANDOM_GPUS = ("h100-sxm", "h100-sxm", "h100-sxm", "a100-80gb-sxm", "h200-sxm", "b200")
DEFAULT_GPUS = 64
LONG_RUN_STEPS = 5000  # longer runs are validated and saved by intervals of their own
FAILURES_PER_1000_GPU_DAYS = 0.474  # Llama 3 (arXiv:2407.21783, Table 5): 419 in 54 d, 16,384 GPUs

# Peak learning rate against parameters, as published models chose it (Brown 2020, Touvron 2023,
# Grattafiori 2024); straight lines between, in log parameters.
_LEARNING_RATES = ((1.25e8, 6e-4), (1e9, 4e-4), (8e9, 3e-4), (7e10, 1.5e-4), (4e11, 8e-5))
# Tokens per step against parameters, likewise.
_BATCH_TOKENS = ((1e9, 2**19), (2e10, 2**20), (8e10, 2**21), (2e11, 2**22), (math.inf, 2**24))

_FLAG_FIELDS = {
    "model": "model",
    "gpu": "gpu",
    "gpus": "cluster.gpus",
    "dataset": "dataset",
    "tokens": "recipe.tokens",
    "epochs": "recipe.epochs",
    "steps": "recipe.steps",
    "seq_len": "recipe.seq_len",
    "global_batch_size": "recipe.global_batch_size",
    "precision": "recipe.precision",
    "tp": "parallel.tensor_parallel",
    "pp": "parallel.pipeline_parallel",
    "dp": "parallel.data_parallel",
    "cp": "parallel.context_parallel",
    "ep": "parallel.expert_parallel",
    "faults": "faults",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, before anything is chosen.

    Attributes:
        spec: The SPEC of the command line: a name or a file, None for a random run.
        asked: Fields by dotted name, from the flags and `--set`.
        names: Which names random runs draw from.
        start_unix_s: Date of the run, None for what the spec file or the default says.
    """

    spec: str | None = None
    asked: Asked = field(default_factory=dict)
    names: catalog.Selection = "mixed"
    start_unix_s: int | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Request:
        """The request of parsed command-line flags."""
        asked: Asked = {}
        for flag, name in _FLAG_FIELDS.items():
            value = getattr(args, flag, None)
            if value is not None:
                asked[name] = value
        for pair in getattr(args, "set", None) or ():
            name, equals, text = pair.partition("=")
            if not equals:
                raise SpecError(f"--set {pair!r}: give it as key=value")
            asked[name.strip()] = checked(name.strip(), text.strip(), "--set")
        return cls(args.spec, asked, args.names or "mixed", args.start)


def resolve(request: Request, seed: int) -> RunSpec:
    """The complete spec of a request; what is open is chosen by rule or drawn from `seed`.

    Raises:
        RequestError: If a name is unknown, a file cannot be read, or values contradict.
    """
    return _Resolution(request, seed).spec()


class _Resolution:
    """One request on its way to a spec."""

    def __init__(self, request: Request, seed: int) -> None:
        self.request, self.seed = request, seed
        self.asked: Asked = _asked_by_spec(request.spec) | request.asked
        self.random = "model" not in self.asked and not asked_of("model", self.asked)
        self.chosen: list[tuple[str, str]] = []

    def draw(self, name: str) -> float:
        """A uniform sample in (0, 1) that belongs to `name`."""
        return float(Stream(self.seed, f"spec.{name}").uniform(0, 1)[0])

    def pick(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`, drawn for `name`."""
        return choices[int(self.draw(name) * len(choices))]

    def take(self, name: str, chosen: Any, why: str = "") -> Any:
        """What was asked for `name`, else `chosen`, which is noted with its reason."""
        if name in self.asked:
            return self.asked[name]
        if why:
            self.chosen.append((name, why))
        return chosen

    def spec(self) -> RunSpec:
        gpu = self._gpu()
        model = self._model(gpu)
        counts = parameter_counts(model)
        cluster = self._cluster(gpu, counts)
        recipe, model = self._recipe(model, counts, gpu, cluster)
        dataset = self._dataset(recipe)
        recipe = self._loss_start(recipe, model, counts, dataset)
        spec = RunSpec(
            model=model,
            gpu=gpu,
            cluster=cluster,
            dataset=dataset,
            tokenizer=self._tokenizer(model),
            recipe=replace(recipe, **asked_of("recipe", self._plain_recipe())),
            parallel=ParallelRequest(**asked_of("parallel", self.asked)),
            start_unix_s=self._start(),
            time_limit_s=self.asked.get("time_limit_s", 400 * 86400.0),
            output_dir=self.asked.get("output_dir", "outputs"),
        )
        return self._with_faults(self._with_intervals(spec))

    def _plain_recipe(self) -> Asked:
        """The asked fields without the two that only set the length of the run."""
        return {k: v for k, v in self.asked.items() if k not in ("recipe.steps", "recipe.tokens")}

    def _gpu(self) -> Gpu:
        name = self.take("gpu", self.pick("gpu", RANDOM_GPUS) if self.random else "h100-sxm")
        return replace(catalog.gpu(name), **asked_of("gpu", self.asked))

    def _model(self, gpu: Gpu) -> Model:
        if self.random:
            model = self.pick("model", self._suitable_models(gpu))
        elif "model" in self.asked:
            model = load_model(self.asked["model"])
        else:
            model = _model_from_fields(asked_of("model", self.asked))
        return _edited_model(model, self.asked)

    def _suitable_models(self, gpu: Gpu) -> list[Model]:
        """Models of a size that 64 of these GPUs train: 1 B parameters to a third of a card's
        memory in states a GPU."""
        most = DEFAULT_GPUS * gpu.memory_gib * 2**30 / 3 / 18
        known = [m for m in catalog.models(self._names("model")) if m.max_seq_len >= 1024]
        return [m for m in known if 1e9 <= m.published_params <= most]

    def _names(self, name: str) -> catalog.Selection:
        """Whose names to draw from: of the mixed ones, every third is a joke."""
        if self.request.names != "mixed":
            return self.request.names
        return "satirical" if self.draw(f"{name}.satirical") < 1 / 3 else "earnest"

    def _cluster(self, gpu: Gpu, counts: ParameterCounts) -> Cluster:
        needed = 18 * counts.total / (0.6 * gpu.memory_gib * 2**30)
        default = 8 if counts.total < 4e8 else DEFAULT_GPUS
        while default < needed and default < 65536:
            default *= 2
        gpus = self.take("cluster.gpus", default, f"{default} GPUs")
        fields = asked_of("cluster", self.asked)
        cluster = catalog.cluster(
            gpu,
            gpus,
            fabric=self.asked.get("cluster.fabric"),
            gpus_per_node=fields.get("gpus_per_node"),
        )
        fabric = replace(cluster.fabric, **asked_of("cluster.fabric", self.asked))
        return replace(cluster, **{**fields, "gpus": gpus, "fabric": fabric})

    def _recipe(
        self, model: Model, counts: ParameterCounts, gpu: Gpu, cluster: Cluster
    ) -> tuple[Recipe, Model]:
        seq_len = min(model.max_seq_len, 8192)
        seq_len = self.take("recipe.seq_len", seq_len, f"sequences of {seq_len:,}")
        batch = self._batch(counts, seq_len, cluster.gpus)
        epochs, per_epoch = self._length(batch * seq_len)
        total = epochs * per_epoch
        bf16 = "bf16" if gpu.bf16_tflops else "fp16"
        peak = model.peak_learning_rate or learning_rate_for(counts.total)
        schedule = "cosine"
        if self.random:
            schedule = self.pick("schedule", ("cosine", "cosine", "cosine", "wsd", "linear"))
        recipe = Recipe(
            seq_len=seq_len,
            global_batch_size=batch,
            epochs=epochs,
            steps_per_epoch=per_epoch,
            precision=self.take("recipe.precision", bf16),
            schedule=self.take("recipe.schedule", schedule),
            peak_learning_rate=self.take(
                "recipe.peak_learning_rate", peak, f"peak learning rate {peak:.3g}"
            ),
            warmup_steps=min(2000, max(1, min(total, round(0.03 * total, -1 if total > 400 else 0)))),
        )
        return recipe, model

    def _batch(self, counts: ParameterCounts, seq_len: int, gpus: int) -> int:
        """Sequences of a step: a power of two times what makes the GPUs odd."""
        target = next(tokens for params, tokens in _BATCH_TOKENS if counts.total <= params)
        wanted = max(target / seq_len, gpus / 8, 1)
        odd = gpus // (gpus & -gpus)
        batch = odd * 2 ** max(0, round(math.log2(wanted / odd)))
        return int(self.take("recipe.global_batch_size", batch, f"{batch:,} sequences a step"))

    def _length(self, tokens_per_step: int) -> tuple[int, int]:
        """Epochs and steps of an epoch."""
        asked = self.asked
        if "recipe.steps_per_epoch" in asked:
            return asked.get("recipe.epochs", 1), asked["recipe.steps_per_epoch"]
        if "recipe.tokens" in asked and "recipe.steps" in asked:
            raise SpecError("tokens and steps both set the length of the run: give one of them")
        if "recipe.tokens" in asked or "recipe.steps" in asked:
            epochs = asked.get("recipe.epochs", 1)
            total = asked.get("recipe.steps") or round(asked["recipe.tokens"] / tokens_per_step)
            if "recipe.steps" in asked and total % epochs:
                raise SpecError(f"{total:,} steps are not a whole number in each of {epochs} epochs")
            return epochs, max(1, round(total / epochs))
        epochs = self.take("recipe.epochs", 3, "3 epochs")
        per_epoch = 500 + 10 * int(150 * self.draw("steps_per_epoch"))
        self.chosen.append(("recipe.steps_per_epoch", f"{per_epoch:,} steps an epoch"))
        return epochs, per_epoch

    def _dataset(self, recipe: Recipe) -> Dataset:
        needed = recipe.steps_per_epoch * recipe.tokens_per_step
        if "dataset" in self.asked:
            dataset = catalog.dataset(self.asked["dataset"])
        elif asked_of("dataset", self.asked).get("tokens"):
            fields = {"name": "custom", **asked_of("dataset", self.asked)}
            dataset = Dataset(**fields)
        else:
            names = self._names("dataset") if self.random else "earnest"
            large = [d for d in catalog.datasets(names) if d.tokens >= needed]
            general = [d for d in large if d.kind == "web"] or large or list(catalog.datasets())
            pool = large if self.random and large else general
            dataset = self.pick("dataset", pool)
            self.chosen.append(("dataset", dataset.name))
        return replace(dataset, **asked_of("dataset", self.asked))

    def _loss_start(
        self, recipe: Recipe, model: Model, counts: ParameterCounts, dataset: Dataset
    ) -> Recipe:
        """Now and then a random run continues from a checkpoint, at the base model's loss."""
        if not self.random or self.draw("continued") > 0.15 or not model.tokens_trained:
            return recipe
        params = math.sqrt(counts.active * counts.total)
        base = dataset.loss_scale * float(chinchilla_loss(params, model.tokens_trained))
        shift = 0.08 + 0.25 * self.draw("domain_shift")
        return replace(
            recipe,
            continued_loss=round(base + shift, 4),
            peak_learning_rate=round(0.2 * recipe.peak_learning_rate, 10),
        )

    def _tokenizer(self, model: Model) -> Tokenizer:
        fields = asked_of("tokenizer", self.asked)
        name = self.asked.get("tokenizer") or model.tokenizer
        if name:
            return replace(catalog.tokenizer(name), **fields)
        # A tokenizer with a name of its own: files give the vocabulary only.
        known = {"name": f"{model.name} tokenizer", "kind": "BPE", "vocab_size": model.vocab_size}
        return Tokenizer(**{**known, "bytes_per_token": 4.2, **fields})

    def _start(self) -> int:
        if self.request.start_unix_s is not None and "start" not in self.request.asked:
            return self.request.start_unix_s
        if "start" not in self.asked:
            return 1767225600
        try:
            date = datetime.fromisoformat(self.asked["start"])
        except ValueError:
            text = self.asked["start"]
            raise SpecError(f"start {text!r} is no date: as in 2026-11-23T12:41:07Z") from None
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())

    def _with_intervals(self, spec: RunSpec) -> RunSpec:
        """Intervals of validation and checkpoints where nobody asked for them."""
        recipe = spec.recipe
        saves, validates = "recipe.checkpoint_interval_steps", "recipe.validation_interval_steps"
        if saves in self.asked and validates in self.asked:
            return replace(spec, chosen=tuple(self.chosen))
        if recipe.total_steps <= LONG_RUN_STEPS:
            changes = {"checkpoint_interval_steps": min(500, recipe.steps_per_epoch)}
        else:
            planned = plan(spec)
            every = best_checkpoint_interval_s(planned) / planned.step_time.total_s
            changes = {
                "checkpoint_interval_steps": max(10, _round_number(every)),
                "validation_interval_steps": max(500, _round_number(recipe.total_steps / 100)),
            }
        open_ = {k: v for k, v in changes.items() if f"recipe.{k}" not in self.asked}
        if "checkpoint_interval_steps" in open_:
            every_steps = open_["checkpoint_interval_steps"]
            self.chosen.append((saves, f"checkpoint every {every_steps:,} steps"))
        return replace(spec, recipe=replace(recipe, **open_), chosen=tuple(self.chosen))

    def _with_faults(self, spec: RunSpec) -> RunSpec:
        words = self.asked.get("faults", "none")
        timeout = self.asked.get("watchdog_timeout_s", 600.0)
        if words == "none":
            return replace(spec, faults=Faults(watchdog_timeout_s=timeout))
        if words == "realistic":
            kinds = tuple(catalog.fault_kind(name) for name in catalog.names("fault"))
            return replace(spec, faults=Faults(drawn=kinds, watchdog_timeout_s=timeout))
        if words.endswith(".toml") or Path(words).is_file():
            raise SpecError(
                f"faults {words!r}: scenario files are not read yet: give none, realistic, or "
                f"NAME[@TIME[:GPU]] with NAME from {', '.join(catalog.names('fault'))}"
            )
        injected = tuple(self._injected(word.strip(), spec) for word in words.split(","))
        return replace(spec, faults=Faults(injected, watchdog_timeout_s=timeout))

    def _injected(self, word: str, spec: RunSpec) -> InjectedFault:
        """A fault of NAME[@TIME[:GPU]]; without a time, somewhere in the middle of training."""
        name, at, rest = word.partition("@")
        kind = catalog.fault_kind(name)
        if not at:
            planned = plan(spec)
            share = 0.25 + 0.5 * self.draw("faults.at")
            return InjectedFault(kind, planned.init_s + share * (planned.run_s - planned.init_s))
        time_text, colon, gpu_text = rest.partition(":")
        gpu = None
        if colon:
            if not gpu_text.isdigit() or int(gpu_text) >= spec.cluster.gpus:
                raise SpecError(
                    f"faults {word!r}: GPU {gpu_text!r} is none of 0 to {spec.cluster.gpus - 1:,}"
                )
            gpu = int(gpu_text)
        return InjectedFault(kind, parse_duration(time_text), gpu)


def _asked_by_spec(spec: str | None) -> Asked:
    """What the SPEC of the command line asks for: a name, or what its file says."""
    if spec is None:
        return {}
    path = Path(spec)
    if path.suffix == ".toml":
        return read_spec_file(path)
    return {"model": spec}


def load_model(name: str) -> Model:
    """A model by catalogue name or from a Hugging Face config.json.

    Raises:
        UnknownNameError: If it is neither.
        InputFileError: If the file cannot be understood.
    """
    path = Path(name)
    if path.suffix == ".json" or path.is_file():
        return read_hf_config(path)
    if path.is_dir():
        return read_hf_config(path / "config.json")
    if "/" in name and not path.exists():
        raise InputFileError(f"{name}: no such file")
    return catalog.model(name)


def _edited_model(model: Model, asked: Asked) -> Model:
    """The model with the fields that were asked one by one."""
    edits: dict[str, Any] = dict(asked_of("model", asked)) if "model" in asked else {}
    for part, record, present in (("moe", Moe, model.moe), ("mla", Mla, model.mla)):
        fields = asked_of(f"model.{part}", asked)
        if fields and present is not None:
            edits[part] = replace(present, **fields)
        elif fields:
            edits[part] = _complete(record, f"model.{part}", fields)
    edits.pop("name", None) if edits.get("name") == model.name else None
    return replace(model, **edits) if edits else model


def _model_from_fields(fields: Asked) -> Model:
    """A model that a spec file gives field by field."""
    model: Model = _complete(Model, "model", fields)
    return model


def _complete(record: type, part: str, fields: Asked) -> Any:
    try:
        return record(**fields)
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ")
        raise SpecError(f"[{part}] lacks {missing or 'fields'}: see docs/spec-file.md") from None


def learning_rate_for(params: float) -> float:
    """Peak learning rate that models of this size are trained with."""
    points = _LEARNING_RATES
    x = min(max(params, points[0][0]), points[-1][0])
    for (low, rate_low), (high, rate_high) in zip(points, points[1:], strict=False):
        if x <= high:
            share = math.log(x / low) / math.log(high / low)
            return float(f"{rate_low + share * (rate_high - rate_low):.2g}")
    raise AssertionError(x)


def best_checkpoint_interval_s(planned: Plan) -> float:
    """Daly's interval at published failure rates, from 10 minutes to 3 hours."""
    failures_per_s = FAILURES_PER_1000_GPU_DAYS * planned.spec.cluster.gpus / 1000 / 86400
    stall = planned.phases.checkpoint_s
    return min(max(math.sqrt(2 * stall / failures_per_s) - stall, 600.0), 10800.0)


def _round_number(value: float) -> int:
    """The nearest number that people would choose: 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(value, 1)))
    return int(min((1, 2, 5, 10), key=lambda m: abs(m * power - value)) * power)
