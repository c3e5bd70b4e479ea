"""Users' SQL, parsed and bound when a flow is built: types, unknown columns, and what a verb cannot take.

DuckDB's own parser (``json_serialize_sql``) and binder do the work, against an empty relation of the columns that there
are. Parse trees are the dicts that DuckDB prints; ``text_of`` turns one back into SQL, so that an expression can be
rewritten as data. Everything raises FlowError for people, never a DuckDB error.
"""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import duckdb

from merganser.errors import FlowError
from merganser.scratch import scratch

Ast = dict[str, Any]
"""A node of DuckDB's parse tree, as ``json_serialize_sql`` prints it."""

CLOCK_WORDS = frozenset(
    ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_catalog",
     "current_schema", "current_role", "current_user", "session_user", "user")
)  # fmt: skip
"""Words that the parser takes for columns and the binder, where there is no such column, for functions without ()."""

UNSTABLE = frozenset(("current_localtime", "current_localtimestamp", "current_database", "getenv", "version"))
"""Functions that DuckDB 2.0.0 calls CONSISTENT although their answer is not in their arguments; and ``age(t)``."""

STABLE = frozenset(("error",))
"""VOLATILE in DuckDB only so that it is not computed ahead: fails the same way for the same row."""

ZONED = (
    "stability = 'CONSISTENT_WITHIN_QUERY' AND parameter_types <> []"
    " AND regexp_matches(list_append(parameter_types, return_type)::VARCHAR, 'TIME ZONE|TIMESTAMPTZ')"
)
"""Functions of ``duckdb_functions()`` whose answer depends on the time zone besides, which is UTC in all of merganser's DuckDBs."""

SCHEMAS = frozenset(("main", "pg_catalog", "information_schema", "system", "temp"))
"""What may stand before a function's dot and is no column: ``main.lower(x)``, in contrast to ``x.lower()``."""

ROWS = frozenset(("unnest", "range", "generate_series"))
"""Table functions that depend on their arguments alone."""

QUERIES = frozenset(("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"))


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


