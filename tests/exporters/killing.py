"""Exports that are killed, and gone on with: run as a program of its own, it forks them.

It imports everything once and then does nothing itself, so that it has one thread and its
children are whole. Each child is one export without the start of Python. Prints a JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ghosttrain.exporters import driver
from ghosttrain.exporters.formats import formats_of
from ghosttrain.exporters.savepoint import Savepoint
from ghosttrain.exporters.workspace import HIDDEN
from ghosttrain.exporters.writing import Asked
from tests.exporters.runs import real_run

Files = dict[str, bytes]


def the_export(formats: str) -> Callable[[Path], object]:
    """Two hundred steps with a restart, in slices of a few, a savepoint after each."""
    driver._MOST_STEPS = 40
    run = real_run(steps=200, faults="gpu-off-bus@4min:9")
    asked, chosen = Asked(run, every_s=60.0), formats_of(formats)
    for one in chosen:
        one.exporter(asked)  # imports what it needs
    return lambda folder: driver.export(asked, folder, chosen, save_every_wall_s=0.0)


def child(work: Callable[[], object]) -> int:
    """The process that does `work`."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the child ends here
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return pid


def done(work: Callable[[], object]) -> float:
    """Do it in a process; how long that took, seconds."""
    begun = time.perf_counter()
    status = os.waitpid(child(work), 0)[1]
    assert status == 0, status
    return time.perf_counter() - begun


def files_in(folder: Path) -> Files:
    """All files under their final names."""
    if not folder.exists():
        return {}
    there = [p for p in folder.rglob("*") if p.is_file() and HIDDEN not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in there}


def killed_at_random(export: Callable[[Path], object], base: Path, kills: int) -> dict[str, int]:
    """Kill it at random moments, time and again until it is done; counts what kills have left."""
    took_s = done(lambda: export(base / "first"))
    whole = files_in(base / "first")
    assert whole, "something is written"
    found = {"resumed": 0, "begun": 0, "whole": 0}
    chance = random.Random(7)
    for number in range(kills):
        folder = base / f"export-{found['whole']}"
        pid = child(lambda folder=folder: export(folder))  # type: ignore[misc]
        time.sleep(took_s * chance.uniform(0.2, 1.0))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        state = state_of(folder, whole)
        found[state] += 1
        if state == "whole" or number == kills - 1:
            done(lambda folder=folder: export(folder))  # type: ignore[misc]
            assert files_in(folder) == whole, f"kill {number}"
            assert not (folder / HIDDEN).exists()
    return found


def killed_at_every_change(export: Callable[[Path], object], base: Path) -> dict[str, int]:
    """Kill it right before the first change of names on the disk, the second, ...; go on."""
    done(lambda: export(base / "first"))
    whole = files_in(base / "first")
    found = {"resumed": 0, "begun": 0, "whole": 0}
    for number in range(1, 1000):
        folder = base / f"change-{number}"

        def export_and_die(folder: Path = folder, number: int = number) -> None:
            die_at_change(number)
            export(folder)

        status = os.waitpid(child(export_and_die), 0)[1]
        if status == 0:
            return found | {"changes": number - 1}
        assert os.WTERMSIG(status) == signal.SIGKILL
        found[state_of(folder, whole)] += 1
        done(lambda folder=folder: export(folder))  # type: ignore[misc]
        assert files_in(folder) == whole, f"change {number}"
        assert not (folder / HIDDEN).exists()
    raise AssertionError("it never ended")


def die_at_change(number: int) -> None:
    """Have this process killed instead of making the change of that number."""
    left = number

    def dying(change: Callable[..., object]) -> Callable[..., object]:
        def change_or_die(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return change_or_die

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "truncate", "fsync"):
        setattr(os, name, dying(getattr(os, name)))


def state_of(folder: Path, whole: Files) -> str:
    """What a kill has left; whole files under their names, or none of them."""
    there = files_in(folder)
    assert all(whole[name] == data for name, data in there.items()), "half a file has a name"
    if there == whole:
        return "whole"
    return "begun" if Savepoint.read(folder / HIDDEN / "state") is None else "resumed"


if __name__ == "__main__":
    way, formats, folder, *kills = sys.argv[1:]
    made = the_export(formats)
    if way == "random":
        told = killed_at_random(made, Path(folder), int(kills[0]))
    else:
        told = killed_at_every_change(made, Path(folder))
    print(json.dumps(told))
