"""Faults in words, as `--faults` takes them: none, realistic, faults, scenarios, files.

A fault is NAME[@TIME|@step=N][:GPU][=SEVERITY][~DURATION]; what is left out is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ghosttrain import catalog
from ghosttrain.catalog.names import fold
from ghosttrain.core.errors import SpecError, UnknownNameError
from ghosttrain.core.plan import MAX_FAULTS, MAX_STEPS, SEVERITIES
from ghosttrain.core.spec import Cluster, FaultKind, Faults, Gpu, InjectedFault
from ghosttrain.inputs.durations import parse_duration
from ghosttrain.inputs.models import is_file, is_folder

if TYPE_CHECKING:
    from ghosttrain.inputs.scenario import FaultTable

FORMS = "NAME[@TIME|@step=N][:GPU][=SEVERITY][~DURATION]"

# No character of these means anything to a shell inside a word: not to zsh either.
_WORD = re.compile(
    r"([^@:=~]*)(?:@(step=[^:=~]*|[^:=~]*))?(?::([^=~]*))?(?:=([^~]*))?(?:~(.*))?", re.DOTALL
)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_DECIMAL = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_ZERO = re.compile(r"0+(?:\.0*)?\s*(?:d|h|min|m|s)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Setting:
    """The run that faults are put into.

    Attributes:
        seed: What scenarios leave to chance is drawn from it.
        moment_s: Run time of a share of the planned run: 0 where training begins, 1 at the end.
        some_time_s: A run time for a fault of that name that has none.
    """

    seed: int
    gpu: Gpu
    cluster: Cluster
    moment_s: Callable[[float], float]
    some_time_s: Callable[[str], float]


def read_faults(
    words: str,
    setting: Setting,
    *,
    tables: Sequence[FaultTable] = (),
    watchdog_timeout_s: float = 600.0,
) -> Faults:
    """The faults that `words`, separated by commas, ask for.

    Args:
        words: As in "realistic" or "gpu-off-bus@2h10min:17,lemon-node".
        setting: The run they are for.
        tables: The `[[fault]]` tables of a spec file, which come after them.
        watchdog_timeout_s: Goes into the record.

    Raises:
        SpecError: If a word makes no sense.
        UnknownNameError: If there is no such fault or scenario.
        InputFileError: If a scenario file cannot be read.
    """
    asked = [] if words.strip() == "none" else [word.strip() for word in words.split(",")]
    drawn: tuple[FaultKind, ...] = ()
    if "realistic" in asked:
        drawn = tuple(catalog.realistic_faults(setting.gpu))
    injected: list[InjectedFault] = []
    known = 0  # tables of scenarios so far: each has a stream of its own
    for word in asked:
        found = _scenario_tables(word) if word != "realistic" else []
        if found is None:
            injected.append(_injected(word, setting))
        elif found:
            injected += _compiled(found, setting, known)
            known += len(found)
    if tables:
        injected += _compiled(tables, setting, known)
    if len(injected) > MAX_FAULTS:
        raise SpecError(f"{len(injected):,} faults are asked for: {MAX_FAULTS:,} is the most")
    return Faults(tuple(injected), drawn, watchdog_timeout_s)


def fault_words(faults: Faults) -> list[str]:
    """Words that ask for exactly these faults; joined by commas they are a text for `--faults`."""
    words = ["realistic"] if faults.drawn else []
    return [*words, *map(_word_of, faults.injected)] or ["none"]


def read_moment(text: str) -> float:
    """Seconds of a moment or a duration, as parse_duration() has them, but 0 is one too.

    Raises:
        SpecError: If it is none.
    """
    if _ZERO.fullmatch(text.strip()):
        return 0.0
    if text.strip().startswith("-"):
        raise SpecError(f"{text!r} is negative: give a time from 0, as in 2h10min or 90s")
    return parse_duration(text)


def named_fault(name: str) -> FaultKind:
    """The fault kind of that name.

    Raises:
        UnknownNameError: If there is none; the nearest may be a scenario.
        SpecError: Likewise, if nothing is near, or it is a scenario.
    """
    from ghosttrain.catalog import rows
    from ghosttrain.catalog.scenarios import scenario_names

    if (kind := _known_fault(name)) is not None:
        return kind
    if (scenario := _scenario_key(name)) is not None:
        raise SpecError(f"{scenario} is a scenario: it has times and places, give its name alone")
    known = [*catalog.names("fault"), *scenario_names()]
    error = UnknownNameError("fault", name, known, aliases=rows.aliases("faults.toml"))
    if error.nearest and name != "none":
        raise error
    raise SpecError(
        f"unknown fault {name[:60]!r}: give none, realistic, or {FORMS} with a name of "
        "`ghosttrain list faults`, a scenario of `ghosttrain list scenarios`, or its file"
    )


@lru_cache(maxsize=256)
def _known_fault(name: str) -> FaultKind | None:
    try:
        return catalog.fault_kind(name)
    except UnknownNameError:
        return None


def _word_of(fault: InjectedFault) -> str:
    word = f"{fault.kind.name}@{_plain(fault.at_s)}s"
    if fault.at_step:
        word = f"{fault.kind.name}@step={fault.at_step}"
    if fault.gpu is not None:
        word += f":{fault.gpu}"
    if fault.severity is not None:
        word += f"={_plain(fault.severity)}"
    if fault.duration_s is not None:
        word += f"~{_plain(fault.duration_s)}s"
    return word


def _plain(value: float) -> str:
    """All digits of a number, without an exponent, so that durations read them back."""
    text = f"{Decimal(repr(float(value) + 0.0)):f}"  # + 0.0: -0.0 is 0.0
    return text.removesuffix(".0")


def _scenario_tables(word: str) -> Sequence[FaultTable] | None:
    """The `[[fault]]` tables of a scenario of the library or of a file, None for another word.

    A name comes before a file that happens to be called so; "./" says that the file is meant.
    """
    path = Path(word)
    if not (word.endswith(".toml") or "/" in word or word.startswith((".", "~"))):
        if not word or _is_fault(word):
            return None
        if (key := _scenario_key(word)) is not None:
            from ghosttrain.catalog.scenarios import scenario_text
            from ghosttrain.inputs.scenario import scenario_tables

            return scenario_tables(scenario_text(key), f"scenario {key}")
        if not (is_file(path) or is_folder(path)):
            return None
    from ghosttrain.inputs.scenario import read_scenario  # with tomllib and its tables, 10 ms

    return read_scenario(path)


def _is_fault(word: str) -> bool:
    """Whether the word begins with the name of a fault kind."""
    found = _WORD.fullmatch(word)
    assert found, word
    return _known_fault(found[1].strip()) is not None


def _scenario_key(name: str) -> str | None:
    """The library's name for what someone typed, None where it has no such scenario."""
    from ghosttrain.catalog.scenarios import scenario_names

    return key if (key := fold(name)) in scenario_names() else None


