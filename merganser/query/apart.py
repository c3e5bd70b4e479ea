"""Queries whose values may grow without bound (``query.growth``) run in a process of their own, on copies of what they read.

It has a fixed amount of memory, the lowest claim to the processors, and can be killed at any moment: whatever happens in it, the
flow goes on. ``Apart`` starts it; the rest of this file is what it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa

from merganser.errors import QueryError
from merganser.query.caps import BATCH_ROWS, Limits, write
from merganser.scratch import instance
from merganser.sql import literal, quote

MEMORY = min(1 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
"""Bytes that such a process may have."""

COPIED = MEMORY // 4
"""Bytes that are copied for it at most."""

NICE = 15

PROGRAM = (
    "import sys, types; package = types.ModuleType('merganser'); package.__path__ = [sys.argv[1]];"
    " sys.modules['merganser'] = package; from merganser.query.apart import main; main()"
)
"""Without what ``import merganser`` brings besides: hundreds of modules, and more memory reserved than the process may have."""


class Apart:
    """A query on its way through a process of its own. ``stop`` may come from any thread, at any time."""

    def __init__(self, sql: str, nodes: Sequence[dict[str, Any]], what: str) -> None:
        """``nodes``: of the query's parse tree; ``what``: for which it cannot run in the flow's process."""
        self._sql, self._nodes, self._what = sql, nodes, what
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def run(self, con: duckdb.DuckDBPyConnection, limits: Limits, out: IO[bytes]) -> tuple[int, str | None]:
        """Write the answer; the same as ``caps.write``. Copies what the query reads in the connection's transaction."""
        names = [(schema, table) for schema, table in _named(self._nodes) if _is_there(con, schema, table)]
        relations = [_columns_read(con, schema, table, self._nodes) for schema, table in names]
        creates = [_create(*name, relation) for name, relation in zip(names, relations)]
        asked = {"sql": self._sql, "create": creates, "limits": asdict(limits), "memory": MEMORY}
        command = [sys.executable, "-P", "-c", PROGRAM, str(Path(__file__).parent.parent)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            self._process = process
            assert process.stdin and process.stdout and process.stderr
            try:
                if self._stopped:
                    raise duckdb.InterruptException
                with contextlib.suppress(BrokenPipeError):  # it has said why, or died
                    process.stdin.write(json.dumps(asked).encode() + b"\n")
                    self._copy(relations, process.stdin)
                    process.stdin.close()
                shutil.copyfileobj(process.stdout, out, 1 << 20)
                said = process.stderr.read()
            finally:
                process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        if self._stopped:
            raise duckdb.InterruptException
        return self._told(said)

    def _copy(self, relations: Sequence[duckdb.DuckDBPyRelation], to: IO[bytes]) -> None:
        copied = 0
        for relation in relations:
            reader = relation.to_arrow_reader(BATCH_ROWS)
            with pa.ipc.new_stream(to, reader.schema) as writer:
                for batch in reader:
                    copied += batch.nbytes
                    if copied > COPIED:
                        raise QueryError(
                            f"what this query reads has more than {COPIED >> 20} MB, and with {self._what} it runs on a copy of it."
                            " Fetch the rows without that, and compute it where you are"
                        )
                    if self._stopped:
                        raise duckdb.InterruptException
                    writer.write_batch(batch)

    def _told(self, said: bytes) -> tuple[int, str | None]:
        try:
            told = json.loads(said.splitlines()[-1])
        except (ValueError, IndexError):
            told = {"memory": True}  # it was killed, by the system or by what it did
        if "error" in told:
            raise QueryError(told["error"])
        if "memory" in told:
            raise QueryError(f"the query was stopped: with {self._what} it needed more than {MEMORY >> 20} MB of memory")
        return int(told["rows"]), told["cut"]


def _named(nodes: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Schema and name of what a query reads, each once."""
    tables = [node for node in nodes if node.get("type") == "BASE_TABLE"]
    calls = [node["function"]["function_name"] for node in nodes if node.get("type") == "TABLE_FUNCTION"]
    if about := [name for name in calls if re.match("duckdb_|pragma_", name.lower())]:
        raise QueryError(f"{about[0]}() cannot be asked together with what makes values grow; ask it by itself")
    schemas = [node["schema_name"] if node["schema_name"] not in ("", "store") else "main" for node in tables]
    return list(dict.fromkeys(zip(schemas, (node["table_name"] for node in tables))))


def _is_there(con: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    found = (
        "SELECT 1 FROM duckdb_columns() WHERE database_name = 'store' AND NOT internal"
        f" AND lower(schema_name) = lower({literal(schema)}) AND lower(table_name) = lower({literal(table)})"
    )
    return bool(con.execute(found).fetchall())


def _columns_read(
    con: duckdb.DuckDBPyConnection, schema: str, table: str, nodes: Sequence[dict[str, Any]]
) -> duckdb.DuckDBPyRelation:
    """A table with those of its columns that a query can mean."""
    whole = con.sql(f"FROM store.{quote(schema)}.{quote(table)}")
    words = {word.lower() for node in nodes for word in _words(node)}
    aliases = {(node.get("alias") or "").lower() for node in nodes} | {table.lower()}
    alone = {node["column_names"][0].lower() for node in nodes if node.get("class") == "COLUMN_REF"}
    if any(node.get("class") == "STAR" or node.get("ref_type") == "NATURAL" for node in nodes) or aliases & alone:
        return whole
    wanted = [column for column in whole.columns if column.lower() in words] or whole.columns[:1]
    return whole.select(*(duckdb.ColumnExpression(column) for column in wanted))


def _words(node: dict[str, Any]) -> Iterator[str]:
    for value in node.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))


def _create(schema: str, table: str, relation: duckdb.DuckDBPyRelation) -> str:
    name = f"{quote(schema)}.{quote(table)}"
    kinds = [str(kind) for kind in relation.types]
    begin = f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}; "
    if any("AGGREGATE_STATE" in kind.upper() for kind in kinds):
        return f"{begin}CREATE TABLE {name} AS FROM _rows"
    declared = ", ".join(f"{quote(column)} {kind}" for column, kind in zip(relation.columns, kinds))
    return f"{begin}CREATE TABLE {name} ({declared}); INSERT INTO {name} FROM _rows"


# -- the process itself -------------------------------------------------------------------------------------------------


def main() -> None:
    """Read a line of JSON and the tables, each an Arrow IPC stream; write the answer as one, and then what there is to say."""
    asked = json.loads(sys.stdin.buffer.readline())
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what DuckDB prints by itself (progress) must not come between
    try:
        rows, cut = _answered(asked, out)
        said: dict[str, Any] = {"rows": rows, "cut": cut}
    except (duckdb.OutOfMemoryException, pa.ArrowMemoryError, MemoryError):
        said = {"memory": True}
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError, QueryError) as error:
        said = {"memory": True} if "bad_alloc" in str(error) else {"error": str(error).strip()[:10_000]}
    out.flush()
    sys.stderr.write(f"\n{json.dumps(said)}")
    sys.stderr.flush()
    os._exit(0)  # there may be gigabytes to put in order, for nobody


def _answered(asked: dict[str, Any], out: IO[bytes]) -> tuple[int, str | None]:
    con = instance(threads=1, memory_limit=f"{asked['memory'] // 2}B")
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (asked["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    con.execute("SET enable_progress_bar = false; SET GLOBAL temp_directory = ''; ATTACH ':memory:' AS store; USE store")
    for create in asked["create"]:
        con.register("_rows", pa.ipc.open_stream(sys.stdin.buffer))
        con.execute(create)
        con.unregister("_rows")
    con.execute("SET enable_external_access = false; SET lock_configuration = true")
    relation = con.sql(asked["sql"])
    if relation is None:
        raise QueryError("a query is one SELECT and only reads")
    return write(relation.to_arrow_reader(BATCH_ROWS), Limits(**asked["limits"]), out, lambda: None)

