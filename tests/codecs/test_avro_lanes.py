"""Where records begin in large blocks: guessed beginnings change nothing but the time it takes."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest

from merganser.codecs.avro.blocks import boundaries
from merganser.codecs.avro.lanes import starts
from merganser.codecs.avro.resolution import Resolver
from merganser.codecs.cursor import Bytes
from merganser.schema.avro import parse

COUNT = 1500
RNG = np.random.default_rng(7)


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields.items()]}


TABLES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "ids": (
        record(id="string", n="long", note=["null", "string"]),
        [{"id": f"id-{RNG.integers(10**7):07d}", "n": int(RNG.integers(1 << 40)), "note": None if i % 3 else "x" * (i % 50)}
         for i in range(2 * COUNT)],
    ),
    "lists": (
        record(a={"type": "array", "items": "int"}, b="boolean"),
        [{"a": [*range(i % 7)], "b": i % 2 == 0} for i in range(2 * COUNT)],
    ),
    # Within each text stands what looks like a record.
    "false beginnings": (record(t="bytes", n="int"), [{"t": b"\x04ab\x02" * (3 + i % 5), "n": 1} for i in range(2 * COUNT)]),
    "bytes of no shape": (record(n="long"), [{"n": int(n)} for n in RNG.integers(-(1 << 62), 1 << 62, 2 * COUNT)]),
    "no bytes": (record(a="null"), [{"a": None}] * (2 * COUNT)),
}  # fmt: skip


def blocks(name: str) -> tuple[Any, bytes, np.ndarray, np.ndarray, np.ndarray]:
    """The node; two blocks, the lengths of their records, and where the blocks begin and end."""
    tree, rows = TABLES[name]
    schema, parsed, bodies = parse(tree, "test"), fastavro.parse_schema(tree), []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, row)
        bodies.append(out.getvalue())
    stop = np.array([sum(map(len, bodies[:COUNT])), sum(map(len, bodies))])
    begin = np.array([0, stop[0]])
    return Resolver(schema, schema).root(), b"".join(bodies), np.array([len(b) for b in bodies]), begin, stop


@pytest.mark.parametrize("name", TABLES)
def test_every_beginning_is_where_the_record_was_written(name: str) -> None:
    node, data, lengths, begin, stop = blocks(name)
    start, end, broken = boundaries(node, Bytes(data), begin, stop, np.array([COUNT, COUNT]))
    assert not broken
    assert end.tolist() == np.cumsum(lengths).tolist()
    assert start.tolist() == (np.cumsum(lengths) - lengths).tolist()


def test_blocks_that_look_alike_are_known_by_guessing() -> None:
    node, data, _, begin, stop = blocks("ids")
    found = starts(node, Bytes(data), begin, stop, np.array([COUNT, COUNT]))
    assert found is not None and found[2].all()


@pytest.mark.parametrize("name", ["ids", "lists", "false beginnings", "bytes of no shape"])
@pytest.mark.parametrize("seed", range(4))
def test_damaged_blocks_are_told_apart_as_without_guesses(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    node, data, _, begin, stop = blocks(name)
    rng, spoilt = np.random.default_rng(seed), bytearray(data)
    for at in rng.integers(int(stop[0]) // 2, len(data), seed).tolist():  # none of them: the counts alone are wrong
        spoilt[at] = int(rng.integers(256))
    count = np.array([COUNT, COUNT + (seed % 3) - 1])
    guessed = boundaries(node, Bytes(spoilt), begin, stop, count)
    monkeypatch.setattr("merganser.codecs.avro.blocks.starts", lambda *_: None)
    plain = boundaries(node, Bytes(spoilt), begin, stop, count)
    assert guessed[2] == plain[2]
    known = np.ones(len(plain[0]), np.bool_)
    for block, (k, *_) in plain[2].items():  # what stands behind the first bad record means nothing
        first = int(count[:block].sum())
        known[first + k : first + int(count[block])] = False
    assert guessed[0][known].tolist() == plain[0][known].tolist()
    assert guessed[1][known].tolist() == plain[1][known].tolist()
