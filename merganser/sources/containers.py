"""Avro object container files, read by block (Apache Avro specification 1.12, "Object Container Files")."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from merganser.codecs import Place, Reject
from merganser.codecs.avro import Block, Blocks
from merganser.errors import FlowError, SourceError
from merganser.schema import avro
from merganser.sources.text import Piece, gone_on

MAGIC = b"Obj\x01"
MAX_KEPT = 16 << 20
"""Bytes that are kept of a block that was cut off."""

MAX_BLOCK = 256 << 20
"""Bytes that a block may have, and become when it is decompressed."""


class ContainerFile:
    """A container file. Its position: ``byte`` of the next block, ``line``: records before."""

    def __init__(self, name: str, at: dict[str, Any] | None) -> None:
        self._name = name
        self._raw = Path(name).open("rb")  # noqa: SIM115 # closed by close()
        self._line = int(at["line"]) if at else 0
        self._byte = int(at["byte"]) if at else 0
        self._open = bool(at and at.get("open"))
        """Whether the last block that was read is one that the file ended within."""
        self._header: tuple[avro.AvroSchema, Callable[[bytes], bytes], bytes] | None = None

    def position(self) -> dict[str, Any]:
        return {"byte": self._byte, "line": self._line, "whole": self._byte >= self._end(), "open": self._open}

    def _end(self) -> int:
        return os.fstat(self._raw.fileno()).st_size

    def size(self) -> int:
        return self._byte

    def close(self) -> None:
        self._raw.close()

    def read(self, max_bytes: int, *, last: bool) -> Piece | None:
        """The next blocks; ``last``: the file does not grow any more, so half a block is one that was cut off."""
        if self._open:
            gone_on(self._name, "block", self._byte, self._end())
            return None
        began = self._byte
        if self._header is None and not self._read_header(last):
            return None
        assert self._header is not None
        writer, decompress, sync = self._header
        blocks: list[Block] = []
        size = 0
        while size < 4 * max_bytes:  # many blocks can be gone through side by side, see codecs.avro
            block = self._block(decompress, sync)
            if block is None:
                break
            if block.count:
                blocks.append(block)
                size += len(block.data)
        if not blocks:
            return self._cut_off(writer) if last and self._byte < self._end() else None
        records = sum(b.count for b in blocks)
        piece = Piece(Blocks(writer, tuple(blocks)), records, blocks[0].byte, self._line + 1, self._byte - began)
        self._line += records
        return piece

    def _read_header(self, last: bool) -> bool:
        self._raw.seek(0)
        try:
            head = self._raw.read(4)
            if len(head) < 4:
                raise EOFError
            if head != MAGIC:
                raise SourceError(f"{self._name} is no Avro container file: it begins with {head!r}, not with {MAGIC!r}")
            meta = self._metadata()
            sync = self._take(16)
        except EOFError:
            if last and os.fstat(self._raw.fileno()).st_size:
                raise SourceError(f"{self._name} is cut off within its header; bring back the whole file") from None
            return False
        codec = meta.get("avro.codec", b"null").decode("utf-8", "replace")
        if codec not in CODECS:
            raise SourceError(f"{self._name} is compressed with {codec!r}; known are {', '.join(CODECS)}")
        try:
            writer = avro.parse(meta.get("avro.schema", b""), f"the schema in {self._name}")
        except FlowError as error:
            raise SourceError(error.message) from None
        self._header = writer, CODECS[codec], sync
        if self._byte:
            self._raw.seek(self._byte)
        else:
            self._byte = self._raw.tell()
        return True

    def _metadata(self) -> dict[str, bytes]:
        meta: dict[str, bytes] = {}
        while count := self._long():
            if count < 0:
                count = -count
                self._long()
            for _ in range(count):
                key = self._take(self._long())
                value = self._take(self._long())
                try:
                    meta[key.decode()] = value
                except UnicodeDecodeError:
                    raise SourceError(f"{self._name} is damaged: a key in its header ({key[:40]!r}) is no text") from None
        return meta

    def _cut_off(self, writer: avro.AvroSchema) -> Piece:
        """The block that the file ends within: one letter, however many records it once had."""
        self._raw.seek(self._byte)
        raw = self._raw.read()
        self._raw.seek(self._byte)
        try:
            count = f"of {self._long()} records"
        except EOFError:
            count = "of which not even the number of records is there"
        at = Place(self._name, self._byte, self._line + 1)
        reject = Reject(0, at, raw[:MAX_KEPT], "cut off", f"the file ends within the block at byte {self._byte}, {count}")
        piece = Piece(Blocks(writer, ()), 1, self._byte, self._line + 1, len(raw), (reject,))
        self._byte, self._line, self._open = self._byte + len(raw), self._line + 1, True
        return piece

    def _block(self, decompress: Callable[[bytes], bytes], sync: bytes) -> Block | None:
        """The block at ``_byte``; None at the end of the file, and before one that is not whole."""
        self._raw.seek(self._byte)
        try:
            first = self._raw.read(1)
            if not first:
                return None
            self._raw.seek(self._byte)
            count, size = self._long(), self._long()
            if not 0 <= size <= MAX_BLOCK:
                raise self._damaged(f"it says that it has {size} bytes; at most {MAX_BLOCK:,} are taken")
            raw = self._take(size)
            mark = self._take(16)
        except EOFError:
            return None
        if mark != sync:
            raise self._damaged("the marker behind it is not that of the file")
        try:
            data = decompress(raw)
        except (zlib.error, OSError, lzma.LZMAError, zstandard.ZstdError, ValueError, EOFError) as error:
            raise self._damaged(f"it cannot be decompressed ({error})") from None
        if not 0 <= count <= max(len(data), MAX_EMPTY_RECORDS):
            raise self._damaged(f"it says that it has {count} records in {len(data)} bytes")
        block = Block(data, count, self._byte)
        self._byte = self._raw.tell()
        return block

    def _damaged(self, why: str) -> SourceError:
        return SourceError(
            f"{self._name} is damaged: the block at byte {self._byte} cannot be read, since {why}. All records before were"
            " read. Replace the file by a whole one and rebuild, or cut it off there"
        )

    def _take(self, size: int) -> bytes:
        if size < 0 or size > os.fstat(self._raw.fileno()).st_size:
            raise EOFError
        data = self._raw.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _long(self) -> int:
        value = shift = 0
        while True:
            octet = self._take(1)[0]
            value |= (octet & 127) << shift
            if octet < 128:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise self._damaged("it begins with a number of more than ten bytes")


MAX_EMPTY_RECORDS = 1 << 16
"""Records of no bytes that a block may have."""


def _limited(decompressor: Any, raw: bytes) -> bytes:
    data: bytes = decompressor.decompress(raw, MAX_BLOCK + 1)
    if len(data) > MAX_BLOCK:
        raise ValueError(f"it becomes more than {MAX_BLOCK:,} bytes")
    if not decompressor.eof:
        raise EOFError("its compressed bytes end too early")
    return data


def _zstandard(raw: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
        data = stream.read(MAX_BLOCK + 1)
    if len(data) > MAX_BLOCK:
        raise ValueError(f"it becomes more than {MAX_BLOCK:,} bytes")
    return data


def _snappy(raw: bytes) -> bytes:
    import cramjam

    if len(raw) < 4 or cramjam.snappy.decompress_raw_len(raw[:-4]) > MAX_BLOCK:
        raise ValueError("its size is none, or too large")
    try:
        data = bytes(cramjam.snappy.decompress_raw(raw[:-4]))
    except cramjam.DecompressionError as error:
        raise ValueError(str(error)) from None
    if zlib.crc32(data) != int.from_bytes(raw[-4:], "big"):
        raise ValueError("its checksum is wrong")
    return data


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": lambda raw: raw,
    "deflate": lambda raw: _limited(zlib.decompressobj(-15), raw),
    "bzip2": lambda raw: _limited(bz2.BZ2Decompressor(), raw),
    "xz": lambda raw: _limited(lzma.LZMADecompressor(), raw),
    "snappy": _snappy,
    "zstandard": _zstandard,
}
