"""What the kernel is sure of is what DuckDB makes of the same records; what it doubts, DuckDB decides."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merganser.codecs import Chunk, Place, objects
from merganser.codecs.json import FEW, JsonCodec, Lines
from merganser.codecs.messages import Messages
from merganser.codecs.objects import NO_COLUMN, Objects
from merganser.kernel import build
from merganser.schema import Schema

KINDS = {
    "t": "VARCHAR", "u": "UUID", "b": "BOOLEAN", "i": "INTEGER", "s": "UTINYINT", "l": "BIGINT", "ul": "UBIGINT", "d": "DOUBLE",
    "f": "FLOAT", "m": "DECIMAL(9,2)", "n": "DECIMAL(38,10)", "ts": "TIMESTAMP", "tz": "TIMESTAMPTZ", "sec": "TIMESTAMP_S",
    "ns": "TIMESTAMP_NS", "day": "DATE", "tod": "TIME", "list": "DECIMAL(9,2)[]", "in": "STRUCT(a INTEGER, b VARCHAR)",
}  # fmt: skip
VALUES: dict[str, list[str]] = {
    "t": [
        '"x"', '"héllo wörld, more than sixteen bytes"', '"a\\"b\\\\c\\nd"', '"\\u00e9\\ud83d\\ude00"', '""', "12", '{"a": [1]}',
    ],
    "u": ['"00000000-0000-4000-8000-0000000000ff"', '"00000000-0000-4000-8000-0000000000FF"', '"{00}"'],
    "b": ["true", "false", '"true"', "1"],
    "i": ["0", "7", "-2147483648", "2147483647", "2147483648", '"12"', "1.0", "1e2", "-0", "007"],
    "s": ["0", "255", "256", "-1"],
    "l": ["9223372036854775807", "-9223372036854775808", "9223372036854775808", "1.5"],
    "ul": ["18446744073709551615", "18446744073709551616", "9999999999999999999"],
    "d": [
        "0.1", "1e-5", "-2.5E+3", "123456789012345678", "0.30000000000000004", "5e-324", "1e400",
        '"2.5"', "1.", ".5", "-0.0", "NaN",
    ],
    "f": ["0.1", "16777217", "3.4028235e38", "1e39"],
    "m": ["1.5", "-0.05", "1234567.89", "12345678.9", "0.005", "1.500", '"1.50"', "1e2", "0.00000000000000000000000000000000001"],
    "n": ["1234567890123456789012345678.0123456789", "99999999999999999999999999999", "0.12345678901", "1.00000000000000000000000"],
    "ts": ['"2026-01-02T03:04:05"', '"2026-02-29 00:00:00"', '"2024-02-29 23:59:59.123456"', '"2026-01-02T03:04:05.1234567"'],
    "tz": [
        '"2026-01-02T03:04:05Z"', '"2026-01-02 03:04:05.5-05:30"', '"1969-12-31T23:59:59.999999+14"', '"2026-13-01T00:00:00Z"', "5",
    ],
    "sec": ['"1900-03-01T00:00:00.000Z"', '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59Z"', '"2026-01-02T03:04:05.5Z"'],
    "ns": ['"2026-01-02T03:04:05.123456789"', '"2262-04-11T23:47:16.854775807"', '"1500-01-01T00:00:00"'],
    "day": ['"2026-01-02"', '"2000-02-29"', '"1900-02-29"', '"2026-1-2"'],
    "tod": ['"23:59:59.999999"', '"24:00:00"', '"03:04"', '"00:00:00Z"'],
    "list": ["[]", "[1, 2.5]", "[0.10000000000000000555]", '["1.25", null]', "[1,]", "1"],
    "in": ['{"a": 1, "b": "x"}', '{"a": 1}', '{"a": 1, "a": 2, "b": "y"}', '{"b": "\\u0041", "a": null, "c": [{}]}'],
}  # fmt: skip


def value_of(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*VALUES[name], "null"]) | st.sampled_from([v for values in VALUES.values() for v in values])


@st.composite
def records(draw: st.DrawFn, names: list[str]) -> bytes:
    """Objects of one producer's making, nearly: with keys in their order and white space of one kind, or not."""
    keys = draw(st.permutations(names)) if draw(st.integers(0, 4)) == 0 else names
    keys = [k for k in keys if draw(st.integers(0, 9))]
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]))
    members = [f'"{key}"{colon}{draw(value_of(key))}' for key in keys]
    if draw(st.integers(0, 4)) == 0:
        member = draw(st.sampled_from(['"other":{"x":[1,{"y":"\\n"}]}', '"\\u0069":1', '"i":1']))
        members.insert(draw(st.integers(0, len(members))), member)
    text = ("{" + comma.join(members) + "}").encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(text)))
        wrong = draw(st.sampled_from([b"", b"\xff", b'"', b"\\", b"}", b"{", b",", b" ", b"\0", b"e", b"0"]))
        text = text[:at] + wrong + text[at + draw(st.integers(0, 2)) :]
    return text.replace(b"\n", b"")


