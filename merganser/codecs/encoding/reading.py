"""The rows of what was written, as a reader has them: for ``verify``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.avro import DatumReader
from merganser.codecs.binary import BinaryCodec, Delimited
from merganser.codecs.csv import CsvCodec, CsvPayload
from merganser.codecs.encoding import Encoding
from merganser.codecs.framing import HEAD, ConfluentReader, SingleObjectReader
from merganser.codecs.json import JsonCodec, Lines


def reading(encoding: Encoding) -> Callable[[Sequence[bytes]], pa.Table]:
    """What makes a table of the target's columns of pieces that were written in it; for ``verify``."""
    target = encoding.target
    if encoding.columnar:
        return lambda pieces: pa.concat_tables(
            [target.arrow_schema().empty_table(), *(pyarrow.ipc.open_stream(p).read_all() for p in pieces)]
        )
    framed = encoding.registry is not None and encoding.subject is not None
    codec: Codec
    if encoding.format == "json":
        codec = JsonCodec(target)
    elif encoding.format == "csv":
        codec = CsvCodec(target)
    elif encoding.format == "avro-single-object":
        codec = BinaryCodec(SingleObjectReader(target, [target.written], "the sink"))
    elif framed and encoding.registry is not None:
        codec = BinaryCodec(ConfluentReader(target, encoding.registry, encoding.format, "the sink"))
    elif encoding.format == "avro":
        codec = BinaryCodec(DatumReader(target, target.written, "the sink"))
    else:
        from merganser.codecs.protobuf import MessageReader

        codec = BinaryCodec(MessageReader(target, "the sink"))

    def read(pieces: Sequence[bytes]) -> pa.Table:
        payload: Any
        if encoding.format == "json":
            payload = Lines.of(b"".join(p[HEAD:] + b"\n" if framed else p + b"\n" for p in pieces))
        elif encoding.format == "csv":
            payload = CsvPayload(target.names(), b"".join(p + b"\n" for p in pieces))
        else:
            end = np.cumsum([len(p) for p in pieces], dtype=np.int64)
            payload = Delimited(b"".join(pieces), end - np.array([len(p) for p in pieces], np.int64), end)
        decoded = codec.decode(Chunk("sink", "sink", 0, len(pieces), Place("the sink", None, None), payload, {}, 1))
        if decoded.rejects:
            raise AssertionError(f"a row that was written cannot be read: {decoded.rejects[0]}")
        return decoded.table.select(target.names())

    return read
