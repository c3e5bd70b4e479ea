"""``fold``: a pure Python function over the ordered events of each key; its last state is the view.

The events come from ``order``, so a key's come in the order of their event times, each once. Everything around the function is
columnar: the states of an epoch's keys are read once, the function is called an event at a time, and they are written once.

If the function raises, the event is a dead letter and its key is *parked*: its later events wait, in order, while other keys go
on. ``resume`` says whether the event that failed is tried again or left out; the next epoch does it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from merganser import faults
from merganser.errors import FlowError, UsageError
from merganser.operators import STATE, Emitted, Epoch, Outcome, Refusal, Rows, Table, one
from merganser.operators.history import History
from merganser.plan import Columns, Fold
from merganser.sql import literal, quote
from merganser.states import arrow

Key = tuple[Any, ...]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

REASON = "not folded"
"""The reason of dead letters that park a key."""


@dataclass(slots=True)
class Turn:
    """The events of one epoch in order, by key, and what becomes of the states."""

    states: dict[Key, Any]
    done: dict[Key, int] = field(default_factory=dict)
    """By key that is changed: the number of the last event that its state has."""
    parked: dict[Key, list[int]] = field(default_factory=dict)
    """By key that is parked: the places of its events that wait, the one that failed first."""
    refused: dict[Key, str] = field(default_factory=dict)
    """Why the first of them failed."""


class FoldStep(Table):
    """Keeps *states*: key, state, ``seq`` of the last event in it; and *parked*: events that wait, and what is to be done."""

    def __init__(self, node: Fold, table: str, views: Sequence[str]) -> None:
        assert node.input is not None
        self.node, self.input, self.views = node, node.input, views
        self.states = f"{STATE}.{quote(table + '_states')}"
        self.parked = f"{STATE}.{quote(table + '_parked')}"
        self.skipped = f"{STATE}.{quote(table + '_skipped')}"
        self.history = History(node, table) if node.history else None
        self.keys = [quote(name) for name in node.by]

    @property
    def tables(self) -> list[str]:
        return [self.states, self.parked, self.skipped, *([self.history.table] if self.history else [])]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self.node.columns.items())
        con.execute(f"CREATE TABLE {self.states} ({columns})")
        columns = ", ".join(f"{quote(name)} {kind}" for name, kind in self.input.columns.items())
        con.execute(f"CREATE TABLE {self.parked} ({columns}, _part VARCHAR, _seq BIGINT, _time BIGINT, _then VARCHAR)")
        keys = ", ".join(f"{quote(name)} {self.node.columns[name]}" for name in self.node.by)
        con.execute(f"CREATE TABLE {self.skipped} ({keys}, seq BIGINT)")
        if self.history:
            self.history.create(con)

    def view_sql(self) -> str:
        return f"SELECT {', '.join(quote(name) for name in self.node.columns)} FROM {self.states}"

    # -- one epoch ------------------------------------------------------------------------------------------------

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.fold")
        rows = inputs[0]
        events = self._events(con, rows, epoch)
        outcome = Outcome(applied=rows.count if rows else 0)
        if not len(events):
            return Emitted((outcome,))
        con.register("_events", events)
        kept = self._kept(con)
        turn = Turn({key: state for key, (state, _) in kept.items()})
        turn.parked = {key: [] for key in con.execute(f"SELECT DISTINCT {', '.join(self.keys)} FROM {self.parked}").fetchall()}
        keys: list[Key] = list(zip(*(events[name].to_pylist() for name in self.node.by)))
        told = list(zip(*(values(events[name]) for name in self.input.columns)))
        self._fold(turn, keys, told, {key: values for key, (_, values) in kept.items()})
        self._save(con, turn)
        if self.history:
            self.history.save(con, events)
        self._park(con, events, sorted(at for places in turn.parked.values() for at in places))
        con.unregister("_events")
        return Emitted((outcome,), refused=tuple(self._refused(turn, events, told)))

    def _events(self, con: duckdb.DuckDBPyConnection, rows: Rows | None, epoch: Epoch) -> pa.Table:
        """The events to fold: first those of keys that go on, then the new ones; each key's in order."""
        items = ", ".join([*(quote(name) for name in self.input.columns), "_part", "_seq", "_time"])
        new = f"SELECT {items} FROM {rows.relation}" if rows is not None and rows.count else ""
        firsts = f"SELECT DISTINCT ON ({', '.join(self.keys)}) * FROM {self.parked} WHERE _then IS NOT NULL ORDER BY seq"
        if one(con, f"SELECT count(*) FROM ({firsts})"):
            con.execute(f"CREATE OR REPLACE TEMP TABLE _firsts AS {firsts}")
            con.execute(
                f"DELETE FROM merganser.dead_letters WHERE cohort = {epoch.cohort} AND reason = '{REASON}' AND view IN"
                f" ({', '.join(map(literal, self.views))}) AND (partition, seq) IN (SELECT (_part, _seq) FROM _firsts)"
            )
            con.execute(
                f"INSERT INTO {self.skipped} SELECT {', '.join(self.keys)}, seq FROM _firsts WHERE _then = 'skip'"
            )
            self._going_on(con, epoch)
            same = " AND ".join(f"p.{k} IS NOT DISTINCT FROM s.{k}" for k in (*self.keys, "seq"))
            left_out = f"EXISTS (FROM {self.skipped} s WHERE {same})"
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE _again AS SELECT {items} FROM {self.parked} p"
                f" WHERE _then IS NOT NULL AND seq > 0 AND NOT {left_out} ORDER BY seq"
            )
            con.execute(f"DELETE FROM {self.parked} WHERE _then IS NOT NULL; DROP TABLE _firsts")
            found = con.sql(f"FROM _again UNION ALL {new}" if new else "FROM _again").to_arrow_table()
            con.execute("DROP TABLE _again")
            return found
        return con.sql(new).to_arrow_table() if new else pa.table({})

    def _going_on(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> None:
        """For what else is to be done about keys that go on: ``_firsts`` are their events that failed."""

    def _park(self, con: duckdb.DuckDBPyConnection, events: pa.Table, places: Sequence[int]) -> None:
        """Let events wait."""
        if places:
            con.register("_waiting", events.take(pa.array(places)))
            con.execute(f"INSERT INTO {self.parked} SELECT *, NULL FROM _waiting")
            con.unregister("_waiting")

    def _kept(self, con: duckdb.DuckDBPyConnection) -> dict[Key, tuple[Any, tuple[Any, ...]]]:
        """By key of ``_events``: its state, and the values in the store that it was made of."""
        same = " AND ".join(f"s.{k} IS NOT DISTINCT FROM e.{k}" for k in self.keys)
        found = con.sql(f"SELECT s.* FROM {self.states} s SEMI JOIN _events e ON {same}").to_arrow_table()
        columns = [found[name].to_pylist() for name, _ in self.node.state.columns]
        keys = zip(*(found[name].to_pylist() for name in self.node.by))
        return dict(zip(keys, zip(self.node.state.load(columns), zip(*columns))))

    def _fold(self, turn: Turn, keys: list[Key], told: list[tuple[Any, ...]], kept: Mapping[Key, tuple[Any, ...]]) -> None:
        """Call the function for each event in turn."""
        apply, fresh = self.node.apply, self.node.state.fresh
        names = list(self.input.columns)
        number = names.index("seq")
        states, done, parked = turn.states, turn.done, turn.parked
        for at, (key, row) in enumerate(zip(keys, told)):
            if key in parked:
                parked[key].append(at)
                continue
            try:
                states[key] = apply(states[key] if key in states else fresh(), dict(zip(names, row)))
            except Exception as error:
                turn.refused[key] = f"{type(error).__name__}: {error}"
                parked[key] = [at]
                # The failed call may have changed the state in place: make it anew, from what is kept and this epoch's events.
                state = self.node.state.load([[value] for value in kept[key]])[0] if key in kept else fresh()
                for k, before in zip(keys[:at], told[:at]):
                    if k == key:
                        state = apply(state, dict(zip(names, before)))
                states[key] = state
            else:
                done[key] = row[number]
                if self.history:
                    self._note(at, states[key])

    def _note(self, at: int, state: Any) -> None:
        assert self.history is not None
        try:
            self.history.note(at, state)
        except ValueError as error:
            raise FlowError(f"fold: {error}", where=self.node.where) from None

    def _save(self, con: duckdb.DuckDBPyConnection, turn: Turn) -> None:
        self._write(con, {key: turn.states[key] for key in turn.done}, [(seq,) for seq in turn.done.values()], self.node.columns)

    def _write(
        self, con: duckdb.DuckDBPyConnection, states: Mapping[Key, Any], others: Sequence[tuple[Any, ...]], kinds: Columns
    ) -> None:
        """Write the states that changed. ``others``: the values behind each; ``kinds``: of all columns."""
        if not states:
            return
        try:
            dumped = self.node.state.dump(states.values())
        except ValueError as error:
            raise FlowError(f"{type(self.node).__name__.lower()}: {error}", where=self.node.where) from None
        con.register("_changed", arrow(kinds, [*zip(*states), *dumped, *zip(*others)]))
        same = " AND ".join(f"s.{k} IS NOT DISTINCT FROM c.{k}" for k in self.keys)
        con.execute(f"DELETE FROM {self.states} s WHERE EXISTS (FROM _changed c WHERE {same})")
        con.execute(f"INSERT INTO {self.states} FROM _changed")
        con.unregister("_changed")

    def _refused(self, turn: Turn, events: pa.Table, told: Sequence[tuple[Any, ...]]) -> Iterator[Refusal]:
        """What the function could not take, one event for each key that is newly parked."""
        names = list(self.input.columns)
        for key, why in turn.refused.items():
            at = turn.parked[key][0]
            row = json.dumps(dict(zip(names, told[at])), default=str)
            detail = f"fold ({self.node.where}): {why}; the later events of its key wait"
            yield Refusal(events["_seq"][at].as_py(), events["_part"][at].as_py(), row, REASON, detail)


def values(column: pa.ChunkedArray) -> list[Any]:
    """A column as Python values, by way of numpy where that is quicker; event times with their zone, UTC."""
    if pa.types.is_timestamp(column.type):
        since = column.cast(pa.timestamp("us"), safe=False).to_numpy().astype("datetime64[us]").astype("timedelta64[us]").tolist()
        return [None if span is None else EPOCH + span for span in since]
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column.to_numpy().tolist()  # type: ignore[no-any-return] # pyarrow ships no types
    if pa.types.is_string(column.type):
        return column.to_numpy().tolist()  # type: ignore[no-any-return] # pyarrow ships no types
    return column.to_pylist()  # type: ignore[no-any-return] # pyarrow ships no types


# -- keys that are parked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parked:
    """A key whose events wait: since one could not be folded. ``then``: what the next epoch does, if that was said."""

    view: str
    key: dict[str, Any]
    events: int
    partition: str
    seq: int
    then: str | None


def parked(con: duckdb.DuckDBPyConnection) -> list[Parked]:
    """The keys that are parked in a store, by view."""
    found = []
    for view, table, keys in _tables(con):
        names = ", ".join(map(quote, keys))
        rows = con.execute(
            f"SELECT {names}, count(*), arg_min(_part, seq), arg_min(_seq, seq), arg_min(_then, seq) FROM {table}"
            f" GROUP BY {names} ORDER BY {names}"
        ).fetchall()
        found += [Parked(view, dict(zip(keys, row)), *row[len(keys) :]) for row in rows]
    return found


def resume(con: duckdb.DuckDBPyConnection, view: str, key: Mapping[str, Any] | None, *, skip: bool) -> int:
    """Let a key of a view go on with the next epoch; all of its parked ones for None. Returns how many keys there were.

    ``skip``: without the event that failed; else that is tried again. Called in a transaction on a store that no flow holds.
    """
    mine = [(table, keys) for name, table, keys in _tables(con) if name == view]
    if not mine:
        raise UsageError(f"view {view!r} is no fold and no process")
    those = [(table, keys) for table, keys in mine if key is None or set(key) == set(keys)]
    if key is not None and not those:
        raise UsageError(f"a key of view {view!r} has {', '.join(mine[0][1])}, not {', '.join(key)}")
    count = 0
    for table, keys in those:
        where, given = "true", []
        if key is not None:
            where = " AND ".join(f"{quote(name)}::VARCHAR IS NOT DISTINCT FROM ?::VARCHAR" for name in keys)
            given = [key[name] for name in keys]
        names = ", ".join(map(quote, keys))
        count += len(con.execute(f"SELECT DISTINCT {names} FROM {table} WHERE {where}", given).fetchall())
        con.execute(f"UPDATE {table} SET _then = '{'skip' if skip else 'again'}' WHERE {where}", given)
    return count


def go_on(con: duckdb.DuckDBPyConnection, failed: Collection[tuple[str, str, int]], *, skip: bool) -> int:
    """``resume`` the keys whose first event that waits is one of these: by view, partition and ordinal."""
    mine = [p for p in parked(con) if (p.view, p.partition, p.seq) in failed]
    return sum(resume(con, p.view, p.key, skip=skip) for p in mine)


def _tables(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str, list[str]]]:
    """View, table of parked events and key columns of each fold in a store."""
    found = []
    for view, name in con.execute(
        f"SELECT t.view, t.name FROM {STATE}.tables t JOIN merganser.views v ON v.view = t.view AND v.cohort = t.cohort"
        f" WHERE v.status = 'live' AND t.name LIKE '%_parked\"' ORDER BY ALL"
    ).fetchall():
        skipped = name.removesuffix('_parked"') + '_skipped"'
        keys = [row[0] for row in con.execute(f"DESCRIBE {skipped}").fetchall() if row[0] != "seq"]
        found.append((view, name, keys))
    return found
