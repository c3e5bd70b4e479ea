"""Files of Protocol Buffers messages, each with its length in front of it (a varint), as ``writeDelimitedTo`` writes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from merganser.codecs import Place, Reject
from merganser.codecs.binary import Delimited
from merganser.errors import SourceError
from merganser.sources.text import Piece, gone_on

HEAD = 10
"""Bytes that a length has at most."""


class DelimitedFile:
    """A file of messages. Its position: ``byte`` of the next one, ``line``: messages before."""

    def __init__(self, name: str, at: dict[str, Any] | None, max_record_bytes: int) -> None:
        self._name, self._limit = name, max_record_bytes
        self._raw = Path(name).open("rb")  # noqa: SIM115 # closed by close()
        self._byte, self._line = (int(at["byte"]), int(at["line"])) if at else (0, 0)
        self._open = bool(at and at.get("open"))
        """Whether the last message that was read is one that the file ended within."""

    def position(self) -> dict[str, Any]:
        return {"byte": self._byte, "line": self._line, "whole": self._byte >= self._end(), "open": self._open}

    def size(self) -> int:
        return self._byte

    def close(self) -> None:
        self._raw.close()

    def read(self, max_bytes: int, *, last: bool) -> Piece | None:
        """The next messages; ``last``: the file does not grow any more, so half a message is one that was cut off."""
        if self._open:
            gone_on(self._name, "message", self._byte, self._end())
            return None
        want = max_bytes
        while True:
            self._raw.seek(self._byte)
            data = self._raw.read(want)
            begin, end, consumed, size = self._whole(data)
            if begin:
                return self._piece(data[:consumed], begin, end)
            if size is not None and size > self._limit and self._length(data, 0)[1] + size <= self._end() - self._byte:
                return self._skip(data, size)
            if self._byte + len(data) >= self._end():
                return self._cut_off(data, size) if data and last else None
            want = max(2 * want, HEAD if size is None else size + HEAD)

    def _whole(self, data: bytes) -> tuple[list[int], list[int], int, int | None]:
        """Where the messages begin and end that are whole; bytes that these take; the length of the one after, if known."""
        begin: list[int] = []
        end: list[int] = []
        at, count = 0, len(data)
        size: int | None = None
        while at < count:
            size = data[at]
            start = at + 1
            if size > 127:
                size, start = self._length(data, at)
                if size is None:
                    break
            stop = start + size
            if stop > count or size > self._limit:
                break
            begin.append(start)
            end.append(stop)
            at, size = stop, None
        return begin, end, at, size

    def _length(self, data: bytes, at: int) -> tuple[int | None, int]:
        value = shift = 0
        for i in range(at, min(at + HEAD, len(data))):
            value |= (data[i] & 127) << shift
            if data[i] < 128:
                return value, i + 1
            shift += 7
        if len(data) - at >= HEAD:
            raise SourceError(
                f"{self._name} is no file of delimited messages: at byte {self._byte + at} there is no length. All before were read"
            )
        return None, at

    def _piece(self, data: bytes, begin: list[int], end: list[int]) -> Piece:
        payload = Delimited(data, np.array(begin, np.int64), np.array(end, np.int64))
        piece = Piece(payload, len(begin), self._byte, self._line + 1, len(data))
        self._byte += len(data)
        self._line += len(begin)
        return piece

    def _cut_off(self, data: bytes, size: int | None) -> Piece:
        """The message that the file ends within."""
        what = "within its length" if size is None else f"behind {len(data) - self._length(data, 0)[1]:,} of its {size:,} bytes"
        at = Place(self._name, self._byte, self._line + 1)
        reject = Reject(0, at, data[: self._limit], "cut off", f"the file ends within the message, {what}")
        empty = Delimited(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
        piece = Piece(empty, 1, self._byte, self._line + 1, len(data), (reject,))
        self._byte, self._line, self._open = self._byte + len(data), self._line + 1, True
        return piece

    def _skip(self, data: bytes, size: int) -> Piece:
        """One message that is too long to hold: go past it, keep its beginning."""
        start = self._length(data, 0)[1]
        self._raw.seek(self._byte + start)
        raw = self._raw.read(min(size, self._limit))
        detail = f"the message has {size:,} bytes, max_record_bytes is {self._limit:,}; only its beginning is kept"
        reject = Reject(0, Place(self._name, self._byte, self._line + 1), raw, "too long", detail)
        empty = Delimited(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
        piece = Piece(empty, 1, self._byte, self._line + 1, start + size, (reject,))
        self._byte += start + size
        self._line += 1
        return piece

    def _end(self) -> int:
        return os.fstat(self._raw.fileno()).st_size
