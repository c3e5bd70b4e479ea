"""Operators: one file a stateful verb. A step keeps its state in tables of the store and works on relations.

The contract of a step, checked by ``tests/operators`` and by the determinism tests:

- ``create`` makes its tables; ``load`` builds what it keeps in memory from them, after a restart.
- ``apply`` gets the new rows of an epoch, one relation for each input of its node, and changes its tables by SQL in the
  transaction that the caller holds open. Events come by partition and in the partition's order.
- What it does with a row depends on that row, those before it in its partition, the watermark at that row, and on rows of
  other partitions only by event time; never on where batches and epochs were cut or which partition was read first. So
  an event is late by its own partition's watermark, and what it must meet is kept until the lowest watermark has passed.
- It hands on only rows that do not change any more, and none with an event time below the watermark it had before.
- It accounts for each event: what it drops is counted as duplicate or late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from merganser.clock import MIN_TIME
from merganser.plan import Columns, Node
from merganser.sql import literal, quote

HIDDEN = ("_seq", "_time", "_wm")
"""Columns that travel with every row: its ordinal in its partition, its event time, and its partition's watermark at
it (the running maximum of event time up to and including it, less the lateness; MIN_TIME for rows that are no events any
more, which are never late); int64, times in microseconds."""

STATE = "merganser_state"
"""The schema of the steps' tables. Not ``merganser``: in a file of that name, DuckDB calls ``merganser.x`` ambiguous, and
the views that refer to these tables could not be read there by anyone who opens the file."""

PART = "_part"
"""Name of the partition that a row came from; added where partitions come together."""

ARROW_LOSES = ("HUGEINT", "UHUGEINT", "UUID", "ENUM", "JSON", "BIT", "BIGNUM")
"""Types that DuckDB does not get back as they were by way of Arrow; columns of these are cast where they are read."""


@dataclass(slots=True)
class Rows:
    """The new rows of one epoch at one node: an Arrow table of its columns, hidden ones, ``_part``.

    ``count`` is of events (an exploded event counts once). ``casts``: SQL for columns whose type Arrow cannot say.
    """

    con: duckdb.DuckDBPyConnection
    name: str
    table: pa.Table
    condition: str | None
    count: int
    casts: str = ""
    _known: bool = field(default=False, init=False)

    @property
    def relation(self) -> str:
        """What to put behind FROM. DuckDB knows the table by its name from then on, until ``forget``."""
        if not self._known:
            self.con.register(self.name, self.table)
            self._known = True
        if not self.condition and not self.casts:
            return self.name
        where = f" WHERE {self.condition}" if self.condition else ""
        return f"(SELECT *{self.casts} FROM {self.name}{where})"

    def forget(self) -> None:
        """DuckDB need not know the table any more."""
        if self._known:
            self.con.unregister(self.name)
            self._known = False


@dataclass(slots=True)
class Watermarks:
    """Where event time stands after an epoch; microseconds.

    ``partitions``: by name, of one source. ``closing``: no row before it can be on time any more, whatever partition it
    comes from, so state may go. ``final``: the same without partitions that were read to their end or have been quiet for
    long; never below ``closing``.
    """

    partitions: dict[str, int] = field(default_factory=dict)
    closing: int = MIN_TIME
    final: int = MIN_TIME


@dataclass(slots=True)
class Epoch:
    """What a step needs to know of the epoch it works in.

    ``watermarks``: those of the first input, with its partitions where it is events. ``closings``: the closing watermark
    of each input.
    """

    number: int
    cohort: int
    source: str
    watermarks: Watermarks
    closings: tuple[int, ...] = ()


@dataclass(slots=True)
class Outcome:
    """How many events of an input a step let through or applied, and what became of the others."""

    applied: int = 0
    filtered: int = 0
    late: int = 0
    duplicate: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that a step could not take, by position: itself as JSON, a stable reason, and a sentence."""

    seq: int
    partition: str | None
    row: str
    reason: str
    detail: str


