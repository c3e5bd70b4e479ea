"""Lanes: what Bytewax calls partitions. Bytewax lists them once, so each may read several source partitions.

Errors never go through Bytewax, which would print a panic of its own: they are kept in the run, and the lanes end.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from merganser import faults
from merganser.codecs import Chunk
from merganser.engine.committer import Progressed
from merganser.plan import Source
from merganser.sources import Position, Reader

LIST_AGAIN = 1.0
"""Seconds between looks for new partitions while following."""

FIRST_BYTES = 1 << 20
"""The first chunks of a lane have this size, and make the first epoch, the next ones eight times as much, and so on: so the
committer soon has something to do."""

BUSY, QUIET = timedelta(milliseconds=5), timedelta(milliseconds=100)
"""How soon a lane without news is woken: soon while others have some, since an epoch waits for every lane."""


@dataclass
class Shared:
    """What the lanes of a run have in common."""

    follow: bool
    chunk_bytes: int
    chunks: int
    """Chunks that a lane emits at a time, one for each worker."""
    start: Callable[[str, str], Position | None]
    """Where to begin a partition of a source."""
    progressed: Progressed
    stop: threading.Event
    committed: Callable[[], Mapping[tuple[str, str], Position]]
    """By source and partition the position that the store has come to; a new mapping after each commit."""
    end: Callable[[BaseException], None]
    """End the run with an error, once what was read before is committed."""
    accept_gap: bool = False
    pending: bool = False
    """Whether the store has rows that are not committed."""
    finished: set[tuple[str, str]] = field(default_factory=set)
    ended: set[tuple[str, str]] = field(default_factory=set)
    last_news: float = field(default_factory=time.monotonic)
    read_to: dict[tuple[str, str], int] = field(default_factory=dict)
    """By source and partition: the records behind what was read."""
    asked: float = float("-inf")
    """When somebody last asked whether all that there is has been read: lanes then look for partitions at once."""
    looked: dict[str, float] = field(default_factory=dict)
    """By lane: when it last listed its partitions and then found nothing to read in any."""
    lanes: list[Lane] = field(default_factory=list)

    def release(self, committed: Mapping[tuple[str, str], Position]) -> None:
        """Close all readers, told what the store has come to."""
        for lane in self.lanes:
            lane.release(committed)


class Lane(StatefulSourcePartition[tuple[str, Sequence[Chunk]], None]):
    """Reads its share of a source's partitions."""

    def __init__(self, name: str, source: Source, index: int, count: int, shared: Shared) -> None:
        self._name, self._source, self._index, self._count, self._shared = name, source, index, count, shared
        self._reader: Reader | None = None
        self._reading: set[str] = set()
        self._done: set[str] = set()
        self._listed = float("-inf")
        self._size = min(shared.chunk_bytes, FIRST_BYTES)
        self._told: Mapping[tuple[str, str], Position] = {}
        self._idle = False

    def next_batch(self) -> Iterable[tuple[str, Sequence[Chunk]]]:
        if self._shared.stop.is_set():
            raise StopIteration
        try:
            chunks = self._read()
        except BaseException as error:
            self._shared.end(error)
            raise StopIteration from None
        self._idle = not chunks
        if chunks:
            self._shared.last_news = time.monotonic()
            faults.point("read.after")
        elif not self._shared.follow and not self._reading:
            self._shared.looked[self._name] = float("inf")
            raise StopIteration
        else:
            self._shared.looked[self._name] = self._listed
            if self._shared.pending:
                # Bytewax asks the store whether to commit only in epochs in which something came to it.
                return [("tick", ())]
        return [(f"{some[0].partition}/{some[0].seq}", some) for some in self._together(chunks)]

    def _together(self, chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
        """Small chunks (of many partitions, or while there is little) in one piece of work."""
        some: list[Chunk] = []
        for chunk in chunks:
            if some and sum(c.weight for c in some) + chunk.weight > self._shared.chunk_bytes:
                yield some
                some = []
            some.append(chunk)
        if some:
            yield some

    def next_awake(self) -> datetime | None:
        if not self._idle:
            return None
        busy = time.monotonic() - self._shared.last_news < 1.0
        return datetime.now(UTC) + (BUSY if busy else QUIET)

    def snapshot(self) -> None:
        return None  # positions are in the store

    def release(self, committed: Mapping[tuple[str, str], Position]) -> None:
        """Close the reader. Not when Bytewax closes the lane: the last epoch is not committed by then."""
        if self._reader is not None:
            self._tell(self._reader, committed)
            self._reader.close()

    def _read(self) -> list[Chunk]:
        """The next chunks of the partitions that have some."""
        if self._reader is None:
            self._reader = self._source.connector.open(
                self._source.name, follow=self._shared.follow, accept_gap=self._shared.accept_gap
            )
        self._add_new(self._reader)
        self._tell(self._reader, self._shared.committed())
        chunks: list[Chunk] = []
        weight = 0
        size, self._size = self._size, min(self._shared.chunk_bytes, 8 * self._size)
        most = self._shared.chunks * size
        # Small ones (of many partitions, or while there is little) travel together: a turn of Bytewax costs more than they do.
        while weight + size // 2 < most:  # a chunk ends with a record, so it is a little smaller
            try:
                chunk = self._reader.read(size)
            except BaseException as error:
                self._shared.end(error)
                return chunks
            if chunk is None:
                break
            chunks.append(chunk)
            weight += chunk.weight
            self._shared.read_to[chunk.source, chunk.partition] = chunk.end
            self._shared.progressed.read += chunk.records
            self._shared.progressed.read_bytes += chunk.nbytes
        for name, for_ever in self._reader.finished():
            self._shared.finished.add((self._source.name, name))
            if for_ever:
                self._shared.ended.add((self._source.name, name))
            self._reading.discard(name)
            self._done.add(name)
        return chunks

    def _tell(self, reader: Reader, committed: Mapping[tuple[str, str], Position]) -> None:
        """Tell the reader what the store has come to since it was last told."""
        if committed is not self._told:
            self._told = committed
            mine = {p: at for (source, p), at in committed.items() if source == self._source.name and self._is_mine(p)}
            reader.committed(mine)

    def _is_mine(self, partition: str) -> bool:
        return zlib.crc32(partition.encode()) % self._count == self._index

    def _add_new(self, reader: Reader) -> None:
        """Add partitions that are new. While following, it looks for them again and again."""
        now = time.monotonic()
        if self._listed > 0 and not self._shared.follow:
            return
        if now - self._listed < LIST_AGAIN and self._listed >= self._shared.asked:
            return
        self._listed = now
        for name in self._source.connector.partitions():
            if self._is_mine(name) and name not in self._reading and name not in self._done:
                reader.add(name, self._shared.start(self._source.name, name))
                self._reading.add(name)


class Lanes(FixedPartitionedSource[tuple[str, Sequence[Chunk]], None]):
    """The one input of every dataflow: the lanes of all its sources."""

    def __init__(self, sources: list[Source], workers: int, shared: Shared) -> None:
        self._lanes: dict[str, tuple[Source, int, int]] = {}
        for source in sources:
            count = workers if shared.follow else min(workers, max(1, len(source.connector.partitions())))
            for index in range(count):
                self._lanes[f"{source.name}/{index}"] = (source, index, count)
        self._shared = shared
        shared.looked.update(dict.fromkeys(self._lanes, float("-inf")))

    def list_parts(self) -> list[str]:
        return list(self._lanes)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Lane:
        source, index, count = self._lanes[for_part]
        lane = Lane(for_part, source, index, count, self._shared)
        self._shared.lanes.append(lane)
        return lane
