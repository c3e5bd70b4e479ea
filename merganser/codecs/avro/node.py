"""A tree of nodes, made from a writer's and a reader's schema, that reads many Avro datums side by side.

Each node reads in two ways that give the same values:

- ``read`` takes a cursor over many datums, and marks those that it cannot take (``skip``: the same without values);
- ``one`` takes a single datum that was marked, byte by byte: it takes the unusual ones, and says what is wrong with the others.

Both are checked value by value against fastavro. Format: Apache Avro specification 1.12, "Binary encoding".
"""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from merganser.codecs.binary import Broken
from merganser.codecs.cursor import Cursor


class Scan:
    """One datum, read byte by byte."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.empty = 0
        """Elements of no bytes so far."""
        self.elements = 0
        """Elements so far, whatever bytes they have."""
        self.depth = 0

    def take(self, size: int) -> bytes:
        if size < 0:
            raise Broken("not avro", f"byte {self.at}: a length of {size}")
        if size > len(self.data) - self.at:
            raise Broken("cut off", f"byte {self.at}: {size} more bytes were expected, {len(self.data) - self.at} are there")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            octet = self.take(1)[0]
            value |= (octet & 127) << shift
            if octet < 128:
                break
            shift += 7
            if shift > 63:
                raise Broken("not avro", f"byte {self.at}: a number of more than ten bytes")
        if value >> 64:
            raise Broken("out of range", f"byte {self.at}: a number of more than 64 bits")
        return (value >> 1) ^ -(value & 1)


class Node(Protocol):
    """Reads values of one writer type as one reader type. ``type`` is the Arrow type of what ``read`` returns."""

    @property
    def type(self) -> pa.DataType: ...

    def read(self, c: Cursor) -> pa.Array: ...

    def skip(self, c: Cursor) -> None: ...

    def one(self, s: Scan) -> Any:
        """A value as ``binary.array`` takes it. Raises Broken."""
        ...
