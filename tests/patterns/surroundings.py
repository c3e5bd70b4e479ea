"""What has to be there while some flows of flows/patterns/ run: services, databases."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.patterns.shop_events import shop_events

DATA = Path(__file__).parent.parent.parent / "flows/patterns/data"


@contextmanager
def customer_service(_: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service of flows/patterns/data/serve_customers.py, on a free port."""
    handler = runpy.run_path(str(DATA / "serve_customers.py"))["Customers"]

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    monkeypatch.setenv("CUSTOMERS_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SURROUNDINGS: dict[str, Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[object]]] = {
    "cqrs": shop_events,
    "event_sourcing": shop_events,
    "notification": customer_service,
}
"""By name of a flow: called with an empty folder; sets the environment variables that say where things are."""
