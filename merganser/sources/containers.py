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
"""Bytes that are kept of what was no block."""

MAX_RECORDS = 1 << 22
"""Records that a block may have: where each begins is kept while they are read."""

SEARCHED = 1 << 20
"""Bytes that are searched at a time."""

MAX_BLOCK = 256 << 20
"""Bytes that a block may have, and become when it is decompressed."""

MAX_UNASKED = 1 << 16
"""Bytes that are asked for without a look whether the file has them."""


class _DamagedError(Exception):
    """What is wrong with a block: a reason code and a sentence. ``end``: where it ends, by what it says itself."""

    def __init__(self, detail: str, end: int | None = None, reason: str = "damaged block") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.end = reason, detail, end


class ContainerFile:
    """A container file. Its position: ``byte`` of the next block, ``line``: records before.

    A block that cannot be read is one dead letter, and reading goes on behind the next marker.
    """

    def __init__(self, name: str, at: dict[str, Any] | None) -> None:
        self._name = name
        self._raw = Path(name).open("rb")  # noqa: SIM115 # closed by close()
        self._line = int(at["line"]) if at else 0
        self._byte = int(at["byte"]) if at else 0
        self._open = bool(at and at.get("open"))
        """Whether the last block that was read is one that the file ended within."""
        self._header: tuple[avro.AvroSchema, Callable[[bytes], bytes], bytes] | None = None
        self._searched = 0
        """From ``_byte`` up to here no marker begins."""

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
        refused: Piece | None = None
        while size < 4 * max_bytes:  # many blocks can be gone through side by side, see codecs.avro
            try:
                block = self._block(decompress, sync)
            except (_DamagedError, EOFError) as error:
                if blocks:  # those first
                    break
                if isinstance(error, EOFError) and self._grew(sync):
                    continue
                refused = self._refused(writer, sync, error, last)
                break
            if block is None:
                break
            if block.count:
                blocks.append(block)
                size += len(block.data) + block.count
        if not blocks:
            return refused
        records = sum(b.count for b in blocks)
        payload, disk = Blocks(writer, tuple(blocks)), self._byte - began
        piece = Piece(payload, records, blocks[0].byte, self._line + 1, disk, memory=sum(len(b.data) for b in blocks))
        self._line += records
        return piece

    def _read_header(self, last: bool) -> bool:
        self._raw.seek(0)
        try:
            head = self._raw.read(4)
            if len(head) < 4:
                raise EOFError
            if head != MAGIC:
                raise _DamagedError(f"it begins with {head!r}, not with {MAGIC!r}")
            meta = self._metadata()
            sync = self._take(16)
            codec = meta.get("avro.codec", b"null").decode("utf-8", "replace")
            if codec not in CODECS:
                raise _DamagedError(f"it is compressed with {codec!r}; known are {', '.join(CODECS)}")
            writer = avro.parse(meta.get("avro.schema", b""), "the schema in its header")
        except EOFError:
            if last and os.fstat(self._raw.fileno()).st_size:
                raise self._unreadable("it is cut off within its header") from None
            return False
        except _DamagedError as error:
            raise self._unreadable(error.detail) from None
        except FlowError as error:
            raise self._unreadable(error.message) from None
        self._header = writer, CODECS[codec], sync
        if self._byte:
            self._raw.seek(self._byte)
        else:
            self._byte = self._raw.tell()
        return True

    def _unreadable(self, why: str) -> SourceError:
        return SourceError(
            f"{self._name} cannot be read as an Avro container file: {why}. None of its records was taken, and all before it are"
            " kept; put the whole file in its place, or take it away, and run again"
        )

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
                    raise _DamagedError(f"a key in its header ({key[:40]!r}) is no text") from None
        return meta

    def _refused(self, writer: avro.AvroSchema, sync: bytes, error: _DamagedError | EOFError, last: bool) -> Piece | None:
        """The block at ``_byte``, which cannot be read: one letter, however many records it once had. None: it may still grow.

        What is decided depends on the bytes up to the next marker only, so on how far the file had grown it does not.
        """
        size = self._end()
        marker = self._marker(sync)
        if marker is None and not last:
            return None
        if isinstance(error, EOFError) and marker is None:
            self._open = True
            return self._letter(writer, size, "cut off", f"the file ends within the block at byte {self._byte}, {self._said()}")
        wrong = error if isinstance(error, _DamagedError) else _DamagedError("it says that it has more bytes than there are")
        end = size if marker is None else marker + 16
        if wrong.end is not None and wrong.end <= end - 16 and self._ends(wrong.end, end):
            end = wrong.end  # behind it stands a whole block: it is only its own marker that is damaged
        detail = f"the block at byte {self._byte} cannot be read, since {wrong.detail}; reading goes on at byte {end}"
        return self._letter(writer, end, wrong.reason, detail)

    def _grew(self, sync: bytes) -> bool:
        """Whether the block at ``_byte`` has become whole while it was looked at."""
        marker = self._marker(sync)
        return marker is not None and self._ends(self._byte, marker + 16)

    def _letter(self, writer: avro.AvroSchema, end: int, reason: str, detail: str) -> Piece:
        began, self._byte = self._byte, end
        self._raw.seek(began)
        raw = self._raw.read(min(end - began, MAX_KEPT))
        if len(raw) < end - began:
            detail += f". Of its {end - began:,} bytes, the first {MAX_KEPT:,} are kept"
        at = Place(self._name, began, self._line + 1)
        self._line += 1
        return Piece(Blocks(writer, ()), 1, began, at.line, end - began, (Reject(0, at, raw, reason, detail),))

    def _said(self) -> str:
        self._raw.seek(self._byte)
        try:
            return f"of {self._long()} records"
        except (EOFError, _DamagedError):
            return "of which not even the number of records is there"

    def _marker(self, sync: bytes) -> int | None:
        """Where the next marker begins."""
        at = max(self._byte, self._searched)
        while True:
            self._raw.seek(at)
            data = self._raw.read(SEARCHED)
            found = data.find(sync)
            if found >= 0:
                return at + found
            if len(data) < SEARCHED:
                self._searched = max(at, at + len(data) - 15)
                return None
            at += len(data) - 15

    def _ends(self, begin: int, end: int) -> bool:
        """Whether a block that begins here says that it ends there."""
        self._raw.seek(begin)
        try:
            self._long()
            size = self._long()
        except (EOFError, _DamagedError):
            return False
        return self._raw.tell() + size + 16 == end

    def _block(self, decompress: Callable[[bytes], bytes], sync: bytes) -> Block | None:
        """The block at ``_byte``; None at the end of the file. Raises EOFError for one that is not whole, and _DamagedError."""
        self._raw.seek(self._byte)
        if not self._raw.read(1):
            return None
        self._raw.seek(self._byte)
        count, size = self._long(), self._long()
        end = self._raw.tell() + size + 16
        if size < 0:
            raise _DamagedError(f"it says that it has {size} bytes")
        if size > MAX_BLOCK:
            raise _DamagedError(f"it says that it has {size:,} bytes; at most {MAX_BLOCK:,} are taken", reason="too large")
        raw = self._take(size)
        if self._take(16) != sync:
            raise _DamagedError("the marker behind it is not that of the file", end)
        try:
            data = decompress(raw)
        except (zlib.error, OSError, lzma.LZMAError, zstandard.ZstdError, ValueError, EOFError) as error:
            raise _DamagedError(f"it cannot be decompressed ({error})") from None
        if not 0 <= count <= max(len(data), MAX_EMPTY_RECORDS) or (data and not count):
            raise _DamagedError(f"it says that it has {count} records in {len(data)} bytes")
        if count > MAX_RECORDS:
            raise _DamagedError(f"it says that it has {count:,} records; at most {MAX_RECORDS:,} are taken", reason="too large")
        block = Block(data, count, self._byte)
        self._byte = end
        return block

    def _take(self, size: int) -> bytes:
        if size < 0 or (size > MAX_UNASKED and size > self._end()):
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
                raise _DamagedError("there is a number of more than ten bytes")


