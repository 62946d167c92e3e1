"""`ghosttrain score` as a user has it: files, pipes, misuse; and the detector of the examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ghosttrain import catalog
from ghosttrain.cli.main import COMMANDS, main
from tests.scoring.truths import LABELS, as_lines
from tests.terminal import ROOT, PtyRun, run_piped

ALARMS = """\
start_s,class,entity,confidence
130,gpu-off-bus,node 1,0.9
140,gpu-off-bus,gpu 9,0.9
700,hbm-ecc,gpu 1,0.2
1010,nic-down,node 0,0.8
5100,loss-spike,job,0.7
"""
DETECTOR = ROOT / "examples" / "baseline_detector.py"


@pytest.fixture
def files(tmp_path):
    labels, alarms = tmp_path / "labels.jsonl", tmp_path / "alarms.csv"
    labels.write_text(as_lines(LABELS), encoding="utf-8")
    alarms.write_text(ALARMS, encoding="utf-8")
    return str(labels), str(alarms)


def run(*words):
    return main(["score", *map(str, words)])


def test_a_table_for_people(capfd, files):
    assert run(*files) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == "3 incidents, and 1 benign one in 2.8 h of run time, seed 7"
    assert lines[1] == "5 alarms: 2 true, 2 false (1 at benign incidents), 1 repeat"
    rows = {line[:24].strip(): line[24:].split() for line in lines[3:13]}
    assert rows["recall"][0] == "0.67"
    assert rows["precision"][0] == "0.50"
    assert rows["F1"][0] == "0.57"
    assert rows["time to detect, median s"][:2] == ["20.0", "-"]
    assert rows["class right"][0] == "0.50"
    assert rows["entity exact"][0] == rows["entity near"][0] == "0.50"
    assert any(line.split() == ["nic-down", "0", "0", "-", "-", "-", "1", "0"] for line in lines)
    assert "3 incidents: too few to tell detectors apart" in out


def test_json_has_the_same_figures_and_what_became_of_each_row(capfd, files):
    assert run(*files, "--json") == 0
    data = json.loads(capfd.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert data["recall"]["value"] == pytest.approx(2 / 3)
    assert data["precision"]["value"] == 0.5
    assert data["time_to_detect_s"]["median"]["value"] == 20.0
    assert data["run"] == {"seed": 7, "end_s": 10_000.0, "is_cut": False}
    first, second, third, fourth = data["incident_rows"]
    assert (first["alarm_line"], first["class_right"], first["entity_right"]) == (2, True, "near")
    assert (second["time_to_detect_s"], second["class_right"]) == (10.0, False)
    assert (third["benign"], third["found"], fourth["found"]) == (True, False, False)
    assert [(a["line"], a["outcome"], a["incident"]) for a in data["alarm_rows"]] == [
        (2, "found", 1),
        (3, "repeat", 1),
        (4, "false", None),
        (5, "found", 2),
        (6, "benign", 3),
    ]
    assert data["warnings"] == []


def test_flags_reach_the_score(capfd, files):
    words = ("--grace", "5min", "--confidence-threshold", "0.5", "--resamples", "50", "--seed", "3")
    assert run(*files, "--json", *words) == 0
    data = json.loads(capfd.readouterr().out)
    assert (data["grace_s"], data["left_out"], data["false_alarms"]) == (300.0, 1, 1)
    assert data["bootstrap"] == {"seed": 3, "resamples": 50}
    assert run(*files, "--json", "--grace", "0") == 0
    assert json.loads(capfd.readouterr().out)["grace_s"] == 0


def test_no_alarms_have_a_recall_and_no_precision(capfd, files, tmp_path):
    (tmp_path / "none").write_text("")
    assert run(files[0], tmp_path / "none") == 0
    rows = capfd.readouterr().out.splitlines()
    recall = next(row.split() for row in rows if row.startswith("recall"))
    precision = next(row.split() for row in rows if row.startswith("precision"))
    assert recall[:5] == ["recall", "0.00", "0.00", "to", "0.71"]
    assert precision[:3] == ["precision", "-", "-"]


def test_no_incidents_have_no_recall(capfd, files, tmp_path):
    (tmp_path / "quiet").write_text(as_lines([LABELS[0], LABELS[-1]]))
    assert run(tmp_path / "quiet", files[1]) == 0
    out = capfd.readouterr().out
    assert out.startswith("0 incidents in 2.8 h")
    assert next(row for row in out.splitlines() if row.startswith("recall")).split()[1] == "-"
    assert "too few" not in out


def test_either_file_may_come_from_a_pipe(files):
    labels, alarms = files
    command = [sys.executable, "-m", "ghosttrain", "score"]
    env = dict(os.environ, PYTHONPATH=str(ROOT / "src"))
    whole = run_piped("score", labels, alarms).stdout
    for words, text in ((["-", alarms], as_lines(LABELS)), ([labels, "-"], ALARMS)):
        done = subprocess.run(
            command + words, input=text.encode(), capture_output=True, check=False, env=env
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, b"", whole)


def test_what_is_odd_is_a_warning_on_stderr(capfd, files, tmp_path):
    (tmp_path / "odd").write_text('{"start_s": 130, "class": "gpu-of-bus"}\n')
    assert run(files[0], tmp_path / "odd") == 0
    out, err = capfd.readouterr()
    assert "did you mean gpu-off-bus? (counts as wrong)" in err
    assert next(row for row in out.splitlines() if row.startswith("class right")).split()[2] == (
        "0.00"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nowhere", "{alarms}"), "nowhere: cannot be read: No such file"),
        (("{labels}", "nowhere"), "nowhere: cannot be read: No such file"),
        ((".", "{alarms}"), ".: cannot be read: Is a directory"),
        (("a\0b", "{alarms}"), "cannot be read: no such name"),
        (("{alarms}", "{alarms}"), "line 1: is not JSON"),
        (("{labels}", "{labels}"), "line 1: start_s is missing"),
        (("-", "-"), "both -: give one of them a file"),
        (("{labels}",), "required: PREDICTIONS"),
        (("{labels}", "{alarms}", "--confidence-threshold", "2"), "not a number from 0 to 1"),
        (("{labels}", "{alarms}", "--confidence-threshold", "nan"), "not a number from 0 to 1"),
        (("{labels}", "{alarms}", "--grace", "-1"), "--grace"),
        (("{labels}", "{alarms}", "--resamples", "0"), "not a whole number above 0"),
        (("{labels}", "{alarms}", "--resamples", "2000000"), "at most 1,000,000"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_or_two(capfd, files, words, complaint):
    labels, alarms = files
    assert run(*(word.format(labels=labels, alarms=alarms) for word in words)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert complaint in err
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


def test_help_has_the_examples(capfd):
    assert run("--help") == 0
    out = capfd.readouterr().out
    for example in COMMANDS["score"][1]:
        assert example in out


def test_on_a_narrow_terminal_no_row_wraps(files):
    with PtyRun("score", *files, columns=60, lines=60) as shown:
        assert shown.wait() == 0
        rows = shown.terminal.text_rows()
    assert len(rows) == shown.output.count(b"\r\n")
    assert all(len(row) <= 60 for row in rows)


def detect(events):
    done = subprocess.run(
        [sys.executable, str(DETECTOR)], input=events, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def hand_made_log(*, slow_from=10**9, spike_at=0, more=()):
    """150 steps of 2 s on 16 GPUs, sampled every ten."""
    rows = [{"event": "run_started", "time_s": 0.0, "gpus": 16, "gpus_per_node": 8}]
    time_s = 100.0
    for step in range(1, 151):
        step_s = (2.4 if step >= slow_from else 2.0) + 0.01 * (step % 3)
        time_s += step_s
        rows.append(
            {
                "event": "step", "time_s": time_s, "attempt": 1, "step": step,
                "loss": 3.0 + (1.5 if step == spike_at else 0.0), "step_time_s": step_s,
            }
        )  # fmt: skip
        if step % 10 == 0:
            sample = {"util_pct": [99] * 16, "temp_c": [60] * 16, "power_w": [600.0] * 16}
            rows.append({"event": "fleet", "time_s": time_s, "step": step, "lost": [], **sample})
    return "".join(json.dumps(row) + "\n" for row in [*rows, *more]).encode()


def test_the_detector_keeps_quiet_about_a_good_run():
    assert detect(hand_made_log()) == []


def test_the_detector_sees_slow_steps_and_spikes():
    (slow,) = detect(hand_made_log(slow_from=100))
    assert (slow["class"], slow["start_s"]) == ("straggler-gpu", pytest.approx(313, abs=9))
    (spike,) = detect(hand_made_log(spike_at=120))
    assert (spike["class"], spike["entity"]) == ("loss-spike", "job")


def test_the_detector_reads_lines_but_not_whose_fault_they_are():
    line = {"event": "message_logged", "time_s": 410.0, "message": "kernel_xid", "fault": 1}
    where = {"node": 1, "rank": None, "code": 79, "value": 0.0, "attempt": 1, "step": 150}
    told = detect(hand_made_log(more=[line | where]))
    assert [(a["class"], a["entity"]) for a in told] == [("gpu-off-bus", "node 1")]
    assert detect(hand_made_log(more=[{k: v for k, v in (line | where).items() if k != "fault"}]))
    truth = {"event": "incident_labelled", "time_s": 411.0, "kind": "hbm-ecc"}
    assert detect(hand_made_log(more=[truth, truth | {"event": "fault_occurred"}])) == []


def test_the_detector_misses_steps_that_do_not_come():
    fleet = {"event": "fleet", "step": 150, "lost": [9], "util_pct": [100] * 16}
    more = [
        fleet | {"time_s": 400.0 + 60 * k, "temp_c": [50] * 16, "power_w": [200.0] * 16}
        for k in range(1, 4)
    ]
    told = detect(hand_made_log(more=more))
    assert [a.get("class") for a in told] == [None, "gpu-off-bus"]
    assert told[1]["entity"] == "gpu 9"


def test_the_classes_of_the_detector_are_those_of_the_catalogue():
    text = DETECTOR.read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": "detector"}
    exec(compile(text, str(DETECTOR), "exec"), scope)
    xids, messages = scope["XID_CLASSES"], scope["MESSAGE_CLASSES"]
    assert isinstance(xids, dict)
    assert isinstance(messages, dict)
    named = {*xids.values(), *messages.values()}
    named |= {"straggler-gpu", "link-flap", "loss-spike", "fan-failure", "power-cap"}
    assert named <= set(catalog.names("fault"))
    from ghosttrain.core.events import MessageKind

    assert {*messages} <= {kind.value for kind in MessageKind}


def test_the_detector_end_to_end_is_neither_blind_nor_perfect(tmp_path):
    """Several faults of different kinds in one run, exported, watched and scored."""
    faults = (
        "gpu-off-bus@30min:9,hbm-ecc@2h:17,ecc-sbe-storm@3h:5,loss-spike@4h,"
        "network-congestion@5h,host-crash@6h:25,straggler-gpu@7h:3"
    )
    done = run_piped(
        "export", "llama-3-8b", "--gpus", "32", "--steps", "9000", "--seed", "5",
        "--faults", faults, "--to", str(tmp_path), "--format", "jsonl,labels",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    told = detect((tmp_path / "events.jsonl").read_bytes())
    alarms = tmp_path / "alarms.jsonl"
    alarms.write_text("".join(json.dumps(alarm) + "\n" for alarm in told))
    results = [
        json.loads(run_piped("score", str(tmp_path / file), str(alarms), "--json").stdout)
        for file in ("labels.jsonl", "events.jsonl")
    ]
    assert results[0] == results[1], "both files hold the same truth"
    score = results[0]
    assert (score["incidents"], score["lookalikes"]) == (6, 1)
    assert score["warnings"] == []
    assert 2 <= score["found"] <= 6
    assert 0 < score["f1"]["value"] < 1 or score["class_right"]["value"] < 1
