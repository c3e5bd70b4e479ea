"""Ids that are texts: a hash of each, and those of UUIDs in their 16 bytes: less than half of the text's to store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from merganser.kernel import kernel

BYTES = 16
"""Of a UUID as it is kept."""


def hashed(ids: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """A 64-bit hash of each id, which depends on its text alone; and the ids as UUIDs.

    These are NULLs alone, unless each id is a text of one just as DuckDB writes it, so that they are equal where the texts are.
    Hashes are never stored: another version may hash otherwise.
    """
    found = [_hashed(chunk) for chunk in ids.cast(pa.utf8()).chunks]
    hashes = pa.array(np.concatenate([np.empty(0, np.uint64), *(hashes for hashes, _ in found)]))
    kept = [uuids for _, uuids in found if uuids is not None]
    kind = pa.binary(BYTES)
    if len(kept) < len(found) or not found:
        return hashes, pa.ExtensionArray.from_storage(pa.uuid(), pa.nulls(len(ids), kind))
    whole = kept[0] if len(kept) == 1 else pa.py_buffer(b"".join(kept))
    return hashes, pa.ExtensionArray.from_storage(pa.uuid(), pa.Array.from_buffers(kind, len(ids), [None, whole]))


def _hashed(ids: pa.Array) -> tuple[npt.NDArray[np.uint64], pa.Buffer | None]:
    """The hashes of all, and their bytes; None if one is no UUID."""
    if ids.null_count:  # what bytes a NULL has says nothing
        ids = ids.fill_null("")
    count = len(ids)
    hashes = np.empty(count, np.uint64)
    if not count:
        return hashes, pa.py_buffer(b"")
    _, offsets, texts = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + count + 1]
    first, last = int(ends[0]), int(ends[-1])
    with kernel() as run:
        memory = run.memory
        memory.clear()
        places = [memory.take(size) for size in (last - first, ends.nbytes, BYTES * count, hashes.nbytes)]
        memory.grow()
        if last > first:
            memory.write(places[0], memoryview(texts)[first:last])
        memory.write(places[1], ends - np.int32(first) if first else ends)
        found = run.call("ids", places[0], places[1], count, places[2], places[3])
        memory.read(places[3], hashes)
        return hashes, memory.copy(places[2], BYTES * count) if found == count else None
