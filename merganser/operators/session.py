"""``window(mg.session(gap), …).aggregate(…)``: stretches of activity of a key, merged as rows come.

Rows of a key belong together if less than ``gap`` lies between one and the next. A session is kept as its start ``_w``, its
end ``_e`` (the last event plus the gap), and a state for each aggregate call. An epoch's new rows are made into sessions of
their own first; then those and the open ones that they touch are merged, several at a time where a row closes a gap.

A row is late if its partition's watermark is past the row's own time. A window's end cannot be asked for, as with windows
of a fixed size: where a session ends depends on rows that other partitions may not have brought yet. A session whose end
the lowest watermark has reached is final: what comes on time from then on is at least ``gap`` away.
"""

from __future__ import annotations

import duckdb

from merganser import faults
from merganser.aggregates import Call
from merganser.clock import MIN_TIME
from merganser.operators import Epoch, Outcome, Rows, on_time
from merganser.operators.aggregate import AggregateStep, same
from merganser.sql import binder, quote
from merganser.windows import Session


class SessionStep(AggregateStep):
    """The tables of one stream of sessions; those of windows, and ``_e`` beside ``_w`` in the open one."""

    @property
    def gap(self) -> int:
        assert isinstance(self.node.window, Session)
        return self.node.window.gap

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        pass  # nothing is kept in memory

    def _end(self, prefix: str = "") -> str:
        return f"{prefix}_e"

    def _reduced(self, relation: str, condition: str) -> str:
        items = [*self.keys, f"max(_time) + {self.gap} AS _e"]
        items += [f"{call.sql} EXPORT_STATE AS {name}" for call, name in self.states.items()]
        return f"SELECT {', '.join(items)} FROM {relation} WHERE {condition} GROUP BY {', '.join(self.keys)}"

    def _late(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> Outcome:
        return on_time(con, self.input, self.views, rows, epoch, policy=self.node.late)[0]

    def _take(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> None:
        """Make sessions of the new rows, then merge them with the open ones that they touch."""
        faults.point("step.session")
        by = [quote(name) for name in self.node.by]
        of_key = f"PARTITION BY {', '.join(by)} " if by else ""
        near = f"lag(_time) OVER ({of_key}ORDER BY _time) > _time - {self.gap}"
        items = ", ".join([*self._needed(), "_time"])
        begin = f"CASE WHEN {near} THEN NULL ELSE _time END AS _begin"
        begun = f"(SELECT {items}, {begin} FROM {rows.relation} WHERE _time >= _wm)"
        # The newest begin up to a row, and up to others of its time, is where its session begins.
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _rows AS SELECT * EXCLUDE (_begin), max(_begin) OVER ({of_key}ORDER BY _time"
            f" RANGE UNBOUNDED PRECEDING) AS _w FROM {begun}"
        )
        con.execute(f"CREATE OR REPLACE TEMP TABLE _parts AS SELECT *, -1 AS _old FROM ({self._reduced('_rows', 'true')})")
        touches = " AND ".join([*(f"n.{k} IS NOT DISTINCT FROM o.{k}" for k in by), "o._w < n._e", "n._w < o._e"])
        con.execute(
            f"INSERT INTO _parts SELECT o.*, o.rowid FROM {self.open} o WHERE EXISTS (FROM _parts n WHERE {touches})"
        )
        # Apart from the states, which no window function may see.
        reached = f"max(_e) OVER ({of_key}ORDER BY _w, _e ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        places = f"SELECT rowid AS _part, {', '.join(self.keys)}, CASE WHEN {reached} > _w THEN NULL ELSE _w END AS _begin, _e"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _merging AS SELECT _part, {', '.join(self.keys)}, max(_begin) OVER"
            f" ({of_key}ORDER BY _w, _e RANGE UNBOUNDED PRECEDING) AS _m FROM ({places} FROM _parts)"
        )
        names = "".join(f"p.{k}, " for k in by)
        states = "".join(f", combine_aggr(p.{s}) AS {s}" for s in self.states.values())
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _merged AS SELECT {names}m._m AS _w, max(p._e) AS _e{states}"
            f" FROM _parts p JOIN _merging m ON p.rowid = m._part GROUP BY {names}m._m"
        )
        for call, table in self.values.items():
            self._merge_values(con, call, table)
        con.execute(f"DELETE FROM {self.open} WHERE rowid IN (SELECT _old FROM _parts WHERE _old >= 0)")
        con.execute(f"INSERT INTO {self.open} FROM _merged")
        con.execute("DROP TABLE _rows; DROP TABLE _parts; DROP TABLE _merging; DROP TABLE _merged")

    def _needed(self) -> list[str]:
        """The columns that groups and aggregates are made of; no others are copied."""
        used = {name for call in (*self.states, *self.values) for name in binder().columns_of(call.sql, self.input.columns)}
        return [quote(name) for name in self.input.columns if name in used | set(self.node.by)]

    def _merge_values(self, con: duckdb.DuckDBPyConnection, call: Call, table: str) -> None:
        """Bring the values of merged sessions together under the start of the session that they now belong to."""
        names = ", ".join(f"v.{quote(name)}" for name in self.node.by)
        names = f"{names}, " if names else ""
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _values AS SELECT v.*, v.rowid AS _old FROM {table} v SEMI JOIN _merging m"
            f" ON {same(self.keys, 'v', 'm')}"
        )
        valued = self._valued(call, "_rows", "true")
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _merged_values AS SELECT {names}m._m AS _w, v.value, sum(v.n)::BIGINT AS n FROM"
            f" (SELECT * EXCLUDE (_old) FROM _values UNION ALL {valued}) v"
            f" JOIN (SELECT DISTINCT * EXCLUDE (_part) FROM _merging) m ON {same(self.keys, 'v', 'm')} GROUP BY ALL"
        )
        con.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT _old FROM _values)")
        con.execute(f"INSERT INTO {table} FROM _merged_values")
        con.execute("DROP TABLE _values; DROP TABLE _merged_values")

    def _close(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> None:
        closing = epoch.watermarks.closing
        if closing == MIN_TIME:
            return
        ended = f"_e <= {closing}"
        self._put(con, self._finished(self.open, ended, 'true'))
        for table in self.values.values():
            con.execute(
                f"DELETE FROM {table} v WHERE EXISTS (FROM {self.open} o WHERE {ended} AND {same(self.keys, 'v', 'o')})"
            )
        con.execute(f"DELETE FROM {self.open} WHERE {ended}")
