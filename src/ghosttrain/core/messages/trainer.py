"""Lines of the training program itself, in the words of Megatron-LM and its relatives."""

from __future__ import annotations

from ghosttrain.core.messages.pytorch import STEP_FRAME, TRAIN_FRAMES, Frame, traceback_lines
from ghosttrain.core.messages.writer import Writer

_MEGATRON = "/workspace/Megatron-LM/megatron"
_SITE = "/opt/venv/lib/python3.12/site-packages"
_OUTAGE = 64  # numbers of exceptions from here on are of services
_TIMER_WIDTH = 48  # name and dots (Megatron-LM, core/timers.py)

_LOAD_FRAME: Frame = (
    f"{_MEGATRON}/training/checkpointing.py",
    1419,
    "load_checkpoint",
    "_load_base_checkpoint(",
)
_SAVE_FRAME: Frame = (
    f"{_MEGATRON}/training/checkpointing.py",
    588,
    "save_checkpoint",
    "dist_checkpointing.save(",
)
_DATA_FRAME: Frame = (
    f"{_MEGATRON}/core/datasets/gpt_dataset.py",
    211,
    "__getitem__",
    "self._query_document_sample_shuffle_indices(idx)",
)


def software_error_lines(writer: Writer, which: int) -> list[str]:
    """One of the exceptions such programs end with; from 64 on a service they need is missing."""
    if which >= _OUTAGE:
        return _outage_lines(writer, which - _OUTAGE)
    recipe, model = writer.plan.spec.recipe, writer.plan.spec.model
    samples = recipe.global_batch_size * recipe.steps_per_epoch
    errors: tuple[tuple[Frame, str], ...] = (
        (
            _DATA_FRAME,
            f"IndexError: index {samples} is out of bounds for axis 0 with size {samples}",
        ),
        (_DATA_FRAME, "ValueError: mmap length is greater than file size"),
        (
            STEP_FRAME,
            f"RuntimeError: The size of tensor a ({recipe.seq_len}) must match the size of tensor "
            f"b ({recipe.seq_len + 1}) at non-singleton dimension 1",
        ),
        (
            STEP_FRAME,
            f"RuntimeError: DataLoader worker (pid {writer.pid + 1000}) is killed by signal: Bus "
            "error. It is possible that dataloader's workers are out of shared memory. Please try "
            "to raise your shared memory limit.",
        ),
        (STEP_FRAME, f"AssertionError: hidden size {model.hidden_size} is not that of the output"),
        (STEP_FRAME, "AttributeError: 'NoneType' object has no attribute 'shape'"),
    )
    frame, error = errors[which % len(errors)]
    inner = () if frame == STEP_FRAME else (frame,)
    return traceback_lines(writer, (*TRAIN_FRAMES, STEP_FRAME, *inner), error)


def _outage_lines(writer: Writer, which: int) -> list[str]:
    """A service the launch or the data need does not answer (requests, PyTorch's store, DNS)."""
    errors = (
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='registry.internal', "
        "port=443): Max retries exceeded with url: /v2/ (Caused by NewConnectionError("
        "'Failed to establish a new connection: [Errno 111] Connection refused'))",
        "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. "
        f"{writer.cluster.gpus - 1}/{writer.cluster.gpus} clients joined.",
        "socket.gaierror: [Errno -3] Temporary failure in name resolution",
    )
    return traceback_lines(writer, (*TRAIN_FRAMES, STEP_FRAME), errors[which % len(errors)])


def sigterm_lines(writer: Writer) -> list[str]:
    """Megatron's last line after --exit-signal-handler has saved."""
    date, micro = writer.moment()
    at = f"{date:%Y-%m-%d %H:%M:%S}.{micro:06d}"
    return [f"[exiting program after receiving SIGTERM.] datetime: {at} "]


def nan_loss_lines(writer: Writer, step: int) -> list[str]:
    """The first loss of `step` that is no number, of the step in progress where that is 0.

    In the words of Megatron-LM's check (core/rerun_state_machine.py), which ends the run unless it
    is switched off; here it is, as in stacks that only count such iterations.
    """
    where = f"Rank {writer.rank}, node {writer.host}, device {writer.local}"
    what = "Unexpected result nan (message='found NaN in local forward loss calculation')"
    return [f"WARNING: {where}, iteration {step or writer.step + 1}: {what}"]


def storage_full_lines(writer: Writer) -> list[str]:
    """The file system has no room for this rank's part."""
    part = f"{checkpoint_folder(writer, writer.step)}/__{writer.rank}_0.distcp"
    error = f"OSError: [Errno 28] No space left on device: '{part}'"
    return traceback_lines(writer, (*TRAIN_FRAMES, _SAVE_FRAME), error)


def storage_slow_lines(writer: Writer, took_s: float) -> list[str]:
    """The timer of a save, milliseconds: the first rank is done a little earlier."""
    slowest = 1000 * took_s
    fastest = slowest * (1 - writer.draw("fastest", 1000) / 1e6)
    dots = "save-checkpoint ".ljust(_TIMER_WIDTH, ".")
    return [
        "(min, max) time across ranks (ms):",
        f"    {dots}: ({fastest:.2f}, {slowest:.2f})",
    ]


def corrupt_lines(writer: Writer, step: int) -> list[str]:
    """A checkpoint that cannot be read back (torch.distributed.checkpoint)."""
    reader: Frame = (
        f"{_SITE}/torch/distributed/checkpoint/filesystem.py",
        680,
        "read_data",
        "torch.load(",
    )
    folder = checkpoint_folder(writer, step)
    lines = traceback_lines(
        writer,
        (*TRAIN_FRAMES[:1], _LOAD_FRAME),
        "torch.distributed.checkpoint.api.CheckpointException: CheckpointException "
        f"ranks:dict_keys([{writer.rank}])",
    )
    inner = traceback_lines(
        writer,
        (reader,),
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central "
        "directory",
    )
    inner[0] += f" (RANK {writer.rank})"
    return [f" loading distributed checkpoint from {folder} at iteration {step}", *lines, *inner]


def rollback_lines(batches: int) -> list[str]:
    """What the operators set before the next launch: the data that is left out."""
    return [f"> skipping {batches} batches of the training data behind the checkpoint"]


def checkpoint_folder(writer: Writer, step: int) -> str:
    """Folder of the checkpoint of `step`, named as the run's own lines name it."""
    spec = writer.plan.spec
    name = spec.model.name.lower().replace(" ", "-").replace("/", "-")
    return f"{spec.output_dir}/{name}/checkpoints/step_{step:07d}"
