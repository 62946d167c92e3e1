"""The job's part of a page, and whole pages: read by Prometheus' own parsers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from ghosttrain import catalog
from ghosttrain.core.events import Phase
from ghosttrain.core.job import LastCheckpoint, LastValidation
from ghosttrain.core.run import simulate
from ghosttrain.core.spec import Faults, InjectedFault
from ghosttrain.exporters.prometheus.dcgm import Dialect
from ghosttrain.exporters.prometheus.job import Playing, families, info, spec_hash, written
from ghosttrain.exporters.prometheus.page import Moment, Pages, wants_gzip, wants_openmetrics
from tests.exporters.pages import LAST, ROWS, job_state, small_run, state


def said(*, openmetrics: bool = False, **changes) -> dict[str, float]:
    """Value by name of the job's families with one sample."""
    job = job_state(**changes)
    playing = Playing(1.0, 180.0, 2)
    text = written(families(small_run(), job, playing), openmetrics=openmetrics).decode()
    read = openmetrics_families if openmetrics else text_families
    return {s.name: s.value for f in read(text) for s in f.samples}


def moment(**changes) -> Moment:
    nodes = small_run().nodes(np.array([180.0]))
    return Moment(state(**changes), nodes, job_state(), Playing(1.0, 180.0))


def pages() -> Pages:
    return Pages(small_run(), ROWS, Dialect.of())


def test_values_are_those_of_the_job():
    values = said(restarts=2, steps_lost=30, nodes_down=(1,))
    assert values["ghosttrain_loss"] == 3.25
    assert values["ghosttrain_mfu_ratio"] == 0.41
    assert values["ghosttrain_restarts_total"] == 2
    assert values["ghosttrain_steps_lost_total"] == 30
    assert values["ghosttrain_step"] == 40
    assert values["ghosttrain_speed"] == 1
    assert values["ghosttrain_run_time_seconds"] == 180
    assert values["ghosttrain_nodes_down"] == 1


def test_what_is_not_known_yet_is_left_out():
    values = said(last=None)
    assert "ghosttrain_loss" not in values
    assert "ghosttrain_validation_loss" not in values
    assert "ghosttrain_checkpoint_step" not in values
    assert "ghosttrain_since_step_seconds" not in values


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_loss_that_is_no_number_is_said_not_left_out(openmetrics):
    now = said(openmetrics=openmetrics, last=replace(LAST, loss=math.nan, grad_norm=math.nan))
    assert math.isnan(now["ghosttrain_loss"])
    assert math.isnan(now["ghosttrain_grad_norm"])


def test_what_was_made_last_is_said():
    values = said(
        validation=LastValidation(40, 170.0, 3.3, 3.2),
        checkpoint=LastCheckpoint(40, 175.0, 4.0, 10**11),
        faults={"gpu-off-bus": 2},
        last=replace(LAST, loss_scale=65536),
    )
    assert values["ghosttrain_validation_loss"] == 3.3
    assert values["ghosttrain_best_validation_loss"] == 3.2
    assert values["ghosttrain_checkpoint_size_bytes"] == 1e11
    assert values["ghosttrain_faults_total"] == 2
    assert values["ghosttrain_loss_scale"] == 65536


def test_counters_never_fall_in_a_run_that_goes_back():
    """Steps and lost steps around a crash, a relaunch and what is done again."""
    fault = InjectedFault(catalog.fault_kind("node-crash"), at_s=200.0, gpu=9)
    run = simulate(replace(small_run().spec, faults=Faults(injected=(fault,))), 7)
    before: dict[str, float] = {}
    steps = []
    for time_s in np.linspace(0, run.end_s, 400).tolist():
        text = written(families(run, run.job(time_s), Playing(1, time_s)), openmetrics=False)
        now = {
            f"{s.name}{s.labels}": s.value
            for f in text_families(text.decode())
            if f.type == "counter"
            for s in f.samples
        }
        assert not [name for name in before if now[name] < before[name] - 1e-9]
        before = now
        steps.append(now["ghosttrain_steps_total{}"])
    lost = run.timeline.incidents[0].steps_lost
    assert steps[-1] - 60 - lost in (0, 1), "those done again, and the one that was cut short"


