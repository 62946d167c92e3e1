"""The sockets and the server behind them, in a thread of its own.

In the main thread uvicorn would answer signals itself, and late: it looks ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from ghosttrain.core.errors import RequestError, WorldError

if TYPE_CHECKING:
    from starlette.applications import Starlette

BACKLOG = 1024  # connections that wait to be taken: hundreds of scrapers may come at once
LARGEST_PORT = 65535
SPARE_FILES = 512  # beside one for each socket: connections and what Python has open
IDLE_S = 75  # after which a connection without requests is closed


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """Sockets that listen on `count` ports in a row; port 0 is any one that is free.

    Raises:
        RequestError: If there are no such ports.
        WorldError: If one is taken, or the system gives none.
    """
    if not 0 <= port <= LARGEST_PORT:
        raise RequestError(f"--port {port}: ports are 0 to {LARGEST_PORT:,}")
    if count > 1 and not port:
        raise RequestError("--port 0 is any free port: --port-per-node needs the first of a row")
    if port + count - 1 > LARGEST_PORT:
        raise RequestError(
            f"--port-per-node needs the ports {port:,} to {port + count - 1:,}, and"
            f" {LARGEST_PORT:,} is the last: leave it out, every node is at /node/K/metrics too"
        )
    _allow_files(count + SPARE_FILES)
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            sockets.append(_socket(host, port + number))  # noqa: PERF401 - those so far are closed
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _socket(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise WorldError(f"--host {host!r}: this machine knows no such name or address") from None
    family, _, _, _, address = found[0]
    one = None
    try:
        # The protocol is named: asyncio switches Nagle's algorithm off for sockets that name it
        # alone, and with it on a small answer waits 40 ms for the reader's delayed ACK.
        one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # Restarted, we get our port again at once; two servers never share one.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
        one.listen(BACKLOG)
    except OSError as error:
        if one is not None:
            one.close()
        raise WorldError(_why_not(error, host, port)) from None
    one.setblocking(False)
    return one


def _why_not(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken: give another with --port, 0 for any free one"
        case errno.EACCES:
            return f"port {port} on {host} may not be used by you: give one from 1,024 on"
        case errno.EMFILE | errno.ENFILE:
            return f"port {port}: too many files are open: raise `ulimit -n`"
        case errno.EADDRNOTAVAIL:
            return f"--host {host!r}: this machine has no such address"
        case _:
            return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def _allow_files(count: int) -> None:
    """Have the system let us open so many files, as far as it does."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Server:
    """The application on its sockets, from `start` to `stop`."""

    def __init__(self, app: Starlette, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        config = uvicorn.Config(
            app,
            http="h11",  # the one that is always there
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            log_level="critical",
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="ghosttrain-serve", daemon=True)

    @property
    def port(self) -> int:
        """The first port."""
        return int(self._sockets[0].getsockname()[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """End: whoever is being answered is cut off. Idempotent.

        The thread is waited for so long; it is a daemon, and ends with the process at the latest.
        """
        self._server.should_exit = self._server.force_exit = True
        if self._thread.is_alive():
            self._thread.join(within_s)
        if not self._thread.is_alive():  # else it is still at work on them
            for one in self._sockets:
                one.close()

    def wait(self, timeout_s: float | None) -> None:
        """Return when the server has ended, or after a time."""
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=self._sockets))
