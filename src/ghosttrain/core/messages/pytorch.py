"""Lines of NCCL and PyTorch in a rank: collectives that fail or time out, CUDA's errors.

PyTorch's are those of 2.6, whose line numbers in ProcessGroupNCCL.cpp published logs show; NCCL's
of 2.27. Real programs break no line, however long.
"""

from __future__ import annotations

from ghosttrain.core.events import WatchdogTimedOut
from ghosttrain.core.identity import host_name, ip_address, nic_name
from ghosttrain.core.laws.memory import StageMemory
from ghosttrain.core.messages.writer import DOMAIN, Writer, drawn
from ghosttrain.core.units import GIB, MIB

# Lines of ProcessGroupNCCL.cpp.
_CAUGHT, _STATUS, _CORRUPT, _DOWN, _DESYNC = 629, 2168, 681, 695, 2118
_GROUP = "[PG ID 0 PG GUID 0(default_pg) Rank"
_OPERATIONS = {
    "all_reduce": "ALLREDUCE",
    "reduce_scatter": "_REDUCE_SCATTER_BASE",
    "all_gather": "_ALLGATHER_BASE",
    "all_to_all": "ALLTOALL_BASE",
}
_VERBS = ("InfiniBand", "RoCE", "Omni-Path")
_LIBFABRIC = ("EFA", "Slingshot")
_NAMED_STATUS_FROM = (2, 29)  # NCCL: names of states and opcodes in place of their numbers
# Share of a card's memory that torch sees: 79.2 of the 79.65 GiB of an H100, 139.8 of 140.4 (H200).
_VISIBLE = 0.994
_PAGE = 2 * MIB  # in which the allocator asks the driver

# cudaGetErrorString by the Xid behind the error (CUDA runtime API, cudaError).
_CUDA_ERRORS = {
    13: "an illegal memory access was encountered",
    31: "an illegal memory access was encountered",
    48: "uncorrectable ECC error encountered",
    63: "uncorrectable ECC error encountered",
    64: "uncorrectable ECC error encountered",
    74: "uncorrectable NVLink error detected during the execution",
    94: "uncorrectable ECC error encountered",
    95: "uncorrectable ECC error encountered",
    119: "unknown error",
    120: "unknown error",
    145: "uncorrectable NVLink error detected during the execution",
    149: "uncorrectable NVLink error detected during the execution",
}
_OTHER_CUDA_ERROR = "unspecified launch failure"

TRAIN_FRAMES = (
    ("/workspace/Megatron-LM/pretrain_gpt.py", 291, "<module>", "pretrain("),
    ("/workspace/Megatron-LM/megatron/training/training.py", 852, "pretrain", "train("),
)
STEP_FRAME = (
    "/workspace/Megatron-LM/megatron/training/training.py",
    2271,
    "train",
    "train_step(",
)
Frame = tuple[str, int, str, str]


def traceback_lines(writer: Writer, frames: tuple[Frame, ...], *error: str) -> list[str]:
    """A Python traceback as torch's hook prints it: every line behind `[rankN]: `."""
    lines = ["Traceback (most recent call last):"]
    for path, line, function, code in frames:
        lines += [f'  File "{path}", line {line}, in {function}', f"    {code}"]
    return [f"[rank{writer.rank}]: {line}" for line in (*lines, *error)]


# ------------------------------------------------------------------------------------ NCCL


def _nccl_warning(writer: Writer, source: str, text: str) -> str:
    head = f"[{writer.stamp()}] {writer.host}:{writer.pid}:{writer.tid} [{writer.local}]"
    return f"{head} {source} NCCL WARN {text}"


def port_error_lines(writer: Writer) -> list[str]:
    """The asynchronous event of a NIC; only verbs have them (NCCL, transport/net_ib.cc)."""
    if writer.cluster.fabric.kind not in _VERBS:
        return []
    nic = nic_name(writer.cluster, writer.local)
    event = f"NET/IB : {nic}:1 Got non-fatal async event: port error(10)"
    return [_nccl_warning(writer, "transport/net_ib.cc:253", event)]