def test_exactly_one_phase_is_the_present_one():
    job = job_state(phase=Phase.HANG)
    text = written(families(small_run(), job, Playing(1, 0)), openmetrics=False).decode()
    phases = {
        s.labels["phase"]: s.value
        for f in text_families(text)
        if f.name == "ghosttrain_phase"
        for s in f.samples
    }
    assert [phase for phase, value in phases.items() if value] == ["hang"]
    assert len(phases) > 8


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_name_of_ours_ends_in_its_unit_and_says_that_it_is_simulated(openmetrics):
    said_ = families(small_run(), job_state(), Playing(1, 0))
    for family in said_:
        assert family.name.startswith("ghosttrain")
        assert "(simulated)" in family.documentation
        if family.unit:
            assert family.name.endswith(f"_{family.unit}")
    assert said(openmetrics=openmetrics)["ghosttrain_steps_total"] > 0


def test_the_info_names_the_run_and_its_spec():
    text = written([info(small_run())], openmetrics=False).decode()
    (sample,) = [s for f in text_families(text) for s in f.samples]
    assert sample.name == "ghosttrain_info"
    assert sample.labels["simulated"] == "true"
    assert sample.labels["seed"] == "7"
    assert sample.value == 1


def test_the_hash_is_of_what_is_asked_not_of_its_date():
    run = small_run()
    later = simulate(replace(run.spec, start_unix_s=run.spec.start_unix_s + 86400), 7)
    longer = replace(run.spec.recipe, steps_per_epoch=61)
    assert spec_hash(later) == spec_hash(run)
    assert spec_hash(simulate(replace(run.spec, recipe=longer), 7)) != spec_hash(run)


def reference(now: Moment) -> str:
    """The same page as the library writes it, family by family, label by label."""
    plain = b"".join(pages().whole(now)).decode()

    class All:
        def collect(self):
            for row in ROWS:
                made = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
                lines = [line for line in plain.splitlines() if line.startswith(f"{row.name}{{")]
                values = now.telemetry.columns[row.field][0].tolist()
                (first,) = list(text_families(lines[0] + "\n"))
                family = made(row.name, row.help, labels=list(first.samples[0].labels))
                for line, value in zip(lines, values, strict=True):
                    ((sample,),) = [f.samples for f in text_families(line + "\n")]
                    digits = 3 if row.field.endswith("_w") else 6
                    family.add_metric(list(sample.labels.values()), round(value, digits))
                yield family
            yield info(small_run())
            yield from families(small_run(), now.job, now.playing)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(All())
    return generate_latest(registry).decode()


def samples_of(family) -> list[tuple[Any, ...]]:
    """Name, labels by name (the library sorts them) and value of each sample."""
    return sorted((s.name, *sorted(s.labels.items()), s.value) for s in family.samples)


def test_a_whole_page_is_what_the_library_would_write():
    """Same families, types, help, labels and values: parsed, as order and spelling may differ."""
    now = moment()
    ours = b"".join(pages().whole(now)).decode()
    first, second = (
        sorted((f.name, f.type, f.documentation, samples_of(f)) for f in text_families(text))
        for text in (ours, reference(now))
    )
    assert first == second
    assert len(first) > 25


def test_openmetrics_pages_end_once_and_parse():
    now = moment()
    for pieces in (
        pages().whole(now, openmetrics=True),
        pages().node(now, 1, openmetrics=True),
        pages().job(now, openmetrics=True),
    ):
        text = b"".join(pieces).decode()
        assert text.count("# EOF") == 1
        assert text.endswith("# EOF\n")
        names = [f.name for f in openmetrics_families(text)]
        assert "ghosttrain" in names, "every page says that it is simulated"


def test_a_page_of_a_node_says_nothing_of_the_job():
    text = b"".join(pages().node(moment(), 1)).decode()
    assert "ghosttrain_loss" not in text
    assert 'simulated="true"' in text
    assert "gpu-0000" not in text


def test_the_same_moment_gives_the_same_bytes_whatever_was_asked_before():
    now, one, other = moment(), pages(), pages()
    one.node(now, 1)
    one.whole(moment(lost=((3,),)), openmetrics=True)
    assert one.whole(now) == other.whole(now)


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text; version=1.0.0", True),
        ("application/openmetrics-text", True),
        ("text/plain;version=0.0.4;q=0.9, application/openmetrics-text;version=1.0.0;q=0.3", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        (";;,,;q=", False),
    ],
)
def test_formats_are_negotiated(accept, expected):
    assert wants_openmetrics(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("", False),
    ],
)
def test_packing_is_negotiated(header, expected):
    assert wants_gzip(header) is expected
