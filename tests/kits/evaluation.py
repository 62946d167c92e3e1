"""What the kit's rules make of a run: its pages, scraped, under promtool's own rule engine.

Prometheus keeps what it scrapes as series: a line that was there and is not any more ends in a
marker of staleness. So written, `promtool test rules` evaluates the rules with their `for:` as the
server would. Asked at each evaluation which alerts fire, and told to expect none, it prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghosttrain.catalog import Metric
from ghosttrain.core.run import Run
from ghosttrain.exporters.prometheus.dcgm import Dialect, known_metrics
from ghosttrain.exporters.prometheus.job import Playing
from ghosttrain.exporters.prometheus.page import Moment, Pages, moment_of
from ghosttrain.serve.discovery import groups
from tests.real.prometheus import promtool

KITS = Path(__file__).resolve().parents[2] / "kits"
RULES = KITS / "prometheus" / "rules"
JOB_TARGET = b"127.0.0.1:9400"
FIRING = 'ALERTS{alertstate="firing"}'
_METRIC = re.compile(r"\b(?:DCGM|node)_\w+")
_HOST = re.compile(rb'Hostname="([^"]+)"')
_GOT = re.compile(r'expr: ".*", time: (\S+),\s+exp: nil\s+got: (.*)')
_SET = re.compile(r'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

Series = dict[bytes, list[tuple[int, bytes]]]  # by name and labels: number of the scrape, value


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often a server scrapes, and evaluates its rules."""

    scrape_s: int
    evaluate_s: int


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that fired: from the evaluation at `start_s` to that at `stop_s`, None: the end."""

    alert: str
    labels: tuple[tuple[str, str], ...]
    start_s: float
    stop_s: float | None

    def label(self, name: str) -> str:
        """The value of a label, empty without it."""
        return dict(self.labels).get(name, "")


def group_order() -> list[str]:
    """All groups of rules, those first that the others read; promtool wants to be told."""
    first = [RULES / "thresholds.yml", RULES / "recording.yml"]
    paths = [*first, *sorted(set(RULES.glob("*.yml")) - set(first))]
    return [name for path in paths for name in re.findall(r"- name: (\S+)", path.read_text())]


def rule_metrics() -> list[Metric]:
    """The metrics of GPUs and nodes that some rule reads."""
    named = {name for path in RULES.glob("*.yml") for name in _METRIC.findall(path.read_text())}
    return [metric for metric in known_metrics() if metric.name in named]


def pages(run: Run, times_s: Iterable[float]) -> Iterator[tuple[Moment, bytes]]:
    """The state and the page of /metrics at each moment."""
    metrics = rule_metrics()
    made = Pages(run, metrics, Dialect())
    for time_s in times_s:
        moment = moment_of(run, metrics, Playing(1.0, time_s))
        yield moment, b"".join(made.whole(moment))


def scraped(run: Run, times_s: Sequence[float]) -> Series:
    """The series that a server gathers that is told its targets by /sd."""
    series: Series = {}
    names: dict[bytes, bytes] = {}
    for k, (moment, page) in enumerate(pages(run, times_s)):
        for name, is_up in targets(run, moment):
            series.setdefault(name, []).append((k, b"1" if is_up else b"0"))
        for line in page.splitlines():
            if not line.startswith(b"#"):
                key, value = line.rsplit(b" ", 1)
                if (name := names.get(key, b"")) == b"":
                    name = names[key] = as_scraped(key)
                series.setdefault(name, []).append((k, value))
    return series


def targets(run: Run, moment: Moment) -> Iterator[tuple[bytes, bool]]:
    """`up` of each target that /sd names, and whether it answers."""
    attempt = int(moment.telemetry.attempt[0])
    for group in groups(run, attempt, "127.0.0.1", 9400):
        labels = group["labels"]
        is_up = "node" not in labels or int(labels["node"]) not in moment.down
        yield b'up{job="ghosttrain",instance="%s"}' % labels["instance"].encode(), is_up


def as_scraped(key: bytes) -> bytes:
    """A series' name and labels with those of the target it is scraped from."""
    name, _, labels = key.rstrip(b"}").partition(b"{")
    host = _HOST.search(labels)
    added = b'job="ghosttrain"'
    if b'instance="' not in labels:
        added += b',instance="%s"' % (host[1] if host else JOB_TARGET)
    return name + b"{" + added + (b"," + labels if labels else b"") + b"}"


