"""Messages: payloads of any bytes, tombstones, and columns that come from the message itself."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from merganser.codecs import Chunk, Place
from merganser.codecs.json import JsonCodec
from merganser.codecs.messages import HEADERS, MessageCodec, Messages
from merganser.schema import Schema

SCHEMA = {"id": "BIGINT NOT NULL", "name": "VARCHAR"}
NOW = 1_767_225_600_000


def decode(
    values: list[bytes | None],
    keys: list[bytes | None] | None = None,
    headers: list[list[dict[str, Any]]] | None = None,
    columns: tuple[tuple[str, str], ...] = (),
    schema: dict[str, str] = SCHEMA,
    time: str | None = None,
) -> tuple[list[dict[str, Any]], list[tuple[int, str, bytes]]]:
    """Rows and rejects; the offsets are 10, 12, 14, … since offsets have gaps."""
    count = len(values)
    messages = Messages(
        pa.array(values, pa.binary()), np.arange(10, 10 + 2 * count, 2), NOW + np.arange(count),
        None if keys is None else pa.array(keys, pa.binary()), None if headers is None else pa.array(headers, HEADERS),
    )  # fmt: skip
    codec = MessageCodec(Schema.declare(schema), columns, time, JsonCodec)
    chunk = Chunk("s", "orders/3", 10, count, Place("orders/3", None, None), messages, {}, 1, until=10 + 2 * count)
    decoded = codec.decode(chunk)
    assert len(decoded.table) + len(decoded.rejects) == count
    rejects = [(r.seq, r.reason, r.raw) for r in decoded.rejects]
    assert [(Place("orders/3", None, s), raw) for s, _, raw in rejects] == codec.locate(chunk, [s for s, _, _ in rejects])
    return decoded.table.to_pylist(), rejects


def test_a_message_is_one_record_whatever_lines_it_has() -> None:
    rows, rejects = decode([b'{\n"id": 1,\n"name": "a"}\n', b'{"id": 2, "name": "\xc3\xa4"}'])
    assert rows == [{"id": 1, "name": "a", "_seq": 10}, {"id": 2, "name": "ä", "_seq": 12}]
    assert not rejects


def test_bad_messages_and_their_neighbours() -> None:
    bad = [b"", b"{", b"\xff", b'{"id": "x"}', b'{"id": 1}{"id": 2}']
    values = [b'{"id": 0}', *bad, b'{"id": 9}']
    rows, rejects = decode(values)
    assert [r["id"] for r in rows] == [0, 9]
    assert [raw for _, _, raw in rejects] == bad
    assert [seq for seq, _, _ in rejects] == [12, 14, 16, 18, 20]


def test_a_tombstone_is_a_row_of_nulls_at_the_time_of_the_record() -> None:
    schema = {**SCHEMA, "at": "TIMESTAMP"}
    rows, rejects = decode([b'{"id": 1, "at": "2026-01-01"}', None, b"x", None], time="at", schema=schema)
    moment = datetime.datetime(2026, 1, 1, 0, 0, 0, 1000)
    assert rows[1] == {"id": None, "name": None, "at": moment, "_seq": 12}
    assert [r["_seq"] for r in rows] == [10, 12, 16]
    assert rejects == [(14, "not json", b"x")]


def test_columns_from_the_message() -> None:
    columns = (
        ("k", "key"), ("at", "timestamp"), ("t", "topic"), ("p", "partition"), ("o", "offset"), ("h", "headers"), ("x", "header.x"),
    )  # fmt: skip
    schema = {
        "id": "BIGINT", "k": "BIGINT", "at": "TIMESTAMPTZ", "t": "VARCHAR", "p": "INTEGER", "o": "BIGINT",
        "h": "STRUCT(name VARCHAR, value BLOB)[]", "x": "BLOB",
    }  # fmt: skip
    headers = [[{"name": "x", "value": b"old"}, {"name": "x", "value": bytes(range(256))}], [{"name": "y", "value": None}]]
    rows, rejects = decode([b'{"id": 1}', None], [b"7", None], headers, columns, schema)
    assert not rejects
    assert [(r["k"], r["t"], r["p"], r["o"], r["x"]) for r in rows] == [
        (7, "orders", 3, 10, bytes(range(256))), (None, "orders", 3, 12, None)
    ]  # fmt: skip
    assert [r["h"] for r in rows] == headers
    assert rows[0]["at"] == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(("kind", "key", "reason"), [
    ("BIGINT", b"x", "wrong type"), ("VARCHAR", b"\xff", "not utf-8"), ("VARCHAR NOT NULL", None, "missing field"),
    ("BIGINT", b"1.5", "wrong type"), ("DECIMAL(9,2)", b"1.005", "wrong type"), ("INTEGER[]", b"[1.5]", "wrong type"),
    ("DOUBLE", b"1e999", "wrong type"),
])  # fmt: skip
def test_a_key_that_does_not_fit_its_column(kind: str, key: bytes | None, reason: str) -> None:
    schema = {"id": "BIGINT", "k": kind}
    rows, rejects = decode([b'{"id": 1}', b'{"id": 2}'], [b"[1]" if "[" in kind else b"1", key], None, (("k", "key"),), schema)
    assert [r["id"] for r in rows] == [1]
    assert rejects == [(12, reason, b'{"id": 2}')]


@pytest.mark.parametrize(
    ("kind", "unit"), [("TIMESTAMPTZ", 1000), ("TIMESTAMP", 1000), ("TIMESTAMP_MS", 10**6), ("TIMESTAMPTZ_NS", 1)]
)
def test_a_header_is_a_time_no_finer_than_its_column(kind: str, unit: int) -> None:
    fractions = [0, 120_000_000, 123_456_000, 123_456_789]
    headers = [[{"name": "at", "value": f"2026-01-01T01:00:00.{n:09d}+01:00".encode()}] for n in fractions]
    values: list[bytes | None] = [b"{}"] * len(fractions)
    rows, rejects = decode(values, None, headers, (("at", "header.at"),), {"id": "BIGINT", "at": kind})
    kept = [n for n in fractions if n % unit == 0]
    assert [row["at"].microsecond for row in rows] == [n // 1000 for n in kept]
    assert [reason for _, reason, _ in rejects] == ["out of range"] * (len(fractions) - len(kept))
