"""`--faults` as a user has it, and `ghosttrain list scenarios`."""

from __future__ import annotations

import json
import tomllib

import pytest

from ghosttrain.catalog.scenarios import scenario_names
from ghosttrain.cli.main import main
from ghosttrain.inputs.request import Request, resolve

RUN = ("plan", "llama-3-8b", "--seed", "3")


def written(capfd, *words: str) -> dict[str, object]:
    """The spec file that `plan` writes."""
    assert main([*RUN, *words, "--write-spec", "-"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return tomllib.loads(out)


def test_a_scenario_by_name(capfd):
    words = written(capfd, "--faults", "lemon-node")["faults"]
    assert isinstance(words, str)
    assert [word.partition("@")[0] for word in words.split(",")] == [
        "kernel-panic",
        "hbm-ecc",
        "node-reboot",
    ]


def test_a_scenario_file_of_ones_own_and_a_fault_in_words(capfd, tmp_path):
    path = tmp_path / "night.toml"
    path.write_text('[[fault]]\nkind = "slow-link"\nat = "40min"\nwhere = "node 2"\n')
    words = written(capfd, "--faults", f"{path},straggler-gpu@step=40:3=0.07~20min")["faults"]
    assert words == "slow-link@2400s:16,straggler-gpu@step=40:3=0.07~1200s"


def test_a_written_spec_has_the_same_night_without_the_seed(capfd, tmp_path):
    path = tmp_path / "run.toml"
    assert main([*RUN, "--faults", "murphy,realistic", "--write-spec", str(path)]) == 0
    capfd.readouterr()
    asked = resolve(Request("llama-3-8b", {"faults": "murphy,realistic"}), 3)
    assert resolve(Request(str(path)), 99).faults == asked.faults


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gpu-of-bus", "unknown fault 'gpu-of-bus': did you mean gpu-off-bus?"),
        ("zzzz", "unknown fault 'zzzz': give none, realistic, or NAME"),
        ("none.toml", "none.toml: no such file"),
        (".", ".: is not a regular file"),
        ("straggler-gpu=50", "severity 50.0 of straggler-gpu (slow-compute): it may be 0 to 10"),
        ("a\nb", "--faults: faults is 'a\\nb'; it must be a line of text"),
        ("x" * 1001, "it must be a line of text of at most 1,000 characters"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(capfd, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--faults", words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_mistake_in_a_file_is_told_with_its_line(capfd, tmp_path):
    path = tmp_path / "night.toml"
    path.write_text('title = "x"\n\n[[fault]]\nkind = "nic-down"\nat = "1h"\nat_step = 4\n')
    assert main([*RUN, "--faults", str(path)]) == 2
    err = capfd.readouterr().err
    assert err == (f"ghosttrain: {path}:6: at_step and at (line 5) both say when: leave one out\n")


def test_help_names_the_forms_and_the_lists(capfd):
    main(["run", "--help"])
    text = " ".join(capfd.readouterr().out.split())
    for words in ("realistic", "slow-link@2h10min:17=0.3~20min", "`ghosttrain list scenarios`"):
        assert words in text


def test_list_scenarios(capfd):
    assert main(["list", "scenarios", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["name"] for row in rows] == list(scenario_names())
    calm = next(row for row in rows if row["name"] == "rack-loses-switch")
    assert calm == {
        "name": "rack-loses-switch",
        "title": "A rack loses its switch",
        "kinds": "switch-down",
    }
