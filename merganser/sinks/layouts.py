"""What a file of each format is made of, around the encoded rows; and the encoded rows in a file again."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import zstandard

from merganser.codecs import Chunk, Place
from merganser.codecs.avro import AvroCodec
from merganser.codecs.csv import header_of, records_of
from merganser.codecs.encoding import Encoding
from merganser.codecs.encoding.pieces import encoded_long
from merganser.codecs.encoding.text import csv_header
from merganser.sources.containers import MAGIC, ContainerFile
from merganser.sources.delimited import DelimitedFile

BLOCK = 32_000
"""Bytes of datums in a block of a container file: blocks of such size are read side by side."""


def layout(name: str, values: Sequence[bytes | None], encoding: Encoding) -> tuple[bytes, int]:
    """The bytes of a file with these pieces, and how many rows it has. ``name``: how the file's name ends."""
    if encoding.columnar:
        return _columns(values, encoding)
    made = LAYOUTS[encoding.format][0](values, encoding)
    if name.endswith(".gz"):
        made = gzip.compress(made, 6, mtime=0)
    elif name.endswith(".zst"):
        made = zstandard.ZstdCompressor().compress(made)
    return made, len(values)


def pieces(path: Path, encoding: Encoding) -> list[bytes | None]:
    """The pieces that a file was made of; all of a columnar one as one piece."""
    if encoding.columnar:
        return [_stream(_table(path, encoding))]
    return LAYOUTS[encoding.format][1](path, encoding)


# -- lines --------------------------------------------------------------------------------------------------------------


def _text(path: Path) -> bytes:
    if path.name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    if path.name.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    return path.read_bytes()


def _lines(values: Sequence[bytes | None], encoding: Encoding) -> bytes:
    return b"".join((value or b"null") + b"\n" for value in values)


def _of_lines(path: Path, encoding: Encoding) -> list[bytes | None]:
    return [None if line == b"null" else line for line in _text(path).splitlines()]


def _csv(values: Sequence[bytes | None], encoding: Encoding) -> bytes:
    return csv_header(encoding.target.names()) + b"\n" + b"".join((value or b"") + b"\n" for value in values)


def _of_csv(path: Path, encoding: Encoding) -> list[bytes | None]:
    header, _, rest = _text(path).partition(b"\n")
    header_of(header, str(path))
    return list(records_of(rest))


# -- binary records -----------------------------------------------------------------------------------------------------


def _delimited(values: Sequence[bytes | None], encoding: Encoding) -> bytes:
    return b"".join(encoded_long(len(value or b""), zigzag=False) + (value or b"") for value in values)


def _of_delimited(path: Path, encoding: Encoding) -> list[bytes | None]:
    file, found = DelimitedFile(str(path), None, 1 << 30), list[bytes | None]()
    while (piece := file.read(1 << 20, last=True)) is not None:
        found += (piece.payload[i] for i in range(piece.records))
    file.close()
    return found


def _container(values: Sequence[bytes | None], encoding: Encoding) -> bytes:
    """An Avro object container file. Its marker depends on its content alone, so that a file written again is the same."""
    meta = {b"avro.schema": json.dumps(json.loads(encoding.notation or "{}")).encode(), b"avro.codec": b"deflate"}
    head = MAGIC + encoded_long(len(meta))
    head += b"".join(encoded_long(len(k)) + k + encoded_long(len(v)) + v for k, v in meta.items()) + b"\0"
    sync = hashlib.blake2b(b"".join(v or b"" for v in values), digest_size=16).digest()
    made, block, size = [head + sync], list[bytes](), 0
    for value in values:
        block.append(value or b"")
        size += len(block[-1])
        if size >= BLOCK:
            made.append(_block(block, sync))
            block, size = [], 0
    if block:
        made.append(_block(block, sync))
    return b"".join(made)


def _block(datums: list[bytes], sync: bytes) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = deflate.compress(b"".join(datums)) + deflate.flush()
    return encoded_long(len(datums)) + encoded_long(len(data)) + data + sync


def _of_container(path: Path, encoding: Encoding) -> list[bytes | None]:
    file, codec, found = ContainerFile(str(path), None), AvroCodec(encoding.target), list[bytes | None]()
    while (piece := file.read(1 << 20, last=True)) is not None:
        chunk = Chunk("sink", "sink", 0, piece.records, Place(str(path), None, None), piece.payload, {}, 1)
        found += (raw for _, raw in codec.locate(chunk, list(range(piece.records))))
    file.close()
    return found


# -- columns ------------------------------------------------------------------------------------------------------------


def _columns(values: Sequence[bytes | None], encoding: Encoding) -> tuple[bytes, int]:
    table = pa.concat_tables([pyarrow.ipc.open_stream(value).read_all() for value in values if value is not None])
    out = pa.BufferOutputStream()
    if encoding.format == "parquet":
        pyarrow.parquet.write_table(table, out)
    else:
        with pyarrow.ipc.new_file(out, table.schema) as file:
            file.write_table(table)
    return out.getvalue().to_pybytes(), len(table)


def _table(path: Path, encoding: Encoding) -> pa.Table:
    if encoding.format == "parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read()
    return pyarrow.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()


def _stream(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pyarrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    made: bytes = out.getvalue().to_pybytes()
    return made


Layout = Callable[[Sequence[bytes | None], Encoding], bytes]
LAYOUTS: dict[str, tuple[Layout, Callable[[Path, Encoding], list[bytes | None]]]] = {
    "json": (_lines, _of_lines),
    "csv": (_csv, _of_csv),
    "avro": (_container, _of_container),
    "protobuf": (_delimited, _of_delimited),
}
