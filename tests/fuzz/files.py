"""Whole files, mutated: what is read of them is what the reference reads, or there is an error that says where; never a crash."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.avro import AvroCodec
from merganser.codecs.columnar import ColumnarCodec
from merganser.errors import SourceError
from merganser.schema import Schema
from merganser.schema.avro import declared, parse
from merganser.sources.columnar import ColumnarFile
from merganser.sources.containers import ContainerFile
from tests.codecs.avro_data import same

AVRO = {
    "type": "record", "name": "R", "fields": [
        {"name": "id", "type": "string"}, {"name": "n", "type": ["null", "long"]},
        {"name": "tags", "type": {"type": "array", "items": "int"}},
    ],
}  # fmt: skip
ROWS: list[dict[str, Any]] = [{"id": f"id-{i}", "n": None if i % 3 else i << 30, "tags": list(range(i % 4))} for i in range(40)]
KINDS = Schema.declare({"id": "VARCHAR", "n": "BIGINT", "tags": "INTEGER[]"})
TABLE = pa.Table.from_pylist(ROWS, schema=KINDS.arrow_schema())


def _container(codec: str) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(AVRO), ROWS, codec=codec, sync_interval=100)
    return out.getvalue()


def _parquet(compression: str) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(TABLE, out, row_group_size=15, compression=compression)
    return out.getvalue()


def _arrow(compression: str | None, shared: bool = False) -> bytes:
    """``shared``: texts by their numbers in a dictionary."""
    out = io.BytesIO()
    table = TABLE.set_column(0, "id", TABLE["id"].dictionary_encode()) if shared else TABLE
    with pyarrow.ipc.new_file(out, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression=compression)) as file:
        file.write_table(table, 15)
    return out.getvalue()


def _read(file: Any, codec: Codec) -> tuple[list[dict[str, Any]], int]:
    """The rows of a file, and how many records of it were refused. Raises SourceError."""
    rows: list[dict[str, Any]] = []
    refused = seq = 0
    try:
        while (piece := file.read(1 << 20, last=True)) is not None:
            chunk = Chunk("s", "p", seq, piece.records, Place("f", 0, 1), piece.payload, {}, 1, piece.rejects)
            decoded = codec.decode(chunk)
            assert len(decoded.table) + len(decoded.rejects) + len(piece.rejects) == piece.records
            decoded.table.validate(full=True)
            rows += decoded.table.drop_columns("_seq").to_pylist()
            refused += len(decoded.rejects) + len(piece.rejects)
            seq += piece.records
    finally:
        file.close()
    return rows, refused


def containers(path: Path) -> tuple[list[dict[str, Any]], int]:
    return _read(ContainerFile(str(path), None), AvroCodec(declared(parse(AVRO, "fuzz"), "fuzz")))


def columnar(kind: str) -> Callable[[Path], tuple[list[dict[str, Any]], int]]:
    return lambda path: _read(ColumnarFile(str(path), kind, None), ColumnarCodec(KINDS))


FILES: dict[str, tuple[list[bytes], Callable[[Path], tuple[list[dict[str, Any]], int]]]] = {
    "container files": ([_container(c) for c in ("null", "deflate", "snappy", "bzip2", "xz")], containers),
    "parquet": ([_parquet(c) for c in ("none", "snappy", "zstd")], columnar("parquet")),
    "arrow": ([_arrow(None), _arrow("zstd"), _arrow("lz4"), _arrow("zstd", shared=True)], columnar("arrow")),
}


Mutation = Callable[[random.Random, list[bytes]], bytes]


def fuzz_files(name: str, count: int, seed: int, folder: Path, mutate: Mutation) -> tuple[int, int]:
    """Files that were read, and files with an error or a refused record. Raises AssertionError for one that is neither."""
    valid, read = FILES[name]
    chance, path = random.Random(f"{name}/{seed}"), folder / "mutated"
    whole = refused = 0
    for _ in range(count):
        raw = mutate(chance, valid)
        path.unlink(missing_ok=True)  # an Arrow file may still be mapped
        path.write_bytes(raw)
        try:
            rows, bad = read(path)
        except SourceError:
            refused += 1
            continue
        whole, refused = whole + (not bad), refused + (bad > 0)
        if name == "container files" and raw and not bad:
            theirs = list(fastavro.reader(io.BytesIO(raw)))
            assert len(rows) == len(theirs) and all(map(same, rows, theirs)), f"{raw!r} was read as {rows}, not as {theirs}"
    return whole, refused
