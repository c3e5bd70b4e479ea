"""What DuckDB 2.0 does that merganser works around. A test that fails here says that a detour may have become needless."""

from __future__ import annotations

import datetime
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


@pytest.mark.parametrize("call", ["count(DISTINCT x)", "sum(DISTINCT x)", "list(DISTINCT x ORDER BY x)"])
def test_a_state_loses_distinct(call: str, con: duckdb.DuckDBPyConnection) -> None:
    con.execute(f"CREATE TABLE s AS SELECT {call} EXPORT_STATE AS state FROM (VALUES (1), (1), (2)) t(x)")
    con.execute(f"INSERT INTO s SELECT {call} EXPORT_STATE FROM (VALUES (1), (2)) t(x)")
    whole = con.execute(f"SELECT {call} FROM (VALUES (1), (1), (2), (1), (2)) t(x)").fetchall()
    assert con.execute("SELECT finalize(combine_aggr(state)) FROM s").fetchall() != whole
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


def test_try_does_not_hold_what_stands_twice(con: duckdb.DuckDBPyConnection) -> None:
    """Why checks use TRY_CAST: a common subexpression is computed before TRY looks."""
    con.execute("CREATE TABLE t AS SELECT 'x' AS n")
    assert con.execute("SELECT TRY(n::DOUBLE) FROM t").fetchall() == [(None,)]
    with pytest.raises(duckdb.ConversionException):
        con.execute("SELECT TRY(n::DOUBLE = trunc(n::DOUBLE)) FROM t")


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
