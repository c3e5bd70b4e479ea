"""Events in memory: the twin of the other connectors, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.json import JsonCodec, Lines
from merganser.errors import UsageError
from merganser.schema import Schema
from merganser.sources import Position
from merganser.sources.turns import Turns, Whole

Record = bytes | Mapping[str, Any]


def memory(partitions: Mapping[str, Sequence[Record]] | Sequence[Record]) -> Memory:
    """Events held in memory, by partition: rows as mappings, or JSON lines as bytes (bad ones too)."""
    if not isinstance(partitions, Mapping):
        partitions = {"0": partitions}
    return Memory({name: [_line(r) for r in records] for name, records in partitions.items()})


def _line(record: Record) -> bytes:
    return record if isinstance(record, bytes) else json.dumps(record, default=str).encode()


@dataclass(frozen=True, eq=False)
class Memory(Whole):
    """The connector to events in memory; see ``memory``."""

    in_order: ClassVar[bool] = False

    lines: dict[str, list[bytes]] = field(repr=False)
    sent: dict[tuple[str, str], list[Any]] = field(default_factory=dict, repr=False)
    """What was written here, by sender and sink."""

    def feed(self, record: Record, partition: str = "0") -> None:
        """Append an event, also while a flow follows."""
        self.lines.setdefault(partition, []).append(_line(record))

    def describe(self) -> str:
        return f"memory ({len(self.lines)} partition{'s' if len(self.lines) != 1 else ''})"

    def check(self) -> None:
        if not self.lines:
            raise UsageError("memory() has no partition")

    def partitions(self) -> list[str]:
        return list(self.lines)

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Turns:
        return Turns(lambda partition, position: MemoryReader(self.lines[partition], source, partition, position, follow))

    def metadata(self, schema: Schema) -> dict[str, str]:
        return {}

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        return JsonCodec(schema)

    def total_bytes(self) -> int | None:
        return sum(len(line) + 1 for lines in list(self.lines.values()) for line in lines)


class MemoryReader:
    """Reads one partition; its position is ``seq``, the records behind it."""

    immutable = False

    def __init__(self, lines: list[bytes], source: str, partition: str, position: Position | None, follow: bool) -> None:
        self._lines, self._source, self.partition, self._follow = lines, source, partition, follow
        self._seq: int = (position or {}).get("seq", 0)

    @property
    def finished(self) -> bool:
        return not self._follow and self._seq >= len(self._lines)

    def read(self, max_bytes: int) -> Chunk | None:
        first, size = self._seq, 0
        while self._seq < len(self._lines) and (size == 0 or size + len(self._lines[self._seq]) < max_bytes):
            size += len(self._lines[self._seq]) + 1
            self._seq += 1
        if self._seq == first:
            return None
        payload = b"".join(line + b"\n" for line in self._lines[first : self._seq])
        byte = sum(len(line) + 1 for line in self._lines[:first])
        place = Place(f"memory:{self.partition}", byte, first + 1)
        return Chunk(
            self._source, self.partition, first, self._seq - first, place, Lines.of(payload), {"seq": self._seq}, len(payload)
        )

    def close(self) -> None:
        pass