class Binder:
    """Parses and binds expressions on a connection of its own. Safe to use from any thread."""

    def __init__(self) -> None:
        self._con = scratch()
        self._lock = threading.RLock()
        self.aggregates: set[str] = set()
        self._stability: dict[str, set[str]] = {}
        self._macros: dict[str, list[tuple[list[str], str]]] = {}
        for name, kind, stability, parameters, body in self._con.execute(
            f"SELECT function_name, function_type, CASE WHEN {ZONED} THEN 'CONSISTENT' ELSE stability END, parameters,"
            " macro_definition FROM duckdb_functions() WHERE function_type IN ('aggregate', 'scalar', 'macro')"
        ).fetchall():
            if kind == "aggregate":
                self.aggregates.add(name)
            elif kind == "macro":
                self._macros.setdefault(name, []).append((parameters, body))
            self._stability.setdefault(name, set()).add(stability or "CONSISTENT")

    # -- what flows ask -------------------------------------------------------------------------------------------

    def bind_row(self, sql: str, columns: Mapping[str, str], what: str) -> str:
        """The type of a row-local expression over ``columns`` (name to DuckDB type).

        ``what`` begins the message of a FlowError, which is raised for anything that is no pure function of one row,
        and for a filter that is not BOOLEAN.
        """
        tree = self.parse(sql, what)
        self.check_pure(tree, sql, columns, what)
        for node in walk(tree):
            if node["class"] == "FUNCTION" and self.is_aggregate(node):
                raise FlowError(
                    f"{what} {short(sql)} has the aggregate {node['function_name']}(); aggregates go into"
                    " .window(…).aggregate(…) or .group_by(…).aggregate(…)"
                )
        kind = self.type_of(f"SELECT (\n{sql}\n) AS x FROM ({empty(columns)})", sql, columns, what)
        if what == "filter" and kind != "BOOLEAN":
            raise FlowError(f"filter {short(sql)} must be true or false, this is a {kind}; compare it with something")
        return kind

    def bind_filter(self, sql: str, columns: Mapping[str, str]) -> None:
        """Check a row-local condition."""
        self.bind_row(sql, columns, "filter")

    def bind_select(self, items: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
        """Name to type of some named row-local expressions."""
        return {name: self.bind_row(sql, columns, f"{name} =") for name, sql in items.items()}

    def bind_query(self, sql: str, tables: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Name to type of the columns of one SELECT over the given tables (name to columns) and nothing else."""
        what = f"view {short(sql)}"
        parsed = self._parsed(sql)
        if "error_message" in parsed:
            only = "a view is one SELECT" if "Only SELECT" in parsed["error_message"] else parsed["error_message"]
            raise FlowError(f"{what}: {only}")
        if len(parsed["statements"]) != 1:
            raise FlowError(f"{what} has {len(parsed['statements'])} statements; a view is one SELECT")
        if parsed["statements"][0]["named_param_map"]:
            raise FlowError(f"{what} has a parameter; write the value itself")
        _check_tables(parsed, tables, what)
        with self._lock, self._con.cursor() as cursor:
            try:
                for name, columns in tables.items():
                    cursor.execute(f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {empty(columns)}")
                found = cursor.execute(f"DESCRIBE {sql.strip().rstrip(';')}").fetchall()
            except duckdb.Error as error:
                raise FlowError(f"{what}: {_tidy(error)}; the views there are: {_tables(tables)}") from None
            finally:
                # A cursor's temporary views are gone with it, but not before its connection is collected.
                for name in tables:
                    cursor.execute(f"DROP VIEW IF EXISTS temp.{quote(name)}")
        names = [row[0].lower() for row in found]
        for name in names:
            if names.count(name) > 1:
                raise FlowError(f"{what} has two columns named {name!r}; give one of them another name with AS")
        return {row[0]: row[1] for row in found}

    def columns_of(self, sql: str, columns: Mapping[str, str]) -> frozenset[str]:
        """The columns that an expression refers to, spelled as they are declared."""
        real = {name.lower(): name for name in columns}
        used = (ref["column_names"][0].lower() for ref in references(self.parse(sql, "")))
        return frozenset(real[name] for name in used if name in real)

    # -- parse trees ----------------------------------------------------------------------------------------------

    def parse(self, sql: str, what: str) -> Ast:
        """The tree of a single expression, its dotted calls (``x.lower()``) written as calls.

        Both with parentheses around it and without, the expression must be all there is: neither ``a) FROM t; --``
        nor ``a, b`` is one.
        """
        wrapped, bare = self._parsed(f"SELECT (\n{sql}\n)"), self._parsed(f"SELECT \n{sql}\n")
        if "error_message" in wrapped:
            if "error_message" in bare and not self._parsed(sql).get("statements"):
                message, place = wrapped["error_message"], wrapped.get("position")
                if place is not None and int(place) >= len(f"SELECT (\n{sql}".encode()):
                    message = "it ends too early, or has a ) too many"  # what DuckDB finds there is our own )
                raise FlowError(f"{what} {short(sql)}: {' '.join(message.split())}")
            raise FlowError(f"{what} {short(sql)} must be one SQL expression, without FROM, AS, commas or ;")
        tree = _only_expression(wrapped)
        if tree is None or "error_message" in bare or _bare(bare) != _bare(wrapped):
            raise FlowError(f"{what} {short(sql)} must be one SQL expression, without FROM, AS, commas or ;")
        for node in walk(tree):
            if node["class"] == "FUNCTION" and node["schema"] and node["schema"].lower() not in SCHEMAS:
                path = [part for part in (node["catalog"], node["schema"]) if part]
                node["arguments"].insert(0, {"name": "", "expression": column(*path)})
                node |= {"schema": "", "catalog": "", "qualified_name": {"path": [node["function_name"]]}}
        return tree

    def text_of(self, tree: Ast) -> str:
        """An expression's tree as SQL, in DuckDB's own spelling."""
        statement = self._parsed("SELECT 1")
        statement["statements"][0]["node"]["select_list"] = [{**tree, "alias": ""}]
        with self._lock:
            found = self._con.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)]).fetchall()
        return str(found[0][0]).removeprefix("SELECT ")

    def check_pure(self, tree: Ast, sql: str, columns: Mapping[str, str], what: str) -> None:
        """Refuse what is no pure function of columns: subqueries, window functions, clocks, chance, unknown columns."""
        for node in walk(tree):
            refusal = REFUSED.get(node["class"])
            if refusal is not None:
                raise FlowError(f"{what} {short(sql)} has {refusal.format(columns=_names(columns))}")
            if node["class"] == "FUNCTION":
                self._check_function(node, sql, what)
        known = {name.lower() for name in columns}
        for ref in references(tree):
            name = ref["column_names"][0]
            if name.lower() not in known:
                if name.lower() in CLOCK_WORDS:
                    raise _unstable(name, sql, what)
                if name.startswith("_"):
                    raise FlowError(f"{what} {short(sql)}: {name!r}: columns that begin with _ are merganser's own")
                raise unknown_column(name, columns, f"{what} {short(sql)}")

    def is_aggregate(self, node: Ast) -> bool:
        """Whether a function node is an aggregate, or a macro over some."""
        name = node["function_name"].lower()
        return name in self.aggregates or self._reached(name) & self.aggregates != frozenset()

    def macro(self, name: str, count: int) -> tuple[list[str], Ast] | None:
        """Parameters and a fresh tree of the built-in macro with so many parameters."""
        for parameters, body in self._macros.get(name.lower(), ()):
            if len(parameters) == count:
                return parameters, self.parse(body, name)
        return None

    @cache  # noqa: B019  # one binder lives as long as the process
    def _reached(self, name: str) -> frozenset[str]:
        """The functions that a macro calls, those that they call, and so on; ``subquery`` if there is one."""
        found: set[str] = set()
        for _, body in self._macros.get(name, ()):
            for node in walk(self._parsed(f"SELECT {body}")):
                if node["class"] == "SUBQUERY":
                    found.add("subquery")
                elif node["class"] == "COLUMN_REF" and node["column_names"][0].lower() in CLOCK_WORDS:
                    found.add(node["column_names"][0].lower())
                elif node["class"] == "FUNCTION" and node["function_name"].lower() not in found | {name}:
                    found.add(node["function_name"].lower())
                    found |= self._reached(node["function_name"].lower())
        return frozenset(found)

    def _check_function(self, node: Ast, sql: str, what: str) -> None:
        name = node["function_name"].lower()
        reached = self._reached(name) | {name}
        if "unnest" in reached:
            raise FlowError(f"{what} {short(sql)}: {name}() makes several rows of one; use .explode('column')")
        one_argument_age = name == "age" and len(node["arguments"]) == 1  # from the age to *today*
        for each in reached - STABLE:
            unstable = self._stability.get(each, set()) - {"CONSISTENT"}
            if unstable or one_argument_age or each in UNSTABLE or each in CLOCK_WORDS or each == "subquery":
                raise _unstable(f"{name}()", sql, what)

    # -- DuckDB ---------------------------------------------------------------------------------------------------

    def type_of(self, query: str, sql: str, columns: Mapping[str, str], what: str) -> str:
        """The type of a query's first column; a FlowError is about ``sql``."""
        with self._lock:
            try:
                found = self._con.execute(f"DESCRIBE {query}").fetchall()
            except duckdb.Error as error:
                typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                raise FlowError(f"{what} {short(sql)}: {_tidy(error)}; the columns are: {typed}") from None
        return str(found[0][1])

    def _parsed(self, query: str) -> Ast:
        """DuckDB's tree of a query, or its ``error_message`` and ``position``."""
        with self._lock:
            try:
                found = self._con.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
            except duckdb.Error as error:  # such as a NUL in the text
                return {"error_message": _tidy(error)}
        tree: Ast = json.loads(found[0][0])
        return tree


REFUSED = {
    "SUBQUERY": "a subquery; an expression sees the columns of its own row only (for = ANY write list_contains())",
    "WINDOW": "a window function (OVER); use .window(…).aggregate(…), or a view over the result",
    "PARAMETER": "a parameter; write the value itself",
    "STAR": "a *; name the columns one by one: {columns}",
    "POSITIONAL_REFERENCE": "a column by number; name it: {columns}",
    "DEFAULT": "DEFAULT; write the value itself",
}
"""Classes of nodes that no expression of a flow may have, and what the message says."""


@cache
def binder() -> Binder:
    """The one binder of the process."""
    return Binder()


def empty(columns: Mapping[str, str]) -> str:
    """A query without rows that has these columns."""
    items = ", ".join(f"NULL::{kind} AS {quote(name)}" for name, kind in columns.items())
    return f"SELECT {items or '1 AS _nothing'} WHERE false"


def column(*path: str) -> Ast:
    """The tree of a reference to a column."""
    unplaced = {"query_location": 0, "query_location_length": 0}
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", **unplaced, "column_names": list(path)}


def walk(node: Any) -> Iterator[Ast]:
    """Every expression in a parse tree, the outer ones first. A node may be changed in place when it is met."""
    return (each for each in _dicts(node) if "class" in each)


def references(node: Any, bound: frozenset[str] = frozenset()) -> Iterator[Ast]:
    """The column references in a tree, without the parameters of lambdas."""
    if isinstance(node, list):
        for child in node:
            yield from references(child, bound)
    elif isinstance(node, dict):
        # ``a -> b`` has the class LAMBDA too, but reads JSON: as a lambda it is refused by DuckDB since 2.0.
        if node.get("class") == "LAMBDA" and node["syntax_type"] != "SINGLE_ARROW":
            parameters = (name for ref in references(node["lhs"]) for name in ref["column_names"])
            yield from references(node["expr"], bound | {name.lower() for name in parameters})
        elif node.get("class") == "COLUMN_REF":
            if node["column_names"][0].lower() not in bound:
                yield node
        else:
            for child in node.values():
                yield from references(child, bound)


def unknown_column(name: str, columns: Iterable[str], where: str) -> FlowError:
    """An error that lists the columns there are, and the closest one first."""
    folded = {each.lower(): each for each in columns}
    close = difflib.get_close_matches(name.lower(), folded, 1)
    hint = f", did you mean {folded[close[0]]!r}?" if close else ";"
    return FlowError(f"{where}: there is no column {name!r}{hint} there are: {_names(folded.values())}")


def short(sql: str) -> str:
    """Users' SQL for a message: quoted, on one line, at most 80 characters."""
    text = " ".join(sql.split())
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _dicts(node: Any) -> Iterator[Ast]:
    if isinstance(node, dict):
        yield node
        for child in list(node.values()):
            yield from _dicts(child)
    elif isinstance(node, list):
        for child in list(node):
            yield from _dicts(child)


def _only_expression(parsed: Ast) -> Ast | None:
    """The one expression of ``SELECT expression``; None for a query that has or is more."""
    query = parsed["statements"][0]["node"]
    if len(parsed["statements"]) != 1 or query["type"] != "SELECT_NODE" or len(query["select_list"]) != 1:
        return None
    parts = ("modifiers", "where_clause", "group_expressions", "group_sets", "having", "qualify", "sample")
    alone = query["from_table"]["type"] == "EMPTY" and not query["cte_map"]["map"]
    tree: Ast = query["select_list"][0]
    return tree if alone and not any(query[part] for part in parts) and not tree["alias"] else None


def _bare(node: Any) -> Any:
    """A parse tree without the places in the text."""
    if isinstance(node, dict):
        return {key: _bare(child) for key, child in node.items() if not key.startswith("query_location")}
    return [_bare(child) for child in node] if isinstance(node, list) else node


def _check_tables(parsed: Ast, tables: Mapping[str, Mapping[str, str]], what: str) -> None:
    """Refuse a query that writes, or reads anything but these tables and its own WITH."""
    known = {name.lower() for name in tables}
    for node in _dicts(parsed):
        known |= {entry["key"].lower() for entry in node.get("cte_map", {}).get("map", ())}
    for node in _dicts(parsed):
        kind = node.get("type", "")
        if (kind.endswith("_NODE") and kind not in QUERIES) or kind == "SHOW_REF":
            raise FlowError(f"{what} must be one SELECT; a view only reads")
        if kind == "TABLE_FUNCTION" and node["function"]["function_name"].lower() not in ROWS:
            name = node["function"]["function_name"]
            raise FlowError(f"{what} reads {name}(); a view reads the flow's views: {_tables(tables)}")
        if kind == "BASE_TABLE" and (node["schema_name"] or node["table_name"].lower() not in known):
            name = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"])))
            close = difflib.get_close_matches(name, tables, 1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise FlowError(f"{what}: there is no view {name!r}{hint} there are: {_tables(tables)}")


def _unstable(name: str, sql: str, what: str) -> FlowError:
    return FlowError(
        f"{what} {short(sql)}: {name} gives another answer at another time or place, so the result would depend on when"
        " the flow ran; use columns of the event instead"
    )


def _names(columns: Iterable[str]) -> str:
    return ", ".join(columns) or "none"


def _tables(tables: Iterable[str]) -> str:
    return ", ".join(tables) or "none"


def _tidy(error: duckdb.Error) -> str:
    """The first sentences of DuckDB's message, without its drawing of the query."""
    text = re.split(r"\n+LINE \d+:|\n\s*Candidate functions:|You might need to add explicit", str(error))[0].strip()
    text = re.sub(r"^(\w+ )*Error: ", "", text)
    return " ".join(text.split()).rstrip(".")
