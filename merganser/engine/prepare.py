"""What workers do with a chunk: decode it, check event times, run each view's row-local verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.codecs import Chunk, Codec, Place, Reject
from merganser.codecs.mending import MendingCodec, Mends
from merganser.codecs.messages import Messages, gathered
from merganser.engine.times import bad_times
from merganser.engine.times import times as event_times
from merganser.errors import RecordError
from merganser.operators.deduplicate import hash_name, hash_sql, with_hashes
from merganser.operators.rowlocal import RowLocal
from merganser.plan import Deduplicate, Node, Source


@dataclass(slots=True)
class Branch:
    """What came of a chunk at one node: its rows (None: no row; ``_keep`` marks those left), and what was refused."""

    table: pa.Table | None
    refused: list[Reject]

    def before(self, seq: int) -> Branch:
        table = None if self.table is None else self.table.filter(pa.array(self.table["_seq"].to_numpy() < seq))
        return Branch(table, [r for r in self.refused if r.seq < seq])


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
    weight: int
    """See ``Chunk.weight``."""
    position: dict[str, Any]
    times: npt.NDArray[np.int64]
    """Event time of each accepted record, in order."""
    seqs: npt.NDArray[np.int64]
    """Ordinal of each accepted record."""
    rejects: list[Reject]
    locate: Callable[[list[int]], list[tuple[Place, bytes]]] | None
    """Where records stand, and their bytes; None where no row can be refused in the store, so that the bytes may go."""
    branches: dict[Node, Branch] = field(default_factory=dict)

    def accepted(self, below: int) -> int:
        """How many records were accepted of those from an ordinal on."""
        return len(self.seqs) - int(np.searchsorted(self.seqs, below))

    def before(self, seq: int) -> Prepared:
        """What of it comes before an ordinal that lies in it."""
        count = int(np.searchsorted(self.seqs, seq))
        rejects = [r for r in self.rejects if r.seq < seq]
        branches = {node: branch.before(seq) for node, branch in self.branches.items()}
        return replace(
            self, end=seq, times=self.times[:count], seqs=self.seqs[:count], rejects=rejects, branches=branches
        )


class Preparer:
    """Prepares the chunks of one source; each worker thread has its own."""

    def __init__(
        self, source: Source, ends: Sequence[tuple[Node, Sequence[Deduplicate]]], mends: Mends, *, keeps: bool
    ) -> None:
        """``ends``: the last row-local node of each branch, with the deduplications that follow it. ``mends``: the source's.

        ``keeps``: keep the bytes of records until they are committed, for rows that are refused late.
        """
        self._source, self._mends, self._keeps = source, mends, keeps
        self._first = True
        self._ends = {
            node: RowLocal(list(node.chain())[-1], node, extra={hash_name(f): sql for f in followers if (sql := hash_sql(f))})
            for node, followers in ends
        }
        self._hashed = {node: [f for f in followers if hash_sql(f) is None] for node, followers in ends}
        self._codec: Codec = MendingCodec(source.codec(), source.schema, mends)

    def prepare(self, chunks: Sequence[Chunk]) -> list[Prepared]:
        """What each chunk gives. Messages are decoded at once, whatever their partitions: these may be many, with few each."""
        full = [chunk for chunk in chunks if chunk.records]
        if len(full) < 2 or self._mends or not all(isinstance(chunk.payload, Messages) for chunk in full):
            return [self._prepare(chunk) for chunk in chunks]
        whole = gathered(full)
        empty = [self._nothing(chunk) for chunk in chunks if not chunk.records]
        return [*self._split(self._prepare(whole), full), *empty]

    def _prepare(self, chunk: Chunk) -> Prepared:
        if not chunk.records:
            return self._nothing(chunk)
        decoded = self._codec.decode(chunk)
        faults.point("decode.after")
        table, rejects = decoded.table, list(decoded.rejects)
        assert len(table) + len(rejects) + decoded.passed == chunk.records, "a codec accounts for every record"
        times = event_times(self._source, table)
        bad = bad_times(self._source, chunk, table, times, first=self._first)
        self._first = False
        if bad:
            rejects += self._rejected(chunk, bad)
            good = np.ones(len(table), np.bool_)
            good[list(bad)] = False
            table, times = table.filter(pa.array(good)), times[good]
        rejects = sorted(self._whole(chunk, rejects), key=lambda r: r.seq)
        if rejects and self._source.on_error == "stop":
            raise stopped(self._source.name, rejects[0])
        seqs = table["_seq"].to_numpy()
        parts = _parts(chunk)
        cuts = np.searchsorted(seqs, _bounds(parts)) if parts else np.array([0, len(seqs)])
        table = table.append_column("_time", pa.array(times)).append_column("_wm", pa.array(self._watermarks(times, cuts)))
        prepared = Prepared(
            chunk.source, chunk.partition, chunk.seq, chunk.end, chunk.records, chunk.nbytes, chunk.weight, chunk.position, times,
            seqs, rejects, self._locate(chunk),
        )  # fmt: skip
        for node, compiled in self._ends.items():
            prepared.branches[node] = self._branch(compiled, chunk, table, self._hashed[node])
        return prepared

    def _nothing(self, chunk: Chunk) -> Prepared:
        """A chunk that only moves the position on."""
        none = np.empty(0, np.int64)
        prepared = Prepared(
            chunk.source, chunk.partition, chunk.seq, chunk.end, 0, 0, 0, chunk.position, none, none, [], locate=None
        )  # fmt: skip
        prepared.branches = {node: Branch(None, []) for node in self._ends}
        return prepared

    def _split(self, whole: Prepared, parts: Sequence[Chunk]) -> list[Prepared]:
        """What was prepared of gathered chunks as what each of them gives, with ordinals of its own."""
        bounds = _bounds(parts)
        ordinals = np.concatenate([part.payload.offsets for part in parts])
        seqs, cuts = ordinals[whole.seqs], np.searchsorted(whole.seqs, bounds)
        rejects = _by_part(whole.rejects, bounds, ordinals)
        found = [
            Prepared(
                part.source, part.partition, part.seq, part.end, part.records, part.nbytes, part.weight, part.position,
                whole.times[cuts[i] : cuts[i + 1]], seqs[cuts[i] : cuts[i + 1]], rejects.get(i, []), self._locate(part),
            )
            for i, part in enumerate(parts)
        ]  # fmt: skip
        for node, branch in whole.branches.items():
            refused = _by_part(branch.refused, bounds, ordinals)
            tables: list[pa.Table | None] = [None] * len(parts)
            if branch.table is not None:
                numbers = branch.table["_seq"].to_numpy()
                at = branch.table.column_names.index("_seq")
                table = branch.table.set_column(at, "_seq", pa.array(ordinals[numbers]))
                tables = [table.slice(a, b - a) if a < b else None for a, b in pairwise(np.searchsorted(numbers, bounds).tolist())]
            for i, prepared in enumerate(found):
                prepared.branches[node] = Branch(tables[i], refused.get(i, []))
        return found

    def _locate(self, chunk: Chunk) -> Callable[[list[int]], list[tuple[Place, bytes]]] | None:
        return (lambda wanted: self._codec.locate(chunk, wanted)) if self._keeps else None

    def _branch(self, compiled: RowLocal, chunk: Chunk, table: pa.Table, hashed: Sequence[Deduplicate]) -> Branch:
        if not len(table):
            return Branch(None, [])
        rows, refused = compiled.mark(table)
        if rows is not None:
            for follower in hashed:
                rows = with_hashes(follower, rows)
        if not refused:
            return Branch(rows, [])
        found = self._codec.locate(chunk, [r.seq for r in refused])
        rejects = [Reject(r.seq, place, raw, "not computed", r.detail) for r, (place, raw) in zip(refused, found)]
        if self._source.on_error == "stop":
            raise stopped(self._source.name, rejects[0])
        return Branch(rows, self._whole(chunk, rejects))

    def _whole(self, chunk: Chunk, rejects: list[Reject]) -> list[Reject]:
        """Rejects with the keys and headers of their messages, if they are sent on."""
        if self._source.dead_letters is None or not isinstance(chunk.payload, Messages):
            return rejects
        return [replace(r, **chunk.payload.envelope(r.seq)) for r in rejects]

    def _rejected(self, chunk: Chunk, bad: dict[int, tuple[int, str, str]]) -> list[Reject]:
        found = self._codec.locate(chunk, [seq for seq, _, _ in bad.values()])
        return [Reject(s, place, raw, why, detail) for (s, why, detail), (place, raw) in zip(bad.values(), found)]

    def _watermarks(self, times: npt.NDArray[np.int64], cuts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The watermark at each row, as far as this chunk knows; the store lifts it by what came before.

        ``cuts``: where the rows of each partition begin, and the last end.
        """
        marks = np.full(len(times), MIN_TIME)
        if self._source.time is not None and self._source.lateness is not None:
            for begin, end in pairwise(cuts.tolist()):
                np.maximum.accumulate(times[begin:end], out=marks[begin:end])
            marks -= self._source.lateness
        return marks


