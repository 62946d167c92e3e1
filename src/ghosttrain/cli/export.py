"""`ghosttrain export`: a whole run as files, as fast as possible."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from ghosttrain.cli.common import add_spec_arguments, count, request_from_args, settle

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from ghosttrain.core.events import Event
    from ghosttrain.core.run import Run
    from ghosttrain.exporters.formats import Format
    from ghosttrain.exporters.writing import Chunk


DEFAULT_FORMATS = "jsonl,labels"
_PROGRESS_EVERY_S = 0.1
_BUFFER_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `export`."""
    add_spec_arguments(parser)
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--to",
        metavar="DIR",
        required=True,
        help="folder of the files, made if need be; files of the same names are replaced",
    )
    group.add_argument(
        "--format",
        metavar="NAME,...",
        default=DEFAULT_FORMATS,
        help="names by commas, of those that `ghosttrain list formats` has for export"
        f" (default: {DEFAULT_FORMATS})",
    )
    group.add_argument(
        "--log-interval",
        metavar="N",
        type=count,
        default=10,
        help="steps between two samples of the GPUs (default: 10)",
    )


def execute(args: argparse.Namespace) -> int:
    """Write the files."""
    from pathlib import Path

    from ghosttrain.cli.run import again
    from ghosttrain.core.run import simulate
    from ghosttrain.exporters.formats import formats_of
    from ghosttrain.inputs.request import resolve
    from ghosttrain.views.show.terminal import Terminal, write_all

    formats = formats_of(args.format)
    settle(args, watched=False)
    run = simulate(resolve(request_from_args(args), args.seed), args.seed)
    written = export(run, Path(args.to), formats, sample_every=args.log_interval)
    terminal = Terminal.of(1)
    told = [f"written: {path} ({size:,} bytes)" for path, size in written]
    told.append(f"Again: {again(args, 'export')}")
    write_all(terminal.fd, terminal.encode("".join(f"{line}\n" for line in told)))
    return 0


def export(
    run: Run, folder: Path, formats: Sequence[Format], *, sample_every: int = 10
) -> list[tuple[Path, int]]:
    """Write the files of each format into `folder`: all of them whole, or none.

    Returns:
        The files and their sizes, bytes.

    Raises:
        InputFileError: If there can be no such files.
        RequestError: If a format needs a package that is not installed.
        WorldError: If they cannot be written completely.
    """
    from ghosttrain.core.errors import WorldError
    from ghosttrain.exporters.writing import Asked

    asked = Asked(run, log_interval=sample_every)
    with PartFiles(folder) as parts:
        for one in formats:
            if one.file:
                parts.add(one.file)
        exporters = [one.exporter(asked) for one in formats]
        try:
            events = run.events(0.0, float("inf"), sample_every=sample_every)
            for event in told_on_stderr(events, run.end_s):
                for exporter in exporters:
                    parts.append(exporter.accept(event))
            for exporter in exporters:
                parts.append(exporter.close())
            return parts.publish()
        except OSError as error:
            raise WorldError(f"{folder}: cannot be written: {error.strerror or error}") from None


class PartFiles:
    """Files that get their names when all of them are whole, and vanish if that is not to be.

    Until then they stand beside where they will be, named .NAME.PID.part. Only the last moment,
    in which one name is given after the other, can leave some new and some old files.
    """

    def __init__(self, folder: Path) -> None:
        from ghosttrain.core.errors import InputFileError

        self._folder = folder
        self._files: list[tuple[Path, Path, BinaryIO]] = []
        self._made: list[Path] = []
        self._open: dict[str, BinaryIO] = {}
        try:
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                self._made.append(path)
            is_folder = folder.is_dir()
        except OSError as error:
            self._discard()
            raise InputFileError(f"{folder}: cannot be made: {error.strerror}") from None
        except ValueError:  # a NUL in the name
            raise InputFileError(f"{str(folder)!r}: cannot be made: no such name") from None
        if not is_folder:
            raise InputFileError(f"{folder}: is no folder: give --to one, or a new name")

    def __enter__(self) -> PartFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def add(self, name: str) -> BinaryIO:
        """A new file that will be called `name`, open for writing.

        Raises:
            InputFileError: If there can be none.
        """
        from ghosttrain.core.errors import InputFileError

        path = self._folder / name
        part = self._folder / f".{name}.{os.getpid()}.part"
        if path.is_dir():
            raise InputFileError(f"{path}: is a folder")
        try:
            file = part.open("wb", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise InputFileError(f"{path}: cannot be written: {error.strerror}") from None
        self._files.append((path, part, file))
        self._open[name] = file
        return file

    def append(self, chunks: Iterable[Chunk]) -> None:
        """Write bytes to the ends of files that have been added."""
        for name, data in chunks:
            self._open[name].write(data)

    def publish(self) -> list[tuple[Path, int]]:
        """Bring all to the disk and give them their names; returns those and the sizes."""
        written = []
        for path, _, file in self._files:
            file.flush()
            os.fsync(file.fileno())
            written.append((path, file.tell()))
            file.close()
        while self._files:
            path, part, _ = self._files[0]
            part.replace(path)
            self._files.pop(0)
        self._made.clear()
        if hasattr(os, "O_DIRECTORY"):  # the names themselves, where folders can be opened
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return written

    def _discard(self) -> None:
        """Remove what has not got its name, and the folders made for it."""
        for _, part, file in self._files:
            with suppress(OSError):  # what is buffered does not fit either
                file.close()
            with suppress(OSError):
                part.unlink(missing_ok=True)
        self._files.clear()
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir()
        self._made.clear()


def told_on_stderr(events: Iterable[Event], end_s: float) -> Iterable[Event]:
    """The events; a watcher of stderr is told how far they are, in one line that goes."""
    from ghosttrain.views.show.terminal import Terminal

    if not Terminal.of(2).moves:
        yield from events
        return
    last = time.monotonic()
    is_told = False
    try:
        for event in events:
            yield event
            now = time.monotonic()
            if now - last >= _PROGRESS_EVERY_S:
                last, is_told = now, True
                done = event.time_s / end_s if end_s > 0 else 1.0
                say(f"\r\x1b[Kexporting {done:4.0%} of {end_s / 3600:,.1f} h of run time")
    finally:
        if is_told:
            say("\r\x1b[K")


def say(text: str) -> None:
    """Write to stderr, if anybody listens there."""
    with suppress(OSError):
        sys.stderr.flush()
        os.write(2, text.encode())
