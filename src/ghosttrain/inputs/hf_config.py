"""Reads a Hugging Face `config.json` as published into a Model.

What cannot be read is refused with one line that names the file, the key, what was found and
what is possible; nothing but InputFileError leaves this module. The facts per model type are
rows of `hf_families.py`; here is one adapter per shape of file.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final, Never

from ghosttrain.core.errors import InputFileError
from ghosttrain.core.spec import Mla, Model, Moe
from ghosttrain.inputs.hf_families import (
    ACTIVATIONS,
    EVERYWHERE,
    FAMILIES,
    MAY_BE_ZERO,
    REFUSED,
    SIZES,
    TEXT_TYPES,
    HfFamily,
)

MAX_FILE_BYTES: Final = 4 * 2**20
MAX_NESTING: Final = 32
OPT_POSITION_OFFSET: Final = 2  # OPT's position table starts with the two rows of its padding.

_REQUIRED: Final = ("layers", "hidden_size", "heads", "vocab_size", "max_seq_len")
_TEXT_KEYS: Final = ("text_config", "llm_config", "language_config")
_UNINFORMATIVE: Final = frozenset(
    {"config", "model", "models", "output", "outputs", "out", "results", "checkpoint", "ckpt"}
    | {"checkpoints", "hf", "home", "root", "tmp", "data", "mnt", "workspace", "snapshots"}
)


def read_hf_config(path: str | PathLike[str]) -> Model:
    """The model a Hugging Face `config.json` describes; of a multimodal one its language part.

    Raises:
        InputFileError: If the file cannot be read, is no such file, or describes a model that
            is not a decoder-only transformer or cannot be.
    """
    config = _language_part(_Config(Path(path), _load_object(Path(path))))
    family = _family(config)
    model = _ADAPTERS[family.shape](config, family, _common(config, family))
    return _checked(config, model)


def is_hf_config(path: str | PathLike[str]) -> bool:
    """Whether the file is a JSON object with a `model_type`, whatever its worth. Never raises."""
    try:
        return isinstance(_load_object(Path(path)).get("model_type"), str)
    except InputFileError:
        return False


# The file: bytes, text, JSON, an object.


def _load_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file."""
    text = _decoded(path, _file_bytes(path))
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
    except json.JSONDecodeError as error:
        _refuse(path, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _refuse(path, f"nests deeper than {MAX_NESTING} levels")
    except ValueError as error:  # ours, or CPython's limit on the digits of an int
        _refuse(path, f"is not JSON: {_one_line(str(error))}")
    if _nests_deeper(document, MAX_NESTING):
        _refuse(path, f"nests deeper than {MAX_NESTING} levels")
    if not isinstance(document, dict):
        _refuse(path, f"holds {_kind(document)}, a config.json is a JSON object")
    return document


def _file_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            _refuse(path, "is a directory, give the config.json in it")
        if not stat.S_ISREG(mode):
            _refuse(path, "is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or type(error).__name__}")
    except ValueError as error:  # a NUL in the path
        _refuse(path, f"cannot be read: {_one_line(str(error))}")
    if len(data) > MAX_FILE_BYTES:
        _refuse(path, f"is larger than {MAX_FILE_BYTES // 2**20} MiB, a config.json has a few KiB")
    return data


def _decoded(path: Path, data: bytes) -> str:
    if not data.strip():
        _refuse(path, "is empty")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(path, f"is not a text file: byte 0x{data[error.start]:02x} at {error.start}")


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a number JSON has")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _nests_deeper(document: object, limit: int) -> bool:
    level = [document]
    for _ in range(limit + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


# Messages.


def _refuse(path: Path, what: str) -> Never:
    name = str(path)
    raise InputFileError(f"{name if name.isprintable() and name else repr(name)} {what}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:120]


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: object) -> str:
    """A value as the file has it, cut to what a line can hold."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


@dataclass(frozen=True, slots=True)
class _Config:
    """The keys of the language model, and where they are in the file.

    `prefix` names the nested object they come from; `outer` holds the keys around it.
    """

    path: Path
    values: Mapping[str, Any]
    prefix: str = ""
    outer: Mapping[str, Any] | None = None

    def refuse(self, key: str, what: str) -> Never:
        _refuse(self.path, f"has {self.prefix}{key} {what}")

    def object(self, key: str) -> _Config:
        """The nested object under `key`, empty where it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, f"= {_shown(value)}, possible is an object")
        return replace(self, values=value or {}, prefix=f"{self.prefix}{key}.", outer=None)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, f"= {_shown(value)}, possible is true or false")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(key, f"= {_shown(value)}, possible is a string")
        return value

    def size(self, size: str, family: HfFamily | None = None) -> int | None:
        """A size by our name for it; the class default where no key is there, None for null."""
        keys, most = SIZES[size]
        least = 0 if size in MAY_BE_ZERO else 1
        present = [key for key in keys if key in self.values]
        if not present:
            return family.defaults.get(size) if family else None
        key = self.key(size)
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(
                key, f"= {_shown(value)}, possible is a whole number from {least} to {most:,}"
            )
        return value

    def key(self, size: str) -> str:
        """What the file calls a size."""
        keys = SIZES[size][0]
        return next((key for key in keys if self.values.get(key) is not None), keys[0])

    def required(self, size: str, family: HfFamily) -> int:
        """A size that must be there."""
        value = self.size(size, family)
        if value is None:
            self.refuse_missing([size])
        return value

    def refuse_missing(self, sizes: list[str]) -> Never:
        names = [
            f"{self.prefix}{keys[0]}" + (f" (or {', '.join(keys[1:])})" if keys[1:] else "")
            for keys in (SIZES[size][0] for size in sizes)
        ]
        _refuse(self.path, f"lacks {' and '.join(names)}")


