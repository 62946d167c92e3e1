"""On which lines of a TOML file its keys stand, which tomllib does not tell."""

from __future__ import annotations

import re

HEADER = ""  # the key under which the line of a table's own header is kept

_TABLE = re.compile(r"\s*\[(\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*(?:"([^"\\]*)"|'([^']*)'|([\w-]+))\s*([.=])""", re.ASCII)
_OPENING = re.compile(r"""[^#"']*=\s*(\"{3}|'{3})""")


def key_lines(text: str, name: str) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Lines, from 1, of the keys above all tables, and of the keys of each `[[name]]`.

    The text is taken to be TOML. Tables inside a `[[name]]` count as keys of it; tables written
    in braces are not found.
    """
    top: dict[str, int] = {}
    tables: list[dict[str, int]] = []
    here, closing = top, ""
    for number, line in enumerate(text.split("\n"), 1):
        if closing:  # inside a text of several lines
            closing = "" if closing in line else closing
        elif header := _TABLE.fullmatch(line.rstrip("\r")):
            here = _table(header[2], bool(header[1]), number, name, tables)
        elif key := _KEY.match(line):
            here.setdefault(next(k for k in key.groups()[:3] if k is not None), number)
            if opening := _OPENING.match(line):
                closing = "" if opening[1] in line[opening.end() :] else opening[1]
    return top, tables


def _table(
    header: str, is_list: bool, number: int, name: str, tables: list[dict[str, int]]
) -> dict[str, int]:
    """Where the keys below a header go."""
    parts = [part.strip().strip("\"'") for part in header.split(".")]
    if parts == [name] and is_list:
        tables.append({HEADER: number})
        return tables[-1]
    if parts[0] == name and len(parts) > 1 and tables:
        tables[-1].setdefault(parts[1], number)
    return {}  # another table, of no interest
