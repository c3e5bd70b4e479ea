"""One Parquet or Arrow IPC file, read by row group or record batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from merganser.errors import SourceError
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
        try:
            if kind == "parquet":
                self._file: Any = pyarrow.parquet.ParquetFile(name)
                self._groups: int = self._file.num_row_groups
            else:
                self._file = pyarrow.ipc.open_file(pa.memory_map(name))
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

    def read(self, max_bytes: int, *, last: bool) -> Piece | None:
        while self._group < self._groups:
            table = self._load()
            left = len(table) - self._row
            if left <= 0:
                self._group, self._row, self._table = self._group + 1, 0, None
                continue
            width = max(1, table.nbytes // max(1, len(table)))
            rows = min(left, max(1, max_bytes // width))
            done = round(self._size * (self._group + (self._row + rows) / len(table)) / self._groups)
            piece = Piece(table.slice(self._row, rows), rows, None, self._line + 1, done - self._told)
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
                if self._kind == "parquet":
                    self._check_size()
                    self._table = self._file.read_row_group(self._group, use_threads=False)
                else:
                    self._table = pa.Table.from_batches([self._file.get_batch(self._group)])
                self._table.validate(full=True)  # neither reader looks whether texts are UTF-8, or offsets within the data
            except (pa.ArrowException, OSError, ValueError) as error:
                raise SourceError(
                    f"{self._name}: row group {self._group} cannot be read ({str(error).splitlines()[0]}); all before were"
                ) from None
        return self._table

    def _check_size(self) -> None:
        """Refuse a row group that says it would fill the memory: some bytes can stand for a billion values, or zeros."""
        group = self._file.metadata.row_group(self._group)  # not its columns: pyarrow 26 ends the process at some damaged ones
        row = sum(_bits(field.type) for field in self._file.schema_arrow)
        size = max(group.total_byte_size, group.num_rows * row // 8)
        if size > MAX_GROUP:
            raise ValueError(f"it becomes {size:,} bytes, at most {MAX_GROUP:,} are taken; write it with smaller row groups")


def _bits(kind: pa.DataType) -> int:
    """Bits that a value takes at least."""
    try:
        return int(kind.bit_width)
    except ValueError:
        return 32
