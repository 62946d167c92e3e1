"""One request on its way to a complete spec: every choice, by rule or drawn from the seed.

A choice that needs chance draws from a stream named for its field, so that asking for one field
changes no other choice of the same seed. Of several things one is picked by a score that each of
them has by itself: fewer to choose from change the choice only if it is no longer there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np

from ghosttrain import catalog
from ghosttrain.core.errors import PlanError, SpecError
from ghosttrain.core.laws.architecture import ParameterCounts, parameter_counts
from ghosttrain.core.laws.loss import chinchilla_loss
from ghosttrain.core.plan import plan
from ghosttrain.core.rng import Stream, stream_key
from ghosttrain.core.spec import (
    Cluster,
    Dataset,
    Faults,
    Gpu,
    Model,
    ParallelRequest,
    Recipe,
    RunSpec,
    Tokenizer,
)
from ghosttrain.core.units import DAY_S, GIB
from ghosttrain.inputs.choices import (
    DEFAULT_GPUS,
    batch_sequences,
    best_checkpoint_interval_s,
    default_gpus,
    dividing_epochs,
    learning_rate_for,
    round_number,
    warmup_steps,
)
from ghosttrain.inputs.faults import Setting, read_faults
from ghosttrain.inputs.fields import Asked, asked_of
from ghosttrain.inputs.limits import refuse_endless_stops, refuse_odd_gpu, refuse_odd_model
from ghosttrain.inputs.models import complete, edited_model, load_model

LENGTHS = ("recipe.steps", "recipe.tokens")  # of the whole run
RANDOM_GPUS = {"h100-sxm": 3.0, "a100-80gb-sxm": 1.0, "h200-sxm": 1.0, "b200": 1.0}
RANDOM_SCHEDULES = {"cosine": 3.0, "wsd": 1.0, "linear": 1.0}
DEFAULT_EPOCHS = 3
LONG_RUN_STEPS = 5000  # longer runs are validated and saved by intervals of their own
MOST_CHOSEN_STOPS = 100_000
LAST_START = 32503680000  # the year 3000: from 1970 to there every log format can write dates


class Resolution:
    """One request on its way to a spec.

    Attributes:
        names: Which names are drawn from.
        start_unix_s: Date of the run; None: as asked in words, or the default.
        random: Whether nobody asked for a model.
        without: Names of models not to draw.
        model_name: The model, once it is known.
        chosen: What nobody asked for, with the choice in words.
    """

    def __init__(
        self,
        asked: Asked,
        seed: int,
        *,
        names: catalog.Selection = "mixed",
        start_unix_s: int | None = None,
        is_random: bool = False,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self.asked, self.seed = asked, seed
        self.names, self.start_unix_s = names, start_unix_s
        self.random, self.without = is_random, without
        self.model_name = ""
        self.chosen: list[tuple[str, str]] = []

    def draw(self, name: str) -> float:
        """A uniform sample in (0, 1) that belongs to `name`."""
        return float(Stream(self.seed, f"spec.{name}").uniform(0, 1)[0])

    def pick(self, name: str, weights: Mapping[str, float]) -> str:
        """One of the keys, by a score of its own: other keys do not change it."""

        def lateness(key: str) -> float:
            u = (stream_key(self.seed, f"spec.{name}.{key}")[0] + 0.5) / 2**64
            return -math.log(u) / weights[key]

        return min(weights, key=lateness)

    def take(self, name: str, chosen: Any, why: str = "") -> Any:
        """What was asked for `name`, else `chosen`, which is noted in the words of `why`."""
        if name in self.asked:
            return self.asked[name]
        if why:
            self.chosen.append((name, why))
        return chosen

    def spec(self) -> RunSpec:
        """The complete spec but for its faults: `with_faults()` adds them.

        Raises:
            RequestError: If a name is unknown, a file cannot be read, or values contradict.
        """
        gpu = self._gpu()
        model = self._model(gpu)
        counts = parameter_counts(model)
        cluster = self._cluster(gpu, counts)
        recipe = self._recipe(model, counts, gpu, cluster)
        recipe, dataset = self._length(recipe)
        recipe = self._loss_start(recipe, model, counts, dataset)
        recipe = self._with_warmup(replace(recipe, **asked_of("recipe", self._plain_recipe())))
        spec = RunSpec(
            model=model,
            gpu=gpu,
            cluster=cluster,
            dataset=dataset,
            tokenizer=self._tokenizer(model),
            recipe=recipe,
            parallel=ParallelRequest(**asked_of("parallel", self.asked)),
            stack=replace(
                catalog.stack(self.asked.get("stack", "megatron-core")),
                **asked_of("stack", self.asked),
            ),
            start_unix_s=self._start(),
            time_limit_s=self.asked.get("time_limit_s", 400 * DAY_S),
            output_dir=self.asked.get("output_dir", "outputs"),
        )
        spec = self._with_intervals(spec)
        return replace(spec, chosen=tuple(self.chosen))

    def _plain_recipe(self) -> Asked:
        """The asked fields without those that set the length of the run."""
        lengths = (*LENGTHS, "recipe.epochs", "recipe.steps_per_epoch")
        return {k: v for k, v in self.asked.items() if k not in lengths}

    def _gpu(self) -> Gpu:
        if "cluster" in self.asked:
            name = catalog.cluster_preset(self.asked["cluster"]).gpu
            other = self.asked.get("gpu", name)
            if catalog.key("gpu", other) != name:
                raise SpecError(
                    f"cluster {self.asked['cluster']} has {name}, not {other}: leave one out"
                )
        elif self._gives_whole("gpu", Gpu):
            gpu = Gpu(**asked_of("gpu", self.asked))
            refuse_odd_gpu(gpu)
            return gpu
        else:
            name = self.pick("gpu", RANDOM_GPUS) if self.random else "h100-sxm"
            name = self.take("gpu", name, name)
        gpu = replace(catalog.gpu(name), **asked_of("gpu", self.asked))
        refuse_odd_gpu(gpu)
        return gpu

    def _model(self, gpu: Gpu) -> Model:
        if self.random:
            model = self._random_model(gpu)
            self.chosen.append(("model", model.name))
        elif "model" in self.asked:
            model = load_model(self.asked["model"])
        else:
            model = complete(Model, "model", asked_of("model", self.asked))
        model = edited_model(model, self.asked)
        refuse_odd_model(model)
        self.model_name = model.name
        return model

    def _gives_whole(self, part: str, record: type) -> bool:
        """Whether a spec file gives all that `part` must have, so that no name is needed."""
        needed = {f.name for f in fields(record) if f.default is MISSING}
        return part not in self.asked and needed <= set(asked_of(part, self.asked))

    def _random_model(self, gpu: Gpu) -> Model:
        """A model of a size these GPUs train.

        From 1 B parameters to a third of their memory in training states; where there is none,
        of whatever size fits, else the smallest.

        Raises:
            PlanError: If none is left to try.
        """
        gpus = self.asked.get("cluster.gpus", DEFAULT_GPUS)
        most = gpus * gpu.memory_gib * GIB / 3 / 18
        known = {m.name: m for m in catalog.models(self._names("model"))}
        sizes = {
            name: parameter_counts(m).total
            for name, m in known.items()
            if m.max_seq_len >= 1024 and name not in self.without
        }
        if not sizes:
            raise PlanError("no model of the catalogue suits what is asked: name one with --model")
        suitable = [name for name, size in sizes.items() if 1e9 <= size <= most]
        suitable = suitable or [name for name, size in sizes.items() if size <= most]
        suitable = suitable or [min(sizes, key=sizes.__getitem__)]
        return known[self.pick("model", dict.fromkeys(suitable, 1.0))]

    def _names(self, name: str) -> catalog.Selection:
        """Whose names to draw from: of the mixed ones, every third is a joke."""
        if self.names != "mixed":
            return self.names
        return "satirical" if self.draw(f"{name}.satirical") < 1 / 3 else "earnest"

    def _cluster(self, gpu: Gpu, counts: ParameterCounts) -> Cluster:
        given = asked_of("cluster", self.asked)
        if "cluster" in self.asked:
            _, cluster = catalog.named_cluster(self.asked["cluster"], given.get("gpus"))
            if "gpus" not in given:
                self.chosen.append(("cluster.gpus", f"all {cluster.gpus:,} GPUs"))
        else:
            default = default_gpus(gpu, counts, given.get("gpus_per_node", gpu.gpus_per_node))
            cluster = catalog.cluster(
                gpu,
                self.take("cluster.gpus", default, f"{default:,} GPUs"),
                fabric=self.asked.get("cluster.fabric"),
                gpus_per_node=given.get("gpus_per_node"),
            )
        fabric = cluster.fabric
        if "cluster.fabric" in self.asked:
            fabric = catalog.fabric(self.asked["cluster.fabric"])
        fabric = replace(fabric, **asked_of("cluster.fabric", self.asked))
        return replace(cluster, **given, fabric=fabric)

    def _recipe(self, model: Model, counts: ParameterCounts, gpu: Gpu, cluster: Cluster) -> Recipe:
        """The recipe, still without its length."""
        seq_len = min(model.max_seq_len, 8192)
        if model.learned_positions:
            seq_len = min(seq_len, model.learned_positions)
        seq_len = self.take("recipe.seq_len", seq_len, f"sequences of {seq_len:,}")
        precision = "bf16" if gpu.bf16_tflops else "fp16"
        peak = model.peak_learning_rate or learning_rate_for(counts.total)
        schedule = "cosine"
        if self.random:
            schedule = self.pick("schedule", RANDOM_SCHEDULES)
        return Recipe(
            seq_len=seq_len,
            global_batch_size=self._batch(counts, seq_len, gpu, cluster.gpus),
            epochs=1,
            steps_per_epoch=1,
            precision=self.take("recipe.precision", precision, precision),
            schedule=self.take("recipe.schedule", schedule, schedule),
            peak_learning_rate=self.take(
                "recipe.peak_learning_rate", peak, f"peak learning rate {peak:.3g}"
            ),
        )

    def _batch(self, counts: ParameterCounts, seq_len: int, gpu: Gpu, gpus: int) -> int:
        batch = batch_sequences(counts, seq_len, gpu, gpus)
        return int(self.take("recipe.global_batch_size", batch, f"{batch:,} sequences a step"))

    def _length(self, recipe: Recipe) -> tuple[Recipe, Dataset]:
        """The recipe with its epochs and their steps, and the dataset they pass over."""
        asked, tokens_per_step = self.asked, recipe.tokens_per_step
        lengths = [k for k in (*LENGTHS, "recipe.steps_per_epoch") if k in asked]
        if len(lengths) > 1:
            names = " and ".join(name.removeprefix("recipe.") for name in lengths)
            raise SpecError(f"{names} both set the length of the run: give one of them")
        if lengths and lengths[0] in LENGTHS:
            steps = asked.get("recipe.steps") or round(asked["recipe.tokens"] / tokens_per_step)
            return self._length_of(recipe, max(1, steps))
        default = 1 if lengths else DEFAULT_EPOCHS
        epochs = self.take("recipe.epochs", default, f"{default} epoch{'s' if default > 1 else ''}")
        if lengths:
            per_epoch = asked["recipe.steps_per_epoch"]
            return (
                replace(recipe, epochs=epochs, steps_per_epoch=per_epoch),
                self._dataset(per_epoch * tokens_per_step),
            )
        per_epoch = 500 + 10 * int(151 * self.draw("steps_per_epoch"))
        dataset = self._dataset(per_epoch * tokens_per_step)
        per_epoch = min(per_epoch, int(dataset.tokens / tokens_per_step)) or 1
        self.chosen.append(("recipe.steps_per_epoch", f"{per_epoch:,} steps an epoch"))
        return replace(recipe, epochs=epochs, steps_per_epoch=per_epoch), dataset

    def _length_of(self, recipe: Recipe, total: int) -> tuple[Recipe, Dataset]:
        """The recipe with `total` steps, in as few epochs as the dataset allows."""
        tokens = total * recipe.tokens_per_step
        asked_epochs = self.asked.get("recipe.epochs", 1)
        dataset = self._dataset(tokens / asked_epochs)
        epochs = self.asked.get("recipe.epochs") or math.ceil(tokens / dataset.tokens / 1.001)
        if "recipe.steps" in self.asked:
            most = epochs if "recipe.epochs" in self.asked else min(total, 2 * epochs + 8)
            epochs = dividing_epochs(total, epochs, most)
        if epochs > asked_epochs:
            why = f"{epochs:,} epochs, as {dataset.name} has {dataset.tokens:.3g} tokens"
            self.chosen.append(("recipe.epochs", why))
        return replace(recipe, epochs=epochs, steps_per_epoch=max(1, total // epochs)), dataset

    def _dataset(self, needed: float) -> Dataset:
        """The dataset asked for, or one of at least `needed` tokens where there is one."""
        given = asked_of("dataset", self.asked)
        if "dataset" in self.asked:
            return replace(catalog.dataset(self.asked["dataset"]), **given)
        if "tokens" in given:
            return Dataset(**{"name": "custom", **given})
        known = {d.name: d for d in catalog.datasets(self._names("dataset"))}
        if not self.random:
            known = {d.name: d for d in catalog.datasets("earnest")}
        large = [d for d in known.values() if d.tokens >= needed]
        general = large if self.random else [d for d in large if d.kind == "web"] or large
        largest = max(known.values(), key=lambda d: d.tokens)
        names = [d.name for d in general] or [largest.name]
        name = self.pick("dataset", dict.fromkeys(names, 1.0))
        self.chosen.append(("dataset", name))
        return replace(known[name], **given)

    def _loss_start(
        self, recipe: Recipe, model: Model, counts: ParameterCounts, dataset: Dataset
    ) -> Recipe:
        """Now and then a random run continues from a checkpoint, at the base model's loss."""
        if not self.random or self.draw("continued") > 0.15 or not model.tokens_trained:
            return recipe
        if "recipe.continued_loss" in self.asked:
            return recipe
        params = math.sqrt(counts.active * counts.total)
        base = dataset.loss_scale * float(
            chinchilla_loss(params, np.array([model.tokens_trained]))[0]
        )
        loss = round(base + 0.08 + 0.25 * self.draw("domain_shift"), 4)
        self.chosen.append(("recipe.continued_loss", f"loss {loss} of a checkpoint to start from"))
        if "recipe.peak_learning_rate" in self.asked:
            return replace(recipe, continued_loss=loss)
        rate = round(0.2 * recipe.peak_learning_rate, 10)
        said = {**dict(self.chosen), "recipe.peak_learning_rate": f"peak learning rate {rate:.3g}"}
        self.chosen = list(said.items())
        return replace(recipe, continued_loss=loss, peak_learning_rate=rate)

    def _with_warmup(self, recipe: Recipe) -> Recipe:
        if "recipe.warmup_steps" in self.asked:
            return recipe
        return replace(recipe, warmup_steps=warmup_steps(recipe.total_steps))

    def _tokenizer(self, model: Model) -> Tokenizer:
        given = asked_of("tokenizer", self.asked)
        name = self.asked.get("tokenizer") or model.tokenizer
        if name:
            return replace(catalog.tokenizer(name), **given)
        # A tokenizer with a name of its own: files give the vocabulary only.
        known = {"name": f"{model.name} tokenizer", "kind": "BPE", "vocab_size": model.vocab_size}
        return Tokenizer(**{**known, "bytes_per_token": 4.2, **given})

    def _start(self) -> int:
        start_s = self.start_unix_s
        if start_s is None:
            start_s = self._start_in_words()
        if not 0 <= start_s < LAST_START:
            raise SpecError("start is out of range: give a date from 1970 to 2999")
        return start_s

    def _start_in_words(self) -> int:
        text = self.asked.get("start", "2026-01-01T00:00:00Z")
        try:
            date = datetime.fromisoformat(text)
            return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            raise SpecError(f"start {text!r} is no date: as in 2026-11-23T12:41:07Z") from None

    def _with_intervals(self, spec: RunSpec) -> RunSpec:
        """Intervals of validation and checkpoints where nobody asked for them."""
        recipe = spec.recipe
        refuse_endless_stops(recipe)
        saves, validates = "recipe.checkpoint_interval_steps", "recipe.validation_interval_steps"
        changes: Asked = {"checkpoint_interval_steps": min(500, recipe.steps_per_epoch)}
        if recipe.total_steps > LONG_RUN_STEPS:
            every = LONG_RUN_STEPS // 10
            if saves not in self.asked:
                planned = plan(spec)
                every_s = best_checkpoint_interval_s(planned)
                every = round_number(every_s / planned.step_time.total_s)
            changes = {
                "checkpoint_interval_steps": max(
                    10, every, recipe.total_steps // MOST_CHOSEN_STOPS
                ),
                "validation_interval_steps": max(500, round_number(recipe.total_steps / 100)),
            }
        open_ = {k: v for k, v in changes.items() if f"recipe.{k}" not in self.asked}
        if saves not in self.asked:
            steps = open_["checkpoint_interval_steps"]
            words = f"a checkpoint every {steps:,} step{'s' if steps > 1 else ''}"
            self.chosen.append((saves, words))
        if "validation_interval_steps" in open_:
            steps = open_["validation_interval_steps"]
            self.chosen.append((validates, f"a validation every {steps:,} steps"))
        return replace(spec, recipe=replace(recipe, **open_))

    def with_faults(self, spec: RunSpec) -> RunSpec:
        """The spec with the faults that were asked for.

        Raises:
            RequestError: If they make no sense, or the times of those that have none hang on a
                plan that cannot be.
        """
        words, tables = self.asked.get("faults", "none"), self.asked.get("fault", ())
        timeout_s = self.asked.get("watchdog_timeout_s", 600.0)
        if words == "none" and not tables:
            return replace(spec, faults=Faults(watchdog_timeout_s=timeout_s))
        drawn: list[str] = []
        planned = cache(lambda: plan(spec))

        def moment_s(share: float) -> float:
            return planned().init_s + share * (planned().run_s - planned().init_s)

        def some_time_s(name: str) -> float:
            """A moment from the middle half of training."""
            stream = f"faults.at.{len(drawn)}" if drawn else "faults.at"
            at_s = round(moment_s(0.25 + 0.5 * self.draw(stream)), 3)
            drawn.append(f"{name} at {at_s:,.0f} s")
            return at_s

        setting = Setting(self.seed, spec.gpu, spec.cluster, moment_s, some_time_s)
        faults = read_faults(words, setting, tables=tables, watchdog_timeout_s=timeout_s)
        chosen = (("faults", ", ".join(drawn)),) if drawn else ()
        notes = _too_late(replace(spec, faults=faults))
        return replace(
            spec, faults=faults, chosen=(*spec.chosen, *chosen), notes=(*spec.notes, *notes)
        )


def _too_late(spec: RunSpec) -> tuple[tuple[str, str], ...]:
    """A note on the faults that the run will not live to see, if all goes as planned."""
    try:
        end_s = plan(spec).run_s
    except PlanError:  # whoever plans it says why
        return ()
    steps = spec.recipe.total_steps
    late = sum(f.at_step > steps or f.at_s > end_s for f in spec.faults.injected)
    if not late:
        return ()
    what = f"{late:,} of {len(spec.faults.injected):,} come"
    return (("faults", f"{what} after the planned end, {end_s:,.0f} s or {steps:,} steps"),)
