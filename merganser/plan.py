"""The plan: frozen nodes that say what a flow does. A node knows its input and derives its columns.

Nodes compare by value, so two streams that begin with the same verbs share them; ``where`` (the user's line) is not
part of a node's value. ``line`` prints a node on one line, and those lines are a view's *signature*: what the store
compares to find out whether a flow changed since it was written.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from merganser.aggregates import Aggregate
from merganser.clock import show_duration
from merganser.schema import Schema
from merganser.sources import Connector
from merganser.windows import Window

Columns = dict[str, str]
"""Column name to DuckDB type, in order."""

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

    def signature(self) -> str:
        """What results depend on: not where the files lie, nor what is done with bad records."""
        parts = [f"source {self.name} ({self.schema.describe()})"]
        if self.time:
            late = "unbounded" if self.lateness is None else show_duration(self.lateness)
            parts.append(f"time {self.time}, lateness {late}")
        if self.id:
            parts.append(f"id {self.id}")
        if self.key:
            parts.append(f"key {self.key}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Node:
    """Base of all nodes. ``input`` is the node that it reads from; None for ``Read``."""

    where: str = field(compare=False, repr=False)
    columns: Columns = field(compare=False, repr=False, hash=False)
    """The columns that a user sees after this node."""

    input: Node | None
    row_local = False

    def line(self, of: str = "·") -> str:
        raise NotImplementedError

    @property
    def source(self) -> Source:
        return next(node.source for node in self.chain() if isinstance(node, Read))

    def chain(self) -> Iterator[Node]:
        """This node and those before it, the last first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.input

    @property
    def hidden(self) -> tuple[str, ...]:
        """Those of ``_id`` and ``_key`` that travel with the rows here."""
        return self.input.hidden if self.input else ()

    def reference(self, role: str) -> str | None:
        """The column that holds the source's ``id`` or ``key`` here: its own or a hidden one; None where undeclared."""
        hidden = {"id": ID, "key": KEY}[role]
        return hidden if hidden in self.hidden else getattr(self.source, role)

    @property
    def exploded(self) -> bool:
        """True where one event may have become several rows."""
        return any(isinstance(node, Explode) for node in self.chain())

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

    def line(self, of: str = "·") -> str:
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
        lost = tuple(h for h, role in ((ID, "id"), (KEY, "key")) if _lost(self, h, getattr(self.source, role)))
        return self.input.hidden + lost


@dataclass(frozen=True)
class Filter(Node):
    sql: str
    row_local = True

    def line(self, of: str = "·") -> str:
        return f"Filter[{of}, {self.sql}]"


@dataclass(frozen=True)
class Select(_Reshapes):
    items: tuple[tuple[str, str], ...]

    def line(self, of: str = "·") -> str:
        return f"Select[{of}, {_named(self.items)}]"

    def changes(self, column: str) -> bool:
        return any(name == column and sql.strip('" ') != column for name, sql in self.items)


@dataclass(frozen=True)
class Derive(_Reshapes):
    items: tuple[tuple[str, str], ...]

    def line(self, of: str = "·") -> str:
        return f"Derive[{of}, {_named(self.items)}]"

    def changes(self, column: str) -> bool:
        return any(name == column for name, _ in self.items)


@dataclass(frozen=True)
class Drop(_Reshapes):
    names: tuple[str, ...]

    def line(self, of: str = "·") -> str:
        return f"Drop[{of}, {', '.join(self.names)}]"


@dataclass(frozen=True)
class Explode(Node):
    column: str
    row_local = True

    def line(self, of: str = "·") -> str:
        return f"Explode[{of}, {self.column}]"


@dataclass(frozen=True)
class MapBatches(_Reshapes):
    fn: Callable[[Any], Any]
    schema: Schema

    def line(self, of: str = "·") -> str:
        return f"MapBatches[{of}, {getattr(self.fn, '__qualname__', 'fn')}#{_code(self.fn)}, ({self.schema.describe()})]"


@dataclass(frozen=True)
class Deduplicate(Node):
    by: tuple[str, ...]
    within: int | None

    def line(self, of: str = "·") -> str:
        within = f", within {show_duration(self.within)}" if self.within is not None else ""
        return f"Deduplicate[{of}, by {', '.join(self.by)}{within}]"


@dataclass(frozen=True)
class Aggregated(Node):
    """``window(…).aggregate(…)``, or ``group_by(…).aggregate(…)`` where ``window`` is None."""

    window: Window | None
    by: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]

    def line(self, of: str = "·") -> str:
        over = f"Window[{of}, {self.window}" if self.window else f"Group[{of}"
        by = f", by {', '.join(self.by)}" if self.by else ""
        return f"{over}{by}; {_named(tuple((a.name, a.sql) for a in self.aggregates))}]"


@dataclass(frozen=True)
class Latest(Node):
    by: tuple[str, ...]

    def line(self, of: str = "·") -> str:
        return f"Latest[{of}, by {', '.join(self.by)}]"


@dataclass(frozen=True)
class Materialize(Node):
    name: str

    @property
    def rows_of(self) -> Node:
        """The last node before the one that keeps state for this view."""
        assert self.input is not None
        if isinstance(self.input, (Aggregated, Latest)):
            assert self.input.input is not None
            return self.input.input
        return self.input

    def line(self, of: str = "·") -> str:
        return f"Materialize[{of}]"


@dataclass(frozen=True)
class View:
    """A plain SQL view over materialised ones."""

    name: str
    sql: str
    where: str = field(compare=False, repr=False)
    columns: Columns = field(compare=False, repr=False, hash=False)


def prefix(node: Node) -> Node:
    """The last node before which (itself included) everything is row-local: what workers compute."""
    best: Node = node
    for step in node.chain():
        if not step.row_local:
            assert step.input is not None
            best = step.input
    return best


def signature(node: Node) -> list[str]:
    """The lines of a chain from its source on, independent of names, files and lines of code elsewhere."""
    lines = [node.source.signature()]
    for step in reversed(list(node.chain())):
        if not isinstance(step, (Read, Materialize)):
            lines.append(step.line())
    return lines


def _named(items: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(name if name == sql else f"{name} = {' '.join(sql.split())}" for name, sql in items)


def _code(fn: Callable[[Any], Any]) -> str:
    """A short hash of a function's source text, so that a changed function is a changed plan."""
    try:
        text = textwrap.dedent(inspect.getsource(fn))
    except (OSError, TypeError):
        text = repr(getattr(getattr(fn, "__code__", None), "co_code", fn))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
