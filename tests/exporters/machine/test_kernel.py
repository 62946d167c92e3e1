"""Kernel logs: every line is one a real kernel writes, at its host, in order, of this run."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ghosttrain import catalog
from ghosttrain.core.events import MessageKind, MessageLogged
from ghosttrain.core.identity import host_name, pci_bus_id, uptime_s
from ghosttrain.core.messages import booted_s, boots
from ghosttrain.core.run import Run, simulate
from ghosttrain.exporters.writing import Asked
from tests.exporters.machine.files import KINDS, faulty_run, files_of, lines_of
from tests.golden.timelines import SEED

STAMP = re.compile(r"^\[ *(?P<stamp>\d+\.\d{6})\] (?P<text>.+)$")
TEXTS = (
    re.compile(
        r"NVRM: Xid \(PCI:(?P<pci>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})(?: GPU-I:\d\d)?\): "
        r"(?P<xid>\d+), (?:pid=(?P<pid>\d+|'?<unknown>'?), )?"
        r"(?:name=(?P<name>[^,]+), )?(?P<text>.*)$"
    ),
    re.compile(r"NVRM: GPU 0000:[0-9a-f]{2}:00\.0: GPU has fallen off the bus\.$"),
    re.compile(
        r"nvidia-nvswitch(?P<switch>\d): SXid \(PCI:0000:[0-9a-f]{2}:00\.0\): 20034, "
        r"(?:Fatal, Link \d\d LTSSM Fault Up"
        r"|Severity 1 Engine instance \d\d Sub-engine instance 00)$"
    ),
    re.compile(r"NVRM: GPU 0000:[0-9a-f]{2}:00\.0: GPU serial number is \d{13}\.$"),
    re.compile(r"python3 invoked oom-killer: gfp_mask=0x\w+\([\w|]+\), order=\d, oom_score_adj=0$"),
    re.compile(r"oom-kill:constraint=CONSTRAINT_NONE,\S+,task=python3,pid=\d+,uid=\d+$"),
    re.compile(r"Out of memory: Killed process \d+ \(python3\) total-vm:\d+kB, anon-rss:\d+kB, "),
    re.compile(r"mce: \[Hardware Error\]: "),
    re.compile(r"Kernel panic - not syncing: Fatal machine check$"),
    re.compile(r"EDAC MC\d: 1 UE memory read error on CPU_SrcID#\d_MC#\d_Chan#\d_DIMM#0$"),
    re.compile(r"nvme nvme0: (?:I/O tag \d+ QID \d+ timeout, aborting|Device not ready; .+)$"),
    re.compile(r"pcieport 0000:[0-9a-f]{2}:01\.0: AER: Uncorrectable \(Fatal\) error message "),
    re.compile(r"mlx5_core 0000:[0-9a-f]{2}:00\.0 \w+: Link (?:up|down)$"),
    re.compile(r"CPU\d+: Package temperature is above threshold, cpu clock is throttled "),
    re.compile(r"Linux version \d+\.\d+\.\d+-\d+-\w+ \(.+\) #\d+\S* SMP "),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_one_of_a_kernel_and_stamps_never_go_back(kind: str):
    for file, text in files_of(Asked(faulty_run(kind)), "kernel").items():
        last = 0.0
        for line in text.splitlines():
            found = STAMP.match(line)
            assert found, line
            assert any(pattern.match(found["text"]) for pattern in TEXTS), line
            if found["text"].startswith("Linux version"):
                last = 0.0
            assert float(found["stamp"]) >= last, (file, line)
            last = float(found["stamp"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_xid_of_the_run_is_logged_by_the_host_it_is_of(kind: str):
    run = faulty_run(kind)
    files = files_of(Asked(run), "kernel")
    said = [
        event
        for event in run.events(0.0, float("inf"))
        if isinstance(event, MessageLogged) and event.message is MessageKind.XID
    ]
    per_node = run.spec.cluster.gpus_per_node
    expected = set()
    for event in said:
        assert event.rank is not None
        node = event.rank // per_node
        host = host_name(run.spec.cluster, dict(event.spares).get(node, node))
        pci = pci_bus_id(run.spec.gpu, event.rank % per_node)
        expected.add((f"kernel/{host}.log", pci, event.code))
    found = {
        (file, m["pci"], int(m["xid"]))
        for file, line in lines_of(files)
        if (m := TEXTS[0].search(line))
    }
    assert found == expected


def test_a_stamp_is_the_time_since_the_boot_of_that_host():
    run = faulty_run("gpu-off-bus")
    (text,) = files_of(Asked(run), "kernel").values()
    stamp = STAMP.match(text.splitlines()[0])
    assert stamp is not None
    up_s = uptime_s(run.spec.cluster, 2) + run.timeline.incidents[0].time_s
    assert float(stamp["stamp"]) == pytest.approx(up_s, abs=2e-6)


@pytest.mark.parametrize("kind", ["gsp-timeout", "kernel-panic", "node-reboot"])
def test_a_host_that_is_booted_in_its_place_counts_anew(kind: str):
    run = faulty_run(kind)
    found = boots(run.timeline, 8)
    (boot,) = found
    assert boot.machine == 2
    incident = run.timeline.incidents[0]
    assert incident.strike_s is not None
    assert incident.strike_s < boot.time_s < boot.relaunch_s == incident.relaunch_s
    assert booted_s(found, 2, boot.relaunch_s - 1) is None
    assert booted_s(found, 2, run.end_s) == boot.time_s
    assert booted_s(found, 3, run.end_s) is None
    node = run.nodes(np.array([run.end_s]), ["boot_time_unix_s"]).columns["boot_time_unix_s"]
    assert node[0, 2] == pytest.approx(run.spec.start_unix_s + boot.time_s)
    text = files_of(Asked(run), "kernel")["kernel/gpu-0002.log"]
    assert text.count("Linux version") == 1
    assert text.splitlines()[-1].startswith("[    0.000000] Linux version")


def test_all_ports_of_a_rack_go_down_at_their_own_hosts():
    run = faulty_run("switch-down")
    files = files_of(Asked(run), "kernel")
    down = [file for file, line in lines_of(files) if line.endswith("Link down")]
    up = [file for file, line in lines_of(files) if line.endswith("Link up")]
    ports = run.timeline.incidents[0].gpus
    assert len(down) == len(up) == ports
    assert len(files) == ports // run.spec.cluster.gpus_per_node


def test_the_switch_at_the_other_end_of_a_failed_link_says_so_where_there_is_one():
    def switched(run: Run) -> list[str]:
        return [line for _, line in lines_of(files_of(Asked(run), "kernel")) if "SXid" in line]

    assert len(switched(faulty_run("nvlink-error"))) == 2
    assert switched(faulty_run("nvlink5-error")) == []
    spec = faulty_run("nvlink-error").spec
    bridged = catalog.gpu("h100-nvl")
    assert bridged.nvlink_domain == 2
    run = simulate(replace(spec, gpu=bridged, cluster=catalog.cluster(bridged, 64)), SEED)
    assert "kernel/gpu-0002.log" in files_of(Asked(run), "kernel")
    assert switched(run) == []


def test_a_quiet_run_has_no_kernel_log():
    assert files_of(Asked(faulty_run("loss-bump")), "kernel") == {}
