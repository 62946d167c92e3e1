"""What others than the training program write into a job's output when something is wrong.

NCCL, PyTorch, torchrun and Slurm write to stderr, which ends in the same file. Kernels log
elsewhere, and people say what they say elsewhere: neither is here. Nor is what only one program
says of itself; of the exceptions it raises the frames are the program's own. Where many ranks
write the same the first of them stands for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ghosttrain.core.events import MessageKind, MessageLogged, WatchdogTimedOut
from ghosttrain.core.messages import message_lines
from ghosttrain.core.plan import Plan

Frame = tuple[str, int, str, str]

_ELSEWHERE = ("kernel_", "operator_")
# What the trainer that core/messages/trainer.py speaks for says of itself.
_OTHER_TRAINERS = (
    MessageKind.SIGTERM,
    MessageKind.NAN_LOSS,
    MessageKind.STORAGE_SLOW,
    MessageKind.ROLLBACK,
)
_FRAME_FILE = 'File "/workspace/Megatron-LM/'
_LOADING = "loading distributed checkpoint from"
_SCRIPT = "pretrain_gpt.py"
_SHARDS = "/checkpoints/step_"


@dataclass(frozen=True, slots=True)
class Program:
    """A training program, as its tracebacks and torchrun name it.

    Attributes:
        name: What torchrun says has failed.
        main: Frames from its first line to its loop over steps.
        step, load, save, data: Frames from there to where the exception is raised.
        shard: Path below the output folder of what rank `rank` saves of step `step`.
        is_sharded: Whether each rank reads and writes a file of its own, with torch's distributed
            checkpoints; else one file is read with torch.load.
    """

    name: str
    main: tuple[Frame, ...]
    step: tuple[Frame, ...]
    load: tuple[Frame, ...]
    save: tuple[Frame, ...]
    data: tuple[Frame, ...]
    shard: str
    is_sharded: bool = True

    def frames(self, function: str) -> tuple[Frame, ...]:
        """Frames of a traceback that ends in what another program calls `function`."""
        match function:
            case "load_checkpoint":
                return self.main + self.load
            case "save_checkpoint":
                return self.main + self.save
            case "__getitem__":
                return self.main + self.data
            case _:
                return self.main + self.step


def job_lines(
    event: MessageLogged | WatchdogTimedOut,
    plan: Plan,
    seed: int,
    program: Program,
    rank: int | None = None,
) -> list[str]:
    """The lines of `event` in the job's output, none where it is told elsewhere.

    Args:
        event: What is said.
        plan: The run's.
        seed: The run's.
        program: What the tracebacks go through.
        rank: Of those that write it, the one whose lines are wanted; the first where None.
    """
    if isinstance(event, MessageLogged) and (
        event.message.startswith(_ELSEWHERE) or event.message in _OTHER_TRAINERS
    ):
        return []
    raw = message_lines(event, plan, seed, rank=rank)
    if isinstance(event, MessageLogged) and event.message is MessageKind.NODE_FAILED:
        raw = [line for line in raw if not line.startswith("[")]  # the controller has its own log
    raw = [line for line in raw if _LOADING not in line]
    lines = list(_reframed(raw, program))
    if unreadable_step(event) is not None:
        lines = lines if program.is_sharded else _of_one_file(lines, program)
    return [_renamed(line, program) for line in lines]


def unreadable_step(event: MessageLogged | WatchdogTimedOut) -> int | None:
    """The step whose checkpoint turns out to be unreadable, None where the event is another."""
    if isinstance(event, MessageLogged) and event.message is MessageKind.CHECKPOINT_CORRUPT:
        return int(event.value)
    return None


def _of_one_file(lines: Sequence[str], program: Program) -> list[str]:
    """An unreadable checkpoint where no distributed reader stands between program and file."""
    own = 1 + 2 * len(program.frames("load_checkpoint"))
    return [*lines[:own], lines[-1]]


def _renamed(line: str, program: Program) -> str:
    """The line with the program's name, and the names of its files."""
    line = line.replace(f"{_SCRIPT} FAILED", f"{program.name} FAILED")
    folder, found, rest = line.partition(_SHARDS)
    if not found:
        return line
    step, _, file = rest.partition("/__")
    rank, _, end = file.partition("_0.distcp")
    return f"{folder}/{program.shard.format(step=int(step), rank=rank)}{end}"


def _reframed(lines: Sequence[str], program: Program) -> Iterator[str]:
    """The lines with the frames of each traceback exchanged for the program's own."""
    at, function = 0, ""
    while at < len(lines):
        line = lines[at]
        if _FRAME_FILE in line:
            function = line.rpartition(" in ")[2]
            at += 2  # the frame and its code
            if at < len(lines) and _FRAME_FILE in lines[at]:
                continue
            prefix = line.partition("  File")[0]
            for path, number, name, code in program.frames(function):
                yield f'{prefix}  File "{path}", line {number}, in {name}'
                yield f"{prefix}    {code}"
            continue
        yield line
        at += 1
