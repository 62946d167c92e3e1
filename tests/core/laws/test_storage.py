"""Checkpoints and exports against published sizes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.core.laws.architecture import parameter_counts
from ghosttrain.core.laws.storage import (
    CHECKPOINT_BYTES_PER_PARAM,
    MAX_SHARD_BYTES,
    read_time_s,
    shard_bytes,
    shard_name,
    write_time_s,
)
from ghosttrain.core.units import GB, GIB


def shards(model):
    return shard_bytes(model, parameter_counts(model).total)


def test_k1_a_full_checkpoint_of_bloom():
    """2,294.8 GiB for 176e9 parameters (bigscience tr11 README); 2 %."""
    size = CHECKPOINT_BYTES_PER_PARAM * parameter_counts(catalog.model("bloom-176b")).total
    assert size / GIB == pytest.approx(2294.8, rel=0.02)


def test_k3_the_files_of_llama_3_8b():
    """Four files of 4.98, 5.00, 4.92 and 1.17 GB, 16.06 GB in all (its repository)."""
    sizes = shards(catalog.model("llama-3-8b"))
    assert sum(sizes) / GB == pytest.approx(16.06, rel=0.002)
    assert [size / GB for size in sizes] == pytest.approx([4.98, 5.00, 4.92, 1.17], abs=0.01)


@pytest.mark.parametrize(
    ("model", "files", "within"),
    # Repositories on the Hub: 30 files for 70B, 191 for 405B, 19 for Mixtral.
    [("llama-3-70b", 30, 1), ("llama-3.1-405b", 191, 20), ("mixtral-8x7b", 19, 1)],
)
def test_numbers_of_files(model, files, within):
    assert len(shards(catalog.model(model))) == pytest.approx(files, abs=within)


@given(st.sampled_from(catalog.names("model", "mixed")))
def test_files_add_up_to_two_bytes_a_parameter(name):
    model = catalog.model(name)
    sizes = shards(model)
    assert sum(sizes) == 2 * parameter_counts(model).total
    assert min(sizes) > 0
    largest_tensor = 2 * max(model.vocab_size, model.ffn_hidden_size) * model.hidden_size
    assert max(sizes) <= max(MAX_SHARD_BYTES, 1.01 * largest_tensor) + len(sizes)


def test_names_of_files():
    assert shard_name(1, 1) == "model.safetensors"
    assert shard_name(3, 30) == "model-00003-of-00030.safetensors"


def test_writing_is_bound_by_the_nodes_then_by_the_file_system():
    cluster = replace(catalog.cluster("h100-sxm", 64), storage_gbs=10.0, node_storage_gbs=1.0)
    assert write_time_s(80e9, cluster) == pytest.approx(80 / 8 + 3)
    larger = replace(cluster, gpus=640)
    assert write_time_s(80e9, larger) == pytest.approx(80 / 10 + 3)
    assert read_time_s(80e9, larger) == pytest.approx(80 / 7 + 3)


def test_bloom_wrote_its_checkpoint_in_40_s():
    """2.3 TB in 40 s (bigscience tr11 chronicles): 57.5 GB/s from 48 nodes."""
    cluster = replace(catalog.cluster("a100-80gb-sxm", 384), storage_gbs=60.0)
    size = CHECKPOINT_BYTES_PER_PARAM * parameter_counts(catalog.model("bloom-176b")).total
    wide = replace(cluster, node_storage_gbs=2.5)
    assert write_time_s(size, wide) == pytest.approx(40, rel=0.2)
