"""Faults in words: every form is understood, written words ask for the same faults again."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.catalog.scenarios import scenario_names
from ghosttrain.core.errors import InputFileError, RequestError, SpecError, UnknownNameError
from ghosttrain.core.plan import MAX_FAULTS, SEVERITIES, plan
from ghosttrain.core.spec import Effect, Faults, InjectedFault, RunSpec
from ghosttrain.inputs.faults import Setting, fault_words, read_faults
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.inputs.spec_file import MAX_WRITTEN_BYTES, write_spec_file

KINDS = tuple(catalog.fault_kind(name) for name in catalog.names("fault"))
H100 = catalog.gpu("h100-sxm")


def setting(gpus: int = 64, seed: int = 1) -> Setting:
    """A run whose training goes from 100 s to 10,100 s."""
    return Setting(
        seed=seed,
        gpu=H100,
        cluster=catalog.cluster(H100, gpus),
        moment_s=lambda share: 100.0 + 10_000.0 * share,
        some_time_s=lambda _name: 5000.0,
    )


def read(words: str) -> Faults:
    return read_faults(words, setting())


def spec_of(words: str, seed: int = 3, **asked: object) -> RunSpec:
    return resolve(Request(asked={"model": "llama-3-8b", "faults": words, **asked}), seed)


# ----------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("word", "at_s", "gpu", "at_step", "severity", "duration_s"),
    [
        ("straggler-gpu", 5000.0, None, 0, None, None),
        ("straggler-gpu:5", 5000.0, 5, 0, None, None),
        ("straggler-gpu=0.07", 5000.0, None, 0, 0.07, None),
        ("straggler-gpu@2h10min", 7800.0, None, 0, None, None),
        ("straggler-gpu@0s", 0.0, None, 0, None, None),
        ("straggler-gpu@90", 90.0, None, 0, None, None),
        ("straggler-gpu@2h10min:17", 7800.0, 17, 0, None, None),
        ("straggler-gpu@step=400", 0.0, None, 400, None, None),
        ("straggler-gpu@step=400:63", 0.0, 63, 400, None, None),
        ("straggler-gpu@step=400=0.5~90s", 0.0, None, 400, 0.5, 90.0),
        ("straggler-gpu@1h=7e-2", 3600.0, None, 0, 0.07, None),
        ("straggler-gpu@1h~20min", 3600.0, None, 0, None, 1200.0),
        (" Straggler GPU @1h:3=0.07~1d", 3600.0, 3, 0, 0.07, 86400.0),
    ],
)
def test_every_form(word, at_s, gpu, at_step, severity, duration_s):
    kind = catalog.fault_kind("straggler-gpu")
    expected = InjectedFault(kind, at_s, gpu, at_step, severity, duration_s)
    assert read(word) == Faults((expected,))


def test_several_words_in_their_order():
    faults = read("nic-down@1h, realistic,gpu-off-bus@30min:2")
    assert [f.kind.name for f in faults.injected] == ["nic-down", "gpu-off-bus"]
    assert faults.drawn == tuple(catalog.realistic_faults(H100))


@pytest.mark.parametrize("words", ["none", " none "])
def test_none(words):
    assert read(words) == Faults()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("gpu-of-bus", UnknownNameError, "unknown fault 'gpu-of-bus': did you mean gpu-off-bus?"),
        ("lemon-nod", UnknownNameError, "unknown fault 'lemon-nod': did you mean lemon-node?"),
        ("gpu-of-bus@1h:3", UnknownNameError, "did you mean gpu-off-bus?"),
        ("zzzz", SpecError, "unknown fault 'zzzz': give none, realistic, or NAME[@TIME"),
        ("zzzz", SpecError, "`ghosttrain list faults`, a scenario of `ghosttrain list scenarios`"),
        ("", SpecError, "unknown fault ''"),
        ("nic-down,,nic-down", SpecError, "unknown fault ''"),
        ("none,realistic", SpecError, "unknown fault 'none'"),
        ("lemon-node@1h", SpecError, "lemon-node is a scenario"),
        ("nic-down@", SpecError, "faults 'nic-down@': duration '' makes no sense"),
        ("nic-down@soon", SpecError, "duration 'soon' makes no sense"),
        ("nic-down@-5min", SpecError, "'-5min' is negative"),
        ("nic-down@step=0", SpecError, "step '0' is none of 1 to 100,000,000"),
        ("nic-down@step=-1", SpecError, "step '-1' is none"),
        ("nic-down@step=1.5", SpecError, "step '1.5' is none"),
        ("nic-down@step=999999999", SpecError, "step '999999999' is none"),
        ("nic-down@1h:64", SpecError, "GPU '64' is none of 0 to 63"),
        ("nic-down@1h:-1", SpecError, "GPU '-1' is none of 0 to 63"),
        ("nic-down@1h:\u0663", SpecError, "is none of 0 to 63"),
        ("nic-down@1h:", SpecError, "GPU '' is none of 0 to 63"),
        ("nic-down@1h=0.5", SpecError, "nic-down has no severity: leave it out"),
        ("straggler-gpu=11", SpecError, "severity 11.0 of straggler-gpu (slow-compute)"),
        ("straggler-gpu=-0.1", SpecError, "it may be 0 to 10"),
        ("straggler-gpu=nan", SpecError, "severity 'nan' is no number"),
        ("straggler-gpu=", SpecError, "severity '' is no number"),
        ("straggler-gpu~", SpecError, "duration '' makes no sense"),
        ("straggler-gpu~-3s", SpecError, "'-3s' is negative"),
        ("missing.toml", InputFileError, "missing.toml: no such file"),
        ("./lemon-node", InputFileError, "lemon-node: no such file"),
    ],
)
def test_what_makes_no_sense_is_one_line(words, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        read(words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.text(alphabet="gpu-ofbs@:=~,.0123hmin\n ", max_size=40))
def test_no_text_breaks_the_reader(words):
    with suppress(RequestError):
        read(f"gpu-off-bus{words}")


def test_a_name_comes_before_a_file_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = '[[fault]]\nkind = "nic-down"\nat = "1h"\n'
    for name in ("lemon-node", "gpu-off-bus", "own night"):
        Path(name).write_text(own, encoding="utf-8")
    assert [f.kind.name for f in read("gpu-off-bus").injected] == ["gpu-off-bus"]
    assert len(read("lemon-node").injected) == 3
    for word in ("./lemon-node", "own night", str(tmp_path / "gpu-off-bus")):
        assert [f.kind.name for f in read(word).injected] == ["nic-down"]


def test_a_scenario_is_found_whatever_separates_its_words():
    assert read("Lemon Node") == read("lemon-node")


def test_scenarios_of_one_request_draw_apart():
    """Twice the same scenario is not twice the same night."""
    twice = read("lemon-node,lemon-node").injected
    assert twice[:3] == read("lemon-node").injected
    assert twice[3:] != twice[:3]


def test_faults_without_a_time_strike_apart_and_are_shown():
    spec = spec_of("gpu-off-bus,nic-down")
    one, other = (fault.at_s for fault in spec.faults.injected)
    assert one != other
    assert one == spec_of("gpu-off-bus").faults.injected[0].at_s
    planned = plan(spec)
    assert all(planned.init_s < at_s < planned.run_s for at_s in (one, other))
    said = f"gpu-off-bus at {one:,.0f} s, nic-down at {other:,.0f} s"
    assert dict(spec.chosen)["faults"] == said


def test_faults_after_the_planned_end_are_noted():
    spec = spec_of("nic-down@9d,nic-down@step=2,nic-down@step=90000000")
    assert len(spec.faults.injected) == 3
    ((name, note),) = spec.notes
    assert (name, note.partition(",")[0]) == ("faults", "2 of 3 come after the planned end")
    assert spec_of("nic-down@step=2").notes == ()


def test_a_launch_file_gets_its_faults_on_the_card_it_fits():
    """Their times are shares of the run on that card, which the usual one cannot hold."""
    launch = Path(__file__).parents[1] / "data" / "launch" / "megatron" / "llama3-70b.sh"
    spec = resolve(Request(str(launch), {"faults": "silent-hang"}), 3)
    assert spec.gpu.name == "b200"
    assert len(spec.notes) == len(resolve(Request(str(launch)), 3).notes)
    planned = plan(spec)
    share = (spec.faults.injected[0].at_s - planned.init_s) / (planned.run_s - planned.init_s)
    assert 0.3 <= share <= 0.7


# ----------------------------------------------------------------------------------- writing


@st.composite
def injected(draw: st.DrawFn) -> InjectedFault:
    kind = draw(st.sampled_from(KINDS))
    low, high = SEVERITIES[kind.effect]
    step = draw(st.sampled_from((0, 0, 1, 400, 100_000_000)))
    severities = st.none() | st.floats(low, high) if high else st.none()
    return InjectedFault(
        kind,
        at_s=0.0 if step else draw(st.floats(0, 1e9)),
        gpu=draw(st.none() | st.integers(0, 63)),
        at_step=step,
        severity=draw(severities),
        duration_s=draw(st.none() | st.floats(0, 1e9)),
    )


@given(faults=st.lists(injected(), max_size=5), realistic=st.booleans())
def test_words_ask_for_exactly_the_same_faults(faults, realistic):
    drawn = tuple(catalog.realistic_faults(H100)) if realistic else ()
    asked = Faults(tuple(faults), drawn)
    assert read(",".join(fault_words(asked))) == asked


@pytest.mark.parametrize(
    "words",
    [
        "straggler-gpu@step=400:3=0.0712345678901234~20min,nic-down@0s,realistic",
        "murphy,calm-night",
        ",".join(["flapping-link"] * 30),  # more than one line of words
    ],
)
def test_a_spec_file_asks_for_the_same_faults(words, tmp_path):
    spec = spec_of(words)
    path = tmp_path / "run.toml"
    path.write_text(write_spec_file(spec), encoding="utf-8")
    again = resolve(Request(spec=str(path)), 99)
    assert again.faults == spec.faults
    assert again.chosen == ()


def test_as_many_faults_as_there_may_be_fit_a_spec_file():
    """The longest words there are, as far as the catalogue's names go."""
    kind = max((k for k in KINDS if SEVERITIES[k.effect][1]), key=lambda k: len(k.name))
    low, high = SEVERITIES[kind.effect]
    fault = InjectedFault(
        kind, 123456789.01234567, 63, 0, low + (high - low) / 3, 987654321.0123456
    )
    spec = spec_of("none")
    text = write_spec_file(replace(spec, faults=Faults((fault,) * MAX_FAULTS)))
    assert len(text.encode()) < MAX_WRITTEN_BYTES


