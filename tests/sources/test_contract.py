"""All connectors pass the contract."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard

from merganser.sources.files import files
from merganser.sources.memory import memory
from tests.sources.contract import Case, check, rows


def _jsonl(part: list[dict]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in part).encode()


def _csv(part: list[dict]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["x", "extra", "name", "id"])
    for r in part:
        writer.writerow([r["x"], "e", r["name"], r["id"]])
    return text.getvalue().encode()


def _parquet(part: list[dict]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(part), sink, row_group_size=7)
    return sink.getvalue()


def _arrow(part: list[dict]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(part)
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def _avro(part: list[dict]) -> bytes:
    sink = io.BytesIO()
    fields = [{"name": "x", "type": ["null", "double"]}, {"name": "extra", "type": "string", "default": "e"},
              {"name": "name", "type": ["null", "string"]}, {"name": "id", "type": "long"}]  # fmt: skip
    schema = fastavro.parse_schema({"type": "record", "name": "Row", "fields": fields})
    fastavro.writer(sink, schema, part, codec="deflate", sync_interval=60)
    return sink.getvalue()


WRITERS = {
    "avro": _avro,
    "jsonl": _jsonl,
    "csv": _csv,
    "jsonl.gz": lambda part: gzip.compress(_jsonl(part[:5])) + gzip.compress(_jsonl(part[5:])),
    "csv.gz": lambda part: gzip.compress(_csv(part)),
    "jsonl.zst": lambda part: zstandard.compress(_jsonl(part[:5])) + zstandard.compress(_jsonl(part[5:])),
    "csv.zst": lambda part: zstandard.compress(_csv(part)),
    "parquet": _parquet,
    "arrow": _arrow,
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("partition_by", [None, "file"])
def test_files(ending: str, partition_by: str | None, tmp_path: Path) -> None:
    every = rows(60)
    parts = {f"{tmp_path}/part-{i}.{ending}": every[i * 20 : (i + 1) * 20] for i in range(3)}
    for name, part in parts.items():
        Path(name).write_bytes(WRITERS[ending](part))
    expected = parts if partition_by else {"files": every}
    for seed in range(4):
        check(Case(lambda: files(f"{tmp_path}/part-*.{ending}", partition_by=partition_by), expected), seed)


def test_a_last_line_without_an_end_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_jsonl(rows(9)).rstrip(b"\n"))
    for seed in range(4):
        check(Case(lambda: files(tmp_path), {"files": rows(9)}), seed)


def test_memory() -> None:
    every = rows(50)
    connector = memory({"a": every[:30], "b": every[30:]})
    for seed in range(4):
        check(Case(lambda: connector, {"a": every[:30], "b": every[30:]}), seed)
