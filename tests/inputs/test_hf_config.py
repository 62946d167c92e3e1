"""Hugging Face config.json files: the published ones read right, the bad ones refused."""

import copy
import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain.core.errors import InputFileError
from ghosttrain.core.laws.architecture import parameter_counts, train_flops_per_token
from ghosttrain.core.spec import Model
from ghosttrain.inputs.hf_config import MAX_FILE_BYTES, is_hf_config, read_hf_config
from ghosttrain.inputs.hf_families import FAMILIES

CONFIGS = Path(__file__).parents[1] / "data" / "hf_configs"
FOLDERS = sorted(path.parent.name for path in CONFIGS.glob("*/config.json"))
DOCUMENTS = {
    folder: json.loads((CONFIGS / folder / "config.json").read_text()) for folder in FOLDERS
}
LLAMA = DOCUMENTS["meta-llama__Meta-Llama-3-8B"]
MIXTRAL = DOCUMENTS["mistralai__Mixtral-8x7B-v0.1"]
DEEPSEEK = DOCUMENTS["deepseek-ai__DeepSeek-V3"]
GEMMA3 = DOCUMENTS["google__gemma-3-4b-it"]


def published(folder: str) -> Model:
    return read_hf_config(CONFIGS / folder / "config.json")


@pytest.fixture
def read(tmp_path):
    """Reads a document, or text or bytes, as if it were a file."""

    def read_as_file(document, *, name="config.json"):
        path = tmp_path / name
        if isinstance(document, dict):
            document = json.dumps(document)
        path.write_bytes(document if isinstance(document, bytes) else document.encode())
        return read_hf_config(path)

    return read_as_file


@pytest.fixture
def refusal(read):
    """The message with which a document is refused: one line that names the file."""

    def message_of(document, **keywords):
        with pytest.raises(InputFileError) as caught:
            read(document, **keywords)
        message = str(caught.value)
        assert "\n" not in message
        assert "config.json" in message
        assert len(message) < 1000
        return message

    return message_of


def without(document, *keys):
    return {key: value for key, value in document.items() if key not in keys}


# What is read.


def test_llama_fields():
    model = published("meta-llama__Meta-Llama-3-8B")
    assert (model.layers, model.hidden_size, model.heads, model.kv_heads) == (32, 4096, 32, 8)
    assert (model.head_dim, model.ffn_hidden_size, model.vocab_size) == (128, 14336, 128256)
    assert (model.max_seq_len, model.mlp, model.norm) == (8192, "swiglu", "rmsnorm")
    assert (model.name, model.family) == ("Meta-Llama-3-8B", "Llama")


def test_deepseek_fields():
    model = published("deepseek-ai__DeepSeek-V3")
    assert model.mla is not None
    assert model.moe is not None
    assert (model.mla.q_lora_rank, model.mla.kv_lora_rank) == (1536, 512)
    assert (model.moe.experts, model.moe.experts_active) == (256, 8)
    assert (model.moe.shared_ffn_hidden_size, model.moe.first_dense_layers) == (2048, 3)
    assert (model.moe.router_bias, model.head_dim, model.ffn_hidden_size) == (True, 192, 18432)


def test_gpt_oss_fields():
    model = published("openai__gpt-oss-120b")
    assert model.moe is not None
    assert (model.moe.experts, model.moe.experts_active, model.moe.router_bias) == (128, 4, True)
    assert (model.qkv_bias, model.output_bias, model.mlp_bias) == (True, True, True)
    assert model.attention_sinks
    assert model.sliding_window == 128


def test_llama4_dense_layers_have_their_own_width():
    model = published("meta-llama__Llama-4-Maverick-17B-128E")
    assert model.moe is not None
    assert (model.ffn_hidden_size, model.moe.ffn_hidden_size) == (16384, 8192)
    assert model.moe.moe_layers(model.layers) == 24


def test_nested_text_config_gets_the_class_defaults_of_missing_keys():
    model = published("google__gemma-3-4b-it")
    assert (model.heads, model.kv_heads, model.head_dim) == (8, 4, 256)
    assert (model.vocab_size, model.max_seq_len) == (262_208, 131_072)
    assert (model.tied_embeddings, model.norms_per_layer, model.qk_norm) == (True, 4, "head")


