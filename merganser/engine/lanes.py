"""Lanes: what Bytewax calls partitions. Bytewax lists them once, so each may read several source partitions.

Errors never go through Bytewax, which would print a panic of its own: they are kept in the run, and the lane ends.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable
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
    fail: Callable[[BaseException], None]
    pending: bool = False
    """Whether the store has rows that are not committed."""
    finished: set[tuple[str, str]] = field(default_factory=set)
    ended: set[tuple[str, str]] = field(default_factory=set)
    last_news: float = field(default_factory=time.monotonic)


class Lane(StatefulSourcePartition[tuple[str, Chunk | None], None]):
    """Reads its share of a source's partitions in turn."""

    def __init__(self, source: Source, index: int, count: int, shared: Shared) -> None:
        self._source, self._index, self._count, self._shared = source, index, count, shared
        self._readers: dict[str, Reader] = {}
        self._done: set[str] = set()
        self._listed = float("-inf")
        self._turn = 0
        self._idle = False

    def next_batch(self) -> Iterable[tuple[str, Chunk | None]]:
        if self._shared.stop.is_set():
            self.close()
            raise StopIteration
        try:
            chunks = self._read()
        except BaseException as error:
            self._shared.fail(error)
            self.close()
            raise StopIteration from None
        self._idle = not chunks
        if chunks:
            self._shared.last_news = time.monotonic()
            faults.point("read.after")
        elif not self._shared.follow and not self._readers:
            raise StopIteration
        elif self._shared.pending:
            # Bytewax asks the store whether to commit only in epochs in which something came to it.
            return [("tick", None)]
        return [(f"{c.partition}/{c.seq}", c) for c in chunks]

    def next_awake(self) -> datetime | None:
        if not self._idle:
            return None
        busy = time.monotonic() - self._shared.last_news < 1.0
        return datetime.now(UTC) + (BUSY if busy else QUIET)

    def snapshot(self) -> None:
        return None  # positions are in the store

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _read(self) -> list[Chunk]:
        """The next chunks of the partitions that have some, in turn."""
        self._open_new()
        chunks: list[Chunk] = []
        names = list(self._readers)
        for i in range(len(names)):
            name = names[(self._turn + i) % len(names)]
            reader = self._readers[name]
            while len(chunks) < self._shared.chunks:
                chunk = reader.read(self._shared.chunk_bytes)
                if chunk is None:
                    break
                chunks.append(chunk)
                self._shared.progressed.read += chunk.records
                self._shared.progressed.read_bytes += chunk.nbytes
            else:
                self._turn = (self._turn + i) % len(names)
                return chunks
            if reader.finished:
                self._finish(name, reader)
        self._turn += 1
        return chunks

    def _finish(self, name: str, reader: Reader) -> None:
        self._shared.finished.add((self._source.name, name))
        if reader.immutable:
            self._shared.ended.add((self._source.name, name))
        reader.close()
        del self._readers[name]
        self._done.add(name)

    def _open_new(self) -> None:
        """Open readers for partitions that are new. While following, it looks for them again and again."""
        now = time.monotonic()
        if now - self._listed < LIST_AGAIN or (self._listed > 0 and not self._shared.follow):
            return
        self._listed = now
        for name in self._source.connector.partitions():
            if name in self._readers or name in self._done or zlib.crc32(name.encode()) % self._count != self._index:
                continue
            position = self._shared.start(self._source.name, name)
            self._readers[name] = self._source.connector.open(
                self._source.name, name, position, follow=self._shared.follow
            )


class Lanes(FixedPartitionedSource[tuple[str, Chunk | None], None]):
    """The one input of every dataflow: the lanes of all its sources."""

    def __init__(self, sources: list[Source], workers: int, shared: Shared) -> None:
        self._lanes: dict[str, tuple[Source, int, int]] = {}
        for source in sources:
            count = workers if shared.follow else min(workers, max(1, len(source.connector.partitions())))
            for index in range(count):
                self._lanes[f"{source.name}/{index}"] = (source, index, count)
        self._shared = shared

    def list_parts(self) -> list[str]:
        return list(self._lanes)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Lane:
        source, index, count = self._lanes[for_part]
        return Lane(source, index, count, self._shared)
