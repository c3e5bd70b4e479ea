"""Cohorts: views of one flow that have read exactly the same records, and so share positions and steps.

The views that a flow has when its store is made are one cohort. A view that is added later, or rebuilt, begins at the
start of its sources, as a cohort of its own. A source is read once for all cohorts; each skips what it has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.clock import MIN_TIME
from merganser.codecs import Reject
from merganser.engine.prepare import Prepared, stopped
from merganser.errors import StoreError
from merganser.operators import PART, Epoch, Outcome, Rows, Terminal, Watermarks, events, one
from merganser.operators.aggregate import AggregateStep
from merganser.operators.append import AppendStep
from merganser.operators.deduplicate import DeduplicateStep
from merganser.operators.latest import LatestStep
from merganser.operators.rowlocal import KEEP, RowLocal
from merganser.plan import Aggregated, Deduplicate, Latest, Materialize, Node, Source, prefix
from merganser.sql import quote
from merganser.store import Books, Progress, Store

DeadLetter = tuple[Reject, str, str | None]
"""A reject, its partition, and the view whose verb refused it (None: the source itself)."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Which partitions have nothing more: ``finished`` in this run, ``ended`` for ever; pairs of source, partition."""

    finished: frozenset[tuple[str, str]] = frozenset()
    ended: frozenset[tuple[str, str]] = frozenset()