def _parts(chunk: Chunk) -> tuple[Chunk, ...]:
    """The chunks that a gathered one is made of; none for any other."""
    return chunk.payload.parts if isinstance(chunk.payload, Messages) else ()


def _bounds(parts: Sequence[Chunk]) -> npt.NDArray[np.int64]:
    """The ordinals in a gathered chunk at which its parts begin, and its end."""
    return np.cumsum([0, *(part.records for part in parts)])


def _by_part(rejects: Sequence[Reject], bounds: npt.NDArray[np.int64], ordinals: npt.NDArray[np.int64]) -> dict[int, list[Reject]]:
    """The rejects of a gathered chunk, by the number of the part that they are in, with its ordinals."""
    found: dict[int, list[Reject]] = {}
    for reject in rejects:
        part = int(np.searchsorted(bounds, reject.seq, "right")) - 1
        found.setdefault(part, []).append(replace(reject, seq=int(ordinals[reject.seq])))
    return found


def stopped(source: str, reject: Reject) -> RecordError:
    place = reject.place
    at = f", byte {place.byte}" if place.byte is not None else ""
    return RecordError(
        f"source {source!r} has a bad record ({reject.reason}): {reject.detail}. It is declared with on_error='stop';"
        " mend the record, or declare on_error='dead_letter' to keep it aside and go on",
        where=f"{place.file}:{place.line}{at}" if place.line is not None else place.file,
    )
