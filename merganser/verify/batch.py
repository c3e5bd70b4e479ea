"""A view in batch: each verb as one step of plain SQL, or plain Python, over all rows from the start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from merganser.clock import MIN_TIME
from merganser.codecs.debezium import OP, Debezium
from merganser.plan import (
    TRAVELS,
    Aggregated,
    AsOf,
    Changes,
    Deduplicate,
    Derive,
    Drop,
    Emits,
    Enriched,
    Explode,
    Fetch,
    Filter,
    Final,
    Fold,
    Join,
    Latest,
    LookUp,
    MapBatches,
    Materialize,
    Node,
    Order,
    Process,
    Read,
    Select,
)
from merganser.sql import literal, quote
from merganser.verify.fetch import fetched
from merganser.verify.fold import emitted_rows, folded, processed
from merganser.verify.process import Number
from merganser.windows import Session, Window, moment_sql

HIDDEN = ("_part", "_seq", "_time", "_wm")


class Batch:
    """Recomputes nodes; ``relations`` and ``closing`` are the events of each source and its lowest watermark."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        relations: Mapping[str, str],
        closing: Mapping[str, int],
        skipped: Collection[Number],
        resumed: Mapping[Number, int],
    ) -> None:
        """``skipped``: the events that a fold was told to leave out. ``resumed``: from which on a key emits how late at least."""
        self.con, self.relations, self.sources, self.skipped, self.resumed = con, relations, closing, skipped, resumed
        self._names = 0
        self._rows: dict[Node, str] = {}
        self.sagas: dict[Node, tuple[str, str]] = {}

    def content(self, view: Materialize) -> str:
        """A SELECT of the view's rows, without ``final``."""
        node = view.input
        assert node is not None
        if isinstance(node, Changes):
            assert node.input is not None
            return self.table(node.input)
        if node.table:
            return self.table(node)
        return f"SELECT {', '.join(quote(n) for n in view.columns)} FROM {self.rows(node)}"

    def closing(self, node: Node) -> int:
        """Where event time has come to at a node."""
        return min(self.sources[s] - delay if self.sources[s] > MIN_TIME else MIN_TIME for s, delay in node.delays.items())

    def keep(self, sql: str) -> str:
        """The name of a table made of a query."""
        self._names += 1
        self.con.execute(f"CREATE TABLE _t{self._names} AS {sql}")
        return f"_t{self._names}"

    def rows(self, node: Node) -> str:
        """What to put behind FROM for the rows at a node: its columns, hidden ones, ``_part``, ``_seq``, ``_time``, ``_wm``."""
        if node not in self._rows:
            self._rows[node] = self._relation(node)
        return self._rows[node]

    def _relation(self, node: Node) -> str:
        if isinstance(node, Read):
            return self.relations[node.of.name]
        assert node.input is not None
        if node.row_local:
            if node.events:
                return self._of_events(node, self.rows(node.input))
            # A row that a verb cannot compute is a dead letter; made rows have no position to leave them out by.
            return self._trying(lambda relation: self._row_local(node, relation), self.keep(f"FROM {self.rows(node.input)}"))
        found = STEPS[type(node)](self, node)
        return self.keep(found)

    def _of_events(self, node: Node, relation: str) -> str:
        """A row-local verb over events. Those that some verb refused are tried one by one: this may be the one, or a later one."""
        refused = f"FROM refused WHERE source = {literal(node.source.name)}"
        if not self.con.execute(f"{refused} LIMIT 1").fetchall():
            return self._row_local(node, relation)
        # Tables of their own: DuckDB would try a filter before the join takes out what it cannot be tried on.
        fine = self._row_local(node, self.keep(f"FROM {relation} ANTI JOIN ({refused}) USING (_part, _seq)"))
        doubtful = self.keep(f"FROM {relation} SEMI JOIN ({refused}) USING (_part, _seq)")
        tried = self._trying(lambda rows: self._row_local(node, rows), doubtful)
        return self.keep(f"FROM {fine} UNION ALL BY NAME FROM {tried}")

    def table(self, node: Node) -> str:
        """A SELECT of the rows of a table, as the user's columns without ``final``."""
        return TABLES[type(node)](self, node)

    # -- row by row -----------------------------------------------------------------------------------------------

    def _row_local(self, node: Node, relation: str) -> str:
        if isinstance(node, Filter):
            return f"(SELECT * FROM {relation} WHERE (\n{node.sql}\n))"
        if isinstance(node, MapBatches):
            return self._mapped(node, relation)
        if isinstance(node, LookUp):
            return self._looked_up(node, relation)
        new = dict(node.items) if isinstance(node, (Select, Derive)) else {}
        if isinstance(node, Explode):
            new = {node.column: f"unnest({quote(node.column)})"}
        assert isinstance(node, (Select, Derive, Drop, Explode))
        items = [f"(\n{new[n]}\n) AS {quote(n)}" if n in new else quote(n) for n in node.columns]
        return f"(SELECT {', '.join([*items, *_hidden(node)])} FROM {relation})"

    def _looked_up(self, node: LookUp, relation: str) -> str:
        name = f"_reference_{node.data.digest}"
        self.con.register(name, node.data.rows)
        equal = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in node.on)
        items = "".join(f", r.{quote(column)} AS {quote(shown)}" for shown, column in node.taken)
        return f"(SELECT l.*{items} FROM {relation} l LEFT JOIN {name} r ON {equal})"

    def _mapped(self, node: MapBatches, relation: str) -> str:
        assert node.input is not None
        before = self.keep(f"SELECT *, row_number() OVER () AS _row FROM {relation}")
        rows = self.con.sql(f"FROM {before} ORDER BY _row").to_arrow_table()
        result = node.fn(rows.select(list(node.input.columns)))
        mapped = pa.table(result).select(list(node.columns)).cast(node.schema.arrow_schema())
        self.con.register("_mapped", mapped.append_column("_row", rows["_row"]))
        hidden = ", ".join(_hidden(node)).replace("_part", "b._part", 1)
        names = ", ".join(f"m.{quote(n)}" for n in node.columns)
        return self.keep(f"SELECT {names}, {hidden} FROM _mapped m JOIN {before} b USING (_row)")

    def _trying(self, verb: Callable[[str], str], table: str) -> str:
        """A verb over a table without the rows that it cannot compute."""
        try:
            return self.keep(f"FROM {verb(table)}")
        except Exception:
            if self.con.execute(f"SELECT count(*) FROM {table}").fetchall() == [(1,)]:
                return self.keep(f"FROM {verb(self.keep(f'FROM {table} LIMIT 0'))}")
            halves = [self.keep(f"FROM {table} WHERE rowid % 2 = {half}") for half in (0, 1)]
            return self.keep(" UNION ALL ".join(f"FROM {self._trying(verb, half)}" for half in halves))