def _compiled(
    tables: Sequence[FaultTable], setting: Setting, first: int
) -> tuple[InjectedFault, ...]:
    from ghosttrain.inputs.scenario_faults import compile_tables

    return compile_tables(tables, setting, first=first)


def _injected(word: str, setting: Setting) -> InjectedFault:
    """The fault that a word of FORMS asks for."""
    found = _WORD.fullmatch(word)
    assert found, word
    name, at, gpu, severity, duration = found.groups()
    kind = named_fault(name.strip())
    try:
        step = _read_step(at) if at and at.startswith("step=") else 0
        return InjectedFault(
            kind,
            _read_at_s(kind, at, setting) if not step else 0.0,
            None if gpu is None else _read_gpu(gpu, setting.cluster.gpus),
            step,
            None if severity is None else _read_severity(kind, severity),
            None if duration is None else read_moment(duration),
        )
    except SpecError as error:
        raise SpecError(f"faults {word!r}: {error}") from None


def _read_at_s(kind: FaultKind, at: str | None, setting: Setting) -> float:
    return setting.some_time_s(kind.name) if at is None else read_moment(at)


def _read_step(text: str) -> int:
    number = text.removeprefix("step=")
    if not (_WHOLE.fullmatch(number) and 0 < int(number) <= MAX_STEPS):
        raise SpecError(f"step {number!r} is none of 1 to {MAX_STEPS:,}")
    return int(number)


def _read_gpu(text: str, gpus: int) -> int:
    if not (_WHOLE.fullmatch(text) and int(text) < gpus):
        raise SpecError(f"GPU {text!r} is none of 0 to {gpus - 1:,}")
    return int(text)


def _read_severity(kind: FaultKind, text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        raise SpecError(f"severity {text!r} is no number")
    refuse_severity(kind, float(text))
    return float(text)


def refuse_severity(kind: FaultKind, severity: float) -> None:
    """Refuse what the kind's effect cannot have.

    Raises:
        SpecError: Saying what is possible.
    """
    low, high = SEVERITIES[kind.effect]
    if low <= severity <= high:
        return
    if not high:
        raise SpecError(f"{kind.name} has no severity: leave it out")
    raise SpecError(
        f"severity {severity:,} of {kind.name} ({kind.effect}): it may be {low:g} to {high:,g}"
    )