MAX_EMPTY_RECORDS = 1 << 16
"""Records of no bytes that a block may have."""


def _too_large(size: int) -> None:
    if size > MAX_BLOCK:
        raise _DamagedError(f"it becomes more than {MAX_BLOCK:,} bytes", reason="too large")


def _limited(decompressor: Any, raw: bytes, spare: int = 0) -> bytes:
    """``spare``: bytes that may be left behind what is compressed."""
    data: bytes = decompressor.decompress(raw, MAX_BLOCK + 1)
    _too_large(len(data))
    if not decompressor.eof:
        raise EOFError("its compressed bytes end too early")
    if len(decompressor.unused_data) > spare:
        raise ValueError(f"{len(decompressor.unused_data)} bytes are left behind what is compressed")
    return data


def _zstandard(raw: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
        data = stream.read(MAX_BLOCK + 1)
    _too_large(len(data))
    return data


def _snappy(raw: bytes) -> bytes:
    import cramjam

    if len(raw) < 4:
        raise ValueError("it has no checksum")
    try:
        _too_large(cramjam.snappy.decompress_raw_len(raw[:-4]))
        data = bytes(cramjam.snappy.decompress_raw(raw[:-4]))
    except cramjam.DecompressionError as error:
        raise ValueError(str(error)) from None
    if zlib.crc32(data) != int.from_bytes(raw[-4:], "big"):
        raise ValueError("its checksum is wrong")
    return data


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": lambda raw: raw,
    "deflate": lambda raw: _limited(zlib.decompressobj(-15), raw, 4),  # some leave zlib's checksum there, or a part of it
    "bzip2": lambda raw: _limited(bz2.BZ2Decompressor(), raw),
    "xz": lambda raw: _limited(lzma.LZMADecompressor(memlimit=MAX_BLOCK), raw),
    "snappy": _snappy,
    "zstandard": _zstandard,
}
