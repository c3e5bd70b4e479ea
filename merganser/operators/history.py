"""The history of a fold: each event that was folded, in order, with the state after it. Kept where a fold was asked to.

A table of the event's columns, ``_part``, ``_seq`` and ``_time`` as everywhere, and ``_state``: JSON, or a struct of the
state's fields. Its comment says how it is ordered, as JSON, for those who read it (``query.past``).
"""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pyarrow as pa

from merganser.operators import STATE
from merganser.plan import Fold, Order
from merganser.sql import literal, quote
from merganser.states import arrow

ENDING = "_history"


class History:
    """Collects what a turn of a fold did, and writes it."""

    def __init__(self, node: Fold, table: str) -> None:
        assert node.input is not None
        self._node, self._input = node, node.input
        self._fields = dict(node.state.columns)
        self.table = f"{STATE}.{quote(table + ENDING)}"
        self._at: list[int] = []
        self._states: list[list[Any]] = []

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self._input.columns.items())
        fields = ", ".join(f"{quote(name)} {kind}" for name, kind in self._fields.items())
        state = "JSON" if self._node.state.kind is None else f"STRUCT({fields})"
        con.execute(f"CREATE TABLE {self.table} ({columns}, _part VARCHAR, _seq BIGINT, _time BIGINT, _state {state})")
        order = "log" if isinstance(self._input, Order) and self._input.log else "time"
        about = {"keys": self._node.by, "order": order, "timed": self._node.source.time is not None}
        con.execute(f"COMMENT ON TABLE {self.table} IS {literal(json.dumps(about))}")

    def note(self, at: int, state: Any) -> None:
        """The event at a place of this turn was folded, and gave a state. Raises ValueError for one that cannot be kept."""
        # At once: the next call of the function may change it in place.
        self._states.append([column[0] for column in self._node.state.dump([state])])
        self._at.append(at)

    def save(self, con: duckdb.DuckDBPyConnection, events: pa.Table) -> None:
        """Write what was noted of a turn over these events."""
        at, states, self._at, self._states = self._at, self._states, [], []
        if not at:
            return
        made = [f"_state{i}" for i in range(len(self._fields))]
        rows = events.take(at)
        for name, column in zip(made, arrow(self._fields, zip(*states)).columns):
            rows = rows.append_column(name, column)
        fields = ", ".join(f"{quote(name)} := {column}" for name, column in zip(self._fields, made))
        state = "_state0::JSON" if self._node.state.kind is None else f"struct_pack({fields})"
        items = ", ".join([*map(quote, self._input.columns), "_part", "_seq", "_time", state])
        con.register("_noted", rows)
        con.execute(f"INSERT INTO {self.table} SELECT {items} FROM _noted")
        con.unregister("_noted")
