"""Protocol Buffers to Arrow: messages by cursors, those that are unusual by Google's library."""

from __future__ import annotations

import pyarrow as pa

from merganser.codecs.binary import Failure, accepted, completed
from merganser.codecs.cursor import Bytes, Cursor, Ints
from merganser.codecs.protobuf.fields import Record
from merganser.codecs.protobuf.reference import parsed
from merganser.errors import SourceError
from merganser.schema import Schema
from merganser.schema.protobuf import Message


class MessageReader:
    """Reads messages as the columns of a source: the fields of its message, or some of them by their names."""

    def __init__(self, schema: Schema, where: str, message: Message | None = None) -> None:
        """``message``: the writer's, where it is known; else the schema's own. Raises SourceError."""
        found = message or schema.written
        if not isinstance(found, Message):
            raise SourceError(
                f"{where} holds Protocol Buffers, whose bytes do not say what they mean: declare schema='order.proto#Order'"
            )
        self._schema, self._message, self._where = schema, found, where
        self._root = Record(found.descriptor, pa.struct(list(schema.arrow_schema())))

    def read(self, data: Bytes, start: Ints, end: Ints) -> tuple[pa.Table, Ints, list[Failure]]:
        """The rows, the number of the message of each, and the messages that are none."""
        cursor = Cursor(data, start.copy(), end)
        table = pa.table(self._root.columns(cursor), schema=pa.schema(list(self._root.type)))
        found = completed(table, cursor.ok, lambda raw: parsed(self._message, raw, self._root.type), data, start, end)
        return accepted(*found, self._schema, self._where)
