"""Ids that are texts of UUIDs, in their 16 bytes: less than half of the text's to store, and equal where the texts are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from merganser.kernel import kernel

TEXT, BYTES = 36, 16
"""Bytes of a UUID, as text and as it is kept."""


def uuids(ids: pa.ChunkedArray) -> pa.Array:
    """Ids as UUIDs. NULLs alone, unless each of them is a text of one just as DuckDB writes it."""
    found = _parsed(ids.combine_chunks()) if pa.types.is_string(ids.type) and not ids.null_count else None
    kind = pa.binary(BYTES)
    kept = pa.nulls(len(ids), kind) if found is None else pa.Array.from_buffers(kind, len(ids), [None, found])
    return pa.ExtensionArray.from_storage(pa.uuid(), kept)


def _parsed(ids: pa.Array) -> pa.Buffer | None:
    """The bytes of all; None if one is no UUID."""
    if not len(ids):
        return None
    _, offsets, texts = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    if (np.diff(ends) != TEXT).any():
        return None
    with kernel() as run:
        run.memory.clear()
        place, into = run.memory.take(TEXT * len(ids)), run.memory.take(BYTES * len(ids))
        run.memory.grow()
        run.memory.write(place, memoryview(texts)[ends[0] : ends[-1]])
        if run.call("uuids", place, len(ids), into) < len(ids):
            return None
        return run.memory.copy(into, BYTES * len(ids))
