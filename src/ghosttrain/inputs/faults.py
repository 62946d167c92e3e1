"""Faults in the words of `--faults`: none, realistic, NAME, NAME@TIME, NAME@TIME:GPU."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from ghosttrain import catalog
from ghosttrain.core.errors import SpecError, UnknownNameError
from ghosttrain.core.spec import FaultKind, Faults, InjectedFault
from ghosttrain.inputs.durations import parse_duration
from ghosttrain.inputs.models import is_file

_FORMS = "none, realistic, or NAME[@TIME[:GPU]] with NAME from"


def read_faults(
    words: str, *, gpus: int, watchdog_timeout_s: float, some_time_s: Callable[[], float]
) -> Faults:
    """The faults that `words`, separated by commas, ask for.

    Args:
        words: As in "realistic" or "gpu-off-bus@2h10min:17".
        gpus: How many there are.
        watchdog_timeout_s: Goes into the record.
        some_time_s: Gives the time of a fault that has none.

    Raises:
        SpecError: If a word makes no sense.
        UnknownNameError: If there is no such fault.
    """
    asked = [] if words == "none" else [word.strip() for word in words.split(",")]
    drawn: tuple[FaultKind, ...] = ()
    if "realistic" in asked:
        drawn = tuple(catalog.fault_kind(name) for name in catalog.names("fault"))
    injected = tuple(_injected(word, gpus, some_time_s) for word in asked if word != "realistic")
    return Faults(injected, drawn, watchdog_timeout_s)


def fault_words(faults: Faults) -> str:
    """The words that ask for these faults."""
    words = ["realistic"] if faults.drawn else []
    for fault in faults.injected:
        gpu = "" if fault.gpu is None else f":{fault.gpu}"
        words.append(f"{fault.kind.name}@{Decimal(repr(fault.at_s)):f}s{gpu}")
    return ",".join(words) or "none"


def _injected(word: str, gpus: int, some_time_s: Callable[[], float]) -> InjectedFault:
    """A fault of NAME[@TIME[:GPU]]."""
    name, at, rest = word.partition("@")
    kind = _fault_kind(name)
    if not at:
        return InjectedFault(kind, some_time_s())
    time_text, colon, gpu_text = rest.partition(":")
    gpu = None
    if colon:
        is_count = gpu_text.isascii() and gpu_text.isdigit() and len(gpu_text) < 10
        if not is_count or int(gpu_text) >= gpus:
            raise SpecError(f"faults {word!r}: GPU {gpu_text!r} is none of 0 to {gpus - 1:,}")
        gpu = int(gpu_text)
    try:
        return InjectedFault(kind, parse_duration(time_text), gpu)
    except SpecError as error:
        raise SpecError(f"faults {word!r}: {error}") from None


def _fault_kind(name: str) -> FaultKind:
    """The fault kind of that name.

    Raises:
        SpecError: If it is a file, which is not read yet, or unknown.
    """
    if name.endswith(".toml") or "/" in name or is_file(Path(name)):
        raise SpecError(
            f"faults {name!r}: scenario files are not read yet: give {_FORMS} "
            f"{', '.join(catalog.names('fault'))}"
        )
    try:
        return catalog.fault_kind(name)
    except UnknownNameError as error:
        if error.nearest:
            raise
        raise SpecError(
            f"unknown fault {name!r}: give {_FORMS} {', '.join(catalog.names('fault'))}"
        ) from None
