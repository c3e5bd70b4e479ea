"""Where streams end: materialised views, sinks; and plain SQL views."""

from __future__ import annotations

from dataclasses import dataclass, field

from merganser.codecs.encoding import Encoding
from merganser.plan.node import Columns, Node
from merganser.plan.steps import Aggregated, Changes, Fold, Latest
from merganser.sources import Connector


@dataclass(frozen=True)
class Materialize(Node):
    name: str
    settles = True
    kept = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Materialize[{of}]"


@dataclass(frozen=True)
class Write(Materialize):
    """Sends rows on; ``name`` is what the sink is called in the store, ``key`` the column of a message's key."""

    sink: Connector
    key: str | None
    encoding: Encoding

    @property
    def upserts(self) -> bool:
        """Whether a message's key is that of a table's row, so that of each key the last message counts."""
        table = self.input.input if isinstance(self.input, Changes) else None
        windowed = isinstance(table, Aggregated) and table.window is not None
        return isinstance(table, (Aggregated, Latest, Fold)) and not windowed and table.by == (self.key,)

    def line(self, of: str = "·", *others: str) -> str:
        return f"Write[{of}, {self.sink.describe()}]"

    def kept_as(self) -> str | None:
        how = self.encoding.describe()
        return f"Encode[·, {how}]" if how else None


@dataclass(frozen=True)
class View:
    """A plain SQL view over materialised ones."""

    name: str
    sql: str
    where: str = field(compare=False, repr=False)
    columns: Columns = field(compare=False, repr=False, hash=False)
