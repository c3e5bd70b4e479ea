"""``verify``: every view recomputed by plain batch SQL over the accepted events, and compared with the store.

The accepted events are those that the source's codec makes rows of, up to the view's position, without the dead letters
that the store has. From there on nothing is shared with the engine: each verb is one step of plain SQL over all rows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from merganser.errors import UsageError
from merganser.flow import Flow
from merganser.plan import (
    ID,
    KEY,
    Aggregated,
    Deduplicate,
    Derive,
    Drop,
    Explode,
    Filter,
    Latest,
    MapBatches,
    Materialize,
    Node,
    Read,
    Select,
    Source,
)
from merganser.scratch import CONFIG
from merganser.sql import literal, quote
from merganser.store import Store

CHUNK_BYTES = 8 << 20
EXACT = 1e-9
"""Relative difference that sums of floating-point numbers may have, since addition depends on its order."""
APPROXIMATE = 0.1
"""Relative difference that approximate aggregates (``approx_quantile``) may have."""


@dataclass(frozen=True)
class ViewCheck:
    """What comparing a view gave: rows only in batch SQL (``missing``), rows only in the view (``unexpected``)."""

    view: str
    rows: int
    missing: pa.Table
    unexpected: pa.Table
    note: str | None = None

    @property
    def ok(self) -> bool:
        return not len(self.missing) and not len(self.unexpected)


def verify(
    flows: Sequence[Flow],
    store: str | Path,
    *,
    views: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[ViewCheck]:
    """Compare views with batch SQL. The store is opened read only; ``progress`` is called with each view's name."""
    wanted = [v for flow in flows for v in flow.materialized if views is None or v.name in views]
    with Store(store, read_only=True) as opened, tempfile.TemporaryDirectory() as folder:
        checks = []
        for view in wanted:
            if progress:
                progress(view.name)
            checks.append(_check(opened, view, Path(folder) / f"{view.name}.duckdb"))
        return checks


def _check(store: Store, view: Materialize, path: Path) -> ViewCheck:
    found = store.rows("SELECT cohort FROM merganser.views WHERE view = ? AND status <> 'building'", [view.name])
    if not found:
        raise UsageError(f"view {view.name!r} is not in {store.path}; run its flow first")
    cohort = int(found[0][0])
    with duckdb.connect(str(path), config=CONFIG) as con:
        _load(con, store, view, cohort)
        con.execute(f"CREATE TABLE expected AS {_sql(con, view)}")
        names = [n for n in view.columns if n != "final" or not _windowed(view)]
        columns = ", ".join(quote(n) for n in names)
        con.register("_found", store.table(f"SELECT {columns} FROM {quote(view.name)}"))
        con.execute("CREATE TABLE found AS FROM _found")
        return _compare(con, view, names)


# -- the accepted events ------------------------------------------------------------------------------------------------


def _load(con: duckdb.DuckDBPyConnection, store: Store, view: Materialize, cohort: int) -> None:
    """The table ``events``: the source's columns, ``_part``, ``_seq``, ``_time`` and ``_wm``, up to the position."""
    source = view.source
    columns = ", ".join(f"{quote(c.name)} {c.type}" for c in source.schema.columns)
    con.execute(f"CREATE TABLE read ({columns}, _seq BIGINT, _part VARCHAR)")
    codec = source.connector.codec(source.schema, source.time)
    positions = store.rows(
        "SELECT partition, seq, floor, position FROM merganser.positions WHERE cohort = ? AND source = ?", [cohort, source.name]
    )
    ends = {partition: end for partition, end, _, _ in positions}
    at: dict[str, int] = dict.fromkeys(ends, 0)
    reader = source.connector.open(source.name, follow=False)
    for partition, _, _, position in positions:
        known = json.loads(position)
        reader.add(partition, source.connector.origin([known] if known else []))
    while any(at[p] < ends[p] for p in ends):
        chunk = reader.read(CHUNK_BYTES)
        if chunk is None:
            for partition, _ in reader.finished():
                if at[partition] < ends[partition]:
                    raise UsageError(
                        f"source {source.name!r} ends at record {at[partition]} in partition {partition!r}, the view has read"
                        f" {ends[partition]}; bring back what was removed, or rebuild the view"
                    )
            time.sleep(0.002)
            continue
        if chunk.records:
            con.register("_chunk", codec.decode(chunk).table)
            con.execute(
                f"INSERT INTO read SELECT *, {literal(chunk.partition)} FROM _chunk WHERE _seq < {ends[chunk.partition]}"
            )
        at[chunk.partition] = chunk.end
    reader.close()
    dead = store.table(
        "SELECT DISTINCT partition AS _part, seq AS _seq FROM merganser.dead_letters"
        f" WHERE source = {literal(source.name)} AND view IS NULL"
    )
    con.register("_dead", dead)
    moment = "0::BIGINT" if source.time is None else f"epoch_us({quote(source.time)})"
    mark = "NULL::BIGINT"
    if source.time is not None and source.lateness is not None:
        floors = ", ".join(f"{literal(p)}: {floor}::BIGINT" for p, _, floor, _ in positions if floor is not None)
        mark = f"max(_time) OVER (PARTITION BY _part ORDER BY _seq) - {source.lateness}"
        mark = f"greatest({mark}, map_extract_value(MAP {{{floors}}}, _part))" if floors else mark
    con.execute(
        f"CREATE TABLE events AS SELECT *, {mark} AS _wm FROM"
        f" (SELECT *, {moment} AS _time FROM read ANTI JOIN _dead USING (_part, _seq))"
    )
    refused = store.table(
        "SELECT DISTINCT partition AS _part, seq AS _seq FROM merganser.dead_letters"
        f" WHERE source = {literal(source.name)} AND view = {literal(view.name)}"
    )
    con.register("_refused_rows", refused)
    con.execute("CREATE TABLE refused AS FROM _refused_rows")


