"""The steps of a cohort: one for each stateful node of its views' plans, worked off in plan order in each epoch.

A node's rows are computed once, however many follow it. Workers have done what is row-local up to the first stateful node;
row-local verbs behind one are done here, but not in the store: an error there would end its transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.asking.asker import Asker
from merganser.clock import MIN_TIME
from merganser.codecs import Place, Reject
from merganser.engine.prepare import Prepared, stopped
from merganser.operators import PART, STATE, Epoch, Outcome, Refusal, Rows, Step, Table, Watermarks, casts, events, one
from merganser.operators.aggregate import AggregateStep
from merganser.operators.append import AppendStep
from merganser.operators.changes import Watched
from merganser.operators.correct import CorrectedStep
from merganser.operators.deduplicate import DeduplicateStep
from merganser.operators.enrich import AsOfStep, EnrichedStep
from merganser.operators.fetch import FetchStep
from merganser.operators.fold import FoldStep
from merganser.operators.join import JoinStep
from merganser.operators.latest import LatestStep
from merganser.operators.order import OrderStep
from merganser.operators.process import ProcessStep
from merganser.operators.rowlocal import KEEP, RowLocal
from merganser.operators.session import SessionStep
from merganser.operators.write import HeldStep, WriteStep
from merganser.plan import (
    Aggregated,
    AsOf,
    Changes,
    Deduplicate,
    Emits,
    Enriched,
    Fetch,
    Final,
    Fold,
    Join,
    Latest,
    Materialize,
    Node,
    Order,
    Process,
    Write,
    by_workers,
    ordered,
    read_by_steps,
    takes_events,
)
from merganser.sql import quote
from merganser.store import Store
from merganser.windows import Session

Fresh = tuple[Prepared, int, int]
"""A chunk, the ordinal below which its records are known already, the watermark of its partition before it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a verb refused, on its way to each view that depends on that verb; ``partition`` None for a made row."""

    reject: Reject
    source: str
    partition: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a source's events on one way through the plan, up to where they end (``settled``) or still are."""

    source: str
    applied: int = 0
    filtered: int = 0
    late: int = 0
    duplicate: int = 0
    dead: int = 0
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Flowed:
    """What an epoch gives at a node: new rows, the accounts of the events that led here, and what could not be computed."""

    rows: Rows | None
    accounts: tuple[Account, ...]
    dead: tuple[DeadLetter, ...] = ()
    changes: Rows | None = None