def unit_test(series: Series, scrapes: int, cadence: Cadence) -> str:
    """A file for `promtool test rules` that asks at each evaluation which alerts fire."""
    lines = [
        f"rule_files: [{RULES}/*.yml]",
        f"evaluation_interval: {cadence.evaluate_s}s",
        f"group_eval_order: [{', '.join(group_order())}]",
        "tests:",
        f"  - interval: {cadence.scrape_s}s",
        "    input_series:",
    ]
    for key, values in series.items():
        name = key.decode().replace("'", "''")
        lines.append(f"      - {{series: '{name}', values: '{notation(values, scrapes)}'}}")
    lines.append("    promql_expr_test:")
    asked = f"{{expr: '{FIRING}', exp_samples: [], eval_time: "
    evaluations = range(0, scrapes * cadence.scrape_s, cadence.evaluate_s)
    lines += [f"      - {asked}{time_s}s}}" for time_s in evaluations]
    return "\n".join(lines) + "\n"


def firings(test_file: Path, evaluations: int, evaluate_s: int) -> list[Firing]:
    """What fired and when, by the output of promtool on a file of `unit_test`."""
    done = promtool("test", "rules", test_file)
    said = done.stdout + done.stderr
    found = _GOT.findall(said)
    # It fails by its answers and by nothing else.
    assert (done.returncode != 0) == bool(found), said[-2000:]
    assert "FAILED" in said or "SUCCESS" in said, said[-2000:]
    at: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for time, got in found:
        for labels in _SET.findall(got):
            key = tuple(
                (name, value)
                for name, value in _LABEL.findall(labels)
                if name not in ("__name__", "alertstate")
            )
            at.setdefault(key, []).append(round(_seconds(time) / evaluate_s))
    made = [f for labels, ks in at.items() for f in _stretches(labels, ks, evaluations, evaluate_s)]
    return sorted(made, key=lambda firing: (firing.start_s, firing.alert, firing.labels))


def evaluated(run: Run, cadence: Cadence, folder: Path) -> list[Firing]:
    """What the kit's alerts make of a whole run."""
    times_s = [float(t) for t in np.arange(0.0, run.end_s, cadence.scrape_s)]
    path = folder / "scraped.yml"
    path.write_text(unit_test(scraped(run, times_s), len(times_s), cadence), encoding="utf-8")
    evaluations = -(-len(times_s) * cadence.scrape_s // cadence.evaluate_s)
    return firings(path, evaluations, cadence.evaluate_s)


def notation(values: Sequence[tuple[int, bytes]], scrapes: int) -> str:
    """Values in promtool's notation: `_` where there is none, repeats as VxN, stale at its end."""
    words: list[str] = []
    last: bytes | None = None
    repeats = 0
    following = 0

    def flush() -> None:
        if last is not None:
            words.append(last.decode() if not repeats else f"{last.decode()}x{repeats}")

    for k, value in values:
        if k != following:
            flush()
            gap = k - following
            if following:
                words.append("stale")
                gap -= 1
            if gap:
                words.append(f"_x{gap}")
            last, repeats = None, 0
        if value == last and value != b"NaN":  # which the notation cannot repeat
            repeats += 1
        else:
            flush()
            last, repeats = value, 0
        following = k + 1
    flush()
    if following < scrapes:
        words.append("stale")
    return " ".join(words)


def _stretches(
    labels: tuple[tuple[str, str], ...], ks: Sequence[int], evaluations: int, evaluate_s: int
) -> Iterator[Firing]:
    name = dict(labels)["alertname"]
    others = tuple(pair for pair in labels if pair[0] != "alertname")
    start = ks[0]
    for k, after in zip(ks, [*ks[1:], -1], strict=True):
        if after == k + 1:
            continue
        stop_s = None if k + 1 >= evaluations else float((k + 1) * evaluate_s)
        yield Firing(name, others, float(start * evaluate_s), stop_s)
        start = after


def _seconds(text: str) -> float:
    """Seconds of a duration as promtool prints it, as in 1h2m30s."""
    return sum(float(n) * _UNITS_S[unit] for n, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))
