"""The fault kinds: a whole taxonomy, whose rates add up to what is published."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from ghosttrain import catalog
from ghosttrain.catalog import rows
from ghosttrain.core.spec import Course, Effect, FaultKind, FaultScope, Recovery, Sign

FILE = "faults.toml"
KINDS = {name: catalog.fault_kind(name) for name in catalog.names("fault")}
PUBLISHED = {name: kind for name, kind in KINDS.items() if kind.published}
TABLE = catalog.published_interruptions()
# Grattafiori et al. 2024, arXiv:2407.21783, table 5.
LLAMA_3_TABLE = {
    "Faulty GPU": 148,
    "GPU HBM3 Memory": 72,
    "Software Bug": 54,
    "Network Switch/Cable": 35,
    "Host Maintenance": 32,
    "GPU SRAM Memory": 19,
    "GPU System Processor": 17,
    "NIC": 7,
    "NCCL Watchdog Timeouts": 7,
    "Silent Data Corruption": 6,
    "GPU Thermal Interface + Sensor": 6,
    "SSD": 3,
    "Power Supply": 3,
    "Server Chassis": 2,
    "IO Expansion Board": 2,
    "Dependency": 2,
    "CPU": 2,
    "System Memory": 2,
}
FAMILIES = [
    *("gpu", "nvlink", "network", "host", "thermal", "straggler"),
    *("data", "storage", "software", "training", "benign"),
]
# Effects that are there or not, to no degree.
WITHOUT_SEVERITY = ("none", "loss-nan", "full-storage", "corrupt-checkpoint")
# Severities of these are shares of something that cannot be taken away whole.
SHARES = ("slow-link", "power-cap")
COURSE_OF_EFFECT: dict[str, Course] = {
    "slow-compute": "slow",
    "slow-link": "slow",
    "late-data": "slow",
    "power-cap": "slow",
    "hot-air": "slow",
    "weak-cooling": "slow",
    "stall": "stall",
    "loss-spike": "loss",
    "loss-bump": "loss",
    "loss-nan": "loss",
    "divergence": "loss",
    "corruption": "loss",
    "slow-storage": "save",
    "slow-validation": "save",
    "full-storage": "save",
    "corrupt-checkpoint": "save",
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def rate(kinds: tuple[FaultKind, ...] | list[FaultKind]) -> float:
    return math.fsum(kind.rate_per_1000_gpu_days for kind in kinds)


# --- rows


def test_there_is_a_kind_of_every_family_course_and_effect():
    assert list(dict.fromkeys(kind.family for kind in KINDS.values())) == FAMILIES
    assert {kind.course for kind in KINDS.values()} == set(get_args(Course))
    assert {kind.effect for kind in KINDS.values()} == set(get_args(Effect))
    assert {kind.sign for kind in KINDS.values()} == set(get_args(Sign))
    assert {kind.recovery for kind in KINDS.values()} == set(get_args(Recovery))
    assert {kind.scope for kind in KINDS.values()} == set(get_args(FaultScope))


@each_kind
def test_a_kind_says_what_it_is_in_plain_words_and_one_sentence(kind):
    assert kind.source
    assert 0 < len(kind.title) <= 47, "ghosttrain list faults fits 120 columns"
    assert kind.title[0].isupper()
    assert kind.note.endswith(".")
    assert ". " not in kind.note


def test_titles_and_notes_tell_kinds_apart():
    assert len({kind.title for kind in KINDS.values()}) == len(KINDS)
    assert len({kind.note for kind in KINDS.values()}) == len(KINDS)


@each_kind
def test_an_effect_has_its_course_and_a_severity_if_it_comes_in_degrees(kind):
    if kind.course != "crash" or not kind.lead_high_s:  # else it shows itself before it strikes
        assert kind.course == COURSE_OF_EFFECT.get(kind.effect, kind.course)
    if kind.effect in WITHOUT_SEVERITY:
        assert kind.severity_low == kind.severity_high == 0
    else:
        assert 0 < kind.severity_low < kind.severity_high
    if kind.effect in SHARES:
        assert kind.severity_high < 1
    if kind.effect in ("slow-storage", "slow-validation"):
        assert kind.severity_low > 1, "so many times as long"


@each_kind
def test_a_kind_without_effect_interrupts_or_moves_a_counter(kind):
    if kind.effect == "none":
        assert kind.interrupts or (kind.course == "sign" and kind.sign != "none")


@each_kind
def test_times_can_be_drawn(kind):
    """Log-uniform between two moments needs both above 0; log-normal needs a spread."""
    assert 0 < kind.detect_low_s <= kind.detect_high_s
    assert (kind.lead_low_s == kind.lead_high_s == 0) or 0 < kind.lead_low_s < kind.lead_high_s
    assert kind.duration_median_s >= 0
    assert 0 < kind.duration_sigma < 2
    assert 0 < kind.downtime_sigma < 2
    assert kind.sign_per_hour >= 0
    assert kind.sign != "none" or not kind.sign_per_hour


@each_kind
def test_what_ends_by_itself_costs_no_downtime_and_all_else_does(kind):
    assert (kind.recovery == "self") == (kind.downtime_median_s == 0)


@each_kind
def test_what_slows_until_it_ends_by_itself_has_a_duration(kind):
    if kind.course in ("slow", "sign"):
        assert (kind.recovery == "self") == (kind.duration_median_s > 0)


@each_kind
def test_a_hang_is_one_for_all_its_strikes(kind):
    assert 0 <= kind.hang_share <= 1
    assert (kind.course == "hang") == (kind.hang_share == 1)
    assert kind.course in ("crash", "hang") or kind.hang_share == 0


def test_lookalikes_are_harmless():
    benign = {name for name, kind in KINDS.items() if kind.benign}
    assert benign == {name for name, kind in KINDS.items() if kind.family == "benign"}
    assert all(KINDS[name].recovery == "self" for name in benign)
    assert not any(KINDS[name].interrupts for name in benign)


@pytest.mark.parametrize(
    ("name", "xids"),
    [
        ("gpu-off-bus", (79, 154)),
        ("hbm-ecc", (48, 63, 94)),
        ("hbm-remap-failed", (48, 64, 94)),
        ("sram-ecc", (95,)),
        ("gsp-timeout", (119, 154)),
        ("nvlink-error", (74,)),
        ("nvlink5-error", (145, 149)),
        ("row-remap-pending", (63,)),
        ("nccl-hang", ()),
        ("silent-data-corruption", ()),
    ],
)
def test_xids_are_those_of_the_kernel_log_in_its_order(name, xids):
    assert KINDS[name].xids == xids


@each_kind
def test_only_gpus_have_xids(kind):
    assert not kind.xids or kind.scope == "gpu"


# --- names


@pytest.mark.parametrize("alias", rows.aliases(FILE))
def test_an_alias_is_its_kind(alias):
    assert catalog.fault_kind(alias).name == rows.aliases(FILE)[alias]


@pytest.mark.parametrize("xid", sorted({xid for k in KINDS.values() for xid in k.xids} - {154}))
def test_every_xid_finds_a_kind_that_logs_it(xid):
    """154 follows any of them and names none."""
    assert xid in catalog.fault_kind(f"Xid {xid}").xids


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("xid 79", "gpu-off-bus"),
        ("Straggler", "straggler-gpu"),
        ("spike", "loss-spike"),
        ("NaN", "loss-nan"),
        ("OOM", "cuda-oom"),
        ("SDC", "silent-data-corruption"),
        ("flap", "link-flap"),
        ("preemption", "job-preempted"),
        ("noisy neighbor", "noisy-neighbour"),
    ],
)
def test_the_words_people_use_find_a_kind(typed, name):
    assert catalog.fault_kind(typed).name == name


# --- published rates


def test_the_published_table_is_whole():
    titles = {rows.row("interruptions.toml", name)["title"]: n for name, n in TABLE.counts.items()}
    assert titles == LLAMA_3_TABLE
    assert sum(TABLE.counts.values()) == sum(TABLE.groups.values()) == TABLE.total == 419
    assert TABLE.gpu_days == 54 * 16384 == 884_736


@pytest.mark.parametrize("group", TABLE.groups)
def test_the_kinds_of_a_published_row_add_up_to_its_count(group):
    names = [name for name, kind in PUBLISHED.items() if kind.published == group]
    assert sum(rows.row(FILE, name)["published_count"] for name in names) == TABLE.groups[group]
    wanted = TABLE.groups[group] / 884.736
    assert rate([KINDS[name] for name in names]) == pytest.approx(wanted, rel=1e-12)


def test_every_published_kind_is_of_a_row_and_nothing_else_interrupts():
    assert {kind.published for kind in PUBLISHED.values()} == set(TABLE.groups)
    others = {name for name, kind in KINDS.items() if kind.interrupts} - set(PUBLISHED)
    # Each by a reason of its own: the other generation's link, and what a queue does.
    assert others == {"nvlink5-error", "job-preempted"}


def test_realistic_interruptions_of_hopper_are_those_of_llama_3():
    kinds = [kind for kind in catalog.realistic_faults(catalog.gpu("h100")) if kind.published]
    assert rate(kinds) == pytest.approx(419 / 884.736, rel=1e-12)


def test_realistic_interruptions_of_ampere_are_those_of_rsc_1():
    """6.50 per 1,000 node-days of 8 GPUs (Kokolis et al. 2024, arXiv:2410.21680)."""
    kinds = [kind for kind in catalog.realistic_faults(catalog.gpu("a100")) if kind.published]
    assert rate(kinds) == pytest.approx(6.50 / 8, rel=1e-12)


def test_memory_of_ampere_is_3_2_times_better_than_of_hopper():
    """Cui et al. 2025, arXiv:2503.11901; nothing else is better there."""
    for kind in PUBLISHED.values():
        ratio = kind.rate_per_1000_gpu_days / kind.ampere_rate_per_1000_gpu_days
        if kind.published == "gpu-hbm3-memory":
            assert ratio == pytest.approx(3.2, rel=1e-12)
        else:
            assert 0.45 < ratio < 0.55


def test_both_ampere_clusters_are_there():
    found = {name: rows.row("interruptions.toml", name) for name in ("rsc-1", "rsc-2")}
    assert [row["per_1000_node_days"] for row in found.values()] == [6.50, 2.34]
    assert all("arXiv:2410.21680" in row["source"] for row in found.values())


def test_about_a_quarter_of_the_interruptions_hang():
    """The mean time to detection that goodput counts on rests on it."""
    hanging = math.fsum(k.hang_share * k.rate_per_1000_gpu_days for k in PUBLISHED.values())
    assert 0.2 < hanging / rate(list(PUBLISHED.values())) < 0.3


@pytest.mark.parametrize(
    ("names", "total"),
    [
        ("straggler-gpu fan-failure hot-inlet power-cap", 0.15),
        ("slow-node noisy-neighbour loader-stall", 0.1),
        ("network-congestion slow-link", 0.2),
        ("storage-slow", 0.05),
        ("ecc-sbe-storm row-remap-pending pcie-replays", 0.3),
        ("loss-spike loss-spike-rollback loss-nan divergence", 0.057),
    ],
)
def test_estimates_add_up_to_what_the_file_says(names, total):
    assert rate([KINDS[name] for name in names.split()]) == pytest.approx(total, rel=1e-12)


# --- realistic


def realistic(gpu: str) -> dict[str, FaultKind]:
    return {kind.name: kind for kind in catalog.realistic_faults(catalog.gpu(gpu))}


@pytest.mark.parametrize("gpu", catalog.names("gpu"))
def test_kinds_without_a_rate_never_come_by_themselves(gpu):
    kinds = realistic(gpu)
    assert "job-preempted" not in kinds
    assert all(kind.rate_per_1000_gpu_days > 0 for kind in kinds.values())


@pytest.mark.parametrize(
    ("gpu", "links"),
    [
        ("h100", {"nvlink-error"}),
        ("a100", {"nvlink-error"}),
        ("b200", {"nvlink5-error"}),
        ("gb200", {"nvlink5-error"}),
        ("rtx-5090", set()),  # no NVLink
        ("l40s", set()),
        ("mi300x", set()),  # no NVIDIA link
    ],
)
def test_links_fail_by_their_generation(gpu, links):
    assert {name for name, kind in realistic(gpu).items() if kind.family == "nvlink"} == links


@pytest.mark.parametrize("gpu", ["a100", "a10", "v100", "t4"])
def test_ampere_and_before_have_the_rates_of_ampere(gpu):
    for name, kind in realistic(gpu).items():
        known = KINDS[name].ampere_rate_per_1000_gpu_days
        rates = (KINDS[name].rate_per_1000_gpu_days, known)
        assert kind.rate_per_1000_gpu_days == rates[known >= 0]


@pytest.mark.parametrize("gpu", ["h100", "b200", "l40s"])
def test_later_cards_have_the_rates_of_hopper(gpu):
    assert all(kind == KINDS[name] for name, kind in realistic(gpu).items())


def test_amd_gpus_log_no_xids_and_have_no_gsp():
    kinds = realistic("mi300x")
    assert not any(kind.xids for kind in kinds.values())
    assert "gsp-timeout" not in kinds
    assert {"gpu-off-bus", "hbm-ecc"} <= set(kinds)
