"""Codecs: bytes to typed Arrow rows, plus the records that could not be turned into rows.

The contract of a codec, checked by ``tests/codecs/contract.py``:

- ``decode`` accounts for every record of the chunk once: ``rows + rejects + passed == chunk.records``.
- Rows keep the order of the records; ``_seq`` says which record each row was.
- The answer for a record depends on its bytes only, never on the chunk it came in.
- A bad record becomes a ``Reject`` with its exact bytes; it never spoils its neighbours and never raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

SEQ = "_seq"
"""Column of every decoded table: the record's ordinal in its partition (int64, ascending). In files records are counted from 0;
a Kafka message has its offset, and offsets have gaps."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands: a file (or topic), the byte it begins at, its line or row number (from 1)."""

    file: str
    byte: int | None
    line: int | None


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that could not be decoded: what it was, byte for byte, where it stood, and why it is no row."""

    seq: int
    place: Place
    raw: bytes
    reason: str
    """A stable code for grouping: ``not json``, ``not utf-8``, ``wrong type``, ``missing field``, ``too long``, …"""
    detail: str
    """A sentence: what was expected and what was found, with the column where there is one."""
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    """Of a message, where dead letters are sent on."""


INFLATED = 8
"""Times that a piece of a file may grow in memory before it counts as a larger one: what is usual for compressed files."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole records of one partition, in order, not yet decoded.

    It covers the ordinals from ``seq`` up to ``end``; of these ``records`` are records. A chunk of none says that there
    is nothing in what it covers (aborted transactions, messages that were compacted away).
    ``payload`` is what the codec takes: ``Lines`` (JSON), ``CsvPayload``, a ``pa.Table`` (Parquet, Arrow) or ``Messages``.
    ``position`` is where to go on reading after this chunk: plain JSON, understood by the reader that made it.
    """

    source: str
    partition: str
    seq: int
    records: int
    place: Place
    payload: Any
    position: dict[str, Any]
    nbytes: int
    rejects: tuple[Reject, ...] = field(default=())
    """Records that the reader itself had to refuse (longer than ``max_record_bytes``); counted in ``records``."""
    until: int | None = None
    """``end`` where ordinals have gaps."""
    memory: int = 0
    """Bytes of a payload that is larger than ``nbytes``, which are those of the file."""

    @property
    def weight(self) -> int:
        """What it counts for where memory is bounded. Some bytes of a file may become a thousand times as many."""
        return max(self.nbytes, self.memory // INFLATED)

    @property
    def end(self) -> int:
        """The ordinal behind the last one that is covered: where the next chunk begins."""
        return self.seq + self.records if self.until is None else self.until


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a codec made of a chunk: a table of the schema's columns and ``_seq``, and the rejects, by ``seq``.

    ``passed``: records that are no events (a marker that repeats what the record before it said), which leave gaps.
    """

    table: pa.Table
    rejects: list[Reject]
    passed: int = 0


class Codec(Protocol):
    """Turns chunks into tables. Made once per worker thread, so it may keep a DuckDB instance of its own."""

    def decode(self, chunk: Chunk) -> Decoded: ...

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        """Where the given records of a chunk stand and their exact bytes: for rows that are refused after decoding.

        For columnar formats the bytes are the row as a JSON object (their records have no bytes of their own).
        """
        ...