def _hidden(node: Node) -> list[str]:
    assert node.input is not None
    items = list(HIDDEN)
    for hidden, column in ((hidden, node.input.declared(role)) for role, hidden in TRAVELS.items()):
        if hidden in node.hidden:
            items.append(hidden if hidden in node.input.hidden else f"{quote(column or '')} AS {hidden}")
    return items


def same(names: tuple[str, ...], left: str, right: str) -> str:
    return " AND ".join(f"{left}.{quote(c)} IS NOT DISTINCT FROM {right}.{quote(c)}" for c in names)


# -- streams ------------------------------------------------------------------------------------------------------------


def _first(batch: Batch, node: Deduplicate) -> str:
    """The first row of each id in its partition, and those that are too far from all accepted ones before them."""
    assert node.input is not None
    ids = ", ".join(quote(c) for c in node.by)
    numbered = f"(SELECT *, row_number() OVER (PARTITION BY _part, {ids} ORDER BY _seq) AS _n FROM {batch.rows(node.input)})"
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
    return (
        f"WITH numbered AS MATERIALIZED {numbered},"
        f" kept AS (SELECT _part, {ids}, list_reduce({rows}, {step}, {start}).n AS ns FROM numbered GROUP BY ALL"
        " HAVING count(*) > 1)"
        f" SELECT r.* EXCLUDE (_n) FROM numbered r LEFT JOIN kept k ON r._part = k._part AND {same(node.by, 'r', 'k')}"
        " WHERE k.ns IS NULL OR list_contains(k.ns, r._n)"
    )