# -- the view in batch SQL ------------------------------------------------------------------------------------------------


def _sql(con: duckdb.DuckDBPyConnection, view: Materialize) -> str:
    """The view's rows as a query over ``events``; steps that a query cannot say become tables on the way."""
    relation = "(FROM events ANTI JOIN refused USING (_part, _seq))"
    for number, node in enumerate(reversed(list(view.chain()))):
        if isinstance(node, Filter):
            relation = f"(SELECT * FROM {relation} WHERE (\n{node.sql}\n))"
        elif isinstance(node, (Select, Derive, Drop, Explode)):
            relation = _reshaped(node, relation)
        elif isinstance(node, MapBatches):
            relation = _mapped(con, node, relation, number)
        elif isinstance(node, Deduplicate):
            con.execute(f"CREATE TABLE _once_{number} AS {_first(node, relation)}")
            relation = f"_once_{number}"
        elif isinstance(node, Aggregated):
            return _aggregated(node, relation)
        elif isinstance(node, Latest):
            return _latest(node, relation)
        else:
            assert isinstance(node, (Read, Materialize))
    return f"SELECT {', '.join(quote(n) for n in view.columns)} FROM {relation}"


def _hidden(node: Node) -> list[str]:
    assert node.input is not None
    items = ["_part", "_seq", "_time", "_wm"]
    for hidden, column in ((ID, node.source.id), (KEY, node.source.key)):
        if hidden in node.hidden:
            items.append(hidden if hidden in node.input.hidden else f"{quote(column or '')} AS {hidden}")
    return items


def _reshaped(node: Node, relation: str) -> str:
    new = dict(node.items) if isinstance(node, (Select, Derive)) else {}
    if isinstance(node, Explode):
        new = {node.column: f"unnest({quote(node.column)})"}
    items = [f"(\n{new[n]}\n) AS {quote(n)}" if n in new else quote(n) for n in node.columns]
    return f"(SELECT {', '.join([*items, *_hidden(node)])} FROM {relation})"


def _mapped(con: duckdb.DuckDBPyConnection, node: MapBatches, relation: str, number: int) -> str:
    assert node.input is not None
    con.execute(f"CREATE TABLE _before_{number} AS SELECT *, row_number() OVER () AS _row FROM {relation}")
    before = con.sql(f"FROM _before_{number} ORDER BY _row").to_arrow_table()
    result = node.fn(before.select(list(node.input.columns)))
    con.register("_mapped", pa.table(result).select(list(node.columns)).append_column("_row", before["_row"]))
    hidden = ", ".join(_hidden(node)).replace("_part", "b._part", 1)
    names = ", ".join(f"m.{quote(n)}" for n in node.columns)
    con.execute(f"CREATE TABLE _after_{number} AS SELECT {names}, {hidden} FROM _mapped m JOIN _before_{number} b USING (_row)")
    return f"_after_{number}"


def _first(node: Deduplicate, relation: str) -> str:
    """The first row of each id in its partition, and those that are too far from all accepted ones before them."""
    ids = ", ".join(quote(c) for c in node.by)
    numbered = f"(SELECT *, row_number() OVER (PARTITION BY _part, {ids} ORDER BY _seq) AS _n FROM {relation})"
    if node.within is None:
        return f"SELECT * EXCLUDE (_n) FROM {numbered} WHERE _n = 1"
    # Accepted times of an id are collected one by one, in order: a fold over the list of its rows.
    near = f"abs(x.t - y) <= {node.within} AND y >= coalesce(x.w - {node.within}, y)"
    step = (
        "lambda a, x: CASE WHEN len(list_filter(a.t, lambda y: " + near + ")) > 0 THEN a"
        " ELSE {'t': list_append(a.t, x.t), 'n': list_append(a.n, x.n)} END"
    )
    start = "{'t': []::BIGINT[], 'n': []::BIGINT[]}"
    rows = "list({'t': _time, 'w': _wm, 'n': _n} ORDER BY _n)"
    same = " AND ".join(f"r.{quote(c)} IS NOT DISTINCT FROM k.{quote(c)}" for c in node.by)
    return (
        f"WITH numbered AS MATERIALIZED {numbered},"
        f" kept AS (SELECT _part, {ids}, list_reduce({rows}, {step}, {start}).n AS ns FROM numbered GROUP BY ALL"
        " HAVING count(*) > 1)"
        f" SELECT r.* EXCLUDE (_n) FROM numbered r LEFT JOIN kept k ON r._part = k._part AND {same}"
        " WHERE k.ns IS NULL OR list_contains(k.ns, r._n)"
    )


