"""``window(…, late="update").aggregate(…)``: a row that comes after its window was closed opens, corrects and closes it again.

So no row is late, and the states of closed windows are kept for ever, in a table of their own: *archive*. An epoch without such
rows costs what it costs otherwise, and the copy.
"""

from __future__ import annotations

import duckdb

from merganser.operators import STATE, Epoch, Outcome, Rows
from merganser.operators.aggregate import AggregateStep, same
from merganser.sql import quote
from merganser.windows import moment_sql


class CorrectedStep(AggregateStep):
    """The tables of a windowed stream, and the states of closed windows."""

    @property
    def archive(self) -> str:
        return f"{STATE}.{quote(self.table + '_archive')}"

    @property
    def tables(self) -> list[str]:
        return [*super().tables, self.archive]

    def live_sql(self) -> str:
        return f"{super().live_sql()} UNION ALL FROM {self.closed}"

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        super().create(con)
        con.execute(f"CREATE TABLE {self.archive} AS FROM {self.open}")

    def _windowed(self, con: duckdb.DuckDBPyConnection, rows: Rows) -> tuple[str, str]:
        assert self.window is not None
        relation, _ = super()._windowed(con, rows)
        return relation, "true" if self.window.overlap == 1 else f"_w + {self.window.size} > _time"

    def _late(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> Outcome:
        return Outcome(applied=rows.count)

    def _take(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> None:
        """Put new rows into the groups of their windows, which all have states."""
        relation, in_window = self._windowed(con, rows)
        self._count_values(con, relation, in_window)
        con.execute(f"CREATE OR REPLACE TEMP TABLE _new AS {self._reduced(relation, in_window)}")
        self._correct(con)

    def _correct(self, con: duckdb.DuckDBPyConnection) -> None:
        """Combine the states in ``_new`` with those of the same groups, open or archived."""
        keys = ", ".join(f"n.{k}" for k in self.keys)
        combined = "".join(f", combine(a.{s}, combine(o.{s}, n.{s})) AS {s}" for s in self.states.values())
        archived = f"(SELECT *, rowid AS _row FROM {self.archive} WHERE _w IN (SELECT _w FROM _new))"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _merged AS SELECT {keys}{combined}, o.rowid AS _old, a._row AS _archived FROM _new n"
            f" LEFT JOIN {self.open} o ON {same(self.keys, 'n', 'o')} LEFT JOIN {archived} a ON {same(self.keys, 'n', 'a')}"
        )
        con.execute(f"DELETE FROM {self.open} WHERE rowid IN (SELECT _old FROM _merged WHERE _old IS NOT NULL)")
        con.execute(f"DELETE FROM {self.archive} WHERE rowid IN (SELECT _archived FROM _merged WHERE _archived IS NOT NULL)")
        kind = self.node.columns["window_start"]
        equal = "".join(f" AND c.{k} IS NOT DISTINCT FROM m.{k}" for k in map(quote, self.node.by))
        equal = f"c.window_start = {moment_sql('m._w', kind)}{equal}"
        con.execute(f"DELETE FROM {self.closed} c WHERE EXISTS (FROM _merged m WHERE m._archived IS NOT NULL AND {equal})")
        con.execute(f"INSERT INTO {self.open} SELECT * EXCLUDE (_old, _archived) FROM _merged")
        con.execute("DROP TABLE _merged; DROP TABLE _new")

    def _close(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> None:
        before = self._ended(epoch)
        if before is None:
            return
        ended = f"_w <= {before}"
        self._put(con, self._finished(self.open, ended))
        con.execute(f"INSERT INTO {self.archive} FROM {self.open} WHERE {ended}")
        con.execute(f"DELETE FROM {self.open} WHERE {ended}")
