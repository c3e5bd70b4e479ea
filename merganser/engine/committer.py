"""The committer: a thread that applies epochs to the store, one transaction each, while workers prepare the next.

An epoch is handed over through a queue of one, so that decoding and committing overlap and memory stays bounded. The
first error is kept in ``failure`` and stops the run; what was not committed is read again by the next run.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb

from merganser import faults
from merganser.asking.asker import Asked
from merganser.clock import MIN_TIME
from merganser.codecs import Reject
from merganser.engine import forward
from merganser.engine.cohort import Cohort, Ends
from merganser.engine.delivery import Delivery
from merganser.engine.forward import Dead, Forward
from merganser.engine.prepare import Prepared
from merganser.errors import MerganserError, SourceError, StoreError
from merganser.sources import Position
from merganser.store import Books, Store

STORM = 1000
"""Bad records from which on it may be a storm."""


@dataclass(slots=True)
class Progressed:
    """What a run has done so far; read by whoever shows it, written by lanes and the committer."""

    read: int = 0
    read_bytes: int = 0
    total_bytes: int | None = None
    committed: int = 0
    committed_bytes: int = 0
    dead: int = 0
    late: int = 0
    duplicate: int = 0
    epochs: int = 0
    watermark: int = MIN_TIME
    commit_seconds: float = 0.0
    """Of the last commit."""
    commit_seconds_total: float = 0.0
    committed_to: dict[tuple[str, str], int] = field(default_factory=dict)
    """By source and partition: the records behind what is committed."""
    asked: dict[str, Asked] = field(default_factory=dict)
    """By service that is asked (``fetch``): what came of it."""


@dataclass(slots=True)
class Cut:
    """An epoch: everything that came since the last one."""

    prepared: list[Prepared]
    ends: Ends


@dataclass
class Committer:
    """Applies cuts to the store. ``start``, then ``submit``…, then ``finish`` or ``abandon``."""

    store: Store
    cohorts: Sequence[Cohort]
    progressed: Progressed
    failed: threading.Event
    delivery: Delivery | None = None
    letters: Mapping[str, Forward] = field(default_factory=dict)
    """By source: where its dead letters go besides the store."""
    failure: BaseException | None = None
    building: bool = False
    """True for a rebuild whose sources were declared anew: its dead letters replace the old ones at the end."""
    _queue: queue.Queue[Cut | None] = field(default_factory=lambda: queue.Queue(maxsize=1))
    _thread: threading.Thread | None = None
    _known: dict[tuple[str, str], int] = field(default_factory=dict)
    _recent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By source: records that came lately, and how many of them were bad."""
    committed: Mapping[tuple[str, str], Position] = field(default_factory=dict)
    """By source and partition the position that the store has come to; a new mapping after each commit."""

    def start(self) -> None:
        found = self.store.rows("SELECT source, partition, max(seq) FROM merganser.positions GROUP BY ALL")
        self._known = {} if self.building else {(source, partition): seq for source, partition, seq in found}
        self._epoch = self.store.next_epoch()
        self._thread = threading.Thread(target=self._work, name="merganser-committer", daemon=True)
        self._thread.start()

    def submit(self, cut: Cut) -> None:
        """Hand an epoch over; waits while the one before the last is being committed."""
        while not self.failed.is_set():
            try:
                self._queue.put(cut, timeout=0.2)
                return
            except queue.Full:
                continue

    def finish(self) -> None:
        """Wait until everything is committed; raises what stopped it."""
        while self._thread is not None and self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.2)
                break
            except queue.Full:
                continue
        if self._thread is not None:
            self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _work(self) -> None:
        try:
            while (cut := self._queue.get()) is not None:
                if self.failed.is_set():
                    return
                self._commit(cut)
        except BaseException as error:
            self.failure = self.failure or _explained(error)
            self.failed.set()

    def _commit(self, cut: Cut) -> None:
        began = time.monotonic()
        faults.point("epoch.begin")
        with self.store.transaction():
            if self.delivery:
                self.delivery.forget()
            books: list[Books] = []
            dead: list[Dead] = self._source_dead(cut)
            for cohort in self.cohorts:
                entries, refused = cohort.apply(self.store, self._epoch, cut.prepared, cut.ends)
                books += entries
                dead += [(d.reject, d.source, d.partition, view, cohort.number) for d, view in refused]
            faults.point("books.before")
            self._write_books(books)
            self._write_dead(dead)
        self._epoch += 1
        if self.delivery:
            self.delivery.committed()
        touched = {(p.source, p.partition) for p in cut.prepared}
        moved = {key: at for key in touched if (at := behind(self.cohorts, *key)) is not None}
        self.committed = {**self.committed, **moved}
        nbytes = sum(p.nbytes for p in cut.prepared)
        self.store.wrote(nbytes)
        letters = {(source, partition, r.seq) for r, source, partition, _, _ in dead}  # once, however many views refuse it
        self._note(cut, books, len(letters), nbytes, time.monotonic() - began)

    def _source_dead(self, cut: Cut) -> list[Dead]:
        """The records that no view could have, each once however many views read the source."""
        dead: list[Dead] = []
        owner = self.cohorts[0].number if self.building else None
        for p in cut.prepared:
            known = self._known.get((p.source, p.partition), 0)
            fresh = [r for r in p.rejects if r.seq >= known]
            dead += [(r, p.source, p.partition, None, owner) for r in fresh]
            self._storm(p, fresh)
        for p in cut.prepared:
            key = p.source, p.partition
            self._known[key] = max(self._known.get(key, 0), p.end)
        return dead

    def _storm(self, p: Prepared, rejects: list[Reject]) -> None:
        """Stop before hundreds of thousands of dead letters are made of a topic that is of another format, say."""
        storm = next((s.storm for c in self.cohorts for s in c.sources if s.name == p.source), None)
        if storm is None or self.building:
            return
        read, bad = self._recent.get(p.source, (0, 0))
        read, bad = read + p.records, bad + len(rejects)
        if bad >= STORM and bad > storm * read:
            reason = Counter(r.reason for r in rejects).most_common(1)[0][0]
            first = next(r for r in rejects if r.reason == reason)
            raise SourceError(
                f"source {p.source!r} pauses: {bad:,} of its last {read:,} records are bad, mostly {reason!r}: {first.detail}"
                f" (in {first.place.file}). Nothing of this epoch was kept."
                " Mend its format or schema and run again; or declare storm=None to keep them all as dead letters"
            )
        self._recent[p.source] = (0, 0) if read >= 10 * STORM else (read, bad)

    def _write_books(self, books: list[Books]) -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        for entry in books:
            entry.check()
        self.store.insert("commits", [
            (self._epoch, now, b.cohort, b.view, b.source, b.branch, b.read, b.applied, b.filtered, b.late, b.duplicate, b.dead)
            for b in books
        ])  # fmt: skip

    def _write_dead(self, dead: list[Dead]) -> None:
        # Python values, one statement a row: Arrow cannot say BLOB, NULL and BIGINT for columns that are all NULL.
        if dead:
            self.store.con.executemany(
                "INSERT INTO merganser.dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, 'dead')",
                [
                    (source, cohort, view, partition, r.seq, r.place.file, r.place.byte, r.place.line, r.reason,
                     r.detail, r.raw, self._epoch)
                    for r, source, partition, view, cohort in dead
                ],
            )  # fmt: skip
            forward.keep(self.store, self.letters, dead, self._epoch)

    def _note(self, cut: Cut, books: list[Books], dead: int, nbytes: int, seconds: float) -> None:
        p = self.progressed
        p.committed += sum(x.records for x in cut.prepared)
        p.committed_bytes += nbytes
        p.dead += dead
        p.late += events(books, "late")
        p.duplicate += events(books, "duplicate")
        p.epochs += 1
        p.commit_seconds = seconds
        p.commit_seconds_total += seconds
        for x in cut.prepared:
            key = x.source, x.partition
            p.committed_to[key] = max(p.committed_to.get(key, 0), x.end)
        marks = [c.watermarks(s).final for c in self.cohorts for s in c.sources]
        p.watermark = min((m for m in marks if m > MIN_TIME), default=MIN_TIME)


def events(books: Sequence[Books], fate: str) -> int:
    """How many events met a fate, each once however many views read it: of each source, in the view where most did."""
    views: dict[str, Counter[tuple[int, str]]] = {}
    for b in books:
        views.setdefault(b.source, Counter())[b.cohort, b.view] += getattr(b, fate)
    return sum(max(each.values()) for each in views.values())


def behind(cohorts: Sequence[Cohort], source: str, partition: str) -> Position | None:
    """The position of the cohort that has read least of a partition; None where one has read nothing."""
    readers = [c for c in cohorts if any(s.name == source for s in c.sources)]
    there = [c.progress.get((source, partition)) for c in readers]
    if any(p is None or p.position is None for p in there):
        return None
    return min((p for p in there if p is not None), key=lambda p: p.seq).position


def _explained(error: BaseException) -> BaseException:
    """What people can do about an error of the committer."""
    if isinstance(error, MerganserError):
        return error
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError(
            f"DuckDB ran out of memory in an epoch ({str(error).splitlines()[0]}); nothing of it was kept."
            " Shorten --epoch, bound the state (lateness, within), or give it more memory"
        )
    if isinstance(error, duckdb.Error):
        return StoreError(f"the store refused an epoch, nothing of it was kept: {error}")
    return error
