"""What flows of flows/patterns/ need around them: services of the test run, told to them by environment variables."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.patterns.test_shop_events import DATA


@pytest.fixture(autouse=True)
def services(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    path = getattr(request.node, "callspec", None) and request.node.callspec.params.get("path")
    name = getattr(path, "stem", None)
    if name == "outbox":
        monkeypatch.setenv("SHOP_DATABASE", _shop(request.getfixturevalue("postgres").database()))
    if name == "chain":
        kafka = request.getfixturevalue("kafka")
        monkeypatch.setenv("KAFKA_BROKERS", kafka.plain)
        monkeypatch.setenv("PLACED_TOPIC", kafka.topic(2))


def _shop(url: str) -> str:
    """A shop's database, with an outbox of its first events."""
    lines = (DATA / "orders/orders-2025-03-03.jsonl").read_text().splitlines()[:200]
    with psycopg.connect(url) as con:
        con.execute("CREATE TABLE outbox (id bigserial PRIMARY KEY, type text, payload jsonb, created_at timestamptz)")
        for event in map(json.loads, lines):
            row = [event.pop("type"), event.pop("happened_at"), json.dumps(event)]
            con.execute("INSERT INTO outbox (type, created_at, payload) VALUES (%s, %s, %s::jsonb - 'event_id')", row)
    return url
