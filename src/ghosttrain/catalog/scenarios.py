"""The library of scenarios: nights worth rehearsing, one TOML file each in `scenarios/`.

What lists need (titles, kinds) is found by a pattern, without parsing TOML: the files keep each
key on a line of its own, and a test parses them whole and compares.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from ghosttrain.catalog.names import fold
from ghosttrain.core.errors import UnknownNameError

_TITLE: Final = re.compile(r'^title = "([^"]*)"$', re.MULTILINE)
_KIND: Final = re.compile(r'^kind = "([^"]*)"$', re.MULTILINE)


@cache
def scenario_names() -> tuple[str, ...]:
    """Names of the scenarios, in alphabetical order."""
    from pathlib import Path  # not before it is needed

    return tuple(sorted(p.stem for p in Path(__file__).with_name("scenarios").glob("*.toml")))


def scenario_text(name: str) -> str:
    """The TOML of a scenario.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    return _text(scenario_key(name))


def scenario_title(name: str) -> str:
    """The scenario in a few words."""
    found = _TITLE.search(scenario_text(name))
    assert found, f"{name} has no title"
    return found[1]


def scenario_kinds(name: str) -> tuple[str, ...]:
    """The fault kinds of a scenario, in its order, once each."""
    return tuple(dict.fromkeys(_KIND.findall(scenario_text(name))))


def scenario_key(name: str) -> str:
    """The scenario's name for what someone typed: in any case, whatever separates the words.

    Raises:
        UnknownNameError: If nothing fits; it carries the nearest match.
    """
    wanted = fold(name)
    if wanted not in scenario_names():
        raise UnknownNameError("scenario", name, scenario_names())
    return wanted


@cache
def _text(key: str) -> str:
    from pathlib import Path

    path = Path(__file__).with_name("scenarios") / f"{key}.toml"
    return path.read_text(encoding="utf-8")