class Graph:
    """The steps of some views, by node."""

    def __init__(self, cohort: int, views: Sequence[Materialize], *, holds: bool = False) -> None:
        """``holds``: what is to be written is kept, and not sent."""
        self.cohort, self.views, self._holds = cohort, list(views), holds
        self.nodes = ordered(views)
        self._read = read_by_steps(views)
        self.steps: dict[Node, Step] = {}
        for node in self.nodes:
            step = self._step(node)
            if step is not None and any(isinstance(n, Changes) and n.input == node for n in self.nodes):
                step = Watched(step, node)  # type: ignore[arg-type] # write() watches such tables alone
            if step is not None:
                self.steps[node] = step
        self._compiled: dict[Node, RowLocal] = {}

    def _step(self, node: Node) -> Step | None:
        """The step of a node; None where it has no state of its own."""
        followers = [n for n in self.nodes if node in n.inputs]
        views = self.dependent(node)
        table = f"{type(node).__name__.lower()}_{node.source.name}_{node.digest()}_{self.cohort}"
        if isinstance(node, Deduplicate):
            return DeduplicateStep(node, table)
        if isinstance(node, Fetch):
            return FetchStep(node, table)
        if isinstance(node, Aggregated):
            emits = any(isinstance(n, (Final, Changes)) for n in followers) and node.window is not None and node.late != "update"
            kept = any(isinstance(n, Materialize) for n in followers)
            kind = CorrectedStep if node.late == "update" else SessionStep if isinstance(node.window, Session) else AggregateStep
            return kind(node, table, views, self.cohort, emits=emits, kept=kept)
        if isinstance(node, Order):
            return OrderStep(node, table, views)
        if isinstance(node, Join):
            return JoinStep(node, table, views)
        if isinstance(node, AsOf):
            return AsOfStep(node, table, views)
        if isinstance(node, Process):
            return ProcessStep(node, table, views, emits=any(isinstance(n, Emits) for n in followers))
        if isinstance(node, Fold):
            return FoldStep(node, table, views)
        if isinstance(node, Enriched):
            other: Table = self.steps[node.other]  # type: ignore[assignment] # the step of a table is one
            return EnrichedStep(node, table, other)
        if isinstance(node, Latest):
            return LatestStep(node, table)
        if isinstance(node, Write):
            return HeldStep(node, self.cohort) if self._holds else WriteStep(node, self.cohort)
        if isinstance(node, Materialize) and node.input is not None and not node.input.table:
            return AppendStep(node.columns, f"{node.name}_{self.cohort}")
        return None

    def dependent(self, node: Node) -> list[str]:
        """The views that depend on a node."""
        return [view.name for view in self.views if node in ordered([view])]

    # -- in the store ---------------------------------------------------------------------------------------------

    def create(self, store: Store) -> None:
        for step in self.steps.values():
            step.create(store.con)
        for view in self.views:
            tables = [t for node in ordered([view]) if node in self.steps for t in self.steps[node].tables]
            for table in tables:
                store.con.execute(f"INSERT INTO {STATE}.tables VALUES (?, ?, ?)", [self.cohort, view.name, table])

    def load(self, store: Store) -> None:
        for step in self.steps.values():
            step.load(store.con)

    @property
    def askers(self) -> list[Asker]:
        """Those who ask others, one for each ``fetch``."""
        return [step.asker for step in self.steps.values() if isinstance(step, FetchStep)]

    def show(self, store: Store, view: Materialize) -> None:
        """Make the user's view; what is sent on has none."""
        if isinstance(view, Write):
            return
        assert view.input is not None
        step: Table = self.steps[view if view in self.steps else view.input]  # type: ignore[assignment] # both have view_sql
        store.con.execute(f"CREATE OR REPLACE VIEW main.{quote(view.name)} AS {step.view_sql()}")

    # -- one epoch ------------------------------------------------------------------------------------------------

    def apply(
        self,
        con: duckdb.DuckDBPyConnection,
        number: int,
        fresh: Mapping[str, Sequence[Fresh]],
        marks: Mapping[str, Watermarks],
    ) -> dict[Node, Flowed]:
        """Work off an epoch in the open transaction. Returns what came to each node; ``marks`` by source."""
        done: dict[Node, Flowed] = {}
        for index, node in enumerate(self.nodes):
            if node in self.steps:
                done[node] = self._apply(con, number, node, done, marks, fresh)
            elif isinstance(node, (Final, Emits, Materialize)):
                done[node] = done[node.inputs[0]]
            elif isinstance(node, Changes):
                done[node] = replace(done[node.inputs[0]], rows=done[node.inputs[0]].changes)
            elif node in self._read:
                name = f"_rows_{index}"
                if by_workers(node):
                    done[node] = _gather(con, name, node, fresh[node.source.name])
                else:
                    done[node] = self._row_local(con, name, node, done, fresh)
        for flowed in done.values():
            if flowed.rows is not None:
                flowed.rows.forget()
        return done

    def _apply(
        self,
        con: duckdb.DuckDBPyConnection,
        number: int,
        node: Node,
        done: Mapping[Node, Flowed],
        marks: Mapping[str, Watermarks],
        fresh: Mapping[str, Sequence[Fresh]],
    ) -> Flowed:
        """A step's work, and what it does to the accounts: where events end, the books on them are closed."""
        inputs = [done[i] for i in node.inputs]
        reached = [at(i, marks) for i in node.inputs]
        epoch = Epoch(number, self.cohort, node.source.name, reached[0], tuple(mark.closing for mark in reached))
        emitted = self.steps[node].apply(con, [f.rows for f in inputs], epoch)
        accounts = [
            a if a.settled else _settled(a, outcome, node.settles)
            for f, outcome in zip(inputs, emitted.outcomes)
            for a in f.accounts
        ]
        dead = [_refused(node, r, fresh[node.source.name]) for r in emitted.refused]
        return Flowed(emitted.rows, tuple(accounts), (*(d for f in inputs for d in f.dead), *dead), emitted.changes)

    def _row_local(
        self,
        con: duckdb.DuckDBPyConnection,
        name: str,
        node: Node,
        done: Mapping[Node, Flowed],
        fresh: Mapping[str, Sequence[Fresh]],
    ) -> Flowed:
        """Row-local verbs behind a stateful one."""
        start = next(n for n in node.chain() if not n.row_local)
        before = done[start]
        rows, came = before.rows, before.rows.count if before.rows else 0
        if rows is None:
            return before
        compiled = self._compiled.get(node)
        if compiled is None:
            compiled = self._compiled[node] = RowLocal(start, node, casts=rows.casts)
        table = rows.table.filter(rows.table[rows.condition]) if rows.condition else rows.table
        result, refused = compiled.run(table)
        dead = [
            _refused(node, Refusal(r.seq, r.partition, r.row, "not computed", r.detail), fresh[node.source.name])
            for r in refused
        ]
        left: Rows | None = None
        if result is not None and len(result):
            left = Rows(con, name, result, None, 0, casts(node.columns))
            left.count = _count(con, node, left)
        filtered = came - len(dead) - (left.count if left else 0)
        accounts = tuple(
            a if a.settled else replace(a, filtered=a.filtered + filtered, dead=a.dead + len(dead)) for a in before.accounts
        )
        return Flowed(left, accounts, (*before.dead, *dead))


