"""``write``: rows become numbered messages in the outbox, in the transaction of their epoch; the engine sends them after it.

They are encoded here and not when they are sent: so a row that its schema cannot hold is a dead letter in the books of its epoch,
and what is sent again after a crash is the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from merganser import faults
from merganser.codecs import encoding
from merganser.codecs.encoding import Encoded
from merganser.operators import PART, STATE, Emitted, Epoch, Outcome, Refusal, Rows
from merganser.operators.changes import RETRACTED
from merganser.plan import Changes, Write
from merganser.sql import literal, quote

GONE, KEY, ROW, SEQ, HEADERS = "_gone", "_message_key", "_row", "_seq", "_headers"
TRACE = ("traceparent", "tracestate")
"""What of a row is a header of its message, if it is known."""


class WriteStep:
    """Keeps a row in ``merganser.sinks`` (the number of the last message, and of the last that was sent) and the outbox."""

    def __init__(self, node: Write, cohort: int) -> None:
        self.node, self.cohort = node, cohort
        self._name = literal(node.name)
        assert node.input is not None
        columns = {n: t for n, t in node.columns.items() if not (node.upserts and n == RETRACTED)}
        names = ", ".join(quote(c) for c in node.columns)
        self._items = encoding.select(node.encoding, columns)
        self._row = f"to_json(struct_pack({', '.join(f'{quote(c)} := {quote(c)}' for c in columns)}))::VARCHAR AS {ROW}"
        self._order = f"{PART}, _seq" if node.input.events else f"_time, {names}"
        """Events go in the order of their partitions, made rows by event time: neither depends on where epochs were cut."""
        self._which, self._gone = "", f"false AS {GONE}"
        if isinstance(node.input, Changes):
            self._order = f"{RETRACTED} DESC, {names}"
            if node.upserts and node.key is not None:
                # A new row takes the old one's place; of one that is gone a tombstone is left.
                gone = f"bool_and({RETRACTED}) OVER (PARTITION BY {quote(node.key)})"
                self._which = f" QUALIFY NOT {RETRACTED} OR {gone}"
                self._gone = f"{RETRACTED} AS {GONE}"
        self._key = "NULL::BLOB" if node.key is None else f"encode({quote(node.key)}::VARCHAR)"
        known = self.traces = {name: column for name in TRACE if (column := node.input.reference(name))}
        pairs = ", ".join(f"{{'name': '{n}', 'value': encode({quote(c)}::VARCHAR)}}" for n, c in known.items())
        self._headers = f"list_filter([{pairs}], lambda h: h.value IS NOT NULL)" if known else "NULL"
        self._encoder: encoding.Encoder | None = None

    @property
    def tables(self) -> list[str]:
        return []

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        self.load(con)
        con.execute(f"INSERT INTO merganser.sinks VALUES ({self._name}, {self.cohort}, 0, 0)")

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        """Ask the registry, where there is one, before the first row."""
        self._encoder = encoding.encoder(self.node.encoding)

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.write")
        (rows,) = inputs
        if rows is None or not rows.count:
            return Emitted((Outcome(),))
        table, made = self._encoded(con, rows, [])
        refused: tuple[Refusal, ...] = ()
        if made.refused:
            # Once more with the rows themselves: what is in the same order otherwise may not be.
            table, made = self._encoded(con, rows, [self._row])
            refused = tuple(self._refusals(table, made))
        self._keep(con, table, made, epoch)
        dead = len({(r.partition, r.seq) for r in refused}) if self.node.exploded else len(refused)
        return Emitted((Outcome(applied=rows.count - dead, dead=dead),), refused=refused)

    def _encoded(self, con: duckdb.DuckDBPyConnection, rows: Rows, more: list[str]) -> tuple[pa.Table, Encoded]:
        """What identifies each row, and the rows encoded; tombstones are rows without a piece."""
        assert self._encoder is not None
        place = [c for c in (PART, SEQ) if c in rows.table.column_names]
        headers = f"{self._headers}::STRUCT(name VARCHAR, value BLOB)[] AS {HEADERS}"
        items = ", ".join([*place, f"{self._key} AS {KEY}", self._gone, headers, *more])
        whole = con.sql(
            f"SELECT {items}, {self._items} FROM (SELECT * FROM {rows.relation}{self._which}) ORDER BY {self._order}"
        ).to_arrow_table()
        known = [*place, KEY, GONE, HEADERS, *([ROW] if more else [])]
        content = whole.drop_columns(known)
        gone = whole[GONE].to_numpy()
        if not gone.any():
            return whole.select(known), self._encoder.encode(content)
        there = np.flatnonzero(~gone)
        made = self._encoder.encode(content.filter(pa.array(~gone)))
        return whole.select(known), Encoded(made.pieces, made.counts, {int(there[i]): why for i, why in made.refused.items()})

    def _keep(self, con: duckdb.DuckDBPyConnection, table: pa.Table, made: Encoded, epoch: Epoch) -> None:
        """Number the pieces from the sink's last one on, and put them into the outbox."""
        left = np.ones(len(table), np.bool_)
        left[list(made.refused)] = False
        if self.node.encoding.columnar:
            counts, values, keys = made.counts, made.pieces, pa.nulls(len(made.pieces), pa.binary())
            headers = pa.nulls(len(counts), table[HEADERS].type)
        else:
            gone = table[GONE].to_numpy()[left]
            at = np.where(gone, 0, np.cumsum(~gone) - 1)
            counts, keys = np.ones(len(gone), np.int64), table[KEY].filter(pa.array(left)).combine_chunks()
            headers = table[HEADERS].filter(pa.array(left))
            values = made.pieces.take(pa.array(at, mask=gone)) if len(made.pieces) else pa.nulls(len(gone), pa.binary())
        if not len(counts):
            return
        con.register("_pieces", pa.table({"n": pa.array(np.cumsum(counts)), "key": keys, "value": values, "headers": headers}))
        mine = f"sink = {self._name}"
        con.execute(
            f"INSERT INTO merganser.outbox SELECT {self._name}, (SELECT seq FROM merganser.sinks WHERE {mine}) + n,"
            f" {epoch.number}, key, value, headers FROM _pieces"
        )
        con.unregister("_pieces")
        con.execute(
            f"UPDATE merganser.sinks SET seq = (SELECT max(seq) FROM merganser.outbox WHERE {mine}) WHERE {mine}"
        )

    def _refusals(self, table: pa.Table, made: Encoded) -> list[Refusal]:
        found = table.take(pa.array(sorted(made.refused)))
        count = len(found)
        seqs = found[SEQ].to_pylist() if SEQ in found.column_names else [0] * count
        parts = found[PART].to_pylist() if PART in found.column_names else [""] * count
        rows = found[ROW].to_pylist()
        where = f"write ({self.node.where})"
        return [
            Refusal(seqs[i] or 0, parts[i] or "", rows[i], made.refused[n][0], f"{where}: {made.refused[n][1]}")
            for i, n in enumerate(sorted(made.refused))
        ]


class HeldStep(WriteStep):
    """Encodes rows as ``write`` does, so that it refuses the same ones; then keeps the rows themselves, and sends none.

    A redrive compares them with those that were sent.
    """

    def __init__(self, node: Write, cohort: int) -> None:
        super().__init__(node, cohort)
        self.table = f"{STATE}.{quote(f'held_{node.name}_{cohort}')}"
        self.columns = dict.fromkeys(self.traces.values(), "VARCHAR") | node.columns
        """What is sent of a row depends on these."""

    @property
    def tables(self) -> list[str]:
        return [self.table]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        self.load(con)
        columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self.columns.items())
        con.execute(f"CREATE TABLE {self.table} ({columns}, _part VARCHAR, _seq BIGINT, _time BIGINT)")

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        emitted = super().apply(con, inputs, epoch)
        (rows,) = inputs
        if rows is not None and rows.count:
            names = ", ".join([*map(quote, self.columns), PART, SEQ, "_time"])
            con.execute(f"INSERT INTO {self.table} SELECT {names} FROM {rows.relation}")
        return emitted

    def _keep(self, con: duckdb.DuckDBPyConnection, table: pa.Table, made: Encoded, epoch: Epoch) -> None:
        pass
