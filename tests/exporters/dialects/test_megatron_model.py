"""A model as Megatron-LM counts it."""

from __future__ import annotations

import pytest

from ghosttrain import catalog
from ghosttrain.core.plan import Plan, plan
from ghosttrain.core.spec import ParallelRequest, Recipe, RunSpec
from ghosttrain.exporters.dialects.megatron_memory import theory_lines
from ghosttrain.exporters.dialects.megatron_model import (
    flops_per_step,
    layers_of_stage,
    padded_vocab,
    rank_parameters,
)


def plan_of(name: str, gpus: int = 64, batch: int = 64, seq_len: int = 4096, **layout: int) -> Plan:
    model, gpu = catalog.model(name), catalog.gpu("h200-sxm")
    return plan(
        RunSpec(
            model,
            gpu,
            catalog.cluster(gpu, gpus),
            catalog.dataset("fineweb-edu"),
            catalog.tokenizer(model.tokenizer),
            Recipe(min(seq_len, model.max_seq_len), batch, 1, 60, warmup_steps=12),
            ParallelRequest(**layout),  # type: ignore[arg-type]
        )
    )


def test_flops_of_llama_3_8b_by_hand():
    # Per token and layer: query 4096², key and value 2 · 4096 · 1024, output 4096², three matrices
    # of 4096 · 14336, half of the scores 2 · 4096 · 8192 / 2; then the head.
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 4096 * 8192
    per_token = 6 * (32 * layer + 4096 * 128256)
    made = plan_of("llama-3-8b", seq_len=8192)
    assert flops_per_step(made) == pytest.approx(per_token * 64 * 8192, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "per_token"),
    # What the release's own num_floating_point_operations gives for one token of 4,096 (GPT-3:
    # 2,048), with grouped heads, with experts, with latent attention and a dense beginning.
    [
        ("llama-3-70b", 433_116_413_952),
        ("mixtral-8x7b", 79_706_456_064),
        ("deepseek-v3-671b", 249_812_054_016),
        ("qwen3-30b-a3b", 23_006_281_728),
        ("gpt-3-175b", 1_061_909_692_416),
    ],
)
def test_flops_of_the_release(name, per_token):
    made = plan_of(name, gpus=1024, batch=1024)
    assert flops_per_step(made) / made.spec.recipe.tokens_per_step == per_token


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen3-8b", "gpt-2-1.5b", "phi-2-2.7b"])
def test_one_rank_holds_the_whole_model_and_its_padding(name):
    made = plan_of(name, tensor_parallel=1, pipeline_parallel=1)
    model = made.spec.model
    padding = (padded_vocab(made) - model.vocab_size) * (1 if model.head_bias else 0)
    matrices = 1 if model.tied_embeddings else 2
    padding += matrices * (padded_vocab(made) - model.vocab_size) * model.hidden_size
    assert rank_parameters(made, 0) == made.params.total + padding


def test_stages_hold_all_layers_once():
    made = plan_of("llama-3-70b", tensor_parallel=4, pipeline_parallel=4, virtual_stages=5)
    layers = [layer for stage in range(4) for layer in layers_of_stage(made, stage)]
    assert sorted(layers) == list(range(80))
    assert layers_of_stage(made, 1)[:5] == [4, 5, 6, 7, 20]


def test_ranks_add_up():
    whole = plan_of("llama-3-70b", tensor_parallel=1, pipeline_parallel=1)
    cut = plan_of("llama-3-70b", tensor_parallel=4, pipeline_parallel=4)
    norms = (2 * 80 + 1) * 8192  # whole on every tensor-parallel rank
    held = sum(rank_parameters(cut, stage) for stage in range(4)) * 4
    assert held == rank_parameters(whole, 0) + 3 * norms + 8192 * 2 * (
        padded_vocab(cut) - padded_vocab(whole)
    )


def test_theory_of_llama_3_8b():
    lines = theory_lines(plan_of("llama-3-8b", tensor_parallel=1, pipeline_parallel=1))
    assert lines[0] == "Number of parameters in transformer block in billions:  6.98"
    assert lines[2] == "Number of parameters in embedding layers in billions: 1.05"
    assert lines[3] == "Total number of parameters in billions: 8.03"
