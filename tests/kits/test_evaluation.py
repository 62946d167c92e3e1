"""The harness itself: series in promtool's notation, and promises that are not kept."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from ghosttrain.core.run import Run
from tests.kits.evaluation import Firing, as_scraped, notation
from tests.kits.expectations import broken, expected, played


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([(0, b"1"), (1, b"1"), (2, b"1"), (3, b"2")], "1x2 2"),
        ([(2, b"5"), (3, b"6")], "_x2 5 6"),
        # One that vanishes is stale at the next scrape, not five minutes later.
        ([(0, b"5")], "5 stale"),
        ([(0, b"5"), (3, b"5")], "5 stale _x1 5"),
        ([(0, b"NaN"), (1, b"NaN"), (2, b"1"), (3, b"1")], "NaN NaN 1x1"),
    ],
)
def test_series_are_written_as_a_server_would_keep_them(values, text):
    assert notation(values, 4) == text


@pytest.mark.parametrize(
    ("line", "stored"),
    [
        (b"ghosttrain_loss", b'ghosttrain_loss{job="ghosttrain",instance="127.0.0.1:9400"}'),
        (
            b'X{gpu="0",Hostname="gpu-0007"}',
            b'X{job="ghosttrain",instance="gpu-0007",gpu="0",Hostname="gpu-0007"}',
        ),
        (b'node_load1{instance="gpu-0007"}', b'node_load1{job="ghosttrain",instance="gpu-0007"}'),
    ],
)
def test_a_series_gets_the_labels_of_its_target(line, stored):
    assert as_scraped(line) == stored


@cache
def a_run() -> Run:
    return played("sram-parity")


@cache
def as_promised() -> tuple[Firing, ...]:
    """What keeps all promises of the scenario."""
    label = a_run().labels()[0]
    assert label.mitigated_s
    gpu = (("Hostname", "gpu-0003"), ("gpu", str(label.first_rank % 8)), ("severity", "critical"))
    start, stop = label.onset_s + 30, label.mitigated_s + 60
    return (
        Firing("GpuXidCritical", gpu, start, stop),
        Firing("GpuEccUncorrected", gpu, start, stop),
        Firing("JobRestarted", (("severity", "info"),), label.mitigated_s + 30, stop + 600),
    )


def test_kept_promises_leave_nothing_to_say():
    assert broken(expected()["sram-parity"], a_run(), as_promised()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: None, "did not fire"),
        (lambda f: replace(f, start_s=f.start_s + 300), "did not fire by"),
        (lambda f: replace(f, stop_s=f.stop_s + 600), "not gone by"),
        (lambda f: replace(f, stop_s=None), "not gone by"),
        (lambda f: replace(f, labels=(("Hostname", "gpu-0003"), ("gpu", "0"))), "did not fire"),
        (lambda f: replace(f, labels=(("Hostname", "gpu-0001"), ("gpu", "6"))), "nobody promised"),
        (lambda f: replace(f, start_s=10.0), "before the first fault"),
        (lambda f: replace(f, alert="GpuHot"), "nobody promised GpuHot"),
    ],
)
def test_a_promise_that_is_not_kept_is_told(change, said):
    first, *others = as_promised()
    changed = change(first)
    found = broken(expected()["sram-parity"], a_run(), [changed, *others] if changed else others)
    assert any(said in words for words in found), found
