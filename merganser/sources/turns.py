"""A reader made of readers of one partition each, which take turns: for logs that are read one by one, as files are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from merganser.codecs import Chunk
from merganser.errors import UsageError
from merganser.sources import Position


class PartitionReader(Protocol):
    """Reads one partition."""

    def read(self, max_bytes: int) -> Chunk | None: ...

    @property
    def finished(self) -> bool:
        """True when the end was reached in a run that does not follow."""
        ...

    @property
    def immutable(self) -> bool:
        """True when ``finished`` is for ever."""
        ...

    def close(self) -> None: ...


class Whole:
    """What connectors to logs have in common in which no place is known but those that were come to."""

    __slots__ = ()

    def origin(self, positions: Sequence[Position], *, late: bool = False, whole: bool = False) -> Position | None:
        return None

    def moved(self, old: Position | None, new: Position) -> Position:
        return new

    def replayed(self, begin: str) -> Self:
        raise UsageError(f"a replay from {begin} needs a log that knows times and offsets, as Kafka does; rebuild the view instead")

    def total_bytes(self) -> int | None:
        return None


class Turns:
    """Reads a partition as long as it has something, and begins with the next one after it the next time."""

    def __init__(self, open_one: Callable[[str, Position | None], PartitionReader]) -> None:
        self._open_one = open_one
        self._readers: dict[str, PartitionReader] = {}
        self._finished: list[tuple[str, bool]] = []
        self._turn = 0

    def add(self, partition: str, position: Position | None) -> None:
        self._readers[partition] = self._open_one(partition, position)

    def read(self, max_bytes: int) -> Chunk | None:
        names = list(self._readers)
        for i in range(len(names)):
            at = (self._turn + i) % len(names)
            reader = self._readers[names[at]]
            chunk = reader.read(max_bytes)
            if chunk is not None:
                self._turn = at
                return chunk
            if reader.finished:
                self._finished.append((names[at], reader.immutable))
                reader.close()
                del self._readers[names[at]]
        self._turn += 1
        return None

    def finished(self) -> list[tuple[str, bool]]:
        found, self._finished = self._finished, []
        return found

    def committed(self, positions: Mapping[str, Position]) -> None:
        pass  # the store's positions are the only ones

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
