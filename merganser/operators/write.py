"""``write``: rows become numbered messages in the outbox, in the transaction of their epoch; the engine sends them after it."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from merganser import faults
from merganser.operators import PART, Emitted, Epoch, Outcome, Rows
from merganser.operators.changes import RETRACTED
from merganser.plan import Changes, Write
from merganser.sql import literal, quote


class WriteStep:
    """Keeps a row in ``merganser.sinks`` (the number of the last message, and of the last that was sent) and the outbox."""

    def __init__(self, node: Write, cohort: int) -> None:
        self.node, self.cohort = node, cohort
        self._name = literal(node.name)
        assert node.input is not None
        shown = [c for c in node.columns if not (node.upserts and c == RETRACTED)]
        columns = ", ".join(f"{quote(c)} := {quote(c)}" for c in shown)
        self._value = f"to_json(struct_pack({columns}))::VARCHAR::BLOB"
        self._order = f"{PART}, _seq" if node.input.events else f"_time, {', '.join(quote(c) for c in node.columns)}"
        """Events go in the order of their partitions, made rows by event time: neither depends on where epochs were cut."""
        self._which = ""
        if isinstance(node.input, Changes):
            self._order = f"{RETRACTED} DESC, {', '.join(quote(c) for c in node.columns)}"
            if node.upserts and node.key is not None:
                # A new row takes the old one's place; of one that is gone a tombstone is left.
                gone = f"bool_and({RETRACTED}) OVER (PARTITION BY {quote(node.key)})"
                self._which = f" QUALIFY NOT {RETRACTED} OR {gone}"
                self._value = f"CASE WHEN NOT {RETRACTED} THEN {self._value} END"
        self._key = "NULL::BLOB" if node.key is None else f"encode({quote(node.key)}::VARCHAR)"

    @property
    def tables(self) -> list[str]:
        return []

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute(f"INSERT INTO merganser.sinks VALUES ({self._name}, {self.cohort}, 0, 0)")

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        pass  # nothing is kept in memory

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.write")
        (rows,) = inputs
        if rows is None or not rows.count:
            return Emitted((Outcome(),))
        mine = f"sink = {self._name}"
        con.execute(
            f"INSERT INTO merganser.outbox SELECT {self._name}, (SELECT seq FROM merganser.sinks WHERE {mine})"
            f" + row_number() OVER (ORDER BY {self._order}), {epoch.number}, {self._key}, {self._value}"
            f" FROM (SELECT * FROM {rows.relation}{self._which})"
        )
        con.execute(
            f"UPDATE merganser.sinks SET seq = (SELECT max(seq) FROM merganser.outbox WHERE {mine}) WHERE {mine}"
        )
        return Emitted((Outcome(applied=rows.count),))
