"""The catalogue: complete, consistent, found by the names people type."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from ghosttrain import catalog
from ghosttrain.catalog import rows
from ghosttrain.catalog.clusters import storage_gbs
from ghosttrain.core.errors import SpecError, UnknownNameError
from ghosttrain.core.laws.architecture import parameter_counts
from ghosttrain.core.spec import GATED_MLPS, Gpu, Model, Moe

FOLDER = Path(catalog.__file__).parent
FILES = sorted(path.name for path in FOLDER.glob("*.toml"))
LOADERS: dict[catalog.Kind, Callable[[str], Any]] = {
    "gpu": catalog.gpu,
    "model": catalog.model,
    "dataset": catalog.dataset,
    "tokenizer": catalog.tokenizer,
    "fabric": catalog.fabric,
    "cluster": catalog.cluster_preset,
    "fault": catalog.fault_kind,
    "stack": catalog.stack,
}
ALL_ROWS = [(kind, name) for kind in LOADERS for name in catalog.names(kind)]
MODELS = catalog.names("model")
EARNEST = catalog.names("model", "earnest")
SATIRICAL = catalog.names("model", "satirical")
GPUS = catalog.names("gpu")


def test_there_is_a_loader_for_every_kind():
    assert set(LOADERS) == set(get_args(catalog.Kind))


@pytest.mark.parametrize(
    ("kind", "selection", "least"),
    [
        ("gpu", "mixed", 20),
        ("model", "earnest", 60),
        ("model", "satirical", 24),
        ("dataset", "earnest", 25),
        ("dataset", "satirical", 20),
    ],
)
def test_there_are_enough_rows(kind, selection, least):
    assert len(catalog.names(kind, selection)) >= least


@pytest.mark.parametrize(("kind", "name"), ALL_ROWS)
def test_every_row_is_a_record_with_a_source(kind, name):
    record = LOADERS[kind](name)
    assert record.name
    assert record.source
    assert not record.source.startswith("/")


@pytest.mark.parametrize("file", FILES)
def test_a_row_parsed_alone_is_the_row_of_the_file(file):
    """The line-wise reader sees exactly what a TOML parser sees in the whole file."""
    tables = tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))
    aliases = tables.pop("aliases", {})
    whole = {
        key: {**table.get("defaults", {}), **row}
        for table in tables.values()
        for key, row in table.items()
        if key != "defaults"
    }
    assert {key: rows.row(file, key) for key in rows.index(file)} == whole
    assert dict(rows.aliases(file)) == aliases


@pytest.mark.parametrize("file", FILES)
def test_aliases_name_rows_and_hide_none(file):
    assert set(rows.aliases(file).values()) <= set(rows.index(file))
    assert not set(rows.aliases(file)) & set(rows.index(file))


def test_a_wrong_field_is_an_assertion():
    with pytest.raises(AssertionError, match="no such field"):
        rows.record(Moe, {"experts": 8, "experts_active": 2, "ffn_hidden_size": 64, "expert": 1})
    with pytest.raises(AssertionError, match="experts_active is missing"):
        rows.record(Moe, {"experts": 8, "ffn_hidden_size": 64})
    with pytest.raises(AssertionError, match="is not int"):
        rows.record(Moe, {"experts": 8, "experts_active": True, "ffn_hidden_size": 64})


def test_import_parses_nothing_and_needs_no_numpy():
    code = (
        "import sys, ghosttrain.catalog as c; "
        "assert 'tomllib' not in sys.modules and 'numpy' not in sys.modules; "
        "c.model('llama-3-8b'); assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- names


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("llama-3-8b", "Llama-3-8B"),
        ("Llama 3 8B", "Llama-3-8B"),
        ("LLAMA_3_8B", "Llama-3-8B"),
        ("llama3-8b", "Llama-3-8B"),
        ("llama-3.1-8b", "Llama-3.1-8B"),
        ("Llama 3.1 8B", "Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("meta-llama/Meta-Llama-3-8B", "Llama-3-8B"),
        ("gpt2", "GPT-2-124M"),
        ("mistralai/Mixtral-8x7B-v0.1", "Mixtral-8x7B"),
        ("Qwen/Qwen2.5-7B", "Qwen2.5-7B"),
        ("deepseek-v3", "DeepSeek-V3-671B"),
    ],
)
def test_models_are_found_however_they_are_typed(typed, shown):
    assert catalog.model(typed).name == shown


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("h100", "h100-sxm"),
        ("H100 SXM", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("a100", "a100-80gb-sxm"),
        ("A100_40GB_SXM", "a100-40gb-sxm"),
        ("Tesla V100-SXM2-32GB", "v100-32gb-sxm2"),
        ("NVIDIA GB200", "gb200"),
        ("rtx 4090", "rtx-4090"),
    ],
)
def test_gpus_are_found_by_short_and_driver_names(typed, key):
    assert catalog.gpu(typed).name == key


@pytest.mark.parametrize("kind", LOADERS)
def test_every_shown_name_finds_its_own_row(kind):
    for name in catalog.names(kind):
        assert catalog.key(kind, LOADERS[kind](name).name) == name


@pytest.mark.parametrize(
    ("kind", "typed", "message"),
    [
        ("gpu", "h10", "unknown GPU 'h10': did you mean h100-sxm?"),
        ("gpu", "qqqq", "unknown GPU 'qqqq': see `ghosttrain list gpus`"),
        ("model", "lama-3-8b", "unknown model 'lama-3-8b': did you mean llama-3-8b?"),
        ("dataset", "finewebb", "unknown dataset 'finewebb': did you mean fineweb?"),
        ("fault", "gpu-of-bus", "unknown fault 'gpu-of-bus': did you mean gpu-off-bus?"),
    ],
)
def test_an_unknown_name_gets_the_nearest_match(kind, typed, message):
    with pytest.raises(UnknownNameError) as caught:
        LOADERS[kind](typed)
    assert str(caught.value) == message


def test_selections_divide_the_catalogue():
    assert sorted([*EARNEST, *SATIRICAL]) == sorted(MODELS)
    assert not any(model.satirical for model in catalog.models("earnest"))
    assert all(model.satirical for model in catalog.models("satirical"))
    assert all(data.satirical for data in catalog.datasets("satirical"))


# --- GPUs


def positive(gpu: Gpu) -> list[float]:
    return [
        gpu.memory_mib, gpu.hbm_gbs, gpu.fp16_tflops, gpu.idle_w, gpu.sm_count, gpu.memory_mhz,
        gpu.nic_gbps, gpu.gpus_per_node, gpu.nvlink_domain, gpu.thermal_resistance_c_per_w,
    ]  # fmt: skip


@pytest.mark.parametrize("name", GPUS)
def test_gpu_constants_are_in_order(name):
    gpu = catalog.gpu(name)
    assert all(value > 0 for value in positive(gpu))
    assert gpu.fp16_tflops >= gpu.bf16_tflops
    assert gpu.fp8_tflops == 0 or gpu.fp8_tflops >= gpu.bf16_tflops
    assert gpu.idle_w < gpu.loaded_idle_w < gpu.tdp_w / 2
    assert gpu.sustained_mhz <= gpu.boost_mhz
    assert gpu.slowdown_c < gpu.shutdown_c
    assert 0 < gpu.attention_efficiency < gpu.gemm_efficiency < 0.9
    assert (gpu.nvlink_gbs == 0) <= (gpu.nvlink_domain == 1)
    assert gpu.nvls_busbw_gbs == 0 or gpu.nvls_busbw_gbs > gpu.ring_busbw_gbs
    if gpu.nvlink_domain > 2:
        assert gpu.ring_busbw_gbs <= gpu.nvlink_gbs


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_at_full_power_stays_below_its_slowdown_temperature(name):
    gpu = catalog.gpu(name)
    assert 45 < 22.5 + gpu.thermal_resistance_c_per_w * gpu.tdp_w < gpu.slowdown_c


# --- models


@pytest.mark.parametrize("name", EARNEST)
def test_parameter_counts_are_the_published_ones(name):
    model = catalog.model(name)
    assert model.published_params > 0
    assert parameter_counts(model).total == pytest.approx(model.published_params, rel=0.01)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt-2-124m", 124_439_808),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3-8b", 8_030_261_248),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen2.5-7b", 7_615_616_512),
        ("opt-350m", 331_196_416),
        ("tinyllama-1.1b", 1_100_048_384),
    ],
)
def test_parameter_counts_are_exact_where_the_checkpoint_is_known(name, parameters):
    assert parameter_counts(catalog.model(name)).total == parameters


@pytest.mark.parametrize("name", MODELS)
def test_the_models_vocabulary_holds_its_tokenizers(name):
    """Tables are padded to round sizes, never cut; the most known is 2.4 % (DeepSeek)."""
    model = catalog.model(name)
    vocab = catalog.tokenizer(model.tokenizer).vocab_size
    assert vocab <= model.vocab_size <= 1.025 * vocab


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_lawful_shape(name):
    model = catalog.model(name)
    assert model.family
    assert model.heads % model.kv_heads == 0
    assert model.head_dim in {32, 64, 80, 96, 112, 128, 144, 160, 192, 256}
    assert model.norms_per_layer in {0, 1, 2, 4}
    # GLM-4.5-Air has heads of 3 times its width; latent attention may have more, unprojected.
    assert model.mla or 0.5 <= model.heads * model.head_dim / model.hidden_size <= 3.5
    if model.moe is None:
        assert model.ffn_hidden_size >= model.hidden_size
    else:
        assert 0 < model.moe.experts_active < model.moe.experts
        assert 0 < model.moe.moe_layers(model.layers) <= model.layers


def said_in_name(model: Model) -> float:
    size = re.search(r"-(\d+(?:\.\d+)?)([MBT])(?:-A\d+B)?$", model.name)
    assert size, f"{model.name} does not say its size"
    return float(size[1]) * {"M": 1e6, "B": 1e9, "T": 1e12}[size[2]]


@pytest.mark.parametrize("name", SATIRICAL)
def test_a_satirical_model_has_the_parameters_its_name_says(name):
    model = catalog.model(name)
    assert parameter_counts(model).total == pytest.approx(said_in_name(model), rel=0.03)


def test_every_joke_is_told_in_a_short_line():
    notes = [model.note for model in catalog.models("satirical")]
    notes += [data.note for data in catalog.datasets("satirical")]
    assert all(0 < len(note) <= 80 for note in notes)
    assert len(set(notes)) == len(notes)


def test_gated_and_plain_feed_forwards_are_both_there():
    kinds = {model.mlp in GATED_MLPS for model in catalog.models("earnest")}
    assert kinds == {True, False}


# --- datasets


@pytest.mark.parametrize("name", catalog.names("dataset"))
def test_datasets_are_plausible(name):
    data = catalog.dataset(name)
    assert 1e8 < data.tokens < 1e14
    assert 0.4 < data.loss_scale < 1.2
    assert 5.0 <= data.noise_c <= 15.0
    assert 0.0 <= data.validation_gap <= 0.5


# --- clusters


@pytest.mark.parametrize(
    ("gpu", "gpus", "nodes", "per_node", "nic_gbps", "fabric"),
    [
        ("h100", 64, 8, 8, 400.0, "InfiniBand NDR"),
        ("gb200", 72, 18, 4, 400.0, "InfiniBand NDR"),
        ("gb300", 72, 18, 4, 800.0, "InfiniBand XDR"),
        ("a100", 12, 2, 8, 200.0, "InfiniBand HDR"),
        ("v100", 8, 1, 8, 50.0, "InfiniBand EDR"),
        ("v100-32gb-sxm3", 16, 1, 16, 50.0, "InfiniBand EDR"),
        ("t4", 4, 1, 4, 25.0, "Ethernet 25G"),
        ("mi250x", 16, 2, 8, 100.0, "Slingshot 11"),
    ],
)
def test_a_cluster_follows_the_machine(gpu, gpus, nodes, per_node, nic_gbps, fabric):
    cluster = catalog.cluster(gpu, gpus)
    assert (cluster.gpus, cluster.nodes, cluster.gpus_per_node) == (gpus, nodes, per_node)
    assert (cluster.nic_gbps, cluster.fabric.name) == (nic_gbps, fabric)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_a_cluster(name):
    assert catalog.cluster(catalog.gpu(name), 8).gpus == 8


def test_a_slower_fabric_slows_the_nics_and_a_faster_one_does_not_speed_them():
    assert catalog.cluster("h100", 16, fabric="ethernet").nic_gbps == 100.0
    assert catalog.cluster("h100", 16, fabric="xdr").nic_gbps == 400.0


def test_storage_grows_with_the_machine():
    sizes = [1, 8, 32, 128, 512, 2000, 4000]
    bandwidths = [storage_gbs(nodes) for nodes in sizes]
    assert bandwidths == sorted(bandwidths)
    assert bandwidths[0] <= 5
    assert bandwidths[2] == 20
    assert bandwidths[-1] >= 1000


def test_a_cluster_of_no_gpus_is_refused():
    with pytest.raises(SpecError, match="at least 1"):
        catalog.cluster("h100", 0)


@pytest.mark.parametrize("name", catalog.names("cluster"))
def test_named_clusters_are_whole_nodes_of_known_parts(name):
    gpu, cluster = catalog.named_cluster(name)
    assert cluster.gpus % cluster.gpus_per_node == 0
    assert cluster.nic_gbps <= gpu.nic_gbps
    assert cluster.source


def test_a_named_cluster_can_be_used_in_part_but_not_beyond():
    _, cluster = catalog.named_cluster("selene", 3072)
    assert (cluster.gpus, cluster.storage_gbs) == (3072, 270.0)
    with pytest.raises(SpecError, match="Selene has 4,480 GPUs, not 9,000"):
        catalog.named_cluster("selene", 9000)