def retry_exceeded_lines(writer: Writer, peer: int) -> list[str]:
    """A send that was never acknowledged; the peer is named by its address."""
    fabric = writer.cluster.fabric.kind
    if fabric in _LIBFABRIC:
        request = f"0x7f{writer.draw('request', 2**40):010x}"
        error = f"Request {request} completed with error. RC: 113. Error: No route to host."
        text = f"{error} Completed length: 0, Request: {{ dev: {writer.local}, size: 0, "
        text += "state: PENDING, direction: SEND }"
        return [_nccl_warning(writer, "ofi_process_cq:1390", f"NET/OFI {text}")]
    if fabric == "Ethernet":
        text = f"socketProgressOpt: Call to recv from {_peer_address(writer, peer)} failed : "
        return [_nccl_warning(writer, "misc/socket.cc:46", f"{text}Connection timed out")]
    return [_nccl_warning(writer, "transport/net_ib.cc:2453", _completion(writer, peer))]


def _completion(writer: Writer, peer: int) -> str:
    """The completion with status 12 and the vendor's error 129."""
    version = tuple(int(part) for part in writer.cluster.nccl.split(".")[:2])
    if version >= _NAMED_STATUS_FROM:
        status = "status=IBV_WC_RETRY_EXC_ERR(12) opcode=IBV_WC_RDMA_WRITE(1) vendor_err=129"
    else:
        status = "status=12 opcode=1 len=0 vendor err 129 (Send)"
    gids = ""
    if writer.cluster.fabric.kind == "RoCE":
        here = ip_address(writer.machine, writer.local)
        there = ip_address(writer.machine_of(peer), peer % writer.cluster.gpus_per_node)
        gids = f" localGid ::ffff:{here} remoteGids::ffff:{there}"
    nic = nic_name(writer.cluster, writer.local)
    address = _peer_address(writer, peer)
    return f"NET/IB: Got completion from peer {address} with {status}{gids} hca {nic}"


def socket_closed_lines(writer: Writer, peer: int) -> list[str]:
    """The peer's process is gone."""
    return [_nccl_warning(writer, "misc/socket.cc:49", _closed_by(writer, peer))]


def _closed_by(writer: Writer, peer: int) -> str:
    host = host_name(writer.cluster, writer.machine_of(peer))
    name = f"{host}.{DOMAIN}<{_port(writer, peer)}>"
    return f"socketProgress: Connection closed by remote peer {name}"


def _peer_address(writer: Writer, peer: int) -> str:
    return f"{ip_address(writer.machine_of(peer))}<{_port(writer, peer)}>"


def _port(writer: Writer, peer: int) -> int:
    """Port of a peer's socket: one of those Linux gives out (32768 to 60999)."""
    return 32768 + drawn(28000, "port", writer.seed, writer.attempt, peer)


def nccl_aborted_lines(writer: Writer, peer: int) -> list[str]:
    """The exception in a rank whose neighbour on the ring, `peer`, is gone."""
    where = "/pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268"
    remote = "remote process exited or there was a network error"
    version = f"NCCL version {writer.cluster.nccl}"
    return traceback_lines(
        writer,
        (*TRAIN_FRAMES, STEP_FRAME),
        f"torch.distributed.DistBackendError: NCCL error in: {where}, {remote}, {version}",
        "ncclRemoteError: A call failed possibly due to a network error or a remote process "
        "exiting prematurely.",
        "Last error:",
        _closed_by(writer, peer),
    )


# -------------------------------------------------------------------------------- watchdog


def watchdog_lines(writer: Writer, event: WatchdogTimedOut) -> list[str]:
    """What the watchdog of one waiting rank says first; it looks every 100 ms."""
    late_ms = 1 + drawn(99, "late", event.fault, event.attempt, writer.rank)
    timeout_ms = round(1000 * event.timeout_s)
    numel_in, numel_out = _numels(event, writer.plan.gradient_collective.ranks)
    work = (
        f"WorkNCCL(SeqNum={event.sequence}, OpType={event.operation}, NumelIn={numel_in}, "
        f"NumelOut={numel_out}, Timeout(ms)={timeout_ms})"
    )
    return [
        f"{writer.torch_prefix(_CAUGHT)}[Rank {writer.rank}] Watchdog caught collective operation "
        f"timeout: {work} ran for {timeout_ms + late_ms} milliseconds before timing out."
    ]


