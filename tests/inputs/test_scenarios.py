"""Scenario files: what they ask for, what is refused on which line, and the library."""

from __future__ import annotations

import itertools
import re
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghosttrain import catalog
from ghosttrain.catalog.scenarios import (
    scenario_key,
    scenario_kinds,
    scenario_names,
    scenario_text,
    scenario_title,
)
from ghosttrain.core.errors import InputFileError, RequestError, SpecError, UnknownNameError
from ghosttrain.core.identity import nodes_per_rack
from ghosttrain.core.plan import SEVERITIES, plan
from ghosttrain.core.spec import InjectedFault
from ghosttrain.inputs.faults import Setting, read_faults
from ghosttrain.inputs.request import Request, resolve
from ghosttrain.inputs.scenario import KEYS, read_scenario, scenario_tables
from ghosttrain.inputs.scenario_faults import compile_tables
from ghosttrain.inputs.spec_file import MAX_FILE_BYTES
from ghosttrain.inputs.toml_lines import HEADER, key_lines

DOC = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text(encoding="utf-8")
FAULT = '[[fault]]\nkind = "straggler-gpu"\n'
CRASH = '[[fault]]\nkind = "host-crash"\n'
# From one card to a machine of 16,384, nodes of eight and of four, racks of 4 and 18 nodes.
MACHINES = (
    ("rtx-4090", 1),
    ("h100-sxm", 8),
    ("h100-sxm", 64),
    ("gb200", 144),
    ("h100-sxm", 16_384),
)


def setting(gpu: str = "h100-sxm", gpus: int = 64, seed: int = 1, run_s: float = 1e4) -> Setting:
    """A run whose training goes from 100 s on for `run_s`."""
    card = catalog.gpu(gpu)
    return Setting(
        seed=seed,
        gpu=card,
        cluster=catalog.cluster(card, gpus),
        moment_s=lambda share: 100.0 + run_s * share,
        some_time_s=lambda _name: 5000.0,
    )


def faults_of(text: str, where: Setting | None = None, *, first: int = 0) -> list[InjectedFault]:
    return list(compile_tables(scenario_tables(text, "x.toml"), where or setting(), first=first))


# ------------------------------------------------------------------------- what is asked for


def test_a_fault_in_full():
    keys = 'at = "40min"\nwhere = "gpu 17"\nseverity = 0.07\nduration = "20min"\n'
    (fault,) = faults_of(FAULT + keys)
    kind = catalog.fault_kind("straggler-gpu")
    assert fault == InjectedFault(kind, 2400.0, 17, 0, 0.07, 1200.0)


@pytest.mark.parametrize(
    ("key", "at_s", "at_step"),
    [
        ("at = 90", 90.0, 0),
        ("at = 0.25", 0.25, 0),
        ('at = "0s"', 0.0, 0),
        ("at_step = 400", 0.0, 400),
        ("at_share = 0", 100.0, 0),
        ("at_share = 0.5", 5100.0, 0),
        ("at_share = 2", 20100.0, 0),
    ],
)
def test_moments(key, at_s, at_step):
    (fault,) = faults_of(FAULT + key)
    assert (fault.at_s, fault.at_step) == (at_s, at_step)


def test_what_is_left_out_is_drawn_or_left_to_the_kind():
    (fault,) = faults_of(FAULT)
    assert 100 + 0.25e4 < fault.at_s < 100 + 0.75e4
    assert fault.gpu in range(64)
    assert (fault.severity, fault.duration_s) == (None, None)


@pytest.mark.parametrize(
    ("gpu", "gpus", "where", "index"),
    [
        ("h100-sxm", 64, "gpu 63", 63),
        ("h100-sxm", 64, "node 7", 56),
        ("h100-sxm", 64, "Rack 1", 32),
        ("h100-sxm", 8, "rack 0", 0),
        ("gb200", 144, "node 3", 12),
        ("gb200", 144, "rack 1", 72),
    ],
)
def test_places(gpu, gpus, where, index):
    (fault,) = faults_of(f'{FAULT}where = "{where}"\n', setting(gpu, gpus))
    assert fault.gpu == index


def test_after_and_same_speak_of_the_fault_before_and_its_last_repeat():
    text = (
        f'{FAULT}at = "1h"\nrepeat = 3\nevery = "10min"\n'
        f'{CRASH}after = "5min"\nwhere = "same"\n'
        f"{CRASH}at_share = 0.9\n"
    )
    *repeats, crash, _ = faults_of(text)
    assert [fault.at_s for fault in repeats] == [3600.0, 4200.0, 4800.0]
    assert crash.at_s == 5100.0
    assert {fault.gpu for fault in repeats} == {crash.gpu}


