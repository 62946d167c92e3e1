"""Parameter counts against published checkpoints, FLOPs against the formulas."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.laws.architecture import (
    attention_width,
    parameter_counts,
    train_flops_per_token,
)
from ghosttrain.core.spec import Model, Moe
from ghosttrain.inputs.hf_config import read_hf_config

CONFIGS = Path(__file__).parents[2] / "data" / "hf_configs"

# Published to the integer; SOURCES.md says where. Each row holds one feature of the counting.
EXACT = {
    "meta-llama__Llama-2-7b-hf": 6_738_415_616,
    "meta-llama__Llama-2-70b-hf": 68_976_648_192,  # grouped queries
    "meta-llama__Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama__Llama-3.1-405B": 405_853_388_800,
    "meta-llama__Llama-3.2-1B-Instruct": 1_235_814_400,  # tied
    "TinyLlama__TinyLlama-1.1B-intermediate-step-1431k-3T": 1_100_048_384,
    "mistralai__Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai__Mixtral-8x7B-v0.1": 46_702_792_704,  # experts
    "Qwen__Qwen2-0.5B": 494_032_768,
    "Qwen__Qwen2.5-7B-Instruct": 7_615_616_512,  # bias on queries, keys, values
    "Qwen__Qwen1.5-MoE-A2.7B": 14_315_784_192,  # shared expert with a gate
    "Qwen__Qwen3-8B": 8_190_735_360,  # query-key norm per head
    "Qwen__Qwen3-30B-A3B": 30_532_122_624,
    "google__gemma-2b": 2_506_172_416,
    "google__gemma-2-9b": 9_241_705_984,  # four norms a layer
    "google__gemma-3-1b-pt": 999_885_952,
    "microsoft__phi-2": 2_779_683_840,  # one norm a layer, bias on the head
    "microsoft__Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft__phi-4": 14_659_507_200,
    "openai-community__gpt2": 124_439_808,  # learned positions
    "EleutherAI__gpt-neo-125m": 125_198_592,
    "EleutherAI__gpt-j-6b": 6_050_882_784,
    "EleutherAI__gpt-neox-20b": 20_554_567_680,
    "EleutherAI__pythia-1.4b": 1_414_647_808,
    "facebook__opt-350m": 331_196_416,  # narrow embedding, no final norm
    "facebook__opt-1.3b": 1_315_758_080,  # position offset
    "bigscience__bloom": 176_247_271_424,  # embedding norm
    "bigscience__bloom-7b1": 7_069_016_064,
    "tiiuae__falcon-7b": 6_921_720_704,  # one key-value head
    "tiiuae__falcon-40b": 41_303_293_952,
    "mosaicml__mpt-7b": 6_649_286_656,  # LayerNorm without shift
    "bigcode__starcoderbase": 15_517_456_384,
    "bigcode__starcoder2-3b": 3_030_371_328,
    "deepseek-ai__DeepSeek-V2": 235_741_434_880,  # latent attention
    "deepseek-ai__DeepSeek-V2-Lite": 15_706_484_224,  # without a query LoRA
    "allenai__OLMo-7B-hf": 6_888_095_744,  # norms without weights
    "allenai__OLMo-2-1124-7B": 7_298_617_344,  # query-key norm over the full width
    "allenai__OLMoE-1B-7B-0924": 6_919_161_856,
    "stabilityai__stablelm-2-1_6b": 1_644_515_328,
}

# Billions; GPT-OSS without the input embedding, as its model card counts.
ACTIVE = {
    "mistralai__Mixtral-8x7B-v0.1": 12.88,
    "Qwen__Qwen3-30B-A3B": 3.35,
    "Qwen__Qwen1.5-MoE-A2.7B": 2.7,
    "deepseek-ai__DeepSeek-V2": 21.4,
    "deepseek-ai__DeepSeek-V3": 37.5,
    "meta-llama__Llama-4-Scout-17B-16E": 17.2,
    "meta-llama__Llama-4-Maverick-17B-128E": 17.2,
}
ACTIVE_WITHOUT_INPUT = {"openai__gpt-oss-20b": 3.61, "openai__gpt-oss-120b": 5.13}


def model(folder: str) -> Model:
    return read_hf_config(CONFIGS / folder / "config.json")


def published() -> dict[str, int]:
    """The counts of SOURCES.md, by folder."""
    table = (CONFIGS / "SOURCES.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \|.*\| ([\d,]+) \|", table, re.MULTILINE)
    return {folder: int(count.replace(",", "")) for folder, count in rows}


PLAIN = Model(
    name="plain",
    layers=3,
    hidden_size=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn_hidden_size=160,
    vocab_size=1000,
    max_seq_len=128,
)
SPARSE = replace(
    PLAIN,
    layers=6,
    moe=Moe(
        experts=8,
        experts_active=2,
        ffn_hidden_size=32,
        shared_ffn_hidden_size=48,
        first_dense_layers=1,
        every=2,
        router_bias=True,
    ),
)


@pytest.mark.parametrize("folder", EXACT)
def test_counts_are_exact_where_published_to_the_integer(folder):
    assert parameter_counts(model(folder)).total == EXACT[folder]


@pytest.mark.parametrize("folder", sorted(published()))
def test_counts_are_within_one_percent_of_every_published_count(folder):
    assert parameter_counts(model(folder)).total == pytest.approx(published()[folder], rel=0.01)


def test_every_config_has_a_source_and_a_published_count():
    folders = {path.parent.name for path in CONFIGS.glob("*/config.json")}
    assert folders == set(published())
    assert len(folders) >= 25


@pytest.mark.parametrize("folder", ACTIVE)
def test_active_parameters_are_the_published_ones(folder):
    assert parameter_counts(model(folder)).active / 1e9 == pytest.approx(ACTIVE[folder], rel=0.01)


@pytest.mark.parametrize("folder", ACTIVE_WITHOUT_INPUT)
def test_gpt_oss_counts_active_parameters_without_the_input_embedding(folder):
    counts = parameter_counts(model(folder))
    active = (counts.active - counts.input_embedding) / 1e9
    assert active == pytest.approx(ACTIVE_WITHOUT_INPUT[folder], rel=0.01)


def test_dense_model_by_hand():
    counts = parameter_counts(PLAIN)
    attention = 64 * (64 + 32 + 32) + 64 * 64
    assert counts.per_layer_attention == attention
    assert counts.per_layer_dense_mlp == 3 * 64 * 160
    assert counts.per_layer_norms == 2 * 64
    assert counts.total == 2 * 64_000 + 64 + 3 * (attention + 3 * 64 * 160 + 128)
    assert counts.active == counts.total
    assert (counts.moe_layers, counts.per_layer_moe, counts.routed_experts_total) == (0, 0, 0)


def test_moe_model_by_hand():
    counts = parameter_counts(SPARSE)
    assert (counts.dense_layers, counts.moe_layers) == (4, 2)
    assert counts.per_expert == 3 * 64 * 32
    assert counts.per_layer_shared == 3 * 64 * 48 + 64 * 8 + 8
    assert counts.routed_experts_total == 2 * 8 * counts.per_expert
    assert counts.total - counts.active == 2 * 6 * counts.per_expert


def test_tied_embeddings_are_multiplied_not_looked_up():
    untied, tied = parameter_counts(PLAIN), parameter_counts(replace(PLAIN, tied_embeddings=True))
    assert (untied.input_embedding, untied.output_head) == (64_000, 64_000)
    assert (tied.input_embedding, tied.output_head) == (0, 0)
    assert tied.head_matrix == untied.head_matrix == 64_000
    assert untied.total - tied.total == 64_000
    # The same matrices are multiplied either way.
    assert untied.active - untied.input_embedding == tied.active - tied.input_embedding


def test_learned_positions_are_looked_up():
    counts = parameter_counts(model("openai-community__gpt2"))
    assert counts.input_embedding == 1024 * 768
    assert counts.output_head == 0


def test_flops_follow_the_palm_convention():
    gpt2 = model("openai-community__gpt2")
    multiplied = 124_439_808 - 1024 * 768
    assert train_flops_per_token(gpt2, 1024) == 6 * multiplied + 12 * 12 * 768 * 1024


def test_flops_of_llama_70b_at_4096_are_the_known_ones():
    """6·(N - V·h) + 12·L·h·S: 412.3 + 32.2 GFLOP a token."""
    flops = train_flops_per_token(model("meta-llama__Llama-2-70b-hf"), 4096)
    assert flops == pytest.approx(444.5e9, rel=1e-3)


def test_flops_of_latent_attention_use_both_head_dims():
    deepseek = model("deepseek-ai__DeepSeek-V3")
    assert attention_width(deepseek) == 128 * (128 + 64 + 128) / 2
    counts = parameter_counts(deepseek)
    attention = 12 * 61 * 128 * 160 * 4096
    expected = 6 * (counts.active - counts.input_embedding) + attention
    assert train_flops_per_token(deepseek, 4096) == expected


def test_gpt_style_layer_has_twelve_h_squared_and_thirteen_h():
    """Narayanan 2021: 12h² + 13h a layer."""
    gpt = replace(
        PLAIN,
        kv_heads=4,
        ffn_hidden_size=256,
        mlp="gelu",
        norm="layernorm",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )
    assert parameter_counts(gpt).per_layer_dense == 12 * 64**2 + 13 * 64


@given(
    base=st.sampled_from([PLAIN, SPARSE]),
    layers=st.integers(1, 100),
    tied=st.booleans(),
    norm=st.sampled_from(["rmsnorm", "layernorm"]),
    qk_norm=st.sampled_from(["none", "head", "full"]),
    biases=st.booleans(),
    embedding_size=st.sampled_from([0, 32]),
    learned_positions=st.sampled_from([0, 128]),
)
def test_the_parts_add_up_to_the_total(
    base, layers, tied, norm, qk_norm, biases, embedding_size, learned_positions
):
    counts = parameter_counts(
        replace(
            base,
            layers=layers,
            tied_embeddings=tied,
            norm=norm,
            qk_norm=qk_norm,
            qkv_bias=biases,
            output_bias=biases,
            mlp_bias=biases,
            head_bias=biases,
            embedding_size=embedding_size,
            learned_positions=learned_positions,
        )
    )
    assert counts.dense_layers + counts.moe_layers == layers
    assert counts.total == (
        counts.embedding
        + counts.output_head
        + counts.final_norm
        + counts.dense_layers * counts.per_layer_dense
        + counts.moe_layers * counts.per_layer_moe
    )
    assert counts.per_layer_dense == (
        counts.per_layer_attention + counts.per_layer_norms + counts.per_layer_dense_mlp
    )
    assert 0 <= counts.input_embedding < counts.active <= counts.total
