"""The plan: frozen nodes that say what a flow does. A node knows its inputs and derives its columns.

A node's rows are of one of three kinds:

- *events* (up to and with ``Deduplicate``): each partition's in the partition's order, with the watermark at each row;
- *a stream* (behind ``Order``, ``Final``, ``Join``, ``AsOf``): rows that do not change any more, in no order but that of
  their event times. None of them is late, and none has an event time below the stream's watermark once that is reached;
- *a table* (``Aggregated``, ``Latest``, ``Fold``, ``Enriched``): rows by key that still change.

Nodes compare by value, so two streams that begin with the same verbs share them; ``where`` (the user's line) is not
part of a node's value. ``line`` prints a node on one line, and those lines are a view's *signature*: what the store
compares to find out whether a flow changed since it was written.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from merganser.aggregates import Aggregate
from merganser.clock import show_duration
from merganser.codecs import Codec
from merganser.codecs.cloudevents import ENVELOPE, CloudEvents, CloudEventsCodec
from merganser.codecs.upcasting import Upcaster, UpcastingCodec, widened
from merganser.errors import FlowError, on_users_line
from merganser.reference import Reference
from merganser.schema import Schema
from merganser.sources import Connector
from merganser.sql import binder
from merganser.states import State
from merganser.windows import Session, Window

Columns = dict[str, str]
"""Column name to DuckDB type, in order."""

On = tuple[tuple[str, str], ...]
"""Pairs of a column of the left side and one of the right side that must be equal."""

ID, KEY = "_id", "_key"
"""Hidden columns that keep an event's id and key after a verb took their columns away."""


