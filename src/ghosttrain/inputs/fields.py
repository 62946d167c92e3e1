"""Fields by dotted name: what a spec file, `--set` and the flags all speak of.

A request is a flat mapping such as {"model": "llama-3-8b", "recipe.seq_len": 4096}. The names
are those of the records in `core.spec`; values are checked against the type of the field.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ghosttrain.core.errors import SpecError
from ghosttrain.core.spec import (
    Cluster,
    Dataset,
    Fabric,
    Gpu,
    Mla,
    Model,
    Moe,
    ParallelRequest,
    Recipe,
    RunSpec,
    Tokenizer,
)

Asked = dict[str, Any]

PARTS: dict[str, type] = {
    "model": Model,
    "model.mla": Mla,
    "model.moe": Moe,
    "gpu": Gpu,
    "cluster": Cluster,
    "cluster.fabric": Fabric,
    "dataset": Dataset,
    "tokenizer": Tokenizer,
    "recipe": Recipe,
    "parallel": ParallelRequest,
}
NAMED = ("model", "gpu", "dataset", "tokenizer", "cluster.fabric")  # may be a catalogue name
EXTRA: dict[str, Any] = {
    "recipe.steps": int,
    "recipe.tokens": float,
    "faults": str,
    "watchdog_timeout_s": float,
    "start": str,
    "time_limit_s": float,
    "output_dir": str,
}


@cache
def field_types() -> Mapping[str, Any]:
    """Every name that can be asked, with its type."""
    known: dict[str, Any] = dict.fromkeys(NAMED, str) | EXTRA
    for part, record in PARTS.items():
        hints = get_type_hints(record)
        for field in dataclasses.fields(record):
            name = f"{part}.{field.name}"
            if name not in PARTS:
                known[name] = hints[field.name]
    return known


def checked(name: str, value: Any, where: str) -> Any:
    """The value of field `name`, converted to its type.

    Raises:
        SpecError: If there is no such field (with the nearest one) or the type is wrong.
    """
    types_by_name = field_types()
    if name not in types_by_name:
        near = difflib.get_close_matches(name, types_by_name, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "see docs/spec-file.md"
        raise SpecError(f"{where}: unknown key {name!r}: {hint}")
    kind = types_by_name[name]
    converted = _convert(kind, value)
    if converted is _WRONG:
        raise SpecError(f"{where}: {name} is {value!r}; it must be {_in_words(kind)}")
    return converted


def parse_text(name: str, text: str, where: str) -> Any:
    """The value of field `name` written as text, as `--set` gives it."""
    return checked(name, text, where)


_WRONG = object()


def _convert(kind: Any, value: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if value is None or value == "auto":
            return None
        return _convert(next(k for k in get_args(kind) if k is not type(None)), value)
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _WRONG
    if kind is bool:
        return {"true": True, "false": False, True: True, False: False}.get(value, _WRONG)
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(str(value).replace("_", "").replace(",", ""))
        except ValueError:
            return _WRONG
        if not math.isfinite(number) or (kind is int and number != int(number)):
            return _WRONG
        return int(value) if kind is int and isinstance(value, int) else kind(number)
    if kind is str:
        return value if isinstance(value, str) else _WRONG
    return _WRONG


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return _in_words(next(k for k in get_args(kind) if k is not type(None))) + ", or auto"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def asked_of(part: str, asked: Asked) -> Asked:
    """The fields of `part` that were asked, by their short names."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): value
        for name, value in asked.items()
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    }


def flat(spec: RunSpec) -> Asked:
    """All fields of the parts of a spec by dotted name, None ones left out."""
    out: Asked = {}
    for part in PARTS:
        record: Any = spec
        for name in part.split("."):
            record = getattr(record, name) if record is not None else None
        if record is None:
            continue
        for field in dataclasses.fields(record):
            name = f"{part}.{field.name}"
            value = getattr(record, field.name)
            if name not in PARTS and value is not None:
                out[name] = value
    return out
