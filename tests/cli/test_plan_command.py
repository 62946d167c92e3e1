"""`ghosttrain plan` as a user has it."""

from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.cli.main import main
from ghosttrain.inputs.fields import field_types
from ghosttrain.views.renderables.plan_tables import amount, rounded_to_sum, span_in_words
from tests.terminal import PtyRun, run_piped

ASKED = ("plan", "llama-3-70b", "--gpus", "512", "--seed", "1")


def told(capfd, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process."""
    code = main(words)
    out, err = capfd.readouterr()
    return code, out, err


def test_one_sentence_then_tables(capfd):
    code, out, err = told(capfd, *ASKED)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("Llama-3-70B on 512 × H100 80GB HBM3 (64 nodes, InfiniBand), ")
    assert lines[0].endswith(" at the end.")
    headings = [line for line in lines[1:] if line and not line.startswith(" ")]
    assert headings == [
        "Run",
        "Layout",
        "Memory per GPU, GiB",
        "Where a step goes",
        "Around training",
        "Chosen, since nobody asked",
    ]
    assert not any(line != line.rstrip() for line in lines)
    assert "\x1b" not in out


def test_the_parts_of_a_step_add_up_as_shown(capfd):
    _, out, _ = told(capfd, *ASKED)
    table = out.partition("Where a step goes\n")[2].partition("\n\n")[0].splitlines()
    seconds = [float(line.split()[-4]) for line in table]
    percents = [float(line.split()[-2]) for line in table]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=1e-9)
    assert sum(percents[:-1]) == pytest.approx(percents[-1], abs=1e-9)


def test_numbers_stand_below_one_another(capfd):
    _, out, _ = told(capfd, *ASKED)
    for heading in ("Where a step goes", "Memory per GPU, GiB"):
        table = out.partition(f"{heading}\n")[2].partition("\n\n")[0].splitlines()
        assert len({len(line) for line in table}) == 1


def test_a_pipeline_shows_its_ends(capfd):
    _, out, _ = told(capfd, *ASKED)
    assert "stage 1/4  stage 4/4" in out


def test_on_terminals_no_line_wraps():
    for columns in (60, 80):
        with PtyRun(*ASKED, columns=columns, lines=80) as run:
            assert run.wait() == 0
            rows = run.terminal.text_rows()
            assert rows[0].startswith("Llama-3-70B on 512")
            assert run.output.count(b"\n") == len(rows)


def test_an_ascii_locale_gets_ascii():
    done = run_piped(*ASKED, environ={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"512 x H100" in done.stdout


def test_json_has_units_in_its_names(capfd):
    code, out, _ = told(capfd, *ASKED, "--json")
    data = json.loads(out)
    assert code == 0
    assert data["simulated"] is True
    assert data["schema_version"] == 1
    assert sum(data["step_time_parts_s"].values()) == pytest.approx(data["step_time_s"])
    assert data["tokens_per_step"] / data["step_time_s"] == pytest.approx(data["tokens_per_s"])
    assert set(data) == {
        *("schema_version", "simulated", "sentence", "seed", "chosen", "model", "params"),
        *("active_params", "gpu", "gpus", "nodes", "fabric", "dataset", "precision", "epochs"),
        *("total_steps", "tokens_per_step", "tokens", "flops_per_token", "peak_tflops", "layout"),
        *("memory_gib_per_stage", "memory_used_gib", "gpu_memory_gib", "step_time_s"),
        *("step_time_parts_s", "tokens_per_s", "mfu", "run_s", "gpu_hours", "phases_s"),
        *("checkpoint_bytes", "export_bytes", "export_shards", "final_loss"),
    }


def test_same_seed_same_plan(capfd):
    assert told(capfd, "plan", "--seed", "7") == told(capfd, "plan", "--seed", "7")


# ---------------------------------------------------------------------------- --write-spec


def test_a_written_spec_plans_the_same(capfd, tmp_path):
    path = tmp_path / "run.toml"
    _, first, _ = told(capfd, "plan", "--seed", "7", "--json", "--write-spec", str(path))
    _, again, _ = told(capfd, "plan", str(path), "--seed", "7", "--json")
    before, after = json.loads(first), json.loads(again)
    assert before.pop("chosen")
    assert after.pop("chosen") == {}
    assert before == after


def test_dash_writes_the_spec_and_nothing_else(capfd):
    code, out, _ = told(capfd, "plan", "gpt2", "--seed", "1", "--write-spec", "-")
    assert code == 0
    assert out.startswith("# A run for ghosttrain")
    assert 'model = "gpt-2-124m"' in out
    code, _, err = told(capfd, "plan", "gpt2", "--json", "--write-spec", "-")
    assert code == 2
    assert "give one of them" in err


def test_an_existing_file_is_replaced_and_keeps_its_permissions(capfd, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("old")
    path.chmod(0o600)
    assert told(capfd, "plan", "gpt2", "--write-spec", str(path))[0] == 0
    assert path.read_text().startswith("# A run")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["run.toml"]  # noqa: PTH208 - names are what is compared


def test_a_spec_that_cannot_be_planned_is_not_written(capfd, tmp_path):
    path = tmp_path / "run.toml"
    code, _, _ = told(capfd, "plan", "llama-3-8b", "--gpus", "1", "--write-spec", str(path))
    assert code == 2
    assert not path.exists()


@pytest.mark.parametrize("name", ["nowhere/run.toml", ".", "nul\0.toml", "x" * 300])
def test_where_no_file_can_be_it_is_told(capfd, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capfd, "plan", "gpt2", "--write-spec", name)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_the_world_s_fault(capfd):
    code, _, err = told(capfd, "plan", "gpt2", "--write-spec", "/dev/full")
    assert code == 1
    assert "No space left" in err


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "told_words"),
    [
        (["--set", "foo"], "give it as key=value"),
        (["--set", "=3"], "give it as key=value"),
        (["--set", "recipe.seqlen=3"], "did you mean recipe.seq_len?"),
        (["--set", "recipe.seq_len=4096", "--seq-len", "2048"], "give one of them"),
        (["--gpus", "12"], "take 8 or 16"),
        (["--gpu", "mi300x"], "not rehearsed yet"),
        (["--gpu", "h10"], "did you mean h100-sxm?"),
        (["--gpus", "9" * 30], "not a whole number"),
        (["--gpus", "2000000"], "from 1 to 1,048,576"),
        (["--tokens", "1e400"], "not a number"),
        (["--tokens", "5B", "--steps", "10"], "both set the length"),
        (["--seq-len", "4"], "from 8 to"),
        (["--tp", "3", "gpt2"], "tp"),
        (["--precision", "fp8", "--gpu", "a100"], "FP8"),
        (["no/config.json"], "no such file"),
        (["--set", "gpu.hbm_gbs=0"], "from 1 to"),
        (["--set", "model.layers=0"], "from 1 to"),
        (["--set", "cluster.inlet_c=1e30"], "must be"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_or_two(capfd, words, told_words):
    code, out, err = told(capfd, "plan", *words, "--seed", "3")
    assert (code, out) == (2, "")
    assert told_words in err
    assert err.startswith("ghosttrain: ")
    assert len(err.splitlines()) <= 2


# fmt: off
NUMBERS = st.sampled_from([
    "0", "1", "2", "3", "7", "8", "12", "16", "64", "4096", "1e9", "15T", "-1", "nan", "1e400",
    "99999999999", "9" * 40, "0.5", "x", "", "1_000", "2K", "16,384", "1048576",
])
NAMES = st.sampled_from([
    "llama-3-8b", "gpt2", "mixtral-8x7b", "deepseek-v3-671b", "h100", "a100", "t4", "gh200",
    "mi300x", "fineweb", "tinystories", "none", "realistic", "gpu-off-bus", "xid-79@1h:3", "auto",
    "fp8", "fsdp", "full", "infiniband-ndr", "eos", "\udcff", "\x1b",
])
# fmt: on
SETTABLE = st.sampled_from(sorted(field_types()))
FLAGS = st.one_of(
    st.tuples(
        st.sampled_from(["--gpus", "--tokens", "--epochs", "--steps", "--seq-len", "--tp", "--pp"])
        | st.sampled_from(["--global-batch-size", "--dp", "--cp", "--ep"]),
        NUMBERS,
    ),
    st.tuples(st.sampled_from(["--model", "--gpu", "--dataset", "--faults", "--precision"]), NAMES),
    st.tuples(st.just("--set"), st.builds("{}={}".format, SETTABLE, NUMBERS | NAMES)),
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    flags=st.lists(FLAGS, max_size=4, unique_by=lambda pair: pair),
    model=st.sampled_from([(), ("--model", "llama-3-8b"), ("--model", "gpt2")]),
    seed=st.integers(0, 99),
)
def test_whatever_is_asked_it_plans_or_says_why_not(capfd, flags, model, seed):
    words = ["plan", *model, *(word for pair in flags for word in pair), "--seed", str(seed)]
    code, out, err = told(capfd, *words)
    assert code in (0, 2), (words, err)
    assert bool(out) == (code == 0)
    assert bool(err) == (code == 2)
    assert "internal error" not in err


@pytest.mark.parametrize("gpu", [k for k in catalog.names("gpu") if "mi" not in k])
def test_every_nvidia_gpu_plans(capfd, gpu):
    code, _, err = told(capfd, "plan", "gpt2", "--gpu", gpu, "--gpus", "8", "--seed", "1")
    assert (code, err) == (0, "")


# ---------------------------------------------------------------------------- drawing


def test_rounded_parts_add_up():
    assert rounded_to_sum([1 / 3, 1 / 3, 1 / 3], 1) == [0.4, 0.3, 0.3]
    assert rounded_to_sum([0.04, 99.96], 1) == [0.0, 100.0]


@pytest.mark.parametrize(
    ("number", "text"),
    [(9_999, "10.0 K"), (1e6, "1.00 M"), (999.7e9, "1.00 T"), (8.03e9, "8.03 B"), (12, "12")],
)
def test_amounts(number, text):
    assert amount(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.05, "50.00 ms"),
        (3, "3.0 s"),
        (600, "10.0 min"),
        (7200, "2.0 hours"),
        (864e3, "10.0 days"),
    ],
)
def test_spans(seconds, text):
    assert span_in_words(seconds) == text
