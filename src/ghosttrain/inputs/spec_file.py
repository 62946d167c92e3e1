"""Our own spec file: TOML, every field of `core.spec` by its name."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ghosttrain import catalog
from ghosttrain.core.errors import InputFileError, SpecError, UnknownNameError
from ghosttrain.core.spec import RunSpec
from ghosttrain.inputs.faults import fault_words
from ghosttrain.inputs.fields import LONGEST_TEXT, NAMED, PARTS, Asked, checked, fields_of

MAX_FILE_BYTES = 1 << 20
MAX_WRITTEN_BYTES = 1 << 24  # of a file that we wrote: it may hold 100,000 faults
_HEADER = "# A run for ghosttrain: `ghosttrain run FILE`. Fields: docs/spec-file.md\n\n"


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML file; its `[[fault]]` as tables that know their lines.

    Args:
        where: The file's name, for messages.

    Raises:
        InputFileError: If it is no TOML, or empty.
        SpecError: If `fault` is no list of tables.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputFileError(f"{where}: is no TOML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise InputFileError(f"{where}: nested too deeply") from None
    except ValueError as error:  # CPython's limit on the digits of an int
        raise InputFileError(f"{where}: is no TOML: {str(error).partition(';')[0]}") from None
    if not tree:
        raise InputFileError(f"{where}: asks for nothing")
    if "fault" in tree:
        from ghosttrain.inputs.scenario import located  # few files have any

        tree["fault"] = located(tree["fault"], text, where)
    return tree


def asked_by_tree(tree: dict[str, Any], where: str) -> Asked:
    """What the tables of a spec file ask for, by dotted name.

    Raises:
        SpecError: If a key is unknown or a value has the wrong type, or it is a scenario.
    """
    if "fault" in tree and ("title" in tree or "story" in tree):
        raise SpecError(f"{where}: is a scenario: say --faults {where}, with the run before it")
    asked: Asked = {}
    _flatten(tree, "", where, asked)
    return asked


def read_text(path: Path) -> str:
    """The text of a regular file of reasonable size.

    Raises:
        InputFileError: If there is none.
    """
    raw = read_bytes(path, MAX_WRITTEN_BYTES)
    most = MAX_WRITTEN_BYTES if raw.startswith(_HEADER.encode()) else MAX_FILE_BYTES
    if len(raw) > most:
        raise InputFileError(f"{path}: larger than {most >> 20} MiB: no spec file is")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputFileError(f"{path}: is not UTF-8 text") from None


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a regular file, one more than `most` where it is larger than that.

    Raises:
        InputFileError: If there is none, or it cannot be read.
    """
    try:
        is_odd = path.exists() and not path.is_file()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        raise InputFileError(f"{str(path)!r}: no such file") from None
    if is_odd:
        raise InputFileError(f"{path}: is not a regular file")
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        raise InputFileError(f"{path}: no such file") from None
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputFileError(f"{str(path)!r}: no such file") from None


def _flatten(tree: dict[str, Any], prefix: str, where: str, asked: Asked) -> None:
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict) and name in PARTS:
            _flatten(value, f"{name}.", where, asked)
        elif name == "fault":
            asked[name] = value
        elif name == "faults" and isinstance(value, list):
            asked[name] = ",".join(checked(name, word, where) for word in value) or "none"
        elif name == "start" and isinstance(value, date):
            asked[name] = value.isoformat()
        elif key == "base" and prefix[:-1] in NAMED:  # TOML has no table that is also a name
            asked[prefix[:-1]] = checked(prefix[:-1], value, where)
        else:
            asked[name] = checked(name, value, where)


def write_spec_file(spec: RunSpec) -> str:
    """A spec file that asks for exactly this run (with the same seed), as text.

    What is as the catalogue has it is written as its name, the rest field by field.
    """
    import tomli_w

    tree: dict[str, Any] = {
        "start": datetime.fromtimestamp(spec.start_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "time_limit_s": spec.time_limit_s,
        "output_dir": spec.output_dir,
        "faults": _faults(spec),
        "watchdog_timeout_s": spec.faults.watchdog_timeout_s,
    }
    for part in ("model", "gpu", "dataset", "tokenizer", "stack"):
        tree[part] = _name_or_fields(part, spec)
    tree["cluster"] = _cluster_fields(spec)
    for part in ("recipe", "parallel"):
        tree[part] = fields_of(part, spec)
    return _HEADER + tomli_w.dumps({k: v for k, v in tree.items() if v != {}})


def _faults(spec: RunSpec) -> str | list[str]:
    """Words for the faults, in a list where they make no line."""
    words = fault_words(spec.faults)
    text = ",".join(words)
    return text if len(text) <= LONGEST_TEXT else words


def _name_or_fields(part: str, spec: RunSpec) -> str | dict[str, Any]:
    """The catalogue's name of a part where it is unchanged, else all its fields."""
    record = getattr(spec, part)
    find: Any = getattr(catalog, part)
    try:
        key = catalog.key(part, record.name)  # type: ignore[arg-type]  # a part that has a kind
        if find(key) == record:
            return key
    except UnknownNameError:
        pass
    fields: dict[str, Any] = fields_of(part, spec)
    for inner in PARTS:
        if inner.startswith(f"{part}.") and (values := fields_of(inner, spec)):
            fields[inner.rpartition(".")[2]] = values
    return fields


def _cluster_fields(spec: RunSpec) -> dict[str, Any]:
    """The fields of the cluster that do not follow from its GPUs and its fabric."""
    cluster = spec.cluster
    try:
        fabric: str | None = catalog.key("fabric", cluster.fabric.name)
        named = catalog.fabric(fabric) == cluster.fabric if fabric else False
    except UnknownNameError:
        named = False
    usual = catalog.cluster(
        spec.gpu,
        cluster.gpus,
        fabric=fabric if named else None,
        gpus_per_node=cluster.gpus_per_node,
    )
    kept: dict[str, Any] = {"gpus": cluster.gpus}
    if cluster.gpus_per_node != spec.gpu.gpus_per_node:
        kept["gpus_per_node"] = cluster.gpus_per_node
    given = fields_of("cluster", spec)
    kept |= {name: value for name, value in given.items() if value != getattr(usual, name)}
    return kept | {"fabric": fabric if named else fields_of("cluster.fabric", spec)}
