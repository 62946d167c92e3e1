"""What a detector said: alarms from JSON lines or CSV."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from ghosttrain import catalog
from ghosttrain.core.errors import InputFileError, UnknownNameError
from ghosttrain.scoring.rows import Row, opened, parsed, shown
from ghosttrain.scoring.truth import Truth

SLACK_S = 0.001  # logs print run times with six decimals: an alarm at the very end is none too late
MOST_WARNINGS = 5
LONGEST_NAME = 60  # of one that is shown
FIELDS = ("start_s", "end_s", "time_s", "class", "entity", "confidence")
_PLACE = re.compile(r"(gpu|node|rack)[\s:_-]*(\d{1,9})", re.ASCII)
_SHARED = ("fabric", "storage", "job")
_NUMBERS = ("start_s", "end_s", "time_s", "confidence")


@dataclass(frozen=True, slots=True)
class Alarm:
    """One prediction: from `start_s` on something is wrong.

    Attributes:
        line: Where it stands in its file.
        kind: Class it names, None where it names none.
        entity: Place it names, likewise.
        confidence: 0..1, None where it has none.
    """

    line: int
    start_s: float
    kind: str | None = None
    entity: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Alarms:
    """The alarms of a file, in its order, and what is odd about them."""

    alarms: tuple[Alarm, ...]
    warnings: tuple[str, ...] = ()


def read_alarms(file: str, truth: Truth) -> Alarms:
    """The alarms in a file; "-" is standard input.

    Raises:
        InputFileError: If it cannot be read, or a row makes no sense for this run.
    """
    where = shown(file)
    names = Names({incident.kind for incident in truth.incidents})
    alarms = []
    try:
        with opened(file) as stream:
            for line, row in _rows(stream, where):
                alarms.append(_alarm(line, row, truth, names))
    except OSError as error:
        raise InputFileError(f"{where}: cannot be read: {error.strerror or error}") from None
    warnings = names.warnings[:MOST_WARNINGS]
    if more := len(names.warnings) - len(warnings):
        warnings.append(f"{where}: {more:,} more names are unknown")
    return Alarms(tuple(alarms), tuple(warnings))


def _alarm(line: int, row: Row, truth: Truth, names: Names) -> Alarm:
    begin = "start_s" if row.has("start_s") else "time_s"
    if not row.has(begin):
        raise InputFileError(f"{row.at}: start_s is missing: when did the alarm begin?")
    start_s = row.time_s(begin)
    ends = [(begin, start_s)]
    if row.has("end_s"):
        ends.append(("end_s", row.time_s("end_s", start_s)))
    for name, time_s in ends:
        if time_s > truth.end_s + SLACK_S:
            raise InputFileError(
                f"{row.at}: {name} is {time_s:.10g} s, after the run's end at"
                f" {truth.end_s:.10g} s: are these alarms of another run?"
            )
    kind = names.kind(row.text("class"), row.at) if row.has("class") else None
    entity = names.entity(row.text("entity"), row.at) if row.has("entity") else None
    confidence = row.share("confidence") if row.has("confidence") else None
    return Alarm(line, start_s, kind, entity, confidence)


class Names:
    """Turns what detectors say into the words of labels; what nobody knows is told once.

    Attributes:
        warnings: A sentence for each unknown name.
    """

    def __init__(self, kinds: Iterable[str]) -> None:
        self.warnings: list[str] = []
        self._kinds = {kind: kind for kind in kinds}
        self._entities: dict[str, str] = {}

    def kind(self, text: str, at: str) -> str:
        """The class meant by `text`: the run's own, or one of the catalogue by any of its names."""
        if text not in self._kinds:
            try:
                self._kinds[text] = catalog.key("fault", text)
            except UnknownNameError:
                every = [*self._kinds, *catalog.names("fault")]
                error = UnknownNameError("fault", text[:LONGEST_NAME], every)
                self.warnings.append(f"{at}: {error} (counts as wrong)")
                self._kinds[text] = text
        return self._kinds[text]

    def entity(self, text: str, at: str) -> str:
        """The entity as labels name it: "GPU-17" is gpu 17."""
        if text not in self._entities:
            folded = text.casefold()
            found = _PLACE.fullmatch(folded)
            if found is None and folded not in _SHARED:
                self.warnings.append(
                    f"{at}: no entity {text[:LONGEST_NAME]!a}: name one as in gpu 17, node 2,"
                    " rack 0, fabric, storage or job (counts as wrong)"
                )
            self._entities[text] = f"{found[1]} {int(found[2])}" if found else folded
        return self._entities[text]


def _rows(stream: BinaryIO, where: str) -> Iterator[tuple[int, Row]]:
    """The rows of JSON lines or, where the first line is no object, of CSV, with their lines."""
    lines = enumerate(stream, 1)
    for number, line in lines:
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        if line.lstrip().startswith((b"{", b"[")):
            yield from _json_rows(number, line, lines, where)
        else:
            yield from _csv_rows(number, line + stream.read(), where)
        return


def _json_rows(
    number: int, line: bytes, lines: Iterator[tuple[int, bytes]], where: str
) -> Iterator[tuple[int, Row]]:
    while True:
        if line.strip():
            at = f"{where}: line {number}"
            yield number, Row(parsed(line, at), at)
        number, line = next(lines, (0, b""))
        if not number:
            return


def _csv_rows(first: int, data: bytes, where: str) -> Iterator[tuple[int, Row]]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InputFileError(f"{where}: is not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not {"start_s", "time_s"} & set(header):
            raise InputFileError(
                f"{where}: line {first}: is neither a JSON object nor the header of a CSV with"
                " the column start_s"
            )
        for cells in reader:
            line = first - 1 + reader.line_num
            if any(cell.strip() for cell in cells):
                yield line, _csv_row(header, cells, f"{where}: line {line}")
    except csv.Error as error:
        line = first - 1 + reader.line_num
        raise InputFileError(f"{where}: line {line}: is no CSV: {error}") from None


def _csv_row(header: list[str], cells: list[str], at: str) -> Row:
    """The cells that are not blank, numbers read as such."""
    values: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=False):
        if name not in FIELDS or not cell.strip():
            continue
        values[name] = cell.strip()
        if name in _NUMBERS:
            with suppress(ValueError):  # what is no number stays text: Row says so
                values[name] = float(cell)
    return Row(values, at)
