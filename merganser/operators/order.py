"""``order``: rows held back until the watermark has passed them, then handed on in event-time order, numbered by key.

Ties go by partition name and position. A row is late if its own partition's watermark is past its time when it comes: so it
does not depend on how far other partitions are, nor on whether its place was really handed on yet. What is handed on is
below the lowest watermark of all partitions, and nothing on time can come there any more.

As logged (``Order.log``), rows are handed on at once, by position. That is a function of the logs only while all rows of a
key are in one partition, so a key that is in two stops the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.errors import FlowError
from merganser.operators import PART, STATE, Emitted, Epoch, Outcome, Rows, Step, on_time, released
from merganser.plan import Order
from merganser.sql import quote


class OrderStep(Step):
    """Keeps *held*: rows that still wait; and *counted*: the last ``seq`` of each key, and as logged its partition."""

    def __init__(self, node: Order, table: str, views: Sequence[str]) -> None:
        assert node.input is not None
        self.node, self.input, self.views = node, node.input, views
        self.name = f"_{table}"
        self.held = f"{STATE}.{quote(table + '_held')}"
        self.counted = f"{STATE}.{quote(table + '_counted')}"
        self.columns = node.input.columns
        self.keys = [quote(name) for name in node.by]

    @property
    def tables(self) -> list[str]:
        return [self.counted] if self.node.log else [self.held, self.counted]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        if not self.node.log:
            columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self.columns.items())
            con.execute(f"CREATE TABLE {self.held} ({columns}, _part VARCHAR, _seq BIGINT, _time BIGINT)")
        keys = ", ".join(f"{quote(name)} {self.columns[name]}" for name in self.node.by)
        con.execute(f"CREATE TABLE {self.counted} ({keys}, _n BIGINT{', _home VARCHAR' if self.node.log else ''})")

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.order")
        (rows,) = inputs
        if self.node.log:
            names = ", ".join(quote(name) for name in self.columns)
            items = f"{names}, {PART}::VARCHAR AS _part, _seq, _time"
            found = rows is not None and rows.count
            out = self._release(con, f"SELECT {items} FROM {rows.relation}") if rows is not None and found else None
            return Emitted((Outcome(applied=rows.count if rows else 0),), out)
        closing, out = epoch.closings[0], None
        outcome, mine = on_time(con, self.input, self.views, rows, epoch, policy=self.node.late)
        if closing > MIN_TIME:
            ready = f"FROM {self.held} WHERE _time < {closing}"
            out = self._release(con, f"{ready} UNION ALL FROM ({mine}) WHERE _time < {closing}" if mine else ready)
            con.execute(f"DELETE FROM {self.held} WHERE _time < {closing}")
        if mine:
            con.execute(f"INSERT INTO {self.held} FROM ({mine}) WHERE _time >= {closing}")
        return Emitted((outcome,), out)

    def _release(self, con: duckdb.DuckDBPyConnection, ready: str) -> Rows | None:
        """Number rows that have their turn, by key; returns them in order."""
        names = ", ".join(quote(name) for name in self.columns)
        order = "_part, _seq" if self.node.log else "_time, _part, _seq"
        order += f", {names}" if self.input.ambiguous else ""
        keys = ", ".join(self.keys)
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _ready AS SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY {order}) AS _i"
            f" FROM ({ready})"
        )
        same = " AND ".join(f"r.{k} IS NOT DISTINCT FROM c.{k}" for k in self.keys)
        each = ", ".join(f"r.{quote(name)}" for name in self.columns)
        rows = released(
            con, self.name, self.node.columns,
            f"SELECT {each}, coalesce(c._n, 0) + r._i AS seq, r._part, r._seq, r._time, {MIN_TIME}::BIGINT AS _wm"
            f" FROM _ready r LEFT JOIN {self.counted} c ON {same}"
            f" ORDER BY {'' if self.node.log else 'r._time, '}r._part, r._seq, seq",
        )  # fmt: skip
        if rows is not None:
            home = ", min(_part) AS _home, max(_part) AS _away" if self.node.log else ""
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE _counts AS SELECT r.*, coalesce(c._n, 0) AS _before, c.rowid AS _old"
                f"{', c._home AS _was' if home else ''} FROM (SELECT {keys}, max(_i) AS _more{home} FROM _ready GROUP BY {keys}) r"
                f" LEFT JOIN {self.counted} c ON {same}"
            )
            if home:
                self._check_homes(con)
            con.execute(f"DELETE FROM {self.counted} WHERE rowid IN (SELECT _old FROM _counts WHERE _old IS NOT NULL)")
            con.execute(f"INSERT INTO {self.counted} SELECT {keys}, _before + _more{', _home' if home else ''} FROM _counts")
            con.execute("DROP TABLE _counts")
        con.execute("DROP TABLE _ready")
        return rows

    def _check_homes(self, con: duckdb.DuckDBPyConnection) -> None:
        """Stop at a key that is in two partitions: which of its rows comes first is nowhere in the logs."""
        found = con.execute(
            f"SELECT {', '.join(self.keys)}, if(_home <> _away, _away, _was), _home FROM _counts"
            " WHERE _home <> _away OR _home <> _was LIMIT 1"
        ).fetchall()
        if found:
            *key, one, other = found[0]
            shown = ", ".join(f"{name}={value}" for name, value in zip(self.node.by, key))
            raise FlowError(
                f"order='log' needs the events of a key in one partition, and those of {shown} are in {one!r} and {other!r};"
                " let the producer partition by this key, or use order='time'",
                where=self.node.where,
            )
