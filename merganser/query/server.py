"""The endpoint of a running flow: HTTP on 127.0.0.1, from a thread of the process that holds the store.

``POST /query`` (SQL, or JSON with ``sql``: one statement or several of one commit), ``GET /status``, ``/wait``, ``/metrics``,
``/health``. Nothing but ``/health`` answers without the bearer token of the sidecar file. Queries run on cursors of the
store's own DuckDB instance: they see one commit, and the committer never waits for them.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from merganser.errors import UsageError
from merganser.query import sidecar
from merganser.query.caps import Limits
from merganser.query.reading import Answer, Query, Warden
from merganser.query.sidecar import Holder
from merganser.query.status import Live, Status, status
from merganser.scratch import lower_priority

if TYPE_CHECKING:
    from uvicorn import Server as Uvicorn

LOOPBACK = ("127.0.0.1", "localhost", "::1")

AT_ONCE = 2
"""Queries that run at the same time; others wait for their turn."""

NICE = 5
"""The niceness of a thread that answers a query (Linux): of a processor that the flow wants it gets a quarter."""

TOKEN = "MERGANSER_TOKEN"
"""The environment variable with the token that is to be used instead of a new one."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to answer; port 0: any that is free."""

    host: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """``8080``, ``host:8080`` or ``[::1]:8080``."""
        host, _, port = text.rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            raise UsageError(f"{text!r} is no address; write a port, or host:port, such as 127.0.0.1:8080")
        return cls(host.strip("[]") or "127.0.0.1", int(port))


class Server:
    """Answers for one store while a flow runs on it. ``start``, then ``stop``."""

    def __init__(self, store: Path, con: duckdb.DuckDBPyConnection, live: Live, address: Address | None = None) -> None:
        """``con``: a connection to the store's instance, of which cursors are made."""
        self.store, self.live = store, live
        self._con = con.cursor()
        self._address = address or Address()
        token = os.environ.get(TOKEN)
        if self._address.host not in LOOPBACK and not token:
            raise UsageError(
                f"whoever reaches {self._address.host}:{self._address.port} could read the views, so it needs a token that you"
                f" know: set {TOKEN} to one of 32 characters or more, or serve on 127.0.0.1. (What goes over the network"
                " is not encrypted: put a proxy with TLS before it.)"
            )
        if token is not None and len(token) < 32:
            raise UsageError(f"{TOKEN} has {len(token)} characters; a token that cannot be guessed has 32 or more")
        self._socket = self._bound()
        host, port = self._socket.getsockname()[:2]
        at = f"[{host}]" if ":" in host else host
        self.holder = Holder(f"http://{at}:{port}", token or secrets.token_urlsafe(32), os.getpid(), secrets.token_hex(8))
        self.hosts = {f"{name}:{port}" for name in (*LOOPBACK, "[::1]")} if self._address.host in LOOPBACK else None
        self._wake, self._woken = socket.socketpair()
        self._warden: Warden | None = None
        self._uvicorn: Uvicorn | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="merganser-server", daemon=True)
        self.pool = ThreadPoolExecutor(AT_ONCE, "merganser-answer")

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address.host else socket.AF_INET
        # With its protocol, or asyncio leaves out TCP_NODELAY, and each answer on a kept connection waits for 40 ms.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._address.host, self._address.port))
            bound.listen(128)
        except OSError as error:
            bound.close()
            where = f"{self._address.host}:{self._address.port}"
            raise UsageError(f"cannot answer queries at {where}: {error.strerror}; give another --serve, or --no-serve") from None
        return bound

    def start(self) -> None:
        sidecar.write(self.store, self.holder)
        self._thread.start()

    def stop(self) -> None:
        """Take no further query, stop those that run, and wait for that."""
        sidecar.remove(self.store, self.holder)
        self._stopping.set()
        self._wake.send(b"x")
        if self._warden is not None:
            self._warden.close()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
        self._thread.join()
        self.pool.shutdown()
        for each in (self._socket, self._wake, self._woken):
            each.close()
        self._con.close()

    def _serve(self) -> None:
        # A flow that nobody asks does not even load the server.
        select.select([self._socket, self._woken], [], [])
        if self._stopping.is_set():
            return
        import uvicorn

        from merganser.query.endpoint import application

        self._warden = Warden(Path(f"{self.store}.tmp"))
        config = uvicorn.Config(
            application(self), log_config=None, log_level="critical", access_log=False, lifespan="off", ws="none",
            http="h11", loop="asyncio", server_header=False, limit_concurrency=64, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._uvicorn = uvicorn.Server(config)
        if not self._stopping.is_set():
            self._uvicorn.run(sockets=[self._socket])

    # -- what it answers, from a thread of the pool ---------------------------------------------------------------

    def run(self, query: Query) -> Answer:
        assert self._warden is not None
        # In a thread of its own, since a priority can only be lowered: of a long query it is lowered further.
        with (
            self._warden.watching(query),
            ThreadPoolExecutor(1, "merganser-query", initializer=lower_priority, initargs=(NICE,)) as own,
        ):
            return own.submit(query.run, self._con, shared=True).result()

    def status(self) -> Status:
        def read(statements: Sequence[str]) -> list[pa.Table]:
            answer = self.run(Query(statements, Limits()))
            with answer.data:
                return [pa.ipc.open_stream(answer.data).read_all() for _ in statements]

        return status(read, str(self.store), self.live)

