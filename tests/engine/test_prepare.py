"""Messages of many partitions are decoded together: with the results that each chunk has by itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import merganser as mg
from merganser.codecs import Chunk, Place
from merganser.codecs.messages import HEADERS, Messages
from merganser.engine.prepare import Prepared, Preparer
from merganser.engine.run import _ends
from merganser.flow import Flow
from merganser.plan import Deduplicate, Node

SCHEMA = {"id": "BIGINT", "k": "INTEGER", "at": "TIMESTAMP", "many": "BIGINT[]"}
COLUMNS = {"o": "offset", "p": "partition", "t": "topic", "h": "headers", "x": "header.x"}
NOW = 1_767_225_600_000

GOOD = st.builds(
    lambda n, second, many: json.dumps({"id": n, "at": f"2026-01-01T00:00:{second:02}", "many": many}).encode(),
    st.integers(0, 5), st.integers(0, 59), st.lists(st.integers(0, 9), max_size=3),
)  # fmt: skip
BAD = st.sampled_from([b"", b"{", b"\xff", b'{"id": "x"}', b'{"id": 1}', b'{"id": 1, "at": "2030-01-01"}'])
MESSAGE = st.tuples(
    st.one_of(GOOD, GOOD, GOOD, BAD, st.none()), st.sampled_from([b"1", b"2", b"x", None]),
    st.lists(st.sampled_from([{"name": "x", "value": b"\x00\xff"}, {"name": "y", "value": None}]), max_size=2),
)  # fmt: skip
CHUNKS = st.lists(st.lists(MESSAGE, max_size=8), min_size=1, max_size=6)


def flow() -> Flow:
    source = mg.source(
        "events", mg.kafka("t", brokers="x:1", key="k", columns=COLUMNS), schema=SCHEMA, time="at", lateness="5 seconds", id="id"
    )
    made = Flow("f")
    read = made.read(source)
    read.deduplicate().materialize("once")
    read.filter("id > 1").select("id", "o", half="CASE WHEN id = 4 THEN error('four')::BIGINT ELSE id END").materialize("half")
    read.explode("many").filter("many > 2").deduplicate(by="many").materialize("exploded")
    return made


def chunk(index: int, messages: list[Any], topic: str) -> Chunk:
    count, base = len(messages), 100 * (index % 2)
    offsets = base + np.arange(7, 7 + 2 * count, 2)
    values, keys, headers = zip(*messages) if messages else ((), (), ())
    bytes_of, times = pa.array(values, pa.binary()), NOW + np.arange(count)
    payload = Messages(bytes_of, offsets, times, pa.array(keys, pa.binary()), pa.array(headers, HEADERS), base)
    name = f"{topic}/{index}"
    position = {"offset": 7 + 2 * count}
    return Chunk("events", name, base + 7, count, Place(name, None, None), payload, position, 10, until=base + 7 + 2 * count)


def shown(prepared: Prepared) -> Any:
    branches = {
        node: ([] if b.table is None else b.table.select(sorted(b.table.column_names)).to_pylist(), b.refused)
        for node, b in prepared.branches.items()
    }
    located = [prepared.locate([seq]) for seq in prepared.seqs.tolist()] if prepared.locate else []
    return (
        prepared.partition, prepared.seq, prepared.end, prepared.records, prepared.position, prepared.times.tolist(),
        prepared.seqs.tolist(), prepared.rejects, branches, located,
    )  # fmt: skip


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    made = flow()
    [source] = made.sources

    class Views:
        views = made.ends

    ends: list[tuple[Node, list[Deduplicate]]] = _ends([Views])["events"]  # type: ignore[list-item] # all it needs of a cohort
    return Preparer(source, ends, {}, keeps=True)


@given(CHUNKS)
def test_together_and_one_by_one(preparer: Preparer, lists: list[list[Any]]) -> None:
    chunks = [chunk(i, messages, "t" if i < 3 else "other") for i, messages in enumerate(lists)]
    alone = [shown(p) for c in chunks for p in preparer.prepare([c])]
    together = [shown(p) for p in preparer.prepare(chunks)]
    assert sorted(together, key=lambda s: s[0]) == sorted(alone, key=lambda s: s[0])
