"""What a query may be: one SELECT over the store's tables, with functions that only compute.

The first of three defences (docs/decisions/queries.md): the statement is parsed by DuckDB and its tree is looked through
here; it runs in ``BEGIN TRANSACTION READ ONLY``; and the instance has no external access and a locked configuration.
``WITH x AS (DELETE … RETURNING *) FROM x`` is a SELECT for DuckDB 2.0, and ``arrow_scan(1, 2, 3)`` a table: hence a list of
what is allowed where there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from merganser.errors import QueryError
from merganser.scratch import scratch
from merganser.sql import QUERIES, ROWS

MAX_TEXT = 100_000
"""Characters of a query; the parser recurses, so a longer one could exhaust the stack."""

TABLES = ROWS | {
    "json_each", "json_tree", "pragma_table_info", "duckdb_columns", "duckdb_functions",
    "duckdb_schemas", "duckdb_tables", "duckdb_types", "duckdb_views",
}  # fmt: skip
"""Table functions that compute, or describe what can be queried."""

REFUSED = frozenset(("nextval", "setval", "setseed", "write_log", "sleep_ms", "to_aggregate_state", "current_setting"))
"""Scalar functions that change something, wait, take raw state, or tell about the machine; and all ``__internal_…``."""

def check(sql: str) -> list[dict[str, Any]]:
    """The nodes of a query's parse tree, without calls behind FROM. Raises QueryError for anything that is not allowed."""
    if len(sql) > MAX_TEXT:
        raise QueryError(f"the query has {len(sql):,} characters; {MAX_TEXT:,} are allowed")
    nodes = list(_nodes(_parsed(sql)))
    tables = {id(node["function"]) for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    nodes = [node for node in nodes if id(node) not in tables]
    for node in nodes:
        kind = node.get("type") or ""
        if kind.endswith("_NODE") and kind not in QUERIES:
            raise QueryError(f"a query is one SELECT and only reads; this one has {_word(kind)} in it")
        if kind == "BASE_TABLE":
            _check_table(node)
        elif kind == "TABLE_FUNCTION":
            _check_table_function(node["function"])
        elif node.get("class") == "FUNCTION":
            _check_function(node["function_name"].lower())
        elif node.get("class") == "TYPE" and "AGGREGATE_STATE" in node["type_name"].upper():
            raise QueryError("a query cannot make aggregate states; query the views, which finish them")
    return nodes


def _parsed(sql: str) -> Any:
    with scratch() as con:
        try:
            statements = con.extract_statements(sql)
            text = con.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()[0][0]
        except (duckdb.Error, UnicodeDecodeError, RecursionError) as error:
            raise QueryError(str(error).strip()) from None
    if len(statements) != 1:
        raise QueryError(f"a query is one SELECT; this has {len(statements) or 'no'} statements")
    try:
        kind = statements[0].type.name
    except ValueError:  # a kind that the binding has no name for, such as UPDATE EXTENSIONS
        kind = "another statement"
    if kind == "MULTI":
        raise QueryError("a PIVOT needs its values here: PIVOT t ON column IN (value, …) USING …")
    if kind != "SELECT":
        raise QueryError(f"a query is one SELECT and only reads; this is {_word(kind)}")
    tree = json.loads(text)
    if tree.get("error"):
        raise QueryError(tree.get("error_message", "the query cannot be parsed"))
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a parse tree, without recursion: trees of queries are as deep as their authors like."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def _check_table(node: dict[str, Any]) -> None:
    name = node["table_name"]
    if re.search(r"[^\w\-$ ]", name):
        raise QueryError(f"there is no view {name!r}; files cannot be queried here, only what is in the store")


def _check_table_function(call: dict[str, Any]) -> None:
    name = call.get("function_name", "").lower()
    if call.get("class") != "FUNCTION" or name not in TABLES:
        raise QueryError(f"{name or 'this'}() cannot be queried here; of table functions there are: {', '.join(sorted(TABLES))}")


def _check_function(name: str) -> None:
    if name in REFUSED or name.startswith("__internal"):
        raise QueryError(f"{name}() cannot be called in a query")


def _word(kind: str) -> str:
    return kind.removesuffix("_NODE").removesuffix("_QUERY").replace("_", " ")
