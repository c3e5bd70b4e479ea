"""``process``: a fold that also emits rows, and that is told when the event time in its state's ``due`` has come.

A deadline is met by event time alone: before the first event of its key that is later, or when the watermark has passed it, so
whether it is met before or after an event does not depend on when either came. An event at just the deadline is in time.

A timeout that raises parks its key as an event does; it waits as a row whose ``seq`` is the number of the timeout, less than 0.
What a key emits when it goes on after it was parked gets the watermark of that epoch as event time: its own is in the past then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.errors import FlowError
from merganser.operators import STATE, Emitted, Epoch, Outcome, Refusal, Rows, one, released
from merganser.operators.fold import EPOCH, REASON, FoldStep, Key, values
from merganser.plan import Columns, Process
from merganser.sql import empty, quote
from merganser.states import arrow, checked

HIDDEN: Columns = {
    "_emitted": "BIGINT", "_timeouts": "BIGINT", "_due": "BIGINT", "_met": "BIGINT", "_part": "VARCHAR", "_seq": "BIGINT",
}  # fmt: skip
"""What is kept of a key besides its state, see ``Standing``."""

PLACE: Columns = {"_part": "VARCHAR", "_seq": "BIGINT", "_time": "BIGINT"}
"""What says where a row came from, and when."""


@dataclass(slots=True)
class Standing:
    """Where a key stands; times in microseconds.

    ``seq``, ``part``, ``pos``: of its last event. ``emitted``, ``timeouts``: how many there were. ``due``: when the deadline
    is to be met (None: there is none); ``met``: the ``due`` of the state that was met already, as long as it stays there.
    """

    state: Any
    seq: int = 0
    emitted: int = 0
    timeouts: int = 0
    due: int | None = None
    met: int | None = None
    part: str = ""
    pos: int = 0


@dataclass(slots=True)
class Played:
    """What a key did in an epoch: where it stands, the rows that it emitted, and what kept it from going on.

    ``left``: how many of its events are left over then; ``why`` without ``timeout``: the first of them failed.
    """

    standing: Standing
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    left: int = 0
    why: str | None = None
    timeout: bool = False


class ProcessStep(FoldStep):
    """The tables of a fold, with ``HIDDEN`` columns in *states*; and *resumed*: from which number on a key emits how late."""

    def __init__(self, node: Process, table: str, views: Sequence[str], *, emits: bool) -> None:
        super().__init__(node, table, views)
        self.process, self.emits, self.name = node, emits, f"_{table}"
        self.resumed = f"{STATE}.{quote(table + '_resumed')}"
        self._floors: dict[Key, int] = {}

    @property
    def tables(self) -> list[str]:
        return [*super().tables, self.resumed]

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        super().create(con)
        for name, kind in HIDDEN.items():
            con.execute(f"ALTER TABLE {self.states} ADD COLUMN {name} {kind}")
        keys = ", ".join(f"{quote(name)} {self.node.columns[name]}" for name in self.node.by)
        con.execute(f"CREATE TABLE {self.resumed} ({keys}, seq BIGINT, _time BIGINT)")

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.process")
        rows, closing = inputs[0], epoch.closings[0]
        self._floors = {}
        events = self._events(con, rows, epoch)
        outcome = Outcome(applied=rows.count if rows else 0)
        if not len(events) and not one(con, f"SELECT count(*) FROM {self.states} WHERE _due < {closing}"):
            return Emitted((outcome,))
        con.register("_events", events)
        kept = self._standings(con, closing)
        keys: list[Key] = list(zip(*(events[name].to_pylist() for name in self.node.by)))
        names = list(self.input.columns)
        told = [dict(zip(names, row)) for row in zip(*(values(events[name]) for name in names))]
        places: dict[Key, list[int]] = {key: [] for key in kept}
        for at, key in enumerate(keys):
            places.setdefault(key, []).append(at)
        waiting = set(con.execute(f"SELECT DISTINCT {', '.join(self.keys)} FROM {self.parked}").fetchall())
        left = [at for key in waiting & places.keys() for at in places[key]]
        turn = Turn(self, events, told, kept, closing, self._skipped(con))
        played = {key: turn.play(key, mine) for key, mine in places.items() if key not in waiting}
        for key, each in played.items():
            left += places[key][len(places[key]) - each.left :]
        self._store(con, played, kept)
        self._park(con, events, sorted(left))
        refused = tuple(self._refused_by(con, turn, played, places))
        con.unregister("_events")
        return Emitted((outcome,), self._made(con, played), refused=refused)

    def _events(self, con: duckdb.DuckDBPyConnection, rows: Rows | None, epoch: Epoch) -> pa.Table:
        found = super()._events(con, rows, epoch)
        if found.column_names:
            return found
        kinds = self.input.columns | PLACE
        return con.sql(empty(kinds)).to_arrow_table()

    def _going_on(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> None:
        keys, floor = ", ".join(self.keys), epoch.closings[0]
        con.execute(f"INSERT INTO {self.resumed} SELECT {keys}, seq, {floor} FROM _firsts")
        self._floors = dict.fromkeys(con.execute(f"SELECT {keys} FROM _firsts").fetchall(), floor)

    def _standings(self, con: duckdb.DuckDBPyConnection, closing: int) -> dict[Key, tuple[Any, ...]]:
        """By key that has events or is due: the values that it is kept as."""
        same = " AND ".join(f"s.{k} IS NOT DISTINCT FROM e.{k}" for k in self.keys)
        mine = f"_due < {closing} OR EXISTS (FROM _events e WHERE {same})"
        found = con.sql(f"SELECT * FROM {self.states} s WHERE {mine}").to_arrow_table()
        columns = [name for name, _ in self.node.state.columns]
        rows = zip(*(found[name].to_pylist() for name in (*columns, "seq", *HIDDEN)))
        return dict(zip(zip(*(found[name].to_pylist() for name in self.node.by)), rows))

    def standing(self, kept: tuple[Any, ...] | None) -> Standing:
        """Where a key stands, made anew of what is kept."""
        if kept is None:
            return Standing(self.node.state.fresh())
        count = len(self.node.state.columns)
        return Standing(self.node.state.load([[value] for value in kept[:count]])[0], *kept[count:])

    def _skipped(self, con: duckdb.DuckDBPyConnection) -> set[tuple[Key, int]]:
        """The timeouts that are to be left out, by key and number."""
        found = con.execute(f"SELECT {', '.join(self.keys)}, -seq FROM {self.skipped} WHERE seq < 0").fetchall()
        return {(tuple(key), number) for *key, number in found}

    # -- into the store -------------------------------------------------------------------------------------------

    def _store(self, con: duckdb.DuckDBPyConnection, played: Mapping[Key, Played], kept: Mapping[Key, tuple[Any, ...]]) -> None:
        changed = {key: each.standing for key, each in played.items() if each.standing.seq and self._differs(each, kept.get(key))}
        self._write(con, {key: standing.state for key, standing in changed.items()}, [
            (s.seq, s.emitted, s.timeouts, s.due, s.met, s.part, s.pos) for s in changed.values()
        ], self.node.columns | HIDDEN)  # fmt: skip

    def _differs(self, each: Played, kept: tuple[Any, ...] | None) -> bool:
        """Whether a key did anything: whatever it does moves one of these numbers."""
        count = len(self.node.state.columns)
        return kept is None or (each.standing.seq, each.standing.timeouts) != (kept[count], kept[count + 2])

    def _refused_by(
        self, con: duckdb.DuckDBPyConnection, turn: Turn, played: Mapping[Key, Played], places: Mapping[Key, list[int]]
    ) -> Iterator[Refusal]:
        """What could not be taken, one event or timeout for each key that is newly parked; timeouts are parked as rows."""
        timeouts: list[tuple[Any, ...]] = []
        for key, each in played.items():
            if each.why is None:
                continue
            standing, part, seq = each.standing, each.standing.part, each.standing.pos
            row: dict[str, Any] = dict(zip(self.node.by, key)) | {"due": shown(standing.due)}
            if each.timeout:
                timeouts.append((*key, -standing.timeouts - 1, part, seq, standing.due))
            else:
                at = places[key][len(places[key]) - each.left]
                row, (part, seq) = turn.told[at], turn.places[at]
            what = "timeout" if each.timeout else "process"
            detail = f"{what} ({self.node.where}): {each.why}; the later events of its key wait"
            yield Refusal(seq, part, json.dumps(row, default=str), REASON, detail)
        if timeouts:
            kinds = {name: self.input.columns[name] for name in self.node.by} | {"seq": "BIGINT"} | PLACE
            con.register("_late", arrow(kinds, zip(*timeouts)))
            con.execute(f"INSERT INTO {self.parked} BY NAME FROM _late")
            con.unregister("_late")

    def _made(self, con: duckdb.DuckDBPyConnection, played: Mapping[Key, Played]) -> Rows | None:
        """The rows that were emitted, by event time."""
        made = [row for each in played.values() for row in each.rows]
        if not self.emits or not made:
            return None
        con.register("_made", arrow(self.process.emitted | PLACE, zip(*made)))
        order = ", ".join(["_time", *self.keys, "seq"])
        sql = f"SELECT *, {MIN_TIME}::BIGINT AS _wm FROM _made ORDER BY {order}"
        rows = released(con, self.name, self.process.emitted, sql)
        con.unregister("_made")
        return rows


@dataclass(slots=True)
class Turn:
    """The events of one epoch, and what keys stand at before it."""

    step: ProcessStep
    events: pa.Table
    told: list[dict[str, Any]]
    kept: Mapping[Key, tuple[Any, ...]]
    closing: int
    skipped: set[tuple[Key, int]]
    times: list[int] = field(init=False)
    places: list[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.times = self.events["_time"].to_pylist()
        self.places = list(zip(self.events["_part"].to_pylist(), self.events["_seq"].to_pylist()))

    def play(self, key: Key, places: list[int], calls: int | None = None) -> Played:
        """Call the functions for a key's events and deadlines in turn; at most ``calls`` times."""
        played = Played(self.step.standing(self.kept.get(key)), left=len(places))
        done = 0
        floor = self.step._floors.get(key, MIN_TIME)
        for at in [*places, None]:
            until = self.closing if at is None else self.times[at]
            while (due := played.standing.due) is not None and due < until:
                if (key, played.standing.timeouts + 1) in self.skipped:
                    self._met(played.standing)
                    continue
                if done == calls:
                    return played
                try:
                    self._timeout(key, played, max(due, floor))
                except FlowError:
                    raise
                except Exception as error:
                    return self._failed(key, places, done, error, timeout=True)
                done += 1
            if at is None or done == calls:
                return played
            try:
                self._event(key, played, at, max(until, floor))
            except FlowError:
                raise
            except Exception as error:
                return self._failed(key, places, done, error)
            played.left -= 1
            done += 1
        return played

    def _failed(self, key: Key, places: list[int], done: int, error: Exception, *, timeout: bool = False) -> Played:
        """As if the failed call had not been made, which may have changed the state in place."""
        before = self.play(key, places, calls=done)
        return replace(before, why=f"{type(error).__name__}: {error}", timeout=timeout)

    def _event(self, key: Key, played: Played, at: int, moment: int) -> None:
        node, standing = self.step.process, played.standing
        state, rows = parts(node.apply(standing.state, self.told[at]))
        made = [checked(node.emits, row) for row in rows]
        standing.state, standing.seq = state, self.told[at]["seq"]
        standing.part, standing.pos = self.places[at]
        self._emit(key, played, made, moment)
        self._wait(standing, self.times[at])

    def _timeout(self, key: Key, played: Played, moment: int) -> None:
        node, standing = self.step.process, played.standing
        assert node.timeout is not None and standing.due is not None
        reached = standing.due
        state, rows = parts(node.timeout(standing.state, EPOCH + timedelta(microseconds=reached)))
        made = [checked(node.emits, row) for row in rows]
        met, due = due_of(self.step.process, standing.state), due_of(node, state)
        if due is not None and due != met and due <= reached:
            raise ValueError(f"timeout set due to {shown(due)}, which is not after {shown(reached)}; set it later, or to None")
        standing.state = state
        self._emit(key, played, made, moment)
        self._met(standing, met)
        self._wait(standing, reached)

    def _met(self, standing: Standing, met: int | None = None) -> None:
        standing.timeouts += 1
        standing.met = due_of(self.step.process, standing.state) if met is None else met
        standing.due = None

    def _wait(self, standing: Standing, moment: int) -> None:
        """Set the deadline that a state asks for, unless it was met already; one in the past has come now."""
        due = due_of(self.step.process, standing.state)
        if due != standing.met:
            standing.met = None
        standing.due = None if due is None or due == standing.met else max(due, moment)

    def _emit(self, key: Key, played: Played, made: Sequence[tuple[Any, ...]], moment: int) -> None:
        standing = played.standing
        for row in made:
            standing.emitted += 1
            played.rows.append((*key, standing.emitted, *row, standing.part, standing.pos, moment))


def parts(returned: Any) -> tuple[Any, Sequence[Mapping[str, Any]]]:
    """The state and the rows that a function returned: both, or the state alone."""
    if not isinstance(returned, tuple):
        return returned, ()
    if len(returned) != 2 or not isinstance(returned[1], (list, tuple)):
        raise TypeError("a state, or a state and a list of rows to emit, must be returned, not a tuple of something else")
    return returned


def due_of(node: Process, state: Any) -> int | None:
    """The deadline in a state, in microseconds."""
    due = getattr(state, "due", None) if node.timeout is not None else None
    if due is None:
        return None
    if not isinstance(due, datetime) or due.tzinfo is None:
        raise FlowError(f"process: due is {due!r}; it must be a time with a zone, as event times come, or None", where=node.where)
    return (due - EPOCH) // timedelta(microseconds=1)


def shown(moment: int | None) -> str | None:
    return None if moment is None else (EPOCH + timedelta(microseconds=moment)).isoformat()
