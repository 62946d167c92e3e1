"""Messages are what the real programs write: each line is read by the pattern of its program."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache

import pytest

from ghosttrain import catalog
from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.identity import (
    agent_process_id,
    host_name,
    job_id,
    nodes_per_rack,
    pci_bus_id,
    process_id,
    serial_number,
    thread_id,
)
from ghosttrain.core.messages import message_lines, message_time_s
from ghosttrain.core.plan import Plan, plan
from ghosttrain.core.spec import Recipe, RunSpec

K = MessageKind
SEED = 7
XIDS = (13, 31, 43, 45, 48, 63, 64, 74, 79, 94, 95, 119, 120, 145, 149, 154)

# How tools that read the real programs' logs find each line.
STAMPED = r"^\[ *\d+\.\d{6}\] "
XID = re.compile(
    STAMPED + r"NVRM: Xid \(PCI:(?P<pci>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2})"
    r"(?: GPU-I:\d\d)?\): (?P<xid>\d+), (?:pid=(?P<pid>\d+|'?<unknown>'?), )?"
    r"(?:name=(?P<name>[^,]+), )?(?P<text>.*)$"
)
NCCL = re.compile(
    r"^(?:\[[\d\- :.]+\] )?(?P<host>[\w.\-]+):(?P<pid>\d+):(?P<tid>\d+) \[(?P<dev>\d+)\] "
    r"(?:[\w./]+:\d+ )?NCCL (?P<level>INFO|WARN) (?P<text>.*)$"
)
WATCHDOG = re.compile(
    r"ProcessGroupNCCL\.cpp:\d+\] \[(?:PG[^\]]*)?Rank (?P<rank>\d+)\] Watchdog caught collective "
    r"operation timeout: WorkNCCL\(SeqNum=(?P<seq>\d+), OpType=(?P<op>\w+), "
    r"NumelIn=(?P<nin>\d+), NumelOut=(?P<nout>\d+), Timeout\(ms\)=(?P<to>\d+)\) ran for "
    r"(?P<ran>\d+) milliseconds before timing out\.$"
)
TORCH = re.compile(
    r"^\[rank(?P<rank>\d+)\]:\[E(?P<day>\d{3,4}) (?P<time>\d\d:\d\d:\d\d\.\d{9}) "
    r"ProcessGroupNCCL\.cpp:\d+\] "
)
AGENT = re.compile(
    r"^[WE]\d{4} [\d:.]{15} \d+ \S*torch/distributed/elastic/multiprocessing/api\.py:\d+\] "
    r"(?:Sending process \d+ closing signal SIGTERM|failed \(exitcode: (?P<code>-?\d+)\) "
    r"local_rank: (?P<local>\d+) \(pid: (?P<pid>\d+)\) of binary: \S+)$"
)
SRUN = re.compile(
    r"^srun: error: (?:Node failure on (?P<node>\S+)|"
    r"(?P<hosts>\S+): tasks? (?P<tasks>[\d,\-]+): (?P<what>.+))$"
)
SLURMSTEPD = re.compile(
    r"^slurmstepd: error: \*\*\* (?:JOB|STEP) (?P<id>[\d.]+) ON (?P<node>\S+) CANCELLED AT "
    r"(?P<at>\S+) DUE (?P<why>.+) \*\*\*$"
)
TIMER = re.compile(r"^    (?P<name>[\w\-/]+) \.*: \((?P<min>\d+\.\d\d), (?P<max>\d+\.\d\d)\)$")
OOM = re.compile(
    r"torch\.OutOfMemoryError: CUDA out of memory\. Tried to allocate (?P<asked>[\d.]+ [GM]iB)\. "
    r"GPU (?P<gpu>\d+) has a total capacity of (?P<total>[\d.]+ [GM]iB) of which "
    r"(?P<free>[\d.]+ [GM]iB) is free\. Including non-PyTorch memory, this process has "
    r"(?P<used>[\d.]+ [GM]iB) memory in use\. Of the allocated memory (?P<tensors>[\d.]+ [GM]iB) "
    r"is allocated by PyTorch, and (?P<cached>[\d.]+ [GM]iB) is reserved by PyTorch but "
    r"unallocated\. "
)


@cache
def planned(
    gpu: str = "h100-sxm", gpus: int = 64, fabric: str = "", model: str = "llama-3-8b"
) -> Plan:
    card = catalog.gpu(gpu)
    cluster = catalog.cluster(card, gpus)
    if fabric:
        cluster = replace(cluster, fabric=replace(cluster.fabric, kind=fabric))  # type: ignore[arg-type]
    return plan(
        RunSpec(
            catalog.model(model),
            card,
            cluster,
            catalog.dataset("fineweb-edu"),
            catalog.tokenizer("llama-3"),
            Recipe(8192, 2 * gpus, epochs=1, steps_per_epoch=60, warmup_steps=20),
        )
    )


def message(kind: MessageKind, **changes: object) -> MessageLogged:
    """A message of rank 17, which is the second of node 2, an hour and a half into the run."""
    event = MessageLogged(
        time_s=5821.4182,
        message=kind,
        fault=1,
        step=1800,
        attempt=1,
        node=2,
        rank=17,
        ranks=62,
        spread_s=0.4,
    )
    return replace(event, **changes)  # type: ignore[arg-type]


def lines(kind: MessageKind, the_plan: Plan | None = None, **changes: object) -> list[str]:
    return message_lines(message(kind, **changes), the_plan or planned(), SEED)


def timed_out(**changes: object) -> WatchdogTimedOut:
    event = WatchdogTimedOut(
        time_s=5821.4,
        fault=1,
        attempt=1,
        step=1800,
        rank=17,
        reporter=0,
        waiting_ranks=63,
        spread_s=0.4,
        sequence=184223,
        operation="_REDUCE_SCATTER_BASE",
        elements=218112000,
        timeout_s=600.0,
    )
    return replace(event, **changes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------ kernel log


@pytest.mark.parametrize("xid", XIDS)
def test_xid_lines_name_the_gpu(xid):
    the_plan = planned()
    found = [m for line in lines(K.XID, code=xid) if (m := XID.match(line))]
    assert found
    pid = str(process_id(2, 1, 1))
    for m in found:
        assert m["pci"] == pci_bus_id(the_plan.spec.gpu, 1)
        assert int(m["xid"]) == xid
        assert m["pid"] in (pid, "'<unknown>'", None)
        assert (m["name"] == "python3") == (m["pid"] == pid)
        assert m["text"]


def test_a_gpu_off_the_bus_has_its_serial_number_logged():
    first, second, third = lines(K.XID, code=79)
    number = serial_number(planned().spec.cluster, 2, 1)
    assert first.endswith("79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    assert second.endswith("NVRM: GPU 0000:43:00.0: GPU has fallen off the bus.")
    assert third.endswith(f"NVRM: GPU 0000:43:00.0: GPU serial number is {number}.")
    assert len(str(number)) == 13


def test_an_ecc_error_and_its_row_remap_name_one_address():
    (error,), (remap,) = lines(K.XID, code=48), lines(K.XID, code=63)
    address = re.search(r"physAddr 0x([0-9a-f]+) partition", error)
    assert address
    assert f"New row (0x{int(address[1], 16):016x}) marked for remapping" in remap


def test_the_recovery_action_follows_the_xid_before_it():
    (reboot,), (reset,) = lines(K.XID, code=154, value=79), lines(K.XID, code=154, value=95)
    assert reboot.endswith("from 0x0 (None) to 0x2 (Node Reboot Required)")
    assert reset.endswith("from 0x0 (None) to 0x1 (GPU Reset Required)")


@pytest.mark.parametrize(
    ("fabric", "down", "up"),
    [
        ("InfiniBand", "mlx5_core 0000:40:00.0 ibp64s0: Link down", "Link up"),
        ("RoCE", "mlx5_core 0000:40:00.0 enp64s0f0np0: Link down", "Link up"),
        ("Ethernet", "bnxt_en 0000:40:00.0 enp64s0f0np0: NIC Link is Down", "NIC Link is Up, 4"),
        ("Omni-Path", "hfi1 0000:40:00.0: hfi1_1: logical state changed to PORT_DOWN (0x1)", "("),
        ("EFA", "efa 0000:40:00.0 rdmap1: Link down", "Link up"),
        ("Slingshot", "cxi_ss1 0000:40:00.0 cxi1: Link down", "Link up"),
    ],
)
def test_links_go_down_and_up_as_their_driver_says(fabric, down, up):
    the_plan = planned(fabric=fabric)
    (first,), (second,) = lines(K.LINK_DOWN, the_plan), lines(K.LINK_UP, the_plan)
    assert re.sub(STAMPED, "", first) == down
    assert up in second
    assert first != second


def test_the_oom_killer_names_its_victim_three_times():
    invoked, constraint, killed = lines(K.OOM_KILL)
    pid = process_id(2, 1, 1)
    assert "python3 invoked oom-killer: " in invoked
    assert f"task=python3,pid={pid},uid=" in constraint
    sizes = re.search(
        rf"Killed process {pid} \(python3\) total-vm:(\d+)kB, anon-rss:(\d+)kB, ", killed
    )
    assert sizes
    assert int(sizes[1]) > int(sizes[2])


def test_a_panic_ends_with_its_cause():
    *_, last = lines(K.PANIC, rank=None)
    assert last.endswith("Kernel panic - not syncing: Fatal machine check")


@pytest.mark.parametrize("name", [n for n in catalog.names("fault") if catalog.fault_kind(n).xids])
def test_the_xids_of_one_report_are_stamped_in_their_order(name):
    xids = catalog.fault_kind(name).xids
    stamps = [
        float(m[1])
        for before, xid in itertools.pairwise((0, *xids))
        for line in lines(K.XID, code=xid, value=before)
        if (m := re.match(r"\[ *(\d+\.\d{6})\]", line))
    ]
    assert len(stamps) >= len(xids)
    assert stamps == sorted(set(stamps))


def test_kernel_stamps_count_from_the_boot_and_never_go_back():
    stamps = [
        float(m[1])
        for xid in (48, 79)
        for line in lines(K.XID, code=xid, time_s=5000.0 + xid)
        if (m := re.match(r"\[ *(\d+\.\d{6})\]", line))
    ]
    assert stamps == sorted(stamps)
    assert stamps[1] - stamps[0] == pytest.approx(31, abs=1e-3)
    assert stamps[0] > 2 * 86400


# ------------------------------------------------------------------------- NCCL and PyTorch


@pytest.mark.parametrize("kind", [K.NCCL_PORT_ERROR, K.NCCL_RETRY_EXCEEDED, K.NCCL_SOCKET_CLOSED])
@pytest.mark.parametrize(
    "fabric", ["InfiniBand", "RoCE", "Ethernet", "EFA", "Slingshot", "Omni-Path"]
)
def test_nccl_warnings_name_host_process_and_device(kind, fabric):
    """Sockets and libfabric have no asynchronous events; all other warnings are one line."""
    the_plan = planned(fabric=fabric)
    written = lines(kind, the_plan, value=58.0)
    if kind is K.NCCL_PORT_ERROR and fabric not in ("InfiniBand", "RoCE", "Omni-Path"):
        assert written == []
        return
    (line,) = written
    m = NCCL.match(line)
    assert m
    assert (m["host"], m["level"]) == ("gpu-0002", "WARN")
    assert (int(m["pid"]), int(m["tid"])) == (process_id(2, 1, 1), thread_id(2, 1, 1))
    assert int(m["dev"]) == 1
    assert line.startswith("[2026-01-01 01:37:01] ")


def test_a_lost_completion_names_peer_and_nic_in_the_words_of_its_nccl():
    infiniband = planned()
    (old,) = lines(K.NCCL_RETRY_EXCEEDED, infiniband, value=58.0)
    assert re.search(r"from peer 10\.4\.0\.8<\d+> with status=12 .* vendor err 129 \(Send\)", old)
    assert old.endswith(" hca mlx5_1")
    cluster = replace(infiniband.spec.cluster, nccl="2.29.7")
    newer = replace(infiniband, spec=replace(infiniband.spec, cluster=cluster))
    (new,) = lines(K.NCCL_RETRY_EXCEEDED, newer, value=58.0)
    assert "status=IBV_WC_RETRY_EXC_ERR(12) opcode=" in new
    assert "vendor_err=129" in new
    (roce,) = lines(K.NCCL_RETRY_EXCEEDED, planned(fabric="RoCE"), value=58.0)
    assert "localGid ::ffff:10.17.0.3 remoteGids::ffff:10.18.0.8 hca mlx5_1" in roce


def test_a_peers_port_is_the_same_for_all_who_lose_it():
    seen = [lines(K.NCCL_SOCKET_CLOSED, rank=rank, value=58.0)[0] for rank in (16, 17, 40)]
    assert len({line.partition("gpu-0007.cluster<")[2] for line in seen}) == 1


@pytest.mark.parametrize("rank", [None, 1, 33, 63])
def test_each_waiting_rank_reports_the_same_collective(rank):
    (line,) = message_lines(timed_out(), planned(), SEED, rank=rank)
    m, head = WATCHDOG.search(line), TORCH.match(line)
    assert m
    assert head
    assert m["rank"] == head["rank"] == str(rank or 0)
    assert (m["seq"], m["op"], m["to"]) == ("184223", "_REDUCE_SCATTER_BASE", "600000")
    assert int(m["nin"]) == 218112000 == 64 * int(m["nout"])
    assert 600_000 < int(m["ran"]) <= 600_100


def test_element_counts_follow_the_operation():
    def numels(operation: str) -> tuple[int, int]:
        (line,) = message_lines(timed_out(operation=operation), planned(), SEED)
        m = WATCHDOG.search(line)
        assert m
        return int(m["nin"]), int(m["nout"])

    assert numels("ALLREDUCE") == (218112000, 218112000)
    assert numels("_ALLGATHER_BASE") == (3408000, 218112000)


def test_the_watchdogs_follow_ups_are_stamped_and_end_the_process():
    (status,) = lines(K.WATCHDOG_STATUS, value=184223.0)
    m = re.search(
        r"\[PG ID 0 PG GUID 0\(default_pg\) Rank 17\]  failure detected by watchdog at work "
        r"sequence id: 184223 PG status: last enqueued work: (\d+), last completed work: 184222$",
        status,
    )
    assert m
    assert int(m[1]) >= 184223
    corrupt, down, thrown = lines(K.WATCHDOG_TEARDOWN)
    assert all(TORCH.match(line) for line in (status, corrupt, down))
    assert corrupt.endswith("might run on corrupted/incomplete data.")
    assert down.endswith("we are taking the entire process down.")
    assert "terminate called" in thrown


def test_torchs_dates_have_no_leading_zero_and_agents_have():
    """PyTorch prints 100 x month + day; torchrun's Python formatter two digits each."""
    (status,) = lines(K.WATCHDOG_STATUS, value=1.0)
    (failed,) = lines(K.AGENT_FAILED, code=-6)
    assert ":[E101 01:37:01.4182" in status
    assert failed.startswith("E0101 01:37:01.418000 ")


