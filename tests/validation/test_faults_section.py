"""Simulated months of faults beside what is published of them, as the command tells them."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from ghosttrain.cli import validate
from ghosttrain.cli.main import main
from ghosttrain.validation import faults
from ghosttrain.validation.fault_sections import fault_data, fault_sections
from ghosttrain.validation.faults import FaultOutcome
from ghosttrain.validation.report import html_report, markdown_report
from ghosttrain.validation.sections import Cell
from tests.terminal import ROOT
from tests.validation.test_report import outcome

ROWS = "model,gpu,gpus,seq_len,global_batch_seqs\nLlama-3-8B,h100-sxm,64,8192,512\n"
HEADINGS = [
    "Interruptions, against table 5 of Llama 3 (arXiv:2407.21783)",
    "The run under these faults",
    "Mean time between interruptions by size, hours up",
    "Other faults: as often as the catalogue says",
    "Where the time went",
]


@pytest.fixture(scope="module")
def found() -> FaultOutcome:
    """Two months, and small clusters drawn for a short time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "_FAULTS_A_SIZE", 200)
        patch.setattr(faults, "_MOST_DAYS", 400)
        return faults.assess_faults(2)


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch, found):
    """The months the command asks for; it gets those of `found`."""
    months = []

    def assess(count, progress):
        months.append(count)
        progress(0, count)
        progress(count, count)
        return found

    monkeypatch.setattr(faults, "assess_faults", assess)
    return months


def run(*words):
    return main(["validate", *map(str, words)])


# ---------------------------------------------------------------------------- sections


def test_every_section_has_as_many_cells_as_columns(found):
    sections = fault_sections(found)
    assert [section.heading for section in sections] == HEADINGS
    for section in sections:
        assert {len(row) for row in section.rows} == {len(section.columns)}


def test_the_table_shows_published_expected_and_found_of_every_row(found):
    table = fault_sections(found)[0]
    rows = {row[1].text: row for row in table.rows}
    assert rows["faulty gpu"][2].text == "148"
    whole = rows["all of the table"]
    assert whole[2].text == "419"
    assert whole[6].text == f"{found.interruptions:,}"
    here = found.interruptions * 54 / 60
    assert whole[3].text == f"{here:.1f}"
    assert any("finds nothing to strike" in remark for remark in table.remarks)


def test_a_miss_is_told_with_its_reason(found):
    sizes = fault_sections(found)[2]
    (row,) = [row for row in sizes.rows if row[1].text == "1,024" and "a100" in row[2].text]
    assert row[0] == Cell("MISSED", "bad")
    assert row[6].text == "7.9"
    assert "first hour" in row[8].text


def test_a_count_that_is_off_is_told(found):
    """A kind that came twice too often."""
    struck = found.tally.struck.copy()
    struck["network-congestion"] *= 2
    worse = FaultOutcome(replace(found.tally, struck=struck), found.sizes)
    others = fault_sections(worse)[3]
    (row,) = [row for row in others.rows if row[1].text == "network-congestion"]
    assert row[0].text == "MISSED"
    assert "network-congestion" in fault_data(worse)["missed"]
    assert not fault_data(worse)["is_met"]
    assert worse.p_value(worse.others) < 1e-4 < found.p_value(found.others)


def test_json_is_strict_and_whole(found):
    data = fault_data(found)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["months"] == 2
    assert len(data["categories"]) == 13
    assert sum(data["time_share"].values()) == pytest.approx(1, abs=1e-4)
    assert {"published", "ours", "miss_pct", "is_met"} <= set(data["figures"][0])


def test_reports_have_the_sections_at_their_end(found):
    sections = fault_sections(found)
    page = html_report(outcome(), more=sections)
    text = markdown_report(outcome(), "x.svg", more=sections)
    for heading in HEADINGS:
        assert f"<h2>{heading}</h2>" in page
        assert f"\n## {heading}\n" in text
    assert page.index(HEADINGS[0]) > page.index("Single values")
    assert HEADINGS[0] not in html_report(outcome())


# ---------------------------------------------------------------------------- the command


def test_the_default_number_of_months_is_that_of_the_simulation():
    assert validate.MONTHS == faults.MONTHS


@pytest.mark.parametrize(("words", "months"), [(["--faults"], 200), (["--faults", "7"], 7)])
def test_the_command_tells_them_after_the_rows(capfd, rows_file, asked, words, months):
    assert run("--rows", rows_file, *words) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert asked == [months]
    places = [out.index(f"\n{heading}") for heading in HEADINGS]
    assert places == sorted(places)
    assert places[0] > out.index("Row by row")
    assert " MISSED    1,024  a100-80gb-sxm " in out


def test_they_are_in_json_only_if_asked_for(capfd, rows_file, asked, found):
    assert run("--rows", rows_file, "--json", "--faults") == 0
    assert json.loads(capfd.readouterr().out)["faults"] == fault_data(found)
    assert run("--rows", rows_file, "--json") == 0
    assert "faults" not in json.loads(capfd.readouterr().out)
    assert len(asked) == 1


def test_they_are_in_the_report(tmp_path, rows_file, asked, capfd):
    page = tmp_path / "report.html"
    assert run("--rows", rows_file, "--faults", "--report", page, "--out", "-") == 0
    assert HEADINGS[0] in page.read_text(encoding="utf-8")
    assert capfd.readouterr().out.startswith("model,gpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "-", "--faults"], "--out - writes the rows and nothing else"),
        (["--faults", "0"], "--faults"),
        (["--faults", "many"], "many"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(capfd, asked, words, message):
    try:
        code = run(*words)
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert asked == []


def test_without_the_flag_nothing_of_it_is_loaded(rows_file):
    """It must not slow the command."""
    code = (
        "import sys; from ghosttrain.cli.main import main; "
        f"main(['validate', '--rows', {str(rows_file)!r}]); "
        "print([name for name in sys.modules if 'fault_sections' in name or "
        "name.endswith('validation.faults')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout.splitlines()[-1] == "[]"
