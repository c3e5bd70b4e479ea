"""The blocks of Avro object container files.

The records of a block follow each other without lengths, so their ends are found first: the blocks of a chunk are gone
through side by side, the n-th record of each at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.avro.datums import DatumReader
from merganser.codecs.avro.lanes import starts
from merganser.codecs.avro.node import Node, Scan
from merganser.codecs.avro.resolution import Resolver
from merganser.codecs.binary import Broken
from merganser.codecs.cursor import Bytes, Cursor, Ints
from merganser.schema import Schema
from merganser.schema.avro import AvroSchema

LANES = 12
"""Blocks from which on going through them side by side is faster than one after the other."""

@dataclass(frozen=True, slots=True)
class Block:
    """A block of a container file, decompressed: its records, how many they are, and where it stands in the file."""

    data: bytes
    count: int
    byte: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """The payload of a chunk of a container file: blocks of records of one writer."""

    writer: AvroSchema
    blocks: tuple[Block, ...]


class AvroCodec:
    """Decodes blocks of container files. For one thread."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._readers: dict[AvroSchema, tuple[DatumReader, Node]] = {}

    def decode(self, chunk: Chunk) -> Decoded:
        payload: Blocks = chunk.payload
        reader, own = self._reader(payload.writer, chunk.place.file)
        if not payload.blocks:  # the reader had to refuse what there is
            nothing = self._schema.arrow_schema().empty_table()
            return Decoded(nothing.append_column(SEQ, pa.array([], pa.int64())), [])
        data, start, end, lost = self._records(payload, own)
        rows, numbers, failures = reader.read(data, start, end)
        number = _positions(payload, lost)
        rejects = [
            self._reject(chunk, int(number[i]), data.octets[start[i] : end[i]].tobytes(), reason, detail)
            for i, reason, detail in failures
        ]
        rejects += [self._reject(chunk, i, raw, reason, detail) for i, raw, reason, detail in lost]
        table = rows.append_column(SEQ, pa.array(chunk.seq + number[numbers]))
        return Decoded(table, sorted(rejects, key=lambda r: r.seq))

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        payload: Blocks = chunk.payload
        _, own = self._reader(payload.writer, chunk.place.file)
        data, start, end, lost = self._records(payload, own)
        number = _positions(payload, lost)
        found = []
        for seq in seqs:
            i = int(np.searchsorted(number, seq - chunk.seq))
            found.append((self._place(chunk, seq - chunk.seq), data.octets[start[i] : end[i]].tobytes()))
        return found

    def _reader(self, writer: AvroSchema, file: str) -> tuple[DatumReader, Node]:
        if writer not in self._readers:
            self._readers[writer] = DatumReader(self._schema, writer, file), Resolver(writer, writer).root()
        return self._readers[writer]

    def _reject(self, chunk: Chunk, number: int, raw: bytes, reason: str, detail: str) -> Reject:
        return Reject(chunk.seq + number, self._place(chunk, number), raw, reason, detail)

    def _place(self, chunk: Chunk, number: int) -> Place:
        payload: Blocks = chunk.payload
        block = int(np.searchsorted(np.cumsum([b.count for b in payload.blocks]), number, side="right"))
        line = None if chunk.place.line is None else chunk.place.line + number
        return Place(chunk.place.file, payload.blocks[block].byte, line)

    def _records(self, payload: Blocks, own: Node) -> tuple[Bytes, Ints, Ints, list[tuple[int, bytes, str, str]]]:
        """All records' bytes, where each begins and ends; and those that cannot be told apart: number, bytes, reason, detail."""
        data = Bytes(b"".join(b.data for b in payload.blocks))
        sizes = np.array([len(b.data) for b in payload.blocks])
        stop = np.cumsum(sizes)
        count = np.array([b.count for b in payload.blocks])
        start, end, broken = boundaries(own, data, stop - sizes, stop, count)
        lost: list[tuple[int, bytes, str, str]] = []
        first = np.cumsum(count) - count
        for block, (k, at, reason, detail) in sorted(broken.items()):
            begin = int(first[block]) + k
            lost.append((begin, data.octets[at : stop[block]].tobytes(), reason, detail))
            for number in range(begin + 1, int(first[block] + count[block])):
                lost.append((number, b"", "lost", f"where record {number} of the chunk begins cannot be known: see that before it"))
        if lost:
            keep = np.ones(len(start), np.bool_)
            keep[[number for number, *_ in lost]] = False
            start, end = start[keep], end[keep]
        return data, start, end, lost


