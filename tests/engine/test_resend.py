"""What a redrive sends: sinks get the rows that they lack, each once and behind what they had, and what is too much is counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser import dead_letters, engine, faults
from merganser.dead_letters import Selection
from merganser.errors import UsageError
from merganser.sources.memory import Memory
from merganser.store import Store
from merganser.verify import verify
from tests.crash.harness import KILLED, child
from tests.engine.test_redrive import fix, letters
from tests.flows import event, rows, source
from tests.kafka.fixture import Kafka

ADDED = ("rows", "parts")
"""Sinks to which a record that comes back can only add."""
CHANGED = ("groups", "last", "minutes_now", "states")
"""Sinks of what changes in a table: what was sent is taken back."""
OTHERS = ("once", "minutes", "sessions", "numbered", "pairs", "as_of", "said")
SINKS = (*ADDED, *CHANGED, *OTHERS)


def total(state: int, seen: dict[str, Any]) -> int:
    return state + seen["n"]


def each_third(state: int, seen: dict[str, Any]) -> Any:
    return state + 1, [{"what": f"{state} {seen['id']}"}] if state % 3 == 0 else []


def make_flow(events: Any, sinks: dict[str, Memory]) -> mg.Flow:
    flow = mg.Flow("f")
    read = flow.read(source(events, schema={**KIND, "tags": "VARCHAR[]"}, lateness="20 seconds"))
    once = read.deduplicate(within="1 minute")
    per_minute = once.window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)", s="sum(n)", mean="avg(n * 0.1::DOUBLE)")
    small = once.filter("n % 3 = 0").select("id", "key", "n")
    ordered = once.select("id", "key", "n").order(by="key")
    said = once.process(by="key", initial=0, apply=each_third, emits={"what": "VARCHAR"})
    streams = {
        "rows": read.filter("n % 5 <> 0").select("id", twice="2 * n"), "parts": read.explode("tags").select("id", "tags"),
        "once": once.select("id", "n"), "minutes": per_minute, "numbered": ordered, "said": said.emitted,
        "sessions": once.window(mg.session("4 seconds"), by="key").aggregate(n="count(*)"),
        "pairs": once.select("id", "key").join(small, on="key", within="2 seconds", how="left"),
        "as_of": once.select("id", "key").enrich(small, on="key", as_of=True),
        "groups": read.group_by("key").aggregate(n="count(*)", s="sum(n)"), "last": read.latest(),
        "minutes_now": once.window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)", s="sum(n)"),
        "states": ordered.fold(by="key", initial=0, apply=total),
    }  # fmt: skip
    for name, stream in streams.items():
        stream.write(sinks[name], name=name, **({"emit": "updates"} if name in CHANGED else {}))
    return flow


KIND = {"id": "VARCHAR", "at": "TIMESTAMP", "key": "VARCHAR", "n": "BIGINT"}


def some_events(seed: int) -> list[dict[str, Any]]:
    """Out of order, late, repeated; some far ahead, so that a mended one moves the watermark for those behind it."""
    chance = random.Random(seed)
    return [
        event(f"e{chance.randrange(200)}", max(0, i * 2 + chance.choice([0, 0, 0, -15, -40, 30])), key=chance.choice("abc"), n=i,
              tags=[chance.choice("xyz") for _ in range(chance.randrange(3))])
        for i in range(240)
    ]  # fmt: skip


def bag(memory: Memory) -> Counter[str]:
    """What was sent, with what was taken back counted off."""
    found: Counter[str] = Counter()
    for row in [row for sent in memory.sent.values() for row in sent]:
        value = json.loads(row.value)
        sign = -1 if value.pop("retracted", False) else 1
        value = {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in value.items()}
        found[json.dumps(value, sort_keys=True)] += sign
    assert min(found.values(), default=0) >= 0
    return +found


def empty() -> dict[str, Memory]:
    return {name: mg.memory([]) for name in SINKS}


@pytest.mark.parametrize("seed", range(2))
def test_sinks_have_what_they_would_have_been_sent(tmp_path: Path, seed: int) -> None:
    events = some_events(seed)
    chance = random.Random(seed)
    bad = {i: json.dumps(e).replace('"n"', '"m').encode() for i, e in enumerate(events) if chance.random() < 0.1}
    both, whole, store = Memory({"0": [], "1": []}), Memory({"0": [], "1": []}), tmp_path / "mixed.duckdb"
    mixed, good = empty(), empty()
    flow = make_flow(both, mixed)
    for i, e in enumerate(events):
        both.feed(bad.get(i, e), "01"[i % 2])
        whole.feed(e, "01"[i % 2])
        if i in (100, 199):
            mg.run([flow], store)  # what comes after the last is first read by the redrive
    before = {name: [row for sent in memory.sent.values() for row in sent] for name, memory in mixed.items()}
    assert fix(store, "replace(text, '\"m', '\"n\"')") == sum(i < 200 for i in bad)
    told: list[str] = []
    half = engine.redrive([flow], Selection(where="seq % 2 = 0"), store, tell=told.append)
    assert half is not None and not half.dead and half.applied and len(told) == len(SINKS)
    rest = engine.redrive([flow], Selection(), store)
    assert rest is not None and rows(store, "SELECT count(*) FROM merganser.outbox") == [(0,)]
    if letters(store):  # those that the first redrive read, beyond what had been read
        fix(store, "replace(text, '\"m', '\"n\"')")
        assert not engine.redrive([flow], Selection(), store).dead  # type: ignore[union-attr] # not stopped
    for memory in (both, whole):
        memory.feed(event("later", 1000), "0")
        memory.feed(event("later still", 1100), "1")
    mg.run([flow], store)
    mg.run([make_flow(whole, good)], tmp_path / "good.duckdb")
    checks = {check.view: check for check in verify([flow], store)}
    for name in SINKS:
        sent = [row for each in mixed[name].sent.values() for row in each]
        assert sent[: len(before[name])] == before[name] and [row.seq for row in sent] == list(range(1, len(sent) + 1))
        assert not bag(good[name]) - bag(mixed[name]), name  # nothing is lost
        stale = bag(mixed[name]) - bag(good[name])
        assert sum(stale.values()) == len(checks[name].unexpected) and not len(checks[name].missing), name
        if name in ADDED + CHANGED:
            assert not stale, name
    once = Counter(json.loads(row.value)["id"] for sent in mixed["once"].sent.values() for row in sent)
    assert sum(bag(mixed["once"]).values()) <= sum(once.values())


def run_once(tmp_path: Path, events: Any, *writes: Any, name: str = "s") -> tuple[mg.Flow, Path]:
    """A flow of one or more sinks over events of which some are bad; it is run, and its letters are mended to ``m``."""
    store, flow = tmp_path / f"{name}.duckdb", mg.Flow("f")
    for write in writes:
        write(flow.read(source(events)))
    mg.run([flow], store)
    fix(store, f"'{json.dumps(event('m', 2, 'b', 7))}'")
    return flow, store


def values(memory: Memory) -> list[dict[str, Any]]:
    return [json.loads(row.value) for sent in memory.sent.values() for row in sent]


def test_a_flow_of_sinks_alone_is_redriven_too(tmp_path: Path) -> None:
    out, told = mg.memory([]), list[str]()
    flow, store = run_once(
        tmp_path, mg.memory([event("a", 1), b"{", event("b", 3)]), lambda read: read.select("id").write(out, name="out")
    )
    done = engine.redrive([flow], Selection(), store, tell=told.append)
    assert done is not None and (done.applied, done.views) == (1, []) and [(s.rows, s.stale) for s in done.sinks] == [(1, 0)]
    assert told == ["out is sent what comes back, behind what was sent"]
    assert [row["id"] for row in values(out)] == ["a", "b", "m"] and all(check.ok for check in verify([flow], store))


def test_what_was_sent_and_would_be_otherwise_is_counted(tmp_path: Path) -> None:
    out = mg.memory([])
    events = mg.memory([event("a", 1, "b"), b"{", event("b", 200, "b")])
    flow, store = run_once(
        tmp_path, events,
        lambda read: read.window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)").write(out, name="out"),
    )  # fmt: skip
    assert [row["n"] for row in values(out)] == [1]
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and [(s.sink, s.rows, s.stale) for s in done.sinks] == [("out", 1, 1)]
    assert [row["n"] for row in values(out)] == [1, 2]
    [check] = verify([flow], store)
    assert [row["n"] for row in check.unexpected.to_pylist()] == [1] and not len(check.missing)


def test_a_row_that_the_schema_cannot_hold_stays_a_letter(tmp_path: Path) -> None:
    out = mg.memory([])
    flow, store = run_once(
        tmp_path, mg.memory([event("a", 1, n=1), b"{", event("b", 3, n=8)]),
        lambda read: read.select("id", "n").write(out, name="out", schema={"id": "VARCHAR", "n": "TINYINT NOT NULL"}),
    )  # fmt: skip
    fix(store, f"'{json.dumps(event('m', 2, n=1000))}'")
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and done.applied == 0 and [s.rows for s in done.sinks] == [0]
    [letter] = letters(store)
    assert (letter.view, letter.attempts) == ("out", 1)
    fix(store, f"'{json.dumps(event('m', 2, n=100))}'")
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and done.applied == 1 and [row["id"] for row in values(out)] == ["a", "b", "m"]
    assert not letters(store) and all(check.ok for check in verify([flow], store))


@pytest.mark.parametrize("name", ["out-*.parquet", "out-*.avro", "out-*.jsonl"])
def test_files_get_the_rows_in_files_of_their_own(tmp_path: Path, name: str) -> None:
    flow, store = run_once(
        tmp_path, mg.memory([event("a", 1), b"{", event("b", 3)]),
        lambda read: read.select("id", "n").write(mg.files(tmp_path / "out" / name), name="out"),
    )  # fmt: skip
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert engine.redrive([flow], Selection(), store) is not None
    after = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(after) == len(before) + 1 and before.items() <= after.items() and not list(tmp_path.glob("*.redrive*"))
    assert all(check.ok for check in verify([flow], store))


def test_a_sink_that_cannot_be_written_to_gets_its_rows_from_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flow, store = run_once(
        tmp_path, mg.memory([event("a", 1), b"{", event("b", 3)]),
        lambda read: read.select("id").write(mg.files(out / "out-*.jsonl"), name="out"),
    )  # fmt: skip
    out.rename(tmp_path / "aside")
    out.write_text("no folder")
    with pytest.raises(mg.StoreError, match="cannot write to"):
        engine.redrive([flow], Selection(), store)
    assert not letters(store) and rows(store, "SELECT seq FROM merganser.outbox") == [(3,)]
    out.unlink()
    (tmp_path / "aside").rename(out)
    mg.run([flow], store)
    lines = [line for path in sorted(out.iterdir()) for line in path.read_text().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "m"] and all(check.ok for check in verify([flow], store))


def test_a_sink_with_columns_that_its_source_gained_is_left(tmp_path: Path) -> None:
    events, told = mg.memory([event("a", 1, more=1), b"{"]), list[str]()
    whole, counts = mg.memory([]), mg.memory([])

    def make(**more: str) -> mg.Flow:
        flow = mg.Flow("f")
        read = flow.read(source(events, schema={**KIND, **more}))
        read.materialize("kept")
        read.write(whole, name="whole")
        read.group_by("key").aggregate(n="count(*)").write(counts, name="counts", emit="updates")
        return flow

    store = tmp_path / "s.duckdb"
    mg.run([make()], store)
    mg.run([make(more="INTEGER")], store)
    fix(store, f"'{json.dumps(event('m', 2))}'")
    done = engine.redrive([make(more="INTEGER")], Selection(), store, tell=told.append)
    assert done is not None and [(s.sink, s.rows) for s in done.sinks] == [("counts", 2)] and len(values(whole)) == 1
    assert told == [
        "counts is sent what changes in its table", "whole is sent nothing: its source gained more while it was being sent",
    ]  # fmt: skip
    assert all(check.ok for check in verify([make(more="INTEGER")], store))


def test_a_late_partition_has_the_floor_that_it_had(tmp_path: Path) -> None:
    """What it was late for when it was found stays late: the windows were sent, and must not be sent again."""
    events, out = Memory({"0": [b"{", json.dumps(event("a", 1)).encode(), json.dumps(event("b", 500)).encode()]}), mg.memory([])
    flow, store = run_once(
        tmp_path, events, lambda read: read.window(mg.tumbling("1 minute")).aggregate(n="count(*)").write(out, name="out")
    )
    events.feed(event("c", 3), "late")
    events.feed(event("d", 505), "late")
    mg.run([flow], store)
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and [(s.rows, s.stale) for s in done.sinks] == [(1, 1)]
    for partition in ("0", "late"):
        events.feed(event(f"e{partition}", 1000), partition)
    mg.run([flow], store)
    assert [row["n"] for row in values(out)] == [1, 2, 2]


def test_a_row_that_had_no_answer_is_sent_once_when_it_has_one(tmp_path: Path) -> None:
    out, store, known = mg.memory([]), tmp_path / "s.duckdb", {"k": 1, "other": 2}

    def size(key: str) -> dict[str, int]:
        return {"size": known[key]}

    events = mg.memory([event("a", 1), b"{", event("b", 2, "new"), event("b", 3, "other"), event("c", 200, "new")])
    flow = mg.Flow("f")
    fetched = flow.read(source(events)).fetch(size, key="key", schema={"size": "INTEGER"}, cache="1 minute")
    fetched.deduplicate(within="1 minute").select("id", "key").write(out, name="out")
    mg.run([flow], store)
    assert [(row["id"], row["key"]) for row in values(out)] == [("a", "k"), ("b", "other")]
    known["new"] = 3
    fix(store, f"'{json.dumps(event('m', 2))}'", reason="not json")
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and not done.dead and [(s.rows, s.stale) for s in done.sinks] == [(3, 1)]
    sent = [(row["id"], row["key"]) for row in values(out)]
    assert sent == [("a", "k"), ("b", "other"), ("m", "k"), ("b", "new"), ("c", "new")] and not letters(store)
    [check] = verify([flow], store)
    assert [row["key"] for row in check.unexpected.to_pylist()] == ["other"] and not len(check.missing)


def test_a_sink_whose_past_is_not_known_is_left_and_named(tmp_path: Path) -> None:
    out, told, store, flow = mg.memory([]), list[str](), tmp_path / "s.duckdb", mg.Flow("f")

    def inverse(state: float, seen: dict[str, Any]) -> float:
        return state + 1 / seen["n"]

    events = mg.memory([event("a", 1), event("b", 2, n=0), b"{", event("c", 100)])
    read = flow.read(source(events))
    read.materialize("kept")
    read.order(by="key").fold(by="key", initial=0.0, apply=inverse).write(out, name="out", emit="updates")
    mg.run([flow], store)
    events.feed(event("d", 200))
    with Store(store) as opened:
        assert engine.discard(opened, Selection(reason="not folded")) == 1
    mg.run([flow], store)
    before = values(out)
    fix(store, f"'{json.dumps(event('m', 2))}'")
    done = engine.redrive([flow], Selection(reason="not json"), store, tell=told.append)
    assert done is not None and not done.sinks and values(out) == before
    assert told == ["out is sent nothing: a key that waited (not folded) was told to go on"]
    assert [check.ok for check in verify([flow], store)] == [True, True]


def test_a_log_that_has_lost_its_beginning_is_not_redriven(kafka: Kafka, tmp_path: Path) -> None:
    from confluent_kafka import TopicPartition

    topic, out = kafka.topic(), mg.memory([])
    kafka.send(topic, event("a", 1), b"{", event("b", 3))
    flow, store = run_once(
        tmp_path, mg.kafka(topic, brokers=kafka.plain), lambda read: read.group_by("key").aggregate(n="count(*)").write(
            out, name="out", emit="updates")
    )  # fmt: skip
    kafka.admin.delete_records([TopicPartition(topic, 0, 1)])[TopicPartition(topic, 0, 1)].result(20)
    with pytest.raises(mg.SourceError, match="offset"):
        engine.redrive([flow], Selection(), store)
    assert len(letters(store)) == 1 and len(values(out)) == 1
    mg.run([flow], store)
    assert all(row["n"] == 2 for row in values(out))


def test_a_file_that_is_gone_is_missed_before_anything_changes(tmp_path: Path) -> None:
    for name, lines in (("a", [event("a", 1), b"{"]), ("b", [event("b", 2)])):
        text = b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
        (tmp_path / f"{name}.jsonl").write_bytes(text)
    out = mg.memory([])
    files = mg.files(tmp_path / "*.jsonl", partition_by="file")
    flow, store = run_once(tmp_path, files, lambda read: read.write(out, name="out"))
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UsageError, match=r"ends at record 0 in partition '.*b.jsonl', and 1 were read of it; nothing has"):
        engine.redrive([flow], Selection(), store)
    assert len(letters(store)) == 1 and len(values(out)) == 2


# -- crashes ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    brokers: str
    log: str
    out: str
    folder: str
    redrives: bool = False
    fault: tuple[str, int] | None = None


def sinks_flow(job: Job) -> mg.Flow:
    """Two topics and two sets of files: rows as they come, and of each key the newest."""
    flow = mg.Flow("f")
    read = flow.read(source(mg.kafka(job.log, brokers=job.brokers, columns={"o": "offset"}), lateness="20 seconds"))
    read.materialize("kept")
    read.select("id", "key", "n", "o").write(mg.kafka(job.out, brokers=job.brokers, key="key"), name="topic")
    read.deduplicate(within="1 minute").select("id", "n").write(mg.files(f"{job.folder}/once-*.jsonl"), name="files")
    newest = read.latest()
    newest.write(mg.kafka(f"{job.out}-newest", brokers=job.brokers, key="key"), name="newest", emit="updates")
    read.group_by("key").aggregate(n="count(*)").write(mg.files(f"{job.folder}/groups-*.jsonl"), name="groups", emit="updates")
    return flow


def work(job: Job) -> None:
    if job.fault:
        faults.arm(*job.fault)
    store = f"{job.folder}/s.duckdb"
    if not job.redrives:
        mg.run([sinks_flow(job)], store, epoch=0)
    else:
        with Store(store) as opened:
            dead_letters.fix_by_sql(opened, Selection(), "replace(text, '\"m', '\"n\"')")
        engine.redrive([sinks_flow(job)], Selection(), store, epoch=0)


@pytest.mark.crash
@pytest.mark.parametrize(("point", "count"), [
    ("step.write", 3), ("epoch.begin", 2), ("redrive.before", 1), ("redrive.after", 1), ("sink.before", 1), ("sink.within", 1),
    ("sink.within", 2), ("sink.after", 3),
])  # fmt: skip
def test_a_redrive_that_is_killed_loses_and_doubles_no_row(kafka: Kafka, tmp_path: Path, point: str, count: int) -> None:
    events = [event(f"e{i}", 2 * i, key="abc"[i % 3], n=i) for i in range(60)]
    log, out = kafka.topic(), kafka.topic(2)
    kafka.topic(2, f"{out}-newest")
    bad = range(5, 60, 9)
    kafka.send(log, *(json.dumps(e).replace('"n"', '"m').encode() if i in bad else e for i, e in enumerate(events)))
    job = Job(kafka.plain, log, out, str(tmp_path))
    store, flow = tmp_path / "s.duckdb", sinks_flow(job)
    assert child(work, job) == 0
    first = len(kafka.read(out))
    again = replace(job, redrives=True)
    assert child(work, replace(again, fault=(point, count))) == KILLED
    assert child(work, again if letters(store) else job) == 0
    assert not letters(store) and all(check.ok for check in verify([flow], store))
    messages = kafka.read(out)
    sent = [json.loads(message.value()) for message in messages]
    assert sorted(row["id"] for row in sent) == sorted(e["id"] for e in events)
    numbers = [int(dict(message.headers())["merganser-seq"]) for message in messages]
    assert sorted(numbers) == list(range(1, len(events) + 1))
    by_number = [row["o"] for _, row in sorted(zip(numbers, sent), key=lambda pair: pair[0])]
    assert by_number[:first] == sorted(by_number[:first]) and by_number[first:] == list(bad)  # in order, behind what was sent
    newest = {message.key(): json.loads(message.value())["id"] for message in kafka.read(f"{out}-newest")}
    assert newest == {b"a": "e57", b"b": "e58", b"c": "e59"}
    written = [json.loads(line) for path in sorted(tmp_path.glob("once-*.jsonl")) for line in path.read_text().splitlines()]
    assert sorted(row["n"] for row in written) == list(range(60))
