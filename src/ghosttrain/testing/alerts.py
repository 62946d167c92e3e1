"""What alert rules make of a run: its pages, scraped, under promtool's own rule engine.

`promtool test rules` is given the series that a Prometheus would have gathered of a window (a line
that is there no more ends in a marker of staleness), evaluates the rules with their `for:` as the
server would, and is asked at each evaluation which alerts fire. Told to expect none, it prints
those that do. An hour takes seconds, and no wall clock is in it.
"""

# Shapes: K = scrapes.

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghosttrain.core.errors import InputFileError, SpecError, WorldError
from ghosttrain.exporters.prometheus.dcgm import Dialect
from ghosttrain.exporters.prometheus.job import Playing
from ghosttrain.exporters.prometheus.page import Moment, Pages, moment_of
from ghosttrain.serve.discovery import groups
from ghosttrain.testing.promtool_series import notation

if TYPE_CHECKING:
    from ghosttrain.catalog import Metric
    from ghosttrain.core.run import Run

Series = dict[bytes, list[tuple[int, bytes]]]  # by name and labels: number of the scrape, value
Rules = str | Path | Iterable[Path]

JOB_TARGET = "127.0.0.1:9400"  # the job's `instance`, as `ghosttrain serve` would have it
FIRING = 'ALERTS{alertstate="firing"}'
MOST_SCRAPES = 20_000  # five days at 15 s; promtool takes minutes for as many
_GROUP = re.compile(r"^\s*-\s+name:\s*[\"']?([^\"'#\n]+?)[\"']?\s*(?:#.*)?$", re.MULTILINE)
_GOT = re.compile(r'expr: ".*", time: (\S+),\s+exp: ?\S*\s+got: ?(.*)')
_SET = re.compile(r'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_OWN = ("__name__", "alertstate")  # labels of ALERTS that no alert has
_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fired.

    Attributes:
        name: As the rule has it.
        labels: The others of its labels.
        start_s: Run time of the first evaluation at which it fired.
        stop_s: That of the first at which it did not any more; None if it still did at the end.
    """

    name: str
    labels: Mapping[str, str]
    start_s: float
    stop_s: float | None


@dataclass(frozen=True, slots=True)
class Scrapes:
    """When a Prometheus scrapes and evaluates: every so often in [start, stop), run time."""

    start_s: float
    stop_s: float
    every_s: float

    def times_s(self) -> list[float]:
        """The moments, shape (K,).

        Raises:
            SpecError: If there are none, or too many.
        """
        window = f"{self.start_s:,.0f} s to {self.stop_s:,.0f} s every {self.every_s:g} s"
        if self.every_s < 1.0 or self.every_s % 1.0:  # promtool's notation is by the second here
            raise SpecError(f"every {self.every_s:g} s: give whole seconds")
        if not self.start_s < self.stop_s:
            raise SpecError(f"{window}: no moment lies there")
        count = int(np.ceil((self.stop_s - self.start_s) / self.every_s))
        if count > MOST_SCRAPES:
            raise SpecError(f"{window} are {count:,} scrapes: {MOST_SCRAPES:,} are the most")
        return [self.start_s + k * self.every_s for k in range(count)]


def alerts_of(run: Run, metrics: Sequence[Metric], rules: Rules, scrapes: Scrapes) -> list[Alert]:
    """The alerts that fire while a run is scraped, by their start.

    Args:
        run: The run.
        metrics: What its pages have.
        rules: Rule files, or the text of one (a text has more than one line).
        scrapes: When it is scraped, and the rules are evaluated.

    Raises:
        InputFileError: If a rule file cannot be read, or promtool refuses it.
        WorldError: If promtool is not there.
    """
    times_s = scrapes.times_s()
    with tempfile.TemporaryDirectory(prefix="ghosttrain-") as name:
        folder = Path(name)
        paths = _rule_files(rules, folder)
        series = scraped(run, _read_by(paths, metrics), times_s)
        test = folder / "test.yml"
        test.write_text(_unit_test(series, paths, len(times_s), scrapes.every_s), "utf-8")
        return _stretches(_told(test), times_s, scrapes.every_s)


def scraped(run: Run, metrics: Sequence[Metric], times_s: Sequence[float]) -> Series:
    """The series that a Prometheus gathers which is told its targets by `/sd`."""
    pages = Pages(run, metrics, Dialect())
    series: Series = {}
    names: dict[tuple[bytes, bytes], bytes] = {}
    for k, time_s in enumerate(times_s):
        moment = moment_of(run, metrics, Playing(1.0, time_s))
        for target, page in _targets(run, pages, moment):
            up = b"up{%b}" % target
            series.setdefault(up, []).append((k, b"0" if page is None else b"1"))
            for line in (page or b"").splitlines():
                if line.startswith(b"#"):
                    continue
                key, value = line.rsplit(b" ", 1)
                if (target, key) not in names:
                    names[target, key] = _with_target(key, target)
                series.setdefault(names[target, key], []).append((k, value))
    return series


def _targets(run: Run, pages: Pages, moment: Moment) -> Iterator[tuple[bytes, bytes | None]]:
    """The labels of each target, and its page; None if it does not answer."""
    attempt = int(moment.telemetry.attempt[0])
    for group in groups(run, attempt, "127.0.0.1", 9400):
        labels = {"job": "ghosttrain", "instance": JOB_TARGET} | dict(group["labels"])
        shown = {key: text for key, text in labels.items() if not key.startswith("__")}
        target = ",".join(f'{key}="{text}"' for key, text in shown.items()).encode()
        if "node" not in labels:
            yield target, b"".join(pages.job(moment))
        elif int(labels["node"]) in moment.down:
            yield target, None
        else:
            yield target, b"".join(pages.node(moment, int(labels["node"])))


def _with_target(key: bytes, target: bytes) -> bytes:
    name, _, labels = key.rstrip(b"}").partition(b"{")
    return b"%b{%b}" % (name, b",".join(filter(None, (labels, target))))


def _rule_files(rules: Rules, folder: Path) -> list[Path]:
    if isinstance(rules, str) and "\n" not in rules:
        rules = Path(rules)
    if isinstance(rules, str):
        path = folder / "rules.yml"
        path.write_text(rules, "utf-8")
        return [path]
    paths = [rules] if isinstance(rules, Path) else list(rules)
    for path in paths:
        _text(path)
    return [path.resolve() for path in paths]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InputFileError(f"{path}: cannot be read as rules: {why}") from None


def _read_by(rules: Sequence[Path], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that rules can read: the other series would only cost time."""
    text = "\n".join(map(_text, rules))
    by_pattern = "__name__" in text
    return [metric for metric in metrics if by_pattern or metric.name in text]


def _unit_test(series: Series, rules: Sequence[Path], scrapes: int, every_s: float) -> str:
    """A file for `promtool test rules` that asks at each evaluation which alerts fire."""
    # Groups in the order of the files: who reads what another records finds it.
    order = [name for path in rules for name in _GROUP.findall(_text(path))]
    step = f"{every_s:.0f}s"
    lines = [
        "rule_files:",
        *(f"  - '{_quoted(str(path))}'" for path in rules),
        f"evaluation_interval: {step}",
        *(["group_eval_order:", *(f"  - '{_quoted(name)}'" for name in order)] if order else ()),
        "tests:",
        f"  - interval: {step}",
        "    input_series:",
    ]
    for key, values in series.items():
        shown = notation(values, scrapes)
        lines.append(f"      - {{series: '{_quoted(key.decode())}', values: '{shown}'}}")
    lines.append("    promql_expr_test:")
    asked = f"{{expr: '{FIRING}', exp_samples: [], eval_time: "
    lines += [f"      - {asked}{k * every_s:.0f}s}}" for k in range(scrapes)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _told(test: Path) -> Iterator[tuple[float, dict[str, str]]]:
    """(seconds since the first evaluation, labels) of all that fires, as promtool prints it."""
    program = shutil.which("promtool")
    if program is None:
        raise WorldError("promtool is not here: it comes with Prometheus, put it on the PATH")
    done = subprocess.run(
        [program, "test", "rules", str(test)], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    found = _GOT.findall(said)
    if (done.returncode != 0) != bool(found):  # it fails by its answers and by nothing else
        raise InputFileError(f"promtool: {said.replace(f'{test.parent}/', '').strip()[-1000:]}")
    for time, got in found:
        for labels in _SET.findall(got):
            shown = {key: json.loads(f'"{text}"') for key, text in _LABEL.findall(labels)}
            yield _seconds(time), {k: v for k, v in shown.items() if k not in _OWN}


def _seconds(text: str) -> float:
    """Seconds of a duration as promtool prints it, as in 1h2m30s."""
    parts = re.findall(r"([\d.]+)(ms|d|h|m|s)", text)
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _stretches(
    told: Iterable[tuple[float, dict[str, str]]], times_s: Sequence[float], every_s: float
) -> list[Alert]:
    at: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for since_s, labels in told:
        at.setdefault(tuple(sorted(labels.items())), []).append(round(since_s / every_s))
    found: list[Alert] = []
    for key, ks in at.items():
        labels = dict(key)
        name = labels.pop("alertname")
        starts = [k for k, before in zip(ks, [-2, *ks], strict=False) if k != before + 1]
        stops = [k + 1 for k, after in zip(ks, [*ks[1:], -2], strict=True) if after != k + 1]
        for start, stop in zip(starts, stops, strict=True):
            stop_s = times_s[stop] if stop < len(times_s) else None
            found.append(Alert(name, labels, times_s[start], stop_s))
    return sorted(found, key=lambda one: (one.start_s, one.name, sorted(one.labels.items())))
