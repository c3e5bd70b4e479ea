"""Whether the values that a query makes stay about as large as those that it reads.

DuckDB's memory limit counts what operators hold, not single values, and 2,048 rows are computed before anybody is asked: so
``repeat('x', 1000000000)``, or one string that is doubled thirty times, takes gigabytes under any limit. What may make values
grow beyond a small factor therefore runs in a process of its own (``query.apart``). This is a list of what may not, not of what
may: a function that is new, or was forgotten, only runs apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from merganser.scratch import scratch

SCALARS = (
    "BIGINT", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "INTERVAL", "SMALLINT", "TIME", "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE", "TIME WITH TIME ZONE", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ_NS", "TIMESTAMP_S", "TIME_NS",
    "TINYINT", "UBIGINT", "UHUGEINT", "UINTEGER", "USMALLINT", "UTINYINT", "UUID",
)  # fmt: skip
"""Types whose values have one size."""

CASTS = frozenset((
    *SCALARS, "VARCHAR", "JSON", "LIST", "TEXT", "STRING", "CHAR", "BOOL", "INT", "INT1", "INT2", "INT4", "INT8", "INT16", "LONG",
    "REAL", "FLOAT4", "FLOAT8", "NUMERIC", "DATETIME", "TIMESTAMPTZ",
))  # fmt: skip
"""What may be cast to."""

_NO_LARGER = """
+ - & | ~ << >> xor if nullif greatest least date_add days_in_month dayname monthname strftime format_bytes typeof version chr
lower upper lcase ucase trim ltrim rtrim left right left_grapheme right_grapheme substr substring substring_grapheme reverse
split split_part string_split str_split string_to_array translate strip_accents md5 sha1 sha256
element_at list_element list_extract array_extract struct_extract struct_extract_at map_extract map_extract_value map_keys
map_values map_entries list_sort array_sort list_reverse_sort list_distinct array_distinct list_filter filter array_filter
list_slice array_slice list_first list_last list_min list_max list_sum list_avg list_count list_any_value list_median unnest error
any_value arbitrary first last min max arg_min arg_max argmin argmax min_by max_by median mode quantile quantile_cont quantile_disc
approx_quantile sum avg wavg weighted_avg geomean geometric_mean fdiv fmod bit_and bit_or bit_xor
row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value count_star
"""
NO_LARGER = frozenset(_NO_LARGER.split())
"""Functions whose result is no larger than what they are given, besides all whose result has one size."""

EXTRACTORS = frozenset((
    "->", "->>", "json_extract", "json_extract_path", "json_extract_string", "json_extract_path_text", "json_value", "json_type",
    "json_keys", "variant_extract", "regexp_extract", "regexp_extract_all",
))  # fmt: skip
"""Those of which it is so when all that they are told is constant: a list of paths gives that many copies."""

JOINS = frozenset((
    "||", "concat", "concat_ws", "list_value", "struct_pack", "row", "map", "list_concat", "list_append", "list_prepend",
))  # fmt: skip
"""Functions whose result is as large as all that they are given together: one twice, and again, is a doubling each time."""

MOST_JOINS = 6
"""Values that are joined to others in a query: they may grow to 64 times the size."""

COLLECTORS = frozenset(("list", "array_agg", "string_agg", "group_concat", "listagg", "histogram"))
"""Aggregates as large as all of their group; without joins, in which such would come to more than they took."""

LONGEST_TEXT, LONGEST_LIST = 1000, 50
"""Characters of a constant; constants that are joined."""


@cache
def _of_one_size() -> frozenset[str]:
    of_one_size = ", ".join(f"'{kind}'" for kind in SCALARS)
    return frozenset(name for (name,) in scratch().execute(
        "SELECT function_name FROM duckdb_functions() WHERE function_type IN ('scalar', 'aggregate') GROUP BY ALL"
        f" HAVING bool_and(coalesce(return_type, '') IN ({of_one_size}))"
    ).fetchall())  # fmt: skip


def grows(nodes: Iterable[dict[str, Any]]) -> str | None:
    """What in a query may make values much larger than those that it reads; None if nothing can."""
    joins, collects, recursive = 0, None, False
    for node in nodes:
        name = (node.get("function_name") or "").lower()
        kind = node.get("class")
        recursive = recursive or node.get("type") == "RECURSIVE_CTE_NODE"
        if kind == "FUNCTION" and name in JOINS:
            joins += _joined(node)
        elif kind == "FUNCTION" and name in COLLECTORS:
            collects = f"{name}()"
        elif (kind == "FUNCTION" and not _no_larger(name, node)) or (kind == "LAMBDA" and not _path(node["expr"])):
            return f"{name or '->'}()"
        elif kind == "WINDOW" and (not _no_larger(name, node) or _several(node, name)):
            return f"{name}() OVER"
        elif kind == "TYPE" and node["type_name"].upper() not in CASTS:
            return f"a cast to {node['type_name']}"
        elif kind == "CONSTANT" and len((node.get("literal") or {}).get("text") or "") > LONGEST_TEXT:
            return f"a constant of more than {LONGEST_TEXT:,} characters"
    if joins and (collects or recursive):
        return f"{collects or 'WITH RECURSIVE'} together with || or the like"
    return f"more than {MOST_JOINS} values joined by || or the like" if joins > MOST_JOINS else None


def _no_larger(name: str, node: dict[str, Any]) -> bool:
    if name in EXTRACTORS:
        return all(argument["expression"]["class"] == "CONSTANT" for argument in node["arguments"][1:])
    return name in NO_LARGER or name in _of_one_size()


def _path(expression: dict[str, Any]) -> bool:
    """Whether what stands behind an arrow is a constant path, or a condition: the only lambdas here are those of filters."""
    return expression["class"] in ("CONSTANT", "COMPARISON", "BETWEEN", "CONJUNCTION", "OPERATOR")


def _joined(node: dict[str, Any]) -> int:
    given = [argument["expression"]["class"] for argument in node["arguments"]]
    if len(given) > LONGEST_LIST:
        return len(given)
    others = sum(kind != "CONSTANT" for kind in given)
    return max(1, others - 1) if others else 0


def _several(node: dict[str, Any], name: str) -> bool:
    """Whether a window function gives each row many values: ``max(x, 100)``, ``arg_max(x, y, 100)``."""
    given = len(node.get("arguments") or node.get("children") or ())
    return given > {"min": 1, "max": 1, "arg_min": 2, "arg_max": 2, "argmin": 2, "argmax": 2, "min_by": 2, "max_by": 2}.get(name, 3)