class Cohort:
    """Some views, their steps, and how far they have read."""

    def __init__(self, number: int, flow: str, views: Sequence[Materialize]) -> None:
        self.number, self.flow, self.views = number, flow, list(views)
        self.sources: list[Source] = list(dict.fromkeys(view.source for view in self.views))
        self.progress: dict[tuple[str, str], Progress] = {}
        self.finished: frozenset[tuple[str, str]] = frozenset()
        """Partitions that were read to their end in this run."""
        self._unsaved: set[tuple[str, str]] = set()
        self.final: dict[str, int] = {}
        """By source: the watermark below which windows were called final; it never goes back."""
        self._deduplications: dict[Node, DeduplicateStep] = {}
        self._terminals: dict[Materialize, Terminal] = {}
        for view in self.views:
            assert view.input is not None
            self._terminals[view] = _terminal(view.input, f"{view.name}_{number}", view.name, number)
            for node in view.chain():
                if isinstance(node, Deduplicate) and node not in self._deduplications:
                    name = f"deduplicate_{node.source.name}_{node.digest()}_{number}"
                    self._deduplications[node] = DeduplicateStep(node, name)
        self._compiled: dict[Node, RowLocal] = {}

    # -- in the store ---------------------------------------------------------------------------------------------

    def create(self, store: Store) -> None:
        for step in (*self._deduplications.values(), *self._terminals.values()):
            step.create(store.con)

    def load(self, store: Store) -> None:
        """Positions, and what steps keep in memory, from the store."""
        found = store.rows(
            "SELECT source, partition, seq, position, max_time, ended, floor FROM merganser.positions WHERE cohort = ?",
            [self.number],
        )
        for source, partition, seq, position, *rest in found:
            self.progress[source, partition] = Progress(seq, json.loads(position), *rest)
        marks = "SELECT source, watermark FROM merganser_state.watermarks WHERE cohort = ? AND watermark IS NOT NULL"
        self.final = dict(store.rows(marks, [self.number]))
        for step in (*self._deduplications.values(), *self._terminals.values()):
            step.load(store.con)

    def show(self, store: Store, view: Materialize) -> None:
        """Make the user's view."""
        sql = self._terminals[view].view_sql()
        store.con.execute(f"CREATE OR REPLACE VIEW main.{quote(view.name)} AS {sql}")

    def save(self, store: Store, touched: set[tuple[str, str]]) -> None:
        """Write the positions that moved, and the watermarks."""
        con = store.con
        moved = [(key, self.progress[key]) for key in sorted(touched)]
        if moved:
            con.register("_moved", pa.table({"s": [k[0] for k, _ in moved], "p": [k[1] for k, _ in moved]}))
            con.execute(
                "DELETE FROM merganser.positions WHERE cohort = ? AND (source, partition) IN (SELECT (s, p) FROM _moved)",
                [self.number],
            )
            con.unregister("_moved")
            store.insert(
                "positions",
                [(self.number, s, p, g.seq, json.dumps(g.position), g.max_time, g.floor, g.ended) for (s, p), g in moved],
            )
        for source in self.sources:
            final = max(self.watermarks(source).final, self.final.get(source.name, MIN_TIME))
            self.final[source.name] = final
            con.execute(
                "DELETE FROM merganser_state.watermarks WHERE cohort = ? AND source = ?", [self.number, source.name]
            )
            con.execute(
                "INSERT INTO merganser_state.watermarks VALUES (?, ?, ?)",
                [self.number, source.name, None if final == MIN_TIME else final],
            )

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
        new = [p for p in partitions if (source.name, p) not in self.progress]
        reached = self.watermarks(source).closing
        for partition in new:
            self.progress[source.name, partition] = Progress(floor=None if reached == MIN_TIME else reached)
            self._unsaved.add((source.name, partition))

    # -- time -----------------------------------------------------------------------------------------------------

    def watermarks(self, source: Source) -> Watermarks:
        """Where event time stands for a source.

        Partitions that were read to their end in this run hold no window's ``final`` back, but may grow before the next
        run, so they do hold state; partitions that have ended for good hold nothing.
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
                if (name, partition) not in self.finished:
                    live.append(mark)
        everything = list(marks.partitions.values())
        if everything:
            newest = max(everything)
            marks.closing = min(growing) if growing else newest
            marks.final = max(marks.closing, min(live) if live else newest)
        return marks

    # -- one epoch ------------------------------------------------------------------------------------------------

    def apply(
        self, store: Store, number: int, prepared: Sequence[Prepared], ends: Ends
    ) -> tuple[list[Books], list[DeadLetter]]:
        """Apply an epoch in the open transaction. Returns the books of each view, and what it could not apply."""
        books: list[Books] = []
        dead: list[DeadLetter] = []
        touched, self._unsaved = self._unsaved, set()
        self.finished = ends.finished
        for key in ends.ended & self.progress.keys():
            if not self.progress[key].ended:
                self.progress[key].ended = True
                touched.add(key)
        for source in self.sources:
            news = [p for p in prepared if p.source == source.name]
            fresh = self._advance(source, news)
            touched |= {(p.source, p.partition) for p, _, _ in fresh}
            epoch = Epoch(number, self.number, source.name, self.watermarks(source))
            tables: dict[Node, tuple[Rows | None, Outcome, list[DeadLetter]]] = {}
            rejected = sum(1 for p, below, _ in fresh for r in p.rejects if r.seq >= below)
            read = rejected + sum(int((p.seqs >= below).sum()) for p, below, _ in fresh)
            for view in self.views:
                if view.source != source:
                    continue
                rows, before, refused = self._rows(store.con, view.rows_of, fresh, epoch, tables)
                outcome = self._terminals[view].apply(store.con, rows, epoch)
                dead += [(reject, partition, view.name) for reject, partition, _ in refused]
                if not read:
                    continue
                books.append(Books(
                    self.number, view.name, source.name, read=read, applied=outcome.applied, filtered=before.filtered,
                    late=outcome.late, duplicate=before.duplicate, dead=rejected + len(refused),
                ))  # fmt: skip
            for name in {r.name for r, _, _ in tables.values() if r is not None}:
                store.con.unregister(name)
        self.save(store, touched)
        return books, dead

    def _advance(self, source: Source, news: Sequence[Prepared]) -> list[tuple[Prepared, int, int]]:
        """Move the progress over what is new. Returns (chunk, ordinal below which it is known, watermark before it)."""
        fresh = []
        for p in sorted(news, key=lambda p: (p.partition, p.seq)):
            at = self.expect(source, p.partition)
            if p.end <= at.seq:
                continue
            if p.seq > at.seq and at.position is not None:
                raise StoreError(
                    f"records {at.seq} to {p.seq - 1} of partition {p.partition!r} of source {p.source!r} never came;"
                    " nothing of this epoch was kept. This is a defect of merganser: please report it"
                )
            fresh.append((p, at.seq, at.watermark(source.lateness)))
            if source.time is not None and len(p.times):
                newest = int(p.times.max())
                at.max_time = newest if at.max_time is None else max(at.max_time, newest)
            at.seq, at.position = p.end, p.position
        return fresh

    def _rows(
        self,
        con: duckdb.DuckDBPyConnection,
        node: Node,
        fresh: Sequence[tuple[Prepared, int, int]],
        epoch: Epoch,
        done: dict[Node, tuple[Rows | None, Outcome, list[DeadLetter]]],
    ) -> tuple[Rows | None, Outcome, list[DeadLetter]]:
        """The epoch's new rows at a node, each node computed once; what was lost as duplicates or errors before it."""
        if node in done:
            return done[node]
        name = f"_rows_{len(done)}"
        if prefix(node) == node:
            rows, refused = _gather(con, name, node, fresh)
            accepted = sum(int((p.seqs >= below).sum()) for p, below, _ in fresh)
            result = rows, Outcome(filtered=accepted - len(refused) - (rows.count if rows else 0)), refused
        elif isinstance(node, Deduplicate):
            assert node.input is not None
            rows, before, refused = self._rows(con, node.input, fresh, epoch, done)
            duplicate = before.duplicate
            if rows is not None:
                own = Rows(f"{rows.name}_d", rows.table, rows.condition, rows.count)
                con.register(own.name, rows.table)
                rows, outcome = self._deduplications[node].apply(con, own, epoch)
                duplicate += outcome.duplicate
            result = rows, Outcome(duplicate=duplicate, filtered=before.filtered), refused
        else:
            start = next(n for n in node.chain() if not n.row_local)
            rows, before, refused = self._rows(con, start, fresh, epoch, done)
            filtered = before.filtered
            if rows is not None:
                came = rows.count
                rows, more = self._row_local(con, name, start, node, rows, fresh)
                refused = [*refused, *more]
                filtered += came - len(more) - (rows.count if rows else 0)
            result = rows, Outcome(duplicate=before.duplicate, filtered=filtered), refused
        done[node] = result
        return result

    def _row_local(
        self,
        con: duckdb.DuckDBPyConnection,
        name: str,
        start: Node,
        node: Node,
        rows: Rows,
        fresh: Sequence[tuple[Prepared, int, int]],
    ) -> tuple[Rows | None, list[DeadLetter]]:
        """Row-local verbs behind a stateful one. Not in the store: an error there would end its transaction."""
        compiled = self._compiled.setdefault(node, RowLocal(start, node))
        table = rows.table.filter(rows.table[rows.condition]) if rows.condition else rows.table
        result, refused = compiled.run(table)
        dead: list[DeadLetter] = []
        for r in refused:
            chunk = next(p for p, _, _ in fresh if p.partition == r.partition and p.seq <= r.seq < p.end)
            place, raw = chunk.locate([r.seq])[0]
            reject = Reject(r.seq, place, raw, "not computed", r.detail)
            if node.source.on_error == "stop":
                raise stopped(node.source.name, reject)
            dead.append((reject, chunk.partition, None))
        if result is None or not len(result):
            return None, dead
        con.register(name, result)
        left = Rows(name, result, None, 0)
        left.count = _count(con, node, left)
        return left, dead


