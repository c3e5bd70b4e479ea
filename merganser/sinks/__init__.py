"""The port to where rows are sent. Rows wait in the store's outbox, numbered; a writer brings them there, each once.

The contract of a writer, checked by ``tests/sinks/contract.py``:

- ``send`` brings rows in their order, all of them or none, also if the process dies in it.
- ``last`` is the number of the last row that is there, however the writer before it ended; so nothing is sent twice.
- What others write there does not matter to it, and it does not touch that.
- An error that passes (a broker that is away) is a ``SinkAwayError``: nothing of the call was sent, and it can be called again.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from merganser.codecs.encoding import Encoding
from merganser.errors import FlowError, MerganserError
from merganser.sources import Connector
from merganser.sources.files import Files
from merganser.sources.kafka import Kafka
from merganser.sources.memory import Memory


class SinkAwayError(MerganserError):
    """A sink that cannot be reached now. Its rows wait in the outbox."""


class Sent(NamedTuple):
    """A row on its way: its number (from 1, no gaps), the epoch it was committed in, key and value (None deletes the key).

    ``headers``: what goes with the value where there is a place for it, as a message has.
    """

    seq: int
    epoch: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


Content = tuple[bytes | None, bytes | None]
"""Key and value of a row that was sent."""


class Writer(Protocol):
    """Brings the rows of one ``write`` verb to where they belong. Used from one thread.

    ``linger``: seconds that a run waits for more rows to go together.
    """

    linger: float

    def last(self) -> int:
        """The number of the last row that is there; 0 if there is none."""
        ...

    def send(self, rows: Sequence[Sent]) -> None: ...

    def close(self) -> None: ...


ADAPTERS: tuple[tuple[type, str], ...] = (
    (Kafka, "merganser.sinks.kafka"),
    (Files, "merganser.sinks.files"),
    (Memory, "merganser.sinks.memory"),
)


def writer(connector: Connector, name: str, sender: str, encoding: Encoding) -> Writer:
    """A writer for a sink. ``sender``: what tells this store's rows from those of others, for ever."""
    return _module(connector).open(connector, name, sender, encoding)


def content(connector: Connector, name: str, sender: str, encoding: Encoding) -> dict[int, Content]:
    """What a reader finds there of a sender's rows: each by its number. For ``verify``."""
    return _module(connector).content(connector, name, sender, encoding)


def check(connector: Any) -> None:
    """Raise a FlowError if nothing can be written there."""
    _module(connector).check(connector)


def format_of(connector: Connector) -> str:
    """The format that is written there, as ``codecs.encoding`` names it."""
    return _module(connector).format_of(connector)


def default_name(connector: Connector) -> str:
    """What a sink is called in the store if it was given no name."""
    return _module(connector).default_name(connector)


class Adapter(Protocol):
    """What the module of a kind of sink has; see the functions of the same names here."""

    def open(self, connector: Any, name: str, sender: str, encoding: Encoding) -> Writer: ...

    def content(self, connector: Any, name: str, sender: str, encoding: Encoding) -> dict[int, Content]: ...

    def format_of(self, connector: Any) -> str: ...

    def check(self, connector: Any) -> None: ...

    def default_name(self, connector: Any) -> str: ...


def _module(connector: Any) -> Adapter:
    for kind, module in ADAPTERS:
        if isinstance(connector, kind):
            adapter: Any = import_module(module)
            return cast(Adapter, adapter)
    raise FlowError(f"write() takes mg.kafka(…) or mg.files(…), not {connector!r}")
