"""The encoding of a ``write`` from what was declared: checked against the stream's columns when the flow is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merganser.codecs.encoding import Encoding, fitting, text
from merganser.errors import FlowError
from merganser.registry import Registry
from merganser.schema import Schema, avro, notations, writing
from merganser.schema.references import Reference, of_file
from merganser.schema.types import SqlType, parse


def declared(
    format: str,
    columns: Mapping[str, str],
    spec: Any,
    name: str,
    registry: Registry | None = None,
    subject: str | None = None,
) -> Encoding:
    """The encoding of a stream's columns in a format.

    ``spec``: the schema as ``Schema.declare`` takes it, None to derive it from the columns. ``name``: what a derived record is
    called. Raises FlowError if the schema does not go with the columns, or the format not with the schema.
    """
    given = spec is not None
    name = writing.title(name) if re.match("[A-Za-z]", name) else "Event"
    schema = Schema.declare(spec) if given else Schema.of((n, fitting.plain(t), False) for n, t in columns.items())
    what = f"schema {str(spec).partition('#')[0]!r}" if isinstance(spec, (str, Path)) else "the schema"
    made = Encoding(format, schema, None, registry, subject, given=given)
    if format in ("avro", "avro-single-object"):
        made = _in_avro(made, spec, name)
    elif format == "protobuf":
        made = _with_nanoseconds(_in_protobuf(made, spec, name), columns)
    elif format == "json" and registry is not None:
        made = replace(made, notation=_source(spec, ".schema.json") or writing.write(schema, "json", name).text)
    elif format == "csv":
        text.csv_check(schema.columns)
    elif format == "parquet":
        _check_parquet(schema)
    fitting.check(columns, made.target, what if given else f"{format} of these columns")
    return made


def _source(spec: Any, ending: str) -> str | None:
    """The text of a schema file, if it is of this notation."""
    path = str(spec).partition("#")[0] if isinstance(spec, (str, Path)) else ""
    if not path.endswith(ending):
        return None
    return Path(path).read_text()


def _references(spec: Any, ending: str) -> tuple[Reference, ...]:
    """What a schema file refers to, if it is of this notation."""
    return () if _source(spec, ending) is None else of_file(Path(str(spec).partition("#")[0]), notations.ENDINGS[ending])


def _in_avro(made: Encoding, spec: Any, name: str) -> Encoding:
    if isinstance(made.target.written, avro.AvroSchema):
        own, references = _source(spec, ".avsc"), _references(spec, ".avsc")
        if own is None or (references and made.registry is None):  # files have all types in their header
            return replace(made, notation=made.target.written.text)
        return replace(made, notation=own, references=references)
    _check_names(made.target, "Avro")
    notation = writing.write(made.target, "avro", name).text
    return replace(made, target=avro.declared(avro.parse(notation, "the schema of these columns"), "write()"), notation=notation)


def _in_protobuf(made: Encoding, spec: Any, name: str) -> Encoding:
    protobuf = notations.protobuf_needed("format='protobuf'")
    if isinstance(made.target.written, protobuf.Message):
        return replace(made, notation=_source(spec, ".proto"), references=_references(spec, ".proto"))
    _check_names(made.target, "Protocol Buffers")
    _check_protobuf(made.target)
    notation = writing.write(made.target, "protobuf", name).text
    message = protobuf.compiled_text(notation, {}, "the schema of these columns")
    return replace(made, target=protobuf.declared(message, "write()"), notation=notation)


def _with_nanoseconds(made: Encoding, columns: Mapping[str, str]) -> Encoding:
    """A Timestamp holds nanoseconds: where the stream's column does, so does the target's."""
    zoned = [c.name for c in made.target.columns if c.type == "TIMESTAMP WITH TIME ZONE"]
    fine = {n: "TIMESTAMPTZ_NS" for n in zoned if columns.get(n) == "TIMESTAMPTZ_NS"}
    return replace(made, target=made.target.typed(fine))


def _check_names(schema: Schema, notation: str) -> None:
    """Raise a FlowError for names that a notation does not take."""

    def names(kind: SqlType) -> Iterator[str]:
        for name, inner in kind.inner:
            yield from (name, *names(inner))

    for column in schema.columns:
        for name in (column.name, *names(parse(column.type))):
            if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise FlowError(
                    f"names in {notation} are letters, digits and _, which {name!r} is not; give it such a one with select()"
                )


def _check_protobuf(schema: Schema) -> None:
    """Raise a FlowError for columns that only a message of one's own can hold."""
    for column in schema.columns:
        kind = parse(column.type)
        inner = [t.name for _, t in kind.inner] if kind.name in ("LIST", "MAP") else []
        if kind.name == "UNION" or any(n in ("LIST", "MAP", "UNION") for n in inner):
            raise FlowError(
                f"Protocol Buffers have no {column.type}, which column {column.name!r} is: give the schema of a message that has"
                " what it is to be, schema='order.proto#Order', and make its columns with derive()"
            )


def _check_parquet(schema: Schema) -> None:
    for column in schema.columns:
        if any(word in column.type for word in ("UNION(", "INTERVAL")):
            raise FlowError(
                f"Parquet has no {'UNION' if 'UNION(' in column.type else 'INTERVAL'}, which column {column.name!r} ({column.type})"
                f" is or has; derive({column.name}=…) makes it a text or a number, .arrow files have both"
            )
