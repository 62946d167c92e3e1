"""Log lines of what goes wrong: warnings, faults, the watchdog, aborts and restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from ghosttrain.core.events import WarningKind
from ghosttrain.core.identity import host_name, pci_bus_id, process_id
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.numbers import duration, short_time
from ghosttrain.views.renderables.run_card import RunCard

if TYPE_CHECKING:
    from ghosttrain.core.events import (
        FaultOccurred,
        PhaseStarted,
        RunAborted,
        RunRestarted,
        WarningRaised,
        WatchdogTimedOut,
    )

# Kernel texts by Xid (NVIDIA Xid catalogue, as kernel logs show them). A process that is
# gone with its GPU has no number there.
_XID_TEXTS = {
    13: "Graphics Exception: ChID 000c, Class 0000cbc0, Offset 00000000, Data 00000000",
    31: "Ch 00000018, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted",
    43: "Ch 00000010",
    45: "Ch 00000010",
    48: "DBE (double bit error) ECC Error",
    63: "Row Remapper: New row marked for remapping, reset gpu to activate.",
    64: "Row Remapper: remapping failed, reset gpu to activate.",
    74: "NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)",
    79: "GPU has fallen off the bus.",
    94: "Contained: SM (0x1). RST: No, D-RST: No",
    95: "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU0 GSP!",
    120: "GSP Error: Task 1 raised error code 0x5",
}
_WITHOUT_PROCESS = (48, 63, 64, 74, 79, 119, 120)


def warning_lines(event: WarningRaised, card: RunCard) -> list[Line]:
    """The cause and its numbers."""
    node = "" if event.node is None else f"{card.node(event.node)} "
    return [log_line(card, event.time_s, node + _warning(event, card), level="WARNING")]


def _warning(event: WarningRaised, card: RunCard) -> str:
    step, value, baseline = f"step {event.step:,}", event.value, event.baseline
    match event.kind:
        case WarningKind.LATE_LOADER:
            return f"{step} waited {value:.3f}s for data, late loader ({_usual(value, baseline)})"
        case WarningKind.SLOW_COLLECTIVE:
            return f"{step} waited {value:.3f}s, slow collectives ({_usual(value, baseline)})"
        case WarningKind.WARM_INLET:
            return f"inlet air at {value:.1f}°C ({value - baseline:+.1f}°C): GPUs run warmer"
        case WarningKind.GRAD_NORM_BURST:
            clip = card.spec.recipe.grad_clip
            done = f", clipped to {clip:g}" if clip and value > clip else ""
            ratio = value / baseline if baseline else 0.0
            trend = f"{ratio:.1f} times its trend {baseline:.3f}"
            return f"{step} gradient norm {value:.3f}, {trend}{done}"
        case _ as never:
            assert_never(never)


def _usual(value: float, baseline: float) -> str:
    """`usual step 1.975s, +24%`."""
    more = 100 * value / baseline if baseline else 0.0
    return f"usual step {baseline:.3f}s, +{more:.0f}%"


def fault_lines(event: FaultOccurred, card: RunCard) -> list[Line]:
    """The kernel's Xid line, or the fault by name where it has no Xid."""
    spec = card.spec
    local = event.gpu % spec.cluster.gpus_per_node
    place = f"{card.place(event.gpu)} {host_name(spec.cluster, event.node)}"
    if not event.xid or spec.gpu.vendor != "NVIDIA":
        text = f"{place} fault {event.fault}: {event.kind}"
        return [log_line(card, event.time_s, text, level="ERROR")]
    if event.xid in _WITHOUT_PROCESS:
        process = "pid='<unknown>', name=<unknown>"
    else:
        process = f"pid={process_id(event.node, local, event.attempt)}, name=python3"
    what = _XID_TEXTS.get(event.xid, event.kind)
    kernel = f"NVRM: Xid (PCI:{pci_bus_id(spec.gpu, local)}): {event.xid}, {process}, {what}"
    return [
        log_line(card, event.time_s, f"{place} fault {event.fault}: {event.kind}", level="ERROR"),
        log_line(card, event.time_s, kernel, level="ERROR"),
    ]


def watchdog_lines(event: WatchdogTimedOut, card: RunCard) -> list[Line]:
    """The watchdog of a rank that waited, its line broken in two, and what it means."""
    waiting = 0 if event.rank else 1
    work = f"WorkNCCL(SeqNum={event.sequence})"
    texts = (
        f"[Rank {waiting}] Watchdog caught collective operation timeout: {work}",
        f"  OpType={event.operation}, NumelIn={event.elements}, "
        f"Timeout(ms)={event.timeout_s * 1e3:.0f}",
        f"{card.place(event.rank)} did not arrive: {event.waiting_ranks:,} ranks waited "
        f"{duration(event.timeout_s)}, all processes end",
    )
    return [log_line(card, event.time_s, text, level="ERROR") for text in texts]


def aborted_lines(event: RunAborted, card: RunCard) -> list[Line]:
    """How the attempt ended and what is lost."""
    lost = event.step - event.checkpoint_step
    last = f"the checkpoint at step {event.checkpoint_step:,}"
    since = last if event.checkpoint_step else "the start"
    text = (
        f"Attempt {event.attempt} ended at step {event.step:,}: {lost:,} steps since {since} lost"
    )
    return [log_line(card, event.time_s, text, level="ERROR")]


def down_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """What is done before the next attempt."""
    text = f"Draining the node and requeueing, about {duration(event.expected_s)}"
    return [log_line(card, event.time_s, text, level="WARNING")]


def hang_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """That nothing moves, and for how long at most."""
    text = f"No progress since step {event.step:,}; watchdog in {short_time(event.expected_s)}"
    return [log_line(card, event.time_s, text, level="WARNING")]


def restarted_lines(event: RunRestarted, card: RunCard) -> list[Line]:
    """The new attempt: after how long, from where, with which node swapped."""
    start = f"step {event.step:,}" if event.step else "the beginning"
    repeat = f"{event.lost_steps:,} steps to repeat"
    swapped = f"{card.node(event.node)} replaced by a spare after {duration(event.downtime_s)} down"
    return [
        log_line(card, event.time_s, swapped),
        log_line(card, event.time_s, f"Attempt {event.attempt} starts from {start}, {repeat}"),
    ]
