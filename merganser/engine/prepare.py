"""What workers do with a chunk: decode it, check event times, run each view's row-local verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.codecs import Chunk, Codec, Place, Reject
from merganser.codecs.mending import MendingCodec, Mends
from merganser.engine.times import bad_times
from merganser.engine.times import times as event_times
from merganser.errors import RecordError
from merganser.operators.deduplicate import hash_sql
from merganser.operators.rowlocal import RowLocal
from merganser.plan import Deduplicate, Node, Source
from merganser.sql import literal


@dataclass(slots=True)
class Branch:
    """What came of a chunk at one node: its rows (None: no row; ``_keep`` marks those left), and what was refused."""

    table: pa.Table | None
    refused: list[Reject]


@dataclass(slots=True)
class Prepared:
    """A chunk after the workers: ready for the store, in any order within an epoch."""

    source: str
    partition: str
    seq: int
    end: int
    """It covers the ordinals from ``seq`` up to ``end``."""
    records: int
    nbytes: int
    position: dict[str, Any]
    times: npt.NDArray[np.int64]
    """Event time of each accepted record, in order."""
    seqs: npt.NDArray[np.int64]
    """Ordinal of each accepted record."""
    rejects: list[Reject]
    locate: Callable[[list[int]], list[tuple[Place, bytes]]]
    """Where records stand, and their bytes; for rows that are refused in the store."""
    branches: dict[Node, Branch] = field(default_factory=dict)


class Preparer:
    """Prepares the chunks of one source; each worker thread has its own."""

    def __init__(self, source: Source, ends: Sequence[tuple[Node, Sequence[Deduplicate]]], mends: Mends) -> None:
        """``ends``: the last row-local node of each branch, with the deduplications that follow it. ``mends``: the source's."""
        self._source = source
        self._codec: Codec = MendingCodec(source.codec(), source.schema, mends)
        self._first = True
        self._ends = ends
        self._compiled: dict[tuple[Node, str], RowLocal] = {}

    def prepare(self, chunk: Chunk) -> Prepared:
        if not chunk.records:
            return self._nothing(chunk)
        decoded = self._codec.decode(chunk)
        faults.point("decode.after")
        table, rejects = decoded.table, list(decoded.rejects)
        assert len(table) + len(rejects) == chunk.records, "a codec accounts for every record"
        times = event_times(self._source, table)
        bad = bad_times(self._source, chunk, table, times, first=self._first)
        self._first = False
        if bad:
            rejects += self._rejected(chunk, bad)
            good = np.ones(len(table), np.bool_)
            good[list(bad)] = False
            table, times = table.filter(pa.array(good)), times[good]
        rejects.sort(key=lambda r: r.seq)
        if rejects and self._source.on_error == "stop":
            raise stopped(self._source.name, rejects[0])
        seqs = table["_seq"].to_numpy()
        table = table.append_column("_time", pa.array(times)).append_column("_wm", pa.array(self._watermarks(times)))
        prepared = Prepared(
            chunk.source, chunk.partition, chunk.seq, chunk.end, chunk.records, chunk.nbytes, chunk.position, times, seqs, rejects,
            locate=lambda wanted: self._codec.locate(chunk, wanted),
        )  # fmt: skip
        for node, followers in self._ends:
            prepared.branches[node] = self._branch(node, followers, chunk, table)
        return prepared

    def _nothing(self, chunk: Chunk) -> Prepared:
        """A chunk that only moves the position on."""
        none = np.empty(0, np.int64)
        prepared = Prepared(
            chunk.source, chunk.partition, chunk.seq, chunk.end, 0, 0, chunk.position, none, none, [], locate=lambda wanted: []
        )  # fmt: skip
        prepared.branches = {node: Branch(None, []) for node, _ in self._ends}
        return prepared

    def _branch(self, node: Node, followers: Sequence[Deduplicate], chunk: Chunk, table: pa.Table) -> Branch:
        compiled = self._compiled.get((node, chunk.partition))
        if compiled is None:
            hashed = tuple(hash_sql(follower, literal(chunk.partition)) for follower in followers)
            start = list(node.chain())[-1]
            compiled = self._compiled[node, chunk.partition] = RowLocal(start, node, extra=hashed)
        if not len(table):
            return Branch(None, [])
        rows, refused = compiled.mark(table)
        if not refused:
            return Branch(rows, [])
        found = self._codec.locate(chunk, [r.seq for r in refused])
        rejects = [Reject(r.seq, place, raw, "not computed", r.detail) for r, (place, raw) in zip(refused, found)]
        if self._source.on_error == "stop":
            raise stopped(self._source.name, rejects[0])
        return Branch(rows, rejects)

    def _rejected(self, chunk: Chunk, bad: dict[int, tuple[int, str, str]]) -> list[Reject]:
        found = self._codec.locate(chunk, [seq for seq, _, _ in bad.values()])
        return [Reject(s, place, raw, why, detail) for (s, why, detail), (place, raw) in zip(bad.values(), found)]

    def _watermarks(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The watermark at each row, as far as this chunk knows; the store lifts it by what came before."""
        if self._source.time is None or self._source.lateness is None:
            return np.full(len(times), MIN_TIME)
        return np.maximum.accumulate(times) - self._source.lateness if len(times) else times


def stopped(source: str, reject: Reject) -> RecordError:
    place = reject.place
    at = f", byte {place.byte}" if place.byte is not None else ""
    return RecordError(
        f"source {source!r} has a bad record ({reject.reason}): {reject.detail}. It is declared with on_error='stop';"
        " mend the record, or declare on_error='dead_letter' to keep it aside and go on",
        where=f"{place.file}:{place.line}{at}" if place.line is not None else place.file,
    )
