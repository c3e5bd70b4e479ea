"""``write(…, emit="updates")``: what an epoch changed in a table, the row as it was and as it is.

The rows that may change are taken before and after the table's own step, of the keys that came in, and compared. So it costs what
those keys cost, and only the difference over a whole epoch is handed on: how many steps lie between two answers depends on where
epochs are cut, what they come to does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser.clock import MIN_TIME
from merganser.operators import Emitted, Epoch, Rows, Table, released
from merganser.plan import Aggregated, Columns, Fold, Latest
from merganser.sql import quote

RETRACTED = "retracted"
"""The column that is true for a row that was and is no more, false for one that is now."""


class Watched:
    """A table's step, and what each epoch changes in it."""

    def __init__(self, step: Table, node: Aggregated | Latest | Fold) -> None:
        self.step, self.node = step, node
        self.columns: Columns = {name: kind for name, kind in node.columns.items() if not shows_final(node, name)}

    @property
    def tables(self) -> Sequence[str]:
        return self.step.tables

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        self.step.create(con)

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        self.step.load(con)

    def view_sql(self) -> str:
        return self.step.view_sql()

    def live_sql(self) -> str:
        return self.step.live_sql()

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        rows = inputs[0]
        names = ", ".join(quote(name) for name in self.columns)
        touched = ""
        if self.node.by and not isinstance(self.node, Fold):  # a fold may go on with events that waited
            if rows is None:
                return self.step.apply(con, inputs, epoch)
            keys = ", ".join(quote(name) for name in self.node.by)
            con.execute(f"CREATE OR REPLACE TEMP TABLE _touched AS SELECT DISTINCT {keys} FROM {rows.relation}")
            same = " AND ".join(f"t.{quote(k)} IS NOT DISTINCT FROM s.{quote(k)}" for k in self.node.by)
            touched = f" SEMI JOIN _touched s ON {same}"
        con.execute(f"CREATE OR REPLACE TEMP TABLE _was AS SELECT {names} FROM ({self.step.live_sql()}) t{touched}")
        emitted = self.step.apply(con, inputs, epoch)
        now = f"SELECT {names} FROM ({self.step.live_sql()}) t{touched}"
        if emitted.rows is not None and isinstance(self.node, Aggregated):  # closed windows no longer may change
            now += f" UNION ALL SELECT {names} FROM {emitted.rows.relation} t{touched}"
        con.execute(f"CREATE OR REPLACE TEMP TABLE _now AS {now}")
        sql = f"SELECT *, true AS {RETRACTED} FROM (FROM _was EXCEPT ALL FROM _now)"
        sql += " UNION ALL SELECT *, false FROM (FROM _now EXCEPT ALL FROM _was)"
        hidden = f"'' AS _part, 0::BIGINT AS _seq, 0::BIGINT AS _time, {MIN_TIME}::BIGINT AS _wm"
        emitted.changes = released(
            con, f"_changes_{self.node.digest()}", self.columns | {RETRACTED: "BOOLEAN"}, f"SELECT *, {hidden} FROM ({sql})"
        )
        con.execute("DROP TABLE _was; DROP TABLE _now; DROP TABLE IF EXISTS _touched")
        return emitted


def shows_final(node: Aggregated | Latest | Fold, name: str) -> bool:
    """Whether a column is the flag of windows, which is not sent: it changes without any row."""
    return name == "final" and isinstance(node, Aggregated) and node.window is not None
