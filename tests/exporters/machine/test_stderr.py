"""stderr of ranks: who waited has a file with its watchdog's lines, in order and of its own."""

from __future__ import annotations

import re

import pytest

from ghosttrain.core.events import MessageLogged, WatchdogTimedOut
from ghosttrain.core.identity import job_id
from ghosttrain.core.messages import message_time_s, ranks_that_write
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import KINDS, faulty_run, files_of, lines_of
from tests.golden.timelines import SEED

PATH = re.compile(
    r"^stderr/(?P<host>gpu-(?P<node>\d{4}))/(?P<job>\d+)_[a-z0-9_]{8}/attempt_0/(?P<local>\d)"
    r"/stderr\.log$"
)
WATCHDOG = re.compile(
    r"^\[rank(?P<rank>\d+)\]:\[E\d{3,4} [\d:]{8}\.\d{9} ProcessGroupNCCL\.cpp:\d+\] "
    r"\[(?:PG[^\]]*)?Rank (?P<again>\d+)\] +\S"
)
LINES = (
    WATCHDOG,
    re.compile(r"^\[rank\d+\]: "),
    re.compile(r"^\[rank\d+\]:\[E\d{3,4} [\d:]{8}\.\d{9} ProcessGroupNCCL\.cpp:\d+\] \[PG.*\] $"),
    re.compile(r"^\t +- (?:\[\d+\]|To our best knowledge)"),
    re.compile(r"^terminate called after throwing an instance of 'c10::DistBackendError'$"),
    re.compile(
        r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] (?P<host>[\w.\-]+):\d+:\d+ \[\d+\] "
        r"[\w./]+:\d+ NCCL WARN .+$"
    ),
    re.compile(r"^WARNING: Rank \d+, node \S+, device \d, iteration \d+: Unexpected result nan "),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_one_of_those_programs_and_of_the_rank_whose_file_it_is(kind: str):
    run = faulty_run(kind)
    for file, line in lines_of(files_of(Asked(run), "stderr")):
        place = PATH.match(file)
        assert place, file
        assert any(pattern.match(line) for pattern in LINES), line
        if named := re.match(r"^\[rank(\d+)\]:", line):
            assert int(named[1]) % 8 == int(place["local"])
        assert int(place["job"]) in {job_id(SEED, attempt) for attempt in (1, 2, 3)}


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_ranks_write_as_the_event_says(kind: str):
    run = faulty_run(kind)
    for event in run.events(0.0, float("inf")):
        if isinstance(event, WatchdogTimedOut):
            ranks = ranks_that_write(event, run.plan, run.timeline)
            assert len(set(ranks)) == event.waiting_ranks
            assert event.reporter in ranks
            assert event.rank not in ranks
        elif isinstance(event, MessageLogged) and event.rank is not None:
            ranks = ranks_that_write(event, run.plan, run.timeline)
            if not event.message.startswith("agent_"):  # its ranks are those that it ends
                assert len(set(ranks)) == event.ranks
            assert event.rank in ranks
            assert all(0 <= rank < 64 for rank in ranks)


def test_of_a_hang_all_ranks_but_one_write_and_each_at_its_own_time():
    run = faulty_run("gpu-off-bus")
    files = files_of(Asked(run), "stderr")
    assert len(files) == 63
    stamps = set()
    for text in files.values():
        caught, status, corrupt, down, terminated = text.splitlines()
        assert "Watchdog caught collective operation timeout" in caught
        assert "failure detected by watchdog" in status
        times = re.findall(r"(\d\d:\d\d:\d\d\.\d{9})", caught + status + corrupt + down)
        assert len(times) == 4
        assert times == sorted(times)
        stamps.add(times[0])
        assert terminated.startswith("terminate called")
    assert len(stamps) == 63


def test_the_rank_that_others_wait_for_says_nothing():
    run = faulty_run("gpu-off-bus")
    (event,) = [e for e in run.events(0.0, float("inf")) if isinstance(e, WatchdogTimedOut)]
    local = event.rank % 8
    files = files_of(Asked(run), "stderr")
    assert not any(f"gpu-0002/{job_id(SEED, 1)}" in f and f"/{local}/stderr" in f for f in files)


def test_a_ranks_watchdog_speaks_before_it_says_what_follows():
    run = faulty_run("gpu-off-bus")
    events = [
        e
        for e in run.events(0.0, float("inf"))
        if isinstance(e, WatchdogTimedOut)
        or (isinstance(e, MessageLogged) and e.message.startswith("torch_watchdog"))
    ]
    assert len(events) == 3
    for rank in range(64):
        times = [message_time_s(event, rank) for event in events]
        assert times == sorted(times)


def test_of_chosen_gpus_only_their_ranks_write():
    run = faulty_run("gpu-off-bus")
    whole = files_of(Asked(run), "stderr")
    some = files_of(Asked(run, gpus=(3, 20)), "stderr")
    assert len(some) == 2
    assert all(some[file] == whole[file] for file in some)


def test_of_many_ranks_there_is_a_file_a_node_with_the_same_lines(monkeypatch: pytest.MonkeyPatch):
    run = faulty_run("gpu-off-bus")
    whole = files_of(Asked(run), "stderr")
    monkeypatch.setattr("ghosttrain.exporters.machine.stderr.FILE_PER_RANK_UP_TO", 32)
    by_node = files_of(Asked(run), "stderr")
    assert sorted(by_node) == [f"stderr/gpu-{node:04d}.log" for node in range(8)]
    split: dict[tuple[str, str], list[str]] = {}
    for file, line in lines_of(by_node):
        local, text = re.match(r"^\[default(\d)\]:(.*)$", line).groups()  # type: ignore[union-attr]
        split.setdefault((file[7:15], local), []).append(text)
    for file, text in whole.items():
        place = PATH.match(file)
        assert place is not None
        assert split[place["host"], place["local"]] == text.splitlines()