def _aggregated(node: Aggregated, relation: str) -> str:
    keys = [quote(name) for name in node.by]
    window = node.window
    if window is not None:
        kind = node.columns["window_start"]
        start = window.last_start_sql()
        relation = (
            f"(SELECT * EXCLUDE (_w), make_timestamp(_w)::{kind} AS window_start,"
            f" make_timestamp(_w + {window.size})::{kind} AS window_end FROM"
            f" (SELECT *, {start} - _k * {window.every} AS _w FROM {relation} CROSS JOIN range({window.overlap}) t(_k))"
            f" WHERE _w + {window.size} > _time AND coalesce(_wm < _w + {window.size}, true))"
        )
        keys += ["window_start", "window_end"]
    results = [f"({a.batch})::{a.type} AS {quote(a.name)}" for a in node.aggregates]
    grouped = f" GROUP BY {', '.join(keys)}" if keys else " HAVING count(*) > 0"
    return f"SELECT {', '.join([*keys, *results])} FROM {relation}{grouped}"


def _latest(node: Latest, relation: str) -> str:
    source: Source = node.source
    apart = {*node.by, source.id, source.key, source.time, *source.connector.metadata(source.schema)}
    payload = [quote(n) for n in node.columns if n not in apart]
    gone = " AND ".join(f"{c} IS NULL" for c in payload) or "false"
    keys, columns = ", ".join(quote(c) for c in node.by), ", ".join(quote(c) for c in node.columns)
    order = "_time DESC, _part DESC, _seq DESC" + (f", {columns}" if node.exploded else "")
    return (
        f"SELECT {columns} FROM (SELECT DISTINCT ON ({keys}) * FROM {relation} ORDER BY {keys}, {order})"
        f" WHERE NOT ({gone})"
    )


def _windowed(view: Materialize) -> bool:
    return isinstance(view.input, Aggregated) and view.input.window is not None


# -- comparing ----------------------------------------------------------------------------------------------------------


def _compare(con: duckdb.DuckDBPyConnection, view: Materialize, names: Sequence[str]) -> ViewCheck:
    """Rows that only one side has, as bags; floating-point columns of aggregates may differ in their last digits."""
    count = con.execute("SELECT count(*) FROM found").fetchall()[0][0]
    node = view.input
    loose: dict[str, float] = {}
    note = None
    if isinstance(node, Aggregated):
        loose = {a.name: EXACT for a in node.aggregates if a.type in ("DOUBLE", "FLOAT")}
        near = {a.name: APPROXIMATE for a in node.aggregates if a.approximate}
        if near:
            note = f"{', '.join(near)} compared within {APPROXIMATE:.0%}"
        loose |= near
    exact = [n for n in names if n not in loose]
    missing, unexpected = con.sql("FROM expected EXCEPT ALL FROM found"), con.sql("FROM found EXCEPT ALL FROM expected")
    if not loose:
        return ViewCheck(view.name, int(count), missing.to_arrow_table(), unexpected.to_arrow_table())
    con.execute("CREATE TABLE _missing AS FROM expected EXCEPT ALL FROM found")
    con.execute("CREATE TABLE _unexpected AS FROM found EXCEPT ALL FROM expected")
    types = {n: t for n, t in view.columns.items() if n in loose}
    numeric = [n for n in loose if _numeric(types[n])]
    same = [f"e.{quote(n)} IS NOT DISTINCT FROM f.{quote(n)}" for n in exact]
    for n in numeric:
        e, f = f"e.{quote(n)}::DOUBLE", f"f.{quote(n)}::DOUBLE"
        within = f"abs({e} - {f}) <= {loose[n]} * greatest(abs({e}), abs({f}), 1e-300)"
        same.append(f"({e} IS NOT DISTINCT FROM {f} OR (isnan({e}) AND isnan({f})) OR {within})")
    on = " AND ".join(same)
    left = con.sql(f"FROM _missing e ANTI JOIN _unexpected f ON {on}").to_arrow_table()
    right = con.sql(f"FROM _unexpected f ANTI JOIN _missing e ON {on}").to_arrow_table()
    return ViewCheck(view.name, int(count), left, right, note)


def _numeric(kind: str) -> bool:
    """Approximate results that are no numbers (lists of quantiles, top k) are not compared."""
    return not kind.endswith("]") and kind.split("(")[0].removeprefix("U") in (
        "DOUBLE", "FLOAT", "DECIMAL", "HUGEINT", "BIGINT", "INTEGER", "SMALLINT", "TINYINT",
    )  # fmt: skip
