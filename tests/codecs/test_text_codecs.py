"""JSON and CSV: the verdict on a record and its values do not depend on its neighbours, and are those of plain Python."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.csv import CsvCodec, CsvPayload
from merganser.codecs.json import JsonCodec, Lines
from merganser.codecs.values import places
from merganser.errors import FlowError
from merganser.schema import Schema

SCHEMA = Schema.declare({
    "id": "VARCHAR NOT NULL", "small": "INTEGER", "large": "BIGINT", "real": "DOUBLE", "flag": "BOOLEAN",
    "at": "TIMESTAMPTZ", "price": "DECIMAL(9,2)",
})  # fmt: skip


Rows = dict[int, dict[str, Any]]
Rejects = dict[int, tuple[bytes, str]]


def decode(codec: Codec, payload: Any, records: int, nbytes: int = 1) -> tuple[Rows, Rejects]:
    """Rows and rejects by their ordinal, which begins at 7."""
    chunk = Chunk("s", "0", 7, records, Place("f", 100, 8), payload, {}, nbytes)
    decoded = codec.decode(chunk)
    rows = {row.pop("_seq"): row for row in decoded.table.to_pylist()}
    rejects = {r.seq: (r.raw, r.reason) for r in decoded.rejects}
    assert len(rows) + len(rejects) == records and not rows.keys() & rejects.keys()
    assert [*rows] == sorted(rows)
    return rows, rejects


@given(st.integers(0, 100), st.lists(st.integers(0, 99), max_size=8))
def test_places_are_where_the_marks_stand(length: int, marked: list[int]) -> None:
    marks = np.zeros(length, np.bool_)
    marks[[i for i in marked if i < length]] = True
    assert places(marks).tolist() == sorted({i for i in marked if i < length})


# -- JSON Lines -------------------------------------------------------------------------------------------------------

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "id": st.text(max_size=5),
    "small": st.integers(-(2**31), 2**31 - 1),
    "large": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "flag": st.booleans(),
    "at": st.datetimes(min_value=datetime.datetime(1, 1, 2)).map(lambda t: t.isoformat() + "Z"),
    "price": st.integers(-999_999_999, 999_999_999).map(lambda n: n / 100),
}
GOOD = st.fixed_dictionaries(
    {"id": VALUES["id"]}, optional={name: st.none() | value for name, value in VALUES.items() if name != "id"}
)
BAD = st.sampled_from([
    b"", b"{", b"[]", b"17", b"null", b'{"id": "a"', b'{"id": null}', b"{}", b'{"id": "a", "small": 1.5}',
    b'{"id": "a", "small": true}', b'{"id": "a", "small": 2147483648}', b'{"id": "a", "large": 9223372036854775808}',
    b'{"id": "a", "large": "x"}', b'{"id": "a", "real": "x"}', b'{"id": "a", "flag": "maybe"}', b'{"id": "a", "at": "soon"}',
    b'{"id": "a", "price": 12345678.9}', b'{"id": "\xff"}', b'{"id": "a", "id": "b"}', b'{"id": "a"} x', b"{'id': 'a'}",
    b'{"id": "a", "real": NaN}', b'{"id": "a", "real": [1]}',
])  # fmt: skip
LINES = st.lists(st.one_of(GOOD.map(lambda row: json.dumps(row).encode()), BAD), max_size=12)


@given(LINES, st.booleans())
def test_json_lines(lines: list[bytes], ended: bool) -> None:
    payload = b"".join(line + b"\n" for line in lines)
    if not ended and lines and lines[-1]:
        payload = payload[:-1]
    codec = JsonCodec(SCHEMA)
    rows, rejects = decode(codec, Lines.of(payload), len(lines), len(payload))
    for i, line in enumerate(lines, 7):
        alone_rows, alone_rejects = decode(JsonCodec(SCHEMA), Lines.of(line + b"\n"), 1)
        if alone_rows:
            assert rows[i] == alone_rows[7]
        else:
            assert rejects[i] == alone_rejects[7] and rejects[i][0] == line
    for i, row in rows.items():
        expected = json.loads(lines[i - 7])
        for name in ("id", "small", "large", "real", "flag"):
            assert row[name] == expected.get(name)
        if expected.get("price") is not None:
            assert math.isclose(float(row["price"]), expected["price"], abs_tol=0.005)


@pytest.mark.parametrize(
    ("line", "reason", "says"),
    [
        (b"", "empty line", "expected"),
        (b'{"id": ', "not json", "Expecting value"),
        (b'{"id": "\xff"}', "not utf-8", "0xff"),
        (b"[1]", "not an object", "an array"),
        (b'{"small": 1}', "missing field", "'id'"),
        (b'{"id": null}', "missing field", "null"),
        (b'{"id": "a", "small": 1.5}', "wrong type", "column 'small': expected INTEGER, found a number 1.5"),
        (b'{"id": "a", "id": "b"}', "duplicate key", "'id'"),
    ],
)
def test_what_is_said_of_a_bad_line(line: bytes, reason: str, says: str) -> None:
    good = b'{"id": "a"}\n'
    chunk = Chunk("s", "0", 0, 3, Place("f.jsonl", 100, 8), Lines.of(good + line + b"\n" + good), {}, 1)
    codec = JsonCodec(SCHEMA)
    decoded = codec.decode(chunk)
    (reject,) = decoded.rejects
    assert (reject.reason, reject.raw, reject.seq) == (reason, line, 1) and says in reject.detail
    assert reject.place == Place("f.jsonl", 100 + len(good), 9)
    assert decoded.table["_seq"].to_pylist() == [0, 2]
    assert codec.locate(chunk, [2]) == [(Place("f.jsonl", 100 + len(good) + len(line) + 1, 10), good.strip())]


WIDE = Schema.declare({
    "n": "BIGINT", "d": "DECIMAL(30,10)", "x": "DOUBLE", "s": "VARCHAR", "raw": "BLOB", "raws": "STRUCT(b BLOB)[]",
    "m": "MAP(VARCHAR, INTEGER)", "st": "STRUCT(p INTEGER, q STRUCT(r DECIMAL(30,10), t VARCHAR)[])",
})  # fmt: skip
DIGITS = "12345678901234567890.0123456789"


@pytest.mark.parametrize(("line", "expected"), [
    (b'{"n": 1,}', "not json"), (b'{"s": "a", "st": {"p": 1 , }}', "not json"), (b'{"unknown": [1,]}', "not json"),
    (b'{"s": "x,}"}', {"s": "x,}"}), (b'{"n": 1 }', {"n": 1}), (b'{"n": 1, "other": [ ] }', {"n": 1}),
    (b'{"n": 9223372036854775808}', "out of range"), (b'{"n": 1.5}', "wrong type"), (b'{"x": 1e999}', "out of range"),
    (b'{"x": NaN}', "not finite"), (b'{"x": -Infinity}', "not finite"), (b'{"x": "NaN"}', "wrong type"),
    (b'{"d": 1e21}', "out of range"), (b'{"d": %s}' % DIGITS.encode(), {"d": Decimal(DIGITS)}),
    (b'{"d": %s, "m": {"k": 1}}' % DIGITS.encode(), {"d": Decimal(DIGITS), "m": [("k", 1)]}),
    (b'{"s": "\\ud800"}', "lone surrogate"), (b'{"s": "\\ud83d\\ude00"}', {"s": "\U0001f600"}),
    (b'{"n": 1, "n": 2}', "duplicate key"), (b'{"st": {"p": 1, "p": 2}}', "duplicate key"),
    (b'{"m": {"k": 1, "k": 2}}', "duplicate key"), (b'{"z": 1, "z": 2, "n": 1}', {"n": 1}),
    (b'{"st": {"p": 1}}', {"st": {"p": 1, "q": None}}), (b'{"st": {"p": "x"}}', "wrong type"),
    (b'{"st": {"q": [{"r": %s}, {"t": "x"}]}}' % DIGITS.encode(),
     {"st": {"p": None, "q": [{"r": Decimal(DIGITS), "t": None}, {"r": None, "t": "x"}]}}),
    (b'{"raw": "AP8=", "raws": [{"b": ""}, {"b": null}]}', {"raw": b"\0\xff", "raws": [{"b": b""}, {"b": None}]}),
    (b'{"raw": "%"}', "wrong type"),
    (b'{"n": true}', "wrong type"), (b'{"d": false}', "wrong type"), (b'{"x": true}', "wrong type"),
    (b'{"d": 1, "s": "true"}', {"d": Decimal(1), "s": "true"}), (b'{"x": 0, "z": false}', {"x": 0.0}),
    (b'{"m": {"k": true}}', "wrong type"), (b'{"st": {"p": false}}', "wrong type"), (b'{"st": {"q": [{"r": true}]}}', "wrong type"),
    (b'{"st": {"p": 1, "q": [{"r": %s, "t": "true"}]}, "z": true}' % DIGITS.encode(),
     {"st": {"p": 1, "q": [{"r": Decimal(DIGITS), "t": "true"}]}}),
])  # fmt: skip
def test_no_value_is_changed_unseen(line: bytes, expected: Any) -> None:
    """Alone, and among others that make the codec take another way."""
    for others in ([], [b'{"n": "x"}'], [b'{"n": 5, "d": 1, "x": 1, "s": "", "raw": "", "raws": [], "m": {}, "st": null}']):
        rows, rejects = decode(JsonCodec(WIDE), Lines.of(b"".join(each + b"\n" for each in [line, *others])), 1 + len(others))
        if isinstance(expected, str):
            assert rejects[7] == (line, expected)
        else:
            assert {name: value for name, value in rows[7].items() if value is not None} == expected



def test_columns_may_be_called_anything() -> None:
    names = ["s", "l", "j", "k", "v", "t", "e", "line", "read", "json", "value", "key", "a b", 'q"', "it's", "{}"]
    codec = JsonCodec(Schema.declare(dict.fromkeys(names, "INTEGER") | {"n": "STRUCT(s INTEGER, l VARCHAR)", "deep": "INTEGER[]"}))
    whole = {name: i for i, name in enumerate(names)} | {"n": {"s": 1, "l": "x"}, "deep": [1]}
    for name in [*names, "n", "deep"]:
        lines = [whole, {name: whole[name]}, whole | {name: "x"}, {name: "x"}, {name: whole[name], "other": 1}]
        rows, rejects = decode(codec, Lines.of("".join(json.dumps(line) + "\n" for line in lines).encode()), len(lines))
        assert rows == {i: dict.fromkeys(whole) | lines[i - 7] for i in (7, 8)} | {11: dict.fromkeys(whole) | lines[1]}
        assert [reason for _, reason in rejects.values()] == ["wrong type"] * 2


# -- CSV --------------------------------------------------------------------------------------------------------------

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)


@given(st.lists(st.tuples(FIELD, FIELD), max_size=10))
def test_csv_is_what_pythons_reader_reads(given_rows: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(given_rows)
    codec = CsvCodec(Schema.declare({"b": "VARCHAR", "a": "VARCHAR"}))
    rows, rejects = decode(codec, CsvPayload(("a", "b"), out.getvalue().encode()), len(given_rows))
    assert not rejects
    assert [(r["a"], r["b"]) for r in rows.values()] == given_rows


CSV = [
    (b"x,1", {"a": "x", "n": 1}), (b",1", {"a": None, "n": 1}), (b'"",1', {"a": "", "n": 1}), (b"x,", {"a": "x", "n": None}),
    (b"x,y", "wrong type"), (b"x,1.5", "wrong type"), (b"x", None), (b"x,1,2", None), (b"\xff,1", "not utf-8"),
]  # fmt: skip


@given(st.lists(st.sampled_from(CSV), max_size=8))
def test_csv_records_do_not_touch_each_other(records: list[tuple[bytes, Any]]) -> None:
    codec = CsvCodec(Schema.declare({"a": "VARCHAR", "n": "INTEGER"}))
    data = b"".join(raw + b"\n" for raw, _ in records)
    rows, rejects = decode(codec, CsvPayload(("a", "n"), data), len(records))
    for i, (raw, expected) in enumerate(records, 7):
        if isinstance(expected, dict):
            assert rows[i] == expected
        else:
            assert rejects[i][0] == raw and (expected is None or rejects[i][1] == expected)


@pytest.mark.parametrize("kind", ["UNION(a INTEGER, b VARCHAR)", "UNION(a INTEGER, b VARCHAR)[]"])
def test_json_cannot_be_read_into_a_union(kind: str) -> None:
    with pytest.raises(FlowError, match="JSON cannot be read into this schema"):
        JsonCodec(Schema.declare({"u": kind}))