def sure(schema: Schema, raws: list[bytes]) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    lines = Lines.of(b"".join(raw + b"\n" for raw in raws))
    return Objects(schema).decode(*lines.records())


@settings(max_examples=300)
@given(st.data())
def test_what_is_sure_is_what_duckdb_makes_of_it(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=5, unique=True))
    schema = Schema.declare({name: KINDS[name] + data.draw(st.sampled_from(["", " NOT NULL"])) for name in names})
    raws = data.draw(st.lists(records(names), min_size=1, max_size=12))
    codec = JsonCodec(schema)
    known = [c.name for c in schema.columns if c.name not in ("list", "in")]
    table, doubts = sure(schema, raws)
    looked, bad = codec._look(raws)
    for i in np.flatnonzero(doubts == 0).tolist():
        mine = table.select(known).slice(i, 1).to_pylist()
        theirs = looked.select(known).cast(table.select(known).schema).slice(i, 1).to_pylist()
        if i in bad:  # only a column that the kernel leaves to DuckDB may spoil it
            assert len(known) < len(names), raws[i]
        else:
            assert mine == theirs, raws[i]
    chunk = Chunk("s", "p", 0, len(raws), Place("f", 0, 1), Lines.of(b"".join(raw + b"\n" for raw in raws)), {}, 1)
    decoded = codec.decode(chunk)
    assert [r.seq for r in decoded.rejects] == bad.tolist()
    rows = np.setdiff1d(np.arange(len(raws)), bad)
    assert decoded.table["_seq"].to_pylist() == rows.tolist()
    assert decoded.table.drop_columns(["_seq"]).to_pylist() == looked.take(pa.array(rows)).to_pylist()


def test_usual_records_leave_nothing_to_doubt() -> None:
    """Of each type the first values above; by themselves, since otherwise all would be as slow as DuckDB, and nobody see it."""
    usual = {name: values[:3] for name, values in VALUES.items()} | {
        "t": VALUES["t"][:5], "u": VALUES["u"][:1], "b": VALUES["b"][:2], "s": VALUES["s"][:2], "l": VALUES["l"][:2],
        "ul": ["9999999999999999999"], "d": VALUES["d"][:6], "n": VALUES["n"][:1], "ts": VALUES["ts"][:1], "ns": VALUES["ns"][:1],
        "day": VALUES["day"][:2], "tod": VALUES["tod"][:1], "list": VALUES["list"][:2],
    }  # fmt: skip
    for name, values in usual.items():
        _, doubts = sure(Schema.declare({name: KINDS[name]}), [f'{{"{name}": {value}}}'.encode() for value in values])
        assert not doubts.any(), (name, values, doubts)


