"""Models: by catalogue name, from other people's files, or field by field."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from ghosttrain import catalog
from ghosttrain.core.errors import InputFileError, SpecError, UnknownNameError
from ghosttrain.core.spec import Mla, Model, Moe
from ghosttrain.inputs.fields import Asked, asked_of


def load_model(name: str) -> Model:
    """A model by catalogue name or from a Hugging Face config.json.

    A name of the catalogue comes before a file or folder that happens to be called so; "./" in
    front says that the file is meant.

    Raises:
        UnknownNameError: If it is neither.
        InputFileError: If the file cannot be understood.
    """
    from ghosttrain.inputs.hf_config import read_hf_config  # with its tables, 10 ms

    if not name.strip():
        raise SpecError("the model's name is empty: see `ghosttrain list models`")
    path = Path(name)
    if path.suffix != ".json" and not name.startswith((".", "/")) and is_model(name):
        return catalog.model(name)
    if is_folder(path):
        return read_hf_config(path / "config.json")
    if is_file(path):
        return read_hf_config(path)
    if path.suffix == ".json" or name.startswith((".", "/", "~")) or name.count("/") > 1:
        shown = name if name.isprintable() else repr(name)
        raise InputFileError(f"{shown}: no such file")
    return catalog.model(name)


def is_model(name: str) -> bool:
    """Whether the catalogue knows a model of that name."""
    try:
        catalog.key("model", name)
    except UnknownNameError:
        return False
    return True


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def looks_like_json(path: Path) -> bool:
    """Whether the file begins as a JSON object does."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError:
        return False


def edited_model(model: Model, asked: Asked) -> Model:
    """The model with the fields that were asked one by one."""
    edits: dict[str, Any] = dict(asked_of("model", asked)) if "model" in asked else {}
    for part, record, present in (("moe", Moe, model.moe), ("mla", Mla, model.mla)):
        given = asked_of(f"model.{part}", asked)
        if given and present is not None:
            edits[part] = replace(present, **given)
        elif given:
            edits[part] = complete(record, f"model.{part}", given)
    return replace(model, **edits) if edits else model


def complete(record: type, part: str, asked: Asked) -> Any:
    """A record that is given field by field.

    Raises:
        SpecError: If some are missing.
    """
    missing = [f.name for f in fields(record) if f.default is MISSING and f.name not in asked]
    if missing:
        advice = ", or name a model to change" if part == "model" else ""
        raise SpecError(f"{part} lacks {', '.join(missing)}: give them{advice}")
    return record(**asked)
