"""Verdicts on pairs of schemas: those of the rules, and never better than what brute force finds."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from merganser.errors import UsageError
from merganser.schema.compatibility import check
from merganser.schema.compatibility.protobuf import unreadable
from merganser.schema.notations import parse
from merganser.schema.protobuf import Message, compiled_text
from tests.codecs.proto_data import message_types, messages
from tests.commands import call
from tests.schema_registry import serving

SLOW = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


def kinds(notation: str, new: Any, old: Any, mode: str = "backward") -> list[str]:
    written = [parse(notation, t if isinstance(t, str) else json.dumps(t), "t").written for t in (new, old)]
    return [d.kind for b in check(notation, written[0], [written[1]], mode) for d in b.differences]


# -- Avro -------------------------------------------------------------------------------------------------------------------


def rec(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    made = [f if isinstance(f, dict) else {"name": f[0], "type": f[1]} | ({"default": f[2]} if len(f) > 2 else {}) for f in fields]
    return {"type": "record", "name": name, "fields": made, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


AVRO: list[tuple[Any, Any, list[str]]] = [
    (rec(("a", "int")), rec(("a", "int")), []),
    (rec(("a", "int"), ("b", "int", 0)), rec(("a", "int")), []),
    (rec(("a", "int"), ("b", "int")), rec(("a", "int")), ["READER_FIELD_MISSING_DEFAULT_VALUE"]),
    (rec(("a", "int")), rec(("a", "int"), ("b", "int")), []),
    (rec(("a", "long")), rec(("a", "int")), []),
    (rec(("a", "int")), rec(("a", "long")), ["TYPE_MISMATCH"]),
    (rec(("a", ["null", "int"])), rec(("a", "int")), []),
    (rec(("a", "int")), rec(("a", ["null", "int"])), ["TYPE_MISMATCH"]),
    (rec(("a", ["null", "string"])), rec(("a", ["null", "int"])), ["MISSING_UNION_BRANCH"]),
    (rec(("a", enum("A", "B"))), rec(("a", enum("A"))), []),
    (rec(("a", enum("A"))), rec(("a", enum("A", "B"))), ["MISSING_ENUM_SYMBOLS"]),
    (rec(("a", enum("A", default="A"))), rec(("a", enum("A", "B"))), []),
    (rec({"name": "b", "type": "int", "aliases": ["a"]}), rec(("a", "int")), []),
    (rec(("a", "int"), name="New"), rec(("a", "int"), name="Old"), ["NAME_MISMATCH"]),
    (rec(("a", "int"), name="New", aliases=["Old"]), rec(("a", "int"), name="Old"), []),
    (rec(("a", "int"), name="x.R"), rec(("a", "int"), name="y.R"), []),
    (
        rec(("a", {"type": "fixed", "name": "F", "size": 3})), rec(("a", {"type": "fixed", "name": "F", "size": 4})),
        ["FIXED_SIZE_MISMATCH"],
    ),
    (rec(("n", ["null", "R"]), ("a", "long")), rec(("n", ["null", "R"]), ("a", "int")), []),
]  # fmt: skip


@pytest.mark.parametrize(("new", "old", "expected"), AVRO)
def test_avro_verdicts(new: Any, old: Any, expected: list[str]) -> None:
    assert kinds("avro", new, old) == expected


LEAF_VALUES: dict[str, Any] = {
    "int": 7, "long": 1 << 40, "double": 0.5, "string": "a", "bytes": b"a", "null": None, "boolean": True
}  # fmt: skip
LEAVES = list(LEAF_VALUES)


@st.composite
def small_types(draw: st.DrawFn, depth: int = 1) -> Any:
    kind = draw(st.sampled_from(["leaf", "leaf", "union", "enum", "array", "record"] if depth else ["leaf", "enum"]))
    if kind == "leaf":
        return draw(st.sampled_from(LEAVES))
    if kind == "union":
        return draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=3, unique=True))
    if kind == "enum":
        symbols = draw(st.sampled_from([["A"], ["A", "B"], ["B", "C"]]))
        return enum(*symbols, **({"default": symbols[0]} if draw(st.booleans()) else {}))
    if kind == "array":
        return {"type": "array", "items": draw(small_types(depth=depth - 1))}
    return rec(("x", draw(small_types(depth=0))), name="S")


@st.composite
def small_records(draw: st.DrawFn) -> Any:
    fields = []
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        tree = draw(small_types())
        field = {"name": name, "type": tree}
        if draw(st.booleans()) and (value := _default(tree)) is not NotImplemented:
            field["default"] = value
        fields.append(field)
    return rec(*fields)


def _default(tree: Any) -> Any:
    first = tree[0] if isinstance(tree, list) else tree
    simple = {"int": 1, "long": 1, "double": 1.5, "string": "d", "boolean": True, "null": None}
    if isinstance(first, str):
        return simple.get(first, NotImplemented)
    return [] if first["type"] == "array" else first["symbols"][0] if first["type"] == "enum" else NotImplemented


def _every(tree: Any) -> list[Any]:
    """Values of a type that between them take every branch and symbol."""
    if isinstance(tree, list):
        return [v for branch in tree for v in _every(branch)]
    if isinstance(tree, str):
        return [LEAF_VALUES[tree]]
    if tree["type"] == "enum":
        return list(tree["symbols"])
    if tree["type"] == "array":
        return [[v] for v in _every(tree["items"])]
    columns = [_every(f["type"]) for f in tree["fields"]]
    longest = max(map(len, columns))
    return [{f["name"]: c[min(i, len(c) - 1)] for f, c in zip(tree["fields"], columns)} for i in range(longest)]


@SLOW
@given(small_records(), small_records())
def test_an_avro_verdict_is_what_brute_force_finds(new: Any, old: Any) -> None:
    """Compatible: fastavro reads every value of the old schema by the new one. A break: there is a value that it does not."""
    try:
        parsed = fastavro.parse_schema(old), fastavro.parse_schema(new)
    except fastavro.schema.SchemaParseException:
        assume(False)
    failed = 0
    for value in _every(old):
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed[0], value)
        buffer.seek(0)
        try:
            fastavro.schemaless_reader(buffer, *parsed)
        except Exception:
            failed += 1
    found = kinds("avro", new, old)
    assert bool(found) == bool(failed), (found, failed)
    assert kinds("avro", old, new, "forward") == found  # the same question from the other side


# -- Protocol Buffers -------------------------------------------------------------------------------------------------------


def proto(body: str, head: str = "") -> str:
    return f'syntax = "proto3"; {head} message A {{ {body} }}'


PROTO: list[tuple[str, str, list[str]]] = [
    (proto("int32 a = 1;"), proto("int32 a = 1;"), []),
    (proto("int32 a = 1; string b = 2;"), proto("int32 a = 1;"), []),
    (proto("int32 a = 1;"), proto("int32 a = 1; string b = 2;"), []),
    (proto("int32 renamed = 1;"), proto("int32 a = 1;"), []),
    (proto("int64 a = 1;"), proto("int32 a = 1;"), []),
    (proto("sint32 a = 1;"), proto("int32 a = 1;"), ["FIELD_SCALAR_KIND_CHANGED"]),
    (proto("bytes a = 1;"), proto("string a = 1;"), []),
    (proto("string a = 1;"), proto("int32 a = 1;"), ["FIELD_SCALAR_KIND_CHANGED"]),
    (proto("fixed32 a = 1;"), proto("sfixed32 a = 1;"), []),
    (proto("E a = 1;", "enum E { X = 0; }"), proto("int32 a = 1;"), []),
    (proto("repeated int32 a = 1;"), proto("int32 a = 1;"), []),
    (proto("B a = 1;", "message B { int32 x = 1; }"), proto("int32 a = 1;", "message B { int32 x = 1; }"), ["FIELD_KIND_CHANGED"]),
    (proto("int32 a = 1;"), proto("int32 a = 1;", "message B { int32 x = 1; }"), ["MESSAGE_REMOVED"]),
    (proto("C a = 1;", "message B {} message C {}"), proto("B a = 1;", "message B {} message C {}"), ["FIELD_NAMED_TYPE_CHANGED"]),
    (proto("map<string, int32> a = 1;"), proto("map<string, int64> a = 1;"), []),
    (proto("map<string, string> a = 1;"), proto("map<string, int64> a = 1;"), ["FIELD_SCALAR_KIND_CHANGED"]),
    (proto("oneof o { int32 a = 1; int32 b = 2; }"), proto("int32 a = 1; int32 b = 2;"), ["MULTIPLE_FIELDS_MOVED_TO_ONEOF"]),
    (proto("oneof o { int32 a = 1; int32 b = 2; }"), proto("int32 a = 1;"), []),
    (
        proto("oneof o { int32 a = 1; int32 b = 2; }"), proto("int32 b = 2; oneof o { int32 a = 1; }"),
        ["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    (proto("oneof o { int32 a = 1; }"), proto("oneof o { int32 a = 1; int32 b = 2; }"), ["ONEOF_FIELD_REMOVED"]),
    (proto("optional int32 a = 1;"), proto("int32 a = 1;"), []),
    (proto("repeated int32 a = 1;"), proto("optional int32 a = 1;"), ["FIELD_NUMERIC_LABEL_CHANGED"]),
    (
        proto("optional E a = 1;", "enum E { X = 0; }"), proto("repeated E a = 1;", "enum E { X = 0; }"),
        ["FIELD_NUMERIC_LABEL_CHANGED"],
    ),
    (proto("repeated string a = 1;"), proto("optional string a = 1;"), []),
    (proto("repeated A a = 1;"), proto("optional A a = 1;"), []),
    (proto("oneof o { int32 a = 1; } int32 b = 2;"), proto("oneof o { int32 a = 1; int32 b = 2; }"), []),
    (proto("oneof new { int32 a = 1; int32 b = 2; }"), proto("oneof o { int32 a = 1; int32 b = 2; }"), []),
    (proto("oneof new { string a = 1; }"), proto("oneof o { int32 a = 1; }"), ["FIELD_SCALAR_KIND_CHANGED"]),
    (
        proto("oneof o { int32 a = 1; int32 b = 2; }"), proto("oneof o { int32 a = 1; } oneof p { int32 b = 2; }"),
        ["FIELD_MOVED_TO_EXISTING_ONEOF"],
    ),
    (proto("int32 a = 1;", "package new;"), proto("int32 a = 1;", "package old;"), []),
    (proto("int32 a = 2;"), proto("int32 a = 1;"), []),
    (proto("int32 a = 1;", "message B {}"), proto("int32 a = 1;"), []),
]  # fmt: skip


@pytest.mark.parametrize(("new", "old", "expected"), PROTO)
def test_protobuf_verdicts(new: str, old: str, expected: list[str]) -> None:
    assert kinds("protobuf", new, old) == expected


def test_required_fields_of_proto2() -> None:
    old = 'syntax = "proto2"; message A { optional int32 a = 1; }'
    new = old.replace("}", "required int32 b = 2; }")
    assert kinds("protobuf", new, old) == ["REQUIRED_FIELD_ADDED"] and kinds("protobuf", old, new) == ["REQUIRED_FIELD_REMOVED"]
    assert kinds("protobuf", old.replace("optional", "required"), old) == ["FIELD_NUMERIC_LABEL_CHANGED"]
    texts = old.replace("int32", "string")
    assert kinds("protobuf", texts.replace("optional", "required"), texts) == []


def test_messages_of_files_that_are_imported() -> None:
    """They are compared where a field is one of them; where they come from does not matter."""
    own = proto("B a = 1;", "message B { int32 x = 1; }")
    outside = 'syntax = "proto3"; package {}; message B {{ {} x = 1; }}'

    def imported(package: str, kind: str) -> Message:
        return compiled_text(proto(f"{package}.B a = 1;", 'import "b.proto";'), {"b.proto": outside.format(package, kind)}, "t")

    def found(new: Message, old: Message) -> list[str]:
        return [d.kind for b in check("protobuf", new, [old], "backward") for d in b.differences]

    assert found(imported("p", "int64"), imported("p", "int32")) == found(imported("q", "int32"), imported("p", "int32")) == []
    assert found(imported("q", "string"), imported("p", "int32")) == ["FIELD_SCALAR_KIND_CHANGED"]
    assert found(compiled_text(own, {}, "t"), imported("p", "int32")) == []
    assert found(imported("p", "int32"), compiled_text(own, {}, "t")) == ["MESSAGE_REMOVED"]


def test_one_value_is_not_read_where_several_were_written() -> None:
    several, one = (compiled_text(proto(f"{label} int32 a = 1;"), {}, "t").descriptor for label in ("repeated", ""))
    assert [d.kind for d in unreadable(one, several)] == ["FIELD_LABEL_CHANGED"] and not unreadable(several, one)


@SLOW
@given(st.data())
def test_what_protobuf_calls_compatible_can_be_read(data: st.DataObject) -> None:
    """Whatever the verdict, a compatible pair never fails to parse (but for bytes that are no text)."""
    old, new = data.draw(message_types()), data.draw(message_types())
    if check("protobuf", new, [old], "backward"):
        return
    try:
        new.kind.FromString(data.draw(messages(old)).SerializeToString())
    except DecodeError as error:
        assert "UTF-8" in str(error)


SCALARS = ("int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "bool", "double", "string", "bytes")


@cache
def one_field(kind: str) -> Message:
    return compiled_text(proto(f"{kind} a = 1;"), {}, "t")


@SLOW
@given(st.data())
def test_what_is_readable_keeps_its_values(data: st.DataObject) -> None:
    """Of two types whose fields have other scalar types: what a writer's field was is what the reader's is."""
    one_of = st.sampled_from(SCALARS)
    old, new = one_field(data.draw(one_of)), one_field(data.draw(one_of))
    if unreadable(new.descriptor, old.descriptor):
        return
    written = data.draw(messages(old))
    try:
        read = new.kind.FromString(written.SerializeToString())
    except DecodeError as error:
        assert "UTF-8" in str(error)
        return
    was, now = (v.encode() if isinstance(v, str) else v for v in (written.a, read.a))
    assert was == now


# -- JSON Schema ------------------------------------------------------------------------------------------------------------


def obj(required: list[str] | None = None, closed: bool = False, **properties: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties}
    return made | ({"required": required} if required else {}) | ({"additionalProperties": False} if closed else {})


def rows(*first: Any, rest: Any = None) -> dict[str, Any]:
    return {"type": "array", "items": list(first)} | ({} if rest is None else {"additionalItems": rest})


S, INT, N = {"type": "string"}, {"type": "integer"}, {"type": "number"}
JSON: list[tuple[Any, Any, list[str]]] = [
    (obj(a=S), obj(a=S), []),
    (obj(a=N), obj(a=INT), []),
    (obj(a=INT), obj(a=N), ["TYPE_NARROWED"]),
    (obj(a=S), obj(a=INT), ["TYPE_CHANGED"]),
    (obj(a={"type": ["string", "null"]}), obj(a=S), []),
    (obj(a=S), obj(a={"type": ["string", "null"]}), ["TYPE_CHANGED"]),
    (obj(a=S, b=S), obj(a=S), ["PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL"]),
    (obj(a=S, b={}), obj(a=S), []),
    (obj(a=S, b=S), obj(a=S, closed=True), []),
    (obj(["b"], a=S, b=S), obj(a=S, closed=True), ["REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL"]),
    (obj(["b"], a=S, b=S | {"default": "x"}), obj(a=S, closed=True), []),
    (obj(a=S), obj(a=S, b=S), []),
    (obj(a=S, closed=True), obj(a=S, b=S, closed=True), ["PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"]),
    (obj(a=S, closed=True), obj(a=S), ["ADDITIONAL_PROPERTIES_REMOVED"]),
    (obj(a=S), obj(a=S, closed=True), []),
    (obj(["a"], a=S), obj(a=S), ["REQUIRED_ATTRIBUTE_ADDED"]),
    (obj(a=S), obj(["a"], a=S), []),
    (obj(a=S | {"maxLength": 3}), obj(a=S), ["MAX_LENGTH_ADDED"]),
    (obj(a=S | {"maxLength": 9}), obj(a=S | {"maxLength": 3}), []),
    (obj(a=S | {"maxLength": 3}), obj(a=S | {"maxLength": 9}), ["MAX_LENGTH_DECREASED"]),
    (obj(a=INT | {"minimum": 3}), obj(a=INT | {"minimum": 1}), ["MINIMUM_INCREASED"]),
    (obj(a=INT | {"multipleOf": 2}), obj(a=INT | {"multipleOf": 4}), []),
    (obj(a=INT | {"multipleOf": 4}), obj(a=INT | {"multipleOf": 2}), ["MULTIPLE_OF_EXPANDED"]),
    (obj(a={"enum": ["x"]}), obj(a={"enum": ["x", "y"]}), ["ENUM_ARRAY_NARROWED"]),
    (obj(a={"enum": ["x", "y"]}), obj(a={"enum": ["x"]}), []),
    (obj(a={"oneOf": [S, INT]}), obj(a=S), []),
    (obj(a={"oneOf": [S, INT]}), obj(a={"oneOf": [S]}), []),
    (obj(a={"oneOf": [S]}), obj(a={"oneOf": [S, INT]}), ["SUM_TYPE_NARROWED"]),
    (obj(a={"anyOf": [S, INT]}), obj(a={"oneOf": [INT, S]}), []),
    (obj(a={"oneOf": [S, INT]}), obj(a={"anyOf": [INT, S]}), ["COMBINED_TYPE_CHANGED"]),
    (obj(a={"type": "array", "items": N}), obj(a={"type": "array", "items": INT}), []),
    (obj(a={"type": "array", "items": INT}), obj(a={"type": "array", "items": S}), ["TYPE_CHANGED"]),
    (obj(a={"$ref": "#/$defs/T"}) | {"$defs": {"T": INT}}, obj(a=S), ["TYPE_CHANGED"]),
    ({"not": INT}, {"not": N}, []),
    ({"not": N}, {"not": INT}, ["NOT_TYPE_EXTENDED"]),
    ({"not": N}, {}, ["NOT_TYPE_EXTENDED"]),
    ({"dependencies": {"a": N}}, {"dependencies": {"a": INT, "b": S}}, []),
    ({"dependencies": {"a": INT}}, {"dependencies": {"a": N}}, ["TYPE_NARROWED"]),
    ({"dependentSchemas": {"a": INT}}, {"dependencies": {"a": ["b"]}}, ["DEPENDENCY_SCHEMA_ADDED"]),
    ({"dependencies": {"a": ["b"]}}, {"dependencies": {"a": INT}}, ["DEPENDENCY_ARRAY_ADDED"]),
    ({"type": "array"}, rows(S, N), []),
    (rows(S), rows(N), ["TYPE_CHANGED"]),
    (rows(S), rows(S, N), []),
    (rows(S, N), rows(S), ["ITEM_ADDED_TO_OPEN_CONTENT_MODEL"]),
    (rows(S, {}), rows(S), []),
    (rows(S, N), rows(S, rest=False), []),
    (rows(S, rest=False), rows(S, N, rest=False), ["ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL"]),
    (rows(S, rest=False), rows(S, False, rest=False), []),
    (rows(S, rest=N), rows(S, INT, rest=False), []),
    (rows(S, rest=S), rows(S, N, rest=S), ["TYPE_CHANGED", "ITEM_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"]),
    (rows(S, N, rest=N), rows(S, rest=INT), []),
    (rows(S, S, rest=N), rows(S, rest=N), ["TYPE_CHANGED", "ITEM_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"]),
    (rows(S, rest=False), rows(S), ["ADDITIONAL_ITEMS_REMOVED"]),
    (rows(S, rest=N), rows(S), ["ADDITIONAL_ITEMS_NARROWED"]),
    (rows(S), rows(S, rest=False), []),
    ({"additionalItems": False}, {"additionalItems": True}, ["ADDITIONAL_ITEMS_REMOVED"]),
    ({"prefixItems": [S], "items": False}, {"prefixItems": [S], "items": N}, ["ADDITIONAL_ITEMS_REMOVED"]),
    ({"prefixItems": [S]}, rows(S), []),
    (obj(a=S) | {"unevaluatedProperties": False}, obj(a=S), ["UNEVALUATED_PROPERTIES_REMOVED"]),
    (obj(a=S, b=S) | {"unevaluatedProperties": False}, obj(a=S) | {"unevaluatedProperties": False}, []),
    ({"type": "array", "maxContains": 1}, {"type": "array", "maxContains": 2}, ["MAX_CONTAINS_DECREASED"]),
]  # fmt: skip


@pytest.mark.parametrize(("new", "old", "expected"), JSON)
def test_json_schema_verdicts(new: Any, old: Any, expected: list[str]) -> None:
    assert kinds("json", new, old) == expected


def limits(*keywords: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={k: st.integers(0, 4) for k in keywords})


@st.composite
def json_schemas(draw: st.DrawFn, depth: int = 2) -> Any:
    deep = ["object", "array", "anyOf", "enum"] if depth else []
    kind = draw(st.sampled_from(["string", "integer", "number", "boolean", "any", *deep]))
    if kind == "any":
        return {}
    if kind == "enum":
        some = st.sampled_from(["a", "bb", 1, 2.5, None, True])
        return {"enum": draw(st.lists(some, min_size=1, max_size=3, unique_by=repr))}
    if kind == "string":
        return {"type": "string"} | draw(limits("minLength", "maxLength"))
    if kind in ("integer", "number"):
        return {"type": kind} | draw(limits("minimum", "maximum", "exclusiveMaximum"))
    if kind == "array":
        return {"type": "array", "items": draw(json_schemas(depth=depth - 1))} | draw(
            st.fixed_dictionaries({}, optional={"maxItems": st.integers(0, 2), "uniqueItems": st.booleans()})
        )
    if kind == "anyOf":
        return {"anyOf": draw(st.lists(json_schemas(depth=0), min_size=1, max_size=3))}
    if kind == "object":
        properties = draw(st.dictionaries(st.sampled_from("ab"), json_schemas(depth=depth - 1), max_size=2))
        made: dict[str, Any] = {"type": "object", "properties": properties}
        made["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
        return made | ({"additionalProperties": draw(st.booleans())} if draw(st.booleans()) else {})
    return {"type": kind}


PLAIN = st.sampled_from(["", "a", "bb", "cccc", 0, 1, 3, 5, 2.5, None, True])
VALUES = st.recursive(
    PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("abc"), v, max_size=3), max_leaves=5
)


@SLOW
@given(json_schemas(), json_schemas(), st.lists(VALUES, min_size=1, max_size=10))
def test_what_json_schema_calls_compatible_is_valid_by_both(new: Any, old: Any, values: list[Any]) -> None:
    if kinds("json", new, old):
        return
    for value in values:
        if jsonschema.Draft202012Validator(old).is_valid(value):
            assert jsonschema.Draft202012Validator(new).is_valid(value), value


# -- modes, and the command --------------------------------------------------------------------------------------------------


def test_modes_decide_who_reads_what_of_whom() -> None:
    v1, v2, v3 = (parse("avro", json.dumps(t), "t").written for t in (
        rec(("a", "int"), ("b", "int")), rec(("a", "int"), ("b", "int", 0)), rec(("a", "int"), ("b", "int", 0), ("c", "int"))
    ))  # fmt: skip
    assert not check("avro", v2, [v1], "full")
    assert check("avro", v3, [v2], "backward") and not check("avro", v3, [v2], "forward")
    found = check("avro", v3, [v1, v2], "full_transitive")
    assert [(b.old, b.reader) for b in found] == [(0, "new"), (1, "new")] and not check("avro", v3, [v1, v2], "none")
    with pytest.raises(UsageError, match="mode 'sideways' is none of none, backward"):
        check("avro", v1, [v2], "sideways")


def test_the_commands_say_what_breaks_and_where(tmp_path: Path) -> None:
    old, new, other = tmp_path / "1.avsc", tmp_path / "2.avsc", tmp_path / "o.schema.json"
    old.write_text(json.dumps(rec(("id", "string"), ("n", "int"))))
    new.write_text(json.dumps(rec(("id", "string"), ("n", "int"), ("m", "int"))))
    other.write_text("{}")
    done = call("schema", "check", str(new), str(old))
    assert done.returncode == 1 and "/m: the writer has no such field, and it has no default" in done.stdout
    assert call("schema", "check", str(old), str(new)).returncode == 0
    assert call("schema", "check", str(old), str(other)).returncode == 2
    done = call("schema", "diff", str(old), str(new))
    assert "+ m INTEGER NOT NULL" in done.stdout and "OLD reads what NEW writes: yes" in done.stdout


@pytest.mark.parametrize(("text", "why"), [
    ("[1]", r"at #: a schema is an object, true or false, this is \[1\]"),
    ('{"type": "objec"}', "at #/type: types are string, integer"),
    ('{"type": 3}', "at #/type: types are"),
    ('{"properties": ["a"]}', "at #/properties: properties is an object of schemas"),
    ('{"properties": {"a": {"anyOf": [{"items": 7}]}}}', "at #/properties/a/anyOf/0/items: a schema is an object"),
    ('{"oneOf": {}}', "at #/oneOf: oneOf is a list of schemas"),
    ('{"required": "a"}', "at #/required: required is a list of names"),
    ("{", "is no JSON: "),
])  # fmt: skip
def test_what_is_no_json_schema_is_told_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    bad, good = tmp_path / "bad.schema.json", tmp_path / "good.schema.json"
    bad.write_text(text)
    good.write_text("{}")
    for args in ((str(bad), str(good)), (str(good), str(bad))):
        done = call("schema", "check", *args)
        assert done.returncode == 2 and re.search(why, done.stderr), done.stderr


def test_a_schema_is_shown_in_three_notations_that_can_be_read_again(tmp_path: Path) -> None:
    """What each notation can say comes back; what it cannot is said."""
    fields = [
        ("id", "string"), ("at", {"type": "long", "logicalType": "timestamp-micros"}), ("n", ["null", "int"], None),
        ("price", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        ("tags", {"type": "map", "values": ["null", "string"]}), ("u", ["null", "long", "string"], None),
        ("lines", {"type": "array", "items": ["null", rec(("sku", ["null", "string"], None), name="Line")]}),
    ]  # fmt: skip
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(rec(*fields)))
    shown = call("schema", "show", str(path)).stdout
    assert "Protocol Buffers have no decimal: it is a text" in shown and "DECIMAL(9,2) NOT NULL" in shown
    columns = parse("avro", path.read_text(), "t").declared("t").describe()
    again = call("schema", "show", str(path), "--as", "avro").stdout
    assert parse("avro", again, "t").declared("t").describe() == columns
    text = call("schema", "show", str(path), "--as", "protobuf").stdout
    assert compiled_text(text, {}, "t").name == "Event"
    assert parse("protobuf", text, "t").declared("t").describe() == (
        "id VARCHAR NOT NULL, at TIMESTAMP WITH TIME ZONE, n INTEGER, price VARCHAR NOT NULL, tags MAP(VARCHAR, VARCHAR) NOT NULL,"
        " u_long BIGINT, u_string VARCHAR, lines STRUCT(sku VARCHAR)[] NOT NULL"
    )
    text = call("schema", "show", str(path), "--as", "json").stdout
    assert parse("json", text, "t").declared("t").describe() == (
        "id VARCHAR NOT NULL, at TIMESTAMP WITH TIME ZONE NOT NULL, n BIGINT, price DOUBLE NOT NULL, tags JSON NOT NULL, u JSON,"
        " lines STRUCT(sku VARCHAR)[] NOT NULL"
    )


def test_versions_in_a_registry_are_listed_compared_and_registered(tmp_path: Path) -> None:
    """The folder and a registry over HTTP understand the same commands."""
    good, bad = tmp_path / "good.avsc", tmp_path / "bad.avsc"
    first = tmp_path / "first.avsc"
    first.write_text(json.dumps(rec(("id", "string"))))
    good.write_text(json.dumps(rec(("id", "string"), ("n", "int", 0))))
    bad.write_text(json.dumps(rec(("id", "string"), ("n", "string"))))
    (tmp_path / "schemas").mkdir()
    with serving() as served:
        for where, subject in ((str(tmp_path / "schemas"), "order"), (served.url, "orders-value")):
            asked = ("--registry", where)
            assert call("schema", "register", subject, str(first), *asked).returncode == 0
            done = call("schema", "register", subject, str(bad), *asked)
            assert done.returncode == 1 and "/n: the writer has no such field" in done.stdout
            assert call("schema", "register", subject, str(good), *asked).returncode == 0
            assert call("schema", "list", *asked).stdout == f"{subject}: 1, 2\n"
            done = call("schema", "diff", f"{subject}@1", f"{subject}@latest", *asked)
            assert "+ n INTEGER NOT NULL" in done.stdout and "NEW reads what OLD wrote: yes" in done.stdout
            assert call("schema", "check", str(bad), f"{subject}@1", f"{subject}@2", *asked).returncode == 1
    done = call("schema", "list")
    assert done.returncode == 2 and "say which registry" in done.stderr
