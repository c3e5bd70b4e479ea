"""How large an answer may be, and the writing of it up to there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from merganser.errors import QueryError

BATCH_ROWS = 16_384
"""Rows of a batch of an answer: small, since nothing is known of how wide they are."""

PIECE = 8 << 20
"""Bytes of a batch of an answer, unless a single row has more."""

MAX_ROW = 64 << 20
"""Bytes of one row: whoever reads an answer must hold some."""

ROOM = 1 << 30
"""Bytes that an answer leaves free where temporary files are."""

MAX_ROWS, MAX_BYTES = 10_000_000, 1 << 30
"""Where answers are cut unless other limits are asked for."""

SECONDS, LONGEST = 60.0, 3600.0
"""After how long a query is stopped unless another time is asked for, and the longest that can be asked of a flow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When an answer is cut (rows, bytes of Arrow data) and a query is stopped (seconds); None: never cut."""

    rows: int | None = MAX_ROWS
    bytes: int | None = MAX_BYTES
    seconds: float = SECONDS


def write(reader: pa.RecordBatchReader, limits: Limits, out: IO[bytes], look: Callable[[], None]) -> tuple[int, str | None]:
    """Write rows as an Arrow IPC stream. Returns how many, and the limit at which they were cut.

    ``look`` is called before each batch, and may raise. Raises QueryError for a row that is too large, or without room for more.
    """
    rows = nbytes = roomy = 0
    with pa.ipc.new_stream(out, reader.schema) as writer:
        for batch in _pieces(reader, look):
            cut = None
            if limits.rows is not None and rows + len(batch) > limits.rows:
                cut = f"cut at {limits.rows:,} rows"
                batch = batch.slice(0, limits.rows - rows)
            nbytes += batch.nbytes
            if limits.bytes is not None and nbytes > limits.bytes:
                return rows, f"cut after {rows:,} rows, at {limits.bytes:,} bytes"
            if nbytes >= roomy:
                free = shutil.disk_usage(tempfile.gettempdir()).free
                if free < ROOM:
                    raise QueryError(f"there is no room for the answer: {tempfile.gettempdir()} has {free:,} bytes left")
                roomy = nbytes + ROOM // 4
            writer.write_batch(batch)
            rows += len(batch)
            if cut:
                return rows, cut
    return rows, None


def _pieces(reader: pa.RecordBatchReader, look: Callable[[], None]) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        look()
        left = [batch]
        while left:
            piece = left.pop()
            if piece.nbytes <= PIECE or len(piece) == 1:
                if piece.nbytes > MAX_ROW:
                    raise QueryError(f"a row of the answer has {piece.nbytes:,} bytes; {MAX_ROW:,} are allowed")
                yield piece
            else:
                half = len(piece) // 2
                left += [piece.slice(half), piece.slice(0, half)]
