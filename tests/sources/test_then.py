"""Files, then a topic: one log, wherever one stops and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import balanced, event, rows, source
from tests.kafka.fixture import Kafka
from tests.sources.contract import Case, check
from tests.sources.contract import rows as contract_rows


def lines(events: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(e).encode() + b"\n" for e in events)


def make(connector: Any) -> mg.Flow:
    flow = mg.Flow("f")
    once = flow.read(source(connector)).deduplicate()
    once.window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)").materialize("per_minute")
    once.select("id", "n").materialize("kept")
    return flow


EVENTS = [event(str(i % 50), i * 7 - (i % 5) * 9 - (300 if i % 11 == 10 else 0), "ab"[i % 2], i) for i in range(60)]


def test_the_contract_of_sources(kafka: Kafka, tmp_path: Path) -> None:
    topic, every = kafka.topic(), contract_rows(30)
    (tmp_path / "a.jsonl").write_bytes(lines(every[:18]))
    kafka.send(topic, *every[18:])
    check(Case(lambda: mg.files(tmp_path / "a.jsonl").then(mg.kafka(topic, brokers=kafka.plain)), {"log": every}), 1)


def test_the_answer_is_that_of_one_log(kafka: Kafka, tmp_path: Path) -> None:
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    (tmp_path / "a.jsonl").write_bytes(lines(EVENTS[:30]))
    kafka.send(topic, *EVENTS[25:30])  # in the files already: cut over behind them
    flow = make(mg.files(tmp_path / "a.jsonl").then(mg.kafka(topic, brokers=kafka.plain, start={0: 5})))
    mg.run([flow], store, chunk_bytes=500)
    kafka.send(topic, *EVENTS[30:45])
    mg.run([flow], store, chunk_bytes=500)
    kafka.send(topic, *EVENTS[45:])
    mg.run([flow], store)
    one = tmp_path / "one.duckdb"
    (tmp_path / "one.jsonl").write_bytes(lines(EVENTS))
    mg.run([make(mg.files(tmp_path / "one.jsonl"))], one)
    views = ("SELECT * EXCLUDE (final) FROM per_minute", "FROM kept", "SELECT seq FROM merganser.late")
    for sql in (f"{view} ORDER BY ALL" for view in views):
        assert rows(store, sql) == rows(one, sql) != []
    balanced(store)
    assert all(found.ok for found in verify([flow], store))
    flow.read(flow.sources[0]).materialize("later")
    mg.run([flow], store)
    assert rows(store, "SELECT count(*) FROM later") == [(60,)]


def test_what_cannot_be_one_log(kafka: Kafka, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([event("a", 0)]))
    files = mg.files(tmp_path / "a.jsonl")
    with pytest.raises(mg.UsageError, match="has 2 partitions, but files are one log"):
        mg.run([make(files.then(mg.kafka(kafka.topic(2), brokers=kafka.plain)))], tmp_path / "s.duckdb")
    with pytest.raises(mg.FlowError, match="only files that are one log"):
        mg.files(tmp_path / "a.jsonl", partition_by="file").then(mg.kafka("t", brokers="x:1"))
    with pytest.raises(mg.FlowError, match="then\\(\\) takes"):
        files.then(mg.memory([]))
