"""`ghosttrain list` as a user has it."""

from __future__ import annotations

import json
import re

import pytest

from ghosttrain import catalog
from ghosttrain.catalog.scenarios import scenario_names
from ghosttrain.cli.list import KINDS, kind_of
from ghosttrain.cli.main import main
from ghosttrain.core.errors import SpecError
from ghosttrain.exporters.formats import EXPORTERS, LOGS
from ghosttrain.exporters.prometheus.dcgm import known_metrics
from tests.terminal import PtyRun


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_lists_names_the_commands_take(capfd, kind):
    assert main(["list", kind]) == 0
    plain = capfd.readouterr().out.splitlines()
    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [line.split("  ")[0] for line in plain[1:]] == [row["name"] for row in rows]
    assert plain[0].startswith("name")
    if kind == "scenarios":
        assert [row["name"] for row in rows] == list(scenario_names())
    elif kind == "metrics":
        names = [row["name"] for row in rows]
        assert names == list(dict.fromkeys(metric.name for metric in known_metrics()))
    elif kind != "formats":
        assert [row["name"] for row in rows] == catalog.names(kind[:-1])


def test_formats_say_which_command_has_them(capfd):
    assert main(["list", "formats", "--json"]) == 0
    users = {row["name"]: row["commands"] for row in json.loads(capfd.readouterr().out)}
    assert users["classic"] == "run, check"
    assert users["jsonl"] == "run, export, check"
    assert [name for name in users if "export" in users[name]] == [*EXPORTERS]
    assert [name for name in users if "run" in users[name]] == ["classic", *LOGS]


@pytest.mark.parametrize("text", ["gpu", "GPUs", "gpus", " Gpu "])
def test_a_kind_may_be_one_or_many_in_any_case(text):
    assert kind_of(text) == "gpus"


@pytest.mark.parametrize(
    ("text", "hint"), [("modls", "did you mean models? "), ("events", ""), ("", "")]
)
def test_an_unknown_kind_is_told_what_there_is(text, hint):
    with pytest.raises(SpecError) as error:
        kind_of(text)
    assert str(error.value) == f"unknown kind {text!r}: {hint}there are {', '.join(KINDS)}"


def test_names_choose_what_is_listed(capfd):
    counts = {}
    for names in ("earnest", "satirical", "mixed"):
        main(["list", "models", "--names", names])
        counts[names] = len(capfd.readouterr().out.splitlines()) - 1
    assert counts["earnest"] + counts["satirical"] == counts["mixed"]


def test_json_values_are_numbers_with_units_in_their_names(capfd):
    main(["list", "models", "--json"])
    row = next(r for r in json.loads(capfd.readouterr().out) if r["name"] == "llama-3-8b")
    assert row["parameters"] == 8_030_261_248


@pytest.mark.parametrize("kind", ["models", "gpus", "datasets"])
def test_on_80_columns_no_row_wraps(kind):
    with PtyRun("list", kind, columns=80, lines=400) as run:
        assert run.wait() == 0
        assert run.output.count(b"\n") == len(run.terminal.text_rows())
        assert all(len(row) <= 80 for row in run.terminal.text_rows())


def test_faults_fit_120_columns(capfd):
    main(["list", "faults"])
    header, *lines = capfd.readouterr().out.splitlines()
    columns = ("name", "title", "scope", "course", "Xid", "per 1,000 GPU-days")
    assert tuple(re.split(r" {2,}", header)) == columns
    assert max(len(line) for line in lines) <= 120
    first = next(line for line in lines if line.startswith("gpu-off-bus"))
    assert first.split("  ")[-1].strip() == "0.07008"  # 62 in 884,736 GPU-days
    assert "79, 154" in first


def test_xids_are_numbers_in_json(capfd):
    main(["list", "faults", "--json"])
    row = next(r for r in json.loads(capfd.readouterr().out) if r["name"] == "hbm-ecc")
    assert row["xids"] == [48, 63, 94]
    assert (row["scope"], row["course"]) == ("gpu", "crash")
