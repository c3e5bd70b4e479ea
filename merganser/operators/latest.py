"""``latest``: the last row of each key by event time; ties go to the later partition name, then position.

The order is total and part of the events, so the view does not depend on the order of arrival. A row whose columns
besides key, id, event time and what comes with a message (its offset, …) are all NULL deletes its key, as a null payload
does in a compacted Kafka topic; the deletion itself is kept, so that an older row that comes later does not bring the
key back.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser import faults
from merganser.codecs.debezium import OP, Debezium
from merganser.operators import PART, STATE, Emitted, Epoch, Outcome, Rows, Table
from merganser.plan import Latest
from merganser.sql import quote


def identity(node: Latest) -> set[str | None]:
    """The columns of event time, id, key and what comes with a message, as far as there are: a tombstone has them too."""
    assert node.input is not None
    source = node.source
    return {*(node.input.declared(role) for role in ("id", "key", "time")), *source.around}


class LatestStep(Table):
    """Keeps one table: the columns, ``_time``, ``_part``, ``_seq`` of the last row of each key, and ``_deleted``."""

    def __init__(self, node: Latest, table: str) -> None:
        self.node = node
        self.table = f"{STATE}.{quote(table)}"
        self.columns = [quote(name) for name in node.columns]
        self.keys = [quote(name) for name in node.by]
        payload = [quote(n) for n in node.columns if n not in {*node.by, *identity(node)}]
        self.deleted = " AND ".join(f"{c} IS NULL" for c in payload) or "false"
        if isinstance(node.source.schema.written, Debezium) and OP in node.columns:
            self.deleted = node.source.schema.written.deleted  # a row may be NULL in all but its key

    @property
    def tables(self) -> list[str]:
        return [self.table]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        columns = ", ".join(f"{quote(name)} {type}" for name, type in self.node.columns.items())
        con.execute(
            f"CREATE TABLE {self.table} ({columns}, _time BIGINT, _part VARCHAR, _seq BIGINT, _deleted BOOLEAN)"
        )

    def view_sql(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE NOT _deleted"

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.latest")
        (rows,) = inputs
        if rows is None or not rows.count:
            return Emitted((Outcome(),))
        keys, columns = ", ".join(self.keys), ", ".join(self.columns)
        same = " AND ".join(f"n.{k} IS NOT DISTINCT FROM o.{k}" for k in self.keys)
        found = f"SELECT {columns}, _time, {PART}::VARCHAR AS _part, _seq, ({self.deleted}) AS _deleted FROM {rows.relation}"
        order, newer = "_time DESC, _part DESC, _seq DESC", "(n._time, n._part, n._seq) > (o._time, o._part, o._seq)"
        if self.node.ambiguous:  # rows of one event, or of one window, tie in all of these: columns decide, so old ones vie
            found += f" UNION ALL SELECT * FROM {self.table} o WHERE EXISTS (FROM {rows.relation} n WHERE {same})"
            order, newer = f"{order}, {columns}", "true"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _new AS SELECT DISTINCT ON ({keys}) * FROM ({found}) ORDER BY {keys}, {order}"
        )
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE _newer AS SELECT n.*, o.rowid AS _old FROM _new n LEFT JOIN {self.table} o"
            f" ON {same} WHERE o.rowid IS NULL OR {newer}"
        )
        con.execute(f"DELETE FROM {self.table} WHERE rowid IN (SELECT _old FROM _newer WHERE _old IS NOT NULL)")
        con.execute(f"INSERT INTO {self.table} SELECT * EXCLUDE (_old) FROM _newer")
        con.execute("DROP TABLE _new; DROP TABLE _newer")
        return Emitted((Outcome(applied=rows.count),))
