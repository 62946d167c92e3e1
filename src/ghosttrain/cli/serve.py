"""`ghosttrain serve`: a live run behind HTTP, for Prometheus and for whoever reads what it does."""

from __future__ import annotations

import sys
import time

from ghosttrain.cli.common import (
    LARGEST_SEED,
    add_spec_arguments,
    count,
    duration,
    read_by,
    request_from_args,
    settle,
    stamp,
)
from ghosttrain.cli.main import Interrupted, complain
from ghosttrain.cli.run import again

TYPE_CHECKING = False  # typing itself costs 4 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ghosttrain.core.run import Run
    from ghosttrain.serve.collection import Collector
    from ghosttrain.serve.live import LiveRun
    from ghosttrain.serve.server import Server

PORT = 9400  # dcgm-exporter's
METRICS = "default,node"
QUIRKS = "sticky-xid,lost-vanish"
# A page is the state of its collection. dcgm-exporter collects every 30 s; here that would be up
# to 30 s x --speed of run time, and alerts that look back a minute would see two states.
COLLECT_INTERVAL_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    add_spec_arguments(parser)
    where = parser.add_argument_group("where to serve it")
    where.add_argument(
        "--host", default="127.0.0.1", help="name or address to listen on (default: 127.0.0.1)"
    )
    where.add_argument(
        "--port",
        metavar="N",
        type=port,
        default=PORT,
        help=f"port to listen on, 0 for any free one (default: {PORT})",
    )
    where.add_argument(
        "--port-per-node",
        action="store_true",
        help="answer for node K on port N + K, as if each node had an exporter of its own",
    )
    where.add_argument(
        "--token",
        metavar="WORD",
        type=token,
        help="who controls the run must know it (default: none on loopback, elsewhere a random"
        " one, which is told)",
    )
    how = parser.add_argument_group("how to play it")
    how.add_argument(
        "--speed",
        metavar="real|N",
        type=steady_speed,
        default=1.0,
        help="run seconds per wall second; at real, the default, it is 1: rates and `for:` clauses"
        " mean what they say",
    )
    how.add_argument(
        "--at",
        metavar="TIME",
        help="begin at a moment of the run, as in 2h10min, or before or after a fault, as in"
        " incident:1-2min",
    )
    how.add_argument(
        "--runs",
        metavar="N|loop",
        type=runs,
        help="after N runs stay at the end of the last one and serve that; default: loop, when a"
        " run is over the next one begins after 30 s, with the next seed (ghosttrain_info tells)",
    )
    how.add_argument(
        "--exit-after", metavar="TIME", type=duration, help="end after a time, as in 2h10min"
    )
    what = parser.add_argument_group("what to serve")
    what.add_argument(
        "--metrics",
        metavar="NAME,...",
        default=METRICS,
        help="lists (default: what dcgm-exporter has by default, profiling, extra, further, node:"
        f" of node_exporter), all, or names of metrics (default: {METRICS})",
    )
    what.add_argument(
        "--collect-interval",
        metavar="TIME",
        type=duration,
        default=COLLECT_INTERVAL_S,
        help="wall time between two collections: all who scrape between them see the same"
        " (default: 1s; dcgm-exporter's is 30s)",
    )
    what.add_argument(
        "--dcgm-exporter",
        metavar="RELEASE",
        help="whose labels to write (default: 4.5.3-4.8.2; later ones say hostname for Hostname)",
    )
    what.add_argument(
        "--quirks",
        metavar="NAME,...",
        default=QUIRKS,
        help="sticky-xid: the last Xid stays until the driver is loaded anew (without: for a"
        " minute); lost-vanish: a GPU that is lost has no lines (without: its last values stay);"
        f" none (default: {QUIRKS}, as dcgm-exporter)",
    )
    what.add_argument(
        "--mapping",
        choices=("none", "kubernetes", "slurm"),
        default="none",
        help="label GPUs with the pod or the job that uses them, as dcgm-exporter can",
    )


