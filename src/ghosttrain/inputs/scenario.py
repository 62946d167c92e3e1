"""Scenarios: what goes wrong, when and where, as TOML (docs/scenarios.md has the format).

`[[fault]]` tables are read with the lines they stand on, so that every message says where, and
what they ask for in a run is for scenario_faults.py to say.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ghosttrain.core.errors import InputFileError, SpecError
from ghosttrain.core.plan import MAX_FAULTS
from ghosttrain.inputs.spec_file import MAX_FILE_BYTES, read_bytes
from ghosttrain.inputs.toml_lines import HEADER, key_lines

MOMENTS = ("at", "at_step", "at_share", "after")
KEYS = ("kind", *MOMENTS, "where", "severity", "duration", "repeat", "every")
TOP_KEYS = ("title", "story", "fault")
LARGEST_COUNTED_BYTES = 1 << 26  # of a file that is too large, to say how many faults it has

_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$", re.ASCII)
_AT_END = " (at end of document)"


@dataclass(frozen=True, slots=True)
class FaultTable:
    """One `[[fault]]`: its values, and on which line of `file` each of them stands."""

    file: str
    values: dict[str, Any]
    lines: dict[str, int]

    def line(self, key: str = HEADER) -> int:
        """Line of a key, of the header where the key has none."""
        return self.lines.get(key) or self.lines.get(HEADER, 1)

    def refuse(self, key: str, why: str) -> NoReturn:
        """Say what is wrong at a key.

        Raises:
            SpecError: Always.
        """
        raise SpecError(f"{self.file}:{self.line(key)}: {why}")


def read_scenario(path: Path) -> tuple[FaultTable, ...]:
    """The faults of a scenario file.

    Raises:
        InputFileError: If it cannot be read, or is none.
        SpecError: If it has a key that no scenario has.
    """
    raw = read_bytes(path, LARGEST_COUNTED_BYTES)
    if len(raw) > MAX_FILE_BYTES:
        count = raw.count(b"[[fault]]")
        if count > MAX_FAULTS:
            more = " and more" if len(raw) > LARGEST_COUNTED_BYTES else ""
            raise InputFileError(f"{path}: {count:,} faults{more}: {MAX_FAULTS:,} is the most")
        raise InputFileError(
            f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB: say `repeat` for many faults alike"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputFileError(f"{path}:{line}: is not UTF-8 text") from None
    return scenario_tables(text, str(path))


def scenario_tables(text: str, file: str) -> tuple[FaultTable, ...]:
    """The faults of a scenario, with their lines.

    Args:
        text: The TOML.
        file: Its name, for messages.

    Raises:
        InputFileError: If it is no TOML, or empty.
        SpecError: If it has a key that no scenario has.
    """
    tree = _parse(text, file)
    if not tree:
        raise InputFileError(f"{file}: is empty: a scenario has [[fault]] tables")
    for key, value in tree.items():
        if key not in TOP_KEYS:
            why = f"unknown key {key[:60]!r}: {nearest(key, TOP_KEYS)}"
            raise SpecError(f"{file}:{_key_line(text, key)}: {why}")
        if key != "fault" and not isinstance(value, str):
            raise SpecError(f"{file}:{_key_line(text, key)}: {key} must be a text")
    if tree.get("fault", []) == []:
        raise InputFileError(f"{file}:1: has no [[fault]]: a scenario has at least one")
    return located(tree["fault"], text, file)


def located(faults: Any, text: str, file: str) -> tuple[FaultTable, ...]:
    """The value of `fault` in a TOML text as tables that know their lines.

    Raises:
        SpecError: If it is no list of tables.
    """
    if not isinstance(faults, list) or not all(isinstance(fault, dict) for fault in faults):
        line = _key_line(text, "fault")
        raise SpecError(f"{file}:{line}: fault is no list of tables: write [[fault]] above each")
    _, lines = key_lines(text, "fault")
    if len(lines) != len(faults):  # written in braces
        lines = [{HEADER: _key_line(text, "fault")}] * len(faults)
    return tuple(map(FaultTable, [file] * len(faults), faults, lines))


def _key_line(text: str, key: str) -> int:
    """Line of a key above all tables, or of the first table called so."""
    top, _ = key_lines(text, "fault")
    table = re.search(rf"^[ \t]*\[+[ \t\"']*{re.escape(key)}\b", text, re.MULTILINE)
    return top.get(key) or (text.count("\n", 0, table.end()) + 1 if table else 1)


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        words = str(error).splitlines()[0]
        place = _AT_LINE.search(words)
        line = int(place[1]) if place else text.rstrip("\n").count("\n") + 1
        column = f" (column {place[2]})" if place else ""
        why = _AT_LINE.sub("", words).removesuffix(_AT_END)
        raise InputFileError(f"{file}:{line}: is no TOML: {why}{column}") from None
    except RecursionError:
        raise InputFileError(f"{file}:{_longest_line(text)}: nested too deeply") from None
    except ValueError as error:  # CPython's limit on the digits of an int
        why = str(error).partition(";")[0]
        raise InputFileError(f"{file}:{_longest_line(text)}: is no TOML: {why}") from None


def _longest_line(text: str) -> int:
    """The line that has most characters: where what is endless will be."""
    lines = text.split("\n")
    return max(range(len(lines)), key=lambda n: len(lines[n])) + 1


def nearest(word: str, known: Sequence[str]) -> str:
    """What was probably meant, else what there is."""
    near = difflib.get_close_matches(word[:60], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