def test_repeats_at_steps():
    faults = faults_of(f"{FAULT}at_step = 10\nrepeat = 4\nevery = [1, 3]\n")
    steps = [fault.at_step for fault in faults]
    gaps = {b - a for a, b in itertools.pairwise(steps)}
    assert steps[0] == 10
    assert gaps <= {1, 2, 3}
    assert all(fault.at_s == 0.0 for fault in faults)


def test_ranges_are_drawn_between_their_ends_all_over():
    text = (
        f'{FAULT}at = ["10min", "20min"]\nseverity = [0.02, 0.1]\nduration = [60, 120]\n'
        'repeat = 400\nevery = ["1min", "2min"]\n'
    )
    faults = faults_of(text)
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(faults)]
    assert 600 <= faults[0].at_s <= 1200
    for values, low, high in (
        ([f.severity or 0.0 for f in faults], 0.02, 0.1),
        ([f.duration_s or 0.0 for f in faults], 60, 120),
        (gaps, 60, 120),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    starts = [faults_of(text, setting(seed=seed))[0].at_s for seed in range(40)]
    assert len(set(starts)) == 40
    assert 600 <= min(starts) < 700
    assert 1100 < max(starts) <= 1200


def test_steps_are_drawn_with_both_ends():
    steps = {
        faults_of(f"{FAULT}at_step = [3, 5]\n", setting(seed=seed))[0].at_step for seed in range(60)
    }
    assert steps == {3, 4, 5}


def test_any_place_is_drawn_from_all():
    gpus = {faults_of(FAULT, setting(gpus=8, seed=seed))[0].gpu for seed in range(99)}
    assert gpus == set(range(8))


@given(seed=st.integers(0, 2**63 - 1))
def test_another_fault_or_key_changes_no_other_draw(seed):
    before = FAULT + 'at_share = [0.1, 0.9]\nrepeat = 3\nevery = ["1s", "9s"]\n'
    one = faults_of(before, setting(seed=seed))
    assert faults_of(before + FAULT, setting(seed=seed))[:3] == one
    more = faults_of(before + "severity = [0.01, 0.1]\n", setting(seed=seed))
    assert [(f.at_s, f.gpu) for f in more] == [(f.at_s, f.gpu) for f in one]
    assert faults_of(before, setting(seed=seed)) == one


def test_tables_of_a_spec_file_go_with_its_words(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        f'model = "llama-3-8b"\nfaults = "nic-down@1h:3"\n{FAULT}at_step = 7\nwhere = "node 1"\n'
        "[recipe]\nsteps = 600\n",
        encoding="utf-8",
    )
    nic, straggler = resolve(Request(spec=str(path)), 1).faults.injected
    assert (nic.kind.name, nic.at_s, nic.gpu) == ("nic-down", 3600.0, 3)
    assert (straggler.kind.name, straggler.at_step, straggler.gpu) == ("straggler-gpu", 7, 8)
    replaced = resolve(Request(spec=str(path), asked={"faults": "none"}), 1)
    assert replaced.faults.injected == ()


def test_tables_of_a_spec_file_have_lines(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(f'model = "llama-3-8b"\n\n{FAULT}where = "node 8"\n', encoding="utf-8")
    with pytest.raises(SpecError) as error:
        resolve(Request(spec=str(path)), 1)
    assert str(error.value) == f"{path}:5: there is no node 8: the cluster has nodes 0 to 7"


def test_a_scenario_in_the_place_of_a_spec_says_where_it_belongs(tmp_path):
    path = tmp_path / "night.toml"
    path.write_text(scenario_text("lemon-node"), encoding="utf-8")
    with pytest.raises(SpecError, match="is a scenario: say --faults"):
        resolve(Request(spec=str(path)), 1)


# --------------------------------------------------------------------------- what is refused

REFUSED = {
    "unknown kind": ('[[fault]]\nkind = "gpu-of-bus"', "2: unknown fault 'gpu-of-bus': did you"),
    "a scenario": ('[[fault]]\nkind = "lemon-node"', "2: lemon-node is a scenario"),
    "no kind": ('\n[[fault]]\nat = "1h"', "2: [[fault]] has no kind"),
    "kind no text": ("[[fault]]\nkind = 3", "2: kind is 3; it must be a name in quotes"),
    "unknown key": (FAULT + "severty = 0.3", "3: unknown key 'severty': did you mean severity?"),
    "far key": (FAULT + "zzz = 0.3", "3: unknown key 'zzz': there are kind, at, "),
    "unknown key on top": (f'titel = "x"\n{FAULT}', "1: unknown key 'titel': did you mean title?"),
    "unknown table": (FAULT + "[modle]\nx = 1", "3: unknown key 'modle'"),
    "title below": (FAULT + 'title = "x"', "3: title stands above the first [[fault]]"),
    "title no text": (f"title = 3\n{FAULT}", "1: title must be a text"),
    "gpu": (FAULT + 'where = "gpu 64"', "3: there is no GPU 64: the cluster has GPUs 0 to 63"),
    "node": (f'\n\n{FAULT}where = "node 8"', "5: there is no node 8: the cluster has nodes 0 to 7"),
    "rack": (FAULT + 'where = "rack 2"', "3: there is no rack 2: the cluster has racks 0 to 1"),
    "nowhere": (FAULT + 'where = "here"', "3: where is 'here'; it must be as 'gpu 17'"),
    "where no text": (FAULT + "where = 17", "3: where is 17; it must be as 'gpu 17'"),
    "where a table": (FAULT + "[fault.where]\nx = 1", "3: where is a table"),
    "negative words": (FAULT + 'at = "-5min"', "3: at: '-5min' is negative"),
    "negative": (FAULT + "at = -3", "3: at is -3.0 s: it must be from 0 to 1,000,000,000 s"),
    "late": (FAULT + "at = 2e9", "3: at is 2,000,000,000.0 s: it must be from 0"),
    "no time": (FAULT + 'at = "soon"', "3: at: duration 'soon' makes no sense"),
    "clock time": (FAULT + "at = 00:40:00", "3: at is 00:40:00; it must be a time as in '2h10min'"),
    "two moments": (
        FAULT + 'at = "1h"\nat_step = 3',
        "4: at_step and at (line 3) both say when: leave one out",
    ),
    "step 0": (FAULT + "at_step = 0", "3: at_step is 0: it must be from 1 to 100,000,000"),
    "step in halves": (FAULT + "at_step = 1.5", "3: at_step is 1.5; it must be a whole number"),
    "step truth": (FAULT + "at_step = true", "3: at_step is true; it must be a whole number"),
    "endless step": (FAULT + "at_step = " + "9" * 400, "3: at_step is beyond all bounds"),
    "endless digits": (FAULT + "at_step = " + "9" * 5000, "3: is no TOML: Exceeds the limit"),
    "share": (FAULT + "at_share = -0.1", "3: at_share is -0.1: it must be from 0 to 10"),
    "first after": (FAULT + 'after = "1h"', "3: after is the time since the fault before it"),
    "first same": (FAULT + 'where = "same"', "3: where is 'same' as the fault before it"),
    "after a step": (
        f'{FAULT}at_step = 4\n{FAULT}after = "1h"',
        "6: the fault before it is at a step",
    ),
    "severity": (
        FAULT + "severity = [0.1, 40]",
        "3: severity 40.0 of straggler-gpu (slow-compute): it may be 0 to 10",
    ),
    "severity nan": (FAULT + "severity = nan", "3: severity nan of straggler-gpu"),
    "no severity": (CRASH + "severity = 0.1", "3: host-crash has no severity: leave it out"),
    "negative duration": (FAULT + "duration = -1", "3: duration is -1.0 s: it must be from 0"),
    "long duration": (FAULT + "duration = 1.1e9", "3: duration is 1,100,000,000.0 s"),
    "order": (FAULT + 'at = ["2h", "1h"]', "3: at goes from 7,200.0 to 3,600.0: lowest first"),
    "three": (FAULT + "at = [\n 1,\n 2,\n 3]", "3: at is a list of 3: give one value, or"),
    "repeat": (FAULT + "repeat = 2", "3: repeat needs every"),
    "every": (FAULT + 'every = "1h"', "3: every needs repeat"),
    "repeat 0": (FAULT + 'repeat = 0\nevery = "1h"', "3: repeat is 0; it must be a whole number"),
    "every 0": (FAULT + "repeat = 2\nevery = 0", "4: every is 0: give a time above 0"),
    "repeat 1e6": (
        FAULT + 'repeat = 1000000\nevery = "1s"',
        "3: 1,000,000 faults: 100,000 is the most",
    ),
    "repeat 1e300": (FAULT + f'repeat = 1{"0" * 300}\nevery = "1s"', "3: far too many faults"),
    "together": (
        (FAULT + 'repeat = 60000\nevery = "1s"\n') * 2,
        "7: 120,000 faults up to here: 100,000 is the most",
    ),
    "late repeat": (
        FAULT + 'at = 0\nrepeat = 100000\nevery = "20000s"',
        "5: comes to 1,999,980,000: nothing is later than 1,000,000,000",
    ),
    "twice at once": (
        f'{CRASH}at = "1h"\nwhere = "node 1"\n'
        '[[fault]]\nkind = "kernel-panic"\nat = "60min"\nwhere = "gpu 12"',
        "5: kernel-panic and host-crash (line 1) both end node 1 within a second",
    ),
    "twice at a step": (
        f'{CRASH}at_step = 9\nwhere = "gpu 9"\n{CRASH}at_step = 9\nwhere = "node 1"',
        "5: host-crash and host-crash (line 1) both end node 1 at the same step",
    ),
    "with its rack": (
        f'{CRASH}at = "1h"\nwhere = "node 3"\n[[fault]]\nkind = "switch-down"\nat = "1h"\n'
        'where = "rack 0"',
        "5: switch-down and host-crash (line 1) both end node 3 within a second",
    ),
    "repeats at once": (
        CRASH + 'repeat = 9\nevery = "0.5s"\nwhere = "node 2"',
        "4: its repeats end node 2 within a second: lengthen every",
    ),
    "no table": ("fault = 3", "1: fault is no list of tables"),
    "one table": ('\n[fault]\nkind = "nic-down"', "2: fault is no list of tables"),
    "long name": (f'[[fault]]\nkind = "{"x" * 9999}"', "2: kind is 'xxx"),
    "long time": (FAULT + f'at = "{"1" * 9999}"', "3: at is '111"),
    "empty list": ("fault = []", "1: has no [[fault]]"),
    "no fault": ('title = "x"', "1: has no [[fault]]"),
    "in braces": ('title = "x"\n\nfault = [{kind = "nic-dow"}]', "3: unknown fault 'nic-dow'"),
    "no TOML": (FAULT + "at =", "3: is no TOML: "),
    "no end": (FAULT + 'at = "1h', "3: is no TOML: "),
    "deep": ("\n\na = " + "[" * 50_000, "3: nested too deeply"),
    "CRLF": (
        FAULT.replace("\n", "\r\n") + "wher = 1",
        "3: unknown key 'wher': did you mean where?",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_on_which_line(name):
    text, message = REFUSED[name]
    with pytest.raises((SpecError, InputFileError)) as error:
        faults_of(text)
    assert str(error.value).startswith(f"x.toml:{message}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_faults_a_second_apart_or_elsewhere_are_fine():
    crash = f'{CRASH}at = 100\nwhere = "node 1"\n'
    for other in ('at = 101\nwhere = "node 1"', 'at = 100\nwhere = "node 2"'):
        assert len(faults_of(crash + CRASH + other)) == 2
    slow = f'{FAULT}at = 100\nwhere = "node 1"\n'
    assert len(faults_of(crash + slow)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", ": is empty: a scenario has [[fault]] tables"),
        (b"# nothing\n", ": is empty: a scenario has [[fault]] tables"),
        (b'title = "x"\n\nstory = "\xff"\n', ":3: is not UTF-8 text"),
        (b"#" * (MAX_FILE_BYTES + 1), ": larger than 1 MiB: say `repeat`"),
        (bytes(range(256)) * 9, ":2: is not UTF-8 text"),
    ],
    ids=["empty", "comment", "latin", "large", "binary"],
)
def test_files_that_are_none(data, message, tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(data)
    with pytest.raises(InputFileError) as error:
        read_scenario(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(InputFileError, match="is not a regular file"):
        read_scenario(tmp_path)
    with pytest.raises(InputFileError, match="no such file"):
        read_scenario(tmp_path / "none.toml")
    with pytest.raises(InputFileError, match="no such file"):
        read_scenario(Path("nul\0.toml"))


def test_a_million_faults_are_refused_at_once_with_their_number(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(FAULT.encode() * 1_000_000)
    start_s = time.process_time()
    with pytest.raises(InputFileError, match="1,000,000 faults: 100,000 is the most"):
        read_scenario(path)
    assert time.process_time() - start_s < 1.0


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + FAULT.encode())
    assert len(read_scenario(path)) == 1


@given(st.text(alphabet='[]{}=".\n#,faultkindwhere_1e ', max_size=120))
def test_no_text_breaks_the_reader(noise):
    for text in (noise, FAULT + noise):
        with suppress(RequestError):
            faults_of(text)


# -------------------------------------------------------------------------------- the lines


def test_lines_are_found_past_texts_comments_and_arrays():
    text = """title = "x"
story = '''
[[fault]]
kind = "no"
'''
# [[fault]]
[[ fault ]] # one
  "kind" = "a"
at = [
  "1h",
  "2h",
]
where = \"\"\"any\"\"\"
[fault.more]
kind = "b"
[other]
every = 3
[[fault]]
'kind'="c"
"""
    top, faults = key_lines(text, "fault")
    assert top == {"title": 1, "story": 2}
    first = {HEADER: 7, "kind": 8, "at": 9, "where": 13, "more": 14}
    assert faults == [first, {HEADER: 18, "kind": 19}]
    assert len(tomllib.loads(text)["fault"]) == 2


# -------------------------------------------------------------------------------- the library


@pytest.mark.parametrize("name", scenario_names())
def test_a_scenario_of_the_library_suits_any_run(name):
    """Of some seconds and of months, on one card and on 16,384, whatever the seed."""
    counts = set()
    for gpu, gpus in MACHINES:
        for seed, run_s in ((1, 20.0), (2, 3600.0), (3, 1e7)):
            faults = read_faults(name, setting(gpu, gpus, seed, run_s)).injected
            counts.add(len(faults))
            for fault in faults:
                low, high = SEVERITIES[fault.kind.effect]
                assert fault.gpu is not None
                assert fault.gpu < gpus
                assert fault.severity is None or low <= fault.severity <= high
    assert len(counts) == 1


@pytest.mark.parametrize("name", scenario_names())
def test_what_lists_show_of_a_scenario_is_what_it_says(name):
    tree = tomllib.loads(scenario_text(name))
    assert scenario_title(name) == tree["title"]
    assert scenario_kinds(name) == tuple(dict.fromkeys(f["kind"] for f in tree["fault"]))
    assert len(tree["title"]) <= 60
    assert 100 < len(tree["story"]) < 1000
    for fault in tree["fault"]:
        assert not {"at", "where"} & set(fault) or fault["where"] in ("any", "same", "rack 0")


def test_scenarios_plan_on_a_random_run():
    spec = resolve(Request(asked={"faults": "murphy,bad-first-hour"}), 5)
    planned = plan(spec)
    late = [f for f in spec.faults.injected if f.at_s > planned.run_s]
    assert len(spec.faults.injected) == 10
    assert late == []


def test_the_library_is_large_and_has_every_kind():
    assert len(scenario_names()) >= 30
    used = {kind for name in scenario_names() for kind in scenario_kinds(name)}
    assert used == set(catalog.names("fault"))


def test_the_calm_night_is_calm():
    assert all(catalog.fault_kind(kind).benign for kind in scenario_kinds("calm-night"))


def test_names_are_found_forgivingly_and_unknown_ones_hinted():
    assert scenario_key("  Lemon_Node") == "lemon-node"
    with pytest.raises(UnknownNameError, match="unknown scenario 'lemon': did you mean lemon-node"):
        scenario_text("lemon")
    with pytest.raises(UnknownNameError, match="see `ghosttrain list scenarios`"):
        scenario_text("zzzz")


# ------------------------------------------------------------------------------- the document


def test_the_document_has_the_whole_library():
    rows = re.findall(
        r"^\| `([\w-]+)` \| (.*) \| (`.*`) \|$", DOC.partition("## The library")[2], re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(scenario_names())
    for name, title, kinds in rows:
        assert title == scenario_title(name)
        assert tuple(re.findall(r"`([\w-]+)`", kinds)) == scenario_kinds(name)


def test_the_document_has_every_key_and_severity():
    keys = re.findall(r"^\| `(\w+)` \| `", DOC, re.MULTILINE)
    assert keys == list(KEYS)
    told = {
        effect: (float(low), float(high.replace(",", "")))
        for effect, low, high in re.findall(
            r"^\| `([\w-]+)` \| .* \| ([\d.]+) to ([\d.,]+) \|$", DOC, re.MULTILINE
        )
    }
    assert told == {effect: ends for effect, ends in SEVERITIES.items() if ends[1]}


def test_the_example_of_the_document_is_understood():
    block = re.search(r"```toml\n(.*?)```", DOC, re.DOTALL)
    assert block is not None
    *flaps, switch = faults_of(block[1])
    assert [fault.kind.name for fault in flaps] == ["link-flap"] * 3
    assert switch.at_s == pytest.approx(flaps[-1].at_s + 600)


def test_the_words_of_the_document_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("night.toml").write_text(FAULT, encoding="utf-8")
    table = DOC.partition("| words |")[2].partition("\n\n")[0]
    words = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(words) == 9
    for word in words:
        read_faults(word, setting())


def test_racks_of_the_document():
    gb200 = catalog.gpu("gb200")
    assert nodes_per_rack(gb200, catalog.cluster(gb200, 144)) == 18
    h100 = catalog.gpu("h100-sxm")
    assert nodes_per_rack(h100, catalog.cluster(h100, 64)) == 4
