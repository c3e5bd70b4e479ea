"""Aggregates, kept in parts and merged, are what batch SQL says; and each refusal says what to use instead.

All expressions of ``EXACT``, ``TIES`` and ``SKETCHES`` are kept together in one table of a DuckDB file: random rows are
shuffled, cut into parts, and the file is closed and opened again between the parts. So one pass proves them all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from merganser.aggregate_rules import RULES
from merganser.aggregates import Aggregate, Call, analyse
from merganser.sql import quote

COLUMNS = {
    "g": "INTEGER",  # the group; NULL is one, in group 4 every other column is NULL, group 5 has one row
    "i": "INTEGER",
    "b": "BIGINT",
    "u": "UBIGINT",
    "h": "HUGEINT",
    "x": "DOUBLE",
    "y": "DOUBLE",
    "f": "FLOAT",
    "nan": "DOUBLE",
    "d": "DECIMAL(18,2)",
    "wide": "DECIMAL(38,4)",
    "p": "DOUBLE",  # positive, never NULL
    "ok": "BOOLEAN",
    "never": "BOOLEAN",
    "s": "VARCHAR",
    "é": "VARCHAR",
    "t": "TIMESTAMP",  # without ties: a total order
    "few": "INTEGER",  # with many ties
    "tz": "TIMESTAMP WITH TIME ZONE",
    "day": "DATE",
    "st": "STRUCT(a INTEGER, b VARCHAR)",
    "l": "INTEGER[]",
    "id": "UUID",
    "bits": "BLOB",
}

EXACT = [
    "count(*)",
    "count()",
    "count(x)",
    "count(*) FILTER (WHERE ok)",
    "count(*) FILTER (WHERE never)",
    "COUNT(i) FILTER (i > 0 AND s LIKE 'a%')",
    "count_if(ok)",
    "countif(x > 0)",
    "sum(i)",
    "sum(b)",
    "sum(u)",
    "sum(h)",
    "sum(x)",
    "sum(f)",
    "sum(nan)",
    "sum(d)",
    "sum(wide)",
    "sum(ok)",
    "sum(d) FILTER (WHERE never)",
    "sum(d * i)",
    "i.sum()",
    "avg(i)",
    "mean(x)",
    "avg(d)",
    "avg(t)",
    "avg(tz)",
    "favg(x)",
    "fsum(x)",
    "kahan_sum(x)",
    "sumkahan(x)",
    "product(p)",
    "min(i)",
    "max(i)",
    "min(s)",
    "max(é)",
    "min(d)",
    "max(t)",
    "max(tz)",
    "min(day)",
    "max(nan)",
    "min(nan)",
    "max(st)",
    "min(l)",
    "max(h)",
    "min(id)",
    "max(bits)",
    "max(ok)",
    "min(x) FILTER (WHERE never)",
    "stddev(x)",
    "stddev_pop(x)",
    "stddev_samp(i)",
    "variance(x)",
    "var_pop(x)",
    "var_samp(d)",
    "sem(x)",
    "skewness(x)",
    "kurtosis(x)",
    "kurtosis_pop(x)",
    "corr(x, y)",
    "covar_pop(x, y)",
    "covar_samp(x, y)",
    "regr_avgx(x, y)",
    "regr_avgy(x, y)",
    "regr_count(x, y)",
    "regr_intercept(x, y)",
    "regr_r2(x, y)",
    "regr_slope(x, y)",
    "regr_sxx(x, y)",
    "regr_sxy(x, y)",
    "regr_syy(x, y)",
    "median(x)",
    "median(d)",
    "median(tz)",
    "quantile(x, 0.5)",
    "quantile(s, 0.5)",
    "quantile_cont(x, 0.95)",
    "quantile_cont(d, [0.1, 0.5, 0.9])",
    "quantile_cont(t, 0.25)",
    "quantile_disc(i, 0.95) FILTER (WHERE ok)",
    "quantile_disc(s, [0.1, 0.9])",
    "percentile_cont(0.9) WITHIN GROUP (ORDER BY x)",
    "percentile_disc([0.2, 0.4]) WITHIN GROUP (ORDER BY i)",
    "mad(x)",
    "mad(d)",
    "approx_count_distinct(s)",
    "approx_count_distinct(few) FILTER (WHERE ok)",
    "bool_and(ok)",
    "bool_or(ok)",
    "bit_and(i)",
    "bit_or(i)",
    "bit_xor(u)",
    "arg_max(s, t)",
    "argmax(x, tz)",
    "max_by(st, t)",
    "arg_max(s, t) FILTER (WHERE x > 0)",
    "arg_max(d, nan) FILTER (WHERE nan BETWEEN 0 AND 1e9)",
    "arg_min(l, t)",
    "argmin(d, t)",
    "min_by(id, t)",
    "arg_max_null(s, t)",
    "arg_min_null(i, t)",
    "arg_max_nulls_last(s, t)",
    "arg_min_nulls_last(s, t)",
    "first(s ORDER BY t)",
    "first(d ORDER BY t DESC)",
    "first(x ORDER BY few NULLS FIRST, t DESC)",
    "last(s ORDER BY t)",
    "last(st ORDER BY t DESC NULLS FIRST) FILTER (WHERE ok)",
    "any_value(s ORDER BY t)",
    "arbitrary(s ORDER BY t)",
    "list(x ORDER BY t)",
    "list(s ORDER BY few DESC, t) FILTER (WHERE ok)",
    "list(st ORDER BY t)",
    "list((t, x) ORDER BY t)",
    "array_agg(tz ORDER BY t DESC)",
    "string_agg(s, ', ' ORDER BY t)",
    "string_agg(s ORDER BY t)",
    "group_concat(é, '' ORDER BY t)",
    "listagg(i::VARCHAR, '/' ORDER BY t)",
    "count(DISTINCT i)",
    "count(DISTINCT s) FILTER (WHERE ok)",
    "count(DISTINCT s) FILTER (WHERE never)",
    "count(DISTINCT (few, ok))",
    "count(DISTINCT nan)",
    "sum(DISTINCT d)",
    "sum(DISTINCT few)",
    "avg(DISTINCT few)",
    "stddev(DISTINCT few)",
    "median(DISTINCT few)",
    "quantile_disc(DISTINCT few, 0.7)",
    "min(DISTINCT s)",
    "max(DISTINCT x) FILTER (WHERE ok)",
    "bit_xor(DISTINCT few)",
    "product(DISTINCT few)",
    "first(DISTINCT s ORDER BY s)",
    "list(DISTINCT few ORDER BY few)",
    "list(DISTINCT s ORDER BY s DESC NULLS FIRST) FILTER (WHERE ok)",
    "string_agg(DISTINCT s, '|' ORDER BY s)",
    "histogram(few)",
    "histogram(s) FILTER (WHERE ok)",
    "histogram(few) FILTER (WHERE never)",
    "entropy(few)",
    "entropy(s) FILTER (WHERE ok)",
    "entropy(few) FILTER (WHERE never)",
    "geomean(p)",
    "geometric_mean(p + 1)",
    "weighted_avg(x, few)",
    "wavg(d, few)",
    "round(sum(x) / count(*), 2)",
    "count(DISTINCT few) + max(i)",
    "max(t) - min(t)",
    "sum(i) FILTER (WHERE ok) * 100.0 / count(*)",
    "g || ': ' || count(*)",
    "(list(x ORDER BY t))[:3]",
    "first(st ORDER BY t).a",
    "list_transform(list(few ORDER BY t), lambda e: e * 2)",
    "CASE WHEN count(*) > 3 THEN sum(d) ELSE 0 END",
    "{'n': count(*), 'of': list(DISTINCT few ORDER BY few)}",
    "sum(CASE WHEN \"é\" = 'é''ü' THEN 1 ELSE 0 END)",
    "coalesce(sum(x) FILTER (WHERE never), 0)",
    "count(*)::INTEGER",
    "sum(d)::DECIMAL(18,2)",
]
"""What equals batch SQL as written. Order inside is always total here, so there are no ties."""

TIES = [
    "arg_max(s, few)",
    "arg_min(s, few)",
    "arg_max(d, few) FILTER (WHERE ok)",
    "arg_max(d, nan)",  # NaN is largest, and equals itself
    "arg_max_null(s, few)",
    "arg_min_null(s, few)",
    "arg_max_nulls_last(s, few)",
    "arg_min_nulls_last(i, few)",
    "first(s ORDER BY few)",
    "last(s ORDER BY few)",
    "last(i ORDER BY few DESC, ok)",
    "any_value(s ORDER BY few DESC)",
    "list(s ORDER BY few)",
    "list(i ORDER BY few DESC, ok) FILTER (WHERE i > 0)",
    "string_agg(s, ',' ORDER BY few NULLS FIRST)",
    "mode(few)",
    "mode(s)",
    "mode(s) FILTER (WHERE ok)",
    "mode() WITHIN GROUP (ORDER BY day)",
]
"""What batch SQL answers by the order of rows; merganser does not, and ``batch`` says how."""

SKETCHES = ["approx_quantile(x, 0.5)", "approx_quantile(x, [0.1, 0.9])", "approx_top_k(few, 2)"]


ROWS = 244


@dataclass
class Kept:
    """The results of one way to cut the rows: (group, expression) to value, and expression to type."""

    values: dict[tuple[int | None, str], Any]
    types: dict[str, str]


ALL = [*EXACT, *TIES, *SKETCHES]
AGGREGATES: dict[str, Aggregate] = {sql: analyse("r", sql, COLUMNS, keys=["g"]) for sql in ALL}
CALLS: list[Call] = list(dict.fromkeys(call for a in AGGREGATES.values() for call in a.calls))
STATES = {call: f"s{n}" for n, call in enumerate(CALLS) if call.kind == "state"}
VALUES = {call: f"v{n}" for n, call in enumerate(CALLS) if call.kind == "values"}


def row(r: random.Random, n: int) -> dict[str, Any]:
    """A random row; ``n`` makes ``t`` distinct."""
    g = r.choice([0, 0, 0, 1, 1, 2, None])
    moment = datetime(2024, 1, 1) + timedelta(seconds=977 * n)
    values: dict[str, Any] = {
        "i": r.randint(-1000, 1000),
        "b": r.randint(-(2**62), 2**62),
        "u": r.getrandbits(64),
        "h": r.randint(-(2**90), 2**90),
        "x": r.gauss(0, 100),
        "y": r.gauss(5, 1),
        "f": r.gauss(0, 1),
        "nan": r.choice([math.nan, math.inf, -1.5, n + 1, n + 1.0]),
        "d": f"{r.randint(-(10**9), 10**9) / 100:.2f}",
        "wide": f"{r.randint(-(10**12), 10**12) / 10000:.4f}",
        "ok": r.random() < 0.5,
        "never": False,
        "s": r.choice(["a", "ab", "b", "", "zebra", "a'b", "Ä"]),
        "é": r.choice(["é'ü", "日本", "x"]),
        "few": r.choice([-2, 1, 1, 1, 1, 2, 3]),
        "tz": moment.replace(tzinfo=UTC),
        "day": (moment + timedelta(days=r.randint(0, 3))).date(),
        "st": {"a": r.randint(0, 9), "b": r.choice("pq")},
        "l": [r.randint(0, 3) for _ in range(r.randint(0, 3))],
        "id": f"00000000-0000-4000-8000-{n:012x}",
        "bits": r.randbytes(2),
    }
    kept = {name: None if r.random() < 0.1 else value for name, value in values.items()}
    return {"g": g, **kept, "t": moment, "p": r.uniform(0.9, 1.1)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DuckDB file with the table ``rows``, numbered by ``_n`` (Arrow would make a DECIMAL of a HUGEINT)."""
    r = random.Random(7)
    found = [row(r, n) for n in range(ROWS - 4)]
    found += [{**dict.fromkeys(COLUMNS), "g": 4, "never": False}] * 3 + [{**row(r, ROWS), "g": 5}]
    file = tmp_path_factory.mktemp("rows") / "rows.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute(f"CREATE TABLE rows (_n INTEGER, {', '.join(f'{quote(n)} {t}' for n, t in COLUMNS.items())})")
        con.executemany(
            f"INSERT INTO rows VALUES (?, {', '.join('?' * len(COLUMNS))})",
            [[n, *(each[name] for name in COLUMNS)] for n, each in enumerate(found)],
        )
    return file


