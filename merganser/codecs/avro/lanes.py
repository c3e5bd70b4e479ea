"""Where the records of large blocks begin, by guessing: a record's end is known when it was read, and blocks that are large are
too few to read enough records side by side.

Within each block some beginnings are guessed, and read on from, each up to the next. A guess counts only where a record that was
read from the block's beginning on ends exactly there; a block that is not so gone through to its last byte and record is left to
the slow way. So a wrong guess costs time and nothing else.
"""

from __future__ import annotations

import numpy as np

from merganser.codecs.avro.node import Node
from merganser.codecs.cursor import Bytes, Cursor, Flags, Ints

RECORDS = 64
"""Records from one guess to the next: few enough that many are read at once, many enough that to guess costs little."""

SAMPLES = 128
"""Records that are looked at to know how one begins."""

STEP = 20
"""A step of few lanes takes as long as that many records one by one."""


def starts(node: Node, data: Bytes, begin: Ints, stop: Ints, count: Ints) -> tuple[Ints, Ints, Flags] | None:
    """Where the records of blocks, which lie one behind the other, begin and end, and which blocks this is known of.

    What is said of other blocks means nothing. None where records are so few, or blocks so small, that there is nothing to gain.
    """
    total, size = int(count.sum()), int((stop - begin).sum())
    if total < 8 * RECORDS or total < 2 * RECORDS * len(count) or size < total or not count.all():
        return None
    lanes = _Lanes(node, data, begin, stop, size / total)
    samples = lanes.first()
    while len(lanes.live):
        lanes.guess(samples)
        if lanes.slow():
            break
        lanes.read(2 * RECORDS)
        # What is left lies where beginnings do not look like those that were known: know more of them.
        samples = np.append(lanes.found()[:: max(1, total // SAMPLES)], lanes.at[lanes.live])
    return lanes.whole(count)


class _Lanes:
    """Stretches of records that are read side by side, each from its beginning up to that of another, or the end of a block."""

    def __init__(self, node: Node, data: Bytes, begin: Ints, stop: Ints, size: float) -> None:
        """``size``: of a record, on average, in bytes."""
        self.node, self.data, self.size = node, data, size
        self.first_byte, self.last_byte = begin, stop
        """Of the blocks."""
        self.begin, self.at = begin, begin.copy()
        self.ends = np.union1d(begin, stop)
        self.live = np.arange(len(begin))
        self.steps: list[tuple[Ints, Ints]] = []
        """By step: which lanes, and where they were."""

    def first(self) -> Ints:
        """Where some records begin that are not the first of their blocks."""
        at, stop, found = self.first_byte, self.last_byte, []
        for _ in range(max(2, -(-SAMPLES // len(at)))):
            cursor = Cursor(self.data, at.copy(), stop)  # it may move them where they are
            self.node.skip(cursor)
            good = cursor.ok & (cursor.at > at) & (cursor.at < stop)
            at, stop = cursor.at[good], stop[good]
            found.append(at)
        return np.concatenate(found)

    def guess(self, samples: Ints) -> None:
        """Add lanes that begin where what is left to read looks as it does at the samples."""
        samples = samples[samples >= 8]
        stride = int(RECORDS * self.size)
        at = self.at[self.live]
        stretches = zip(at.tolist(), self._limit(at).tolist())
        near = np.sort(np.concatenate([np.arange(a + stride, b - stride // 2, stride) for a, b in stretches]))
        if not len(samples) or not len(near):
            return
        places = (near[:, None] + np.arange(min(int(2 * self.size) + 16, stride // 2))).ravel()
        # The bits that are the same before, at, and behind the beginnings of records; those that tell most go first.
        patterns = []
        for offset in (0, 8, -8):
            words = self.data.words[samples + offset]
            same = ~(np.bitwise_or.reduce(words) ^ np.bitwise_and.reduce(words))
            patterns.append((int(np.bitwise_count(same)), offset, same, words[0] & same))
        for _, offset, same, value in sorted(patterns, reverse=True):
            places = places[(self.data.words[places + offset] & same) == value]
        places = places[np.flatnonzero(np.diff(np.searchsorted(near, places, side="right"), prepend=-1))]
        self.live = np.append(self.live, np.arange(len(self.begin), len(self.begin) + len(places)))
        self.begin, self.at = np.append(self.begin, places), np.append(self.at, places)
        self.ends = np.union1d(self.ends, places)

    def slow(self) -> bool:
        """Whether it takes less time to read the blocks that are not finished one record after the other."""
        at = self.at[self.live]
        blocks = np.unique(self._block(at))
        return int((self._limit(at) - at).max()) * STEP > int((self.last_byte[blocks] - self.first_byte[blocks]).sum())

    def read(self, steps: int) -> None:
        """Go on by some records."""
        limit = self._limit(self.at[self.live])
        stop = self.last_byte[self._block(self.at[self.live])]
        for _ in range(steps):
            before = self.at[self.live]
            self.steps.append((self.live, before))
            cursor = Cursor(self.data, before.copy(), stop)
            self.node.skip(cursor)
            after = np.where(cursor.ok & (cursor.at > before), cursor.at, -1)
            self.at[self.live] = after
            if np.count_nonzero(after > limit):  # past a wrong guess: on to the next
                limit = self.ends[np.searchsorted(self.ends, after)]
            on = (after >= 0) & (after < limit)
            if np.count_nonzero(on) < len(on):
                self.live, limit, stop = self.live[on], limit[on], stop[on]
                if not len(self.live):
                    break

    def found(self) -> Ints:
        return np.concatenate([at for _, at in self.steps])

    def whole(self, count: Ints) -> tuple[Ints, Ints, Flags]:
        """See ``starts``."""
        taken = self._taken()
        start = np.concatenate([at[taken[lanes]] for lanes, at in self.steps] or [self.first_byte[:0]])
        start.sort()
        block = self._block(start)
        last = np.zeros(len(count), np.int64)
        np.maximum.at(last, self._block(self.begin[taken]), self.at[taken])
        known: Flags = (np.bincount(block, minlength=len(count)) == count) & (last == self.last_byte)
        starts, ends = np.zeros(int(count.sum()), np.int64), np.zeros(int(count.sum()), np.int64)
        starts[np.repeat(known, count)] = start[known[block]]
        ends[:-1] = starts[1:]
        ends[np.cumsum(count) - 1] = self.last_byte
        return starts, ends, known

    def _taken(self) -> Flags:
        """The lanes that are met from the beginning of their block on."""
        order = np.argsort(self.begin)
        following = np.append(self.begin[order][1:], self.last_byte[-1])
        taken = np.ones(len(order), np.bool_)
        block = self._block(self.begin)
        for missed in np.unique(block[order][self.at[order] != following]).tolist():
            lanes = np.flatnonzero(block == missed)
            taken[lanes] = False
            by_begin = dict(zip(self.begin[lanes].tolist(), lanes.tolist()))
            lane = by_begin.get(int(self.first_byte[missed]))
            while lane is not None and not taken[lane]:
                taken[lane] = True
                lane = by_begin.get(int(self.at[lane]))
        return taken

    def _block(self, at: Ints) -> Ints:
        return np.searchsorted(self.first_byte, at, side="right") - 1

    def _limit(self, at: Ints) -> Ints:
        """Up to where a lane that is at a place goes on."""
        return self.ends[np.searchsorted(self.ends, at, side="right")]
