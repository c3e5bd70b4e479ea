"""The port to where events live. A connector says where; a reader goes through some of its partitions, each in order.

The contract of a reader, checked by ``tests/sources/contract.py``:

- The chunks of a partition come in its order and hold whole records; each begins (``seq``) where the one before ended.
- A partition that is added at ``chunk.position`` goes on with the record after that chunk: nothing twice, nothing left out.
- The records, their ordinals and their bytes do not depend on ``max_bytes``, nor on when one stopped and went on.
- ``read`` never blocks: ``None`` says that there is nothing now. Of a partition in ``finished`` nothing more will come.
- A log that was changed behind its reader's back (shorter, replaced) is a SourceError, never a silent jump.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from merganser.codecs import Chunk, Codec
from merganser.schema import Schema

Position = dict[str, Any]


class Reader(Protocol):
    """Reads those partitions that were added. Used from one thread."""

    def add(self, partition: str, position: Position | None) -> None:
        """Read this partition too, from ``position`` or the beginning on."""
        ...

    def read(self, max_bytes: int) -> Chunk | None:
        """The next records of one of the partitions, about ``max_bytes`` (at least one record), or None when there are none now."""
        ...

    def finished(self) -> list[tuple[str, bool]]:
        """The partitions that were read to their end (in a run that does not follow) since this was last asked.

        With each, whether that is for ever: it can get no further records (Parquet, ``.gz``).
        """
        ...

    def committed(self, positions: Mapping[str, Position]) -> None:
        """What the store has come to; for copies of positions elsewhere (Kafka's consumer groups)."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Connector(Protocol):
    """Where a source's events live; frozen, so that plans can be compared. Knows nothing of flows or stores."""

    in_order: ClassVar[bool]
    """Whether the order of the log is that in which things happened, whatever the events' times say: as in an event store."""

    def describe(self) -> str:
        """One line for plans: ``files data/orders/*.jsonl``. No secrets."""
        ...

    def metadata(self, schema: Schema) -> dict[str, str]:
        """Columns (name to DuckDB type) that come with a record and not from its payload, such as a Kafka message's key."""
        ...

    def check(self) -> None:
        """Raise a MerganserError that says what to do, if nothing can be read at all (no such file, no broker)."""
        ...

    def partitions(self) -> list[str]:
        """The partitions there are now, in a fixed order; called again while following."""
        ...

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Reader:
        """A reader that has no partition yet. ``accept_gap``: go on, and record it, where the log has lost records."""
        ...

    def origin(self, positions: Sequence[Position], *, late: bool = False, whole: bool = False) -> Position | None:
        """Where a new view begins in a partition, given the positions that others have in it: where these once began.

        None: as in a first run. ``late``: the partition came into being after the first run. ``whole``: it is an error if
        anything from there on has been lost since.
        """
        ...

    def moved(self, old: Position | None, new: Position) -> Position:
        """The position of a view that was at ``old``, when a chunk has led it to ``new``: it keeps where it once began."""
        ...

    def replayed(self, begin: str) -> Connector:
        """The same, beginning at ``begin`` (a time, or an offset in all partitions) where a position is None.

        Raises UsageError if there is no such place.
        """
        ...

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        """A new codec for what this connector reads; ``time``: the column of the event time."""
        ...

    def total_bytes(self) -> int | None:
        """Bytes there are to read now (comparable with ``Chunk.nbytes``), for progress; None where unknown."""
        ...