def test_falcon_by_its_old_and_its_new_names():
    old, new = published("tiiuae__falcon-7b"), published("tiiuae__falcon-40b")
    assert (old.kv_heads, old.norms_per_layer, old.head_dim) == (1, 1, 64)
    assert (new.kv_heads, new.norms_per_layer, new.head_dim) == (8, 2, 64)


def test_old_falcon_40b_names(read):
    document = without(DOCUMENTS["tiiuae__falcon-40b"], "num_kv_heads", "new_decoder_architecture")
    model = read(document | {"model_type": "RefinedWeb", "n_head_kv": 8})
    assert parameter_counts(model).total == 41_303_293_952


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_published_file_reads_with_the_name_of_its_folder(folder):
    model = published(folder)
    assert model.name == folder.split("__")[1]
    assert train_flops_per_token(model, 2048) > 0


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_published_file_is_recognized(folder):
    assert is_hf_config(CONFIGS / folder / "config.json")


def test_every_supported_family_shape_has_a_published_file():
    shapes = {
        FAMILIES[document.get("text_config", document)["model_type"]].shape
        for document in DOCUMENTS.values()
    }
    assert shapes == {family.shape for family in FAMILIES.values()}


@pytest.mark.parametrize(
    ("model_type", "tied"), [("llama", False), ("gemma", True), ("starcoder2", True)]
)
def test_missing_tie_word_embeddings_follows_the_class_default(read, model_type, tied):
    document = without(LLAMA, "tie_word_embeddings") | {"model_type": model_type}
    assert read(document).tied_embeddings is tied


def test_outer_tie_word_embeddings_counts_where_the_text_config_is_silent(read):
    assert read(GEMMA3 | {"tie_word_embeddings": False}).tied_embeddings is False


def test_integral_floats_are_whole_numbers(read):
    assert read(LLAMA | {"num_hidden_layers": 32.0}).layers == 32


def test_a_byte_order_mark_is_skipped(read):
    assert read(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode()).layers == 32


def test_an_unused_sliding_window_is_none():
    assert published("Qwen__Qwen2.5-7B-Instruct").sliding_window == 0


def test_latent_attention_needs_no_even_share_of_the_hidden_size(read):
    assert read(DEEPSEEK | {"num_attention_heads": 100}).heads == 100


# The name.


@pytest.mark.parametrize(
    ("published_name", "folder", "file", "expected"),
    [
        ("meta-llama/Llama-2-7b-hf", "work", "config.json", "Llama-2-7b-hf"),
        ("gpt2", "work", "config.json", "gpt2"),
        ("/fsx/runs/17/hf", "my-model", "config.json", "my-model"),
        ("./", "my-model", "config.json", "my-model"),
        ("output/checkpoint-500", "my-model", "config.json", "my-model"),
        ("meta-llama/Llama-2-7b-hf", "TinyLlama-1.1B", "config.json", "TinyLlama-1.1B"),
        (None, "google__gemma-x", "config.json", "gemma-x"),
        (None, "checkpoint-500", "config.json", "Llama"),
        (None, "models", "phi-2.json", "phi-2"),
        (17, "my-model", "config.json", "my-model"),
        ("a\nb/c", "my-model", "config.json", "my-model"),
    ],
)
def test_name(tmp_path, published_name, folder, file, expected):
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / file
    path.write_text(json.dumps(LLAMA | {"_name_or_path": published_name}))
    assert read_hf_config(path).name == expected


def test_name_in_the_hub_cache(tmp_path):
    folder = tmp_path / "models--meta-llama--Meta-Llama-3-8B" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert read_hf_config(folder / "config.json").name == "Meta-Llama-3-8B"


