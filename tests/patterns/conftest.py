"""What flows of flows/patterns/ need around them: services and databases, told to them by environment variables."""

from __future__ import annotations

import json
import runpy
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.kafka.fixture import Kafka
from tests.patterns.shop_events import shop_events
from tests.patterns.test_shop_events import DATA
from tests.postgres import Server as Postgres


@pytest.fixture
def customer_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service of flows/patterns/data/serve_customers.py, on a free port."""
    handler = runpy.run_path(str(DATA / "serve_customers.py"))["Customers"]

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    monkeypatch.setenv("CUSTOMERS_URL", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The shop's event store in the working directory, and the application over it."""
    with shop_events(tmp_path, monkeypatch) as application:
        yield application


@pytest.fixture
def placed_topic(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that the flows of a chain have between them."""
    monkeypatch.setenv("KAFKA_BROKERS", kafka.plain)
    monkeypatch.setenv("PLACED_TOPIC", kafka.topic(2))


@pytest.fixture
def outbox_table(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop's database, with an outbox of its first events."""
    url = postgres.database()
    lines = (DATA / "orders/orders-2025-03-03.jsonl").read_text().splitlines()[:200]
    with psycopg.connect(url) as con:
        con.execute("CREATE TABLE outbox (id bigserial PRIMARY KEY, type text, payload jsonb, created_at timestamptz)")
        for event in map(json.loads, lines):
            row = [event.pop("type"), event.pop("happened_at"), json.dumps(event)]
            con.execute("INSERT INTO outbox (type, created_at, payload) VALUES (%s, %s, %s::jsonb - 'event_id')", row)
    monkeypatch.setenv("SHOP_DATABASE", url)