def _numels(event: WatchdogTimedOut, ranks: int) -> tuple[int, int]:
    part = -(-event.elements // max(1, ranks))
    match event.operation:
        case "_REDUCE_SCATTER_BASE":
            return event.elements, part
        case "_ALLGATHER_BASE":
            return part, event.elements
        case _:
            return event.elements, event.elements


def status_lines(writer: Writer, sequence: int) -> list[str]:
    """Where the rank is: the host has queued some collectives behind the one that hangs."""
    ahead = drawn(4, "enqueued", writer.seed, writer.fault, writer.rank)
    status = f"last enqueued work: {sequence + ahead}, last completed work: {sequence - 1}"
    seen = f"failure detected by watchdog at work sequence id: {sequence} PG status: {status}"
    return [f"{writer.torch_prefix(_STATUS)}{_GROUP} {writer.rank}]  {seen}"]


def teardown_lines(writer: Writer) -> list[str]:
    """Why the process ends, and how."""
    rank = f"[Rank {writer.rank}]"
    corrupt = (
        "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA "
        "kernels, subsequent GPU operations might run on corrupted/incomplete data."
    )
    down = "To avoid data inconsistency, we are taking the entire process down."
    return [
        f"{writer.torch_prefix(_CORRUPT)}{rank} {corrupt}",
        f"{writer.torch_prefix(_DOWN, 2e-5)}{rank} {down}",
        "terminate called after throwing an instance of 'c10::DistBackendError'",
    ]


def desync_lines(writer: Writer, sequence: int, behind: int) -> list[str]:
    """The report of TORCH_NCCL_DESYNC_DEBUG=1 (PyTorch, distributed/c10d/TraceUtils.h)."""
    operation = _OPERATIONS[writer.plan.gradient_collective.op]
    blamed = "the lagging/dead/mismatched ranks that caused the desync are:"
    late = f"finished collective #{sequence - 1}, but didn't join collective #{sequence}"
    return [
        f"{writer.torch_prefix(_DESYNC)}{_GROUP} {writer.rank}] ",
        f"\t - [{writer.rank}] Timeout at collective: {operation}, #{sequence}",
        f"\t - To our best knowledge, {blamed}",
        f"\t   - [{behind}] {late} (count from 1)",
    ]


# ------------------------------------------------------------------------------------ CUDA


def cuda_error_lines(writer: Writer, xid: int) -> list[str]:
    """The exception of a rank whose GPU failed, with the advice torch always adds."""
    return traceback_lines(
        writer,
        (*TRAIN_FRAMES, STEP_FRAME),
        f"RuntimeError: CUDA error: {_CUDA_ERRORS.get(xid, _OTHER_CUDA_ERROR)}",
        "CUDA kernel errors might be asynchronously reported at some other API call, so the "
        "stacktrace below might be incorrect.",
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
        "",
    )


def stage_of(writer: Writer) -> StageMemory:
    """Memory of the writer's pipeline stage; stages are consecutive ranks."""
    stages = writer.plan.stage_memory
    per_stage = max(1, writer.cluster.gpus // len(stages))
    return stages[min(writer.rank // per_stage, len(stages) - 1)]


def cuda_oom_lines(writer: Writer) -> list[str]:
    """The exception of a full GPU: total = free + in use, in use = allocated + cached + the rest.

    The allocator's cache and what lies outside of it are as the plan has them; tensors have
    grown into the rest (estimated: but for the last 64 to 576 MiB).
    """
    stage = stage_of(writer)
    total = _paged(_VISIBLE * writer.gpu.memory_gib * GIB)
    free = (32 + writer.draw("free", 256)) * _PAGE
    asked = free + (64 + writer.draw("asked", 640)) * _PAGE
    outside = _paged(stage.context_gib * GIB)
    cached = max(_PAGE, _paged(stage.fragmentation_gib * GIB))
    allocated = total - free - outside - cached
    text = (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {_size(asked)}. "
        f"GPU {writer.local} has a total capacity of {_size(total)} of which {_size(free)} is "
        f"free. Including non-PyTorch memory, this process has {_size(total - free)} memory in "
        f"use. Of the allocated memory {_size(allocated)} is allocated by PyTorch, and "
        f"{_size(cached)} is reserved by PyTorch but unallocated. If reserved but unallocated "
        f"memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to "
        "avoid fragmentation.  See documentation for Memory Management  "
        "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
    )
    return traceback_lines(writer, (*TRAIN_FRAMES, STEP_FRAME), text)


def _paged(size_bytes: float) -> int:
    return round(size_bytes / _PAGE) * _PAGE


def _size(size_bytes: int) -> str:
    """As the allocator prints it: MiB up to 1 GiB (PyTorch, c10/cuda/CUDACachingAllocator.cpp)."""
    if size_bytes <= GIB:
        return f"{size_bytes / MIB:.2f} MiB"
    return f"{size_bytes / GIB:.2f} GiB"