def execute(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    from ghosttrain.core.errors import WorldError
    from ghosttrain.views.show.terminal import Terminal, write_all

    until = time.monotonic() + args.exit_after if args.exit_after else None
    refuse_missing_packages()
    terminal = Terminal.of(1)
    settle(args, watched=terminal.is_tty)
    collector = collector_of(args)
    server = server_of(args, collector)
    try:
        server.start()
        write_all(terminal.fd, terminal.encode(told(args, server.port, collector)))
        server.wait(None if until is None else max(0.0, until - time.monotonic()))
    except Interrupted as interrupted:  # the server's thread ends with the process
        complain(last_words(args, collector.live))
        interrupted.told = True
        raise
    server.stop()
    if until is None:
        raise WorldError("the server has ended by itself")
    return 0


def refuse_missing_packages() -> None:
    """See that the packages are there which only this command needs.

    Raises:
        RequestError: If they are not installed.
    """
    from importlib import import_module

    from ghosttrain.core.errors import RequestError

    for name in ("prometheus_client", "starlette.applications", "uvicorn"):
        try:
            import_module(name)
        except ImportError:
            package = name.partition(".")[0]
            raise RequestError(
                f"serve needs the package {package}: pip install 'ghosttrain[serve]'"
            ) from None


def collector_of(args: argparse.Namespace) -> Collector:
    """What collects the state of the run that is asked for.

    Raises:
        RequestError: If there can be no such run, moment or metric.
    """
    from ghosttrain.exporters.prometheus.dcgm import (
        RELEASED,
        Dialect,
        chosen_metrics,
        known_metrics,
    )
    from ghosttrain.exporters.prometheus.quirks import quirks_of
    from ghosttrain.serve.collection import Collector
    from ghosttrain.serve.control import moment
    from ghosttrain.serve.live import LiveRun

    metrics = chosen_metrics(args.metrics, known_metrics())
    dialect = Dialect.of(args.dcgm_exporter or RELEASED, args.mapping)
    quirks = quirks_of(args.quirks)
    live = LiveRun(a_run(args, args.seed), speed=args.speed, next_run=following(args))
    if args.at:
        live.seek(moment(live, args.at))
    return Collector(live, metrics, dialect, interval_s=args.collect_interval, quirks=quirks)


def a_run(args: argparse.Namespace, seed: int) -> Run:
    """The run that is asked for, with a seed."""
    from ghosttrain.core.run import simulate
    from ghosttrain.inputs.request import resolve

    return simulate(resolve(request_from_args(args), seed), seed)


def following(args: argparse.Namespace) -> Callable[[], Run | None]:
    """What gives the next run, with the next seed, as long as there is to be one."""
    from ghosttrain.core.errors import GhosttrainError

    left = (args.runs or sys.maxsize) - 1

    def next_run() -> Run | None:
        nonlocal left
        if left <= 0:
            return None
        left -= 1
        seed = (args.seed + 1) % (LARGEST_SEED + 1)
        try:
            run = a_run(args, seed)
        except GhosttrainError as error:  # such as a file that is gone: what is there stays
            complain(f"ghosttrain: there is no next run: {error}")
            left = 0
            return None
        args.seed = seed
        return run

    return next_run


def server_of(args: argparse.Namespace, collector: Collector) -> Server:
    """The server, its sockets open, not yet answering.

    Raises:
        RequestError: If there can be no such ports.
        WorldError: If a port is taken.
    """
    import secrets

    from ghosttrain.serve.app import Faces
    from ghosttrain.serve.control import is_loopback
    from ghosttrain.serve.server import Server, listen

    nodes = collector.live.run.spec.cluster.nodes if args.port_per_node else 1
    sockets = listen(args.host, args.port, nodes)
    # By the address: what a name that looks like loopback's leads to is not for us to guess.
    if not args.token and not is_loopback(sockets[0].getsockname()[0]):
        args.token = secrets.token_urlsafe(16)
    faces = Faces(
        collector,
        port=int(sockets[0].getsockname()[1]),
        port_per_node=args.port_per_node,
        token=args.token or "",
    )
    return Server(faces.app(), sockets)


def told(args: argparse.Namespace, first: int, collector: Collector) -> str:
    """What is served where, how to stop, and how to have it again."""
    spec, run = collector.live.run.spec, collector.live.run
    host = f"[{args.host}]" if ":" in args.host else args.host
    at, nodes = f"http://{host}:{first}", spec.cluster.nodes
    lines = [
        f"Serving a simulated run: {spec.model.name} on {spec.cluster.gpus:,} × {spec.gpu.name},"
        f" {nodes:,} node{'s' if nodes > 1 else ''}, seed {run.seed}, speed {args.speed:g}"
    ]
    if args.port_per_node:
        lines.append(f"  {at}/metrics          node 0; node K on port {first} + K")
        lines.append(f"  {at}/job/metrics      the job")
    else:
        lines.append(f"  {at}/metrics          all nodes and the job")
        lines.append(f"  {at}/node/K/metrics   node K, 0 to {nodes - 1:,}")
    lines.append(f"  {at}/sd               targets, for Prometheus' http_sd_configs")
    lines.append(f"  {at}/api/v1/state     where the run is")
    if args.token:
        lines.append(f"Control needs the token: Authorization: Bearer {args.token}")
    lines.append(f"Again: {again(args, 'serve')}")
    lines.append("Ctrl-C ends it.")
    return "".join(f"{line}\n" for line in lines)


def last_words(args: argparse.Namespace, live: LiveRun) -> str:
    """What ran, and how to have it again; with the faults that were injected meanwhile."""
    spec = live.run.spec
    where = f"{spec.model.name} on {spec.cluster.gpus:,} × {spec.gpu.name}"
    told_at = f"Interrupted at {stamp(spec.start_unix_s + live.playing.time_s)}: {where}."
    return f"{told_at} Again: {again(with_injected(args, live), 'serve')}"


def with_injected(args: argparse.Namespace, live: LiveRun) -> argparse.Namespace:
    """The flags that ask for the present run, with all that was injected into it."""
    if not live.injected:
        return args
    from argparse import Namespace

    from ghosttrain.inputs.faults import fault_words

    words, rest = [], iter(args.words)
    for word in rest:
        if word == "--faults":
            next(rest, "")
        elif not word.startswith("--faults="):
            words.append(word)
    faults = ",".join(fault_words(live.run.spec.faults))
    return Namespace(**vars(args) | {"words": [*words, "--faults", faults]})


def port(text: str) -> int:
    """A port's number."""
    import argparse

    if not (text.isascii() and text.isdigit() and int(text[:9]) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give one from 0 to 65535")
    return int(text)


def steady_speed(text: str) -> float:
    """A --speed that stays."""
    from ghosttrain.serve.control import read_speed

    return read_by(read_speed)(text)


def token(text: str) -> str:
    """A --token: something that fits into a header."""
    import argparse

    if not (8 <= len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text):
        raise argparse.ArgumentTypeError("give 8 to 200 ASCII characters without blanks")
    return text


def runs(text: str) -> int | None:
    """A --runs: a number, or None for ever."""
    return None if text == "loop" else count(text)
