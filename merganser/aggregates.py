"""Takes aggregate expressions apart into calls that can be kept incrementally, and says how each is finished.

``round(sum(a) / count(*), 2)`` has two calls. A call is kept either as an exported state (``EXPORT_STATE``,
``combine``, ``finalize``), or, where DuckDB cannot export a state, as for DISTINCT, as a table of (group, value, how
often). ``RULES`` in aggregate_rules.py says which; what is not there is refused, since only what the tests
have proved is sure to survive splitting, storing and merging.

A result must be a pure function of the rows, not of their order. So ties have a rule of their own:

- ``arg_max(x, y)`` takes the largest x among equal y, ``arg_min(x, y)`` the smallest;
- ``first``, ``last``, ``list``, ``string_agg`` need an ORDER BY, and rows with equal keys are ordered by the value;
- ``mode(x)`` takes the smallest of the most frequent values.

``Aggregate.batch`` spells out the same rule for plain SQL over the rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from merganser.aggregate_rules import INSTEAD, MACROS, RULES, Parts, Rule, Spelling
from merganser.errors import FlowError
from merganser.sql import Ast, binder, column, empty, quote, references, short, unknown_column, walk


@dataclass(frozen=True)
class Call:
    """One aggregate call inside an expression. Equal calls are the same state.

    - kind "state": ``{sql} EXPORT_STATE`` is kept, combined with ``combine`` and finished by ``finalize(state)``;
    - kind "values": a table of (group, ``value``, ``n``) is kept, where ``n`` counts the rows that pass ``condition``;
      ``finish`` is an aggregate expression over the columns ``value`` and ``n`` of a group, whose values are distinct.

    ``sql`` is the call to evaluate in batch SQL, and ``type`` the type of its result, however it is finished.
    """

    sql: str
    type: str
    kind: Literal["state", "values"]
    value: str | None = None
    condition: str | None = None
    finish: str | None = None


@dataclass(frozen=True)
class Key:
    """A group column that stands outside of aggregate calls."""

    name: str


@dataclass(frozen=True)
class Aggregate:
    """A named aggregate expression, taken apart.

    ``batch`` is the expression for plain SQL over all rows of a group. ``approximate``: the result may differ, within
    its error, with how the rows were cut into epochs.
    """

    name: str
    sql: str
    type: str
    calls: tuple[Call, ...]
    approximate: bool
    batch: str
    parts: tuple[str | Call | Key, ...] = field(repr=False)

    def finished(self, replace: Mapping[Call, str], keys: Mapping[str, str] | None = None) -> str:
        """The expression with SQL in place of each call, such as ``finalize(s0)``.

        ``keys`` says likewise what stands for a group column (``{"shop": "g.shop"}``); its name, if it is not there.
        """
        keys = keys or {}
        texts = []
        for part in self.parts:
            if isinstance(part, Call):
                texts.append(replace[part])
            else:
                texts.append(keys.get(part.name, quote(part.name)) if isinstance(part, Key) else part)
        return "".join(texts)


# -- taking apart -----------------------------------------------------------------------------------------------------


def analyse(
    name: str, sql: str, columns: Mapping[str, str], *, keys: Sequence[str] | Mapping[str, str] = ()
) -> Aggregate:
    """Take the aggregate expression ``name=sql`` over ``columns`` (name to DuckDB type) apart.

    ``keys`` are the group columns, which may stand outside of calls; those that are no columns (``window_start``) come
    with their type. Raises FlowError, which says what can be written instead.
    """
    types = dict(keys) if isinstance(keys, Mapping) else {key: columns[key] for key in keys}
    return _Analysis(name, sql, columns, types).result()


class _Analysis:
    """One expression on its way to becoming an Aggregate."""

    def __init__(self, name: str, sql: str, columns: Mapping[str, str], keys: Mapping[str, str]) -> None:
        self.name, self.sql, self.columns, self.keys = name, sql, columns, keys
        self.what, self.binder = f"{name} =", binder()
        self.calls: list[Call] = []
        self.batches: dict[Call, str] = {}
        self.approximate = False
        self.mark = "_mg"  # begins the names that stand for calls and group columns
        while self.mark in sql:
            self.mark += "_"

    def result(self) -> Aggregate:
        tree = self.binder.parse(self.sql, self.what)
        self.binder.check_pure(tree, self.sql, {**self.columns, **self.keys}, self.what)
        self._expand(tree)
        self._take_calls(tree)
        if not self.calls:
            self._type(f"SELECT (\n{self.sql}\n) FROM ({empty({**self.columns, **self.keys})})")
            raise self.error("is not an aggregate; group columns come by themselves, others need one, such as max(x)")
        parts = self._parts(tree)
        grouped = f" GROUP BY {', '.join(quote(key) for key in self.keys)}" if self.keys else ""
        relation = empty({**self.columns, **self.keys})
        kind = self._type(f"SELECT (\n{self.sql}\n) FROM ({relation}){grouped}")
        aggregate = Aggregate(self.name, self.sql, kind, tuple(self.calls), self.approximate, self.sql, parts)
        if not self.batches:
            return aggregate
        batch = aggregate.finished({call: self.batches.get(call, call.sql) for call in self.calls})
        return Aggregate(self.name, self.sql, kind, tuple(self.calls), self.approximate, batch, parts)

    def error(self, text: str) -> FlowError:
        return FlowError(f"{self.what} {short(self.sql)}{'' if text.startswith(':') else ' '}{text}")

    def _type(self, query: str) -> str:
        return self.binder.type_of(query, self.sql, self.columns, self.what)

    def _expand(self, tree: Ast) -> None:
        """Replace macros over aggregates (``geomean``) by what they stand for, in place."""
        for node in walk(tree):
            while node["class"] == "FUNCTION" and self.binder.is_aggregate(node):
                name = node["function_name"].lower()
                if name in self.binder.aggregates:
                    break
                if name in MACROS:
                    raise self.error(f": {name}() takes the rows in any order; use {MACROS[name]}")
                macro = self.binder.macro(name, len(node["arguments"]))
                if macro is None or any(argument["name"] for argument in node["arguments"]):
                    raise self.error(f": {name}() is a macro that does not take these arguments")
                if node["distinct"] or node["filter"] or node["order_bys"]["orders"]:
                    text = self.binder.text_of(macro[1])
                    raise self.error(
                        f": {name}() is a macro and takes no DISTINCT, FILTER or ORDER BY; put them into {text}"
                    )
                values = dict(zip(macro[0], (argument["expression"] for argument in node["arguments"])))
                _become(node, _substituted(macro[1], values))

    def _take_calls(self, node: Any) -> None:
        """Note the aggregate calls in a tree, and put placeholders in their place."""
        if isinstance(node, list):
            for child in node:
                self._take_calls(child)
        elif isinstance(node, dict):
            if node.get("class") == "FUNCTION" and self.binder.is_aggregate(node):
                call = self._call(node)
                if call not in self.calls:
                    self.calls.append(call)
                _become(node, column(f"{self.mark}_call_{self.calls.index(call)}_"))
            else:
                for child in list(node.values()):
                    self._take_calls(child)

    def _parts(self, tree: Ast) -> tuple[str | Call | Key, ...]:
        """The text of a tree without calls, split at the placeholders of calls and group columns."""
        names = {key.lower(): key for key in self.keys}
        found: list[str] = []
        for ref in references(tree):
            path = ref["column_names"]
            if path[0].startswith(f"{self.mark}_call_"):
                continue
            if path[0].lower() not in names:
                by = f"the group columns ({', '.join(self.keys)})" if self.keys else "group columns"
                raise self.error(f"has the column {path[0]!r} outside of an aggregate; only {by} can stand there")
            found.append(names[path[0].lower()])
            path[0] = f"{self.mark}_key_{len(found) - 1}_"
        text = self._text(tree)
        parts: list[str | Call | Key] = []
        for piece in re.split(rf"({self.mark}_(?:call|key)_\d+_)", text):
            match = re.fullmatch(rf"{self.mark}_(call|key)_(\d+)_", piece)
            if match is None:
                parts.append(piece)
            else:
                number = int(match[2])
                parts.append(self.calls[number] if match[1] == "call" else Key(found[number]))
        return tuple(part for part in parts if part != "")

    # -- one call -------------------------------------------------------------------------------------------------

    def _call(self, node: Ast) -> Call:
        name = node["function_name"].lower()
        self._check_inside(node, name)
        rule = self._rule(node, name)
        if rule.distinct == "same":
            node["distinct"] = False
        self.approximate |= rule.approximate
        node |= {"schema": "", "catalog": "", "qualified_name": {"path": [name]}, "function_name": name}
        plain = self._text(node)
        parts = self._call_parts(node, name)
        keep = rule.keep(parts) if rule.keep and not node["distinct"] else Spelling(plain, plain)
        finish = self._finish_distinct(node, parts) if node["distinct"] else rule.finish
        relation = empty(self.columns)
        kind = self._type(f"SELECT {plain} FROM ({relation})")
        if finish is not None:
            value = self._type(f"SELECT {parts.arguments[0]} FROM ({relation})")
            finished = self._type(f"SELECT {finish} FROM (SELECT NULL::{value} AS value, 1::BIGINT AS n)")
            finish = finish if finished == kind else f"CAST({finish} AS {kind})"
            call = Call(keep.batch, kind, "values", parts.arguments[0], parts.condition, finish)
        else:
            call = Call(keep.keep, kind, "state")
            finished = self._type(f"SELECT finalize(s) FROM (SELECT {call.sql} EXPORT_STATE AS s FROM ({relation}))")
            if finished != kind:
                raise self.error(f": the state of {plain} is finished as {finished}, not as {kind}; cast what it is of")
        if keep.batch != plain:
            self.batches[call] = keep.batch
        return call

    def _check_inside(self, node: Ast, name: str) -> None:
        """Refuse what cannot stand inside an aggregate call, and what only DuckDB's own developers write."""
        for inner in walk([node["arguments"], node["filter"], node["order_bys"]]):
            if inner["class"] == "FUNCTION" and self.binder.is_aggregate(inner):
                raise self.error(
                    f"has {inner['function_name']}() inside of {name}(); aggregate once more in a view over the result"
                )
            if inner["class"] == "COLLATE":
                raise self.error(f"has COLLATE inside of {name}(); use lower(x) or strip_accents(x), which are exact")
        if node["export_state"]:
            raise self.error("has EXPORT_STATE; leave it out, states are kept in any case")
        known = {each.lower() for each in self.columns}
        for ref in references([node["arguments"], node["filter"], node["order_bys"]]):
            if ref["column_names"][0].lower() not in known:
                raise unknown_column(ref["column_names"][0], self.columns, f"{self.what} {short(self.sql)}: {name}()")

    def _rule(self, node: Ast, name: str) -> Rule:
        """The rule for a call, which is brought into its plainest form; refuses what the rule does not allow."""
        rule = RULES.get(name)
        if rule is None:
            use = INSTEAD.get(name, f"one of {', '.join(sorted(RULES))}")
            raise self.error(f": {name}() cannot be kept incrementally; use {use}")
        orders = node["order_bys"]["orders"]
        if (
            orders
            and len(node["arguments"]) == rule.arguments - 1
            and name in ("quantile_cont", "quantile_disc", "mode")
        ):
            self._within_group(node, name)
            orders = []
        count = len(node["arguments"])
        if not rule.arguments <= count <= rule.arguments + rule.optional:
            raise self.error(f": {name}() with {count} arguments cannot be kept; use {INSTEAD.get(name, 'one')}")
        if any(True for argument in node["arguments"][rule.vary :] for _ in references(argument)):
            raise self.error(f": only the first argument of {name}() may depend on columns")
        if node["distinct"] and rule.distinct is None:
            raise self.error(f": {name}() cannot be kept with DISTINCT; use it without, or count(DISTINCT x)")
        if orders and not rule.ordered:
            raise self.error(f": {name}() does not depend on an order; leave out its ORDER BY")
        if rule.ordered and not orders:
            inside = self.binder.text_of(node["arguments"][0]["expression"])
            raise self.error(
                f": {name}() depends on the order of rows, which is another for each run; say which,"
                f" as in {name}({inside} ORDER BY {inside if node['distinct'] else 'some_time'})"
            )
        return rule

    def _within_group(self, node: Ast, name: str) -> None:
        """``percentile_cont(0.5) WITHIN GROUP (ORDER BY x)`` is ``quantile_cont(x, 0.5)``."""
        orders = node["order_bys"]["orders"]
        if len(orders) != 1 or orders[0]["type"] == "DESCENDING":
            raise self.error(f": WITHIN GROUP takes one column in ascending order here; write {name}(x, 1 - fraction)")
        node["arguments"].insert(0, {"name": "", "expression": orders[0]["expression"]})
        node["order_bys"]["orders"] = []

    def _call_parts(self, node: Ast, name: str) -> Parts:
        order = []
        for each in node["order_bys"]["orders"]:
            direction = "DESC" if each["type"] == "DESCENDING" else "ASC"
            nulls = "NULLS LAST" if each["null_order"] == "ORDER_DEFAULT" else each["null_order"]
            order.append((self._text(each["expression"]), f"{direction} {nulls}"))
        arguments = tuple(self._text(argument["expression"]) for argument in node["arguments"])
        return Parts(name, arguments, tuple(order), self._text(node["filter"]) if node["filter"] else None)

    def _finish_distinct(self, node: Ast, parts: Parts) -> str:
        """A call with DISTINCT as one without, over the distinct values."""
        if any(key != parts.arguments[0] for key, _ in parts.order):
            raise self.error(f": {parts.name}(DISTINCT x) can only be ordered by x itself")
        order = ", ".join(f"value {direction}" for _, direction in parts.order)
        unfiltered = Parts(parts.name, parts.arguments, parts.order, None)
        return unfiltered.spell(parts.name, ("value", *parts.arguments[1:]), order=order)

    def _text(self, tree: Ast) -> str:
        """The SQL of a tree, sure to mean the same: parsed and printed again, it is the same text."""
        text = self.binder.text_of(tree)
        if self.binder.text_of(self.binder.parse(text, self.what)) != text:
            raise self.error(f": DuckDB does not read its own spelling of this, {text}; write it more plainly")
        return text


def _become(node: Ast, other: Ast) -> None:
    """Turn a node into another one, in place; its alias (a name in ``{'name': node}``) stays."""
    alias = node["alias"]
    node.clear()
    node |= {**other, "alias": alias}


def _substituted(tree: Ast, values: Mapping[str, Ast]) -> Ast:
    """A macro's tree with arguments in place of its parameters."""
    folded = {name.lower(): value for name, value in values.items()}
    for ref in list(references(tree)):
        if len(ref["column_names"]) == 1 and ref["column_names"][0].lower() in folded:
            _become(ref, deepcopy(folded[ref["column_names"][0].lower()]))
    return tree