def keep(rows: Path, file: Path, seed: int, parts: int) -> Kept:
    """Shuffle, cut, merge part by part into a file that is reopened each time; finish."""
    r = random.Random(seed)
    order = r.sample(range(ROWS), ROWS)
    cuts = sorted(r.sample(range(1, ROWS), parts - 1))
    states = "".join(f", {call.sql} EXPORT_STATE AS {name}" for call, name in STATES.items())
    combined = "".join(f", combine(o.{name}, n.{name}) AS {name}" for name in STATES.values())
    for start, end in zip([0, *cuts], [*cuts, ROWS]):
        with duckdb.connect(str(file)) as con:
            con.execute(f"ATTACH '{rows}' AS source (READ_ONLY)")
            con.execute(
                "CREATE TEMP TABLE part AS SELECT rows.* EXCLUDE (_n) FROM source.rows JOIN"
                f" unnest({order[start:end]}) WITH ORDINALITY chosen(_n, place) USING (_n) ORDER BY place"
            )
            con.execute(f"CREATE TEMP TABLE n AS SELECT g{states} FROM part GROUP BY g")
            con.execute("CREATE TABLE IF NOT EXISTS o AS FROM n WHERE false")
            con.execute(
                f"CREATE TEMP TABLE m AS SELECT n.g{combined}, o.rowid AS old"
                " FROM n LEFT JOIN o ON n.g IS NOT DISTINCT FROM o.g"
            )
            con.execute("DELETE FROM o WHERE rowid IN (SELECT old FROM m WHERE old IS NOT NULL)")
            con.execute("INSERT INTO o SELECT * EXCLUDE (old) FROM m")
            for call, name in VALUES.items():
                counted = (
                    f"SELECT g, ({call.value}) AS value, count(*) AS n FROM part"
                    f" WHERE {call.condition or 'true'} GROUP BY ALL"
                )
                con.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM ({counted}) WHERE false")
                con.execute(
                    f"CREATE OR REPLACE TABLE {name} AS SELECT g, value, sum(n)::BIGINT AS n"
                    f" FROM (FROM {name} UNION ALL ({counted})) GROUP BY ALL"
                )
    with duckdb.connect(str(file)) as con:
        finished: dict[Call, str] = {call: f"finalize(o.{name})" for call, name in STATES.items()}
        for call, name in VALUES.items():
            finished[call] = f"(SELECT {call.finish} FROM {name} v WHERE v.g IS NOT DISTINCT FROM o.g)"
        items = {sql: a.finished(finished, {"g": "o.g"}) for sql, a in AGGREGATES.items()}
        return results(con, items, "o", "")


