"""The notations that a schema can be written in, and the files that hold them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from merganser.errors import FlowError
from merganser.schema import Schema, avro, json_schema
from merganser.schema.references import Reference, of_file, texts

ENDINGS = {".avsc": "avro", ".proto": "protobuf", ".schema.json": "json"}
"""File name ending to notation."""


@dataclass(frozen=True)
class Notated:
    """A schema in its notation: ``written`` is an ``AvroSchema``, a ``Message``, or a JSON Schema parsed."""

    notation: str
    written: Any
    references: tuple[Reference, ...] = ()
    """What a file refers to."""

    def declared(self, at: str) -> Schema:
        """The columns of a source that has this schema. Raises FlowError."""
        if self.notation == "avro":
            return avro.declared(self.written, at)
        if self.notation == "protobuf":
            from merganser.schema import protobuf

            return protobuf.declared(self.written, at)
        return json_schema.declared(self.written, at)


def read(spec: str | Path) -> Notated:
    """The schema in a file: ``order.avsc``, ``order.proto#Order``, ``order.schema.json``. Raises FlowError."""
    name, _, message = str(spec).partition("#")
    path = Path(name)
    if not path.is_file():
        raise FlowError(f"there is no schema file {path} (looked in {Path.cwd()})")
    notation = next((n for ending, n in ENDINGS.items() if path.name.endswith(ending)), None)
    if notation == "protobuf":
        return Notated(notation, protobuf_needed(str(path)).load(path, message or None, str(path)), of_file(path, notation))
    if notation is None:
        raise FlowError(
            f"schema file {path}: known are .avsc (Avro), .proto (Protocol Buffers) and .schema.json (JSON Schema)"
        )
    references = of_file(path, notation)
    return replace(parse(notation, path.read_text(), str(path), texts(references)), references=references)


def parse(notation: str, text: str, at: str, references: dict[str, str] | None = None) -> Notated:
    """A schema from its text. ``references``: the texts that it refers to, by name, see ``references.texts``. Raises FlowError."""
    if notation == "avro":
        return Notated(notation, avro.parse(text, at, (references or {}).values()))
    if notation == "protobuf":
        return Notated(notation, protobuf_needed(at).compiled_text(text, references or {}, at))
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise FlowError(f"{at} is no JSON: {error}") from None
    json_schema.check(tree, at)
    return Notated(notation, tree)


def load(spec: str | Path) -> Schema:
    """The columns that a schema file declares. Raises FlowError."""
    return read(spec).declared(str(spec).partition("#")[0])


def protobuf_needed(at: str) -> Any:
    """The module for Protocol Buffers. Raises FlowError where its packages are not installed."""
    try:
        import grpc_tools  # noqa: F401 # the compiler

        from merganser.schema import protobuf
    except ImportError:
        raise FlowError(f"{at}: Protocol Buffers need more packages: pip install 'merganser[protobuf]'") from None
    return protobuf