@dataclass(slots=True)
class Emitted:
    """What a step hands on after an epoch.

    - ``outcomes``: what became of the events of each input.
    - ``rows``: rows that will not change any more: all of a stream, final ones of windows. None of a step that nobody
      reads rows of, or when there are none.
    - ``changes``: of a table that is watched: what this epoch changed in it, see ``changes.Watched``.
    - ``refused``: rows that are no good, and become dead letters: new ones, or such as were taken before.
    """

    outcomes: tuple[Outcome, ...]
    rows: Rows | None = None
    changes: Rows | None = None
    refused: tuple[Refusal, ...] = ()


class Step(Protocol):
    """A stateful operator's work in one epoch."""

    @property
    def tables(self) -> Sequence[str]:
        """Its tables, with their schema."""
        ...

    def create(self, con: duckdb.DuckDBPyConnection) -> None: ...

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        return  # for steps that keep nothing in memory

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted: ...


class Table(Step, Protocol):
    """A step whose tables are a view's content."""

    def view_sql(self) -> str:
        """The SELECT that the user's view is made of."""
        ...

    def live_sql(self) -> str:
        """The same of those rows alone that an epoch may change, but for closed windows that it hands on."""
        return self.view_sql()


def released(con: duckdb.DuckDBPyConnection, name: str, columns: Columns, sql: str) -> Rows | None:
    """The result of a query as the rows that a step hands on; None if there are none."""
    table = con.sql(sql).to_arrow_table()
    if not len(table):
        return None
    return Rows(con, name, table, None, len(table), casts(columns))


def casts(columns: Columns) -> str:
    """A REPLACE clause for the columns that come out of Arrow with another type; empty if there are none."""
    lost = [f"{quote(n)}::{t} AS {quote(n)}" for n, t in columns.items() if any(word in t for word in ARROW_LOSES)]
    return f" REPLACE ({', '.join(lost)})" if lost else ""


def keep_late(
    con: duckdb.DuckDBPyConnection, node: Node, views: Sequence[str], rows: Rows, late: str, epoch: Epoch, *, policy: str = "keep"
) -> int:
    """Count the events at a node for which the condition ``late`` is true; keep them for each view, if so declared."""
    count = int(one(con, f"SELECT {events(node, rows.relation, late)}"))
    if count and policy == "keep":
        columns = ", ".join(f"{quote(c)} := {quote(c)}" for c in node.columns)
        names = ", ".join(f"({literal(view)})" for view in views)
        con.execute(
            f"INSERT INTO merganser.late SELECT {epoch.cohort}, v.view, {literal(node.source.name)}, {PART}, _seq,"
            f" make_timestamp(_time), make_timestamp(_wm), to_json(struct_pack({columns})), {epoch.number}"
            f" FROM {rows.relation} CROSS JOIN (VALUES {names}) v(view) WHERE {late}"
        )
    return count


def on_time(
    con: duckdb.DuckDBPyConnection, node: Node, views: Sequence[str], rows: Rows | None, epoch: Epoch, *, policy: str
) -> tuple[Outcome, str]:
    """What became of the new rows at a node, and SQL for those that are on time; empty if there are none.

    A row is late if its own partition's watermark is past its time; only events can be.
    """
    if rows is None or not rows.count:
        return Outcome(), ""
    late = keep_late(con, node, views, rows, "_time < _wm", epoch, policy=policy) if node.events else 0
    names = ", ".join(quote(name) for name in node.columns)
    sql = f"SELECT {names}, {PART}::VARCHAR AS _part, _seq, _time FROM {rows.relation} WHERE _time >= _wm"
    return Outcome(applied=rows.count - late, late=late), sql


def events(node: Node, relation: str, condition: str = "true") -> str:
    """SQL that counts the events (not rows) of a relation for which a condition is true."""
    if node.exploded:
        return f"(SELECT count(DISTINCT ({PART}, _seq)) FROM {relation} WHERE {condition})"
    return f"(SELECT count(*) FROM {relation} WHERE {condition})"


def one(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The first column of the first row."""
    return con.execute(sql).fetchall()[0][0]  # not fetchone: an unfinished result blocks the connection
