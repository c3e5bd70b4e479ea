"""The verbs that need event time between rows: ``order``, ``join``, ``enrich``. Mixed into ``Stream``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from merganser import plan
from merganser.clock import duration
from merganser.errors import FlowError, on_users_line, users_line
from merganser.plan import Columns, Node
from merganser.reference import Reference
from merganser.schema import Schema
from merganser.sql import binder
from merganser.states import State

ON = "a column of both sides, several, or {'left column': 'right column'}"


class Temporal:
    """What ``Stream`` can do with the order of event times."""

    _flow: object
    _node: Node

    if TYPE_CHECKING:

        def _open(self, verb: str) -> Node: ...

        def _then(self, node: Node) -> Self: ...

    @on_users_line
    def order(self, by: str | Sequence[str] | None = None, *, late: str = "keep") -> Self:
        """Hold rows back until the watermark has passed them, and hand them on in the order of their event times.

        ``by``: the key's column(s), the source's ``key`` without; rows get a column ``seq`` that numbers each key's from 1
        without gaps. Ties go by partition name and position. A row that comes when its own partition's watermark is past
        its time is late: ``late="keep"`` puts it into ``merganser.late``, ``"drop"`` only counts it.
        """
        node = self._open("order")
        keys = key_of(node, by, "order")
        timed(node, "order")
        return self._then(plan.Order(users_line(), with_seq(node, "order"), node, keys, policy(late)))

    @on_users_line
    def fold(
        self,
        by: str | Sequence[str] | None = None,
        *,
        initial: Any,
        apply: Callable[[Any, dict[str, Any]], Any],
        order: str | None = None,
        history: bool = False,
        late: str = "keep",
    ) -> Self:
        """The state of each key: ``apply(state, event)`` over its events in their order, from ``initial`` on.

        ``order``: ``"time"``, as by ``order(by=…)``, once the watermark is past them; or ``"log"``, as their partition has them,
        at once, for which each key must be in one partition alone. Of an event store that is the default, else time is.
        ``history=True`` keeps every event with the state after it, for ``history`` and ``as_of`` of a connection.

        ``apply`` must be a pure function: it gets the state and an event (column to value, event times as UTC datetimes, ``seq``
        from ``order``) and returns the next state. A state is JSON (one column ``state``), or an instance of a dataclass
        (a column for each field); ``seq`` is the number of the last event in it. If ``apply`` raises, the event is a dead letter
        and the later events of its key wait, in order, until it is tried again or skipped; other keys go on.
        """
        node, columns, keys, state = self._folded("fold", by, initial, apply, order, late)
        return self._then(plan.Fold(users_line(), columns, node, keys, state, apply, history))

    @on_users_line
    def process(
        self,
        by: str | Sequence[str] | None = None,
        *,
        initial: Any,
        apply: Callable[[Any, dict[str, Any]], Any],
        emits: Mapping[str, str] | str | Path,
        timeout: Callable[[Any, datetime], Any] | None = None,
        late: str = "keep",
    ) -> Self:
        """A process manager (saga): a fold that may also emit rows, such as commands, and has deadlines.

        - ``apply(state, event)`` returns the next state, or the state and a list of rows to emit; else it is as in ``fold``.
        - ``emits``: the columns of these rows. ``.emitted`` is the stream of them, with the key and ``seq``, which numbers a key's
          rows from 1 without gaps; ``.materialize`` here keeps the states.
        - ``timeout(state, due)``: called, and may return what ``apply`` may, when event time has passed the field ``due`` of
          the state (a dataclass with ``due: datetime | None``): before the first later event of the key, or with the watermark. An
          event at just that time comes before. A deadline is met once; another ``due`` is another one, None is none.
        """
        if timeout is not None and not callable(timeout):
            raise FlowError("process(timeout=…) takes a function of a state and the time that has come; when, says its field due")
        node, columns, keys, state = self._folded("process", by, initial, apply, "time", late)
        if timeout is not None and (state.kind is None or dict(state.columns).get("due") != "TIMESTAMP WITH TIME ZONE"):
            raise FlowError("process(timeout=…) needs a dataclass with a field due: datetime | None as the state: the deadline")
        declared = Schema.declare(emits)
        for name in (*keys, "seq"):
            if name in declared:
                raise FlowError(f"process(emits=…): emitted rows have a column {name!r} already; leave it out")
        return self._then(plan.Process(users_line(), columns, node, keys, state, apply, emits=declared, timeout=timeout))

    @property
    @on_users_line
    def emitted(self) -> Self:
        """The rows that ``process`` emits, as a stream: key, ``seq``, and the declared columns."""
        node = self._node
        if not isinstance(node, plan.Process):
            raise FlowError("only process() emits rows; .emitted stands right behind it")
        return self._then(plan.Emits(users_line(), node.emitted, node))

    def _folded(
        self, verb: str, by: str | Sequence[str] | None, initial: Any, apply: Any, order: str | None, late: str
    ) -> tuple[Node, Columns, tuple[str, ...], State]:
        """The ordered events of a fold, its columns, its key and its state."""
        node = self._open(verb)
        if not callable(apply):
            raise FlowError(f"{verb}(apply=…) takes a function of a state and an event")
        keys = key_of(node, by, verb)
        node = self._in_turn(node, keys, order, late, verb)
        state = State.of(initial)
        columns = {name: node.columns[name] for name in keys}
        for name, kind in (*state.columns, ("seq", "BIGINT")):
            if name in columns:
                raise FlowError(f"{verb}(): {name!r} is a key and a field of the state; give one of them another name")
            columns[name] = kind
        return node, columns, keys, state

    def _in_turn(self, node: Node, keys: tuple[str, ...], order: str | None, late: str, verb: str) -> Node:
        """The events of each key, numbered, in the order that was asked for."""
        if order not in ("time", "log", None):
            raise FlowError(f"{verb}(order={order!r}): there are 'time' and 'log'")
        if order == "log" and not node.events:
            raise FlowError(f"{verb}(order='log') must follow events as they were read; behind {node.line()} they have no log")
        if order == "log" or (order is None and node.events and node.source.connector.in_order):
            return plan.Order(users_line(), with_seq(node, verb), node, keys, log=True)
        if isinstance(node, plan.Order) and node.by == keys:
            return node
        return self.order(keys, late=late)._node

    @on_users_line
    def join(
        self,
        other: Temporal,
        *,
        on: str | Sequence[str] | Mapping[str, str],
        within: str | timedelta,
        how: str = "inner",
        late: str = "keep",
    ) -> Self:
        """Pairs of rows of two streams with equal keys whose event times are at most ``within`` apart.

        ``on``: a column of both sides, several, or ``{"left column": "right column"}``. The result has the columns of both, a
        right one whose name is taken with ``_right`` behind it, the right side's equally named keys left out; its event
        time is the later one of the two. ``how="left"`` also hands on each row without a partner, once none can come any
        more. Rows that come late by their own partition's watermark go to ``merganser.late`` (``late="drop"``: are counted).
        """
        node = self._open("join")
        right = side(self._flow, other, "join")
        if how not in ("inner", "left"):
            raise FlowError(f"join(how={how!r}): there are 'inner' and 'left'")
        bounded = how == "left"
        timed(node, "join", bounded=bounded)
        timed(right, "join", bounded=bounded)
        pairs = paired(on, node.columns, right.columns, "join")
        columns, taken = both(node.columns, right.columns, pairs)
        made = plan.Join(users_line(), columns, node, right, pairs, taken, duration(within, "within"), how, policy(late))
        return self._then(made)

    @on_users_line
    def enrich(
        self,
        other: Temporal | Reference,
        *,
        on: str | Sequence[str] | Mapping[str, str],
        as_of: bool = False,
        late: str = "keep",
    ) -> Self:
        """Rows with the columns of the row of the same key of another stream, or of a file; NULL where there is none.

        A file is ``mg.reference(path, schema=…)``; any verb can follow.
        ``as_of=True`` takes the row that was valid at the event's time: the newest at or before it. Rows wait until the
        other side's watermark is past them. Without, it is the other side's present row (of a stream the latest, by event
        time), looked up when the view is read; so nothing but ``materialize`` can follow.
        """
        node = self._open("enrich")
        if isinstance(other, Reference):
            if as_of:
                raise FlowError("reference data has no event time; read the file as a source for enrich(as_of=True)")
            pairs = paired(on, node.columns, dict(other.columns), "enrich")
            other.check_key(tuple(b for _, b in pairs))
            columns, taken = both(node.columns, dict(other.columns), pairs)
            return self._then(plan.LookUp(users_line(), columns, node, other, pairs, taken))
        if as_of:
            right = side(self._flow, other, "enrich")
            timed(node, "enrich(as_of=True)")
            timed(right, "enrich(as_of=True)")
            pairs = paired(on, node.columns, right.columns, "enrich")
            columns, taken = both(node.columns, right.columns, pairs)
            return self._then(plan.AsOf(users_line(), columns, node, right, pairs, taken, policy(late)))
        right = side(self._flow, other, "enrich", table=True)
        pairs = paired(on, node.columns, right.columns, "enrich")
        keys = tuple(b for _, b in pairs)
        if not right.table:
            right = plan.Latest(users_line(), right.columns, right, keys)
        elif isinstance(right, plan.Aggregated) and right.window is not None:
            raise FlowError("enrich() of windows has several rows of a key; use as_of=True, which takes the last closed one")
        elif set(keys) != set(getattr(right, "by", ())):
            raise FlowError(f"enrich(on=…) must name the key of the other side: {', '.join(getattr(right, 'by', ()))}")
        columns, taken = both(node.columns, right.columns, pairs)
        return self._then(plan.Enriched(users_line(), columns, node, right, pairs, taken))


def side(flow: object, other: Temporal, verb: str, *, table: bool = False) -> Node:
    """The node of the other side of a verb."""
    if not isinstance(other, Temporal):
        raise FlowError(f"{verb}() takes another stream, such as flow.read(source), not a {type(other).__name__}")
    if other._flow is not flow:
        raise FlowError(f"{verb}() takes a stream of the same flow; read its source in this one too")
    if table and other._node.table:
        return other._node
    return other._open(verb)


def key_of(node: Node, by: str | Sequence[str] | None, verb: str) -> tuple[str, ...]:
    """The columns ``by``, or the source's key."""
    if by is None:
        key = node.declared("key")
        if key is None or key not in node.columns:
            raise FlowError(f"{verb}() needs by=, or key= in the declaration of source {node.source.name!r}")
        by = key
    names = (by,) if isinstance(by, str) else tuple(by)
    for name in names:
        if name not in node.columns:
            raise FlowError(f"{verb} by: there is no column {name!r}; there are {', '.join(node.columns)}")
    if not names:
        raise FlowError(f"{verb}(by=…) names no column")
    return names


