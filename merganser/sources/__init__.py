"""The port to where events live. A connector says where; a reader goes through one partition of it in order.

The contract of a reader, checked by ``tests/sources/contract.py``:

- Chunks come in the partition's order and hold whole records; ``seq`` goes on without a gap from chunk to chunk.
- A reader opened at ``chunk.position`` goes on with the record after that chunk: nothing twice, nothing left out.
- The records, their ``seq`` and their bytes do not depend on ``max_bytes``, nor on when one stopped and went on.
- ``read`` never blocks: ``None`` says that there is nothing now. After ``finished`` there never will be.
- A log that was changed behind its reader's back (shorter, replaced) is a SourceError, never a silent jump.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from merganser.codecs import Chunk, Codec
from merganser.schema import Schema

Position = dict[str, Any]


class Reader(Protocol):
    """Reads one partition. Used from one thread."""

    partition: str

    def read(self, max_bytes: int) -> Chunk | None:
        """The next records, about ``max_bytes`` of them (at least one), or None when there are none now."""
        ...

    @property
    def finished(self) -> bool:
        """True when the end was reached in a run that does not follow."""
        ...

    @property
    def immutable(self) -> bool:
        """True when ``finished`` is for ever: what was read can get no further records (Parquet, ``.gz``)."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Connector(Protocol):
    """Where a source's events live; frozen, so that plans can be compared. Knows nothing of flows or stores."""

    def describe(self) -> str:
        """One line for plans: ``files data/orders/*.jsonl``. No secrets."""
        ...

    def check(self) -> None:
        """Raise a UsageError that says what to do, if nothing can be read at all (no such file)."""
        ...

    def partitions(self) -> list[str]:
        """The partitions there are now, in a fixed order; called again while following."""
        ...

    def open(self, source: str, partition: str, position: Position | None, *, follow: bool) -> Reader:
        """A reader of one partition, at ``position`` or at the beginning."""
        ...

    def codec(self, schema: Schema) -> Codec:
        """A new codec for what this connector reads."""
        ...

    def total_bytes(self) -> int | None:
        """Bytes there are to read now (comparable with ``Chunk.nbytes``), for progress; None where unknown."""
        ...
