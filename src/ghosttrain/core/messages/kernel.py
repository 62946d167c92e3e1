"""Lines of the kernel's log: the GPU's driver, the NIC's, memory, machine checks, heat.

Xid texts are those of NVIDIA's open kernel modules and of published kernel logs of drivers 535 to
590 (NVIDIA Xid catalogue; NVIDIA/gpu-operator issue 1146; NVSentinel and gpud test data).
"""

from __future__ import annotations

from ghosttrain.core.events import MessageKind
from ghosttrain.core.identity import nic_name, nic_pci_address, pci_bus_id, serial_number
from ghosttrain.core.messages.writer import Writer

# Compute classes, as nvidia/open-gpu-doc names them.
_CLASSES = {
    "Volta": "c3c0",
    "Turing": "c5c0",
    "Ampere": "c6c0",
    "Ada": "c9c0",
    "Hopper": "cbc0",
    "Blackwell": "cdc0",
}
_UNKNOWN = "pid='<unknown>', name=<unknown>, "
_ABOUT_PROCESS = (13, 31, 43, 45, 94, 95, 119)  # the others name no process
_WITHOUT_FIELDS = (145, 149)  # NVLink 5: neither pid nor name is printed
_CHANNELS = 3  # that are torn down, one line each (Xid 45)
# What the driver asks for (Xid 154) after the Xid that stands before it.
_RECOVERY_ACTIONS = {79: "0x2 (Node Reboot Required)", 0: "0x2 (Node Reboot Required)"}
_RESET_ACTION = "0x1 (GPU Reset Required)"
_LINE_S = 2e-4  # between lines of one report, estimated
# How long after the first Xid of a report those that follow it are logged. A published kernel log
# of an A100 has 63 some 23 ms behind its 48, and the next one 2 ms behind that; others estimated.
_BEHIND_S = {43: 0.002, 63: 0.023, 64: 0.023, 94: 0.025, 95: 0.025, 149: 0.002, 154: 0.030}

# NVSwitches of an HGX board by architecture: their PCI buses (DGX A100 and H100), ports of each.
_SWITCHES = {
    "Ampere": ((0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9), 36),
    "Hopper": ((0x05, 0x06, 0x07, 0x08), 64),
}
_OF_A_BOARD = 8  # GPUs; pairs are joined by bridges, four of a node directly
# Drivers of NICs by fabric; those of InfiniBand and RoCE are ConnectX.
_DRIVERS = {
    "InfiniBand": "mlx5_core",
    "RoCE": "mlx5_core",
    "Ethernet": "bnxt_en",
    "EFA": "efa",
    "Slingshot": "cxi_ss1",
    "Omni-Path": "hfi1",
}


def xid_lines(writer: Writer, xid: int, after: int) -> list[str]:
    """What the driver says about `xid`; `after` is the Xid before it, 0 for none."""
    pci = pci_bus_id(writer.gpu, writer.local)
    if xid in _WITHOUT_FIELDS:
        process = ""
    elif xid in _ABOUT_PROCESS:
        process = f"pid={writer.pid}, name=python3, "
    else:
        process = _UNKNOWN
    lines = [f"Xid (PCI:{pci}): {xid}, {process}{text}" for text in _xid_texts(writer, xid, after)]
    if xid == 79:
        number = serial_number(writer.cluster, writer.machine, writer.local)
        lines.append(f"GPU {pci}.0: GPU has fallen off the bus.")
        lines.append(f"GPU {pci}.0: GPU serial number is {number}.")
    lines = [f"NVRM: {line}" for line in lines]
    if xid == 74:
        lines += _switch_texts(writer)
    late_s = _BEHIND_S.get(xid, 0.0) if after else 0.0
    stamps = (writer.kernel_stamp(late_s + n * _LINE_S) for n in range(len(lines)))
    return [f"{stamp}{line}" for stamp, line in zip(stamps, lines, strict=True)]


def _switch_texts(writer: Writer) -> list[str]:
    """The other end of a link that failed, where that is an NVSwitch whose driver the host has.

    Source: published kernel logs of HGX A100 and H100 (Red Hat solution 6619941; gpud test data).
    """
    switches = _SWITCHES.get(writer.gpu.arch)
    has_board = min(writer.gpu.nvlink_domain, writer.cluster.gpus_per_node) >= _OF_A_BOARD
    if switches is None or not has_board:
        return []
    buses, ports = switches
    switch, port = writer.draw("switch", len(buses)), writer.draw("port", ports)
    head = f"nvidia-nvswitch{switch}: SXid (PCI:0000:{buses[switch]:02x}:00.0): 20034,"
    return [
        f"{head} Fatal, Link {port:02d} LTSSM Fault Up",
        f"{head} Severity 1 Engine instance {port:02d} Sub-engine instance 00",
    ]