def _gather(
    con: duckdb.DuckDBPyConnection, name: str, node: Node, fresh: Sequence[tuple[Prepared, int, int]]
) -> tuple[Rows | None, list[DeadLetter]]:
    """What the workers made of the new records at a node, in one table, by partition and in order."""
    tables = []
    dead: list[DeadLetter] = []
    dictionaries: dict[str, pa.Array] = {}
    for p, below, watermark in fresh:
        branch = p.branches[node]
        dead += [(r, p.partition, None) for r in branch.refused if r.seq >= below]
        table = branch.table
        if table is None or not len(table):
            continue
        if p.seq < below:
            table = table.filter(pa.array(table["_seq"].to_numpy() >= below))
        if watermark > MIN_TIME:
            lifted = np.maximum(table["_wm"].to_numpy(), watermark)
            table = table.set_column(table.column_names.index("_wm"), "_wm", pa.array(lifted))
        names = dictionaries.setdefault(p.partition, pa.array([p.partition]))
        part = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), names)
        tables.append(table.append_column(PART, part))
    tables = [t for t in tables if len(t)]
    if not tables:
        return None, dead
    marked = any(KEEP in t.column_names for t in tables)
    if marked:
        tables = [t if KEEP in t.column_names else t.append_column(KEEP, pa.array(np.ones(len(t), np.bool_))) for t in tables]
        tables = [t.select(tables[0].column_names) for t in tables]
    whole = pa.concat_tables(tables)
    con.register(name, whole)
    rows = Rows(name, whole, KEEP if marked else None, 0)
    rows.count = _count(con, node, rows)
    return (rows if rows.count else None), dead


def _count(con: duckdb.DuckDBPyConnection, node: Node, rows: Rows) -> int:
    if not node.exploded:
        return len(rows.table) if rows.condition is None else int(pc.sum(rows.table[rows.condition]).as_py() or 0)
    return int(one(con, f"SELECT {events(node, rows.relation)}"))


def _terminal(node: Node, table: str, view: str, cohort: int) -> Terminal:
    """The step that keeps a view's content."""
    if isinstance(node, Aggregated):
        return AggregateStep(node, table, view, cohort)
    if isinstance(node, Latest):
        return LatestStep(node, table)
    return AppendStep(node.columns, table)
