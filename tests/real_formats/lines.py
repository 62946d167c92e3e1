"""A log as lines of known kinds: what no kind fits is a finding, and so is what breaks an order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number from 1, its kind, the fields its kind names."""

    number: int
    kind: str
    fields: Mapping[str, str]
    text: str

    def __getitem__(self, name: str) -> str:
        return self.fields[name]

    def number_of(self, name: str) -> float:
        return float(self.fields[name].replace(",", ""))


@dataclass(slots=True)
class Findings:
    """What is wrong with a log."""

    told: list[str] = field(default_factory=list)

    def expect(self, holds: bool, line: Line | None, why: str) -> None:
        if not holds:
            where = f"line {line.number}: " if line else ""
            shown = f" | {line.text[:200]!r}" if line else ""
            self.told.append(f"{where}{why}{shown}")


class Grammar:
    """Kinds of lines by the regular expression that a whole line of the kind fits."""

    def __init__(self, kinds: Mapping[str, str], *, first: bool = False) -> None:
        """If `first`, a line is of the first kind it fits: later ones are for what is left."""
        self.first = first
        self.kinds = {name: re.compile(pattern) for name, pattern in kinds.items()}

    def read(self, text: str, findings: Findings) -> list[Line]:
        """The lines of a text; those of no kind, or of more than one, are findings."""
        return list(self._lines(text, findings))

    def _lines(self, text: str, findings: Findings) -> Iterator[Line]:
        if text and not text.endswith("\n"):
            findings.told.append("the last line does not end")
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            fits = [(k, m) for k, p in self.kinds.items() if (m := p.fullmatch(line))]
            if len(fits) == 1 or (fits and self.first):
                kind, match = fits[0]
                groups = {name: value for name, value in match.groupdict().items() if value}
                yield Line(number, kind, groups, line)
            else:
                kinds = [kind for kind, _ in fits]
                findings.told.append(f"line {number} is of kinds {kinds}: {line[:200]!r}")


def moment_of(stamp: str, form: str) -> datetime:
    """The date of a stamp in UTC."""
    return datetime.strptime(f"{stamp} +0000", f"{form} %z")
