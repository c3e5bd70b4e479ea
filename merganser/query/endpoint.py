"""The routes of the endpoint, and what every request must show."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from merganser.errors import QueryError
from merganser.query.caps import LONGEST, SECONDS, Limits
from merganser.query.formats import TEXTS
from merganser.query.metrics import CONTENT_TYPE
from merganser.query.metrics import metrics as exposition
from merganser.query.reading import IN_MEMORY, Answer, Query, StoppingError

if TYPE_CHECKING:
    from merganser.query.server import Server

ARROW = "application/vnd.apache.arrow.stream"
MAX_BODY = 1 << 20
PIECE = 256 << 10
SLOWEST = 30.0
"""Seconds in which a client must take a piece of an answer."""

POLL = 0.02
"""Seconds between looks whether what a client waits for was committed."""


def application(server: Server) -> Starlette:
    """The endpoint of a server."""

    async def query(request: Request) -> Response:
        asked = await _asked(request)
        kind = request.query_params.get("format", "arrow")
        if kind != "arrow" and (kind not in TEXTS or len(asked["sql"]) > 1):
            raise HTTPException(400, f"format={kind}: there are arrow, {', '.join(TEXTS)}; several queries answer in arrow")
        answer = await _unless_gone(request, server, asked["sql"], asked["limits"])
        return await asyncio.get_running_loop().run_in_executor(server.pool, _response, answer, kind)

    async def status(request: Request) -> Response:
        found = await asyncio.get_running_loop().run_in_executor(server.pool, server.status)
        return JSONResponse(found)

    async def wait(request: Request) -> Response:
        until = time.monotonic() + min(_number(request, "timeout", 60.0), 3600.0)
        done = server.live.waiter()
        while not done():
            if time.monotonic() > until or await request.is_disconnected():
                return JSONResponse({"done": False})
            await asyncio.sleep(POLL)
        return JSONResponse({"done": True})

    async def metrics(request: Request) -> Response:
        found = await asyncio.get_running_loop().run_in_executor(server.pool, lambda: exposition(server.status()))
        return Response(found, headers={"Content-Type": CONTENT_TYPE})

    async def health(request: Request) -> Response:
        ready = bool(server.live.figures()["ready"])
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    return Starlette(
        routes=[
            Route("/query", query, methods=["POST"]),
            Route("/status", status),
            Route("/wait", wait),
            Route("/metrics", metrics),
            Route("/health", health),
        ],
        middleware=[Middleware(_Doorman, server=server)],
        exception_handlers={QueryError: _refused, HTTPException: _refused},
    )


class _Doorman:
    """Lets in who has the token, comes by the name of this endpoint, and is no web page."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers, scope["path"])
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"merganser-run", self._server.holder.run.encode()))
            await send(message)

        await self._app(scope, receive, signed)

    def _refusal(self, headers: Headers, path: str) -> Response | None:
        hosts = self._server.hosts
        if hosts is not None and headers.get("host", "").lower() not in hosts:
            # A web page whose name was pointed here (DNS rebinding) comes with that name.
            return _error(421, "this answers to the name 127.0.0.1 only")
        if "origin" in headers:
            return _error(403, "web pages may not ask")
        if path == "/health":
            return None
        given = headers.get("authorization", "").encode()
        if not secrets.compare_digest(given, f"Bearer {self._server.holder.token}".encode()):
            return _error(401, "give the token: 'Authorization: Bearer …', with the token of the file STORE.serve")
        return None


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail)
    return _error(503 if isinstance(error, StoppingError) else 400, str(error))


def _error(code: int, message: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if code == 401 else {}
    return JSONResponse({"error": message}, code, headers)


async def _asked(request: Request) -> dict[str, Any]:
    """The statements and limits of a request."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a query has at most {MAX_BODY:,} bytes")
    try:
        text = body.decode()
        asked = json.loads(text) if "json" in request.headers.get("content-type", "") else {"sql": text}
        sql = asked["sql"]
        statements = [sql] if isinstance(sql, str) else [str(each) for each in sql]
        caps: dict[str, Any] = {name: asked[f"max_{name}"] for name in ("rows", "bytes") if f"max_{name}" in asked}
        caps = {name: None if cap is None else max(0, int(cap)) for name, cap in caps.items()}
        limits = replace(Limits(seconds=min(float(asked.get("timeout", SECONDS)), LONGEST)), **caps)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise HTTPException(400, 'send SQL as text, or JSON such as {"sql": "FROM my_view", "max_rows": 1000}') from None
    if not 1 <= len(statements) <= 64:
        raise HTTPException(400, "send one query, or up to 64 to be answered from one commit")
    return {"sql": statements, "limits": limits}


def _number(request: Request, name: str, default: float) -> float:
    try:
        return float(request.query_params.get(name, default))
    except ValueError:
        raise HTTPException(400, f"{name} is a number of seconds") from None


async def _unless_gone(request: Request, server: Server, statements: list[str], limits: Limits) -> Answer:
    """Run a query in the pool; stop it when whoever asked is no longer there."""
    loop = asyncio.get_running_loop()
    query = await loop.run_in_executor(None, Query, statements, limits)
    running = loop.run_in_executor(server.pool, server.run, query)
    gone = asyncio.create_task(_gone(request))
    try:
        both: tuple[asyncio.Future[Any], ...] = (running, gone)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            query.stop("its client is gone")
        return await running
    except QueryError:
        if gone.done():
            raise ClientDisconnect from None
        raise
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(answer: Answer, kind: str) -> Response:
    headers = {"Merganser-Epoch": str(answer.epoch), "Merganser-Rows": ", ".join(map(str, answer.rows))}
    if any(answer.cut):
        headers["Merganser-Cut"] = json.dumps(answer.cut)
    if kind == "arrow":
        headers["Merganser-Bytes"] = ", ".join(map(str, answer.bytes))
        return _Piecewise(answer.data, ARROW, headers)
    media, write = TEXTS[kind]
    out: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 # closed when it was sent
    with answer.data, pa.ipc.open_stream(answer.data) as rows:
        write(rows.schema, rows, out)
    out.seek(0)
    return _Piecewise(out, media, headers)


class _Piecewise(Response):
    """Sends a file piece by piece, and gives up on a client that does not take them."""

    def __init__(self, data: IO[bytes], media_type: str, headers: dict[str, str]) -> None:
        super().__init__(None, 200, headers, media_type)
        self._data = data
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._data as data:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while piece := data.read(PIECE):
                await asyncio.wait_for(send({"type": "http.response.body", "body": piece, "more_body": True}), SLOWEST)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