def _positions(payload: Blocks, lost: list[tuple[int, bytes, str, str]]) -> Ints:
    """The numbers of the records that could be told apart."""
    numbers = np.arange(sum(b.count for b in payload.blocks))
    return np.delete(numbers, [number for number, *_ in lost]) if lost else numbers


def boundaries(
    node: Node, data: Bytes, begin: Ints, stop: Ints, count: Ints
) -> tuple[Ints, Ints, dict[int, tuple[int, int, str, str]]]:
    """Where the records of blocks begin and end, by block. And by broken block: its first bad record, where, why."""
    first = np.cumsum(count) - count
    start, end = np.zeros(int(count.sum()), np.int64), np.zeros(int(count.sum()), np.int64)
    at, done = begin.copy(), np.zeros(len(begin), np.int64)
    unread = count > 0
    if (guessed := starts(node, data, begin, stop, count)) is not None:
        start, end, known = guessed
        unread &= ~known
    live = np.flatnonzero(unread)
    doubtful: list[int] = []
    k, shortest = 0, int(count[live].min(initial=0))
    while len(live) >= LANES:
        cursor = Cursor(data, at[live], stop[live])
        before = at[live]
        node.skip(cursor)
        if np.count_nonzero(cursor.ok) < len(live):
            doubtful += live[~cursor.ok].tolist()
            live, before, after = live[cursor.ok], before[cursor.ok], cursor.at[cursor.ok]
        else:
            after = cursor.at
        start[first[live] + k], end[first[live] + k] = before, after
        at[live] = after
        k += 1
        done[live] = k
        if k >= shortest:
            live = live[count[live] > k]
            shortest = int(count[live].min(initial=0))
    broken: dict[int, tuple[int, int, str, str]] = {}
    for block in [*doubtful, *live.tolist()]:
        wrong = _one_by_one(node, data, int(at[block]), int(stop[block]), int(done[block]), int(count[block]), int(first[block]),
                            start, end)  # fmt: skip
        if wrong:
            broken[block] = wrong
    for block in range(len(begin)):
        last = int(first[block] + count[block]) - 1
        if block not in broken and count[block] and end[last] != stop[block]:
            left = int(stop[block] - end[last])
            broken[block] = (
                int(count[block]) - 1, int(start[last]), "trailing bytes", f"{left} bytes are left behind the last record"
            )
    return start, end, broken


def _one_by_one(
    node: Node, data: Bytes, at: int, stop: int, k: int, count: int, first: int, start: Ints, end: Ints
) -> tuple[int, int, str, str] | None:
    scan = Scan(data.octets[at:stop].tobytes())
    for number in range(k, count):
        scan.empty, scan.elements, scan.depth = 0, 0, 0
        before = scan.at
        try:
            node.one(scan)
        except Broken as error:
            if error.reason not in ("cut off", "not avro", "too many elements", "nested too deeply"):
                # A value that is none, in a record whose end is known all the same: read past it without a look.
                found = _past(node, data, at + before, stop)
                if found is not None:
                    scan.at = found - at
                    start[first + number], end[first + number] = at + before, found
                    continue
            return number, at + before, error.reason, error.detail
        start[first + number], end[first + number] = at + before, at + scan.at
    return None


def _past(node: Node, data: Bytes, at: int, stop: int) -> int | None:
    cursor = Cursor(data, np.array([at]), np.array([stop]))
    node.skip(cursor)
    return int(cursor.at[0]) if cursor.ok[0] else None