@dataclass(frozen=True, slots=True)
class Source:
    """A declared stream of events: where they come from (the connector) and what their owner knows about them.

    ``lateness`` and ``max_ahead`` are microseconds; a lateness of None keeps every window open.
    """

    name: str
    connector: Connector
    schema: Schema
    time: str | None
    lateness: int | None
    id: str | None
    key: str | None
    on_error: str
    max_ahead: int
    time_unit: str | None = None
    """What the event time counts in, if it is a number."""
    idle_after: int | None = None
    """How long (of the clock, us) a partition without news holds back what is called final; None: as long as it is quiet."""
    version: str | None = None
    """The column that says which version an event is of."""
    upcasters: tuple[Upcaster, ...] = ()
    storm: float | None = field(default=0.5, compare=False)
    """The share of records that may be bad before the source pauses."""

    @on_users_line
    def upcast(
        self,
        from_version: int,
        *,
        sql: Mapping[str, str] | None = None,
        fn: Callable[[Any], Any] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Source:
        """The source with a step that makes events of ``from_version`` events of the next one, when they are read.

        - ``sql``: column to SQL over the columns there are; those not named stay. Or
        - ``fn``: a function that takes a ``pyarrow.Table`` of events and returns one of as many rows.
        - ``columns``: columns that only older versions have, with their types.

        Steps are chained: from 1 to 2, from 2 to 3. What is stored stays as it was.
        """
        if self.version is None:
            raise FlowError(f"upcast() needs version= in the declaration of source {self.name!r}: the column that holds it")
        if (sql is None) == (fn is None):
            raise FlowError("upcast() takes either sql={column: expression} or fn=")
        if any(u.from_version == from_version for u in self.upcasters):
            raise FlowError(f"there is an upcaster from version {from_version} already")
        more = Schema.declare(columns).columns if columns else ()
        if more and self.schema.written is not None:
            raise FlowError("columns= is for schemas that are a mapping; declare old fields as optional ones in the schema file")
        made = Upcaster(from_version, more, tuple((sql or {}).items()), fn)
        source = replace(self, upcasters=(*self.upcasters, made))
        kinds = {c.name: c.type for c in widened(self.schema, source.upcasters).columns}
        for name in sql or {}:
            if name not in kinds:
                raise FlowError(f"upcast(sql={{{name!r}: …}}): there is no such column; there are {', '.join(kinds)}")
        if sql:
            binder().bind_select(dict(sql), kinds)
        return source

    def codec(self) -> Codec:
        """A new codec for its events, of whatever version."""
        # A message without a payload has its record's time, but not as a count of some unit.
        time = None if self.time_unit else self.time
        schema = widened(self.schema, self.upcasters) if self.upcasters else self.schema
        if isinstance(schema.written, CloudEvents):
            codec: Codec = CloudEventsCodec(self.connector.codec(ENVELOPE, None), schema)
        else:
            codec = self.connector.codec(schema, time)
        if not self.upcasters or self.version is None:
            return codec
        return UpcastingCodec(codec, self.schema, self.version, self.upcasters)

    def signature(self) -> str:
        """What results depend on: not where the files lie, nor what is done with bad records."""
        parts = [f"source {self.name} ({self.schema.describe()})"]
        if self.time:
            late = "unbounded" if self.lateness is None else show_duration(self.lateness)
            unit = f" in {self.time_unit}" if self.time_unit else ""
            parts.append(f"time {self.time}{unit}, lateness {late}")
        if self.id:
            parts.append(f"id {self.id}")
        if self.key:
            parts.append(f"key {self.key}")
        parts += [f"{u.describe()}{f'#{_code(u.fn)}' if u.fn else ''}" for u in self.upcasters]
        return ", ".join(parts)


@dataclass(frozen=True)
class Node:
    """Base of all nodes. ``input`` is the node that it reads from, or the first of several; None for ``Read``."""

    where: str = field(compare=False, repr=False)
    columns: Columns = field(compare=False, repr=False, hash=False)
    """The columns that a user sees after this node."""

    input: Node | None
    row_local = False
    table = False
    """Whether the rows here still change."""
    multiplies = False
    """Whether several rows with the same partition and position may come out."""
    settles = False
    """Whether events end here: what comes out are rows of its own, and the books of the events are closed."""

    def line(self, of: str = "·", *others: str) -> str:
        """The node on one line, given names for its inputs."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,) if self.input else ()

    @property
    def source(self) -> Source:
        """The source that is read, the first one's where there are several: its time and lateness hold here."""
        return next(node.source for node in self.chain() if isinstance(node, Read))

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources that this node depends on, each once."""
        return tuple(dict.fromkeys(node.of for node in ordered([self]) if isinstance(node, Read)))

    def chain(self) -> Iterator[Node]:
        """This node and those before it, the last first; of several inputs the first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.input

    @property
    def hidden(self) -> tuple[str, ...]:
        """Those of ``_id`` and ``_key`` that travel with the rows here."""
        return self.input.hidden if self.input else ()

    def declared(self, role: str) -> str | None:
        """The column that the source declares as ``id``, ``key`` or ``time``; None once rows are no longer its events."""
        return self.input.declared(role) if self.input else getattr(self.source, role)

    def reference(self, role: str) -> str | None:
        """The column that holds the source's ``id`` or ``key`` here: its own or a hidden one; None where there is none."""
        hidden = {"id": ID, "key": KEY}[role]
        return hidden if hidden in self.hidden else self.declared(role)

    @property
    def exploded(self) -> bool:
        """True where one event may have become several rows."""
        return any(isinstance(node, Explode) for node in self.chain())

    @property
    def events(self) -> bool:
        """True where the rows are events in the order of their partitions, not rows that a step made or released."""
        return not any(node.settles for node in self.chain())

    @property
    def ambiguous(self) -> bool:
        """True where several rows may have the same partition and position, so that these do not order them."""
        return any(node.multiplies for node in self.chain())

    @property
    def delays(self) -> dict[str, int]:
        """By source: how far, in microseconds, this node's watermark lags behind the source's."""
        found: dict[str, int] = {}
        for node in self.inputs:
            for name, delay in node.delays.items():
                found[name] = max(delay, found.get(name, 0))
        return found

    def digest(self) -> str:
        """Eight hexadecimal digits of what the rows here depend on."""
        return hashlib.sha256("\n".join(signature(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Read(Node):
    """All events of a source."""

    of: Source
    row_local = True

    @property
    def source(self) -> Source:
        return self.of

    @property
    def delays(self) -> dict[str, int]:
        return {self.of.name: 0}

    def line(self, of: str = "·", *others: str) -> str:
        late = ""
        if self.of.time:
            amount = "unbounded" if self.of.lateness is None else show_duration(self.of.lateness)
            late = f", time {self.of.time}, lateness {amount}"
        return f"Read[{self.of.name}: {self.of.connector.describe()}{late}]"


def _lost(node: Node, hidden: str, column: str | None) -> bool:
    """Whether ``column`` (an id or key) stands under its name before this node and no longer after it."""
    assert node.input is not None
    if column is None or hidden in node.input.hidden:
        return False
    return column not in node.columns or (isinstance(node, (Select, Derive)) and node.changes(column))


class _Reshapes(Node):
    """A row-local node that may take the id's or the key's column away: they travel on, hidden."""

    row_local = True

    @property
    def hidden(self) -> tuple[str, ...]:
        assert self.input is not None
        if not self.input.events:  # ids are asked for by deduplicate alone, which stands before
            return ()
        lost = tuple(h for h, role in ((ID, "id"), (KEY, "key")) if _lost(self, h, self.input.declared(role)))
        return self.input.hidden + lost


@dataclass(frozen=True)
class Filter(Node):
    sql: str
    row_local = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Filter[{of}, {self.sql}]"


@dataclass(frozen=True)
class Select(_Reshapes):
    items: tuple[tuple[str, str], ...]

    def line(self, of: str = "·", *others: str) -> str:
        return f"Select[{of}, {_named(self.items)}]"

    def changes(self, column: str) -> bool:
        return any(name == column and sql.strip('" ') != column for name, sql in self.items)


@dataclass(frozen=True)
class Derive(_Reshapes):
    items: tuple[tuple[str, str], ...]

    def line(self, of: str = "·", *others: str) -> str:
        return f"Derive[{of}, {_named(self.items)}]"

    def changes(self, column: str) -> bool:
        return any(name == column for name, _ in self.items)


@dataclass(frozen=True)
class Drop(_Reshapes):
    names: tuple[str, ...]

    def line(self, of: str = "·", *others: str) -> str:
        return f"Drop[{of}, {', '.join(self.names)}]"


@dataclass(frozen=True)
class Explode(Node):
    column: str
    row_local = True
    multiplies = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Explode[{of}, {self.column}]"


@dataclass(frozen=True)
class MapBatches(_Reshapes):
    fn: Callable[[Any], Any]
    schema: Schema

    def line(self, of: str = "·", *others: str) -> str:
        return f"MapBatches[{of}, {getattr(self.fn, '__qualname__', 'fn')}#{_code(self.fn)}, ({self.schema.describe()})]"


@dataclass(frozen=True)
class LookUp(Node):
    """Rows with the columns of the row of some reference data that has their key; NULL where there is none."""

    data: Reference
    on: On
    taken: tuple[tuple[str, str], ...]
    row_local = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"LookUp[{of}, {self.data.name}#{self.data.digest} on {_equal(self.on)}]"


@dataclass(frozen=True)
class Deduplicate(Node):
    by: tuple[str, ...]
    within: int | None

    def line(self, of: str = "·", *others: str) -> str:
        within = f", within {show_duration(self.within)}" if self.within is not None else ""
        return f"Deduplicate[{of}, by {', '.join(self.by)}{within}]"


class _Settles(Node):
    """A node at which events end: its rows have no id of their own."""

    settles = True

    @property
    def hidden(self) -> tuple[str, ...]:
        return ()

    def declared(self, role: str) -> str | None:
        return None


@dataclass(frozen=True)
class Aggregated(_Settles):
    """``window(…).aggregate(…)``, or ``group_by(…).aggregate(…)`` where ``window`` is None."""

    window: Window | Session | None
    by: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    late: str = "keep"
    table = True
    multiplies = True

    def line(self, of: str = "·", *others: str) -> str:
        over = f"Window[{of}, {self.window}" if self.window else f"Group[{of}"
        by = f", by {', '.join(self.by)}" if self.by else ""
        return f"{over}{by}{_late(self.late)}; {_named(tuple((a.name, a.sql) for a in self.aggregates))}]"


@dataclass(frozen=True)
class Final(_Settles):
    """The rows of closed windows, as a stream: the event time of each is the last microsecond of its window."""

    def line(self, of: str = "·", *others: str) -> str:
        return f"Final[{of}]"


@dataclass(frozen=True)
class Changes(_Settles):
    """What each epoch changed in a table, as a stream: rows that were, and rows that are."""

    multiplies = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Changes[{of}]"


@dataclass(frozen=True)
class Latest(_Settles):
    by: tuple[str, ...]
    table = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Latest[{of}, by {', '.join(self.by)}]"


class _Releases(Node):
    """A node that hands events on in an order of its own: with their columns, and nothing hidden but time and position."""

    settles = True

    @property
    def hidden(self) -> tuple[str, ...]:
        return ()

    def declared(self, role: str) -> str | None:
        assert self.input is not None
        column = self.input.declared(role)
        return column if column in self.columns else None


@dataclass(frozen=True)
class Order(_Releases):
    """Events of each key in the order of their event times, with a column ``seq`` from 1 on."""

    by: tuple[str, ...]
    late: str = "keep"

    def line(self, of: str = "·", *others: str) -> str:
        return f"Order[{of}, by {', '.join(self.by)}{_late(self.late)}]"


@dataclass(frozen=True)
class Join(_Settles):
    """Pairs of rows of two streams. ``taken``: name in the result and column of the right side, for each that is in it."""

    other: Node
    on: On
    taken: tuple[tuple[str, str], ...]
    within: int
    how: str
    late: str = "keep"
    multiplies = True

    @property
    def inputs(self) -> tuple[Node, ...]:
        assert self.input is not None
        return self.input, self.other

    @property
    def delays(self) -> dict[str, int]:
        # A left row without a partner comes with its own time once none can come any more.
        lag = self.within if self.how == "left" else 0
        return {source: delay + lag for source, delay in super().delays.items()}

    def line(self, of: str = "·", *others: str) -> str:
        kind = "Join" if self.how == "inner" else "LeftJoin"
        return f"{kind}[{', '.join((of, *others))}, on {_equal(self.on)}, within {show_duration(self.within)}{_late(self.late)}]"


@dataclass(frozen=True)
class AsOf(_Releases):
    """Rows of a stream with the row of another one that was valid at their event time."""

    other: Node
    on: On
    taken: tuple[tuple[str, str], ...]
    late: str = "keep"

    @property
    def inputs(self) -> tuple[Node, ...]:
        assert self.input is not None
        return self.input, self.other

    def line(self, of: str = "·", *others: str) -> str:
        return f"AsOf[{', '.join((of, *others))}, on {_equal(self.on)}{_late(self.late)}]"


@dataclass(frozen=True)
class Enriched(_Settles):
    """Rows of a stream with the present row of a table, which is looked up when the view is read."""

    other: Node
    on: On
    taken: tuple[tuple[str, str], ...]
    table = True

    @property
    def inputs(self) -> tuple[Node, ...]:
        assert self.input is not None
        return self.input, self.other

    def line(self, of: str = "·", *others: str) -> str:
        return f"Enrich[{', '.join((of, *others))}, on {_equal(self.on)}]"


@dataclass(frozen=True)
class Fold(_Settles):
    """The last state of each key, of a function over its events in order."""

    by: tuple[str, ...]
    state: State
    apply: Callable[[Any, dict[str, Any]], Any]
    table = True

    def line(self, of: str = "·", *others: str) -> str:
        name = f"{getattr(self.apply, '__qualname__', 'fn')}#{_code(self.apply)}"
        return f"Fold[{of}, by {', '.join(self.by)}, {name}, initial {self.state.initial}]"


@dataclass(frozen=True)
class Materialize(Node):
    name: str
    settles = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Materialize[{of}]"


@dataclass(frozen=True)
class Write(Materialize):
    """Sends rows on; ``name`` is what the sink is called in the store, ``key`` the column of a message's key."""

    sink: Connector
    key: str | None

    @property
    def upserts(self) -> bool:
        """Whether a message's key is that of a table's row, so that of each key the last message counts."""
        table = self.input.input if isinstance(self.input, Changes) else None
        windowed = isinstance(table, Aggregated) and table.window is not None
        return isinstance(table, (Aggregated, Latest, Fold)) and not windowed and table.by == (self.key,)

    def line(self, of: str = "·", *others: str) -> str:
        return f"Write[{of}, {self.sink.describe()}]"


@dataclass(frozen=True)
class View:
    """A plain SQL view over materialised ones."""

    name: str
    sql: str
    where: str = field(compare=False, repr=False)
    columns: Columns = field(compare=False, repr=False, hash=False)


N = TypeVar("N", bound="Node")


def reading(node: N, sources: Mapping[str, Source]) -> N:
    """The same node over other sources, by name."""
    changes: dict[str, Any] = {}
    for each in fields(node):
        value = getattr(node, each.name)
        if isinstance(value, Node):
            changes[each.name] = reading(value, sources)
        elif isinstance(value, Source):
            changes[each.name] = sources.get(value.name, value)
    return replace(node, **changes) if changes else node


def ordered(ends: Iterable[Node]) -> list[Node]:
    """All nodes that some nodes depend on and themselves, each once, inputs before what reads them."""
    found: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in found:
            for each in node.inputs:
                visit(each)
            found[node] = None

    for end in ends:
        visit(end)
    return list(found)


def by_workers(node: Node) -> bool:
    """Whether everything up to a node is row-local, so that workers compute it."""
    return all(step.row_local for step in node.chain())


def worker_ends(ends: Iterable[Node]) -> list[Node]:
    """The last nodes that workers compute, each once: those that a step or a view reads."""
    return [node for node in read_by_steps(ends) if by_workers(node)]


def read_by_steps(ends: Iterable[Node]) -> list[Node]:
    """The nodes whose rows a step or a view reads, each once; the others are fused with what follows them."""
    return list(dict.fromkeys(i for node in ordered(ends) if not node.row_local for i in node.inputs))


def signature(node: Node) -> list[str]:
    """The lines of a plan from its source on, independent of names, files and lines of code elsewhere.

    What leads to a second input stands before the node that reads it, indented.
    """
    if isinstance(node, Read):
        return [node.of.signature()]
    lines = signature(node.inputs[0])
    for other in node.inputs[1:]:
        lines += [f"  {line}" for line in signature(other)]
    return lines if isinstance(node, Materialize) else [*lines, node.line()]


def _named(items: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(name if name == sql else f"{name} = {' '.join(sql.split())}" for name, sql in items)


def _late(policy: str) -> str:
    """What a line says of late rows: nothing where they are kept."""
    return f", late {policy}" if policy != "keep" else ""


def _equal(on: On) -> str:
    return ", ".join(a if a == b else f"{a} = {b}" for a, b in on)


def _code(fn: Callable[..., Any]) -> str:
    """A short hash of a function's source text, so that a changed function is a changed plan."""
    try:
        text = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError):
        text = repr(getattr(getattr(fn, "__code__", None), "co_code", fn))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