# Files that are no config.json.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\x80\x02\x00binary", "is not a text file: byte 0x80 at 0"),
        (b'{"model_type": "llama", ', "is not JSON"),
        (b"model_type: llama", "is not JSON: Expecting value at line 1, column 1"),
        (b"[1, 2]", "holds a list, a config.json is a JSON object"),
        (b'"llama"', "holds a string"),
        (b"null", "holds null"),
        (b"true", "holds a boolean"),
        (b"3", "holds a number"),
        (b'{"rope_theta": NaN}', "NaN is not a number JSON has"),
        (b'{"rope_theta": -Infinity}', "-Infinity is not a number JSON has"),
        (b'{"rope_theta": 1e999}', "1e999 is too large a number"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 200_000, "nests deeper than 32 levels"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nests deeper than 32 levels"),
        (b"{}" + b" " * MAX_FILE_BYTES, "is larger than 4 MiB"),
        (b"{}", "has no model_type"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_file_of_another_kind_is_refused(refusal, content, said):
    assert said in refusal(content)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"config\.json cannot be read: No such file"):
        read_hf_config(tmp_path / "config.json")


def test_a_directory_is_refused_with_a_hint(tmp_path):
    with pytest.raises(InputFileError, match=r"is a directory, give the config\.json in it"):
        read_hf_config(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputFileError, match="is not a regular file"):
        read_hf_config(tmp_path / "config.json")


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
    """Forbidden by hand: root reads everything."""
    path = tmp_path / "config.json"
    path.touch()

    def forbid(self, *_args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(InputFileError, match="cannot be read: Permission denied"):
        read_hf_config(path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "no\nsuch\x1b[2Jfile"])
def test_a_strange_path_stays_on_one_printable_line(path):
    with pytest.raises(InputFileError) as caught:
        read_hf_config(path)
    assert str(caught.value).isprintable()
    assert not is_hf_config(path)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"model_type": 3}', '{"a": NaN}'])
def test_other_files_are_not_recognized(tmp_path, content):
    (tmp_path / "file").write_text(content)
    assert not is_hf_config(tmp_path / "file")


# Models that cannot be read.


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("bert", '"bert": an encoder-only model, possible are decoder-only'),
        ("t5", "an encoder-decoder model"),
        ("vit", "a vision model"),
        ("whisper", "a speech model"),
        ("mamba", "not attention in every layer"),
        ("lama", "did you mean llama? known are baichuan, "),
        ("Qwen3", "did you mean qwen3?"),
        ("zzz", "known are baichuan, bloom"),
        ("x" * 9999, "..."),
    ],
    ids=lambda value: value[:12],
)
def test_other_model_types_are_refused_with_the_reason(refusal, model_type, said):
    assert said in refusal(LLAMA | {"model_type": model_type})


def test_an_encoder_decoder_by_its_flag_is_refused(refusal):
    assert "is_encoder_decoder" in refusal(LLAMA | {"is_encoder_decoder": True})


@pytest.mark.parametrize(
    "value",
    ["32", True, 32.5, 0, -1, 10**12, 10**400, 1e300, [32], {"n": 32}, ""],
    ids=lambda value: repr(value)[:12],
)
def test_a_size_that_makes_no_sense_is_refused(refusal, value):
    message = refusal(LLAMA | {"num_hidden_layers": value})
    assert "has num_hidden_layers = " in message
    assert "possible is a whole number from 1 to 10,000" in message


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
@pytest.mark.parametrize("value", ["1", -4, 0, 10**15])
def test_every_size_is_checked(refusal, key, value):
    assert f"has {key} = " in refusal(LLAMA | {key: value})


def test_missing_keys_are_all_named(refusal):
    message = refusal(without(LLAMA, "hidden_size", "vocab_size", "intermediate_size"))
    assert "lacks hidden_size (or n_embd, n_embed, d_model) and vocab_size" in message
    assert "intermediate_size (or ffn_dim" in message


def test_null_is_missing(refusal):
    assert "lacks vocab_size" in refusal(LLAMA | {"vocab_size": None})


