"""A time finer than its column's type is never cut: it is a dead letter, and a type that holds it can be declared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet
import pytest

import merganser as mg
from merganser.errors import FlowError
from merganser.schema.protobuf import load
from merganser.verify import verify
from tests.flows import balanced, rows

FINE, COARSE = 1_767_225_600_123_456_789, 1_767_225_600_123_456_000
TEXTS = ["2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:00.123456Z"]
PROTO = 'syntax = "proto3"; import "google/protobuf/timestamp.proto"; message E { google.protobuf.Timestamp sent = 1; }'
SHAPE = {"type": "object", "properties": {"sent": {"type": "string", "format": "date-time"}}}
LONG = {"type": "record", "name": "E", "fields": [{"name": "sent", "type": {"type": "long", "logicalType": "timestamp-nanos"}}]}


def protobuf(folder: Path) -> tuple[Path, Any]:
    (folder / "e.proto").write_text(PROTO)
    kind = load(folder / "e.proto", None, "e").kind
    made = [kind(sent={"seconds": n // 10**9, "nanos": n % 10**9}).SerializeToString() for n in (FINE, COARSE)]
    (folder / "e.pb").write_bytes(b"".join(bytes([len(raw)]) + raw for raw in made))
    return folder / "e.pb", str(folder / "e.proto")


def json_schema(folder: Path) -> tuple[Path, Any]:
    (folder / "e.schema.json").write_text(json.dumps(SHAPE))
    (folder / "e.jsonl").write_text("".join(json.dumps({"sent": text}) + "\n" for text in TEXTS))
    return folder / "e.jsonl", str(folder / "e.schema.json")


def csv(folder: Path) -> tuple[Path, Any]:
    (folder / "e.csv").write_text("sent\n" + "".join(text + "\n" for text in TEXTS))
    return folder / "e.csv", {"sent": "TIMESTAMPTZ"}


def avro(folder: Path) -> tuple[Path, Any]:
    with (folder / "e.avro").open("wb") as out:
        fastavro.writer(out, fastavro.parse_schema(LONG), [{"sent": n} for n in (FINE, COARSE)])
    return folder / "e.avro", {"sent": "TIMESTAMPTZ"}


def parquet(folder: Path) -> tuple[Path, Any]:
    pyarrow.parquet.write_table(pa.table({"sent": pa.array([FINE, COARSE], pa.timestamp("ns", "UTC"))}), folder / "e.parquet")
    return folder / "e.parquet", {"sent": "TIMESTAMPTZ"}


@pytest.mark.parametrize("made", [protobuf, json_schema, csv, avro, parquet])
def test_every_format_refuses_what_it_would_have_to_cut_and_keeps_it_where_it_need_not(
    made: Callable[[Path], tuple[Path, Any]], tmp_path: Path
) -> None:
    """As the event time, in a view, and in windows."""
    file, schema = made(tmp_path)
    for types, kept in (({}, [COARSE]), ({"sent": "TIMESTAMPTZ_NS"}, [COARSE, FINE])):
        store = tmp_path / f"{len(kept)}.duckdb"
        events = mg.source("events", mg.files(file), schema=schema, types=types, time="sent", lateness="1 minute")
        flow = mg.Flow("f")
        flow.read(events).select(sent="sent").materialize("kept")
        flow.read(events).window(mg.tumbling("1 second")).aggregate(n="count(*)", last="max(sent)").materialize("seconds")
        mg.run([flow], store)
        assert rows(store, "SELECT epoch_ns(sent) FROM kept ORDER BY 1") == [(n,) for n in kept]
        assert rows(store, "SELECT n, epoch_ns(last) FROM seconds") == [(len(kept), kept[-1])]
        assert rows(store, "SELECT DISTINCT typeof(window_start) FROM seconds") == [("TIMESTAMP WITH TIME ZONE",)]
        letters = rows(store, "SELECT reason, detail FROM merganser.dead_letters")
        assert [reason for reason, _ in letters] == ["out of range"] * (2 - len(kept))
        assert all("finer than" in said or "without loss" in said for _, said in letters)
        assert all("TIMESTAMPTZ_NS" in said for _, said in letters)
        balanced(store)
        assert all(check.ok for check in verify([flow], store))


def test_the_time_of_a_cloudevent(tmp_path: Path) -> None:
    made = {"specversion": "1.0", "source": "/shop", "type": "t", "data": {"n": 1, "sent": TEXTS[0]}}
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(made | {"id": text, "time": text}) + "\n" for text in TEXTS))
    schema = mg.cloudevents({"n": "INTEGER", "sent": "TIMESTAMPTZ"})
    for types, count in (({}, 0), ({"sent": "TIMESTAMPTZ_NS"}, 1), ({"sent": "TIMESTAMPTZ_NS", "ce_time": "TIMESTAMPTZ_NS"}, 2)):
        events = mg.source("events", mg.files(tmp_path / "e.jsonl"), schema=schema, types=types, storm=None)
        flow = mg.Flow("f")
        flow.read(events).materialize("kept")
        store = tmp_path / f"{count}.duckdb"
        mg.run([flow], store)
        assert rows(store, "SELECT count(*) FROM kept") == [(count,)]
        assert rows(store, "SELECT DISTINCT reason FROM merganser.dead_letters") == [("out of range",)] * (count < 2)
    assert rows(store, "SELECT epoch_ns(ce_time), epoch_ns(sent) FROM kept ORDER BY 1") == [(COARSE, FINE), (FINE, FINE)]


def test_a_timestamp_is_written_with_its_nanoseconds(tmp_path: Path) -> None:
    """As Google's library reads it; before 1970 and with whole microseconds too."""
    _, schema = protobuf(tmp_path)
    moments = [FINE, COARSE, -1, -1_000_000_001, 0]
    pyarrow.parquet.write_table(pa.table({"sent": pa.array(moments, pa.timestamp("ns", "UTC"))}), tmp_path / "e.parquet")
    events = mg.source("events", mg.files(tmp_path / "e.parquet"), schema={"sent": "TIMESTAMPTZ_NS"})
    flow = mg.Flow("f")
    flow.read(events).write(mg.files(tmp_path / "out-*.pb"), schema=schema, name="out")
    mg.run([flow], tmp_path / "s.duckdb")
    [file] = tmp_path.glob("out-*.pb")
    raw, found = file.read_bytes(), []
    while raw:
        made = load(tmp_path / "e.proto", None, "e").kind.FromString(raw[1 : 1 + raw[0]])
        found.append(made.sent.ToNanoseconds())
        raw = raw[1 + raw[0] :]
    assert sorted(found) == sorted(moments)
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


def test_other_types_are_for_columns_that_there_are() -> None:
    with pytest.raises(FlowError, match=r"types=\{'when': …\}: there is no such column; there are id, sent"):
        mg.source("events", mg.files("x.jsonl"), schema={"id": "BIGINT", "sent": "TIMESTAMPTZ"}, types={"when": "TIMESTAMPTZ_NS"})
    with pytest.raises(FlowError, match="'TIMESTAMPTZ_NSS' is no SQL type"):
        mg.source("events", mg.files("x.jsonl"), schema={"sent": "TIMESTAMPTZ"}, types={"sent": "TIMESTAMPTZ_NSS"})
