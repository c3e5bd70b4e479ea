"""``latest``: the last row of each key by event time; ties go to the later partition name, then position.

The order is total and part of the events, so the view does not depend on the order of arrival. A row whose columns
besides key, id, event time and what comes with a message (its offset, …) are all NULL deletes its key, as a null payload
does in a compacted Kafka topic; the deletion itself is kept, so that an older row that comes later does not bring the
key back.
"""

from __future__ import annotations

import duckdb

from merganser import faults
from merganser.operators import PART, STATE, Epoch, Outcome, Rows
from merganser.plan import Latest
from merganser.sql import quote


class LatestStep:
    """Keeps one table: the columns, ``_time``, ``_part``, ``_seq`` of the last row of each key, and ``_deleted``."""

    def __init__(self, node: Latest, table: str) -> None:
        self.node = node
        self.table = f"{STATE}.{quote(table)}"
        self.columns = [quote(name) for name in node.columns]
        self.keys = [quote(name) for name in node.by]
        source = node.source
        apart = {*node.by, source.id, source.key, source.time, *source.connector.metadata(source.schema)}
        payload = [quote(n) for n in node.columns if n not in apart]
        self.deleted = " AND ".join(f"{c} IS NULL" for c in payload) or "false"

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        columns = ", ".join(f"{quote(name)} {type}" for name, type in self.node.columns.items())
        con.execute(
            f"CREATE TABLE {self.table} ({columns}, _time BIGINT, _part VARCHAR, _seq BIGINT, _deleted BOOLEAN)"
        )

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        pass  # nothing is kept in memory

    def drop(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute(f"DROP TABLE IF EXISTS {self.table}")

    def view_sql(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE NOT _deleted"

    def apply(self, con: duckdb.DuckDBPyConnection, rows: Rows | None, epoch: Epoch) -> Outcome:
        faults.point("step.latest")
        if rows is None or not rows.count:
            return Outcome()
        order = f"_time DESC, {PART} DESC, _seq DESC"
        keys = ", ".join(self.keys)
        columns = ", ".join(self.columns)
        if self.node.exploded:  # rows of one event tie in all of these
            order += f", {columns}"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _new AS SELECT DISTINCT ON ({keys}) {columns}, _time, {PART}::VARCHAR AS _part,"
            f" _seq, ({self.deleted}) AS _deleted FROM {rows.relation} ORDER BY {keys}, {order}"
        )
        same = " AND ".join(f"n.{k} IS NOT DISTINCT FROM o.{k}" for k in self.keys)
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _newer AS SELECT n.*, o.rowid AS _old FROM _new n LEFT JOIN {self.table} o"
            f" ON {same} WHERE o.rowid IS NULL OR (n._time, n._part, n._seq) > (o._time, o._part, o._seq)"
        )
        con.execute(f"DELETE FROM {self.table} WHERE rowid IN (SELECT _old FROM _newer WHERE _old IS NOT NULL)")
        con.execute(f"INSERT INTO {self.table} SELECT * EXCLUDE (_old) FROM _newer")
        con.execute("DROP TABLE _new; DROP TABLE _newer")
        return Outcome(applied=rows.count)
