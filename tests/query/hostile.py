"""Statements that must change nothing, read nothing outside of the store, and stop nothing.

Made from parts, so that every way in meets every disguise, and some by hand. ``refused``: no such statement may be answered
at all. ``HEAVY``: may run, until a limit ends them. ``BOMBS``: need more memory than there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import duckdb

from merganser.query.guard import TABLES

WRITES = (
    "INSERT INTO merganser.commits SELECT * FROM merganser.commits",
    "UPDATE merganser.commits SET read = 0",
    "DELETE FROM merganser.positions",
    "DELETE FROM per_key",
    "TRUNCATE merganser.positions",
    "MERGE INTO merganser.views v USING merganser.views w ON v.view = w.view WHEN MATCHED THEN DELETE",
    "INSERT OR REPLACE INTO merganser.meta VALUES ('format', '99')",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE OR REPLACE VIEW per_key AS SELECT 1",
    "CREATE MACRO f(x) AS x",
    "CREATE SEQUENCE s",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE SCHEMA other",
    "CREATE INDEX i ON merganser.commits (epoch)",
    "DROP VIEW per_key",
    "DROP SCHEMA merganser CASCADE",
    "ALTER TABLE merganser.commits DROP COLUMN read",
    "COMMENT ON VIEW per_key IS 'mine'",
    "VACUUM",
    "ANALYZE",
    "CHECKPOINT",
    "FORCE CHECKPOINT store",
)
FILES = ("{secret}", "{folder}/*", "/etc/passwd", "{store}", "{store}.serve", "{store}.tmp/*", "http://127.0.0.1:9/x", "s3://bucket/x")
READERS = (
    "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_ndjson", "read_ndjson_objects", "read_text", "read_blob",
    "read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema", "parquet_kv_metadata", "glob", "sniff_csv", "read_duckdb",
)  # fmt: skip
OUT = (
    "COPY per_key TO '{folder}/out.csv'",
    "COPY (FROM per_key) TO '{folder}/out.parquet' (FORMAT parquet)",
    "COPY (WITH x AS (FROM per_key) FROM x) TO '{store}.tmp/out.csv'",
    "COPY merganser.commits FROM '{secret}'",
    "COPY FROM DATABASE store TO memory",
    "EXPORT DATABASE '{folder}/export'",
    "IMPORT DATABASE '{folder}/export'",
    "ATTACH '{folder}/other.duckdb' AS other",
    "ATTACH ':memory:' AS other",
    "ATTACH '{store}' AS again (READ_ONLY)",
    "ATTACH 'http://127.0.0.1:9/x.duckdb'",
    "ATTACH OR REPLACE ':memory:' AS store",
    "DETACH store",
    "USE memory",
)
SETTINGS = (
    "SET enable_external_access = true", "SET GLOBAL lock_configuration = false", "RESET lock_configuration", "SET threads = 64",
    "SET memory_limit = '1TB'", "SET temp_directory = '{folder}'", "SET allowed_directories = ['/']", "SET search_path = 'memory'",
    "SET VARIABLE x = 1", "SET SESSION operator_memory_limit = '1TB'", "SET log_query_path = '{folder}/log'",
    "PRAGMA enable_profiling", "PRAGMA threads = 64", "PRAGMA database_list", "PRAGMA storage_info('per_key')",
    "PRAGMA disable_checkpoint_on_shutdown", "PRAGMA enable_logging", "PRAGMA memory_limit = '1TB'",
)  # fmt: skip
EXTENSIONS = (
    "INSTALL httpfs", "FORCE INSTALL httpfs FROM 'http://127.0.0.1:9'", "LOAD httpfs", "LOAD '{folder}/evil.duckdb_extension'",
    "UPDATE EXTENSIONS", "INSTALL json FROM community",
)  # fmt: skip
SECRETS = (
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')", "CREATE PERSISTENT SECRET s (TYPE http)", "DROP SECRET s",
    "FROM duckdb_secrets()", "FROM which_secret('s3://x', 's3')",
)  # fmt: skip
CONTROL = (
    "BEGIN", "BEGIN TRANSACTION", "COMMIT", "ROLLBACK", "ABORT", "PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p",
    "CALL duckdb_tables()", "CALL checkpoint()", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1", "", ";", "--", "/* */", "SELECT",
    "\x00", "SELECT 1\x00; DROP VIEW per_key", "SELEC 1", "💥", "(" * 5000, "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT 1" + " + 1" * 40_000, "SELECT '" + "x" * 200_000 + "'",
)  # fmt: skip
CALLS = (
    "SELECT nextval('s')", "SELECT setval('s', 1)", "SELECT write_log('x')", "SELECT sleep_ms(100000)", "SELECT getenv('HOME')",
    "SELECT current_setting('temp_directory')", "SELECT main.current_setting('temp_directory')", "SELECT setseed(0.1)",
    "SELECT read_text('{secret}')", "SELECT to_aggregate_state({'x': 1}, 'sum', ['BIGINT'])", "SELECT __internal_barrier(1)",
    "FROM query('DROP VIEW per_key')", "FROM query('SELECT 1; DROP VIEW per_key')", "FROM query_table('{secret}')",
    "FROM query_table(['per_key', '{secret}'])",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{secret}'')'))",
    "PIVOT per_key ON key USING sum(n)", "FROM memory.x", "FROM ''", "FROM \"\"",
)  # fmt: skip
DOUBLED = ", ".join(f"{a} || {a} AS {b}" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz"))
BOMBS = (
    "SELECT repeat('x', 1000000000)", "SELECT length(repeat(repeat('x', 9000), 9000)) FROM range(2048)", "SELECT range(1000000000)",
    "SELECT lpad('x', 1000000000, 'y') FROM range(10)", "SELECT list_transform(range(90000), lambda x: range(90000))",
    "SELECT array_resize([1], (SELECT 1000000000))", "SELECT printf('%1000000000d', 1) FROM range(4)",
    "WITH a AS (SELECT repeat(key, 5000) AS x FROM per_key), b AS (SELECT replace(x, 'k', x) AS x FROM a)"
    " SELECT length(replace(x, 'k', x)) FROM b",
    f"SELECT 'xxxxxxxxxxxxxxxx' AS a, {DOUBLED} FROM range(3)",
    f"SELECT length({'hex(' * 32}key{')' * 32}) FROM per_key",
    "WITH RECURSIVE x AS (SELECT 'a' AS a UNION ALL SELECT a || a FROM x) SELECT max(length(a)) FROM x",
    "SELECT a || a || a || a FROM (SELECT string_agg(range::VARCHAR) AS a FROM range(1000000000) GROUP BY range % 2000)",
    "SELECT list_reduce(list_transform(range(50), lambda x: 'xxxx'), lambda a, b: a || a)",
    "SELECT sum(length(a)) FROM (SELECT list(range) OVER (ORDER BY range) AS a FROM range(1000000))",
)  # fmt: skip
"""Make values that are larger than the memory of any machine, within one step of a query."""
HEAVY = (
    "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = -1",
    "SELECT count(*) FROM per_key a, per_key b, per_key c, range(100000) d, range(100000) e WHERE random() > 2",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x) SELECT count(*) FROM x",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x) FROM x",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT unnest([a, a]) FROM x) SELECT count(*) FROM x",
    "WITH RECURSIVE x AS (SELECT 'a' AS a UNION ALL SELECT a || a FROM x) SELECT max(length(a)) FROM x",
    "FROM range(1000000000000)",
    "FROM range(1000000000000) ORDER BY random()",
    "SELECT range % 1000000007, count(*) FROM range(1000000000000) GROUP BY ALL",
    "SELECT length(list(range)) FROM range(1000000000000)",
    "SELECT length(string_agg(range::VARCHAR)) FROM range(1000000000000)",
    "SELECT list(a.range) OVER (ORDER BY a.range) FROM range(1000000) a",
    "SELECT md5(md5(md5(a.range::VARCHAR))) FROM range(1000000000000) a",
    "SELECT regexp_matches(repeat('a', 90000), '(a*)*b') FROM range(1000000)",
    "SELECT repeat('x', 99999) FROM range(1000000)",
    "SELECT sum(a.range) OVER (ORDER BY b.range ROWS 1000000 PRECEDING) FROM range(10000) a, range(10000) b",
    "SELECT DISTINCT a.range, b.range FROM range(1000000) a, range(1000000) b",
    "SELECT median(a.range + b.range) FROM range(100000) a, range(100000) b",
    "FROM generate_series(1, 1000000000000) a(x) WHERE x IN (SELECT range FROM range(1000000000))",
    "SELECT json_group_array(range) FROM range(1000000000000)",
)  # fmt: skip
DISGUISES = (
    "{0}",
    "/* SELECT */ {0}",
    "-- SELECT 1\n{0}",
    "SELECT 1; {0}",
    "{0}; SELECT 1",
    "EXPLAIN ANALYZE {0}",
    "PREPARE p AS {0}",
    "WITH x AS ({0} RETURNING *) FROM x",
    "WITH x AS (SELECT 1), y AS ({0} RETURNING *) SELECT (SELECT count(*) FROM y)",
    "SELECT * FROM ({0} RETURNING *)",
)
PLACES = (
    "FROM {0}",
    "SELECT (SELECT count(*) FROM {0})",
    "WITH x AS (FROM {0}) FROM x",
    "FROM total UNION ALL BY NAME FROM {0}",
    "FROM total WHERE EXISTS (FROM {0})",
    "FROM total, LATERAL (FROM {0})",
)


def refused() -> Iterator[str]:
    """Statements that must be refused; ``{secret}``, ``{folder}`` and ``{store}`` are paths."""
    for number, write in enumerate(WRITES):
        for disguise in DISGUISES if number < 5 else DISGUISES[:4] + DISGUISES[7:8]:
            yield disguise.format(write)
    for number, path in enumerate(FILES):
        for reader in READERS if number in (0, 3) else READERS[:8:3]:
            yield PLACES[len(reader) % len(PLACES)].format(f"{reader}('{path}')")
        for place in PLACES:
            yield place.format(f"'{path}'")
    for each in (*OUT, *SETTINGS, *EXTENSIONS, *SECRETS):
        yield each
        yield f"SELECT 1; {each}"
    yield from CONTROL
    yield from CALLS
    functions = duckdb.execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type LIKE 'table%' ORDER BY 1")
    for (name,) in functions.fetchall():
        if name not in TABLES:
            yield f"FROM {name}()"
            yield f"FROM {name}(1, 2, 3)"
