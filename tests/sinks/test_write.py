"""``write``: what a flow sends is what its views would hold, each row once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import at, balanced, event, rows, source
from tests.kafka.fixture import Kafka
from tests.query.running import running


def sent(memory: Any) -> list[dict[str, Any]]:
    return [json.loads(row.value) for each in memory.sent.values() for row in each]


def test_rows_are_sent_once_however_often_the_flow_runs(tmp_path: Path) -> None:
    store, events, out = tmp_path / "s.duckdb", mg.memory([event("a", 0, n=1), event("b", 1, n=2)]), mg.memory([])
    flow = mg.Flow("f")
    flow.read(source(events)).filter("n < 10").select("id", twice="n * 2").write(out, name="out")
    mg.run([flow], store)
    assert sent(out) == [{"id": "a", "twice": 2}, {"id": "b", "twice": 4}]
    events.feed(event("c", 2, n=3))
    events.feed(event("d", 3, n=30))
    mg.run([flow], store)
    mg.run([flow], store)
    assert [r["id"] for r in sent(out)] == ["a", "b", "c"]
    assert rows(store, "SELECT count(*) FROM merganser.outbox") == [(0,)]
    assert rows(store, "SELECT sink, seq, sent FROM merganser.sinks") == [("out", 3, 3)]
    assert rows(store, "SELECT sum(read), sum(applied), sum(filtered) FROM merganser.commits WHERE view = 'out'") == [(4, 3, 1)]
    balanced(store)


def test_a_stream_may_be_kept_and_sent(tmp_path: Path) -> None:
    out = mg.memory([])
    flow = mg.Flow("f")
    stream = flow.read(source([event("a", 0), event("a", 0), event("b", 1)])).deduplicate()
    stream.materialize("kept")
    stream.write(out, name="out")
    mg.run([flow], tmp_path / "s.duckdb")
    assert [r["id"] for r in sent(out)] == ["a", "b"]
    assert rows(tmp_path / "s.duckdb", "SELECT id FROM kept ORDER BY id") == [("a",), ("b",)]


def test_windows_are_sent_when_they_are_final(tmp_path: Path) -> None:
    store, events, out = tmp_path / "s.duckdb", mg.memory([event("a", 0), event("b", 30), event("c", 65)]), mg.memory([])
    flow = mg.Flow("f")
    windows = flow.read(source(events)).window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)")
    windows.materialize("per_minute")
    windows.write(out, name="out")
    mg.run([flow], store)
    assert sent(out) == []  # the watermark stands at 55 seconds
    events.feed(event("d", 59))
    events.feed(event("e", 75))
    events.feed(event("f", 200))
    mg.run([flow], store)
    mg.run([flow], store)
    assert [(r["window_start"], r["n"]) for r in sent(out)] == [(at(0), 3), (at(60), 2)]
    assert rows(store, "SELECT count(*) FROM per_minute") == [(3,)]
    assert [(found.view, found.ok, found.rows) for found in verify([flow], store)] == [("per_minute", True, 3), ("out", True, 2)]
    next(iter(out.sent.values())).pop()
    assert [found.ok for found in verify([flow], store)] == [True, False]


def test_a_write_that_is_added_later_sends_everything(tmp_path: Path) -> None:
    store, out = tmp_path / "s.duckdb", mg.memory([])
    flow = mg.Flow("f")
    stream = flow.read(source([event("a", 0), event("b", 1)]))
    stream.materialize("kept")
    mg.run([flow], store)
    stream.write(out, name="out")
    mg.run([flow], store)
    assert [r["id"] for r in sent(out)] == ["a", "b"]


def test_a_write_whose_plan_changed_is_refused(tmp_path: Path) -> None:
    out = mg.memory([])
    for n, expected in ((1, None), (2, "write it under another name")):
        flow = mg.Flow("f")
        flow.read(source([event("a", 0)])).filter(f"n < {n}").write(out, name="out")
        if expected is None:
            mg.run([flow], tmp_path / "s.duckdb")
        else:
            with pytest.raises(mg.PlanChangedError, match=expected):
                mg.run([flow], tmp_path / "s.duckdb")


def test_a_sink_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from merganser.engine import delivery
    from merganser.sinks import SinkAwayError
    from merganser.sinks.memory import MemoryWriter

    away = threading.Event()
    away.set()
    send = MemoryWriter.send

    def sometimes(self: MemoryWriter, rows: Any) -> None:
        if away.is_set():
            raise SinkAwayError("the sink is away")
        send(self, rows)

    monkeypatch.setattr(MemoryWriter, "send", sometimes)
    monkeypatch.setattr(delivery, "PATIENCE", 0.3)
    store, out = tmp_path / "s.duckdb", mg.memory([])
    flow = mg.Flow("f")
    stream = flow.read(source([event("a", 0)]))
    stream.write(out, name="out")
    stream.materialize("kept")
    with pytest.raises(SinkAwayError, match="wait in the outbox for the next run"):
        mg.run([flow], store)
    assert rows(store, "SELECT id FROM kept") == [("a",)]
    assert rows(store, "SELECT sink, seq FROM merganser.outbox") == [("out", 1)]
    away.clear()
    mg.run([flow], store)
    assert [r["id"] for r in sent(out)] == ["a"]


def test_an_older_copy_of_a_store_does_not_send(tmp_path: Path) -> None:
    store, events, out = tmp_path / "s.duckdb", mg.memory([event("a", 0)]), mg.memory([])
    flow = mg.Flow("f")
    flow.read(source(events)).write(out, name="out")
    mg.run([flow], store)
    older = store.read_bytes()
    events.feed(event("b", 1))
    mg.run([flow], store)
    store.write_bytes(older)
    with pytest.raises(mg.StoreError, match="it is an older copy than the one that sent them"):
        mg.run([flow], store)
    assert [r["id"] for r in sent(out)] == ["a", "b"]


def test_from_kafka_to_kafka(kafka: Kafka, tmp_path: Path) -> None:
    source_topic, sink_topic = kafka.topic(2), kafka.topic(2)
    for n in range(40):
        kafka.send(source_topic, {"id": n, "name": f"n{n % 3}"}, partition=n % 2)
    flow = mg.Flow("f")
    events = mg.source("events", mg.kafka(source_topic, brokers=kafka.plain), schema={"id": "BIGINT", "name": "VARCHAR"})
    flow.read(events).filter("id <> 7").write(mg.kafka(sink_topic, brokers=kafka.plain, key="name"))
    mg.run([flow], tmp_path / "s.duckdb")
    found = [(m.key(), json.loads(m.value())) for m in kafka.read(sink_topic)]
    assert sorted(v["id"] for _, v in found) == [n for n in range(40) if n != 7]
    assert all(key == value["name"].encode() for key, value in found)
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


def test_files_that_are_written_can_be_read(tmp_path: Path) -> None:
    flow = mg.Flow("f")
    flow.read(source([event("a", 0), event("b", 1)])).write(mg.files(tmp_path / "out/o-*.jsonl"))
    mg.run([flow], tmp_path / "s.duckdb")
    assert all(check.ok and check.rows == 2 for check in verify([flow], tmp_path / "s.duckdb"))
    again = mg.Flow("g")
    again.read(source(mg.files(tmp_path / "out"))).materialize("v")
    mg.run([again], tmp_path / "t.duckdb")
    assert rows(tmp_path / "t.duckdb", "SELECT id, n FROM v ORDER BY id") == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_run_that_follows_collects_rows_for_its_files(kind: str, tmp_path: Path) -> None:
    events, store, stop = mg.memory([event("a", 0)]), tmp_path / "s.duckdb", threading.Event()
    flow = mg.Flow("f")
    flow.read(source(events)).write(mg.files(tmp_path / f"out/o-*.{kind}"))

    def feed(progressed: Any) -> None:
        def work() -> None:
            for count, name in enumerate("bc", 1):
                wait_until(lambda: progressed.committed == count)  # noqa: B023 # it is asked here and now
                events.feed(event(name, count))
            wait_until(lambda: progressed.committed == 3)
            stop.set()

        threading.Thread(target=work).start()

    mg.run([flow], store, follow=True, epoch=0.01, stop=stop, progress=feed)
    [file] = (tmp_path / "out").iterdir()
    assert "-000000000001-000000000003" in file.name
    assert rows(store, "SELECT count(*) FROM merganser.outbox") == [(0,)]
    assert [check.rows for check in verify([flow], store) if check.ok] == [3]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("sink", "message"), [
    ("out.jsonl", "write\\(\\) takes"), (lambda: mg.files("out/a.jsonl"), "one star"),
    (lambda: mg.files("out/a-*.txt"), "goes by its name"), (lambda: mg.kafka("^a.*", brokers="x:1"), "takes one topic"),
    (lambda: mg.kafka("a", brokers="x:1", key="nope"), "no column 'nope'"),
])  # fmt: skip
def test_what_cannot_be_written_to(sink: Any, message: str) -> None:
    flow = mg.Flow("f")
    stream = flow.read(source([]))
    with pytest.raises(mg.FlowError, match=message) as found:
        stream.write(sink() if callable(sink) else sink, name="out")
    assert "test_write.py" in str(found.value.where)


def test_status_shows_what_was_sent_before_the_next_commit(tmp_path: Path) -> None:
    flow, out, moments = mg.Flow("f"), mg.memory([]), threading.Event()
    flow.read(source([event("a", 0), event("b", 1)])).write(out, name="out")
    with running([flow], tmp_path / "s.duckdb") as views:
        while len(sent(out)) < 2 or views.status()["running"]["sent"] != {"out": 2}:
            moments.wait(0.01)
        assert views.status()["sinks"] == [{"sink": "out", "rows": 2, "sent": 2, "waiting": 0}]