def with_seq(node: Node, verb: str) -> Columns:
    """The columns here and ``seq``."""
    if "seq" in node.columns:
        raise FlowError(f"{verb}() adds a column seq, and there is one already; derive() it another name and drop() it")
    return node.columns | {"seq": "BIGINT"}


def timed(node: Node, verb: str, *, bounded: bool = True) -> None:
    """Refuse streams without event time, or, where rows wait for the watermark, without a bound for lateness."""
    for source in node.sources:
        if source.time is None:
            raise FlowError(f"{verb} needs event time, but source {source.name!r} has no time=")
        if bounded and source.lateness is None:
            raise FlowError(
                f"{verb} waits for the watermark, and source {source.name!r} has none without lateness=; declare how far"
                " behind an event may come (lateness='0 seconds' if they come in order)"
            )


def policy(late: str, *others: str) -> str:
    """A policy for late rows; ``others``: what else there is, for the message."""
    if late not in ("keep", "drop"):
        there = ", ".join(("'keep' (in merganser.late)", "'drop' (only counted)", *others))
        raise FlowError(f"late={late!r}: there are {there}")
    return late


def paired(on: str | Sequence[str] | Mapping[str, str], left: Columns, right: Columns, verb: str) -> plan.On:
    """Pairs of columns that exist and can be compared."""
    if isinstance(on, str):
        on = {on: on}
    pairs = tuple((on if isinstance(on, Mapping) else {name: name for name in on}).items())
    if not pairs:
        raise FlowError(f"{verb}(on=…) names no column; it takes {ON}")
    for a, b in pairs:
        for name, columns, which in ((a, left, "left"), (b, right, "right")):
            if name not in columns:
                raise FlowError(
                    f"{verb}(on=…): the {which} side has no column {name!r}; it has {', '.join(columns)}. on takes {ON}"
                )
        types = {"l": left[a], "r": right[b]}
        if types["l"] != types["r"] and "VARCHAR" in types.values():
            raise FlowError(f"{verb}(on=…): {a} is a {types['l']} and {b} a {types['r']}; derive() one of them as the other's type")
        binder().type_of(f"SELECT l = r FROM (SELECT NULL::{types['l']} AS l, NULL::{types['r']} AS r)", f"{a} = {b}", types, verb)
    return pairs


def both(left: Columns, right: Columns, on: plan.On) -> tuple[Columns, tuple[tuple[str, str], ...]]:
    """The columns of two sides, and (name in the result, column) of those of the right one."""
    columns = dict(left)
    taken = []
    equal = {b for a, b in on if a == b}
    for name, kind in right.items():
        if name in equal:
            continue
        shown = name
        while shown in columns:
            shown += "_right"
        columns[shown] = kind
        taken.append((shown, name))
    return columns, tuple(taken)
