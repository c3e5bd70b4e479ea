"""What a fold keeps for a key: any JSON, or a dataclass whose fields are columns. No Python object is ever stored.

A state must come back from the store as it was, or a fold would go on otherwise after a restart than without: so a tuple in a
JSON state (which comes back as a list), or a time without a zone, is an error.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from merganser.errors import FlowError
from merganser.schema import Schema

SCALARS: dict[type, str] = {
    str: "VARCHAR",
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    bytes: "BLOB",
    decimal.Decimal: "DECIMAL(38, 9)",
    datetime.datetime: "TIMESTAMP WITH TIME ZONE",
    datetime.date: "DATE",
}
"""Python types of fields and the DuckDB types that hold them."""


@dataclass(frozen=True)
class State:
    """How the states of a fold are kept. ``columns``: name to DuckDB type; ``initial``: a key's state before its first event."""

    columns: tuple[tuple[str, str], ...]
    initial: str
    """As JSON, for plans."""
    kind: type | None
    """The dataclass; None for JSON."""
    fresh: Callable[[], Any] = dataclasses.field(compare=False, repr=False)

    @staticmethod
    def of(initial: Any) -> State:
        """Raises FlowError for what cannot be kept."""
        if dataclasses.is_dataclass(initial) and not isinstance(initial, type):
            kind = type(initial)
            hints = _hints(kind)
            columns = tuple((f.name, _duckdb(hints[f.name], f"{kind.__name__}.{f.name}")) for f in dataclasses.fields(kind))
            plain = dataclasses.asdict(initial)
            state = State(columns, json.dumps(plain, default=str), kind, lambda: _made(kind, plain))
            if state.fresh() != initial:
                raise FlowError(f"initial={initial!r}: a {kind.__name__} made of its fields is another one")
            return state
        try:
            text = json.dumps(initial, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise FlowError(f"initial={initial!r}: a state is JSON or an instance of a dataclass ({error})") from None
        if json.loads(text) != initial:
            raise FlowError(f"initial={initial!r}: JSON does not give this back as it is; use lists, and text as keys")
        return State((("state", "JSON"),), text, None, lambda: json.loads(text))

    def dump(self, states: Iterable[Any]) -> list[list[Any]]:
        """The values of each column, in the order of ``columns``. Raises ValueError for a state that cannot be kept."""
        if self.kind is None:
            return [[_json(state) for state in states]]
        rows = []
        for state in states:
            if type(state) is not self.kind:
                raise ValueError(f"apply returned a {type(state).__name__}, the initial state is a {self.kind.__name__}")
            row = [_plain(getattr(state, name)) for name, _ in self.columns]
            if self.load([[value] for value in row])[0] != state:
                raise ValueError(f"the store would not give back {state!r} as it is; do its values have the fields' types?")
            rows.append(row)
        return [list(column) for column in zip(*rows)] if rows else [[] for _ in self.columns]

    def load(self, columns: Sequence[Sequence[Any]]) -> list[Any]:
        """States from the values of their columns."""
        if self.kind is None:
            return [json.loads(text) for text in columns[0]]
        kind, names = self.kind, [name for name, _ in self.columns]
        return [_made(kind, dict(zip(names, row))) for row in zip(*columns)]


def arrow(columns: Mapping[str, str], values: Iterable[Sequence[Any]]) -> pa.Table:
    """A table of Python values, given the DuckDB types of its columns."""
    schema = Schema.of((name, "VARCHAR" if kind == "JSON" else kind, False) for name, kind in columns.items()).arrow_schema()
    return pa.Table.from_arrays([pa.array(list(column), f.type) for column, f in zip(values, schema)], names=list(columns))


def checked(schema: Schema, row: Any) -> tuple[Any, ...]:
    """The values of a row that a function emits, if they are of the declared columns and types; else ValueError, TypeError."""
    if not isinstance(row, Mapping):
        raise TypeError(f"a row to emit is a mapping of column to value, not {row!r}")
    unknown = [name for name in row if name not in schema]
    if unknown:
        raise ValueError(f"emits= declares no column {', '.join(map(str, unknown))}; it declares {', '.join(schema.names())}")
    found = []
    for column, kind in zip(schema.columns, schema.arrow_schema()):
        value = row.get(column.name)
        if value is None and column.required:
            raise ValueError(f"column {column.name!r} of a row to emit is {column.type} NOT NULL, and it has none")
        if isinstance(value, datetime.datetime) and value.tzinfo is None:
            raise ValueError(f"column {column.name!r}: {value!r} has no zone; event times come with one, take those")
        if column.type == "JSON" and value is not None:
            value = json.dumps(value, allow_nan=False, ensure_ascii=False)
        try:
            pa.scalar(value, kind.type)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"column {column.name!r} of a row to emit is a {column.type}, not {value!r} ({error})") from None
        found.append(value)
    return tuple(found)


def _json(state: Any) -> str:
    try:
        text = json.dumps(state, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"apply returned a state that is no JSON: {error}") from None
    if json.loads(text) != state:
        raise ValueError("apply returned a state that JSON does not give back as it is; use lists, and text as keys")
    return text


def _duckdb(hint: Any, where: str) -> str:
    """The DuckDB type for a field's annotation."""
    if hint in SCALARS:
        return SCALARS[hint]
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        fields = (f'"{f.name}" {_duckdb(hints[f.name], f"{where}.{f.name}")}' for f in dataclasses.fields(hint))
        return f"STRUCT({', '.join(fields)})"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [a for a in arguments if a is not types.NoneType]
        if len(rest) == 1:
            return _duckdb(rest[0], where)
    if origin is list and len(arguments) == 1:
        return f"{_duckdb(arguments[0], where)}[]"
    if origin is dict and len(arguments) == 2:
        return f"MAP({_duckdb(arguments[0], where)}, {_duckdb(arguments[1], where)})"
    known = ", ".join(kind.__name__ for kind in SCALARS)
    raise FlowError(f"initial: {where} is a {hint}; a state has {known}, list[…], dict[…, …], X | None and dataclasses of them")


def _plain(value: Any) -> Any:
    """A value as Arrow takes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return [(_plain(k), _plain(v)) for k, v in value.items()]
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        raise ValueError(f"{value!r} has no zone; event times come with one, take those")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass; to resolve them takes longer than many a fold."""
    return get_type_hints(kind)


def _made(kind: type, values: dict[str, Any]) -> Any:
    hints = _hints(kind)
    return kind(**{name: _typed(hints[name], value) for name, value in values.items()})


def _typed(hint: Any, value: Any) -> Any:
    """A value from Arrow as its annotation says."""
    if value is None:
        return None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _made(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _typed(next(a for a in arguments if a is not types.NoneType), value)
    if origin is list:
        return [_typed(arguments[0], each) for each in value]
    if origin is dict:
        items = value.items() if isinstance(value, dict) else value
        return {_typed(arguments[0], k): _typed(arguments[1], v) for k, v in items}
    if hint is decimal.Decimal:
        return decimal.Decimal(value).normalize() if not isinstance(value, decimal.Decimal) else value
    if hint is datetime.datetime:
        return value.astimezone(datetime.UTC)
    return value