def _xid_texts(writer: Writer, xid: int, after: int) -> list[str]:
    row = 0x1000 * writer.draw("row", 2**23)  # 48 and the 63 or 64 behind it name the same row
    channel = 8 + writer.draw("channel", 24)
    link = writer.draw("link", 18)  # Hopper and later have 18 NVLinks
    match xid:
        case 13:
            gpc, tpc, sm = (writer.draw(name, n) for name, n in (("gpc", 8), ("tpc", 9), ("sm", 2)))
            where = f"(GPC {gpc}, TPC {tpc}, SM {sm})"
            code = _CLASSES.get(writer.gpu.arch, "cbc0")
            return [
                f"Graphics SM Warp Exception on {where}: Out Of Range Address",
                f"Graphics Exception: ChID {channel:04x}, Class 0000{code}, Offset 00000000, "
                "Data 00000000",
            ]
        case 31:
            client = f"GPCCLIENT_T1_{writer.draw('client', 9)}"
            address = f"0x7f{writer.draw('page', 256):02x}_{writer.draw('address', 2**12):03x}00000"
            return [
                f"Ch {channel:08x}, intr 00000000. MMU Fault: ENGINE GRAPHICS {client} faulted @ "
                f"{address}. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ"
            ]
        case 43:
            return [f"Ch {channel:08x}"]
        case 45:
            return [f"Ch {channel + n:08x}" for n in range(_CHANNELS)]
        case 48:
            part = f"partition {writer.draw('partition', 24)}, subpartition {row >> 12 & 3}"
            return [
                "An uncorrectable double bit error (DBE) has been detected on GPU in the "
                f"framebuffer at physAddr {row:#x} {part}."
            ]
        case 63:
            new = f"New row ({row:#018x}) marked for remapping"
            return [f"Row Remapper: {new}, reset gpu to activate."]
        case 64:
            return [f"Row Remapper Error: ({row:#018x}) - All reserved rows for bank are remapped"]
        case 74:
            status = "0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0"
            return [f"NVLink: fatal error detected on link {link}({status})"]
        case 79:
            return ["GPU has fallen off the bus."]
        case 94:
            return ["Contained: SM (0x1). RST: No, D-RST: No"]
        case 95:
            return ["Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No"]
        case 119:
            asked = "Expected function 76 (GSP_RM_CONTROL) (0x20802a02 0x8)."
            gsp = f"GPU{writer.local} GSP"
            return [f"Timeout after 6s of waiting for RPC response from {gsp}! {asked}"]
        case 120:
            at = f"{0x6300000 + 8 * writer.draw('address', 2**16):#x}"
            return [
                f"GSP Error: Task 1 raised error code 0x5 for reason 0x0 at {at} "
                "(0 more errors skipped)"
            ]
        case 145:
            return [f"RLW_REMAP Fatal XC1 i0 Link {link:02d} (0x00000004 0x00000040{_ZEROS})"]
        case 149:
            return [f"NETIR_LINK_EVT Fatal XC0 i0 Link {link:02d} (0x026001c6 0x00000000{_ZEROS})"]
        case 154:
            action = _RECOVERY_ACTIONS.get(after, _RESET_ACTION)
            return [f"GPU recovery action changed from 0x0 (None) to {action}"]
        case _:
            return [f"Ch {channel:08x}"]


_ZEROS = 4 * " 0x00000000"