def _final(batch: Batch, node: Final) -> str:
    """The rows of the windows that the watermark has passed."""
    assert isinstance(node.input, Aggregated)
    return (
        f"SELECT *, '' AS _part, 0::BIGINT AS _seq, epoch_us(window_end) - 1 AS _time, NULL::BIGINT AS _wm"
        f" FROM ({_aggregated(batch, node.input)}) WHERE epoch_us(window_end) <= {batch.closing(node)}"
    )


def _order(batch: Batch, node: Order) -> str:
    assert node.input is not None
    keys, columns = ", ".join(quote(c) for c in node.by), ", ".join(quote(c) for c in node.input.columns)
    ties = "".join(f", {quote(c)}" for c in node.input.columns) if node.input.ambiguous else ""
    first, rows = "_time, ", f"{_on_time(batch, node.input)} WHERE _time < {batch.closing(node)}"
    if node.log:
        first, rows = "", batch.rows(node.input)
    return (
        f"SELECT {columns}, _part, _seq, _time, NULL::BIGINT AS _wm,"
        f" row_number() OVER (PARTITION BY {keys} ORDER BY {first}_part, _seq{ties}) AS seq FROM {rows}"
    )


def _on_time(batch: Batch, node: Node) -> str:
    """The rows whose own partition was not past their time when they came."""
    return f"(SELECT * FROM {batch.rows(node)} WHERE _wm IS NULL OR _wm <= _time)"


def _join(batch: Batch, node: Join) -> str:
    left, right = (batch.keep(f"SELECT *, row_number() OVER () AS _row FROM {_on_time(batch, i)}") for i in node.inputs)
    equal = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in node.on)
    near = f"l._time BETWEEN r._time - {node.within} AND r._time + {node.within}"
    mine = ", ".join(f"l.{quote(c)}" for c in node.inputs[0].columns)
    theirs = "".join(f", r.{quote(column)} AS {quote(name)}" for name, column in node.taken)
    pairs = (
        f"SELECT {mine}{theirs}, l._part, l._seq, greatest(l._time, r._time) AS _time, NULL::BIGINT AS _wm"
        f" FROM {left} l JOIN {right} r ON {equal} AND {near}"
    )
    if node.how == "inner":
        return pairs
    nothing = "".join(f", NULL::{node.columns[name]} AS {quote(name)}" for name, _ in node.taken)
    return (
        f"{pairs} UNION ALL SELECT {mine}{nothing}, l._part, l._seq, l._time, NULL::BIGINT FROM {left} l"
        f" WHERE l._time + {node.within} < {batch.closing(node.other)} AND NOT EXISTS (FROM {right} r WHERE {equal} AND {near})"
    )


def _as_of(batch: Batch, node: AsOf) -> str:
    """For each row its newest partner, found among all partners that are not after it."""
    left = batch.keep(f"SELECT *, row_number() OVER () AS _row FROM {_on_time(batch, node.inputs[0])}")
    right = batch.keep(f"FROM {_on_time(batch, node.other)}")
    equal = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in node.on)
    theirs = "".join(f", r.{quote(column)} AS {quote(name)}" for name, column in node.taken)
    ties = "".join(f", r.{quote(c)}" for c in node.other.columns) if node.other.ambiguous else ""
    names = ", ".join(quote(name) for name in node.columns)
    return (
        f"SELECT {names}, _part, _seq, _time, NULL::BIGINT AS _wm FROM (SELECT DISTINCT ON (l._row) l.*{theirs}"
        f" FROM {left} l LEFT JOIN {right} r ON {equal} AND r._time <= l._time"
        f" ORDER BY l._row, r._time DESC, r._part DESC, r._seq DESC{ties}) WHERE _time < {batch.closing(node.other)}"
    )


# -- tables -------------------------------------------------------------------------------------------------------------


