"""What DuckDB 2.0 does that merganser works around. A test that fails here says that a detour may have become needless."""

from __future__ import annotations

import datetime
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

import merganser as mg
from merganser.aggregates import analyse
from merganser.codecs import Chunk, Place
from merganser.codecs.json import JsonCodec, Lines
from merganser.schema import Schema


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


JOINS_ON_ROWID = """
import duckdb

con = duckdb.connect(config={"threads": 1})
con.execute("CREATE TABLE v (x BIGINT)")
for at in range(0, 40_000, 1000):
    con.execute("BEGIN")
    con.execute(f"INSERT INTO v FROM range({at}, {at + 1000})")
    con.execute(f"CREATE OR REPLACE TEMP TABLE gone AS SELECT rowid AS row FROM v WHERE x < {at + 500}")
    con.execute("DELETE FROM v WHERE rowid IN (FROM gone)")
    found = con.execute("SELECT count(*), min(x), max(x) FROM v").fetchall()
    assert found == [(500, at + 500, at + 999)], found
    con.execute("COMMIT")
"""


def test_a_join_on_the_numbers_of_rows_reads_and_writes_within_its_vectors() -> None:
    """Why DuckDB is 2.0.1 or later. In 2.0.0 the filter that a hash join gives to the scan of its other side (a prefix range
    filter) looks at a vector beyond its rows. Where a table has rows from before and of this transaction, whose numbers are 2**55
    apart, that takes other rows, or writes over what is not its own: wrong values, internal errors, segmentation faults, in any
    SELECT, DELETE or MERGE. It is https://github.com/duckdb/duckdb/pull/25378; `SET disabled_optimizers = 'join_filter_pushdown'`
    does without such filters.
    """
    done = subprocess.run([sys.executable, "-c", JOINS_ON_ROWID], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("call", ["count(DISTINCT x)", "sum(DISTINCT x)", "list(DISTINCT x ORDER BY x)"])
def test_a_state_cannot_keep_distinct(call: str, con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.BinderException, match="not supported for DISTINCT"):
        con.execute(f"SELECT {call} EXPORT_STATE FROM (VALUES (1)) t(x)")
    assert all(c.kind == "values" for c in analyse("n", call, {"x": "INTEGER"}).calls)


REFUSED = ["reservoir_quantile(x, 0.5)", "max(x, 2)", "min(x, 2)", "arg_max(x, x, 2)", "bitstring_agg(x)"]
COUNTED = ["histogram(x)", "mode(x)", "entropy(x)"]


@pytest.mark.parametrize("call", REFUSED + COUNTED)
def test_these_states_cannot_be_exported(call: str, con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.NotImplementedException, match="cannot export state"):
        con.execute(f"SELECT {call} EXPORT_STATE FROM (VALUES (1)) t(x)")
    if call in COUNTED:
        assert [c.kind for c in analyse("n", call, {"x": "INTEGER"}).calls] == ["values"]
    else:
        with pytest.raises(mg.FlowError, match="use"):
            analyse("n", call, {"x": "INTEGER"})


def test_a_macro_ignores_export_state(con: duckdb.DuckDBPyConnection) -> None:
    found = con.execute("SELECT typeof(geomean(x) EXPORT_STATE) FROM (VALUES (1)) t(x)").fetchall()
    assert found == [("DOUBLE",)]
    assert len(analyse("g", "geomean(x)", {"x": "INTEGER"}).calls) == 1  # taken apart into what it is made of


def test_an_upsert_of_states_is_an_internal_error(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE TABLE s AS SELECT 1 AS k, sum(1::BIGINT) EXPORT_STATE AS state; CREATE UNIQUE INDEX i ON s(k)")
    with pytest.raises(duckdb.InternalException):
        con.execute(
            "INSERT INTO s SELECT 1, sum(2::BIGINT) EXPORT_STATE ON CONFLICT (k) DO UPDATE"
            " SET state = combine(state, excluded.state)"
        )


def test_an_upsert_takes_one_of_repeated_keys(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE TABLE s (k INTEGER PRIMARY KEY, n INTEGER)")
    con.execute("INSERT INTO s VALUES (1, 1), (1, 2) ON CONFLICT (k) DO UPDATE SET n = s.n + excluded.n")
    assert con.execute("FROM s").fetchall() == [(1, 1)]  # 3 if both had been taken


def test_no_result_is_left_unfinished() -> None:
    """A result that is not read to its end blocks its connection for relations, so nothing here calls fetchone()."""
    root = Path(mg.__file__).parent
    assert not [p for p in root.rglob("*.py") if "fetchone()" in p.read_text()]


def test_a_schema_named_as_its_file_is_ambiguous(tmp_path: Path) -> None:
    """Why operator state is not in the schema ``merganser``: a view over it could not be read in merganser.duckdb."""
    with duckdb.connect(str(tmp_path / "merganser.duckdb")) as con:
        con.execute("CREATE SCHEMA merganser; CREATE TABLE merganser.main.x (a INTEGER)")
        with pytest.raises(duckdb.BinderException, match=r"[Aa]mbiguous"):
            con.execute("FROM merganser.x")


def test_a_time_without_zone_drops_the_zone_of_its_text(con: duckdb.DuckDBPyConnection) -> None:
    """Why texts are cast by way of TIMESTAMPTZ."""
    assert con.execute("SELECT '2026-01-01T00:00:00+02:00'::TIMESTAMP::VARCHAR").fetchall() == [("2026-01-01 00:00:00",)]
    schema = Schema.declare({"t": "TIMESTAMP"})
    line = b'{"t": "2026-01-01T00:00:00+02:00"}\n'
    found = JsonCodec(schema).decode(Chunk("s", "0", 0, 1, Place("f", 0, 1), Lines.of(line), {}, len(line))).table["t"]
    assert found.to_pylist() == [datetime.datetime(2025, 12, 31, 22)]


def test_an_error_may_be_cut_in_the_middle_of_a_character(con: duckdb.DuckDBPyConnection) -> None:
    """Why codecs and row-local verbs take UnicodeDecodeError for an error of the query too."""
    texts = ["." * n + "\U0001f986" * 40 for n in range(4)]
    payload = "".join(f'{{"n": "{text}"}}\n' for text in texts).encode()
    with pytest.raises(UnicodeDecodeError):
        for line in payload.decode().splitlines():
            with suppress(duckdb.Error):
                con.execute("SELECT json_transform_strict(?, ?)", [line, '{"n": "INTEGER"}'])
    decoded = JsonCodec(Schema.declare({"n": "INTEGER"})).decode(Chunk("s", "0", 0, 4, Place("f", 0, 1), Lines.of(payload), {}, 1))
    assert [r.reason for r in decoded.rejects] == ["wrong type"] * 4


def test_rows_of_an_execute_come_to_arrow_by_a_detour(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("PREPARE query AS SELECT 1 AS x")
    with pytest.warns(UserWarning, match="extra copy"):
        copied = con.execute("EXECUTE query").to_arrow_table()
    assert con._submit("EXECUTE query", None, "arrow", 131072).arrow_table() == copied  # as scratch.Query does
