"""What the host of the GPUs does: CPUs, memory, and its way to the storage.

Sources: sizes are those of DGX H100 (two Xeon 8480C, 224 threads, 2 TB) and DGX A100 (two EPYC
7742, 256 threads, 2 TB), both 8 GPUs (NVIDIA's user guides). What of it is busy is estimated: a
rank's main thread spins while it waits for its GPU, loaders and autograd's thread share another.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from ghosttrain.core.spec import Gpu
from ghosttrain.core.units import GIB

RAM_BYTES_PER_GPU: Final = 256 * GIB
_THREADS_PER_GPU = {"Ampere": 32}
_USUAL_THREADS_PER_GPU = 28


class Busy(NamedTuple):
    """CPU threads busy: by each rank, or (of the system alone) by a node."""

    user: float
    system: float
    iowait: float


# Of the operating system and its agents, on each node.
SYSTEM: Final = Busy(0.5, 0.3, 0.0)
# Of each rank, by phase; in others there is none.
_RANK = MappingProxyType(
    {
        "weights": Busy(1.2, 0.4, 0.4),
        "tokenizer": Busy(1.0, 0.1, 0.0),
        "dataset": Busy(0.8, 0.3, 0.5),
        "gpus": Busy(0.5, 0.1, 0.0),
        "nccl": Busy(1.0, 0.3, 0.0),
        "all_reduce_test": Busy(1.0, 0.1, 0.0),
        "training": Busy(1.6, 0.2, 0.02),
        "validation": Busy(1.5, 0.2, 0.05),
        "checkpoint": Busy(1.1, 0.8, 0.9),
        "hang": Busy(1.0, 0.05, 0.0),
        "export": Busy(0.6, 0.4, 0.5),
        "done": Busy(0.2, 0.1, 0.0),
    }
)
_NO_RANK = Busy(0.0, 0.0, 0.0)
# Resident memory: of the system, and of a rank (CUDA context and libraries 5 GB, pinned staging
# buffers, loader's workers); estimated.
SYSTEM_BYTES: Final = 24 * GIB
RANK_BYTES: Final = 14 * GIB
# Log lines, metrics and heartbeats of a node over its management port, either way; estimated.
MANAGEMENT_BYTES_PER_S: Final = 4e4
LOCAL_LOG_BYTES_PER_S: Final = 2e4  # written to the node's own disk


def threads(gpu: Gpu, gpus: int) -> int:
    """CPU threads of a node with so many GPUs."""
    return _THREADS_PER_GPU.get(gpu.arch, _USUAL_THREADS_PER_GPU) * gpus


def busy_threads(phase: str, gpus: int) -> Busy:
    """Busy CPU threads of a node with so many ranks, by the name of `core.events.Phase`."""
    rank = _RANK.get(phase, _NO_RANK)
    return Busy(*(of_node + gpus * of_rank for of_node, of_rank in zip(SYSTEM, rank, strict=True)))


def has_ranks(phase: str) -> bool:
    """Whether the processes of the job are there."""
    return phase in _RANK
