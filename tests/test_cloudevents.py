"""CloudEvents: attributes are columns, source and id name an event, time is its event time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser.errors import FlowError
from merganser.verify import verify
from tests.flows import balanced, rows


def event(id: str, second: int, data: Any, **more: Any) -> dict[str, Any]:
    made = {"specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "time": f"2026-01-01T00:00:{second:02d}Z"}
    return made | {"data": data, "traceparent": f"00-{id}"} | more


EVENTS: list[Any] = [
    event("1", 1, {"customer": "a", "amount": "1.50"}),
    event("2", 2, {"customer": "b", "amount": "2.25", "more": 1}),
    event("1", 3, {"customer": "a", "amount": "1.50"}),  # sent twice
    event("1", 4, {"customer": "c", "amount": "9"}, source="/other"),  # of another source: another event
    event("3", 5, {"customer": "a"}),
    event("4", 6, None),  # no data, and customer is required
    event("5", 7, {"customer": "a", "amount": "1"}, specversion="0.3"),
    event("6", 8, {"customer": "a", "amount": "much"}),
    {k: v for k, v in event("7", 9, {"customer": "a"}).items() if k != "source"},
    {k: v for k, v in event("8", 9, {"customer": "a"}).items() if k != "time"},
]


def test_events_are_taken_out_of_their_envelopes(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(e) + "\n" for e in EVENTS))
    schema = mg.cloudevents({"customer": "VARCHAR NOT NULL", "amount": "DECIMAL(9,2)"})
    events = mg.source("orders", mg.files(tmp_path / "e.jsonl"), schema=schema, lateness="1 minute")
    assert (events.id, events.time) == ("ce_key", "ce_time")
    flow = mg.Flow("f")
    flow.read(events).deduplicate().materialize("kept")
    flow.read(events).deduplicate().window(mg.tumbling("1 minute"), by="customer").aggregate(s="sum(amount)").materialize("sums")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    assert rows(store, "SELECT ce_source, ce_id, customer, amount::VARCHAR, ce_traceparent, ce_key FROM kept ORDER BY ce_time") == [
        ("/shop", "1", "a", "1.50", "00-1", "/shop#1"), ("/shop", "2", "b", "2.25", "00-2", "/shop#2"),
        ("/other", "1", "c", "9.00", "00-1", "/other#1"), ("/shop", "3", "a", None, "00-3", "/shop#3"),
    ]  # fmt: skip
    assert rows(store, "SELECT customer, s::VARCHAR FROM sums ORDER BY customer") == [("a", "1.50"), ("b", "2.25"), ("c", "9.00")]
    assert rows(store, "SELECT seq, reason FROM merganser.dead_letters ORDER BY seq") == [
        (5, "missing field"), (6, "not a cloudevent"), (7, "wrong type"), (8, "missing field"), (9, "no event time")
    ]  # fmt: skip
    balanced(store)
    assert all(check.ok for check in verify([flow], store))


def test_a_batch_is_a_letter_that_says_what_to_do(tmp_path: Path) -> None:
    records = [event("1", 1, {"n": 1}), [event("2", 2, {"n": 2}), event("3", 3, {"n": 3})], [], event("4", 4, {"n": 4})]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    flow = mg.Flow("f")
    flow.read(mg.source("s", mg.files(tmp_path / "e.jsonl"), schema=mg.cloudevents({"n": "INTEGER"}))).materialize("kept")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM kept ORDER BY n") == [(1,), (4,)]
    letters = rows(tmp_path / "s.duckdb", "SELECT seq, reason, detail, raw FROM merganser.dead_letters ORDER BY seq")
    assert [(seq, reason, json.loads(raw)) for seq, reason, _, raw in letters] == [
        (1, "batch of cloudevents", records[1]), (2, "batch of cloudevents", [])
    ]  # fmt: skip
    assert letters[0][2].startswith("the record is a batch of 2 events; one record is one event here: write each by itself")
    balanced(tmp_path / "s.duckdb")


def test_columns_of_the_data_that_the_envelope_has_are_refused() -> None:
    with pytest.raises(FlowError, match="ce_id is a column of the envelope"):
        mg.cloudevents({"ce_id": "VARCHAR"})