def test_nested_keys_are_named_with_their_place(refusal):
    document = GEMMA3 | {"text_config": GEMMA3["text_config"] | {"num_hidden_layers": "34"}}
    assert 'has text_config.num_hidden_layers = "34"' in refusal(document)
    document = GEMMA3 | {"text_config": without(GEMMA3["text_config"], "hidden_size")}
    assert "lacks text_config.hidden_size" in refusal(document)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (LLAMA | {"num_attention_heads": 33}, "which does not divide hidden_size = 4096"),
        (LLAMA | {"num_key_value_heads": 5}, "which does not divide num_attention_heads = 32"),
        (LLAMA | {"num_key_value_heads": 64}, "does not divide num_attention_heads"),
        (LLAMA | {"hidden_act": "quick"}, 'hidden_act = "quick", possible are silu'),
        (LLAMA | {"hidden_act": 3}, "hidden_act = 3, possible is a string"),
        (LLAMA | {"tie_word_embeddings": "no"}, 'tie_word_embeddings = "no", possible is true'),
        (LLAMA | {"attention_bias": 1}, "attention_bias = 1, possible is true or false"),
        (LLAMA | {"model_type": ["llama"]}, "model_type = a list, possible is a string"),
        (GEMMA3 | {"text_config": [1]}, "text_config = a list, possible is an object"),
        (
            MIXTRAL | {"num_experts_per_tok": 9},
            "num_experts_per_tok = 9, possible is up to num_local_experts",
        ),
        (DOCUMENTS["openai-community__gpt2"] | {"n_head": 7}, "n_head = 7, which does not divide"),
        (MIXTRAL | {"num_local_experts": 0}, "has num_local_experts = 0"),
        (MIXTRAL | {"mlp_only_layers": [3]}, "has mlp_only_layers of another kind"),
        (MIXTRAL | {"mlp_only_layers": "x"}, "has mlp_only_layers of another kind"),
        (without(DEEPSEEK, "kv_lora_rank"), "lacks kv_lora_rank"),
        (without(DEEPSEEK, "num_experts_per_tok"), "lacks num_experts_per_tok"),
        (DEEPSEEK | {"first_k_dense_replace": 61}, "no layer is left for the experts"),
        (DEEPSEEK | {"moe_layer_freq": 2}, "has moe_layer_freq other than 1"),
        (DOCUMENTS["mosaicml__mpt-7b"] | {"attn_config": 3}, "attn_config = 3, possible is an"),
    ],
)
def test_a_model_that_cannot_be_is_refused(refusal, document, said):
    assert said in refusal(document)


# Anything else: a Model, or InputFileError.

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
KEYS = sorted({key for document in DOCUMENTS.values() for key in document})


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = ""
    try:
        model = read_hf_config(path)
    except InputFileError as error:
        message = str(error)
    else:
        assert parameter_counts(model).total > 0
        assert train_flops_per_token(model, 4096) > 0
    assert message.isprintable()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("hf") / "config.json"


@given(document=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), JSON_VALUES))
def test_random_objects_are_read_or_refused(scratch, document):
    read_or_refuse(scratch, json.dumps(document).encode())


@given(data=st.data())
def test_mutated_published_files_are_read_or_refused(scratch, data):
    document = copy.deepcopy(DOCUMENTS[data.draw(st.sampled_from(FOLDERS))])
    target = document
    for nest in ("text_config", "attn_config"):
        if isinstance(document.get(nest), dict) and data.draw(st.booleans()):
            target = document[nest]
    for key in data.draw(st.lists(st.sampled_from(sorted(target)), max_size=3, unique=True)):
        if data.draw(st.booleans()):
            del target[key]
        else:
            target[key] = data.draw(JSON_VALUES | st.sampled_from([0, 1, 2, 3, 64, 4096]))
    if data.draw(st.booleans()):
        document["model_type"] = data.draw(st.sampled_from(sorted(FAMILIES)))
    read_or_refuse(scratch, json.dumps(document).encode())


@given(
    folder=st.sampled_from(FOLDERS),
    cut=st.integers(0, 2000),
    junk=st.binary(max_size=20),
)
def test_damaged_published_files_are_read_or_refused(scratch, folder, cut, junk):
    content = (CONFIGS / folder / "config.json").read_bytes()
    read_or_refuse(scratch, content[:cut] + junk + content[cut + len(junk) :])
    read_or_refuse(scratch, content[:cut] + junk)
