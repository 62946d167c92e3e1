"""The kernel's log of each node that said something, as `dmesg` and /var/log/kern.log show it.

One file a host, `kernel/HOST.log`. Stamps are seconds since that host was booted; a host that is
booted during the run begins anew, with the first line of every Linux kernel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace

from ghosttrain.core.events import Event, MessageKind, MessageLogged, RunRestarted
from ghosttrain.core.identity import host_name, uptime_s
from ghosttrain.core.messages import booted_s, boots, ranks_that_write, writer_of, written_lines
from ghosttrain.core.spec import Cluster
from ghosttrain.exporters.machine.pending import Pending
from ghosttrain.exporters.writing import Asked, Chunk

_KINDS = (
    MessageKind.XID,
    MessageKind.OOM_KILL,
    MessageKind.PANIC,
    MessageKind.HARDWARE,
    MessageKind.LINK_DOWN,
    MessageKind.LINK_UP,
    MessageKind.THROTTLE,
)
_STAMP = re.compile(r"\[ *(\d+\.\d{6})\] ")
_FIRST_LINE = (  # Ubuntu 22.04 LTS with NVIDIA's kernel, as DGX OS 6 has it
    "[    0.000000] Linux version 5.15.0-1053-nvidia (buildd@lcy02-amd64-012) (gcc (Ubuntu "
    "11.4.0-1ubuntu1~22.04) 11.4.0, GNU ld (GNU Binutils for Ubuntu) 2.38) "
    "#54-Ubuntu SMP Wed Apr 24 12:41:36 UTC 2024"
)


class KernelLogs:
    """Makes the files of all nodes."""

    def __init__(self, asked: Asked) -> None:
        self._run = asked.run
        self._boots = boots(asked.run.timeline, asked.run.spec.cluster.gpus_per_node)
        self._pending = Pending()

    def accept(self, event: Event) -> Iterable[Chunk]:
        """What is due before the event."""
        yield from self._pending.before(event.time_s)
        if isinstance(event, RunRestarted):
            self._booted(event.time_s)
        elif isinstance(event, MessageLogged) and event.message in _KINDS:
            for rank in ranks_that_write(event, self._run.plan, self._run.timeline):
                self._keep(event, rank)

    def close(self) -> Iterable[Chunk]:
        """What is left."""
        yield from self._pending.before(math.inf)

    def _booted(self, relaunch_s: float) -> None:
        for boot in self._boots:
            if boot.relaunch_s == relaunch_s:
                file = _file(self._run.spec.cluster, boot.machine)
                self._pending.add(relaunch_s, file, [_FIRST_LINE])

    def _keep(self, event: MessageLogged, rank: int) -> None:
        run = self._run
        writer = writer_of(event, run.plan, run.seed, rank)
        boot_s = booted_s(self._boots, writer.machine, event.time_s)
        writer = replace(writer, booted_s=boot_s)
        up_since_s = -uptime_s(writer.cluster, writer.machine) if boot_s is None else boot_s
        file = _file(writer.cluster, writer.machine)
        for line in written_lines(writer, event):
            stamp = _STAMP.match(line)
            assert stamp is not None, line
            at_s = max(event.time_s, up_since_s + float(stamp[1]))
            self._pending.add(at_s, file, [line])


def _file(cluster: Cluster, machine: int) -> str:
    return f"kernel/{host_name(cluster, machine)}.log"


def kernel_logs(asked: Asked) -> KernelLogs:
    """What makes the kernels' logs."""
    return KernelLogs(asked)
