"""Reading many binary records side by side: a cursor holds where each one is being read, and moves them all at once.

What takes a Python loop a microsecond a record takes a few nanoseconds so. A record that a vectorised reader cannot
take (cut off, out of range, unusual) is marked in ``ok`` and read by itself afterwards; it never stops the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

PAD = 16
"""Bytes behind the data, so that a word can be read at its very end."""

_HIGH = np.uint64(0x8080808080808080)
_LOW = ~_HIGH
_ONE, _TWO, _FOUR, _SEVEN = (np.uint64(n) for n in (1, 2, 4, 7))
_PAIRS = np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00)
_QUADS = np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000)
_WORDS = np.uint64(0x0FFFFFFF), np.uint64(0x0FFFFFFF00000000)


class Bytes:
    """Bytes that cursors go over."""

    def __init__(self, data: bytes | bytearray | memoryview | npt.NDArray[np.uint8]) -> None:
        self.size = len(data)
        self.octets = np.empty(self.size + PAD, np.uint8)
        self.octets[: self.size] = np.frombuffer(data, np.uint8)
        self.octets[self.size :] = 0
        self.words = np.ndarray((self.size + PAD - 7,), "<u8", buffer=self.octets.data, strides=(1,))
        """The eight bytes from each byte on, little end first."""


class Cursor:
    """Where each of some records is being read: ``at`` up to ``end``; ``ok`` is False once it could not be."""

    __slots__ = ("at", "data", "end", "ok")

    def __init__(self, data: Bytes, at: Ints, end: Ints, ok: Flags | None = None) -> None:
        self.data, self.at, self.end = data, at, end
        self.ok: Flags = np.ones(len(at), np.bool_) if ok is None else ok

    def __len__(self) -> int:
        return len(self.at)

    def some(self, rows: Ints) -> Cursor:
        """A cursor of its own over some of the records; ``join`` takes it back."""
        return Cursor(self.data, self.at[rows], self.end[rows], self.ok[rows])

    def join(self, rows: Ints, cursor: Cursor) -> None:
        self.at[rows] = cursor.at
        self.ok[rows] = cursor.ok

    def refuse(self, wrong: Flags) -> None:
        """Mark records, and hold them at their end, where reading on does no harm."""
        if np.count_nonzero(wrong):
            self.ok &= ~wrong
            self.at = np.where(wrong, self.end, self.at)

    def _moved(self, at: Ints) -> None:
        """Go on to ``at``; who would leave the record is refused."""
        self.at = at
        over = at > self.end
        if np.count_nonzero(over):
            self.refuse(over)

    def words(self) -> npt.NDArray[np.uint64]:
        return self.data.words[self.at]

    def skip(self, count: int | Ints) -> None:
        self._moved(self.at + count)

    def octet(self) -> npt.NDArray[np.uint8]:
        value = self.data.octets[self.at]
        self._moved(self.at + 1)
        return value

    def varint(self) -> npt.NDArray[np.uint64]:
        """A base-128 number of at most 64 bits, as Avro and Protocol Buffers write them."""
        first = self.data.octets[self.at]
        if not np.count_nonzero(first > 127):
            self._moved(self.at + 1)
            single: npt.NDArray[np.uint64] = first.astype(np.uint64)
            return single
        word = self.data.words[self.at]
        stop = ~word & _HIGH
        last = stop & (~stop + _ONE)
        keep = last | (last - _ONE)
        value = word & keep & _LOW
        for shift, (stay, move) in ((_ONE, _PAIRS), (_TWO, _QUADS), (_FOUR, _WORDS)):
            value = (value & stay) | ((value & move) >> shift)
        length = (np.bitwise_count(keep) >> np.uint8(3)).astype(np.int64)
        long = np.flatnonzero(stop == 0)
        if len(long):
            value, length = self._long(value, length, long)
        self._moved(self.at + length)
        number: npt.NDArray[np.uint64] = value
        return number

    def skip_varint(self) -> None:
        if not np.count_nonzero(self.data.octets[self.at] > 127):
            self._moved(self.at + 1)
            return
        stop = ~self.data.words[self.at] & _HIGH
        if np.count_nonzero(stop) < len(stop):
            self.varint()
            return
        before = (stop & (~stop + _ONE)) - _ONE  # as many bits as stand below the last byte's highest
        self._moved(self.at + ((np.bitwise_count(before) + np.uint8(1)) >> np.uint8(3)))

    def _long(self, value: npt.NDArray[np.uint64], length: Ints, rows: Ints) -> tuple[npt.NDArray[np.uint64], Ints]:
        """The ninth and tenth byte of the numbers that have them."""
        ninth = self.data.octets[self.at[rows] + 8].astype(np.uint64)
        tenth = self.data.octets[self.at[rows] + 9].astype(np.uint64)
        more = ninth > 127
        value[rows] |= ((ninth & np.uint64(127)) << np.uint64(56)) | np.where(more, tenth << np.uint64(63), np.uint64(0))
        length[rows] = 9 + more
        wrong = np.zeros(len(self), np.bool_)
        wrong[rows] = more & (tenth > 1)
        self.refuse(wrong)
        length[wrong] = 0
        return value, length

    def zigzag(self) -> Ints:
        """A varint as a signed number: 0, -1, 1, -2, …"""
        value = self.varint()
        signed = (value >> _ONE).view(np.int64)
        signed ^= -(value & _ONE).view(np.int64)
        return signed

    def span(self, size: Ints) -> tuple[Ints, Ints]:
        """The next ``size`` bytes of each record: where they begin, and how many. A size that cannot be is refused."""
        # As unsigned numbers, those below 0 are larger than all others.
        wrong = size.view(np.uint64) > (self.end - self.at).view(np.uint64)
        if np.count_nonzero(wrong):
            self.refuse(wrong)
            size = np.where(wrong, 0, size)
        start = self.at
        self.at = start + size
        return start, size


def slices(data: Bytes, start: Ints, size: Ints) -> pa.Array:
    """Pieces of the data as a binary array. They come in their order and do not overlap."""
    count = len(start)
    if not count:
        return pa.array([], pa.binary())
    # An array of the pieces and of what lies between them needs no copy; taking every second one copies only these.
    wide = data.size >= 1 << 31
    offsets = np.empty(2 * count, np.int64 if wide else np.int32)
    offsets[0::2] = start
    offsets[1::2] = start + size
    kind = pa.large_binary() if wide else pa.binary()
    both = pa.Array.from_buffers(kind, 2 * count - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data.octets)])
    pieces = both.take(pa.array(np.arange(0, 2 * count - 1, 2)))
    return pieces.cast(pa.binary()) if wide else pieces
