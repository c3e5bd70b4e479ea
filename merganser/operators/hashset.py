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
        run = np.sort(hashes)
        maybe = run[self._map[run >> self._shift]]
        before = np.unique(np.concatenate([run[:0], *(maybe[_equal(maybe, older)] for older, _ in self._runs)]))
        met = np.union1d(before, run[1:][run[1:] == run[:-1]])
        self._runs.append((run, newest))
        if len(self._runs) > RUNS:
            self._merge()
        room = len(self._map) // SPARSE if len(self._map) < 1 << BITS[-1] else 2 * len(self)
        if self._drawn + len(run) > room:
            self._draw()
        else:
            self._mark(run)
        seen, old = _members(hashes, met), np.zeros(len(hashes), np.bool_)
        rows = np.flatnonzero(seen)
        old[rows] = _equal(hashes[rows], before)
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

    def _mark(self, run: U64) -> None:
        self._map[run >> self._shift] = True
        self._drawn += len(run)


def _members(hashes: U64, few: U64) -> Mask:
    """Which of ``hashes``, in any order, are among a few sorted ones: by their first bits, then exactly."""
    found = np.zeros(len(hashes), np.bool_)
    if len(few):
        bits = min((32 * len(few)).bit_length(), 24)
        shift = np.uint64(64 - bits)
        begins = np.zeros(1 << bits, np.bool_)
        begins[few >> shift] = True
        maybe = np.flatnonzero(begins[hashes >> shift])
        found[maybe] = _equal(hashes[maybe], few)
    return found


def _equal(hashes: U64, run: U64) -> Mask:
    if not len(run):
        return np.zeros(len(hashes), np.bool_)
    at = np.searchsorted(run, hashes)
    at[at == len(run)] = 0
    found: Mask = run[at] == hashes
    return found