def link_lines(writer: Writer, kind: MessageKind) -> list[str]:
    """The NIC's driver on its link; on Omni-Path the port's state, on EFA as on ConnectX."""
    up = kind is MessageKind.LINK_UP
    fabric = writer.cluster.fabric.kind
    address = nic_pci_address(writer.gpu, writer.local)
    head = f"{writer.kernel_stamp()}{_DRIVERS[fabric]} {address} "
    bus = int(address.split(":")[1], 16)
    match fabric:
        case "InfiniBand":
            return [f"{head}ibp{bus}s0: Link {'up' if up else 'down'}"]
        case "RoCE":
            return [f"{head}enp{bus}s0f0np0: Link {'up' if up else 'down'}"]
        case "Ethernet":
            mbps = f"{1000 * writer.cluster.nic_gbps:.0f} Mbps full duplex"
            state = f"Up, {mbps}, Flow control: none" if up else "Down"
            return [f"{head}enp{bus}s0f0np0: NIC Link is {state}"]
        case "Omni-Path":
            state = "PORT_ACTIVE (0x4)" if up else "PORT_DOWN (0x1)"
            name = nic_name(writer.cluster, writer.local)
            return [f"{head.rstrip()}: {name}: logical state changed to {state}"]
        case "EFA" | "Slingshot":
            name = nic_name(writer.cluster, writer.local)
            return [f"{head}{name}: Link {'up' if up else 'down'}"]


def oom_kill_lines(writer: Writer) -> list[str]:
    """The host is out of memory: a worker is killed (Linux, mm/oom_kill.c).

    Estimated: workers grow to an eighth of the 1.5 to 2 TiB of a host of eight GPUs.
    """
    kib = (192 + writer.draw("rss", 64)) * 2**20 + 4 * writer.draw("pages", 2**18)
    virtual = kib + (90 + writer.draw("virtual", 60)) * 2**20
    tables = 4 * (kib // 2048 + writer.draw("tables", 4096))
    task = f"task=python3,pid={writer.pid},uid=10042"
    group = "nodemask=(null),cpuset=/,mems_allowed=0-1,global_oom,task_memcg=/system.slice"
    lines = [
        "python3 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, "
        "oom_score_adj=0",
        f"oom-kill:constraint=CONSTRAINT_NONE,{group}/slurmstepd.scope,{task}",
        f"Out of memory: Killed process {writer.pid} (python3) total-vm:{virtual}kB, "
        f"anon-rss:{kib}kB, file-rss:{4 * writer.draw('file', 2**16)}kB, "
        f"shmem-rss:{4 * writer.draw('shared', 2**20)}kB, UID:10042 pgtables:{tables}kB "
        "oom_score_adj:0",
    ]
    return [f"{writer.kernel_stamp(n * 100 * _LINE_S)}{line}" for n, line in enumerate(lines)]


def panic_lines(writer: Writer) -> list[str]:
    """A machine check the host does not survive (Linux, arch/x86/kernel/cpu/mce/core.c)."""
    cpu, bank = writer.draw("cpu", 112), 7 + writer.draw("bank", 8)
    check = f"CPU {cpu}: Machine Check Exception: 5 Bank {bank}: be00000000800400"
    lines = [
        f"mce: [Hardware Error]: {check}",
        "mce: [Hardware Error]: Machine check: Processor context corrupt",
        "Kernel panic - not syncing: Fatal machine check",
    ]
    return [f"{writer.kernel_stamp(n * _LINE_S)}{line}" for n, line in enumerate(lines)]


def hardware_lines(writer: Writer, part: int) -> list[str]:
    """A part of the host fails: memory (EDAC), the local disk (nvme), the bus (AER)."""
    stamp, dimm, cpu = writer.kernel_stamp(), writer.draw("dimm", 8), writer.draw("socket", 2)
    match part:
        case 0:
            where = f"CPU_SrcID#{cpu}_MC#{dimm // 2}_Chan#{dimm % 2}_DIMM#0"
            return [f"{stamp}EDAC MC{dimm // 2}: 1 UE memory read error on {where}"]
        case 1:
            tag, queue = writer.draw("tag", 1024), 1 + writer.draw("queue", 64)
            late = writer.kernel_stamp(_LINE_S)
            return [
                f"{stamp}nvme nvme0: I/O tag {tag} QID {queue} timeout, aborting",
                f"{late}nvme nvme0: Device not ready; aborting reset, CSTS=0x1",
            ]
        case _:
            port = f"0000:{0x15 + writer.draw('port', 64):02x}:01.0"
            return [f"{stamp}pcieport {port}: AER: Uncorrectable (Fatal) error message received"]


def throttle_lines(writer: Writer) -> list[str]:
    """The host's CPU throttles in the same heat: of a GPU's clock its driver logs nothing.

    Source: Linux, drivers/thermal/intel/therm_throt.c.
    """
    cpu, events = writer.draw("cpu", 112), 1 + writer.draw("events", 400)
    what = "Package temperature is above threshold, cpu clock is throttled"
    return [f"{writer.kernel_stamp()}CPU{cpu}: {what} (total events = {events})"]
