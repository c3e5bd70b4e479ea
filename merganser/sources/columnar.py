"""One Parquet or Arrow IPC file, read by row group or record batch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from merganser.errors import SourceError
from merganser.sources.arrow_sizes import Blocks, bits, grown
from merganser.sources.parquet_sizes import Sizes
from merganser.sources.text import Piece

MAX_GROUP = 4 << 30
"""Bytes that a row group may become when it is read: all of it is, at once."""


class ColumnarFile:
    """A file of row groups. Its position: ``group``, and ``row`` in it, of the next record; ``line`` records before."""

    def __init__(self, name: str, kind: str, at: dict[str, Any] | None) -> None:
        self._name, self._kind = name, kind
        at = at or {"group": 0, "row": 0, "line": 0}
        self._group, self._row, self._line = int(at["group"]), int(at["row"]), int(at["line"])
        self._table: pa.Table | None = None
        self._told = 0
        """Bytes of the file that pieces were said to take so far."""
        self._size = Path(name).stat().st_size
        self._width = 1
        """Bytes of a row of the table, on average."""
        self._blocks: Blocks | None = None
        """Of an Arrow file."""
        try:
            if kind == "parquet":
                self._file: Any = pyarrow.parquet.ParquetFile(name)
                self._groups: int = self._file.num_row_groups
                self._sizes = Sizes(name, self._file)
            else:
                data = pa.memory_map(name).read_buffer()
                self._file = pyarrow.ipc.open_file(data)
                self._blocks = Blocks(memoryview(data).cast("B"), self._file.schema)
                self._groups = self._file.num_record_batches
        except (pa.ArrowException, OSError, ValueError) as error:
            raise SourceError(f"{name} cannot be read as {kind}: {str(error).splitlines()[0]}") from None

    def position(self) -> dict[str, Any]:
        return {"group": self._group, "row": self._row, "line": self._line, "whole": self._group >= self._groups}

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self._table = None
        if self._kind == "parquet":
            self._file.close()
            self._sizes.close()

    def read(self, max_bytes: int, *, last: bool) -> Piece | None:
        while self._group < self._groups:
            table = self._load()
            left = len(table) - self._row
            if left <= 0:
                self._group, self._row, self._table = self._group + 1, 0, None
                continue
            rows = min(left, max(1, max_bytes // self._width))
            done = round(self._size * (self._group + (self._row + rows) / len(table)) / self._groups)
            disk = done - self._told
            piece = Piece(table.slice(self._row, rows), rows, None, self._line + 1, disk, memory=rows * self._width)
            self._told = done
            self._row += rows
            self._line += rows
            if self._row >= len(table):
                self._group, self._row, self._table = self._group + 1, 0, None
            return piece
        return None

    def _load(self) -> pa.Table:
        if self._table is None:
            try:
                if self._blocks is None:
                    self._check_pages()
                    table = self._file.read_row_group(self._group, use_threads=False)
                else:
                    self._check_buffers(self._blocks)
                    table = pa.Table.from_batches([self._file.get_batch(self._group)])
                table.validate(full=True)  # neither reader looks whether texts are UTF-8, or offsets within the data
                shared = ((name, grown(table[i])) for i, name in enumerate(table.column_names))
                self._width = max(1, _check(shared) // max(1, len(table)))
                self._table = table
            except (pa.ArrowException, OSError, ValueError) as error:
                raise SourceError(
                    f"{self._name}: row group {self._group} cannot be read ({str(error).splitlines()[0]}); all before were"
                ) from None
        return self._table

    def _check_pages(self) -> None:
        """Refuse a row group of Parquet that would fill the memory, before any of it is read."""
        group = self._file.metadata.row_group(self._group)  # not its columns: pyarrow 26 ends the process at some damaged ones
        _check([("", group.total_byte_size)])
        _check([("", self._row_bits() * group.num_rows // 8)])
        _check(self._sizes.becomes(self._group, MAX_GROUP))

    def _check_buffers(self, blocks: Blocks) -> None:
        """The same of a record batch of Arrow, and of the dictionaries, which are read with the first one."""
        _check([("", blocks.dictionaries)])
        rows, columns = blocks.batch(self._group)
        _check(columns)
        _check([("", self._row_bits() * rows // 8)])

    def _row_bits(self) -> int:
        schema = self._file.schema_arrow if self._blocks is None else self._file.schema
        return max(1, sum(bits(field.type) for field in schema))


def _check(columns: Iterable[tuple[str, int]]) -> int:
    """What some columns become together; refuse them if that is too much."""
    total = 0
    for name, size in columns:
        total += size
        if total > MAX_GROUP:
            what = f"its column {name!r} becomes {size:,}" if size > MAX_GROUP and name else f"it becomes {total:,}"
            raise ValueError(
                f"{what} bytes, at most {MAX_GROUP:,} are taken; if that is what is meant, write it with smaller row groups"
            )
    return total
