"""The table that `nvidia-smi` prints without arguments: 91 columns, drivers 550 and later.

Widths are those of published tables of driver 550 to 580; the file of a host has one, as it was at
the first moment of telemetry in the window. With a GPU that is lost there is no table: the real
tool says which it is and ends (NVIDIA/dcgm-exporter issue 604).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

from ghosttrain.core.events import Phase
from ghosttrain.core.identity import pci_bus_id, process_id
from ghosttrain.core.messages.writer import PYTHON
from ghosttrain.exporters.machine.nccl_rank import cuda_version
from ghosttrain.exporters.machine.nvidia_smi import HostFiles
from ghosttrain.exporters.machine.smi_rows import has_ecc
from ghosttrain.exporters.writing import Asked, Chunk

if TYPE_CHECKING:
    from ghosttrain.core.telemetry import Telemetry

_WIDTH = 91
_RULE = f"+{'-' * 41}+{'-' * 24}+{'-' * 22}+"
_LINE = f"+{'-' * (_WIDTH - 2)}+"
_HEAD = (
    f"|{_RULE[1:]}",
    "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
    "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |",
    "|                                         |                        |               MIG M. |",
    f"|{'=' * 41}+{'=' * 24}+{'=' * 22}|",
)
_PROCESSES = (
    f"| {'Processes:':<87} |",
    "|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |",
    f"|{'ID   ID':>15}{'Usage':>68}      |",
    f"|{'=' * 89}|",
)
_NONE = f"|  {'No running processes found':<86} |"
_LONGEST_NAME, _KEPT_OF_NAME = 27, 24
_CONTEXT_MIB = 512  # of what is in use, not the process's: driver and firmware, estimated
_WITH_MIG = ("Ampere", "Hopper", "Blackwell")


class Tables(HostFiles):
    """One table a host."""

    fields = (
        "power_w",
        "gpu_temp_c",
        "gpu_util_pct",
        "fb_used_mib",
        "power_limit_w",
        "ecc_dbe_volatile",
    )
    pattern = "nvidia-smi/{host}.txt"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._is_done = False

    def sample(self, block: Telemetry) -> Iterable[Chunk]:
        """The tables, of the first moment there is."""
        if self._is_done or not len(block.time_s):
            return
        self._is_done = True
        for node, ranks in groupby(self.ranks, lambda rank: rank // self.per_node):
            if node not in block.nodes_down[0]:
                text = "".join(f"{line}\n" for line in self._table(block, list(ranks)))
                yield self._file(node, int(block.attempt[0])), text.encode()

    def _table(self, block: Telemetry, ranks: Sequence[int]) -> Iterator[str]:
        spec, time_s = self.run.spec, float(block.time_s[0])
        if lost := sorted(set(block.lost[0]) & set(ranks)):
            bus = pci_bus_id(spec.gpu, lost[0] % self.per_node).upper()
            yield f"Unable to determine the device handle for GPU{bus}.0: Unknown Error"
            return
        date = datetime.fromtimestamp(spec.start_unix_s + int(time_s), UTC)
        version = spec.cluster.driver
        cuda = cuda_version(version)
        yield f"{date:%a %b} {date.day:2d} {date:%H:%M:%S %Y}       "
        yield _LINE
        yield (
            f"| NVIDIA-SMI {version:<23}Driver Version: {version:<15}CUDA Version: "
            f"{cuda // 1000}.{cuda // 10 % 100:<6}|"
        )
        yield from _HEAD
        for rank in ranks:
            yield from self._card(block, rank)
        yield " " * _WIDTH
        yield _LINE
        yield from _PROCESSES
        yield from self._processes(block, ranks)
        yield _LINE

    def _card(self, block: Telemetry, rank: int) -> Iterator[str]:
        gpu, local = self.run.spec.gpu, rank % self.per_node
        name = gpu.product_name
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_KEPT_OF_NAME]}..."
        bus = f"0000{pci_bus_id(gpu, local)}.0".upper()
        power, temp, util, used, limit, errors = (
            round(float(block.columns[field][0, rank])) for field in self.fields
        )
        ecc = str(errors) if has_ecc(gpu) else "N/A"
        yield f"|{local:4d}  {name:<31}On  |   {bus} Off |{ecc:>21} |"
        yield (
            f"| N/A {temp:4d}C    P0{power:15d}W / {limit:4d}W |"
            f"{used:8d}MiB / {gpu.memory_mib:6d}MiB |{util:7d}%      Default |"
        )
        mig = "Disabled" if gpu.arch in _WITH_MIG and has_ecc(gpu) else "N/A"
        yield f"|{' ' * 41}|{' ' * 24}|{mig:>21} |"
        yield _RULE

    def _processes(self, block: Telemetry, ranks: Sequence[int]) -> Iterator[str]:
        run, attempt = self.run, int(block.attempt[0])
        is_down = run.span_at(float(block.time_s[0])).phase in (Phase.DOWN, Phase.DONE)
        if is_down:
            yield _NONE
            return
        spares = dict(run.timeline.spares(attempt))
        for rank in ranks:
            node, local = divmod(rank, self.per_node)
            used = int(block.columns["fb_used_mib"][0, rank]) - _CONTEXT_MIB
            if used <= 0:
                continue
            pid = process_id(spares.get(node, node), local, attempt)
            yield f"|{local:5d}   N/A  N/A{pid:16d}      C   {PYTHON:<36}{used:7d}MiB |"


def tables(asked: Asked) -> Tables:
    """What makes the tables."""
    return Tables(asked)
