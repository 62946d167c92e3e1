"""From what is asked to a complete spec: always lawful, and one field changes no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.errors import InputFileError, PlanError, SpecError, UnknownNameError
from ghosttrain.core.plan import plan
from ghosttrain.core.spec import RunSpec
from ghosttrain.inputs.request import Request, resolve

HF_CONFIGS = sorted((Path(__file__).parents[1] / "data" / "hf_configs").glob("*/config.json"))
MODELS = catalog.names("model")
SEEDS = st.integers(0, 2**63 - 1)


def spec_of(seed: int = 1, spec: str | None = None, **asked: object) -> RunSpec:
    """The spec of fields with double underscores for dots."""
    return resolve(Request(spec, {k.replace("__", "."): v for k, v in asked.items()}), seed)


# ------------------------------------------------------------------------------ random runs


@pytest.mark.parametrize("block", range(4))
def test_random_runs_are_lawful(block):
    for seed in range(50 * block, 50 * block + 50):
        spec = spec_of(seed)
        recipe = spec.recipe
        assert plan(spec).mfu > 0.02
        assert spec.cluster.gpus == 64
        assert recipe.epochs == 3
        assert 500 <= recipe.steps_per_epoch <= 2000
        assert recipe.warmup_steps <= recipe.total_steps
        assert isinstance(recipe.warmup_steps, int)
        assert spec.dataset.tokens >= recipe.steps_per_epoch * recipe.tokens_per_step


def test_random_runs_differ_and_sometimes_joke_or_continue():
    specs = [spec_of(seed) for seed in range(60)]
    assert len({s.model.name for s in specs}) > 20
    assert {s.model.satirical for s in specs} == {True, False}
    assert {s.recipe.continued_loss > 0 for s in specs} == {True, False}
    assert len({s.gpu.name for s in specs}) == 4


def test_a_run_that_continues_says_the_learning_rate_it_has():
    """A fifth of that from scratch, unless it was asked for."""
    seed = next(seed for seed in range(60) if spec_of(seed).recipe.continued_loss)
    spec = spec_of(seed)
    said = dict(spec.chosen)["recipe.peak_learning_rate"]
    assert said == f"peak learning rate {spec.recipe.peak_learning_rate:.3g}"
    asked = spec_of(seed, recipe__peak_learning_rate=1e-4)
    assert asked.recipe.continued_loss == spec.recipe.continued_loss
    assert asked.recipe.peak_learning_rate == 1e-4


@pytest.mark.parametrize("names", ["earnest", "satirical"])
def test_names_restrict_random_runs(names):
    for seed in range(10):
        spec = resolve(Request(names=names), seed)
        assert spec.model.satirical == spec.dataset.satirical == (names == "satirical")


@pytest.mark.parametrize(
    "asked",
    [
        {"cluster__gpus": 1},
        {"cluster__gpus": 8, "gpu": "v100-16gb-sxm2"},
        {"parallel__expert_parallel": 8},
        {"parallel__tensor_parallel": 8},
        {"recipe__seq_len": 65536},
        {"gpu": "t4"},
    ],
    ids=str,
)
def test_a_random_model_suits_what_is_asked(asked):
    for seed in range(5):
        plan(spec_of(seed, **asked))


PARTS = {
    "gpu": lambda s: s.gpu,
    "model": lambda s: s.model,
    "gpus": lambda s: s.cluster.gpus,
    "dataset": lambda s: s.dataset,
    "seq_len": lambda s: s.recipe.seq_len,
    "batch": lambda s: s.recipe.global_batch_size,
    "schedule": lambda s: s.recipe.schedule,
    "epochs": lambda s: s.recipe.epochs,
    "per_epoch": lambda s: s.recipe.steps_per_epoch,
    "rate": lambda s: s.recipe.peak_learning_rate,
    "continued": lambda s: s.recipe.continued_loss,
    "warmup": lambda s: s.recipe.warmup_steps,
}
# What is asked, and what depends on it by rule.
DEPENDENT: list[tuple[dict[str, object], set[str]]] = [
    ({"recipe__schedule": "constant"}, {"schedule"}),
    ({"recipe__peak_learning_rate": 1e-4}, {"rate"}),
    ({"recipe__epochs": 1}, {"epochs", "warmup"}),
    ({"recipe__warmup_steps": 7}, {"warmup"}),
    ({"recipe__precision": "bf16"}, set()),
    ({"recipe__checkpoint_interval_steps": 77}, set()),
    ({"cluster__inlet_c": 30.0}, set()),
    ({"output_dir": "elsewhere"}, set()),
    ({"faults": "gpu-off-bus"}, set()),
    ({"recipe__global_batch_size": 512}, {"batch", "dataset", "continued"}),
    ({"dataset": "fineweb"}, {"dataset", "continued"}),
]


@pytest.mark.parametrize(
    ("asked", "dependent"), DEPENDENT, ids=lambda v: str(sorted(v)) if v else "none"
)
@settings(max_examples=6)
@given(seed=SEEDS)
def test_asking_for_one_field_changes_no_other_choice(seed, asked, dependent):
    free, bound = spec_of(seed), spec_of(seed, **asked)
    changed = {name for name, part in PARTS.items() if part(free) != part(bound)}
    assert changed <= dependent


@given(seed=SEEDS)
def test_asking_for_what_was_drawn_changes_nothing(seed):
    free = spec_of(seed)
    bound = spec_of(
        seed, gpu=free.gpu.name, cluster__gpus=64, recipe__schedule=free.recipe.schedule
    )
    assert (free.model, free.dataset, free.recipe) == (bound.model, bound.dataset, bound.recipe)


# ------------------------------------------------------------------------------ models


@pytest.mark.parametrize("name", MODELS)
def test_every_catalogue_model_is_plannable_with_what_is_chosen_for_it(name):
    spec = spec_of(spec=name)
    planned = plan(spec)
    assert 0.02 < planned.mfu < 0.75
    assert spec.recipe.seq_len <= spec.model.max_seq_len
    assert 1e-5 < spec.recipe.peak_learning_rate < 2e-2
    assert 2**18 <= spec.recipe.tokens_per_step <= 2**25


@pytest.mark.parametrize("path", HF_CONFIGS, ids=lambda path: path.parent.name)
def test_every_hugging_face_config_is_plannable(path):
    assert 0.02 < plan(spec_of(spec=str(path))).mfu < 0.75


@pytest.mark.parametrize("gpus", [1, 3, 8, 24, 48, 96, 384, 1000, 4096])
@pytest.mark.parametrize("name", ["gpt-2-124m", "llama-3.2-1b", "pythia-160m"])
def test_odd_numbers_of_gpus_have_a_batch_that_divides(name, gpus):
    spec = spec_of(spec=name, cluster__gpus=gpus)
    layout = plan(spec).layout
    assert spec.recipe.global_batch_size % layout.data_parallel == 0
    assert layout.tensor_parallel <= 4


@pytest.mark.parametrize("gpus", [24, 96, 384, 1536])
def test_large_models_on_odd_numbers_of_gpus(gpus):
    assert plan(spec_of(spec="llama-3-8b", cluster__gpus=gpus)).mfu > 0.3


@pytest.mark.parametrize("name", ["llama-3-8b", "meta-llama/Meta-Llama-3-8B", "Llama 3 8B"])
def test_a_spec_that_is_a_name_is_as_the_flag(name):
    assert spec_of(5, spec=name) == spec_of(5, model="llama-3-8b")


def test_a_flag_overrides_the_model_of_spec():
    assert spec_of(spec="llama-3-8b", model="gpt2").model == catalog.model("gpt2")


def test_a_folder_called_like_a_model_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "llama-3-8b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert spec_of(spec="llama-3-8b").model == catalog.model("llama-3-8b")
    with pytest.raises(InputFileError, match=r"config\.json"):
        spec_of(spec="./llama-3-8b")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere/config.json", InputFileError, "no such file"),
        ("./llama", InputFileError, "no such file"),
        ("a/b/c", InputFileError, "no such file"),
        ("llama-3-8", UnknownNameError, "did you mean llama-3-8b?"),
        ("zzzz", UnknownNameError, "ghosttrain list models"),
        ("", SpecError, "is empty"),
        ("x" * 5000, UnknownNameError, "unknown model"),
        ("nul\0.json", InputFileError, "no such file"),
        ("train.sh", InputFileError, "no such file"),
    ],
)
def test_unknown_names_and_missing_files_are_told_apart(name, error, words):
    with pytest.raises(error) as caught:
        spec_of(spec=name)
    assert words in str(caught.value)


def test_a_launch_script_is_recognised(tmp_path):
    path = tmp_path / "train.sh"
    path.write_text(
        "python pretrain_gpt.py --num-layers 12 --hidden-size 768 --num-attention-heads 12 "
        "--seq-length 1024 --micro-batch-size 4\n"
    )
    assert spec_of(spec=str(path)).model.layers == 12


# ------------------------------------------------------------------------------ length


def test_tokens_are_those_of_the_whole_run():
    recipe = spec_of(spec="llama-3-8b", recipe__tokens=1e9, recipe__epochs=2).recipe
    assert recipe.epochs == 2
    assert recipe.total_steps * recipe.tokens_per_step == pytest.approx(1e9, rel=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 60, 4999, 5001, 1_000_000])
def test_steps_are_exact_and_the_warm_up_fits(steps):
    spec = spec_of(spec="llama-3-8b", recipe__steps=steps)
    plan(spec)
    assert spec.recipe.total_steps == steps
    assert 1 <= spec.recipe.warmup_steps <= min(steps, 2000)


def test_epochs_are_raised_where_the_dataset_is_small():
    spec = spec_of(spec="gpt2", dataset="tinystories", recipe__tokens=5e9)
    plan(spec)
    assert spec.recipe.epochs == 11
    assert dict(spec.chosen)["recipe.epochs"] == "11 epochs, as TinyStories has 4.7e+08 tokens"


def test_steps_stay_exact_where_the_dataset_is_small():
    spec = spec_of(spec="gpt2", dataset="tinystories", recipe__steps=10_000)
    plan(spec)
    assert spec.recipe.total_steps == 10_000
    assert spec.recipe.epochs > 1
    with pytest.raises(SpecError, match="not a whole number in each of"):
        spec_of(spec="gpt2", dataset="tinystories", recipe__steps=10_007)


def test_too_few_tokens_for_the_epochs_asked_are_refused():
    asked: dict[str, Any] = {"dataset": "tinystories", "recipe__tokens": 5e9, "recipe__epochs": 1}
    with pytest.raises(PlanError, match=r"TinyStories has 4\.7e\+08"):
        plan(spec_of(spec="gpt2", **asked))


def test_more_tokens_than_any_dataset_has_are_several_epochs_of_the_largest():
    spec = spec_of(spec="llama-3-70b", recipe__tokens=1e14)
    assert spec.recipe.epochs > 1
    plan(spec)


def test_a_small_dataset_makes_short_epochs():
    spec = spec_of(spec="llama-3-8b", dataset="wikitext-103")
    plan(spec)
    assert spec.recipe.steps_per_epoch < 200


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"recipe__tokens": 1e9, "recipe__steps": 10}, "both set the length"),
        ({"recipe__steps": 10, "recipe__steps_per_epoch": 10}, "both set the length"),
        ({"recipe__steps": 10, "recipe__epochs": 3}, "take 9 or 12"),
        (
            {"recipe__steps": 10**8, "recipe__checkpoint_interval_steps": 3},
            "makes 33,333,333 stops: take 100 or more",
        ),
        ({"recipe__steps": 2, "recipe__epochs": 3}, "take 3"),
        ({"model__kv_heads": 7}, "does not divide"),
        ({"gpu__idle_w": 500.0}, "must not decrease"),
        ({"gpu__bf16_tflops": 0.0, "gpu__fp16_tflops": 0.0}, "both 0"),
        ({"cluster": "eos", "gpu": "a100-80gb-sxm"}, "leave one out"),
        ({"cluster": "tinyllama-16", "cluster__gpus": 32}, "has 16 GPUs"),
        ({"model__moe__experts": 8}, "model.moe lacks experts_active"),
        ({"start": "9999-12-31T23:59:59Z"}, "from 1970 to 2999"),
        ({"start": "soon"}, "is no date"),
        ({"faults": "gpu-of-bus"}, "did you mean gpu-off-bus?"),
        ({"faults": "zzzz"}, "give none, realistic, or"),
        ({"faults": "none,realistic"}, "unknown fault 'none'"),
        ({"faults": "plan.toml"}, "plan.toml: no such file"),
        ({"faults": "gpu-off-bus@soon"}, "makes no sense"),
        ({"faults": "gpu-off-bus@1h:64"}, "none of 0 to 63"),
        ({"faults": "gpu-off-bus@1h:-1"}, "none of 0 to 63"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_contradictions_are_refused(asked, words):
    with pytest.raises((SpecError, UnknownNameError, InputFileError)) as error:
        spec_of(**{"model": "llama-3-8b", **asked})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_named_cluster_brings_its_gpus():
    spec = spec_of(model="llama-3-8b", cluster="tinyllama-16")
    assert (spec.gpu.name, spec.cluster.gpus) == ("a100-40gb-sxm", 16)


def test_fault_words():
    spec = spec_of(model="llama-3-8b", faults="gpu-off-bus@2h10min:17, realistic")
    faults = spec.faults
    assert faults.drawn == catalog.realistic_faults(spec.gpu)
    assert [(f.kind.name, f.at_s, f.gpu) for f in faults.injected] == [("gpu-off-bus", 7800.0, 17)]


def test_a_fault_without_a_time_strikes_in_training():
    spec = spec_of(model="llama-3-8b", faults="xid-79")
    planned = plan(spec)
    assert planned.init_s < spec.faults.injected[0].at_s < planned.run_s
