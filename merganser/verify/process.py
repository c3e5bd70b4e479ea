"""``process`` in batch: plain Python over all events of each key, one key after the other."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from merganser.plan import Process
from merganser.states import checked

Number = tuple[tuple[Any, ...], int]
"""A key, and the number of an event of it, or of a timeout, which is less than 0."""

START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Saga:
    """One key: its state, the rows it emitted (number, values, event time), and which deadline was met."""

    state: Any
    last: int = 0
    rows: list[tuple[int, tuple[Any, ...], int]] = field(default_factory=list)
    asked: int | None = None
    """The deadline in its state."""
    since: int = 0
    """The event time at which that was looked at."""
    met: bool = False
    timeouts: int = 0
    floor: int | None = None


class Stopped(Exception):
    """A key is parked."""


def sagas(
    node: Process,
    events: list[dict[str, Any]],
    closing: int,
    skipped: Collection[Number],
    resumed: Mapping[Number, int],
) -> Iterator[tuple[tuple[Any, ...], Saga]]:
    """Each key and what became of it, of events (with ``seq`` and ``_time``) in the order of key and number."""
    for key, mine in groupby(events, key=lambda row: tuple(row[name] for name in node.by)):
        saga = Saga(node.state.fresh())
        try:
            for row in mine:
                _until(node, saga, key, row["_time"], skipped, resumed)
                _lift(saga, resumed.get((key, row["seq"])))
                if (key, row["seq"]) not in skipped:
                    event = {name: value for name, value in row.items() if name != "_time"}
                    _call(node, saga, node.apply, event, row["_time"])
                    saga.last = row["seq"]
            _until(node, saga, key, closing, skipped, resumed)
        except Stopped:
            pass
        yield key, saga


def _until(
    node: Process, saga: Saga, key: tuple[Any, ...], moment: int, skipped: Collection[Number], resumed: Mapping[Number, int]
) -> None:
    """Meet the deadlines before a moment."""
    while node.timeout is not None and saga.asked is not None and not saga.met and max(saga.asked, saga.since) < moment:
        number = -saga.timeouts - 1
        _lift(saga, resumed.get((key, number)))
        saga.timeouts += 1
        if (key, number) in skipped:
            saga.met = True
            continue
        at, before = max(saga.asked, saga.since), saga.asked
        _call(node, saga, node.timeout, START + timedelta(microseconds=at), at)
        if saga.asked == before:
            saga.met = True
        elif saga.asked is not None and saga.asked <= at:
            raise Stopped


def _call(node: Process, saga: Saga, function: Any, argument: Any, at: int) -> None:
    try:
        found = function(copy.deepcopy(saga.state), argument)
        state, rows = found if isinstance(found, tuple) else (found, [])
        due = getattr(state, "due", None) if node.timeout is not None else None
        asked = None if due is None else (due - START) // timedelta(microseconds=1)
        rows = [checked(node.emits, row) for row in rows]
    except Exception:
        raise Stopped from None
    if function is node.timeout and asked is not None and asked != saga.asked and asked <= at:
        raise Stopped
    saga.state, saga.since = state, at
    if asked != saga.asked:
        saga.asked, saga.met = asked, False
    for row in rows:
        saga.rows.append((len(saga.rows) + 1, row, max(at, saga.floor) if saga.floor is not None else at))


def _lift(saga: Saga, floor: int | None) -> None:
    if floor is not None:
        saga.floor = max(floor, saga.floor or floor)
