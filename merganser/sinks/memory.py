"""The in-memory twin of the other sinks, for tests: rows become records of a ``memory`` connector."""

from __future__ import annotations

from collections.abc import Sequence

from merganser.codecs.encoding import Encoding
from merganser.sinks import Content, Sent
from merganser.sources.memory import Memory


def open(connector: Memory, name: str, sender: str, encoding: Encoding) -> MemoryWriter:
    return MemoryWriter(connector, name, sender)


def content(connector: Memory, name: str, sender: str, encoding: Encoding) -> dict[int, Content]:
    return {row[0]: (row[2], row[3]) for row in connector.sent.get((sender, name), [])}


def check(connector: Memory) -> None:
    pass


def format_of(connector: Memory) -> str:
    return "json"


def default_name(connector: Memory) -> str:
    return "memory"


class MemoryWriter:
    """Appends values to partition ``"0"``, and keeps the rows themselves in ``Memory.sent``."""

    linger = 0.0

    def __init__(self, memory: Memory, name: str, sender: str) -> None:
        self._memory = memory
        self._sent = memory.sent.setdefault((sender, name), [])

    def last(self) -> int:
        return self._sent[-1][0] if self._sent else 0

    def send(self, rows: Sequence[Sent]) -> None:
        self._sent += rows
        for row in rows:
            self._memory.feed(b"" if row.value is None else row.value)

    def close(self) -> None:
        pass
