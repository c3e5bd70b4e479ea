"""A set of hashes that forgets: sorted runs behind a bitmap.

It answers "surely new" or "seen, unless two ids have one hash"; the caller settles the second by comparing ids. New hashes
are sorted once, which makes everything after it a walk through memory: neighbours that are equal repeat each other, the
bitmap (a bit for each value of their first bits) says of nearly all others that they are new, and only the rest is searched
for in the runs. (A compiled open-addressing table is no faster in a flow.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

ROWS = np.uint64((1 << 21) - 1)
"""The last bits of a hash are not looked at; while hashes are sorted, these have their places."""

RUNS = 32
"""More runs than this are merged, the newest first."""

BYTES = range(16, 28)
"""How many first bits name a byte of the bitmap: 64 KB to 128 MB of it. The next three name the bit in it."""

SPARSE = 2
"""Bytes of the bitmap for each hash that was put in, at least; so about one new hash in twenty is searched for."""


class HashSet:
    """Hashes in sorted runs, each with the newest event time in it (int64 microseconds)."""

    def __init__(self) -> None:
        self._runs: list[tuple[U64, int]] = []
        self._map = np.zeros(1 << BYTES[0], np.uint8)
        self._shift = np.uint64(64 - BYTES[0])
        self._drawn = 0
        """How many hashes are in the bitmap; those that were forgotten stay on until it is drawn anew."""

    def __len__(self) -> int:
        return sum(len(run) for run, _ in self._runs)

    def add(self, hashes: U64, newest: int) -> tuple[Places, Mask]:
        """Put hashes in. Where those stand that were in before or are more than once in ``hashes``; which of them were in before.

        By hash, those of one hash in order.
        """
        run, rows = _in_order(hashes)
        bytes_, bits = self._bits(run)
        maybe = np.flatnonzero((self._map[bytes_] & bits) != 0)
        searched, met = run[maybe], np.zeros(len(maybe), np.bool_)
        for older, _ in self._runs:
            met |= _equal(searched, older)
        before = np.zeros(len(run), np.bool_)
        before[maybe[met]] = True
        again = before.copy()
        same = run[1:] == run[:-1]
        again[1:] |= same
        again[:-1] |= same
        self._runs.append((run, newest))
        if len(self._runs) > RUNS:
            self._merge()
        room = len(self._map) // SPARSE if len(self._map) < 1 << BYTES[-1] else 2 * len(self)
        if self._drawn + len(run) > room:
            self._draw()
        else:
            self._mark(bytes_, bits)
        return rows(again), before[again]

    def forget(self, before: int) -> None:
        """Take out hashes whose times are all below ``before``; some may stay on, which costs only comparisons."""
        self._runs = [(run, newest) for run, newest in self._runs if newest >= before]

    def _merge(self) -> None:
        """Make few runs of many: pairs of the newest, until each is twice as long as the next."""
        while len(self._runs) > 1 and (len(self._runs) > RUNS // 2 or len(self._runs[-2][0]) < 2 * len(self._runs[-1][0])):
            (a, a_newest), (b, b_newest) = self._runs.pop(), self._runs.pop()
            # A stable sort finds that this is two sorted runs, and merges them.
            self._runs.append((np.sort(np.concatenate([b, a]), kind="stable"), max(a_newest, b_newest)))

    def _draw(self) -> None:
        """The bitmap anew, in the size that fits."""
        bits = min(max((2 * SPARSE * len(self)).bit_length(), BYTES[0]), BYTES[-1])
        if len(self._map) == 1 << bits:
            self._map.fill(0)
        else:
            self._map = np.zeros(1 << bits, np.uint8)
        self._shift = np.uint64(64 - bits)
        self._drawn = 0
        for run, _ in self._runs:
            self._mark(*self._bits(run))

    def _bits(self, run: U64) -> tuple[Places, npt.NDArray[np.uint8]]:
        """Where hashes have their byte in the bitmap, and their bit in it."""
        first = run >> (self._shift - np.uint64(3))
        bits = np.left_shift(np.uint8(1), first.astype(np.uint8) & np.uint8(7))
        first >>= np.uint64(3)
        return first.view(np.int64), bits

    def _mark(self, bytes_: Places, bits: npt.NDArray[np.uint8]) -> None:
        self._drawn += len(bits)
        while len(bits):
            self._map[bytes_] |= bits  # of several bits of one byte, the last is set
            missing = np.flatnonzero((self._map[bytes_] & bits) == 0)
            bytes_, bits = bytes_[missing], bits[missing]


def _in_order(hashes: U64) -> tuple[U64, Callable[[Mask], Places]]:
    """The hashes in order, without their last bits; and what says where some of them stood."""
    if len(hashes) > ROWS:
        run = hashes & ~ROWS
        rows = np.argsort(run, kind="stable")
        return run[rows], lambda some: rows[some]
    # Numbers alone are sorted much faster than with their places. Little is made anew: memory costs more than what is done in it.
    both = hashes & ~ROWS
    both |= np.arange(len(hashes), dtype=np.uint64)
    both.sort()
    return both & ~ROWS, lambda some: (both[some] & ROWS).view(np.int64)


def _equal(hashes: U64, run: U64) -> Mask:
    if not len(run):
        return np.zeros(len(hashes), np.bool_)
    at = np.searchsorted(run, hashes)
    at[at == len(run)] = 0
    found: Mask = run[at] == hashes
    return found
