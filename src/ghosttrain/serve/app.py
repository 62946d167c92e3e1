"""The routes: pages for scrapers, targets for Prometheus, state and control for people."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ghosttrain.core.errors import GhosttrainError
from ghosttrain.core.identity import host_name
from ghosttrain.core.timeline import physical_nodes
from ghosttrain.exporters.prometheus.page import (
    OPENMETRICS,
    TEXT,
    wants_gzip,
    wants_openmetrics,
)
from ghosttrain.serve.collection import Collection, Page, Part, Wanted
from ghosttrain.serve.control import Guard, action, read_orders
from ghosttrain.serve.discovery import groups
from ghosttrain.serve.index import index_page

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ghosttrain.serve.collection import Collector

LARGEST_BODY_BYTES = 64 * 1024
# A larger body is read and thrown away up to here, so that its sender gets to read the answer.
LARGEST_READ_BYTES = 16 << 20
SENT_AT_ONCE_BYTES = 128 * 1024  # what a slow reader makes us hold beside the shared page
# Time to take a page, as the real one: NVIDIA/dcgm-exporter, internal/pkg/server/server.go.
WRITE_TIMEOUT_S = 10.0

T = TypeVar("T")


class PageResponse(Response):
    """A page, sent piece by piece at the pace of its reader, which has WRITE_TIMEOUT_S for it."""

    def __init__(self, page: Page, *, openmetrics: bool) -> None:
        super().__init__(None, media_type=None)
        self._page = page
        kind = OPENMETRICS if openmetrics else TEXT
        self.init_headers(
            {
                "content-type": kind,
                "content-length": str(page.size),
                "vary": "Accept, Accept-Encoding",
                **({"content-encoding": "gzip"} if page.packed else {}),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            for piece in self._page.pieces:
                for start in range(0, len(piece), SENT_AT_ONCE_BYTES):
                    part = piece[start : start + SENT_AT_ONCE_BYTES]
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class Faces:
    """What is answered on which path."""

    def __init__(
        self, collector: Collector, *, port: int, port_per_node: bool = False, token: str = ""
    ) -> None:
        self._collector = collector
        self._port, self._port_per_node = port, port_per_node
        self._guard = Guard(token)
        # One thread works: the others would wait for its lock.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ghosttrain-collect")

    def app(self) -> Starlette:
        """The application."""
        get = ["GET"]
        app = Starlette(
            routes=[
                Route("/", self.index, methods=get),
                Route("/metrics", self.metrics, methods=get),
                Route("/job/metrics", self.job_metrics, methods=get),
                Route("/node/{node:int}/metrics", self.node_metrics, methods=get),
                Route("/sd", self.targets, methods=get),
                Route("/healthz", self.health, methods=get),
                Route("/api/v1/state", self.state, methods=get),
                Route("/api/v1/control", self.control, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _told, GhosttrainError: _refused},
        )
        app.router.redirect_slashes = False
        return app

    async def metrics(self, request: Request) -> Response:
        """All nodes and the job; with a port for each node, that node."""
        if not self._port_per_node:
            return await self._page(request, "all")
        server = request.scope.get("server") or ("", self._port)
        return await self._of_node(request, int(server[1]) - self._port)

    async def job_metrics(self, request: Request) -> Response:
        """The job alone."""
        return await self._page(request, "job")

    async def node_metrics(self, request: Request) -> Response:
        """One node."""
        return await self._of_node(request, request.path_params["node"])

    async def _of_node(self, request: Request, node: int) -> Response:
        nodes = self._collector.live.run.spec.cluster.nodes
        if not 0 <= node < nodes:
            raise HTTPException(404, f"there is no node {node}: there are 0 to {nodes - 1}")
        return await self._page(request, node)

    async def targets(self, request: Request) -> Response:
        """The targets, for Prometheus."""
        now = await self._work(self._collector.collection)
        host, port = self._reached_at(request)
        attempt = int(now.moment.telemetry.attempt[0])
        found = groups(now.run, attempt, host, port, port_per_node=self._port_per_node)
        return JSONResponse(found)

    def _reached_at(self, request: Request) -> tuple[str, int]:
        """Under which name and port whoever asks has found us."""
        try:
            host, port = request.url.hostname or "127.0.0.1", request.url.port or self._port
        except ValueError:  # a Host header that is none
            host, port = "127.0.0.1", self._port
        host = f"[{host}]" if ":" in host else host
        return host, self._port if self._port_per_node else port

    async def health(self, _request: Request) -> Response:
        """That we live."""
        return PlainTextResponse("ok\n")

    async def index(self, _request: Request) -> Response:
        """What there is, for people."""
        now = await self._work(self._collector.collection)
        return HTMLResponse(index_page(now, port=self._port, port_per_node=self._port_per_node))

    async def state(self, _request: Request) -> Response:
        """Where the run is."""
        return _json(self._state(await self._work(self._collector.collection)))

    async def control(self, request: Request) -> Response:
        """Do what is asked, if whoever asks may."""
        refusal = self._guard.refusal(request.headers)
        if refusal is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            raise HTTPException(refusal.status, refusal.why, headers)
        act = action(read_orders(await _body(request)))
        return _json(self._state(await self._work(lambda: self._collector.change(act))))

    async def _page(self, request: Request, part: Part) -> Response:
        accept = ", ".join(request.headers.getlist("accept"))
        packed = wants_gzip(", ".join(request.headers.getlist("accept-encoding")))
        wanted = Wanted(part, wants_openmetrics(accept), packed)
        page = self._collector.ready(wanted)
        if page is None:
            page = await self._work(lambda: self._collector.page(wanted))
        if page is None:
            raise HTTPException(503, f"node {part} is down")
        return PageResponse(page, openmetrics=wanted.openmetrics)

    async def _work(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _state(self, now: Collection) -> dict[str, Any]:
        live, spec = self._collector.live, now.run.spec
        playing = now.moment.playing
        physical = physical_nodes(
            now.run.timeline, spec.cluster.nodes, int(now.moment.telemetry.attempt[0])
        )
        return {
            "simulated": True,
            "model": spec.model.name,
            "gpu": spec.gpu.name,
            "gpus": spec.cluster.gpus,
            "nodes": spec.cluster.nodes,
            "seed": now.run.seed,
            "run": playing.run,
            "start_unix_s": spec.start_unix_s,
            "time_s": playing.time_s,
            "end_s": now.run.end_s,
            "speed": live.speed,
            "paused": live.paused,
            "finished": live.finished,
            "nodes_down": {
                str(node): host_name(spec.cluster, int(physical[node])) for node in now.moment.down
            },
            "gpus_lost": list(now.moment.telemetry.lost[0]),
            "job": now.moment.job,
        }


async def _body(request: Request) -> bytes:
    """The body, if it is not too large."""
    body = b""
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= LARGEST_BODY_BYTES:
                body += part
            elif size > LARGEST_READ_BYTES:
                break
    except ClientDisconnect:
        raise HTTPException(400, "the body is not complete") from None
    if size > LARGEST_BODY_BYTES:
        raise HTTPException(413, f"the body is larger than {LARGEST_BODY_BYTES:,} bytes")
    return body


def _json(value: Any) -> Response:
    return JSONResponse(_plain(value))


def _plain(value: Any) -> Any:
    """`value` in what JSON has: records are objects, what is no number is null."""
    match value:
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case _ if is_dataclass(value):
            return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
        case _:
            return value


async def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {"error": error.detail}
    return JSONResponse(text, error.status_code, dict(error.headers) if error.headers else None)


async def _refused(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)