def results(con: duckdb.DuckDBPyConnection, items: dict[str, str], relation: str, tail: str) -> Kept:
    """Evaluate ``items`` for each group."""
    if relation == "rows":
        tail = " GROUP BY g"
    # One query for 190 correlated subqueries takes seconds to plan, so a few at a time.
    kept = Kept({}, {})
    names = list(items)
    for start in range(0, len(names), 40):
        some = names[start : start + 40]
        columns = ", ".join(f"({items[sql]}) AS r{n}" for n, sql in enumerate(some))
        query = con.sql(f"SELECT g, {columns} FROM {relation}{tail}")
        kept.types |= dict(zip(some, map(str, query.types[1:])))
        for g, *values in query.fetchall():
            kept.values |= {(g, sql): value for sql, value in zip(some, values)}
    return kept


@pytest.fixture(scope="module")
def cut(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return keep(rows, tmp_path_factory.mktemp("kept") / "one.duckdb", seed=1, parts=4)


@pytest.fixture(scope="module")
def otherwise_cut(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return keep(rows, tmp_path_factory.mktemp("kept") / "two.duckdb", seed=2, parts=6)


@pytest.fixture(scope="module")
def batch(rows: Path) -> Iterator[Kept]:
    with duckdb.connect(str(rows), read_only=True) as con:
        yield results(con, {sql: a.batch for sql, a in AGGREGATES.items()}, "rows", "")


@pytest.fixture(scope="module")
def as_written(rows: Path) -> Iterator[Kept]:
    with duckdb.connect(str(rows), read_only=True) as con:
        yield results(con, {sql: sql for sql in EXACT}, "rows", "")


def same(a: Any, b: Any) -> bool:
    """Equal, floats within 1e-9 of each other."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


GROUPS = (0, 1, 2, 4, 5, None)


@pytest.mark.parametrize("sql", EXACT)
def test_merged_parts_are_what_batch_sql_says(sql: str, cut: Kept, as_written: Kept, batch: Kept) -> None:
    """Values and types, for every group; NULL, empty, and one-row groups included."""
    for g in GROUPS:
        assert same(cut.values[g, sql], as_written.values[g, sql]), (g, cut.values[g, sql], as_written.values[g, sql])
        assert same(cut.values[g, sql], batch.values[g, sql])
    assert AGGREGATES[sql].type == cut.types[sql] == as_written.types[sql] == batch.types[sql]


@pytest.mark.parametrize("sql", TIES)
def test_ties_do_not_depend_on_the_order_of_rows(sql: str, cut: Kept, otherwise_cut: Kept, batch: Kept) -> None:
    """Law 2, where batch SQL itself is at the mercy of the order: ``Aggregate.batch`` spells out the tie rule."""
    assert AGGREGATES[sql].batch != sql
    for g in GROUPS:
        assert same(cut.values[g, sql], batch.values[g, sql]), (g, cut.values[g, sql], batch.values[g, sql])
        assert cut.values[g, sql] == otherwise_cut.values[g, sql]
    assert AGGREGATES[sql].type == cut.types[sql] == batch.types[sql]


@pytest.mark.parametrize("sql", EXACT)
def test_another_cut_gives_the_same(sql: str, cut: Kept, otherwise_cut: Kept) -> None:
    """Law 2: other parts in another order, the same result."""
    assert all(same(cut.values[g, sql], otherwise_cut.values[g, sql]) for g in GROUPS)


def test_sketches_are_within_their_error(rows: Path, cut: Kept) -> None:
    """A t-digest is within 5% of the rank; heavy hitters are found."""
    with duckdb.connect(str(rows), read_only=True) as con:
        for sql, fractions in (("approx_quantile(x, 0.5)", [0.5]), ("approx_quantile(x, [0.1, 0.9])", [0.1, 0.9])):
            found = cut.values[0, sql]
            for value, fraction in zip(found if isinstance(found, list) else [found], fractions):
                rank = con.execute("SELECT avg((x < ?)::INT) FROM rows WHERE g = 0", [value]).fetchone()
                assert rank is not None and abs(rank[0] - fraction) < 0.05
    assert cut.values[0, "approx_top_k(few, 2)"][0] == 1
    assert all(AGGREGATES[sql].approximate and AGGREGATES[sql].type == cut.types[sql] for sql in SKETCHES)
    assert not any(AGGREGATES[sql].approximate for sql in (*EXACT, *TIES))


def test_every_rule_is_proved() -> None:
    """The whitelist has no aggregate that the tables above leave out."""
    written = " ".join(ALL).lower()
    assert [name for name in RULES if name != "count_star" and f"{name}(" not in written and f".{name}" not in written] \
        == []
