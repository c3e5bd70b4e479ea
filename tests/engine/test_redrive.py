"""Dead letters come back: after a redrive the views are as if the records had never been bad, whatever the format."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

import merganser as mg
from merganser import dead_letters, engine, faults
from merganser.dead_letters import Selection
from merganser.errors import UsageError
from merganser.schema import Schema
from merganser.scratch import scratch
from merganser.sources.memory import Memory
from merganser.store import Store
from merganser.verify import verify
from tests.flows import balanced, event, rows, source

VIEWS = ("kept", "once", "per_minute", "last")


def make_flow(events: Any, **more: Any) -> mg.Flow:
    """Everything that a record coming back could disturb: order, duplicates, lateness, the last row of a key."""
    flow = mg.Flow("f")
    read = flow.read(source(events, lateness="20 seconds", **more))
    read.materialize("kept")
    once = read.deduplicate(within="1 minute")
    once.materialize("once")
    once.window(mg.tumbling("1 minute"), by="key").aggregate(n="count(*)", s="sum(n)").materialize("per_minute")
    read.latest().materialize("last")
    return flow


def contents(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {view: sorted(rows(store, f"SELECT * FROM {view}"), key=repr) for view in VIEWS}


def fix(store: Path, sql: str, **selection: Any) -> int:
    with Store(store) as opened:
        return len(dead_letters.fix_by_sql(opened, Selection(**selection), sql))


def letters(store: Path) -> list[dead_letters.Letter]:
    with Store(store, read_only=True) as opened:
        return dead_letters.select(opened, Selection())


def some_events(seed: int) -> list[dict[str, Any]]:
    """Out of order, late, repeated; some far ahead, so that a mended one moves the watermark for those behind it."""
    chance = random.Random(seed)
    events = []
    for i in range(200):
        seconds = i * 2 + chance.choice([0, 0, 0, -15, -40, 30])
        events.append(event(f"e{chance.randrange(150)}", max(0, seconds), key=chance.choice("abc"), n=i))
    return events


@pytest.mark.parametrize("seed", range(3))
def test_the_views_are_as_if_the_records_had_never_been_bad(tmp_path: Path, seed: int) -> None:
    events = some_events(seed)
    chance = random.Random(seed)
    bad = {i: json.dumps(e).replace('"n"', '"m') .encode() for i, e in enumerate(events) if chance.random() < 0.15}
    good, mixed, both = tmp_path / "good.duckdb", tmp_path / "mixed.duckdb", Memory({"0": [], "1": []})
    whole = mg.memory({"0": events[:120], "1": events[120:]})
    mg.run([make_flow(whole)], good)
    for i, e in enumerate(events):
        both.feed(bad.get(i, e), "0" if i < 120 else "1")
    flow = make_flow(both)
    mg.run([flow], mixed)
    assert len(letters(mixed)) == len(bad) > 10 and contents(mixed) != contents(good)
    assert fix(mixed, "replace(text, '\"m', '\"n\"')") == len(bad)
    half = Selection(where="seq % 2 = 0")
    done = engine.redrive([flow], half, mixed)
    assert done is not None and not done.dead and 0 < done.applied < len(bad)
    assert all(check.ok for check in verify([flow], mixed))
    assert engine.redrive([flow], Selection(), mixed).applied == len(bad) - done.applied  # type: ignore[union-attr] # not stopped
    assert contents(mixed) == contents(good) and not letters(mixed)
    assert all(check.ok for check in verify([flow], mixed))
    balanced(mixed)
    more = event("later", 1000)
    both.feed(more)
    whole.feed(more)
    mg.run([flow], mixed)
    mg.run([make_flow(whole)], good)
    assert contents(mixed) == contents(good)
    mg.rebuild([flow], VIEWS, mixed)  # what was mended stays mended
    assert contents(mixed) == contents(good)


def test_a_record_that_is_bad_still_stays_a_letter_and_its_attempts_are_counted(tmp_path: Path) -> None:
    flow = make_flow(mg.memory([event("a", 1), b"{nonsense", event("b", 2)]))
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    for attempt in (1, 2):
        assert fix(store, f"'still {attempt}'") == 1
        done = engine.redrive([flow], Selection(), store)
        assert done is not None and done.applied == 0
        (letter,) = done.dead
        assert (letter.raw, letter.fixed, letter.attempts) == (b"{nonsense", f"still {attempt}".encode(), attempt)
    assert all(check.ok for check in verify([flow], store))
    with Store(store) as opened:
        assert dead_letters.discard(opened, Selection(ids=("events:0:1",))) == 1
    assert not letters(store)
    with pytest.raises(UsageError, match="there is no such dead letter"):
        engine.redrive([flow], Selection(), store)
    mg.rebuild([flow], VIEWS, store)
    assert not letters(store) and all(check.ok for check in verify([flow], store))


def test_a_row_that_a_verb_refused_comes_back_too(tmp_path: Path) -> None:
    flow = mg.Flow("f")
    read = flow.read(source(mg.memory([event("a", 1, n=4), event("b", 2, n=0), event("c", 3, n=2)])))
    read.materialize("kept")
    read.derive(inverse="CASE WHEN n = 0 THEN error('no inverse') ELSE 1 / n END").materialize("inverses")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    (letter,) = letters(store)
    assert letter.view == "inverses" and letter.reason == "not computed" and letter.id == "events:0:1:inverses"
    fix(store, "json_merge_patch(text, '{\"n\": 5}')")
    assert engine.redrive([flow], Selection(), store) is not None
    assert rows(store, "SELECT id, n FROM inverses ORDER BY id") == [("a", 4), ("b", 5), ("c", 2)]
    assert rows(store, "SELECT n FROM kept WHERE id = 'b'") == [(5,)] and not letters(store)
    assert all(check.ok for check in verify([flow], store))


def test_all_flows_that_read_the_source_must_be_named(tmp_path: Path) -> None:
    events = mg.memory([event("a", 1), b"{"])
    first, second = make_flow(events), mg.Flow("g")
    second.read(source(events, lateness="20 seconds")).materialize("other")
    store = tmp_path / "s.duckdb"
    mg.run([first, second], store)
    fix(store, "'{}'")
    with pytest.raises(UsageError, match="events is also read by flow g"):
        engine.redrive([first], Selection(), store)
    done = engine.redrive([first, second], Selection(), store)
    assert done is not None and done.views == sorted([*VIEWS, "other"])


def test_what_a_redrive_gives_a_sink_is_given_once(tmp_path: Path) -> None:
    out, store = mg.memory({"0": []}), tmp_path / "s.duckdb"
    events = mg.memory([event("a", 1), b"{", event("b", 2)])
    flow = mg.Flow("f")
    flow.read(source(events)).materialize("kept")
    flow.read(source(events)).write(out, name="sink")
    mg.run([flow], store)
    sent = list(out.lines["0"])
    fix(store, f"'{json.dumps(event('m', 1))}'")
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and done.applied == 1 and done.views == ["kept"]
    assert rows(store, "SELECT id FROM kept ORDER BY id") == [("a",), ("b",), ("m",)]
    assert out.lines["0"][:2] == sent and [json.loads(line)["id"] for line in out.lines["0"]] == ["a", "b", "m"]
    events.feed(event("c", 3))
    mg.run([flow], store)
    assert len(rows(store, "FROM kept")) == 4 and len(out.lines["0"]) == 4
    assert all(check.ok for check in verify([flow], store))


def test_a_key_that_waits_goes_on_beside_a_record_that_comes_back(tmp_path: Path) -> None:
    flow, store, fails = mg.Flow("f"), tmp_path / "s.duckdb", [True]

    def count(state: int, seen: dict[str, Any]) -> int:
        if seen["n"] == 0 and fails[0]:
            raise ValueError("not yet")
        return state + 1

    events = mg.memory([event("a", 1, n=0), event("b", 2), b"{", event("c", 100)])
    flow.read(source(events)).order(by="key").fold(by="key", initial=0, apply=count).materialize("counts")
    mg.run([flow], store)
    assert sorted(letter.reason for letter in letters(store)) == ["not folded", "not json"]
    fix(store, f"'{json.dumps(event('m', 3))}'", reason="not json")
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and (done.applied, done.waiting) == (1, 1)
    fails[0] = False
    events.feed(event("d", 200))
    mg.run([flow], store)
    assert rows(store, "SELECT state FROM counts") == [("4",)] and not letters(store)


# -- formats ------------------------------------------------------------------------------------------------------------------

KIND = {"id": "VARCHAR NOT NULL", "at": "TIMESTAMP", "key": "VARCHAR", "n": "INTEGER"}


def _csv(folder: Path) -> tuple[Path, dict[str, str]]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(KIND)
    writer.writerows([("a", "2026-01-01", "k", 1), ("b", "2026-01-01", 'x,"y', "two"), ("c", "2026-01-01", "k", 3)])
    (folder / "e.csv").write_text(text.getvalue())
    return folder / "e.csv", {"sql": "replace(text, 'two', '2')"}


def _parquet(folder: Path) -> tuple[Path, dict[str, str]]:
    table = pa.table({"id": ["a", None, "c"], "at": pa.array([0, 0, 0], pa.timestamp("us")), "key": ["k"] * 3, "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, folder / "e.parquet")
    return folder / "e.parquet", {"sql": "json_merge_patch(text, '{\"id\": \"b\"}')"}


def _avro(folder: Path) -> tuple[Path, dict[str, str]]:
    kinds = {"id": "string", "at": {"type": "long", "logicalType": "local-timestamp-micros"}, "key": "string", "n": "int"}
    schema = {"type": "record", "name": "E", "fields": [{"name": n, "type": t} for n, t in kinds.items()]}
    sink = io.BytesIO()
    fastavro.writer(sink, fastavro.parse_schema(schema), [{"id": i, "at": 0, "key": "kk", "n": n + 1} for n, i in enumerate("abc")])
    (folder / "e.avro").write_bytes(sink.getvalue().replace(b"\x02b\x00\x04kk", b"\x02b\x00\x04\xff\xfe"))
    return folder / "e.avro", {"sql": "unhex(replace(hex(raw), 'FFFE', '6B6B'))"}


def _protobuf(folder: Path) -> tuple[Path, dict[str, str]]:
    (folder / "e.proto").write_text('syntax = "proto3"; message E { string id = 1; string key = 2; int32 n = 3; int64 at = 4; }')
    raws = [b"\x0a\x01a\x18\x01", b"\x0a\x01\xffb\x18\x02", b"\x0a\x01c\x18\x03"]
    (folder / "e.pb").write_bytes(b"".join(bytes([len(r)]) + r for r in raws))
    return folder / "e.pb", {"sql": "unhex(replace(hex(raw), 'FF62', '62'))", "schema": f"{folder}/e.proto#E"}


@pytest.mark.parametrize("make", [_csv, _parquet, _avro, _protobuf], ids=["csv", "parquet", "avro", "protobuf"])
def test_records_of_every_format_come_back(tmp_path: Path, make: Callable[[Path], tuple[Path, dict[str, str]]]) -> None:
    path, more = make(tmp_path)
    flow = mg.Flow("f")
    flow.read(mg.source("e", mg.files(path), schema=more.get("schema", KIND))).materialize("kept")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    (letter,) = letters(store)
    assert letter.seq == 1 and rows(store, "SELECT n FROM kept") == [(1,), (3,)]
    assert fix(store, more["sql"]) == 1
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and not done.dead, done.dead
    assert rows(store, "SELECT id, n FROM kept ORDER BY n") == [("a", 1), ("b", 2), ("c", 3)]
    assert all(check.ok for check in verify([flow], store))


VALUES = {
    "BIGINT": "-9007199254740993", "HUGEINT": "-99999999999999999999999999999999999999", "DECIMAL(38,9)": "-0.000000001",
    "DOUBLE": "1e-300", "BOOLEAN": "true", "VARCHAR": "'a\n\"\u00e9'", "BLOB": "'\\x00\\xFF'::BLOB",
    "UUID": "'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'", "DATE": "DATE '0044-03-15'", "TIME": "TIME '23:59:59.999999'",
    "TIMESTAMP": "TIMESTAMP '1969-12-31 23:59:59.999999'", "TIMESTAMP_NS": "TIMESTAMP_NS '2026-01-31 12:00:00.123456789'",
    "TIMESTAMP_S": "TIMESTAMP_S '2026-01-31 12:00:00'", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ '2026-01-31 12:00:00.5+05:30'",
    "INTEGER[]": "[1, NULL, 3]", "VARCHAR[][]": "[['a'], NULL, []]", "MAP(VARCHAR, INTEGER)": "MAP {'a': 1, 'b': NULL}",
    "MAP(INTEGER, STRUCT(t TIMESTAMP, b BLOB))": "MAP {-7: {'t': TIMESTAMP '2026-01-31 00:00:00', 'b': '\\x01'::BLOB}}",
    "MAP(VARCHAR, VARCHAR)": "MAP {}", "MAP(BOOLEAN, DECIMAL(5,2))[]": "[MAP {true: 1.50}, NULL]",
    "STRUCT(m MAP(VARCHAR, BIGINT[]), t TIMESTAMP WITH TIME ZONE, d DECIMAL(20,3))":
        "{'m': MAP {'k': [1, 2]}, 't': TIMESTAMPTZ '2026-06-01 00:00:00+02', 'd': 12345678901234567.891}",
    "MAP(DATE, UUID)": "MAP {DATE '2026-01-31': 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'::UUID}",
    "INTERVAL": "INTERVAL '-14 months 3 days 04:05:06.000007'", "INTERVAL[]": "[INTERVAL '1 day', INTERVAL '-1 microsecond']",
}  # fmt: skip
"""A value of each type, in SQL."""


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_mended_row_of_a_columnar_file_has_the_values_that_it_had(tmp_path: Path, ending: str) -> None:
    """Of every type, and NULL of every type: only what was edited has changed."""
    kinds = {f"c{i}": kind for i, kind in enumerate(VALUES) if ending == "arrow" or "INTERVAL" not in kind}
    values = [f"({VALUES[kind]})::{kind} AS {name}" for name, kind in kinds.items()]
    nothing = [f"NULL::{kind} AS {name}" for name, kind in kinds.items()]
    schema = {"id": "BIGINT NOT NULL", **kinds}
    for name, ids in (("good", (7, 8)), ("bad", ("NULL", 8))):
        made = scratch().sql(f"SELECT {ids[0]}::BIGINT AS id, {', '.join(values)} UNION ALL SELECT {ids[1]}, {', '.join(nothing)}")
        table = made.to_arrow_table().cast(Schema.declare(schema).arrow_schema())
        if ending == "parquet":
            pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
        else:
            with pyarrow.ipc.new_file(tmp_path / f"{name}.arrow", table.schema) as out:
                out.write_table(table)
        flow = mg.Flow("f")
        flow.read(mg.source("e", mg.files(tmp_path / f"{name}.{ending}"), schema=schema)).materialize("kept")
        mg.run([flow], tmp_path / f"{name}.duckdb")
    store, folder = tmp_path / "bad.duckdb", tmp_path / "out"
    with Store(store) as opened:
        (path,) = dead_letters.export(opened, Selection(), folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id": 7}))
        assert len(dead_letters.fix_by_files(opened, folder)) == 1
    done = engine.redrive([flow], Selection(), store)
    assert done is not None and not done.dead, done.dead
    both = [rows(tmp_path / f"{name}.duckdb", "FROM kept ORDER BY id") for name in ("good", "bad")]
    assert both[0] == both[1]
    assert rows(store, f"SELECT {', '.join(f'{n} IS NOT DISTINCT FROM ({VALUES[k]})::{k}' for n, k in kinds.items())} FROM kept"
                       " WHERE id = 7") == [(True,) * len(kinds)]  # fmt: skip


# -- crashes ------------------------------------------------------------------------------------------------------------------


def _redrive(folder: str, fault: tuple[str, int] | None) -> None:
    if fault:
        faults.arm(*fault)
    flow = make_flow(mg.files(f"{folder}/*.jsonl"))
    engine.redrive([flow], Selection(), f"{folder}/s.duckdb", epoch=0)


@pytest.mark.crash
@pytest.mark.parametrize("point", ["commit.before", "redrive.before", "redrive.after", "epoch.begin"])
def test_a_redrive_that_is_killed_has_changed_nothing_or_everything(tmp_path: Path, point: str) -> None:
    events = some_events(7)
    lines = [json.dumps(e) for e in events]
    (tmp_path / "e.jsonl").write_text("".join((x.replace('"n"', '"m') if i % 9 == 0 else x) + "\n" for i, x in enumerate(lines)))
    store = tmp_path / "s.duckdb"
    flow = make_flow(mg.files(tmp_path / "e.jsonl"))
    mg.run([flow], store)
    before = contents(store)
    fix(store, "replace(text, '\"m', '\"n\"')")
    count = len(letters(store))
    child = multiprocessing.get_context("spawn").Process(target=_redrive, args=(str(tmp_path), (point, 1)))
    child.start()
    child.join(60)
    assert child.exitcode == -9
    assert all(check.ok for check in verify([flow], store))
    if point == "redrive.after":
        assert not letters(store)
    else:
        assert contents(store) == before and len(letters(store)) == count
        mg.run([flow], store)  # nothing of the half redrive is in the way
        assert contents(store) == before
        done = engine.redrive([flow], Selection(), store)
        assert done is not None and done.applied == count
    good = tmp_path / "good.duckdb"
    mg.run([make_flow(mg.memory({"files": events}))], good)
    assert contents(store) == contents(good) and all(check.ok for check in verify([flow], store))


def test_exported_letters_are_edited_and_taken_back(tmp_path: Path) -> None:
    flow = make_flow(mg.memory([event("a", 1), b"{", b"[", event("b", 2)]))
    store, folder = tmp_path / "s.duckdb", tmp_path / "out"
    mg.run([flow], store)
    with Store(store) as opened:
        paths = dead_letters.export(opened, Selection(), folder)
        assert [p.read_bytes() for p in paths] == [b"{", b"["]
        with pytest.raises(UsageError, match="is there already"):
            dead_letters.export(opened, Selection(), folder)
        paths[1].write_text(json.dumps(event("c", 3)))
        (fixed,) = dead_letters.fix_by_files(opened, folder)
        assert fixed.seq == 2 and not dead_letters.fix_by_files(opened, folder)
        with pytest.raises(UsageError, match="the columns of dead letters are id, source"):
            dead_letters.select(opened, Selection(where="nothing = 1"))
    done = engine.redrive([flow], Selection(where="fixed IS NOT NULL"), store)
    assert done is not None and done.applied == 1
    assert [letter.seq for letter in letters(store)] == [1]
    with duckdb.connect(str(store), read_only=True) as con:
        assert con.execute("SELECT seq, since FROM merganser.mended").fetchall() == [(2, 2)]
