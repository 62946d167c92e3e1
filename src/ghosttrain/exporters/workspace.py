"""The hidden folder in which an export grows, until its files are whole and get their names.

    DIR/.ghosttrain-export/
    ├── lock       held by the export that is under way
    ├── state      what had safely reached the disk when, and what to go on with (see savepoint.py)
    └── parts/     the files of the export, under the names they will have in DIR

A savepoint says how long each part was and is itself replaced in one go: what was written after it
is cut off by whoever goes on. When all parts are whole the last savepoint says so, and from then on
the export only ever goes forward: names that a killed export has not given any more are given by
the next one into the same DIR, whatever it was asked for.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path, PurePosixPath

from ghosttrain.core.errors import InputFileError, WorldError
from ghosttrain.exporters.savepoint import Savepoint
from ghosttrain.exporters.writing import Chunk

HIDDEN = ".ghosttrain-export"
_BUFFER_BYTES = 1 << 20  # of one part: below it system calls outweigh the copying
_MOST_OPEN = 128  # parts open at a time; systems allow a process 256 (macOS) or 1,024 files
_NUMBERED = re.compile(r"(.*\D)\d{5,}(\.\w+)")  # telemetry/part-00017.parquet

Written = list[tuple[Path, int]]  # files and their sizes, bytes


class BusyError(WorldError):
    """Another export is writing into the same folder."""


class Workspace:
    """The hidden folder of an export into `folder`; one at a time has it.

    Raises:
        InputFileError: If there can be no such folder.
        BusyError: If another export is under way there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hidden = folder / HIDDEN
        self.lengths: dict[str, int] = {}  # of all parts, what is still in buffers included
        self.is_saved = False  # whether there is a savepoint to go on from
        self._parts = self.hidden / "parts"
        self._open: OrderedDict[str, tuple[FileIO, bytearray]] = OrderedDict()
        self._unsynced: set[str] = set()
        self._made: list[Path] = []
        if folder.exists() and not folder.is_dir():
            raise InputFileError(f"{folder}: is no folder: give --to one, or a new name")
        try:
            for path in reversed(
                [p for p in (self.hidden, *self.hidden.parents) if not p.exists()]
            ):
                path.mkdir(exist_ok=True)
                self._made.append(path)
            self._lock = _locked(self.hidden / "lock")
        except OSError as error:
            self._remove_made()
            verb = "written" if folder.is_dir() else "made"
            raise InputFileError(f"{folder}: cannot be {verb}: {error.strerror}") from None
        except ValueError:  # a NUL in the name
            raise InputFileError(f"{str(folder)!r}: cannot be made: no such name") from None
        if self._lock is None:
            raise BusyError(
                f"{folder}: another export is writing there: wait for it, or give another --to"
            )

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what can be gone on from; else leave no trace."""
        for file, _buffer in self._open.values():
            file.close()
        self._open.clear()
        if not self.is_saved:
            self._remove_hidden()
            self._remove_made()
        if self._lock is not None:
            self._lock.close()

    # What a killed export has left.

    def found(self) -> Savepoint | None:
        """The savepoint that is here, with the parts as they were then; None if there is none."""
        saved = Savepoint.read(self.hidden / "state")
        # Of a whole export some parts may have their names already.
        if saved is None or not (saved.is_whole or self._cut_to(saved.lengths)):
            self.clear()
            return None
        self.lengths, self.is_saved = dict(saved.lengths), True
        return saved

    def clear(self) -> None:
        """Begin anew: no savepoint, no parts."""
        (self.hidden / "state").unlink(missing_ok=True)
        shutil.rmtree(self._parts, ignore_errors=True)
        self.lengths, self.is_saved = {}, False

    def _cut_to(self, lengths: dict[str, int]) -> bool:
        """Bring the parts to their lengths of then, remove the others; whether that can be."""
        there = [p for p in self._parts.rglob("*") if p.is_file()]
        by_name = {p.relative_to(self._parts).as_posix(): p for p in there}
        for name in by_name.keys() - lengths.keys():
            by_name[name].unlink()
        for name, length in lengths.items():
            if name not in by_name or by_name[name].stat().st_size < length:
                return False
            os.truncate(by_name[name], length)
        return True

    # Writing.

    def append(self, chunks: Iterable[Chunk]) -> None:
        """Write bytes to the ends of parts.

        Raises:
            InputFileError: If there can be no file of such a name.
        """
        for name, data in chunks:
            file, buffer = self._opened(name)
            buffer += data
            self.lengths[name] += len(data)
            self._unsynced.add(name)
            if len(buffer) >= _BUFFER_BYTES:
                _flush(file, buffer)

    def _opened(self, name: str) -> tuple[FileIO, bytearray]:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if name not in self.lengths:
            self._check_name(name)
            self.lengths[name] = 0
        path = self._parts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(self._open) >= _MOST_OPEN:
            _, (file, buffer) = self._open.popitem(last=False)
            _flush(file, buffer)
            file.close()
        self._open[name] = opened = FileIO(path, "ab"), bytearray()
        return opened

    def _check_name(self, name: str) -> None:
        path = PurePosixPath(name)
        assert not path.is_absolute(), name
        assert ".." not in path.parts, name
        if (self.folder / path).is_dir():
            raise InputFileError(f"{self.folder / path}: is a folder")
        for above in [self.folder / p for p in path.parents]:
            if above.exists() and not above.is_dir():
                raise InputFileError(f"{above}: is no folder")

    def _sync(self) -> None:
        """Bring all that has been written to the disk."""
        for file, buffer in self._open.values():
            _flush(file, buffer)
        for name in sorted(self._unsynced):
            if name in self._open:
                os.fsync(self._open[name][0].fileno())
            else:
                with FileIO(self._parts / name, "ab") as file:
                    os.fsync(file.fileno())
        self._unsynced.clear()

    def save(self, point: Savepoint) -> None:
        """Have whoever comes next go on from here."""
        self._sync()
        point.write(self.hidden / "state")
        self.is_saved = True

    # The end.

    def publish(self, point: Savepoint) -> Written:
        """All parts are whole: give them their names; returns those and the sizes."""
        assert point.is_whole
        self.save(point)
        for file, _ in self._open.values():
            file.close()
        self._open.clear()
        return self.go_forward(point)

    def go_forward(self, point: Savepoint) -> Written:
        """Give the names that have not been given yet, and remove the hidden folder."""
        names = point.lengths
        for path in self._outdated(names):
            path.unlink(missing_ok=True)
        for name in names:
            part, path = self._parts / name, self.folder / name
            if part.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                part.replace(path)
        for path in {(self.folder / name).parent for name in names}:
            _sync_folder(path)
        self._remove_hidden()
        self._made.clear()
        return [(self.folder / name, length) for name, length in names.items()]

    def _outdated(self, names: dict[str, int]) -> set[Path]:
        """Numbered files of an older export that the new one has not as many of."""
        outdated: set[Path] = set()
        for first, last in {m.groups() for name in names if (m := _NUMBERED.fullmatch(name))}:
            for path in self.folder.glob(f"{first}*{last}"):
                name = path.relative_to(self.folder).as_posix()
                if name not in names and _NUMBERED.fullmatch(name):
                    outdated.add(path)
        return outdated

    def _remove_hidden(self) -> None:
        with suppress(OSError):
            (self.hidden / "state").unlink(missing_ok=True)  # first: parts without it are nothing
        self.is_saved = False
        shutil.rmtree(self.hidden, ignore_errors=True)

    def _remove_made(self) -> None:
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir()
        self._made.clear()


def _flush(file: FileIO, buffer: bytearray) -> None:
    """Write all of the buffer: a raw file may take less at a time."""
    with memoryview(buffer) as view:
        done = 0
        while done < len(view):
            done += file.write(view[done:]) or 0
    buffer.clear()


def _sync_folder(path: Path) -> None:
    """Bring the names themselves to the disk, where folders can be opened."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _locked(path: Path) -> FileIO | None:
    """The lock file, held until it is closed; None if somebody else holds it.

    The system gives it up with the process, however that ends.
    """
    while True:
        file = FileIO(path, "ab")
        if not _lock(file):
            file.close()
            return None
        try:
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
        file.close()  # whoever had it has removed it meanwhile: the next one counts


def _lock(file: FileIO) -> bool:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
