"""What every connector promises (merganser/sources/__init__.py), checked over whatever ``Case`` describes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from merganser.codecs import Decoded
from merganser.schema import Schema
from merganser.sources import Connector

SCHEMA = Schema.declare({"id": "BIGINT NOT NULL", "name": "VARCHAR", "x": "DOUBLE"})


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": i, "name": None if i % 7 == 0 else f'n{i}, "q"\nä', "x": i / 4} for i in range(count)]


@dataclass(frozen=True)
class Case:
    """A connector over ``expected`` rows in each partition; ``reopen`` makes it anew, as after a restart."""

    reopen: Callable[[], Connector]
    expected: dict[str, list[dict[str, Any]]]


def drain(connector: Connector, partition: str, position: Any, max_bytes: Callable[[], int], chunks: int | None = None):
    """Chunks of a partition from a position on, decoded; at most ``chunks``."""
    reader = connector.open("s", follow=False)
    reader.add(partition, position)
    codec = connector.codec(SCHEMA)
    out = []
    while chunks is None or len(out) < chunks:
        chunk = reader.read(max_bytes())
        if chunk is None:
            if reader.finished():
                break
            time.sleep(0.001)
            continue
        nothing = SCHEMA.arrow_schema().append(pa.field("_seq", pa.int64())).empty_table()
        decoded = codec.decode(chunk) if chunk.records else Decoded(nothing, [])
        assert len(decoded.table) + len(decoded.rejects) == chunk.records
        out.append((chunk, decoded))
    reader.close()
    return out


def check(case: Case, seed: int) -> None:
    chance = random.Random(seed)
    connector = case.reopen()
    connector.check()
    assert connector.partitions() == list(case.expected)
    total = 0
    for partition, expected in case.expected.items():
        whole = drain(connector, partition, None, lambda: 1 << 24)
        total += sum(chunk.nbytes for chunk, _ in whole)
        reference = pa.concat_tables([d.table for _, d in whole]).to_pylist()
        assert [{k: r[k] for k in ("id", "name", "x")} for r in reference] == expected
        assert [r["_seq"] for r in reference] == list(range(len(expected)))
        # Cut anywhere, stopped and gone on with anywhere: the same.
        position, found, seq = None, [], 0
        while True:
            part = drain(case.reopen(), partition, position, lambda: chance.randrange(1, 400), chance.randrange(1, 6))
            for chunk, decoded in part:
                assert chunk.seq == seq
                seq += chunk.records
                found += decoded.table.to_pylist()
                position = chunk.position
            if not part:
                break
        assert found == reference
    size = connector.total_bytes()
    assert size is None or abs(size - total) <= 24  # what stands behind the last record of a compressed file
