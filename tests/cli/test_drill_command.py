"""`ghosttrain drill` as a player has it: by a script, at a terminal, misused."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from ghosttrain import catalog
from tests.terminal import GHOSTTRAIN, ROOT, PtyRun, run_piped

RUN = ("--model", "llama-3-8b", "--seed", "7")
ONSET = re.compile(r"(\S+) on (gpu \d+|node \d+|rack \d+|\w+)")


def play(script: str, *words: str, environ: dict[str, str] | None = None) -> tuple[str, str, int]:
    done = subprocess.run(
        [*GHOSTTRAIN, "drill", *words],
        input=script.encode(),
        capture_output=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT / "src"), PYTHONIOENCODING="utf-8")
        | (environ or {}),
        check=False,
        timeout=60,
    )
    return done.stdout.decode(), done.stderr.decode(), done.returncode


def truth(*words: str) -> tuple[str, str]:
    """Class and entity that a drill hides."""
    out = play("reveal\n", *words)[0]
    found = ONSET.search(out.partition("The truth\n")[2])
    assert found
    return found[1], found[2]


def points(out: str) -> int:
    found = re.search(r"Score: (\d+) of 100", out)
    assert found, out
    return int(found[1])


def test_a_whole_session():
    kind, entity = truth("straggler", *RUN)
    script = (
        "help\nwatch 40min\nmetrics\ncompare 5min\ngpus\ngpus node 2\ngpu 17\nxid\nlog 1min\n"
        f"hint\ndiagnose slow-node node 1\ndiagnose straggler {entity}\nwatch\n"
    )
    out, err, code = play(script, "straggler", *RUN)
    assert (err, code) == ("", 0)
    before, _, after = out.partition("Right.\n")
    for echoed in ("> watch 40min\n", "> metrics\n", "> gpus node 2\n", "> hint\n"):
        assert echoed in before
    assert "step 1000/3060" in before
    assert "step time s" in before
    assert f"{entity} (node" in before, "compare finds it"
    assert "GPU status" in before
    assert "SM clock MHz" in before
    assert "Partly right: 2 tries left." in before
    assert "Hint 1 (-10 points)" in before
    assert f"{kind} on {entity}" in after
    assert f"you: diagnose {kind} {entity}: right" in after
    for heading in ("What happened", "What could be seen", "What is done about it", "Score"):
        assert f"\n{heading}\n" in after
    assert re.search(r"step time +metrics +1\.\d+ → \d\.\d+ s \(\+\d\.\d %\) from step", after)
    assert 75 <= points(out) <= 80, "a hint and another try"
    assert "> watch\n" not in after, "it has ended"
    assert "\x1b" not in out


def test_same_script_same_bytes():
    words = ("--level", "hard", "--seed", "3", "--model", "llama-3-8b")
    script = "watch 20min\nmetrics\ncompare\ngpus\nhint\ndiagnose nan\nreveal\n"
    assert play(script, *words) == play(script, *words)


@pytest.mark.parametrize("seed", ["1", "2", "3", "4"])
def test_nothing_leaks_before_the_reveal(seed):
    words = ("--model", "llama-3-8b", "--seed", seed)
    script = "watch 3h\nlog 3h\nmetrics 3h\ncompare\ngpus\nxid\ngpu 3\nwatch 9h\nquit\n"
    out, err, code = play(script, *words)
    assert (err, code) == ("", 0)
    kind, _ = truth(*words)
    scenario = re.search(r"\(scenario (\S+)\)", play("reveal\n", *words)[0])
    assert scenario
    assert "The run is over" in out
    for secret in (kind, scenario[1], "[fault", "--faults", *catalog.names("fault")):
        assert secret not in out
    assert "Nothing was revealed" in out
    assert f"This drill again: ghosttrain drill --model llama-3-8b --seed {seed} --start" in out


def test_the_line_at_the_end_is_the_run(tmp_path):
    """The revealed command shows the same faults at the same moments."""
    out = play("reveal\n", "lemon-node", "--model", "llama-3-8b", "--seed", "5")[0]
    command = re.search(r"The run, with what went wrong: ghosttrain (.*)", out)
    assert command
    words = (*shlex.split(command[1]), "--format", "jsonl", "--runs", "1", "--speed", "max")
    rows = [json.loads(line) for line in run_piped(*words).stdout.splitlines()]
    labels = [row for row in rows if row["event"] == "incident_labelled" and not row["benign"]]
    assert len(labels) >= 2
    for label in labels:
        assert f"{label['kind']} on {label['entity']}" in out


def test_a_script_that_ends_reveals_only_what_was_answered():
    quiet, _, code = play("watch 5min", "straggler", *RUN)
    assert code == 0
    assert "The truth" not in quiet
    assert quiet.endswith("Z\n")
    assert "This drill again: ghosttrain drill straggler --model llama-3-8b --seed 7" in quiet
    answered = play("watch 5min\ndiagnose slow-node node 1\n", "straggler", *RUN)[0]
    assert "The truth" in answered
    assert play("", "straggler", *RUN)[2] == 0


def test_an_early_answer_is_wrong_and_says_no_more():
    kind, entity = truth("straggler", *RUN)
    early = play(f"diagnose {kind} {entity}\nquit\n", "straggler", *RUN)[0]
    other = play("diagnose nan\nquit\n", "straggler", *RUN)[0]
    for out in (early, other):
        assert "\nWrong: 2 tries left.\n" in out.partition("The truth")[0]
        assert points(out) == 0


def test_three_tries():
    out = play("diagnose nan\ndiagnose oom\ndiagnose bug\ndiagnose sdc\n", "straggler", *RUN)[0]
    assert "Wrong: no tries left." in out
    assert "> diagnose sdc" not in out
    assert "The truth" in out


def test_mistakes_are_told_and_cost_nothing():
    script = (
        "wach\nfrobnicate\nwatch soon\nwatch -5min\ndiagnose\ndiagnose straggly gpu 1\n"
        "diagnose straggler gpu 64\ngpu 99\ngpu\ngpus rack 1\n\n  # a comment\nquit\n"
    )
    out, err, code = play(script, "straggler", *RUN)
    assert (err, code) == ("", 0)
    for told in (
        "unknown command 'wach': did you mean watch?",
        "unknown command 'frobnicate': `help` lists what there is",
        "duration 'soon' makes no sense",
        "diagnose what?",
        "did you mean straggler",
        "there is no gpu 64",
        "`gpu N` with a gpu from 0 to 63",
        "`gpus node N` with a node from 0 to 7",
    ):
        assert told in out
    assert "tries left" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("stragler",), "did you mean straggler"),
        (("calm-night",), "it only looks so"),
        (("realistic",), "may hide nothing"),
        (("--faults", "straggler"), "leave --faults out"),
        (("--level", "insane"), "easy"),
        (("straggler", "no-such-model"), "no-such-model"),
        (("straggler", "llama-3-8b", "gpt-2"), "one too many"),
    ],
)
def test_what_cannot_be_ends_with_2_and_a_line_or_two(words, told):
    out, err, code = play("", *words)
    assert code == 2
    assert told in err
    assert 1 <= err.count("\n") <= 2
    assert "Traceback" not in err + out


def test_a_run_of_ones_own(tmp_path):
    scenario = tmp_path / "night.toml"
    scenario.write_text('[[fault]]\nkind = "loss-nan"\nat_share = 0.3\n', encoding="utf-8")
    words = (str(scenario), "gpt-2", "--gpus", "8", "--seed", "2")
    out, err, code = play("watch 12h\ndiagnose nan\n", *words)
    assert (err, code) == ("", 0)
    assert "8 × h100-sxm on 1 node: " in out
    assert "Right." in out


def test_a_c_locale_gets_ascii():
    out = play("watch\ngpus\nmetrics\nreveal\n", "straggler", *RUN, environ={
        "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})[0]  # fmt: skip
    assert out.isascii()


# -------------------------------------------------------------------------------- in terminals


def has(text: bytes):
    return lambda out: text in out


def test_a_session_at_a_terminal():
    kind, entity = truth("straggler", *RUN)
    with PtyRun("drill", "straggler", *RUN, columns=80, lines=24) as drill:
        drill.read_until(has(b"step 0> "))
        drill.type(b"watch 60min\r")
        drill.read_until(has(b"step  200/3060"))
        drill.type(b"\x03")
        at = time.monotonic()
        drill.read_until(lambda out: len(re.findall(rb"step [\d,]+> ", out)) >= 2)
        assert time.monotonic() - at < 0.5
        assert b"step 3000/3060" not in drill.output
        rows = drill.terminal.text_rows()
        assert re.match(r"\S+ step [\d,]+>", rows[-1])
        drill.type(b"comp\t5min\r")
        drill.read_until(has(b"SM clock MHz"))
        drill.type(f"watch 40min\rdiagnose {kind} {entity}\r".encode())
        assert drill.wait(30) == 0
        assert b"Score: " in drill.output
        assert drill.is_left_as_found()
        plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", drill.output).decode()
        told = plain.partition("The run, with what went wrong")[0]
        assert max(len(line.rstrip("\r")) for line in told.split("\n")) <= 80


def test_ctrl_c_at_the_prompt_ends_it():
    with PtyRun("drill", "straggler", *RUN) as drill:
        drill.read_until(has(b"step 0> "))
        drill.type(b"\x03")
        at = time.monotonic()
        assert drill.wait(5) == 130
        assert time.monotonic() - at < 0.5
        assert drill.is_left_as_found()
        text = drill.output.decode()
        assert "Interrupted. Again: ghosttrain drill straggler --model llama-3-8b --seed 7" in text
        assert "The truth" not in text


def test_ctrl_d_ends_it():
    with PtyRun("drill", "straggler", *RUN) as drill:
        drill.read_until(has(b"step 0> "))
        drill.type(b"\x04")
        assert drill.wait(5) == 0
        assert b"Nothing was revealed" in drill.output


def test_the_documented_example_runs():
    text = (Path(ROOT) / "docs" / "drill.md").read_text(encoding="utf-8")
    block = text.partition("```sh\n")[2].partition("```")[0]
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines[:4]:
        out, err, code = play("reveal\n", *shlex.split(line)[2:])
        assert (err, code) == ("", 0)
        assert "Score: 0 of 100" in out
    script, _, command = lines[4].partition(" | ")
    asked = shlex.split(script)[1].replace("\\n", "\n")
    assert "The truth" in play(asked, *shlex.split(command)[2:])[0]
