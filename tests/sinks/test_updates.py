"""``write(emit="updates")``: what a commit changed in a table, so that whoever adds it up has the table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import at, balanced, event, one_by_one, rows, source
from tests.kafka.fixture import Kafka

EVENTS = [event(f"e{i}", t, "ab"[i % 2], i % 3) for i, t in enumerate([0, 1, 5, 30, 3, 61, 12, 200, 202, 204, 195, 260])]


def _tables(read: mg.Stream) -> dict[str, mg.Stream]:
    return {
        "windows": read.window(mg.tumbling("10 seconds"), by="key").aggregate(n="count(*)"),
        "corrected": read.window(mg.tumbling("10 seconds"), by="key", late="update").aggregate(n="count(*)", d="count(DISTINCT n)"),
        "sessions": read.window(mg.session("8 seconds"), by="key").aggregate(n="count(*)"),
        "groups": read.group_by("key").aggregate(n="count(*)", total="sum(n)"),
        "everything": read.group_by().aggregate(n="count(*)"),
        "newest": read.latest(by="key"),
        "folded": read.fold(by="key", initial=0, apply=lambda state, e: state + 1),
    }


def _sent(memory: Any) -> list[dict[str, Any]]:
    return [json.loads(row.value) for each in memory.sent.values() for row in each]


@pytest.mark.parametrize("cut", ["at once", "one by one"])
@pytest.mark.parametrize("table", list(_tables(mg.Flow("f").read(source([])))))
def test_updates_add_up_to_the_table(table: str, cut: str, tmp_path: Path) -> None:
    store, connector, out = tmp_path / "s.duckdb", mg.memory({"0": EVENTS if cut == "at once" else []}), mg.memory([])
    flow = mg.Flow("f")
    stream = _tables(flow.read(source(connector)))[table]
    stream.materialize("v")
    stream.write(out, name="out", emit="updates")
    if cut == "at once":
        mg.run([flow], store)
    else:
        one_by_one(flow, connector, EVENTS, store)
    left: Counter[str] = Counter()
    for row in _sent(out):
        retracted = row.pop("retracted")
        left[json.dumps(row)] += -1 if retracted else 1
        assert left[json.dumps(row)] >= 0, "what is retracted was sent before"
    shown = "v" if table in ("groups", "everything", "newest", "folded") else "(SELECT * EXCLUDE (final) FROM v)"
    kept = Counter(json.dumps(json.loads(text)) for (text,) in rows(store, f"SELECT to_json(t)::VARCHAR FROM {shown} t"))
    assert +left == kept and kept
    if cut == "at once":
        assert not any(row["retracted"] for row in _sent(out))
    balanced(store)
    assert [(check.view, check.ok) for check in verify([flow], store)] == [("v", True), ("out", True)]


def test_a_closed_window_is_not_sent_again(tmp_path: Path) -> None:
    connector, out = mg.memory({"0": []}), mg.memory([])
    flow = mg.Flow("f")
    windows = flow.read(source(connector)).window(mg.tumbling("10 seconds"), by="key").aggregate(n="count(*)")
    windows.write(out, name="out", emit="updates")
    one_by_one(flow, connector, [event("1", 0), event("2", 5), event("3", 100), event("4", 101)], tmp_path / "s.duckdb")
    found = [(row["window_start"], row["n"], row["retracted"]) for row in _sent(out)]
    first, second = at(0), at(100)
    assert found == [
        (first, 1, False), (first, 1, True), (first, 2, False), (second, 1, False), (second, 1, True), (second, 2, False),
    ]  # fmt: skip


def test_a_topic_with_the_tables_key_has_the_last_row_of_each(kafka: Kafka, tmp_path: Path) -> None:
    connector, topic = mg.memory([event("1", 0, "a", 1), event("2", 1, "b", 2)]), kafka.topic(1)
    flow = mg.Flow("f")
    newest = flow.read(source(connector)).select("id", "key", "n").latest(by="key")
    newest.write(mg.kafka(topic, brokers=kafka.plain, key="key"), name="out", emit="updates")
    mg.run([flow], tmp_path / "s.duckdb")
    connector.feed(event("3", 2, "a", 3))
    connector.feed({"id": "4", "at": at(3), "key": "b", "n": None})  # a tombstone for b
    mg.run([flow], tmp_path / "s.duckdb")
    found = [(m.key(), m.value() and json.loads(m.value())) for m in kafka.read(topic)]
    assert sorted(found[:2]) == [(b"a", {"id": "1", "key": "a", "n": 1}), (b"b", {"id": "2", "key": "b", "n": 2})]
    assert dict(found[2:]) == {b"a": {"id": "3", "key": "a", "n": 3}, b"b": None}
    assert [check.ok for check in verify([flow], tmp_path / "s.duckdb")] == [True]
    # A row stands where its key's tombstone was, as if that had never been sent.
    [tombstone] = [m for m in kafka.read(topic) if m.value() is None]
    kafka.send(topic, {"id": "2", "key": "b", "n": 2}, key=b"b", headers=tombstone.headers())
    [check] = verify([flow], tmp_path / "s.duckdb")
    assert check.unexpected.to_pylist() == [{"id": "2", "key": "b", "n": 2}] and not len(check.missing)


def test_what_does_not_change_has_no_updates() -> None:
    read = mg.Flow("f").read(source([]))
    with pytest.raises(mg.FlowError, match="is for tables"):
        read.write(mg.memory([]), emit="updates")
    with pytest.raises(mg.FlowError, match="'final' and 'updates'"):
        read.write(mg.memory([]), emit="all")
    with pytest.raises(mg.FlowError, match="emit='updates'"):
        read.latest(by="key").write(mg.memory([]))
