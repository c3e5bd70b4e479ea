"""``join``: pairs of rows of two streams with equal keys whose event times are at most ``within`` apart.

A pair is handed on in the epoch that brings its second row, with the later of the two times. A row is kept until the other
side's lowest watermark is more than ``within`` past it, since until then a partner can come on time. ``how="left"`` hands on a
left row without a partner, once, when it goes; it has its own time, so the watermark behind a left join lags ``within`` behind.
A row is late if its own partition's watermark is past its time when it comes. So whether two rows meet depends on their
times and keys alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.operators import STATE, Emitted, Epoch, Outcome, Rows, Step, on_time, released
from merganser.plan import Columns, Join
from merganser.sql import quote


class JoinStep(Step):
    """Keeps the rows of both sides that may still find partners; ``_met`` of a left row: whether it has found one."""

    def __init__(self, node: Join, table: str, views: Sequence[str]) -> None:
        self.node, self.views = node, views
        self.name = f"_{table}"
        self.sides = [f"{STATE}.{quote(table + side)}" for side in ("_left", "_right")]
        self.news = ["_new_left", "_new_right"]

    @property
    def tables(self) -> list[str]:
        return self.sides

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        for table, node in zip(self.sides, self.node.inputs):
            columns = ", ".join(f"{quote(name)} {kind}" for name, kind in node.columns.items())
            con.execute(f"CREATE TABLE {table} ({columns}, _part VARCHAR, _seq BIGINT, _time BIGINT, _met BOOLEAN)")

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.join")
        outcomes = tuple(self._take(con, i, rows, epoch) for i, rows in enumerate(inputs))
        left, right = self.sides
        new_left, new_right = self.news
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _pairs AS {self._pairs(new_left, f'(FROM {right} UNION ALL FROM {new_right})')}"
            f" UNION ALL {self._pairs(left, new_right)}"
        )
        if self.node.how == "left":
            for table in (left, new_left):
                met = f"SELECT _row FROM _pairs WHERE _stored = {str(table == left).lower()}"
                con.execute(f"UPDATE {table} SET _met = true WHERE NOT _met AND rowid IN ({met})")
        out = self._emit(con, epoch)
        self._keep(con, epoch)
        con.execute(f"DROP TABLE _pairs; DROP TABLE {new_left}; DROP TABLE {new_right}")
        return Emitted(outcomes, out)

    def _take(self, con: duckdb.DuckDBPyConnection, side: int, rows: Rows | None, epoch: Epoch) -> Outcome:
        """Put the new rows of a side that are on time into a table of their own."""
        outcome, mine = on_time(con, self.node.inputs[side], self.views, rows, epoch, policy=self.node.late)
        source = f"(SELECT *, false AS _met FROM ({mine}))" if mine else f"{self.sides[side]} LIMIT 0"
        con.execute(f"CREATE OR REPLACE TEMP TABLE {self.news[side]} AS FROM {source}")
        return outcome

    def _pairs(self, left: str, right: str) -> str:
        """The pairs of a left relation and a right one. Times are put into buckets of ``within``, so that few keys with many
        rows each do not compare every row with every other."""
        width = max(self.node.within, 1)
        keys = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in self.node.on)
        near = f"(SELECT a.*, a.rowid AS _row, _time // {width} + k AS _bucket FROM {left} a, (VALUES (-1), (0), (1)) t(k))"
        return (
            f"SELECT {self._columns('r')}, l._part, l._seq, greatest(l._time, r._time) AS _time, l._row,"
            f" {str(left == self.sides[0]).lower()} AS _stored"
            f" FROM {near} l JOIN (SELECT *, _time // {width} AS _bucket FROM {right}) r ON {keys} AND l._bucket = r._bucket"
            f" AND abs(l._time - r._time) <= {self.node.within}"
        )

    def _columns(self, right: str | None) -> str:
        """The result's columns, of the left side and then of the right one; NULL for the latter where there is none."""
        items = [f"l.{quote(name)}" for name in self.node.inputs[0].columns]
        for name, column in self.node.taken:
            value = f"r.{quote(column)}" if right else f"NULL::{self.node.columns[name]}"
            items.append(f"{value} AS {quote(name)}")
        return ", ".join(items)

    def _emit(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> Rows | None:
        """The pairs, and the left rows that go without having found a partner."""
        names = ", ".join(quote(name) for name in self.node.columns)
        found = f"SELECT {names}, _part, _seq, _time FROM _pairs"
        if self.node.how == "left":
            for table in (self.sides[0], self.news[0]):
                found += (
                    f" UNION ALL SELECT {self._columns(None)}, _part, _seq, _time FROM {table} l"
                    f" WHERE NOT _met AND {self._gone(0, epoch)}"
                )
        columns: Columns = self.node.columns
        return released(con, self.name, columns, f"SELECT *, {MIN_TIME}::BIGINT AS _wm FROM ({found}) ORDER BY _time")

    def _gone(self, side: int, epoch: Epoch) -> str:
        """Whether a row of a side can find no partner any more."""
        return f"_time < {max(epoch.closings[1 - side], MIN_TIME + self.node.within) - self.node.within}"

    def _keep(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> None:
        for side, (table, new) in enumerate(zip(self.sides, self.news)):
            gone = self._gone(side, epoch)
            con.execute(f"DELETE FROM {table} WHERE {gone}")
            con.execute(f"INSERT INTO {table} FROM {new} WHERE NOT ({gone})")
