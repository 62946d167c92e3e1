"""Log lines of what goes wrong: causes, the machine's own messages, aborts and restarts.

Templates, behind the timestamp and the level ({place} is `[Rank 17/64] [Node 2/8]`, {node} is
`[Node 2/8]`, {g} the GPUs from there on; numbers of steps have thousands commas):

    INFO    [fault {n}] {kind} begins at {place}[ × {g}], step {s}[, severity {x}]
    INFO    [fault {n}] {kind} over: noticed after {duration}|never noticed, {l} steps lost,
            {duration} lost[, benign]
    level   {prefix}{raw line}       one for each line the real program writes (core/messages); its
                                     prefix names the writer where the raw line does not:
            {host} NVRM: Xid (PCI:0000:43:00): 79, ...    the kernel's driver about a GPU
            {host} kernel: ...                            the kernel of a node
            {host} torchrun[31790]: Sending process ...   torchrun's agent
            {place} [exiting program after receiving SIGTERM.] ...       the training program
            [rank17]: ..., gpu-0002:31842:31905 [1] ... NCCL WARN ..., srun: ..., oncall: ...,
            torchrun's block of lines `pretrain_gpt.py FAILED`   as they are
    level     (and {n} more ranks|nodes within {x.x}s)|(and {n} more processes)    behind the first
    ERROR   {place} did not arrive: {w} ranks waited {duration}, all processes end
    ERROR   Attempt {n} ended at step {s}: {l} steps since the checkpoint at step {c}|the start
            lost[ (maintenance|preempted|operator|rollback)]      WARNING where there is a reason
    WARNING No progress since step {s}; watchdog in {time}
    WARNING Draining and requeueing, about {duration}
    INFO    {node} replaced by a spare after {duration} down
    INFO    Nodes {node}, {node} replaced by spares after {duration} down
    INFO    Same nodes again after {duration} down
    INFO    Attempt {n} starts from step {s}|the beginning, {r} steps to repeat[, {b} batches
            skipped]

Stamps that raw lines begin with are left out (the log has its own), PyTorch's too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, assert_never

from ghosttrain.core.events import MessageKind, WarningKind
from ghosttrain.core.identity import host_name
from ghosttrain.core.messages import message_lines
from ghosttrain.views.renderables.line import Line
from ghosttrain.views.renderables.log_line import log_line
from ghosttrain.views.renderables.numbers import duration, short_time
from ghosttrain.views.renderables.run_card import RunCard

if TYPE_CHECKING:
    from ghosttrain.core.events import (
        FaultOccurred,
        IncidentLabelled,
        MessageLogged,
        PhaseStarted,
        RunAborted,
        RunRestarted,
        WarningRaised,
        WatchdogTimedOut,
    )

Level = Literal["INFO", "WARNING", "ERROR"]

# The kernel's seconds since boot, NCCL's and slurmctld's dates.
_STAMP = re.compile(r"\[(?: *\d+\.\d{6}|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?)\] ")
# torchrun's level and date, process number, file and line.
_AGENT_STAMP = re.compile(r"^[IWE]\d{4} [\d:.]{15} (\d+) torch/\S+\] ")
# The stamp of PyTorch's logger, and the rank it repeats.
_TORCH_STAMP = re.compile(r"^(\[rank\d+\]):\[E\d+ [\d:.]+ \S+\] \[(?:PG[^\]]*)?Rank \d+\] +")
_ROW_REMAP = 63  # the one Xid after which the run goes on as it was

_KERNEL = (
    MessageKind.XID,
    MessageKind.OOM_KILL,
    MessageKind.PANIC,
    MessageKind.HARDWARE,
    MessageKind.LINK_DOWN,
    MessageKind.LINK_UP,
    MessageKind.THROTTLE,
)
_AGENT = (MessageKind.AGENT_SIGTERM, MessageKind.AGENT_FAILED)
_PROGRAM = (MessageKind.SIGTERM, MessageKind.STORAGE_SLOW)
# Written once for all the workers they are about.
_WRITTEN_ONCE = (*_AGENT, MessageKind.AGENT_SUMMARY, MessageKind.SIGTERM)
_INFO = (MessageKind.LINK_UP, MessageKind.OPERATOR_REPAIRED)
_WARNING = (
    MessageKind.LINK_DOWN,
    MessageKind.THROTTLE,
    MessageKind.NCCL_PORT_ERROR,
    MessageKind.SIGTERM,
    MessageKind.STORAGE_SLOW,
    MessageKind.ROLLBACK,
    MessageKind.AGENT_SIGTERM,
    MessageKind.PREEMPTED,
    MessageKind.OPERATOR_NOTICED,
    MessageKind.OPERATOR_EXCLUDED,
)


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
    """That a fault begins: what only whoever asked for it knows."""
    gpus = f" × {event.gpus:,}" if event.gpus > 1 else ""
    severity = f", severity {event.severity:.3g}" if event.severity else ""
    text = f"{event.kind} begins at {card.place(event.gpu)}{gpus}, step {event.step:,}{severity}"
    return [log_line(card, event.time_s, f"[fault {event.fault}] {text}")]


def labelled_lines(event: IncidentLabelled, card: RunCard) -> list[Line]:
    """That a fault is over: when it was noticed and what it cost."""
    noticed = "never noticed"
    if event.detected_s is not None:
        noticed = f"noticed after {duration(event.detected_s - event.onset_s)}"
    lost = f"{event.steps_lost:,} steps lost, {duration(event.lost_s)} lost"
    benign = ", benign" if event.benign else ""
    text = f"[fault {event.incident}] {event.kind} over: {noticed}, {lost}{benign}"
    return [log_line(card, event.time_s, text)]


def message_level(event: MessageLogged) -> Level:
    """How bad the message is: an error where a process or a part is gone."""
    kind = event.message
    if kind in _INFO:
        return "INFO"
    if kind in _WARNING or (kind is MessageKind.XID and event.code == _ROW_REMAP):
        return "WARNING"
    return "ERROR"


def logged_lines(event: MessageLogged, card: RunCard) -> list[Line]:
    """What the first of those who write the message says, and how many more do."""
    texts = _unstamped(message_lines(event, card.plan, card.seed))
    if not texts:
        return []
    if event.message is MessageKind.AGENT_SIGTERM and len(texts) > 1:
        texts = [texts[0], f"  (and {len(texts) - 1:,} more processes)"]
    prefix = _prefix(event, card)
    texts = [_signed(text, prefix) for text in texts]
    if event.ranks > 1 and event.message not in _WRITTEN_ONCE:
        who = "nodes" if event.rank is None else "ranks"
        within = f"{max(0.1, event.spread_s):.1f}s"
        texts.append(f"  (and {event.ranks - 1:,} more {who} within {within})")
    level = message_level(event)
    return [log_line(card, event.time_s, text, level=level) for text in texts]


def _unstamped(raw: list[str]) -> list[str]:
    """Raw lines as they stand in our log: without stamps of their own, tabs and blank lines."""
    texts = [_STAMP.sub("", line, count=1) if _STAMP.match(line) else line for line in raw]
    texts = [_TORCH_STAMP.sub(r"\1: ", line) for line in texts]
    return [text for line in texts if (text := line.expandtabs(4).rstrip())]


def _prefix(event: MessageLogged, card: RunCard) -> str:
    """The writer, where the raw line does not name it: its host tells its node."""
    machine = dict(event.spares).get(event.node, event.node)
    host = host_name(card.spec.cluster, machine)
    if event.message in _KERNEL:
        return f"{host} kernel: "
    if event.message in _AGENT:
        return f"{host} "
    if event.message in _PROGRAM and event.rank is not None:
        return f"{card.place(event.rank)} "
    return ""


def _signed(text: str, prefix: str) -> str:
    """A line with its writer: short, as what stands at its end must be seen at 80 columns."""
    if text.startswith("  ("):
        return text
    if text.startswith("NVRM: "):  # the driver names itself
        return prefix.replace("kernel: ", "") + text
    return prefix + _AGENT_STAMP.sub(r"torchrun[\1]: ", text)


def watchdog_lines(event: WatchdogTimedOut, card: RunCard) -> list[Line]:
    """The watchdog of the rank that gave up first, and what it means."""
    meaning = (
        f"{card.place(event.rank)} did not arrive: {event.waiting_ranks:,} ranks waited "
        f"{duration(event.timeout_s)}, all processes end"
    )
    texts = [*_unstamped(message_lines(event, card.plan, card.seed)), meaning]
    return [log_line(card, event.time_s, text, level="ERROR") for text in texts]


def aborted_lines(event: RunAborted, card: RunCard) -> list[Line]:
    """How the attempt ended and what is lost."""
    lost = event.step - event.checkpoint_step
    last = f"the checkpoint at step {event.checkpoint_step:,}"
    since = last if event.checkpoint_step else "the start"
    planned = event.reason != "fault"
    text = (
        f"Attempt {event.attempt} ended at step {event.step:,}: {lost:,} steps since {since} lost"
        + (f" ({event.reason})" if planned else "")
    )
    return [log_line(card, event.time_s, text, level="WARNING" if planned else "ERROR")]


def down_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """What is done before the next attempt."""
    text = f"Draining and requeueing, about {duration(event.expected_s)}"
    return [log_line(card, event.time_s, text, level="WARNING")]


def hang_lines(event: PhaseStarted, card: RunCard) -> list[Line]:
    """That nothing moves, and for how long at most."""
    text = f"No progress since step {event.step:,}; watchdog in {short_time(event.expected_s)}"
    return [log_line(card, event.time_s, text, level="WARNING")]


def restarted_lines(event: RunRestarted, card: RunCard) -> list[Line]:
    """The new attempt: after how long, from where, with which nodes swapped, without which data."""
    start = f"step {event.step:,}" if event.step else "the beginning"
    repeat = f"{event.lost_steps:,} steps to repeat"
    skipped = f", {event.skipped_batches:,} batches skipped" if event.skipped_batches else ""
    down = f"after {duration(event.downtime_s)} down"
    match event.nodes:
        case ():
            nodes = "Same nodes again"
        case (node,):
            nodes = f"{card.node(node)} replaced by a spare"
        case several:
            nodes = f"Nodes {', '.join(map(str, several))} replaced by spares"
    return [
        log_line(card, event.time_s, f"{nodes} {down}"),
        log_line(
            card, event.time_s, f"Attempt {event.attempt} starts from {start}, {repeat}{skipped}"
        ),
    ]
