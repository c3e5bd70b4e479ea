"""What all nodes have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields

from merganser.clock import show_duration
from merganser.plan.source import Source

Columns = dict[str, str]
"""Column name to DuckDB type, in order."""

TRAVELS = {"id": "_id", "key": "_key", "traceparent": "_traceparent", "tracestate": "_tracestate"}
"""What of an event travels on after a verb took its column away, and the hidden column that it is in then."""


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
    explodes = False
    """Whether one event may become several rows here."""
    kept = False
    """Whether the rows are kept or sent on here as they are, which adds nothing to what they depend on."""

    def line(self, of: str = "·", *others: str) -> str:
        """The node on one line, given names for its inputs."""
        raise NotImplementedError

    def kept_as(self) -> str | None:
        """A line on how rows are encoded where they are sent on, which another plan must not change; None where it is as usual."""
        return None

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes that it reads from, in the order of its fields."""
        return tuple(value for each in fields(self) if isinstance(value := getattr(self, each.name), Node))

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
        """The hidden columns of ``TRAVELS`` that the rows here have."""
        return self.input.hidden if self.input else ()

    def declared(self, role: str) -> str | None:
        """The column of the source's ``id``, ``key``, ``time``, ``traceparent``, …; None once rows are no longer its events."""
        return self.input.declared(role) if self.input else getattr(self.source, role)

    def reference(self, role: str) -> str | None:
        """The column that holds one of ``TRAVELS`` here: the source's own or a hidden one; None where there is none."""
        hidden = TRAVELS[role]
        return hidden if hidden in self.hidden else self.declared(role)

    @property
    def exploded(self) -> bool:
        """True where one event may have become several rows."""
        return any(node.explodes for node in self.chain())

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


def signature(node: Node) -> list[str]:
    """The lines of a plan from its source on, independent of names, files and lines of code elsewhere.

    What leads to a second input stands before the node that reads it, indented.
    """
    if isinstance(node, Read):
        return [node.of.signature()]
    lines = signature(node.inputs[0])
    for other in node.inputs[1:]:
        lines += [f"  {line}" for line in signature(other)]
    last = node.kept_as() if node.kept else node.line()
    return lines if last is None else [*lines, last]
