"""Our own spec file: TOML, every field of `core.spec` by its name."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ghosttrain.core.errors import InputFileError
from ghosttrain.core.spec import RunSpec
from ghosttrain.inputs.fields import PARTS, Asked, checked, flat

_MOST_BYTES = 1 << 20
_HEADER = "# A run for ghosttrain: `ghosttrain run FILE`. Fields: docs/spec-file.md\n\n"


def read_spec_file(path: Path) -> Asked:
    """What a spec file asks for, by dotted name.

    Raises:
        InputFileError: If the file cannot be read or is no TOML (with the line).
        SpecError: If a key is unknown or a value has the wrong type.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MOST_BYTES:
        raise InputFileError(f"{path}: {len(raw):,} bytes; a spec file has at most {_MOST_BYTES:,}")
    try:
        tree = tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        raise InputFileError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise InputFileError(f"{path}: is no TOML: {error}") from None
    except RecursionError:
        raise InputFileError(f"{path}: nested too deeply") from None
    asked: Asked = {}
    _flatten(tree, "", str(path), asked)
    return asked


def _flatten(tree: dict[str, Any], prefix: str, where: str, asked: Asked) -> None:
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict) and name in PARTS:
            _flatten(value, f"{name}.", where, asked)
        elif name == "start" and isinstance(value, datetime):
            asked[name] = value.isoformat()
        else:
            asked[name] = checked(name, value, where)


def write_spec_file(spec: RunSpec) -> str:
    """A spec file that asks for exactly this run (with the same seed), as text."""
    import tomli_w

    tree: dict[str, Any] = {
        "start": datetime.fromtimestamp(spec.start_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "time_limit_s": spec.time_limit_s,
        "output_dir": spec.output_dir,
        "watchdog_timeout_s": spec.faults.watchdog_timeout_s,
        "faults": _fault_words(spec),
    }
    for name, value in flat(spec).items():
        *parts, field = name.split(".")
        table = tree
        for part in parts:
            table = table.setdefault(part, {})
        table[field] = value
    return _HEADER + tomli_w.dumps(tree)


def _fault_words(spec: RunSpec) -> str:
    """The faults in the words of --faults."""
    if spec.faults.drawn:
        return "realistic"
    words = []
    for fault in spec.faults.injected:
        gpu = "" if fault.gpu is None else f":{fault.gpu}"
        words.append(f"{fault.kind.name}@{fault.at_s!r}s{gpu}")
    return ",".join(words) or "none"
