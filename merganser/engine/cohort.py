"""Cohorts: views of one flow that have read exactly the same records, and so share positions and steps.

The views that a flow has when its store is made are one cohort. A view that is added later, or rebuilt, begins at the
start of its sources, as a cohort of its own. A source is read once for all cohorts; each skips what it has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merganser.clock import MIN_TIME
from merganser.engine.graph import DeadLetter, Graph
from merganser.engine.prepare import Prepared
from merganser.errors import StoreError
from merganser.operators import Watermarks
from merganser.plan import Materialize, Source
from merganser.store import Books, Progress, Store


@dataclass(frozen=True, slots=True)
class Ends:
    """Which partitions have nothing more: ``finished`` in this run, ``ended`` for ever; pairs of source, partition."""

    finished: frozenset[tuple[str, str]] = frozenset()
    ended: frozenset[tuple[str, str]] = frozenset()


def progress(store: Store, cohort: int) -> dict[tuple[str, str], Progress]:
    """How far a cohort has come in the store, by source and partition."""
    found = store.rows(
        "SELECT source, partition, seq, position, max_time, ended, floor FROM merganser.positions WHERE cohort = ?", [cohort]
    )
    return {(s, p): Progress(seq, json.loads(position), *rest) for s, p, seq, position, *rest in found}


class Cohort:
    """Some views, their steps, and how far they have read."""

    def __init__(self, number: int, flow: str, views: Sequence[Materialize], *, holds: bool = False) -> None:
        self.number, self.flow, self.views = number, flow, list(views)
        self.sources: list[Source] = list(dict.fromkeys(source for view in self.views for source in view.sources))
        self.progress: dict[tuple[str, str], Progress] = {}
        self.finished: frozenset[tuple[str, str]] = frozenset()
        """Partitions that were read to their end in this run."""
        self._unsaved: set[tuple[str, str]] = set()
        self.final: dict[str, int] = {}
        """By source: the watermark below which windows were called final; it never goes back."""
        self._heard: dict[tuple[str, str], float] = {}
        """When something came from a partition, by the clock, in this run."""
        self.graph = Graph(number, self.views, holds=holds)

    # -- in the store ---------------------------------------------------------------------------------------------

    def load(self, store: Store) -> None:
        """Positions, and what steps keep in memory, from the store."""
        self.progress = progress(store, self.number)
        marks = "SELECT source, watermark FROM merganser_state.watermarks WHERE cohort = ? AND watermark IS NOT NULL"
        self.final = dict(store.rows(marks, [self.number]))
        self.graph.load(store)

    def save(self, store: Store, touched: set[tuple[str, str]]) -> None:
        """Write the positions that moved, and the watermarks."""
        con = store.con
        moved = [(key, self.progress[key]) for key in sorted(touched)]
        if moved:
            sources, partitions = [source for (source, _), _ in moved], [partition for (_, partition), _ in moved]
            con.execute(
                "DELETE FROM merganser.positions WHERE cohort = ? AND (source, partition) IN"
                " (SELECT (unnest(?::VARCHAR[]), unnest(?::VARCHAR[])))",
                [self.number, sources, partitions],
            )
            store.insert(
                "positions",
                [(self.number, s, p, g.seq, json.dumps(g.position), g.max_time, g.floor, g.ended) for (s, p), g in moved],
            )
        for source in self.sources:
            before, final = self.final.get(source.name, MIN_TIME), self.watermarks(source).final
            if final <= before:
                continue
            self.final[source.name] = final
            changed = con.execute(
                "UPDATE merganser_state.watermarks SET watermark = ? WHERE cohort = ? AND source = ?",
                [final, self.number, source.name],
            )
            if not changed.fetchall()[0][0]:
                con.execute("INSERT INTO merganser_state.watermarks VALUES (?, ?, ?)", [self.number, source.name, final])

    def repeat(self, other: Mapping[tuple[str, str], Progress]) -> None:
        """Begin as another cohort did: with its partitions, and their floors."""
        self.progress = {key: Progress(floor=known.floor) for key, known in other.items()}
        self._unsaved = set(self.progress)

    def expect(self, source: Source, partition: str) -> Progress:
        """The progress of a partition. One that was not known yet begins at the watermark that the others have reached.

        So no row of it falls into what is closed already: what comes too late for that is late.
        """
        key = source.name, partition
        if key not in self.progress:
            reached = self.watermarks(source).closing
            self.progress[key] = Progress(floor=None if reached == MIN_TIME else reached)
        return self.progress[key]

    def expect_all(self, source: Source, partitions: Sequence[str]) -> None:
        """Note the partitions that there are when a run begins: all are waited for, those with nothing in them too."""
        self._heard |= dict.fromkeys(((source.name, p) for p in partitions), time.monotonic())
        new = [p for p in partitions if (source.name, p) not in self.progress]
        reached = self.watermarks(source).closing
        for partition in new:
            self.progress[source.name, partition] = Progress(floor=None if reached == MIN_TIME else reached)
            self._unsaved.add((source.name, partition))

    # -- time -----------------------------------------------------------------------------------------------------

    def watermarks(self, source: Source) -> Watermarks:
        """Where event time stands for a source.

        Partitions that were read to their end in this run, or are idle, hold no window's ``final`` back, but may grow, so
        they do hold state; partitions that have ended for good hold nothing.
        """
        marks = Watermarks()
        if source.time is None or source.lateness is None:
            return marks
        live: list[int] = []
        growing: list[int] = []
        for (name, partition), progress in self.progress.items():
            if name != source.name:
                continue
            mark = progress.watermark(source.lateness)
            marks.partitions[partition] = mark
            if not progress.ended:
                growing.append(mark)
                if (name, partition) not in self.finished and not self._idle(source, partition):
                    live.append(mark)
        everything = list(marks.partitions.values())
        if everything:
            newest = max(everything)
            marks.closing = min(growing) if growing else newest
            marks.final = max(marks.closing, min(live) if live else newest)
        return marks

    def _idle(self, source: Source, partition: str) -> bool:
        """Whether a partition had no news for so long that it no longer holds back what is called final."""
        heard = self._heard.get((source.name, partition))
        return source.idle_after is not None and heard is not None and 1e6 * (time.monotonic() - heard) >= source.idle_after

    # -- one epoch ------------------------------------------------------------------------------------------------

    def apply(
        self, store: Store, number: int, prepared: Sequence[Prepared], ends: Ends
    ) -> tuple[list[Books], list[tuple[DeadLetter, str]]]:
        """Apply an epoch in the open transaction. Returns the books, and what could not be applied, with the view."""
        touched, self._unsaved = self._unsaved, set()
        self.finished = ends.finished
        for key in ends.ended & self.progress.keys():
            if not self.progress[key].ended:
                self.progress[key].ended = True
                touched.add(key)
        fresh = {s.name: self._advance(s, [p for p in prepared if p.source == s.name]) for s in self.sources}
        touched |= {(p.source, p.partition) for chunks in fresh.values() for p, _, _ in chunks}
        marks = {source.name: self.watermarks(source) for source in self.sources}
        flowed = self.graph.apply(store.con, number, fresh, marks)
        books: list[Books] = []
        dead: list[tuple[DeadLetter, str]] = []
        rejected = {s: sum(r.seq >= below for p, below, _ in chunks for r in p.rejects) for s, chunks in fresh.items()}
        read = {s: rejected[s] + sum(p.accepted(below) for p, below, _ in c) for s, c in fresh.items()}
        for view in self.views:
            dead += [(letter, view.name) for letter in flowed[view].dead]
            for branch, a in enumerate(flowed[view].accounts):
                if read[a.source]:
                    books.append(Books(
                        self.number, view.name, a.source, branch, read=read[a.source], applied=a.applied,
                        filtered=a.filtered, late=a.late, duplicate=a.duplicate, dead=rejected[a.source] + a.dead,
                    ))  # fmt: skip
        self.save(store, touched)
        return books, dead

    def _advance(self, source: Source, news: Sequence[Prepared]) -> list[tuple[Prepared, int, int]]:
        """Move the progress over what is new. Returns (chunk, ordinal below which it is known, watermark before it)."""
        fresh = []
        for p in sorted(news, key=lambda p: (p.partition, p.seq)):
            at = self.expect(source, p.partition)
            if p.end < at.seq or (p.end == at.seq and p.records):
                continue
            if p.seq > at.seq and at.position is not None:
                raise StoreError(
                    f"records {at.seq} to {p.seq - 1} of partition {p.partition!r} of source {p.source!r} never came;"
                    " nothing of this epoch was kept. This is a defect of merganser: please report it"
                )
            self._heard[source.name, p.partition] = time.monotonic()
            fresh.append((p, at.seq, at.watermark(source.lateness)))
            if source.time is not None and len(p.times):
                newest = int(p.times.max())
                at.max_time = newest if at.max_time is None else max(at.max_time, newest)
            at.seq, at.position = p.end, source.connector.moved(at.position, p.position)
        return fresh
