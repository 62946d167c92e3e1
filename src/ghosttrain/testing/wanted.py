"""Which run a test wants: all that the command line takes, a RunSpec, or a Run."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, get_args

from ghosttrain.core.errors import RequestError, SpecError
from ghosttrain.core.run import Run, simulate
from ghosttrain.core.spec import RunSpec
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.inputs.resolution import Resolution

if TYPE_CHECKING:
    pass

Wanted = str | PathLike[str] | RunSpec | Run | None

SEED = 1  # of runs whose seed nobody says: a test is the same every time

# The flags of `ghosttrain run` that say what to rehearse.
FLAGS = (
    *("model", "gpu", "gpus", "dataset", "tokens", "epochs", "steps", "seq_len"),
    *("global_batch_size", "precision", "tp", "pp", "dp", "cp", "ep", "faults"),
    *("names", "start", "seed", "set"),
)


def run_of(wanted: Wanted, seed: int | None, flags: Mapping[str, Any]) -> Run:
    """The run that is wanted.

    Args:
        wanted: A SPEC of the command line, alone or with its flags, as in
            "llama-3-8b --gpus 64"; a RunSpec; a Run; None for a random run.
        seed: Of the run; None: that of the words, else SEED.
        flags: Flags by name, as in {"gpus": 64}; they override those of the words.

    Raises:
        RequestError: If there can be no such run.
    """
    given = {"seed": seed, **flags}
    given = {name: value for name, value in given.items() if value is not None}
    match wanted:
        case Run():
            _refuse(given, "a Run is what it is")
            return wanted
        case RunSpec():
            seed, faults = _seed(given.pop("seed", SEED)), given.pop("faults", None)
            _refuse(given, "a RunSpec is complete but for faults: say dataclasses.replace")
            return simulate(wanted if faults is None else _with(wanted, faults, seed), seed)
        case None:
            spec = None
        case str():
            spec, said = _read(wanted)
            given = said | given
        case _:
            spec = fspath(wanted)
    seed = _seed(given.pop("seed", SEED))
    return simulate(resolve(_request(spec, given), seed), seed)


def _with(spec: RunSpec, faults: str, seed: int) -> RunSpec:
    """The spec with these faults instead of its own."""
    asked = {"faults": faults, "watchdog_timeout_s": spec.faults.watchdog_timeout_s}
    return Resolution(asked, seed).with_faults(spec)


def _refuse(given: Mapping[str, Any], why: str) -> None:
    if given:
        raise SpecError(f"{', '.join(given)}: {why}")


def _read(words: str) -> tuple[str | None, dict[str, Any]]:
    """SPEC and flags of words as on the command line; a word without flags is SPEC as it is."""
    if " --" not in f" {words}":
        return words, {}
    spec: str | None = None
    said: dict[str, Any] = {}
    for name, value in _flags(iter(_split(words))):
        if name:
            said[name] = [*said.get("set", ()), value] if name == "set" else value
        elif spec is not None:
            raise SpecError(f"{words!r}: {spec} and {value}: give one SPEC")
        else:
            spec = value
    return spec, said


def _split(words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise SpecError(f"{words!r}: {str(error).lower()}") from None


def _flags(words: Iterator[str]) -> Iterator[tuple[str, str]]:
    """(name of a flag, its value); the name is empty for what is no flag's value."""
    for word in words:
        if not word.startswith("--"):
            yield "", word
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise SpecError(f"{word}: give a value")
            value = following
        yield name.replace("-", "_"), value


def _request(spec: str | None, given: Mapping[str, Any]) -> Request:
    for name in given:
        if name not in FLAGS:
            raise SpecError(_unknown(name))
    names = given.get("names")
    _check_names(names)
    pairs = given.get("set", ())
    if isinstance(pairs, Mapping):
        pairs = [f"{key}={value}" for key, value in pairs.items()]
    start = given.get("start")
    if start is not None:  # as a field it is read, and refused, in words
        pairs = [*pairs, f"start={start}"]
    return Request.from_args(
        Namespace(**{**given, "spec": spec, "names": names, "start": None, "set": pairs})
    )


def _check_names(names: str | None) -> None:
    from ghosttrain.catalog import Selection

    if names is not None and names not in get_args(Selection):
        raise SpecError(f"names {names!r}: give one of {', '.join(get_args(Selection))}")


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name[:80], FLAGS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FLAGS)}"
    return f"unknown flag {name[:80]!r}: {hint}"


def _seed(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise RequestError(f"seed {text[:60]!r} is not a whole number from 0 to {2**63 - 1}")
    return int(text)
