"""Training programs, as tracebacks, torchrun and paths of checkpoints name them.

What fails is told by core/messages in the words of Megatron-LM; of another program the frames of
its tracebacks, its name and its files take the place of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Frame = tuple[str, int, str, str]  # file, line, function, code

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


def own_lines(lines: Sequence[str], program: Program, *, is_unreadable: bool) -> list[str]:
    """Lines of core/messages as `program` would have them.

    Args:
        lines: In the words of Megatron-LM.
        program: Whose they are to be.
        is_unreadable: Whether they are of a checkpoint that cannot be read.
    """
    reframed = list(_reframed([line for line in lines if _LOADING not in line], program))
    if is_unreadable and not program.is_sharded:
        reframed = _of_one_file(reframed, program)
    return [_renamed(line, program) for line in reframed]


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