def test_keys_with_escapes() -> None:
    """As ``json.dumps`` writes those that are not ASCII; those that are very long are looked at by DuckDB."""
    schema = Schema.declare({"größe": "INTEGER", "a\"b\n": "INTEGER"})
    raws = [json.dumps({"größe": i, "a\"b\n": -i, "ä": {"ö": "ü"}} if i != 4 else {"größe": i}) for i in range(8)]
    raws += ['{"gr\\u00f6\\u00dfe": 1, "größe": 2}', json.dumps({"ü" * 100: 1})]
    table, doubts = sure(schema, [raw.encode() for raw in raws])
    assert doubts.tolist() == [0] * 8 + [NO_COLUMN] * 2
    assert table.slice(0, 8).to_pylist() == [{"größe": i, "a\"b\n": -i if i != 4 else None} for i in range(8)]


def test_doubts_say_which_column() -> None:
    schema = Schema.declare({"a": "INTEGER", "b": "VARCHAR NOT NULL"})
    _, doubts = sure(schema, [b'{"a":1.0,"b":"x"}', b'{"a":1,"b":2}', b'{"a":1}', b'{"a":1,"b":"x"}', b'{"a":1 "b":"x"}', b""])
    assert doubts.tolist() == [1, 2, 2, 0, NO_COLUMN, NO_COLUMN]


def test_a_record_ends_where_it_ends() -> None:
    """Messages stand next to each other without anything between: one that is cut off is not mended by the next."""
    schema = Schema.declare({"a": "VARCHAR", "b": "INTEGER"})
    cut = [b'{"a":"x","b":1', b"}", b'{"a":"x', b'y","b":2}', b'{"a":"\\u00', b'e9","b":3}']
    raws = [*cut, b'{"b":4}', b'{"b":5', b"6}", b'{"a":"end"}']
    messages = Messages(pa.array(raws, pa.binary()), np.arange(len(raws)), np.zeros(len(raws), np.int64))
    decoded = JsonCodec(schema).decode(Chunk("s", "p", 0, len(raws), Place("t/0", None, None), messages, {}, 1))
    assert decoded.table.to_pylist() == [{"a": None, "b": 4, "_seq": 6}, {"a": "end", "b": None, "_seq": 9}]
    assert [r.raw for r in decoded.rejects] == [raws[i] for i in (0, 1, 2, 3, 4, 5, 7, 8)]


def test_keys_in_any_order_of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """More keys than the kernel remembers, longer ones, and records whose columns are decoded in turns."""
    monkeypatch.setattr(objects, "MOST", 50_000)
    names = [f"column {i}" + "x" * (i % 90) for i in range(200)]
    rng = random.Random(7)
    rows = []
    for i in range(300):
        some = rng.sample(names, rng.randrange(len(names)))
        rows.append({name: i * len(name) for name in (sorted(some) if i % 2 else some)})
    table, doubts = sure(Schema.declare(dict.fromkeys(names, "INTEGER")), [json.dumps(row).encode() for row in rows])
    assert not doubts.any()
    assert [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()] == rows


@pytest.mark.parametrize(("kind", "text", "value"), [("VARCHAR", "12", "12"), ("INTEGER", "1e2", 100), ("BOOLEAN", '"TRUE"', True)])
def test_columns_of_an_unusual_notation_are_cast_by_duckdb(kind: str, text: str, value: Any) -> None:
    codec, count = JsonCodec(Schema.declare({"v": kind, "n": "INTEGER"})), 4 * FEW
    data = b"".join(f'{{"v":{text if i % 3 else "null"},"n":{i}}}\n'.encode() for i in range(count))
    for _ in range(2):
        decoded = codec.decode(Chunk("s", "p", 0, count, Place("f", 0, 1), Lines.of(data), {}, 1))
        assert decoded.table.to_pylist() == [{"v": value if i % 3 else None, "n": i, "_seq": i} for i in range(count)]
    _, doubts = codec._objects.decode(*Lines.of(data).records())
    assert not doubts.any()


def test_the_kernel_is_made_of_the_sources_beside_it() -> None:
    made = (build.HERE / "kernel.wasm").read_bytes()
    assert made.endswith(build.signature()), "run `make kernel` after a change to its .zig files"