def at(node: Node, marks: Mapping[str, Watermarks]) -> Watermarks:
    """Where event time stands at a node: at the lowest of its sources, less what the node lags behind."""
    delays = node.delays
    lowest = [(marks[source], delay) for source, delay in delays.items()]
    return Watermarks(
        marks[node.source.name].partitions,
        min(mark.closing - delay if mark.closing > MIN_TIME else MIN_TIME for mark, delay in lowest),
        min(mark.final - delay if mark.final > MIN_TIME else MIN_TIME for mark, delay in lowest),
    )


def _settled(account: Account, outcome: Outcome, ends: bool) -> Account:
    """An account after a step; where events do not end, those that were let through are still on their way."""
    return replace(
        account,
        applied=outcome.applied if ends else 0,
        filtered=account.filtered + outcome.filtered,
        late=account.late + outcome.late,
        duplicate=account.duplicate + outcome.duplicate,
        dead=account.dead + outcome.dead,
        settled=ends,
    )


def _refused(node: Node, refusal: Refusal, fresh: Sequence[Fresh]) -> DeadLetter:
    """A dead letter: the record itself where it came in this epoch, else the row as JSON.

    Raises RecordError where the source is declared to stop instead.
    """
    r = refusal
    place, raw = Place(f"a row of {type(node).__name__}", None, None), r.row.encode()
    if takes_events(node):
        chunk = next(p for p, _, _ in fresh if p.partition == r.partition and p.seq <= r.seq < p.end)
        assert chunk.locate is not None, "its source is one of refusing()"
        place, raw = chunk.locate([r.seq])[0]
    reject = Reject(r.seq, place, raw, r.reason, r.detail)
    if node.source.on_error == "stop":
        raise stopped(node.source.name, reject)
    return DeadLetter(reject, node.source.name, r.partition)


def _gather(con: duckdb.DuckDBPyConnection, name: str, node: Node, fresh: Sequence[Fresh]) -> Flowed:
    """What the workers made of the new records at a node, in one table, by partition and in order."""
    tables = []
    dead: list[DeadLetter] = []
    dictionaries: dict[str, pa.Array] = {}
    accepted = 0
    for p, below, watermark in fresh:
        branch = p.branches[node]
        accepted += p.accepted(below)
        dead += [DeadLetter(r, p.source, p.partition) for r in branch.refused if r.seq >= below]
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
    rows: Rows | None = None
    if tables:
        marked = any(KEEP in t.column_names for t in tables)
        if marked:
            tables = [t if KEEP in t.column_names else t.append_column(KEEP, pa.array(np.ones(len(t), np.bool_))) for t in tables]
            tables = [t.select(tables[0].column_names) for t in tables]
        whole = pa.concat_tables(tables)
        rows = Rows(con, name, whole, KEEP if marked else None, 0)
        rows.count = _count(con, node, rows)
        if not rows.count:
            rows.forget()
            rows = None
    account = Account(node.source.name, filtered=accepted - len(dead) - (rows.count if rows else 0), dead=len(dead))
    return Flowed(rows, (account,), tuple(dead))


def _count(con: duckdb.DuckDBPyConnection, node: Node, rows: Rows) -> int:
    if not (node.exploded and node.events):
        return len(rows.table) if rows.condition is None else int(pc.sum(rows.table[rows.condition]).as_py() or 0)
    return int(one(con, f"SELECT {events(node, rows.relation)}"))
