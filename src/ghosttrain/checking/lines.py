"""Numbered lines of a byte stream, none longer than memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LONGEST_LINE = 64 << 20  # bytes: a row of a million GPUs fits


class RawLine(NamedTuple):
    """One line without its newline; only the start of one too long."""

    number: int
    data: bytes
    is_too_long: bool = False
    has_newline: bool = True


def raw_lines(stream: BinaryIO, longest: int = LONGEST_LINE) -> Iterator[RawLine]:
    """The lines of `stream`; of a line longer than `longest` only its first bytes."""
    number = 0
    while data := stream.readline(longest):
        number += 1
        if data.endswith(b"\n"):
            yield RawLine(number, data.rstrip(b"\r\n"))
            continue
        if len(data) < longest:
            yield RawLine(number, data, has_newline=False)
            return
        rest = data
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(longest)
        yield RawLine(number, data[:200], is_too_long=True, has_newline=bool(rest))
