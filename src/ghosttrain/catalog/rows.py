"""Rows of the catalogue's TOML files, parsed one at a time.

tomllib is pure Python: the models take it about 20 ms, one row a third of a millisecond. So every
row is one line, `key = { ... }`, under a `[section]` whose `defaults = { ... }` the row starts
from. `index()` finds the lines by a pattern, `row()` parses the one asked for. The files stay
plain TOML; a test parses them whole and compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Final, TypeVar

_ROW: Final = re.compile(r'^"?([\w.-]+)"? *= *\{')
_ALIAS: Final = re.compile(r'^"?([\w.-]+)"? *= *"([^"]*)"')
_SCALARS: Final = {"int": int, "float": float, "str": str, "bool": bool}

Record = TypeVar("Record")


@cache
def _text(file: str) -> str:
    from pathlib import Path  # like tomllib, not before it is needed

    return Path(__file__).with_name(file).read_text(encoding="utf-8")


@cache
def index(file: str) -> Mapping[str, tuple[str, str]]:
    """Keys of a file in its order; for each the section's defaults and the row, unparsed."""
    lines: dict[str, tuple[str, str]] = {}
    defaults = ""
    for line in _text(file).splitlines():
        if line.startswith("["):
            defaults = ""
        elif found := _ROW.match(line):
            if found[1] == "defaults":
                defaults = line
            else:
                assert found[1] not in lines, f"{file}: {found[1]} twice"
                lines[found[1]] = (defaults, line)
    return MappingProxyType(lines)


@cache
def aliases(file: str) -> Mapping[str, str]:
    """Other names and the keys they stand for: the `[aliases]` at the end of a file."""
    tail = _text(file).partition("\n[aliases]\n")[2]
    return MappingProxyType({m[1]: m[2] for m in map(_ALIAS.match, tail.splitlines()) if m})


@cache
def _parse(line: str) -> dict[str, Any]:
    import tomllib  # 7 ms to import, so not before it is needed

    table: dict[str, Any]
    (table,) = tomllib.loads(line).values()
    return table


def row(file: str, key: str) -> dict[str, Any]:
    """One row over its section's defaults."""
    defaults, line = index(file)[key]
    return {**(_parse(defaults) if defaults else {}), **_parse(line)}


def record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """A frozen record of the values; a wrong field is our mistake, hence an AssertionError."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # any dataclass will do
    name = values.get("name")
    unknown = sorted(set(values) - set(known))
    assert not unknown, f"{name}: no such field of {kind.__name__}: {unknown}"
    checked = dict(values)
    for field in known.values():
        if field.name not in values:
            required = field.default is MISSING and field.default_factory is MISSING
            assert not required, f"{name}: {field.name} is missing"
        elif scalar := _SCALARS.get(str(field.type)):
            where = f"{name}: {field.name}"
            checked[field.name] = _checked_scalar(values[field.name], scalar, where)
    return kind(**checked)


def _checked_scalar(value: object, scalar: type[Any], where: str) -> object:
    # TOML tells 400 from 400.0, and our floats are often whole. A bool must not pass for an int.
    if scalar is float and type(value) is int:
        return float(value)
    assert type(value) is scalar, f"{where}: {value!r} is not {scalar.__name__}"
    return value
