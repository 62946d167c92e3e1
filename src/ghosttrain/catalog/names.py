"""From what people type to a key of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

_APART: Final = re.compile(r"[^a-z0-9]+")
_MAKERS: Final = re.compile(r"^(nvidia|amd-instinct|amd|tesla|geforce|meta|the)-")


@lru_cache(maxsize=8192)  # each name looked for is compared with the whole catalogue
def fold(name: str) -> str:
    """Lower case, one dash for whatever else separates: "Llama 3.1 8B" is llama-3-1-8b."""
    return _APART.sub("-", name.casefold()).strip("-")


def find_key(name: str, keys: Iterable[str], aliases: Mapping[str, str]) -> str | None:
    """The key meant by `name`, or None.

    In this order: the key itself, folded; an alias; without the maker and an owner before a
    slash ("meta-llama/Llama-3-8B"); without any separators ("llama3-8b"), if that fits only one.
    """
    folded = {**{fold(alias): key for alias, key in aliases.items()}, **{fold(k): k for k in keys}}
    wanted = fold(name)
    if wanted in folded:
        return folded[wanted]
    bare = fold(name.rpartition("/")[2])
    while bare not in folded and (shorter := _MAKERS.sub("", bare)) != bare:
        bare = shorter
    if bare in folded:
        return folded[bare]
    packed = bare.replace("-", "")
    fits = {key for spelling, key in folded.items() if spelling.replace("-", "") == packed}
    return fits.pop() if len(fits) == 1 else None
