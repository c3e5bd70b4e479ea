"""Binding of users' SQL when a flow is built: types, unknown columns, and what a verb cannot take.

DuckDB's own parser and binder do the work, against an empty relation of the columns that there are.
"""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import duckdb

from merganser.errors import FlowError

Ast = dict[str, Any]
"""A node of DuckDB's parse tree, as ``json_serialize_sql`` prints it."""


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


@cache
def _scratch() -> duckdb.DuckDBPyConnection:
    # One thread: those that run queries here are workers already.
    return duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False, "threads": 1}
    )


def scratch() -> duckdb.DuckDBPyConnection:
    """A connection to an in-memory DuckDB that all decoding and row-local work shares; for one thread.

    What is registered in a connection is seen there only. (An instance for each would cost 20 ms each.)
    """
    return _scratch().cursor()


class Binder:
    """Parses and binds expressions in a DuckDB instance of its own. Safe to use from any thread."""

    def __init__(self) -> None:
        self._con = scratch()
        self._lock = threading.Lock()
        found = self._con.execute(
            "SELECT function_name, list(DISTINCT function_type), list(DISTINCT stability), any_value(parameters),"
            " any_value(macro_definition) FROM duckdb_functions() WHERE function_type <> 'pragma' GROUP BY 1"
        ).fetchall()
        self.aggregates = {name for name, kinds, *_ in found if "aggregate" in kinds}
        self._stability = {name: set(stable) - {None} for name, _, stable, *_ in found}
        self._macros: dict[str, tuple[list[str], str]] = {
            name: (parameters, body) for name, kinds, _, parameters, body in found if "macro" in kinds and body
        }

    # -- what flows ask -------------------------------------------------------------------------------------------

    def bind_row(self, sql: str, columns: Mapping[str, str], what: str) -> str:
        """The type of a row-local expression over columns. Raises FlowError for anything that is not row-local."""
        tree = self.parse(sql, what)
        self.check_row_local(tree, sql, columns, what)
        return self._type(sql, columns, what)

    def bind_filter(self, sql: str, columns: Mapping[str, str]) -> None:
        kind = self.bind_row(sql, columns, "filter")
        if kind != "BOOLEAN":
            raise FlowError(f"filter {sql!r} must be true or false; this is a {kind}")

    def bind_select(self, items: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
        """Name to type of some named row-local expressions."""
        return {name: self.bind_row(sql, columns, f"{name} =") for name, sql in items.items()}

    def bind_query(self, sql: str, tables: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """The columns of a SELECT over the given tables and nothing else."""
        with self._lock:
            parsed = self._parsed(sql, "view")
            for node in walk(parsed):
                if node.get("type") == "TABLE_FUNCTION":
                    name = node.get("function", {}).get("function_name", "a table function")
                    raise FlowError(f"view {_short(sql)} reads {name}(); a view reads the flow's views: {_names(tables)}")
            cursor = self._con.cursor()
            try:
                for name, columns in tables.items():
                    cursor.execute(f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {empty(columns)}")
                found = cursor.execute(f"DESCRIBE {sql.strip().rstrip(';')}").fetchall()
            except duckdb.Error as error:
                text = _tidy(error)
                if "does not exist" in text and "Table" in text:
                    raise FlowError(f"view {_short(sql)}: {text}; there are {_names(tables)}") from None
                raise FlowError(f"view {_short(sql)}: {text}") from None
            finally:
                for name in tables:
                    cursor.execute(f"DROP VIEW IF EXISTS {quote(name)}")
                cursor.close()
        return {row[0]: row[1] for row in found}

    def columns_of(self, sql: str, columns: Mapping[str, str]) -> frozenset[str]:
        """The columns that an expression refers to, spelled as they are declared."""
        real = {name.lower(): name for name in columns}
        used = (node["column_names"][0].lower() for node in walk(self.parse(sql, "")) if node["class"] == "COLUMN_REF")
        return frozenset(real[name] for name in used if name in real)

    # -- what aggregates ask --------------------------------------------------------------------------------------

    def parse(self, sql: str, what: str) -> Ast:
        """The tree of a single expression; positions in it are bytes behind ``SELECT (``."""
        with self._lock:
            tree = self._parsed(f"SELECT (\n{sql}\n)", what, shown=sql)
        query = tree["statements"][0]["node"]
        plain = (
            len(tree["statements"]) == 1
            and query.get("type") == "SELECT_NODE"
            and len(query["select_list"]) == 1
            and query["from_table"]["type"] == "EMPTY"
            and not query["modifiers"]
            and query["where_clause"] is None
            and not query["group_expressions"]
            and not query["cte_map"]["map"]
            and query["having"] is None
            and query["qualify"] is None
        )
        if not plain:
            raise FlowError(f"{what} {_short(sql)} must be one SQL expression")
        node: Ast = query["select_list"][0]
        return node

    def check_row_local(self, tree: Ast, sql: str, columns: Mapping[str, str], what: str) -> None:
        """Refuse what does not depend on one row alone."""
        self.check_pure(tree, sql, columns, what)
        for node in walk(tree):
            if node["class"] == "FUNCTION" and self.is_aggregate(node):
                raise FlowError(
                    f"{what} {_short(sql)} has the aggregate {node['function_name']}(); aggregates go into"
                    " .window(…).aggregate(…) or .group_by(…).aggregate(…)"
                )

    def check_pure(self, tree: Ast, sql: str, columns: Mapping[str, str], what: str) -> None:
        """Refuse what is no pure function of columns: subqueries, window functions, clocks, chance, unknown columns."""
        bound = {
            name.lower()
            for node in walk(tree)
            if node["class"] == "LAMBDA"
            for ref in walk(node["lhs"])
            if ref["class"] == "COLUMN_REF"
            for name in ref["column_names"]
        }
        known = {name.lower() for name in columns}
        for node in walk(tree):
            kind = node["class"]
            if kind == "SUBQUERY":
                raise FlowError(f"{what} {_short(sql)} has a subquery; an expression sees the columns of its own row only")
            if kind == "WINDOW":
                raise FlowError(f"{what} {_short(sql)} has a window function (OVER); an expression sees its own row only")
            if kind == "PARAMETER":
                raise FlowError(f"{what} {_short(sql)} has a parameter; write the value itself")
            if kind in ("STAR", "POSITIONAL_REFERENCE", "DEFAULT"):
                raise FlowError(f"{what} {_short(sql)}: name the columns one by one; there are {_names(columns)}")
            if kind == "FUNCTION":
                self._check_function(node, sql, what)
            if kind == "COLUMN_REF":
                first = node["column_names"][0].lower()
                if first not in known and first not in bound:
                    raise FlowError(f"{what} {_short(sql)}: there is no column {node['column_names'][0]!r}"
                                    f"{_closest(node['column_names'][0], columns)}; there are {_names(columns)}")  # fmt: skip

    def is_aggregate(self, node: Ast) -> bool:
        """Whether a function node is an aggregate, or a macro over some."""
        name = node["function_name"].lower()
        if name in self.aggregates:
            return True
        macro = self.macro(name)
        return macro is not None and any(n["class"] == "FUNCTION" and self.is_aggregate(n) for n in walk(macro[2]))

    @cache  # noqa: B019  # one binder lives as long as the process
    def macro(self, name: str) -> tuple[list[str], str, Ast] | None:
        """Parameters, body and tree of a built-in macro."""
        if name not in self._macros:
            return None
        parameters, body = self._macros[name]
        try:
            return parameters, body, self.parse(body, "macro")
        except FlowError:
            return None

    def _check_function(self, node: Ast, sql: str, what: str) -> None:
        name = node["function_name"].lower()
        if name == "unnest":
            raise FlowError(f"{what} {_short(sql)}: unnest makes several rows of one; use .explode('column')")
        names = {name}
        macro = self.macro(name)
        if macro is not None:
            names |= {n["function_name"].lower() for n in walk(macro[2]) if n["class"] == "FUNCTION"}
        for each in names:
            if self._stability.get(each, set()) - {"CONSISTENT"} or each in IMPURE:
                raise FlowError(
                    f"{what} {_short(sql)}: {name}() gives another answer each time, so the result would depend on when the"
                    " flow ran; use columns of the event instead"
                )

    # -- DuckDB ---------------------------------------------------------------------------------------------------

    def _type(self, sql: str, columns: Mapping[str, str], what: str) -> str:
        return self.type_of(f"SELECT (\n{sql}\n) AS x FROM ({empty(columns)})", sql, columns, what)

    def type_of(self, query: str, sql: str, columns: Mapping[str, str], what: str) -> str:
        """The type of a query's first column."""
        with self._lock:
            try:
                found = self._con.execute(f"DESCRIBE {query}").fetchone()
            except duckdb.Error as error:
                raise FlowError(f"{what} {_short(sql)}: {_tidy(error)}; there are {_typed(columns)}") from None
        assert found is not None
        return str(found[1])

    def _parsed(self, query: str, what: str, shown: str | None = None) -> Ast:
        found = self._con.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
        assert found is not None
        tree: Ast = json.loads(found[0])
        if tree["error"]:
            message = str(tree.get("error_message", "not understood")).splitlines()[0]
            raise FlowError(f"{what} {_short(shown or query)}: {message}")
        return tree


IMPURE = {"current_setting", "getenv", "getvariable", "nextval", "currval", "current_database", "current_schema"}
"""Functions that DuckDB calls consistent although their answer is not in their arguments."""


@cache
def binder() -> Binder:
    """The one binder of the process."""
    return Binder()


def empty(columns: Mapping[str, str]) -> str:
    """A query without rows that has these columns."""
    return f"SELECT {', '.join(f'NULL::{kind} AS {quote(name)}' for name, kind in columns.items())} WHERE false"


def walk(node: Any) -> Iterator[Ast]:
    """Every node of a parse tree that has a class, the outer ones first."""
    if isinstance(node, dict):
        if "class" in node or "type" in node:
            yield {"class": "", **node} if "class" not in node else node
        for child in node.values():
            yield from walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child)


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return repr(text if len(text) <= 80 else text[:77] + "…")


def _names(columns: Mapping[str, Any]) -> str:
    return ", ".join(columns) or "none"


def _typed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _closest(name: str, columns: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, columns, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _tidy(error: duckdb.Error) -> str:
    """The first sentence of DuckDB's message, without its drawing of the query."""
    text = str(error).split("\n\nLINE")[0].split("\nLINE")[0]
    text = re.sub(r"^(\w+ )?Error: ", "", text)
    return " ".join(text.split())
