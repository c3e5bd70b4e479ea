"""A set of hashes that forgets: sorted runs behind a bitmap.

It answers "surely new" or "seen, unless two ids have one hash"; the caller settles the second by comparing ids. New hashes
are sorted once, which makes everything after it a walk through memory: neighbours that are equal repeat each other, the
bitmap (a byte for each value of their first bits) says of most others that they are new, and only the rest is searched for
in the runs. (A compiled open-addressing table is no faster in a flow, and its compiler costs
every start more than a second and every installation 150 MB.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

ROWS = np.uint64((1 << 21) - 1)
"""The last bits of a hash are not looked at; while hashes are sorted, these have their places."""

RUNS = 32
"""More runs than this are merged, the newest first."""

BITS = range(16, 28)
"""How many first bits the bitmap tells apart: 64 KB to 128 MB of it."""

SPARSE = 4
"""Bytes of the bitmap for each hash that was put in, at least; so about one new hash in six is searched for."""


class HashSet:
    """Hashes in sorted runs, each with the newest event time in it (int64 microseconds)."""

    def __init__(self) -> None:
        self._runs: list[tuple[U64, int]] = []
        self._map = np.zeros(1 << BITS[0], np.bool_)
        self._shift = np.uint64(64 - BITS[0])
        self._drawn = 0
        """How many hashes are in the bitmap; those that were forgotten stay on until it is drawn anew."""

    def __len__(self) -> int:
        return sum(len(run) for run, _ in self._runs)

    def add(self, hashes: U64, newest: int) -> tuple[Mask, Mask]:
        """Put hashes in. Which of them were in before or stand more than once in ``hashes``; and which were in before."""
        rows, run = _in_order(hashes & ~ROWS)
        maybe = np.flatnonzero(self._map[self._places(run)])
        searched, met = run[maybe], np.zeros(len(maybe), np.bool_)
        for older, _ in self._runs:
            met |= _equal(searched, older)
        before = maybe[met]
        again = np.zeros(len(run), np.bool_)
        np.equal(run[1:], run[:-1], out=again[1:])
        again[:-1] |= again[1:]
        again[before] = True
        seen, old = np.zeros(len(run), np.bool_), np.zeros(len(run), np.bool_)
        seen[rows[again]] = True
        old[rows[before]] = True
        self._runs.append((run, newest))
        if len(self._runs) > RUNS:
            self._merge()
        room = len(self._map) // SPARSE if len(self._map) < 1 << BITS[-1] else 2 * len(self)
        if self._drawn + len(run) > room:
            self._draw()
        else:
            self._mark(run)
        return seen, old

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
        bits = min(max((2 * SPARSE * len(self)).bit_length(), BITS[0]), BITS[-1])
        if len(self._map) == 1 << bits:
            self._map.fill(False)
        else:
            self._map = np.zeros(1 << bits, np.bool_)
        self._shift = np.uint64(64 - bits)
        self._drawn = 0
        for run, _ in self._runs:
            self._mark(run)

    def _places(self, run: U64) -> npt.NDArray[np.int64]:
        """Where hashes have their byte in the bitmap."""
        return (run >> self._shift).view(np.int64)

    def _mark(self, run: U64) -> None:
        self._map[self._places(run)] = True
        self._drawn += len(run)


def _in_order(hashes: U64) -> tuple[npt.NDArray[np.int64], U64]:
    """Where the hashes stand, in their order, and themselves. Numbers alone are sorted much faster than with their places."""
    if len(hashes) > ROWS:
        rows = np.argsort(hashes, kind="stable")
        return rows, hashes[rows]
    both = hashes | np.arange(len(hashes), dtype=np.uint64)
    both.sort()
    return (both & ROWS).view(np.int64), both & ~ROWS


def _equal(hashes: U64, run: U64) -> Mask:
    if not len(run):
        return np.zeros(len(hashes), np.bool_)
    at = np.searchsorted(run, hashes)
    at[at == len(run)] = 0
    found: Mask = run[at] == hashes
    return found
