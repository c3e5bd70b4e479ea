"""Reference data: a file that is read when the flow is, small enough for memory, the same for every event.

Its content is part of the plan: a view that was made with other content is another view, and must be rebuilt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from merganser.errors import FlowError, on_users_line
from merganser.schema import Schema
from merganser.sources.files import files

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Reference:
    """The rows of a file. ``digest``: eight hexadecimal digits of its content and schema."""

    name: str
    digest: str
    columns: tuple[tuple[str, str], ...]
    """Name and DuckDB type of each."""
    rows: pa.Table = field(compare=False, repr=False)

    def check_key(self, names: tuple[str, ...]) -> None:
        """Raise a FlowError if two rows have the same key."""
        groups = self.rows.group_by(list(names)).aggregate([([], "count_all")])
        twice = groups.filter(pc.greater(groups["count_all"], 1))
        if len(twice):
            which = ", ".join(f"{name} {twice[name][0].as_py()!r}" for name in names)
            raise FlowError(f"reference {self.name} has several rows with {which}; enrich() needs one for each key")

    def places(self, table: pa.Table, on: tuple[tuple[str, str], ...]) -> pa.Array:
        """For each row of a table the place of the row here that has its key; null where there is none, or the key is null."""
        mine = [self.rows[b].combine_chunks() for _, b in on]
        theirs = [table[a].combine_chunks().cast(values.type) for (a, _), values in zip(on, mine)]
        if len(on) == 1:
            return pc.index_in(theirs[0], value_set=mine[0], skip_nulls=True)
        return pc.index_in(_joined(theirs), value_set=_joined(mine), skip_nulls=True)


def _joined(columns: list[pa.Array]) -> pa.Array:
    """Several columns as one text each row; null where one of them is."""
    return pc.binary_join_element_wise(*(column.cast(pa.string()) for column in columns), "\x1f")


@on_users_line
def reference(path: str | Path, *, schema: Mapping[str, str] | str | Path) -> Reference:
    """Reference data for ``enrich``, from a file of any format that ``mg.files`` reads; ``schema`` as in ``mg.source``.

    Raises FlowError for a record that does not fit the schema.
    """
    declared = Schema.declare(schema)
    connector = files(path)
    connector.check()
    codec = connector.codec(declared)
    reader = connector.open("reference", follow=False)
    tables = []
    for partition in connector.partitions():
        reader.add(partition, None)
    with closing(reader):
        while (chunk := reader.read(CHUNK_BYTES)) is not None:
            decoded = codec.decode(chunk)
            for reject in (*chunk.rejects, *decoded.rejects):
                raise FlowError(f"reference {reject.place.file}, line {reject.place.line}: {reject.reason}: {reject.detail}")
            tables.append(decoded.table.select(declared.names()))
    rows = pa.concat_tables(tables) if tables else declared.arrow_schema().empty_table()
    digest = hashlib.sha256(declared.describe().encode())
    for part in sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]:
        digest.update(part.read_bytes())
    columns = tuple((c.name, c.type) for c in declared.columns)
    return Reference(Path(path).name, digest.hexdigest()[:8], columns, rows)


def look_up(reference: Reference, on: tuple[tuple[str, str], ...], taken: tuple[tuple[str, str], ...], table: pa.Table) -> pa.Table:
    """A table with columns (name in the result, column here) of the row that has its key."""
    places = reference.places(table, on)
    for name, column in taken:
        table = table.append_column(name, reference.rows[column].combine_chunks().take(places))
    return table
