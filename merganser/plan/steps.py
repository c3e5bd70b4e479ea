"""Nodes at which events end: what comes out are tables that change, or rows that a step made or released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from merganser.aggregates import Aggregate
from merganser.clock import show_duration
from merganser.plan.node import Columns, Node
from merganser.plan.text import On, code, equal, late_text, named
from merganser.schema import Schema
from merganser.states import State
from merganser.windows import Session, Window


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
        return f"{over}{by}{late_text(self.late)}; {named(tuple((a.name, a.sql) for a in self.aggregates))}]"


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
    """Events of each key in the order of their event times, with a column ``seq`` from 1 on.

    ``log``: in the order in which their partition has them instead. Nothing waits or is late then, and the rows say nothing
    about event time, so only a fold may follow.
    """

    by: tuple[str, ...]
    late: str = "keep"
    log: bool = False

    def line(self, of: str = "·", *others: str) -> str:
        if self.log:
            return f"Order[{of}, by {', '.join(self.by)}, as logged]"
        return f"Order[{of}, by {', '.join(self.by)}{late_text(self.late)}]"


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
    def delays(self) -> dict[str, int]:
        # A left row without a partner comes with its own time once none can come any more.
        lag = self.within if self.how == "left" else 0
        return {source: delay + lag for source, delay in super().delays.items()}

    def line(self, of: str = "·", *others: str) -> str:
        kind = "Join" if self.how == "inner" else "LeftJoin"
        return f"{kind}[{', '.join((of, *others))}, on {equal(self.on)}, within {show_duration(self.within)}{late_text(self.late)}]"


@dataclass(frozen=True)
class AsOf(_Releases):
    """Rows of a stream with the row of another one that was valid at their event time."""

    other: Node
    on: On
    taken: tuple[tuple[str, str], ...]
    late: str = "keep"

    def line(self, of: str = "·", *others: str) -> str:
        return f"AsOf[{', '.join((of, *others))}, on {equal(self.on)}{late_text(self.late)}]"


@dataclass(frozen=True)
class Enriched(_Settles):
    """Rows of a stream with the present row of a table, which is looked up when the view is read."""

    other: Node
    on: On
    taken: tuple[tuple[str, str], ...]
    table = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Enrich[{', '.join((of, *others))}, on {equal(self.on)}]"


@dataclass(frozen=True)
class Fold(_Settles):
    """The last state of each key, of a function over its events in order."""

    by: tuple[str, ...]
    state: State
    apply: Callable[[Any, dict[str, Any]], Any]
    history: bool = False
    """Whether every event is kept, with the state after it."""
    table = True

    def line(self, of: str = "·", *others: str) -> str:
        kept = ", history" if self.history else ""
        return f"Fold[{of}, by {', '.join(self.by)}, {_function(self.apply)}, initial {self.state.initial}{kept}]"


@dataclass(frozen=True, kw_only=True)
class Process(Fold):
    """A fold whose function may also emit rows, of the columns ``emits``, and is told of deadlines by ``timeout``."""

    emits: Schema
    timeout: Callable[[Any, Any], Any] | None

    @property
    def emitted(self) -> Columns:
        """The columns of the rows that are emitted: the key, the number of the row of that key, and its values."""
        key = {name: self.columns[name] for name in self.by}
        return key | {"seq": "BIGINT"} | {c.name: c.type for c in self.emits.columns}

    def line(self, of: str = "·", *others: str) -> str:
        timeout = f", timeout {_function(self.timeout)}" if self.timeout else ""
        emits = f", emits ({self.emits.describe()})" if self.emits.columns else ""
        name = _function(self.apply)
        return f"Process[{of}, by {', '.join(self.by)}, {name}, initial {self.state.initial}{timeout}{emits}]"


@dataclass(frozen=True)
class Emits(_Settles):
    """The rows that a process emits, as a stream: the event time of each is that of the event or deadline it comes from."""

    multiplies = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Emits[{of}]"


def _function(fn: Callable[..., Any]) -> str:
    """A function's name and a hash of its text."""
    return f"{getattr(fn, '__qualname__', 'fn')}#{code(fn)}"
