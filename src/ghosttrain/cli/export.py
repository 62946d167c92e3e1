"""`ghosttrain export`: a run, or a window of it, as files, as fast as possible."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from ghosttrain.cli.common import add_spec_arguments, count, request_from_args, settle

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ghosttrain.exporters.driver import Progress


DEFAULT_FORMATS = "jsonl,labels"
_PROGRESS_EVERY_S = 0.1
_MOST_FILES_TOLD = 8  # one by one, of those below one folder


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
        help="steps between two lines of a log, or two samples of the GPUs in it (default: 10)",
    )
    group.add_argument(
        "--from",
        metavar="TIME",
        dest="start_at",
        help="first moment: run time as in 2h10min, step=200 (its end), or a date (default: 0)",
    )
    group.add_argument(
        "--to-time", metavar="TIME", help="moment after the last (default: the end of the run)"
    )
    group.add_argument(
        "--every",
        metavar="DURATION",
        help="run time between two moments of telemetry (default: 30s, as dcgm-exporter)",
    )
    group.add_argument(
        "--select-gpus",
        metavar="RANKS",
        help="whose telemetry: ranks as in 0-63,128, or node=3 (default: all)",
    )
    group.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="which telemetry in tables, as in power_w,DCGM_FI_PROF_DRAM_ACTIVE"
        " (default: gpu_util_pct,gpu_temp_c,power_w,fb_used_mib)",
    )


def execute(args: argparse.Namespace) -> int:
    """Write the files."""
    from pathlib import Path

    from ghosttrain.cli.run import again
    from ghosttrain.core.errors import WorldError
    from ghosttrain.core.run import simulate
    from ghosttrain.exporters.asking import asked_of
    from ghosttrain.exporters.driver import export
    from ghosttrain.exporters.formats import formats_of
    from ghosttrain.exporters.workspace import BusyError
    from ghosttrain.inputs.request import resolve
    from ghosttrain.views.show.terminal import Terminal, write_all

    formats, folder = formats_of(args.format), Path(args.to)
    settle(args, watched=False)
    run = simulate(resolve(request_from_args(args), args.seed), args.seed)
    asked = asked_of(
        run,
        log_interval=args.log_interval,
        start=args.start_at,
        stop=args.to_time,
        every=args.every,
        gpus=args.select_gpus,
        metrics=args.metrics,
    )
    line = ProgressLine()
    try:
        written = export(asked, folder, formats, tell=line.tell)
    except BusyError:
        raise
    except WorldError as error:
        raise WorldError(f"{error}{kept_words(folder, again(args, 'export'))}") from None
    except KeyboardInterrupt as interrupted:
        line.clear()
        if kept := kept_words(folder, again(args, "export")):
            say(f"ghosttrain: interrupted{kept}\n")
            interrupted.told = True  # type: ignore[attr-defined]
        raise
    finally:
        line.clear()
    terminal = Terminal.of(1)
    told = [f"written: {line}" for line in file_words(written, folder)]
    told.append(f"Again: {again(args, 'export')}")
    write_all(terminal.fd, terminal.encode("".join(f"{line}\n" for line in told)))
    return 0


def file_words(written: Iterable[tuple[Path, int]], folder: Path) -> Iterator[str]:
    """The files and their sizes; those below one folder together where they are many."""
    below: dict[Path, list[tuple[Path, int]]] = {}
    for path, size in written:
        top = folder / path.relative_to(folder).parts[0]
        below.setdefault(top, []).append((path, size))
    for top, files in below.items():
        if len(files) > _MOST_FILES_TOLD:
            yield f"{top} ({len(files):,} files, {sum(size for _, size in files):,} bytes)"
        else:
            yield from (f"{path} ({size:,} bytes)" for path, size in files)


def kept_words(folder: Path, command: str) -> str:
    """What an export that has ended half way can go on with; nothing if it left nothing."""
    from ghosttrain.exporters.savepoint import Savepoint
    from ghosttrain.exporters.workspace import HIDDEN

    saved = Savepoint.read(folder / HIDDEN / "state")
    if saved is None:
        return ""
    size = size_words(sum(saved.lengths.values()))
    return f"; {size} are kept in {folder / HIDDEN}.\nGoes on with: {command}"


class ProgressLine:
    """One line on the terminal of stderr that tells how far the export is, and goes."""

    def __init__(self) -> None:
        from ghosttrain.views.show.terminal import Terminal

        self._terminal = Terminal.of(2)
        self._told_wall_s = time.monotonic()
        self._is_shown = False

    def tell(self, progress: Progress) -> None:
        """Show how far it is, if it is time."""
        now = time.monotonic()
        if self._terminal.moves and now - self._told_wall_s >= _PROGRESS_EVERY_S:
            self._told_wall_s, self._is_shown = now, True
            text = progress_words(progress)[: self._terminal.size()[0] - 1]
            say("\r\x1b[K", self._terminal.encode(text))

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown:
            self._is_shown = False
            say("\r\x1b[K")


def progress_words(progress: Progress) -> str:
    """How far, how much, how fast, how long yet."""
    hours = (progress.end_s - progress.start_s) / 3600
    words = [
        f"exporting {progress.done_frac:4.0%} of {hours:,.1f} h of run time",
        size_words(progress.written_bytes),
    ]
    if progress.wall_s > 0:
        words.append(f"{size_words(progress.grown_bytes / progress.wall_s)}/s")
    if progress.left_wall_s < float("inf"):
        minutes, seconds = divmod(round(progress.left_wall_s), 60)
        words.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    return " · ".join(words)


def size_words(size_bytes: float) -> str:
    """A size with its unit, three figures or so."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.2f} TB"


def say(text: str, more: bytes = b"") -> None:
    """Write to stderr, if anybody listens there."""
    with suppress(OSError):
        sys.stderr.flush()
        os.write(2, text.encode("utf-8", "replace") + more)
