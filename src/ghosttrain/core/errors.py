"""Every error ghosttrain raises for its user.

GhosttrainError
├── RequestError          what was asked cannot be (the command line ends with exit code 2)
│   ├── SpecError         a field, key or flag has a value that makes no sense
│   ├── UnknownNameError  a name that is in no catalogue; carries the nearest match
│   ├── InputFileError    a file that cannot be read or understood
│   └── PlanError         a run that cannot be: it does not fit, divide or add up
└── WorldError            the world failed: disk full, port taken (exit code 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class GhosttrainError(Exception):
    """Base of all errors meant for the user: one or two lines, no traceback."""

    exit_code = 1


class RequestError(GhosttrainError, ValueError):
    """What was asked cannot be."""

    exit_code = 2


class SpecError(RequestError):
    """A field, key or flag has a value that makes no sense."""


class UnknownNameError(RequestError):
    """A name that is in no catalogue; the message carries the nearest match.

    `aliases` are further spellings and the known names they stand for: they help to find the
    nearest match ("h10" is nearer to the alias "h100" than to any full name), and are not shown.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        known: Sequence[str],
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        spellings = {k.casefold(): k for k in known}
        spellings.update((alias.casefold(), k) for alias, k in (aliases or {}).items())
        near = _nearest(name.casefold(), list(spellings))
        word = kind.upper() if kind == "gpu" else kind
        hint = f"did you mean {spellings[near]}?" if near else f"see `ghosttrain list {kind}s`"
        super().__init__(f"unknown {word} {name!r}: {hint}")
        self.kind, self.name = kind, name
        self.nearest = spellings[near] if near else None

    def __reduce__(self) -> tuple[object, ...]:  # pragma: no cover - only crosses processes
        return (RequestError, (str(self),))


def _nearest(name: str, spellings: list[str]) -> str | None:
    """The spelling that `name` begins, the earliest of them, else the most similar, or None."""
    import difflib

    if len(name) >= 2:
        begun = [spelling for spelling in spellings if spelling.startswith(name)]
        if begun:
            return begun[0]
    similar = difflib.get_close_matches(name, spellings, n=1, cutoff=0.5)
    return similar[0] if similar else None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was probably meant to be."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


class InputFileError(RequestError):
    """A file that cannot be read or understood."""


class PlanError(RequestError):
    """A run that cannot be: it does not fit, does not divide or does not add up."""


class WorldError(GhosttrainError):
    """The world failed: disk full, port taken, terminal gone."""