# What kind of file it is.


def _language_part(config: _Config) -> _Config:
    """The nested language model of a multimodal file, else the file itself."""
    key = next((key for key in _TEXT_KEYS if config.values.get(key) is not None), None)
    if key is None:
        return config
    nested = config.object(key)
    outer_type = config.text("model_type")
    values = {"model_type": TEXT_TYPES.get(outer_type, outer_type), **nested.values}
    return replace(nested, values=values, outer=config.values)


def _family(config: _Config) -> HfFamily:
    model_type = config.text("model_type")
    if not model_type:
        _refuse(config.path, "has no model_type: it is no config.json of a Hugging Face model")
    if model_type in REFUSED:
        config.refuse(
            "model_type",
            f"= {_shown(model_type)}: {REFUSED[model_type]}, "
            "possible are decoder-only transformers, such as llama",
        )
    if model_type not in FAMILIES:
        near = difflib.get_close_matches(model_type.casefold()[:40], FAMILIES, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        known = ", ".join(sorted(FAMILIES, key=str.casefold))
        config.refuse("model_type", f"= {_shown(model_type)}: {hint}known are {known}")
    if config.flag("is_encoder_decoder", False):
        config.refuse("is_encoder_decoder", "= true, possible are decoder-only transformers")
    return FAMILIES[model_type]


# The model's name.


def _name(config: _Config, family: HfFamily) -> str:
    """The published name, else that of the folder or file it is in."""
    path = config.path.absolute()
    folder = _folder_name(path.parent)
    published = (config.outer or config.values).get("_name_or_path")
    candidates = [
        # Named like a model ("TinyLlama-1.1B"), the folder is right: `_name_or_path` may be that
        # of the model the training started from, as TinyLlama's is Llama 2.
        folder if re.search(r"\d[bm](?![a-z])", folder, re.IGNORECASE) else "",
        _published_name(published) if isinstance(published, str) else "",
        # A file with a name of its own ("phi-2.json") says more than the folder it is in.
        "" if path.stem == "config" else path.stem,
        folder,
        path.stem,
    ]
    return next((name for name in candidates if _informative(name)), family.family)


def _published_name(name: str) -> str:
    """The model in "publisher/model" or a bare "gpt2"; nothing for a path on someone's disk."""
    match = re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/)?([A-Za-z0-9][\w.-]*)", name, re.ASCII)
    if match is None or name.split("/")[0].casefold() in _UNINFORMATIVE:
        return ""
    return match[1]


def _folder_name(folder: Path) -> str:
    """A folder's name, without the publisher; in the hub's cache that of the repository."""
    if folder.parent.name == "snapshots":
        folder = folder.parent.parent
    return re.split(r"__|--", folder.name)[-1]


def _informative(name: str) -> bool:
    return (
        name.isprintable()
        and 0 < len(name) <= 80
        and any(letter.isalpha() for letter in name)
        and name.casefold() not in _UNINFORMATIVE
        and not name.casefold().startswith(("checkpoint-", "step", "global_step"))
    )


# What all files say in the same way.