def test_a_list_of_words_in_a_spec_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('model = "gpt2"\nfaults = ["nic-down@1h:3", "realistic"]\n', encoding="utf-8")
    spec = resolve(Request(spec=str(path)), 1)
    assert fault_words(spec.faults) == ["realistic", "nic-down@3600s:3"]
    path.write_text('model = "gpt2"\nfaults = ["nic-down", 3]\n', encoding="utf-8")
    with pytest.raises(SpecError, match="faults is 3; it must be a line of text"):
        resolve(Request(spec=str(path)), 1)


# ----------------------------------------------------------------------------- plan() refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at_s": -1.0}, "straggler-gpu at -1.0 s: give a moment from 0 to 1,000,000,000 s"),
        ({"at_s": float("nan")}, "straggler-gpu at nan s"),
        ({"at_s": 1.1e9}, "give a moment"),
        ({"gpu": 64}, "straggler-gpu on GPU 64: the run has GPUs 0 to 63"),
        ({"gpu": -1}, "on GPU -1"),
        ({"at_step": -1}, "straggler-gpu at step -1: give a step from 1 to 100,000,000"),
        ({"at_step": 100_000_001}, "at step 100,000,001"),
        ({"severity": float("nan")}, "straggler-gpu of severity nan: give one from 0.0 to 10.0"),
        ({"severity": float("inf")}, "of severity inf"),
        ({"severity": -0.1}, "of severity -0.1"),
        ({"duration_s": -1.0}, "straggler-gpu lasts -1.0 s: give a duration from 0"),
        ({"duration_s": 1.1e9}, "lasts 1,100,000,000.0 s"),
        ({"duration_s": float("inf")}, "lasts inf s"),
    ],
)
def test_plan_refuses_impossible_faults(change, message):
    spec = spec_of("straggler-gpu@1h:3")
    bad = replace(spec.faults.injected[0], **change)
    with pytest.raises(SpecError) as error:
        plan(replace(spec, faults=Faults((bad,))))
    assert message in str(error.value)