def _aggregated(batch: Batch, node: Aggregated) -> str:
    assert node.input is not None
    relation = batch.rows(node.input)
    keys = [quote(name) for name in node.by]
    window = node.window
    if isinstance(window, Window):
        kind = node.columns["window_start"]
        start = window.last_start_sql()
        on_time = "true" if node.late == "update" else f"coalesce(_wm < _w + {window.size}, true)"
        relation = (
            f"(SELECT * EXCLUDE (_w), {moment_sql('_w', kind)} AS _start, {moment_sql(f'_w + {window.size}', kind)} AS _end FROM"
            f" (SELECT *, {start} - _k * {window.every} AS _w FROM {relation} CROSS JOIN range({window.overlap}) t(_k))"
            f" WHERE _w + {window.size} > _time AND {on_time})"
        )
    if isinstance(window, Session):
        relation = _sessions(batch, node, window)
    spelled = {name: quote(name) for name in node.by}
    if window is not None:
        spelled |= {"window_start": "_start", "window_end": "_end"}
        keys += ["_start", "_end"]
    again = any(name in node.input.columns for name in spelled if name not in node.by)  # windows of windows
    if window is not None and not again:
        relation = f"(SELECT *, _start AS window_start, _end AS window_end FROM {relation})"
        keys += ["window_start", "window_end"]
    batch_of = {a: a.finished({call: call.sql for call in a.calls}, spelled) if again else a.batch for a in node.aggregates}
    results = [f"({sql})::{a.type} AS {quote(a.name)}" for a, sql in batch_of.items()]
    items = [f"{sql} AS {quote(name)}" for name, sql in spelled.items()]
    grouped = f" GROUP BY {', '.join(keys)}" if keys else " HAVING count(*) > 0"
    return f"SELECT {', '.join([*items, *results])} FROM {relation}{grouped}"


def _sessions(batch: Batch, node: Aggregated, window: Session) -> str:
    """Rows with the start and end of their session: gaps and islands."""
    assert node.input is not None
    kind = node.columns["window_start"]
    by = f"PARTITION BY {', '.join(quote(c) for c in node.by)} " if node.by else ""
    island = f"PARTITION BY {', '.join([*(quote(c) for c in node.by), '_island'])}"
    gap = f"coalesce(_time - lag(_time) OVER ({by}ORDER BY _time) >= {window.gap}, true)"
    return (
        f"(SELECT *, {moment_sql(f'min(_time) OVER ({island})', kind)} AS _start,"
        f" {moment_sql(f'max(_time) OVER ({island}) + {window.gap}', kind)} AS _end FROM"
        f" (SELECT *, sum(_gap::INTEGER) OVER ({by}ORDER BY _time RANGE UNBOUNDED PRECEDING) AS _island FROM"
        f" (SELECT *, {gap} AS _gap FROM {_on_time(batch, node.input)})))"
    )


def _enriched(batch: Batch, node: Enriched) -> str:
    equal = " AND ".join(f"l.{quote(a)} = r.{quote(b)}" for a, b in node.on)
    items = [f"l.{quote(name)}" for name in node.inputs[0].columns]
    items += [f"r.{quote(column)} AS {quote(name)}" for name, column in node.taken]
    return f"SELECT {', '.join(items)} FROM {batch.rows(node.inputs[0])} l LEFT JOIN ({batch.table(node.other)}) r ON {equal}"


def _latest(batch: Batch, node: Latest) -> str:
    before = node.input
    assert before is not None
    given = {before.declared(role) for role in ("id", "key", "time")} | {*node.source.around}
    payload = [quote(n) for n in node.columns if n not in {*node.by, *given}]
    gone = " AND ".join(f"{c} IS NULL" for c in payload) or "false"
    if isinstance(node.source.schema.written, Debezium) and OP in node.columns:
        gone = f"{OP} IS NULL OR {OP} NOT IN ('c', 'u', 'r')"
    keys, columns = ", ".join(quote(c) for c in node.by), ", ".join(quote(c) for c in node.columns)
    order = "_time DESC, _part DESC, _seq DESC" + (f", {columns}" if node.ambiguous else "")
    return (
        f"SELECT {columns} FROM (SELECT DISTINCT ON ({keys}) * FROM {batch.rows(before)} ORDER BY {keys}, {order})"
        f" WHERE NOT ({gone})"
    )


STEPS: dict[type[Node], Callable[[Batch, Any], str]] = {
    Deduplicate: _first,
    Fetch: fetched,
    Final: _final,
    Order: _order,
    Join: _join,
    AsOf: _as_of,
    Emits: emitted_rows,
}
"""By node: the rows of a stream."""

TABLES: dict[type[Node], Callable[[Batch, Any], str]] = {
    Aggregated: _aggregated,
    Latest: _latest,
    Enriched: _enriched,
    Fold: folded,
    Process: processed,
}
"""By node: the rows of a table, as the user's columns."""