def test_a_desync_report_names_the_collective():
    text = "\n".join(lines(K.DESYNC, value=184223.0))
    assert "[17] Timeout at collective: _REDUCE_SCATTER_BASE, #184223" in text
    assert "the lagging/dead/mismatched ranks that caused the desync are:" in text


@pytest.mark.parametrize(
    ("xid", "error"),
    [
        (48, "CUDA error: uncorrectable ECC error encountered"),
        (74, "CUDA error: uncorrectable NVLink error detected during the execution"),
        (31, "CUDA error: an illegal memory access was encountered"),
        (79, "CUDA error: unspecified launch failure"),
        (0, "CUDA error: unspecified launch failure"),
    ],
)
def test_cuda_errors_follow_their_xid(xid, error):
    written = lines(K.CUDA_ERROR, code=xid)
    assert all(line.startswith("[rank17]: ") for line in written)
    assert f"[rank17]: RuntimeError: {error}" in written


def gib(size: str) -> float:
    number, unit = size.split()
    return float(number) / (1024 if unit == "MiB" else 1)


@pytest.mark.parametrize("fault", range(1, 12))
@pytest.mark.parametrize(
    ("gpu", "model", "gpus"),
    [("h100-sxm", "llama-3-8b", 64), ("a100-80gb-sxm", "llama-3-8b", 64)],
)
def test_the_numbers_of_a_full_gpu_add_up(gpu, model, gpus, fault):
    the_plan = planned(gpu, gpus, model=model)
    m = OOM.search("\n".join(lines(K.CUDA_OOM, the_plan, fault=fault)))
    assert m
    total, free, used = gib(m["total"]), gib(m["free"]), gib(m["used"])
    tensors, cached, asked = gib(m["tensors"]), gib(m["cached"]), gib(m["asked"])
    (stage,) = the_plan.stage_memory
    assert int(m["gpu"]) == 1
    assert 0.985 * the_plan.spec.gpu.memory_gib < total < the_plan.spec.gpu.memory_gib
    assert total == pytest.approx(free + used, abs=0.011)
    assert used == pytest.approx(tensors + cached + stage.context_gib, abs=0.02)
    assert cached == pytest.approx(stage.fragmentation_gib, abs=0.01)
    assert asked > free
    assert tensors > stage.allocated_gib


