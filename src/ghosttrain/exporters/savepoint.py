"""Savepoints: what an export that was killed goes on from.

A file of one line of JSON (what was asked as a digest, how far it is, how long each part is)
and, behind it, the exporters as they were. These are a pickle; of one only classes of our core
and exporters are made, and plain containers, arrays and dates: not because somebody may have put
another file into the user's own folder, but so that nothing comes of it if somebody has.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghosttrain.exporters.writing import Asked

SCHEMA = "ghosttrain.savepoint/1"

_OURS = ("ghosttrain.core.", "ghosttrain.exporters.")
_PLAIN = {
    "builtins": {"bytearray", "complex", "frozenset", "range", "set", "slice"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "timedelta", "timezone"},
    "numpy": {"dtype", "ndarray"},
    # Where NumPy 1 and 2 keep what makes an array, or a number, of bytes.
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
}


class UnknownStateError(Exception):
    """Saved exporters that cannot be had again; the export begins anew."""


@dataclass(frozen=True, slots=True)
class Savepoint:
    """How far an export is.

    Attributes:
        digest: Of what was asked: only the same goes on.
        reached_s: Run time up to which all is in the parts.
        lengths: Bytes of each part then.
        exporters: The exporters as they were then; empty once the parts are whole.
        is_whole: Whether nothing is missing but the names.
    """

    digest: str
    reached_s: float
    lengths: dict[str, int]
    exporters: bytes = b""
    is_whole: bool = False

    def write(self, path: Path) -> None:
        """Replace the savepoint in `path` by this one, in one go."""
        head = {
            "schema": SCHEMA,
            "digest": self.digest,
            "reached_s": self.reached_s,
            "lengths": self.lengths,
            "is_whole": self.is_whole,
            "exporters": hashlib.sha256(self.exporters).hexdigest(),
        }
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + self.exporters)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    @staticmethod
    def read(path: Path) -> Savepoint | None:
        """The savepoint in `path`, None if there is none that can be read."""
        try:
            line, _, exporters = path.read_bytes().partition(b"\n")
            head = json.loads(line)
            if head["schema"] != SCHEMA:
                return None
            if head["exporters"] != hashlib.sha256(exporters).hexdigest():
                return None
            lengths = {str(name): int(length) for name, length in head["lengths"].items()}
            reached_s, is_whole = float(head["reached_s"]), bool(head["is_whole"])
            return Savepoint(str(head["digest"]), reached_s, lengths, exporters, is_whole)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def saved_exporters(exporters: list[Any], asked: Asked) -> bytes:
    """The exporters as bytes, without what was asked and the run: the next one has them."""
    file = io.BytesIO()
    _Saver(file, asked).dump(exporters)
    return file.getvalue()


def restored_exporters(data: bytes, asked: Asked) -> list[Any]:
    """The exporters again.

    Raises:
        UnknownStateError: If they cannot be made of these bytes.
    """
    try:
        exporters = _Restorer(io.BytesIO(data), asked).load()
    except UnknownStateError:
        raise
    except Exception as error:  # noqa: BLE001 - bytes of another version may break anything
        raise UnknownStateError(str(error)) from None
    if not isinstance(exporters, list):
        raise UnknownStateError("no list of exporters")
    return exporters


def _put_back(asked: Asked) -> Mapping[str, object]:
    """What is not saved with the exporters that keep it, but named."""
    run = asked.run
    return {
        "asked": asked,
        "run": run,
        "plan": run.plan,
        "spec": run.plan.spec,
        "timeline": run.timeline,
    }


class _Saver(pickle.Pickler):
    def __init__(self, file: io.BytesIO, asked: Asked) -> None:
        super().__init__(file, protocol=5)
        self._names = {id(value): name for name, value in _put_back(asked).items()}

    def persistent_id(self, obj: object) -> str | None:
        return self._names.get(id(obj))


class _Restorer(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, asked: Asked) -> None:
        super().__init__(file)
        self._known = _put_back(asked)

    def persistent_load(self, pid: Any) -> object:
        if pid not in self._known:
            raise UnknownStateError(f"unknown reference {pid!r}")
        return self._known[pid]

    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()):
            return getattr(importlib.import_module(module), name)
        if module.startswith(_OURS) and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise UnknownStateError(f"{module}.{name} is not what an exporter is made of")
