"""``materialize`` of a stream that was not aggregated: every row is kept."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser import faults
from merganser.operators import STATE, Emitted, Epoch, Outcome, Rows, Table
from merganser.plan import Columns
from merganser.sql import quote


class AppendStep(Table):
    """Keeps one table of the stream's columns; append only."""

    def __init__(self, columns: Columns, table: str) -> None:
        self.columns = columns
        self.table = f"{STATE}.{quote(table)}"

    @property
    def tables(self) -> list[str]:
        return [self.table]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute(f"CREATE TABLE {self.table} ({', '.join(f'{quote(n)} {t}' for n, t in self.columns.items())})")

    def view_sql(self) -> str:
        return f"SELECT * FROM {self.table}"

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.append")
        (rows,) = inputs
        if rows is None or not rows.count:
            return Emitted((Outcome(),))
        columns = ", ".join(quote(name) for name in self.columns)
        con.execute(f"INSERT INTO {self.table} SELECT {columns} FROM {rows.relation}")
        return Emitted((Outcome(applied=rows.count),), rows)
