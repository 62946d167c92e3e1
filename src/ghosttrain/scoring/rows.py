"""Rows of other people's files: bytes from a path or standard input, fields with their types."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ghosttrain.core.errors import InputFileError

STANDARD_INPUT = "-"
LARGEST_WHOLE = 2**63 - 1


def shown(file: str) -> str:
    """The file's name as messages have it."""
    return "standard input" if file == STANDARD_INPUT else file


def opened(file: str) -> BinaryIO:
    """The bytes of a file, or of standard input, which stays open when it is closed.

    Raises:
        InputFileError: If there is no such file, or it cannot be read.
    """
    try:
        if file == STANDARD_INPUT:
            if sys.stdin is None:
                raise InputFileError("standard input is closed: give a file")
            return open(sys.stdin.fileno(), "rb", closefd=False)
        return Path(file).open("rb")
    except OSError as error:
        raise InputFileError(f"{shown(file)}: cannot be read: {error.strerror or error}") from None
    except ValueError:  # a NUL in the name
        raise InputFileError(f"{file!r}: cannot be read: no such name") from None


def parsed(line: bytes, at: str) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        InputFileError: If it is none.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputFileError(f"{at}: is not JSON: {excerpt(line)}") from None
    if not isinstance(row, dict):
        raise InputFileError(f"{at}: is no JSON object: {excerpt(line)}")
    return row


def excerpt(line: bytes) -> str:
    """The beginning of a line, safe to print."""
    text = line.strip().decode("utf-8", "replace")
    return ascii(text if len(text) <= 40 else text[:40] + "...")


class Row:
    """One row's fields. All readers raise InputFileError, naming the place.

    Args:
        values: By name.
        at: Where the row stands, for messages.
    """

    __slots__ = ("_values", "at")

    def __init__(self, values: Mapping[str, Any], at: str) -> None:
        self._values, self.at = values, at

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def time_s(self, name: str, least_s: float = 0.0) -> float:
        """A finite number of at least `least_s`."""
        seconds = self._number(name)
        if seconds < least_s:
            bound = "run time 0" if least_s == 0 else f"{least_s:.10g} s, where it begins"
            raise InputFileError(f"{self.at}: {name} is {seconds:.10g} s, before {bound}")
        return seconds

    def text(self, name: str) -> str:
        """A text that is not blank."""
        value = self._given(name)
        if not isinstance(value, str) or not value.strip():
            raise InputFileError(f"{self.at}: {name} is {short(value)}, no text")
        return value.strip()

    def whole(self, name: str) -> int:
        """A whole number from 0."""
        value = self._given(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_WHOLE:
            raise InputFileError(f"{self.at}: {name} is {short(value)}, no whole number from 0")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._given(name)
        if not isinstance(value, bool):
            raise InputFileError(f"{self.at}: {name} is {short(value)}, neither true nor false")
        return value

    def share(self, name: str) -> float:
        """A number from 0 to 1."""
        value = self._number(name)
        if not 0 <= value <= 1:
            raise InputFileError(f"{self.at}: {name} is {value:g}; it goes from 0 to 1")
        return value

    def _number(self, name: str) -> float:
        """A finite number."""
        value = self._given(name)
        number = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):
                number = float(value)
        if not math.isfinite(number):
            raise InputFileError(f"{self.at}: {name} is {short(value)}, no finite number")
        return number

    def _given(self, name: str) -> Any:
        if not self.has(name):
            raise InputFileError(f"{self.at}: {name} is missing")
        return self._values[name]


def short(value: Any) -> str:
    """A value in a message."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