def test_a_full_gpu_has_the_memory_of_its_own_stage():
    the_plan = planned("h100-sxm", 64, model="llama-3-70b")
    stages = len(the_plan.stage_memory)
    for stage in {0, stages - 1}:
        rank = stage * 64 // stages
        m = OOM.search("\n".join(lines(K.CUDA_OOM, the_plan, rank=rank, node=rank // 8)))
        assert m
        expected = the_plan.stage_memory[stage].fragmentation_gib
        assert gib(m["cached"]) == pytest.approx(expected, abs=0.01)


def test_an_aborted_peer_tells_nccls_version_and_who_is_gone():
    written = lines(K.NCCL_ABORTED, value=58.0)
    (error,) = (line for line in written if "DistBackendError" in line)
    assert error.endswith("remote process exited or there was a network error, NCCL version 2.27.3")
    assert any(line.startswith("[rank17]: ncclRemoteError: ") for line in written)
    assert "Connection closed by remote peer gpu-0007.cluster<" in written[-1]


# ---------------------------------------------------------------------------- the program


@pytest.mark.parametrize("code", range(8))
def test_software_errors_are_tracebacks(code):
    first, *rest = lines(K.TRACEBACK, code=code)
    assert first == "[rank17]: Traceback (most recent call last):"
    assert re.match(r"\[rank17\]: \w+(?:Error|Exception): ", rest[-1])


def test_software_errors_differ():
    assert len({lines(K.TRACEBACK, code=code)[-1] for code in range(6)}) == 6


def test_megatron_says_that_it_saved_and_ends():
    assert lines(K.SIGTERM) == [
        "[exiting program after receiving SIGTERM.] datetime: 2026-01-01 01:37:01.418200 "
    ]


def test_a_loss_that_is_no_number_is_told_and_stops_nobody():
    assert lines(K.NAN_LOSS, value=1799.0) == [
        "WARNING: Rank 17, node gpu-0002, device 1, iteration 1799: Unexpected "
        "result nan (message='found NaN in local forward loss calculation')"
    ]
    assert "iteration 1801: " in lines(K.NAN_LOSS)[-1]


def test_storage_messages_name_folder_and_time():
    *_, full = lines(K.STORAGE_FULL, value=1e11)
    assert "OSError: [Errno 28] No space left on device: 'outputs/llama-3-8b/checkpoints/" in full
    head, timer = lines(K.STORAGE_SLOW, value=312.5)
    assert head == "(min, max) time across ranks (ms):"
    m = TIMER.match(timer)
    assert m
    assert m["name"] == "save-checkpoint"
    assert float(m["min"]) <= float(m["max"]) == 312500.0


def test_a_corrupt_checkpoint_is_named_and_its_archive_unreadable():
    first, *_, last = lines(K.CHECKPOINT_CORRUPT, value=1500.0)
    assert first.endswith("/checkpoints/step_0001500 at iteration 1500")
    assert "PytorchStreamReader failed reading zip archive" in last


def test_a_rollback_says_how_much_data_is_left_out():
    (line,) = lines(K.ROLLBACK, value=200.0, rank=None)
    assert "skipping 200 batches" in line


# -------------------------------------------------------------------- torchrun, Slurm, people


def test_the_agent_ends_the_workers_that_are_left():
    written = lines(K.AGENT_SIGTERM)
    assert all(AGENT.match(line) for line in written)
    pids = [int(re.search(r"process (\d+)", line)[1]) for line in written]  # type: ignore[index]
    assert pids == [process_id(2, local, 1) for local in range(8) if local != 1]
    assert f" {agent_process_id(2, 1)} torch/" in written[0]


@pytest.mark.parametrize("code", [-6, -9, 1])
def test_the_agent_names_the_worker_that_failed(code):
    (line,) = lines(K.AGENT_FAILED, code=code)
    m = AGENT.match(line)
    assert m
    assert (int(m["code"]), int(m["local"]), int(m["pid"])) == (code, 1, process_id(2, 1, 1))


@pytest.mark.parametrize(
    ("code", "failed", "width"), [(-6, 1, 54), (-6, 3, 54), (-9, 1, 54), (1, 1, 60)]
)
def test_torchruns_block_is_as_wide_as_its_widest_line_up_to_60(code, failed, width):
    written = lines(K.AGENT_SUMMARY, code=code, ranks=failed)
    start = written.index("pretrain_gpt.py FAILED") - 1
    assert written[start - 1].endswith("errors.ChildFailedError: ")
    block = written[start:]
    assert block[0] == block[-1] == "=" * width
    assert block.count("-" * width) == 2
    assert [line for line in block if line.startswith("[")] == [
        *(f"[{n}]:" for n in range(1, failed)),
        "[0]:",
    ]
    assert ("  <NO_OTHER_FAILURES>" in block) == (failed == 1)
    root = block[block.index("Root Cause (first observed failure):") :]
    assert "  host      : gpu-0002.cluster" in root
    assert "  rank      : 17 (local_rank: 1)" in root
    assert "  time      : 2026-01-01_01:37:01" in root


def test_slurm_reports_nodes_tasks_and_steps():
    controller, srun = lines(K.NODE_FAILED, rank=None)
    assert controller.endswith("] error: Nodes gpu-0002 not responding, setting DOWN")
    m = SRUN.match(srun)
    assert m
    assert m["node"] == "gpu-0002"
    for code in (-6, 1):  # the task is torchrun, which ends the same way
        m = SRUN.match(lines(K.TASK_EXITED, code=code)[0])
        assert m
        assert (m["hosts"], m["tasks"]) == ("gpu-0002", "2")
        assert m["what"] == "Exited with exit code 1"
    for kind, code, why, name in (
        (K.STEP_CANCELLED, 0, "TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS", ".0"),
        (K.STEP_CANCELLED, 1, "TO TASK FAILURE", ".0"),
        (K.PREEMPTED, 0, "TO PREEMPTION", ""),
    ):
        m = SLURMSTEPD.match(lines(kind, code=code, rank=None)[-1])
        assert m
        assert m["id"] == f"{job_id(SEED, 1)}{name}"
        assert (m["at"], m["why"]) == ("2026-01-01T01:37:01", why)


@pytest.mark.parametrize(
    ("node", "code", "spares", "host"),
    [
        (2, 1, (), "gpu-0002"),
        (2, 0, (), "gpu-0000"),
        (0, 0, (), "gpu-0001"),
        (2, 0, ((0, 8),), "gpu-0008"),
    ],
)
def test_a_node_that_is_gone_does_not_tell_of_it(node, code, spares, host):
    event = {"rank": None, "node": node, "code": code, "spares": spares}
    assert f".0 ON {host} CANCELLED AT" in lines(K.STEP_CANCELLED, **event)[-1]


def test_operators_name_the_node():
    assert "about 2h10m" in lines(K.OPERATOR_NOTICED, rank=None, value=7800.0)[0]
    assert "NodeName=gpu-0002 State=DRAIN" in lines(K.OPERATOR_EXCLUDED, rank=None)[0]
    assert "NodeName=gpu-0002 State=RESUME" in lines(K.OPERATOR_REPAIRED, rank=None)[0]


# ------------------------------------------------------------------------- all, and each rank


@pytest.mark.parametrize("kind", list(MessageKind))
@pytest.mark.parametrize(("gpu", "gpus"), [("h100-sxm", 64), ("gb200", 72), ("a100-80gb-sxm", 8)])
def test_every_message_has_lines_that_repeat_and_never_break(kind, gpu, gpus):
    the_plan = planned(gpu, gpus)
    node = 7 // the_plan.spec.cluster.gpus_per_node
    event = message(kind, rank=7, node=node, code=48 if kind is K.XID else -6, value=5.0)
    written = message_lines(event, the_plan, SEED)
    assert written
    assert written == message_lines(event, the_plan, SEED)
    assert all("\n" not in line and line.isascii() for line in written)


def test_another_rank_writes_the_same_a_little_later_from_its_own_place():
    event = message(K.NCCL_SOCKET_CLOSED, value=58.0)
    (line,) = message_lines(event, planned(), SEED, rank=40)
    m = NCCL.match(line)
    assert m
    assert (m["host"], m["dev"]) == ("gpu-0005", "0")
    assert int(m["pid"]) == process_id(5, 0, 1)


def test_the_first_writes_at_once_and_the_others_within_the_spread():
    event = message(K.NCCL_ABORTED)
    times = [message_time_s(event, rank) for rank in range(64)]
    assert message_time_s(event) == times[17] == event.time_s
    others = [t for rank, t in enumerate(times) if rank != 17]
    assert event.time_s < min(others)
    assert max(others) <= event.time_s + event.spread_s
    assert len(set(others)) > 50
    assert times == [message_time_s(event, rank) for rank in range(64)]


def test_a_spare_has_its_own_name_in_the_old_place():
    (line,) = message_lines(
        message(K.NCCL_SOCKET_CLOSED, value=58.0, attempt=2, spares=((2, 8),)), planned(), SEED
    )
    cluster = planned().spec.cluster
    assert line[22:].startswith(f"{host_name(cluster, 8)}:{process_id(8, 1, 2)}:")


def test_process_numbers_are_one_family():
    """The agent before its workers, they in a row, NCCL's threads behind them all."""
    for node in range(64):
        workers = [process_id(node, local, 1) for local in range(8)]
        assert workers == list(range(workers[0], workers[0] + 8))
        assert agent_process_id(node, 1) < workers[0]
        assert all(thread_id(node, local, 1) > workers[-1] for local in range(8))
    assert job_id(SEED, 1) < job_id(SEED, 2) < job_id(SEED, 3)


@pytest.mark.parametrize(
    ("gpu", "gpus", "nodes"),
    [("h100-sxm", 64, 4), ("h100-sxm", 16, 2), ("h100-sxm", 8, 1), ("gb200", 144, 18)],
)
def test_racks_hold_four_servers_or_one_nvlink_domain(gpu, gpus, nodes):
    card = catalog.gpu(gpu)
    assert nodes_per_rack(card, catalog.cluster(card, gpus)) == nodes


@pytest.mark.parametrize("which", [64, 65, 66])
def test_a_missing_service_is_no_bug(which):
    *_, error = lines(K.TRACEBACK, code=which)
    assert re.search(r"ConnectionError|DistStoreError|gaierror", error)


@pytest.mark.parametrize(("part", "word"), [(0, "EDAC"), (1, "nvme"), (2, "AER")])
def test_the_kernel_names_the_part_of_the_host_that_fails(part, word):
    assert word in lines(K.HARDWARE, rank=None, code=part)[0]


def test_what_operators_have_done_is_told():
    told = [lines(K.OPERATOR_REPAIRED, code=code)[0] for code in range(4)]
    assert "State=RESUME" in told[0]
    assert "gpu-0002" not in told[1]
    assert "--gpu-reset -i 1" in told[2]
    assert "reboot" in told[3]


def test_whoever_cancels_a_step_is_told():
    reasons = {0: "DUE TO NODE FAILURE", -15: "DUE to SIGNAL Terminated", 1: "DUE TO TASK FAILURE"}
    for code, reason in reasons.items():
        assert reason in lines(K.STEP_CANCELLED, code=code)[-1]


def test_torchrun_dates_a_failure_when_it_saw_it_ahead_of_what_it_says_of_it():
    written = lines(K.AGENT_SUMMARY, code=1, value=2.5)
    assert "  time      : 2026-01-01_01:36:58" in written
