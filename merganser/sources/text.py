"""One file of lines, plain or compressed, read in pieces of whole records."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard

from merganser.codecs import Place, Reject
from merganser.codecs.csv import CsvPayload, boundaries, header_of
from merganser.codecs.json import Lines
from merganser.codecs.values import line_ends
from merganser.errors import SourceError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some whole records of a file. ``rejects`` have ordinals from 0; ``disk_bytes`` is how much of the file it took."""

    payload: Any
    records: int
    byte: int | None
    line: int | None
    disk_bytes: int
    rejects: tuple[Reject, ...] = field(default=())
    memory: int = 0
    """Bytes of the payload, where it was compressed."""


class TextFile:
    """A JSON Lines or CSV file, from a position on.

    Its position: ``byte`` (in the decompressed text) and ``line`` behind the last record that was read, and ``open``
    if that record had no line end: it was the last one then, and must not have been gone on with since. ``whole``: it
    was the end of the file.
    """

    def __init__(
        self, name: str, kind: str, compression: str | None, at: dict[str, Any] | None, max_record_bytes: int
    ) -> None:
        self._name, self._csv, self._limit = name, kind == "csv", max_record_bytes
        self._raw = Path(name).open("rb", buffering=0)  # noqa: SIM115 # closed by close()
        self._compressed = compression is not None
        self._text = _text(self._raw, compression)
        at = at or {"byte": 0, "line": 0, "open": False}
        self._byte, self._line, self._open = int(at["byte"]), int(at["line"]), bool(at["open"])
        self._disk = 0
        self._rest = b""
        """Read from the file, not yet given out; begins at ``_byte``."""
        self._header: tuple[str, ...] | None = None
        self._go_to(self._byte)

    def position(self) -> dict[str, Any]:
        whole = self.size() == os.fstat(self._raw.fileno()).st_size
        return {"byte": self._byte, "line": self._line, "open": self._open, "whole": whole}

    def size(self) -> int:
        """How much of the file on disk was read, in bytes."""
        return self._raw.tell() if self._compressed else self._byte

    def close(self) -> None:
        self._raw.close()

    def read(self, max_bytes: int, *, last: bool) -> Piece | None:
        """The next records; ``last``: one without a line end at the end of the file is a record too."""
        if self._csv and self._header is None and not self._read_header(last):
            return None
        if self._open and not self._close_record():
            return None
        data, ended = self._fill(max_bytes)
        ends = self._record_ends(data)
        while not len(ends):  # not one whole record yet
            whole = bytes(data)
            if ended:
                if last and whole:
                    return self._last(whole)
                self._rest = whole  # it waits for the end of its line
                return None
            if len(whole) > self._limit:
                return self._skip(whole, last)
            self._rest = whole
            data, ended = self._fill(len(whole) + max_bytes)
            ends = self._record_ends(data)
        cut = int(ends[-1]) + 1
        if self._compressed:
            self._rest = bytes(data[cut:])
        else:  # to read a part of a record again costs less than to put it in front of the next piece
            self._raw.seek(cut - len(data), os.SEEK_CUR)
        return self._piece(data[:cut], ends)

    # -- bytes ------------------------------------------------------------------------------------------------------

    def _go_to(self, byte: int) -> None:
        if self._csv and byte:
            self._read_header(last=True)
            self._byte = byte
            self._rest = b""
            self._text = _text(self._raw, _compression(self._name))
        self._raw.seek(0)
        if not self._compressed:
            self._raw.seek(byte)
            self._disk = byte
            return
        left = byte
        while left:
            skipped = self._pull(min(left, 1 << 20))
            if not skipped:
                raise SourceError(f"{self._name} got shorter: {byte} bytes of text were read, it has {byte - left}")
            left -= len(skipped)
        self._disk = self._raw.tell()

    def _pull(self, size: int) -> bytes:
        return self._decompressed(self._text.read, size)

    def _decompressed(self, read: Callable[[int], T], argument: int) -> T:
        try:
            return read(argument)
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, OSError) as error:
            raise SourceError(
                f"{self._name} cannot be decompressed behind byte {self._byte + len(self._rest)} of its text ({error});"
                " all records before were read. Replace it by a whole one and rebuild, or cut it off there"
            ) from None

    def _fill(self, size: int) -> tuple[memoryview, bool]:
        """What is left over and what follows it, ``size`` bytes in all, or fewer at the end of the file; whether it is there.

        In Arrow's memory: it is used again without being given back and cleared by the system, which costs more than reading.
        """
        rest, self._rest = self._rest, b""
        buffer = memoryview(pa.allocate_buffer(max(size, len(rest)))).cast("B")
        buffer[: len(rest)] = rest
        filled = len(rest)
        while filled < size:
            more = self._decompressed(lambda at: self._text.readinto(buffer[at:]), filled)
            if not more:
                return buffer[:filled], True
            filled += more
        return buffer[:filled], False

    def _record_ends(self, data: memoryview) -> npt.NDArray[np.int64]:
        """Where the line ends stand that end a record."""
        if not self._csv:
            return line_ends(data)
        return np.flatnonzero(boundaries(np.frombuffer(data, np.uint8)))

    # -- records ----------------------------------------------------------------------------------------------------

    def _piece(self, data: memoryview, ends: npt.NDArray[np.int64]) -> Piece:
        newlines = int(np.count_nonzero(np.frombuffer(data, np.uint8) == 10)) if self._csv else len(ends)
        unfinished = len(data) > 0 and data[-1] != 10
        longest = int(np.diff(ends, prepend=-1, append=len(data)).max()) - 1
        rejects: tuple[Reject, ...] = ()
        payload: Any = None
        if longest > self._limit:
            kept, rejects = self._without_long(bytes(data))
            payload = CsvPayload(self._header or (), kept) if self._csv else Lines.of(kept)
        else:
            payload = CsvPayload(self._header or (), bytes(data)) if self._csv else Lines.of(data, ends)
        records = len(ends) + unfinished
        piece = Piece(payload, records, self._byte, self._line + 1, self._took(len(data)), rejects, len(data))
        self._byte += len(data)
        self._line += newlines
        return piece

    def _took(self, nbytes: int) -> int:
        """How many bytes of the file on disk a piece of ``nbytes`` took."""
        now = self._raw.tell() if self._compressed else self._byte + nbytes
        took, self._disk = now - self._disk, now
        return took

    def _last(self, data: bytes) -> Piece | None:
        """The last record of a file that does not end with a line end."""
        self._open = True
        view = memoryview(data)
        return self._piece(view, self._record_ends(view))

    def _close_record(self) -> bool:
        """After a last record without a line end: whatever follows must begin with one. False if nothing follows."""
        data = self._rest or self._pull(1)
        if not data:
            return False
        if data[:1] not in (b"\n", b"\r"):
            raise SourceError(
                f"{self._name}, line {self._line + 1}: the last line had no line end when it was read, up to byte {self._byte},"
                " and was gone on with since. Write whole lines, or read growing files with --follow, which waits for"
                " their end; and rebuild the views"
            )
        end = data.find(b"\n")
        if end < 0:
            data += self._pull(2)
            end = data.find(b"\n")
        self._rest = data[end + 1 :]
        self._byte += end + 1
        self._line += 1
        self._open = False
        return True

    def _read_header(self, last: bool) -> bool:
        self._raw.seek(0)
        self._byte = self._line = 0
        self._rest = b""
        data = b""
        while True:
            more = self._pull(1 << 16)
            data += more
            cut = data.find(b"\n") + 1
            if cut or not more:
                break
        if not cut and not (last and data):
            self._text = _text(self._raw, _compression(self._name))
            self._raw.seek(0)
            return False
        cut = cut or len(data)
        self._header = header_of(data[:cut].rstrip(b"\r\n"), self._name)
        self._rest, self._byte, self._line = data[cut:], cut, 1
        return True

    # -- records that are too long ----------------------------------------------------------------------------------

    def _too_long(self, number: int, byte: int, line: int, raw: bytes, length: int) -> Reject:
        detail = f"the record has {length} bytes, max_record_bytes is {self._limit}"
        if len(raw) < length:
            detail += f"; its first {len(raw)} are kept"
        return Reject(number, Place(self._name, byte, line), raw, "too long", detail)

    def _without_long(self, data: bytes) -> tuple[bytes, tuple[Reject, ...]]:
        """The records that are not too long, and the others."""
        array = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(boundaries(array) if self._csv else array == 10) + 1
        if not len(ends) or ends[-1] != len(data):
            ends = np.append(ends, len(data))
        starts = np.concatenate([[0], ends[:-1]])
        long = np.flatnonzero(ends - starts > self._limit + 1)
        if not len(long):
            return data, ()
        rejects, kept, begin = [], [], 0
        for i in long.tolist():
            a, b = int(starts[i]), int(ends[i])
            raw = data[a:b].removesuffix(b"\n")
            line = self._line + 1 + data.count(b"\n", 0, a)
            rejects.append(self._too_long(i, self._byte + a, line, raw, len(raw)))
            kept.append(data[begin:a])
            begin = b
        return b"".join([*kept, data[begin:]]), tuple(rejects)

    def _skip(self, data: bytes, last: bool) -> Piece | None:
        """One record that is too long to hold: read on to its end, keep its beginning."""
        raw, length = data[: self._limit], len(data)
        while True:
            more = self._pull(1 << 20)
            end = more.find(b"\n")
            if end >= 0 or not more:
                break
            length += len(more)
        if not more and not last:
            raise SourceError(
                f"{self._name}, line {self._line + 1}: the line that is being written is longer than max_record_bytes"
                f" ({self._limit}) already; raise it, or end the line"
            )
        length += max(end, 0)
        reject = self._too_long(0, self._byte, self._line + 1, raw, length)
        took = length + (1 if more else 0)
        payload = CsvPayload(self._header or (), b"") if self._csv else Lines.of(b"")
        piece = Piece(payload, 1, self._byte, self._line + 1, self._took(took), (reject,))
        self._rest = more[end + 1 :] if more else b""
        self._open = not more
        self._byte += took
        self._line += 1 if more else 0
        return piece


def gone_on(name: str, what: str, byte: int, size: int) -> None:
    """Raise a SourceError if a file that was read to its end, within a message or block, has got longer since."""
    if size > byte:
        raise SourceError(
            f"{name} ended within a {what} when it was read, up to byte {byte}, and was gone on with since. Read growing files with"
            " --follow, which waits for whole ones; and rebuild the views"
        )


def _compression(name: str) -> str | None:
    return "gz" if name.endswith(".gz") else "zst" if name.endswith(".zst") else None


def _text(raw: io.FileIO, compression: str | None) -> io.FileIO | gzip.GzipFile | io.BufferedReader:
    raw.seek(0)
    if compression == "gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if compression == "zst":
        stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
        return io.BufferedReader(stream, 1 << 20)
    return raw