def _common(config: _Config, family: HfFamily) -> Model:
    """The model as far as the common keys and the family's row say it."""
    missing = [size for size in _REQUIRED if config.size(size, family) is None]
    if not family.ffn_factor and config.size("ffn_hidden_size", family) is None:
        missing.append("ffn_hidden_size")
    if missing:
        config.refuse_missing(missing)
    hidden_size = config.required("hidden_size", family)
    heads = config.required("heads", family)
    max_seq_len = config.required("max_seq_len", family)
    ffn_hidden_size = config.size("ffn_hidden_size", family) or family.ffn_factor * hidden_size
    traits = {name: value for name, value in family.traits.items() if name not in _MOE_TRAITS}
    if "learned_positions" in traits:
        traits["learned_positions"] = max_seq_len
    model = Model(
        name=_name(config, family),
        layers=config.required("layers", family),
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=config.size("kv_heads", family) or heads,
        head_dim=_head_dim(config, family),
        ffn_hidden_size=ffn_hidden_size,
        vocab_size=config.required("vocab_size", family),
        max_seq_len=max_seq_len,
        family=family.family,
        tied_embeddings=_tied(config, family),
        sliding_window=_sliding_window(config, family),
        source=f"Hugging Face config.json, model_type {config.text('model_type')}",
    )
    return replace(model, **(traits | _switched(config, family) | _mlp(config, family)))


def _head_dim(config: _Config, family: HfFamily) -> int:
    """The head dimension, by its key or as an even share of the hidden size."""
    head_dim = config.size("head_dim", family)
    if head_dim is not None or family.shape == "mla":  # latent attention has its own keys
        return head_dim or 0
    hidden_size, heads = config.required("hidden_size", family), config.required("heads", family)
    if hidden_size % heads:
        config.refuse(
            config.key("heads"),
            f"= {heads}, which does not divide {config.key('hidden_size')} = {hidden_size}, "
            "and no head_dim",
        )
    return hidden_size // heads


def _tied(config: _Config, family: HfFamily) -> bool:
    key = "tie_word_embeddings"
    outer = replace(config, values=config.outer or {}, prefix="", outer=None)
    return config.flag(key, outer.flag(key, family.tied))


def _sliding_window(config: _Config, family: HfFamily) -> int:
    window = config.size("sliding_window", family) or 0
    # Qwen2 and Qwen3 name a window and leave it off.
    in_use = config.flag("use_sliding_window", not family.family.startswith("Qwen"))
    return window if in_use else 0


def _switched(config: _Config, family: HfFamily) -> dict[str, Any]:
    return {
        name: config.flag(key, default=bool(family.traits.get(name, False)))
        for key, names in family.switches.items()
        for name in names
    }


def _mlp(config: _Config, family: HfFamily) -> dict[str, Any]:
    keys = ("hidden_activation", "hidden_act", "activation_function")
    key = next((key for key in keys if config.text(key)), keys[1])
    activation = config.text(key) or family.activation
    if activation not in ACTIVATIONS:
        config.refuse(key, f"= {_shown(activation)}, possible are {', '.join(ACTIVATIONS)}")
    return {"mlp": ACTIVATIONS[activation][0 if family.gated else 1]}


# What each shape says in its own way: one adapter each.


def _as_is(config: _Config, family: HfFamily, model: Model) -> Model:
    if config.flag("use_parallel_residual", False) and family.family == "StableLM":
        model = replace(model, norms_per_layer=1)
    if config.flag("qk_layernorm", False):
        model = replace(model, qk_norm="full" if family.family == "StableLM" else "head")
    return model


def _with_moe(config: _Config, family: HfFamily, model: Model) -> Model:
    """Routed experts; Qwen, DeepSeek, Mixtral and GPT-OSS differ in the keys only."""
    width = config.size("expert_width", family) or model.ffn_hidden_size
    shared_width = config.size("shared_width", family) or 0
    shared_experts = config.size("shared_experts", family) or 0
    moe = Moe(
        experts=config.required("experts", family),
        experts_active=config.required("experts_active", family),
        ffn_hidden_size=width,
        shared_ffn_hidden_size=shared_width or shared_experts * width,
        first_dense_layers=_first_dense_layers(config, family),
        every=config.size("every", family) or 1,
        **{name: family.traits[name] for name in _MOE_TRAITS & family.traits.keys()},
    )
    return replace(model, moe=moe)


def _first_dense_layers(config: _Config, family: HfFamily) -> int:
    """The dense layers in front, by number or as a list of the layers without experts."""
    dense = config.values.get("mlp_only_layers") or []
    if dense != list(range(len(dense) if isinstance(dense, list) else 0)):
        config.refuse("mlp_only_layers", "of another kind than [0, 1, ...]: the first layers")
    return len(dense) or config.size("first_dense_layers", family) or 0


def _with_mla(config: _Config, family: HfFamily, model: Model) -> Model:
    """DeepSeek: latent attention, and routed experts unless the file names none."""
    mla = Mla(
        q_lora_rank=config.size("q_lora_rank", family) or 0,
        kv_lora_rank=config.required("kv_lora_rank", family),
        qk_nope_head_dim=config.required("qk_nope_head_dim", family),
        qk_rope_head_dim=config.required("qk_rope_head_dim", family),
        v_head_dim=config.required("v_head_dim", family),
    )
    # In Hugging Face files num_key_value_heads repeats the heads: latent attention has none.
    head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    model = replace(model, mla=mla, head_dim=head_dim, kv_heads=model.heads)
    if config.size("experts", family) is None:
        return model
    if config.size("every", family) not in (None, 1):
        config.refuse("moe_layer_freq", "other than 1: no such model is published")
    return _with_moe(config, family, model)


