"""``enrich``: rows of a stream with columns of another one, by key; a row without a partner gets NULLs.

``as_of=True`` takes the row that was valid at the event's time: the newest of its key at or before it (ties: the later
partition name, then position). A row waits until the other side's lowest watermark is past it, since until then an earlier
partner can come on time. Of the other side, for each key the newest row that a row to come could need stays, and all after it.

Without, rows are kept as they are and joined with the other side's table when the view is read: so they always have its
present row, and no row has to be corrected when that changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.operators import STATE, Emitted, Epoch, Outcome, Rows, Step, Table, on_time, released
from merganser.plan import AsOf, Enriched
from merganser.sql import quote

PRUNE = 50_000
"""Rows of the other side that come before those which no row needs any more are taken out."""


class AsOfStep(Step):
    """Keeps *held*: rows that still wait; and *versions*: the other side's rows that may still be needed."""

    def __init__(self, node: AsOf, table: str, views: Sequence[str]) -> None:
        self.node, self.views = node, views
        self.name = f"_{table}"
        self.held = f"{STATE}.{quote(table + '_held')}"
        self.versions = f"{STATE}.{quote(table + '_versions')}"
        self._come = 0
        """Versions since the last ones were taken out."""

    @property
    def tables(self) -> list[str]:
        return [self.held, self.versions]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        for table, node in zip(self.tables, self.node.inputs):
            columns = ", ".join(f"{quote(name)} {kind}" for name, kind in node.columns.items())
            con.execute(f"CREATE TABLE {table} ({columns}, _part VARCHAR, _seq BIGINT, _time BIGINT)")

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.enrich")
        (left, mine), (right, others) = (
            on_time(con, node, self.views, rows, epoch, policy=self.node.late) for node, rows in zip(self.node.inputs, inputs)
        )
        if others:
            con.execute(f"INSERT INTO {self.versions} {others}")
            self._come += right.applied
        closing = epoch.closings[1]
        out = None
        if closing > MIN_TIME:
            ready = f"SELECT * FROM {self.held} WHERE _time < {closing}"
            if mine:
                ready += f" UNION ALL SELECT * FROM ({mine}) WHERE _time < {closing}"
            con.execute(f"CREATE OR REPLACE TEMP TABLE _ready AS {ready}")
            out = released(con, self.name, self.node.columns, self._matched())
            con.execute(f"DROP TABLE _ready; DELETE FROM {self.held} WHERE _time < {closing}")
        if mine:
            con.execute(f"INSERT INTO {self.held} SELECT * FROM ({mine}) WHERE _time >= {closing}")
        if self._come >= PRUNE:
            self._prune(con, min(epoch.closings))
        return Emitted((left, right), out)

    def _matched(self) -> str:
        """The rows that have their turn, with the version of their key that was valid at their time."""
        keys = ", ".join(quote(b) for _, b in self.node.on)
        equal = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in self.node.on)
        asked = f"SELECT r.* FROM {self.versions} r SEMI JOIN _ready l ON {equal}"
        versions = f"(SELECT DISTINCT ON ({keys}, _time) * FROM ({asked}) ORDER BY {self._newest()})"
        items = [f"l.{quote(name)}" for name in self.node.inputs[0].columns]
        items += [f"r.{quote(column)} AS {quote(name)}" for name, column in self.node.taken]
        return (
            f"SELECT {', '.join(items)}, l._part, l._seq, l._time, {MIN_TIME}::BIGINT AS _wm"
            f" FROM _ready l ASOF LEFT JOIN {versions} r ON {equal} AND l._time >= r._time ORDER BY l._time"
        )

    def _newest(self) -> str:
        """An order of versions, the newest first."""
        right = self.node.other
        tied = f", {', '.join(quote(name) for name in right.columns)}" if right.ambiguous else ""
        return f"_time DESC, _part DESC, _seq DESC{tied}"

    def _prune(self, con: duckdb.DuckDBPyConnection, until: int) -> None:
        """Take out the versions that have a newer one which every row to come is behind."""
        keys = ", ".join(quote(b) for _, b in self.node.on)
        con.execute(
            f"DELETE FROM {self.versions} WHERE rowid IN (SELECT _row FROM (SELECT rowid AS _row, row_number() OVER"
            f" (PARTITION BY {keys} ORDER BY {self._newest()}) AS _n FROM {self.versions} WHERE _time <= {until}) WHERE _n > 1)"
        )
        self._come = 0


class EnrichedStep(Table):
    """Keeps the rows of the stream; the other side's step keeps the rest."""

    def __init__(self, node: Enriched, table: str, other: Table) -> None:
        self.node, self.other = node, other
        self.table = f"{STATE}.{quote(table)}"

    @property
    def tables(self) -> list[str]:
        return [self.table]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        columns = self.node.inputs[0].columns
        con.execute(f"CREATE TABLE {self.table} ({', '.join(f'{quote(n)} {t}' for n, t in columns.items())})")

    def view_sql(self) -> str:
        equal = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in self.node.on)
        items = [f"l.{quote(name)}" for name in self.node.inputs[0].columns]
        items += [f"r.{quote(column)} AS {quote(name)}" for name, column in self.node.taken]
        return f"SELECT {', '.join(items)} FROM {self.table} l LEFT JOIN ({self.other.view_sql()}) r ON {equal}"

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.enrich")
        rows = inputs[0]
        if rows is None or not rows.count:
            return Emitted((Outcome(), Outcome()))
        names = ", ".join(quote(name) for name in self.node.inputs[0].columns)
        con.execute(f"INSERT INTO {self.table} SELECT {names} FROM {rows.relation}")
        return Emitted((Outcome(applied=rows.count), Outcome()))