def test_plan_refuses_a_severity_where_there_is_none():
    spec = spec_of("nic-down@1h:3")
    bad = replace(spec.faults.injected[0], severity=0.5)
    with pytest.raises(SpecError, match=r"nic-down of severity 0\.5: it has none to choose"):
        plan(replace(spec, faults=Faults((bad,))))


def test_plan_refuses_too_many_faults():
    spec = spec_of("nic-down@1h:3")
    plan(replace(spec, faults=Faults(spec.faults.injected * MAX_FAULTS)))
    with pytest.raises(SpecError, match="100,001 faults are asked for: 100,000 is the most"):
        plan(replace(spec, faults=Faults(spec.faults.injected * (MAX_FAULTS + 1))))


def test_every_kind_of_the_catalogue_stays_within_the_severities_of_its_effect():
    assert set(SEVERITIES) == set(Effect.__args__)  # type: ignore[attr-defined]
    for kind in KINDS:
        low, high = SEVERITIES[kind.effect]
        assert low <= kind.severity_low <= kind.severity_high <= high, kind.name


@pytest.mark.parametrize("name", scenario_names())
def test_no_scenario_is_called_like_a_fault(name):
    """Nor like an alias of one: the name would mean the fault."""
    assert name not in ("none", "realistic")
    with pytest.raises(UnknownNameError):
        catalog.key("fault", name)


def test_runs_without_faults_load_no_reader_of_scenarios():
    script = (
        "import sys\nfrom ghosttrain.inputs.request import Request, resolve\n"
        "resolve(Request(asked={'model': 'gpt2'}), 1)\n"
        "print([m for m in sys.modules if 'scenario' in m or 'toml_lines' in m])"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"
