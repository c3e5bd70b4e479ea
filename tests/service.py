"""A real HTTP service on loopback that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""


def said(value: Any, status: int = 200, **headers: str) -> Reply:
    return status, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(value).encode()


@dataclass
class Service:
    """``reply``: what to answer to a path, asked for the n-th time (from 1)."""

    reply: Callable[[str, int], Reply]
    port: int = 0
    calls: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)
    """Path, headers and moment of each request."""
    most_open: int = 0
    """How many requests were open at once."""
    latency: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.calls]


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    """Answer until the end of the block, at ``service.port`` or at a free one."""
    lock, counts, open_now = threading.Lock(), Counter[str](), 0
    met = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open, as those of real services

        def do_GET(self) -> None:
            nonlocal open_now
            with lock:
                counts[self.path] += 1
                number = counts[self.path]
                open_now += 1
                service.most_open = max(service.most_open, open_now)
                service.calls.append((self.path, dict(self.headers), time.monotonic()))
            met.wait(service.latency)
            status, headers, body = service.reply(self.path, number)
            with lock:
                open_now -= 1
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", service.port), Handler)
    service.port = server.server_port
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        met.set()
        server.shutdown()
        server.server_close()
        thread.join()