def _llama4(config: _Config, family: HfFamily, model: Model) -> Model:
    """Llama 4: `intermediate_size` is one expert's, the dense layers have their own."""
    width = model.ffn_hidden_size
    moe = Moe(
        experts=config.required("experts", family),
        experts_active=config.required("experts_active", family),
        ffn_hidden_size=width,
        shared_ffn_hidden_size=width,
        every=config.size("every", family) or 1,
    )
    dense_width = config.size("dense_width", family) or width
    return replace(model, moe=moe, ffn_hidden_size=dense_width)


def _falcon(config: _Config, family: HfFamily, model: Model) -> Model:
    """Falcon: one key-value head or grouped ones, one norm a layer or two, by its switches."""
    grouped = config.flag("new_decoder_architecture", config.text("model_type") == "RefinedWeb")
    if grouped:
        norms = 1 if config.values.get("num_ln_in_parallel_attn") == 1 else 2
        return replace(model, norms_per_layer=norms)
    kv_heads = 1 if config.flag("multi_query", True) else model.heads
    norms = 1 if config.flag("parallel_attn", True) else 2
    return replace(model, kv_heads=kv_heads, norms_per_layer=norms)


def _multi_query(config: _Config, family: HfFamily, model: Model) -> Model:
    return replace(model, kv_heads=1 if config.flag("multi_query", True) else model.heads)


def _mpt(config: _Config, family: HfFamily, model: Model) -> Model:
    """MPT: attention has an object of its own, and the biases are switched off together."""
    attention = config.object("attn_config")
    kv_heads = attention.size("kv_heads") or model.heads
    if attention.text("attn_type") == "multiquery_attention":
        kv_heads = 1
    alibi = attention.flag("alibi", default=True)
    learned = config.flag("learned_pos_emb", default=True) and not alibi
    model = replace(
        model,
        kv_heads=kv_heads,
        ffn_hidden_size=(config.size("expansion_ratio") or 4) * model.hidden_size,
        learned_positions=model.max_seq_len if learned else 0,
        qk_norm="full" if attention.flag("qk_ln", default=False) else "none",
    )
    if config.flag("no_bias", default=True):
        return model  # without a shift a LayerNorm counts, and costs, as an RMSNorm
    biases: dict[str, Any] = dict.fromkeys(EVERYWHERE, True)
    return replace(model, norm="layernorm", **biases)


def _opt(config: _Config, family: HfFamily, model: Model) -> Model:
    """OPT: positions with an offset; 350M norms behind each block and embeds in half width."""
    width = config.size("embedding_size") or model.hidden_size
    final_norm = config.flag("do_layer_norm_before", default=True)
    return replace(
        model,
        embedding_size=0 if width == model.hidden_size else width,
        learned_positions=model.max_seq_len + OPT_POSITION_OFFSET,
        final_norm=final_norm and not config.flag("_remove_final_layer_norm", default=False),
    )


def _cohere(config: _Config, family: HfFamily, model: Model) -> Model:
    return replace(model, qk_norm="full" if config.flag("use_qk_norm", False) else "none")


_MOE_TRAITS: Final = frozenset({"router_bias", "shared_gate"})
_ADAPTERS: Final[Mapping[str, Callable[[_Config, HfFamily, Model], Model]]] = {
    "plain": _as_is,
    "moe": _with_moe,
    "mla": _with_mla,
    "llama4": _llama4,
    "falcon": _falcon,
    "multi_query": _multi_query,
    "mpt": _mpt,
    "opt": _opt,
    "cohere": _cohere,
}


# What must hold of every model.


def _checked(config: _Config, model: Model) -> Model:
    if model.heads % model.kv_heads:
        config.refuse(
            config.key("kv_heads"),
            f"= {model.kv_heads}, which does not divide {config.key('heads')} = {model.heads}",
        )
    if model.moe is not None:
        _check_moe(config, model, model.moe)
    return model


def _check_moe(config: _Config, model: Model, moe: Moe) -> None:
    if moe.experts_active > moe.experts:
        config.refuse(
            config.key("experts_active"),
            f"= {moe.experts_active}, possible is up to {config.key('experts')} = {moe.experts}",
        )
    if moe.moe_layers(model.layers) < 1:
        config.refuse(
            config.key("layers"), f"= {model.layers}, all dense: no layer is left for the experts"
        )
