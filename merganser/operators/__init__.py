"""Operators: one file a stateful verb. A step keeps its state in tables of the store and works on relations.

The contract of a step, checked by ``tests/operators`` and by the determinism tests:

- ``create`` makes its tables; ``load`` builds what it keeps in memory from them, after a restart.
- ``apply`` gets the new rows of an epoch, by partition and in the partition's order, and changes its tables by SQL in
  the transaction that the caller holds open.
- What it does with a row depends on that row, those before it in its partition, and the watermark at that row; never
  on where batches and epochs were cut.
- It accounts for each event: what it drops is counted as duplicate or late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from merganser.clock import MIN_TIME
from merganser.plan import Node

HIDDEN = ("_seq", "_time", "_wm")
"""Columns that travel with every row: its ordinal in its partition, its event time, and its partition's watermark at
it (the running maximum of event time up to and including it, less the lateness); int64, times in microseconds."""

STATE = "merganser_state"
"""The schema of the steps' tables. Not ``merganser``: in a file of that name, DuckDB calls ``merganser.x`` ambiguous, and
the views that refer to these tables could not be read there by anyone who opens the file."""

PART = "_part"
"""Name of the partition that a row came from; added where partitions come together."""


@dataclass(slots=True)
class Rows:
    """The new rows of one epoch at one node: an Arrow table of its columns, hidden ones, ``_part``.

    ``relation`` is what to put behind FROM; ``count`` is of events (an exploded event counts once).
    """

    name: str
    table: pa.Table
    condition: str | None
    count: int

    @property
    def relation(self) -> str:
        return f"(SELECT * FROM {self.name} WHERE {self.condition})" if self.condition else self.name


@dataclass(slots=True)
class Watermarks:
    """Where event time stands after an epoch, for one source; microseconds.

    ``partitions``: by name. ``closing``: no row before it can be on time any more, whatever partition it comes from,
    so state may go. ``final``: the same without partitions that were read to their end; never below ``closing``.
    """

    partitions: dict[str, int] = field(default_factory=dict)
    closing: int = MIN_TIME
    final: int = MIN_TIME


@dataclass(slots=True)
class Epoch:
    """What a step needs to know of the epoch it works in."""

    number: int
    cohort: int
    source: str
    watermarks: Watermarks


@dataclass(slots=True)
class Outcome:
    """How many events a step let through or applied, and what became of the others."""

    applied: int = 0
    filtered: int = 0
    late: int = 0
    duplicate: int = 0


class Step(Protocol):
    """A stateful operator's work in one epoch."""

    def create(self, con: duckdb.DuckDBPyConnection) -> None: ...

    def load(self, con: duckdb.DuckDBPyConnection) -> None: ...

    def drop(self, con: duckdb.DuckDBPyConnection) -> None: ...


class Terminal(Step, Protocol):
    """A step whose tables are a view's content."""

    def apply(self, con: duckdb.DuckDBPyConnection, rows: Rows | None, epoch: Epoch) -> Outcome: ...

    def view_sql(self) -> str:
        """The SELECT that the user's view is made of."""
        ...


def events(node: Node, relation: str, condition: str = "true") -> str:
    """SQL that counts the events (not rows) of a relation for which a condition is true."""
    if node.exploded:
        return f"(SELECT count(DISTINCT ({PART}, _seq)) FROM {relation} WHERE {condition})"
    return f"(SELECT count(*) FROM {relation} WHERE {condition})"


def one(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The first column of the first row."""
    return con.execute(sql).fetchall()[0][0]  # not fetchone: an unfinished result blocks the connection
