"""The notations that a schema can be written in, and the files that hold them."""

from __future__ import annotations

import json
from pathlib import Path

from merganser.errors import FlowError
from merganser.schema import Schema, avro, json_schema


def load(spec: str | Path) -> Schema:
    """The schema in a file: ``order.avsc``, ``order.proto#Order``, ``order.schema.json``. Raises FlowError."""
    name, _, message = str(spec).partition("#")
    path = Path(name)
    if not path.is_file():
        raise FlowError(f"there is no schema file {path} (looked in {Path.cwd()})")
    if path.name.endswith(".avsc"):
        return avro.declared(avro.parse(path.read_text(), str(path)), str(path))
    if path.name.endswith(".schema.json"):
        try:
            tree = json.loads(path.read_text())
        except ValueError as error:
            raise FlowError(f"{path} is no JSON: {error}") from None
        return json_schema.declared(tree, str(path))
    if path.name.endswith(".proto"):
        try:
            from merganser.schema import protobuf
        except ImportError:
            raise FlowError(f"{path}: Protocol Buffers need more packages: pip install 'merganser[protobuf]'") from None
        return protobuf.declared(protobuf.load(path, message or None, str(path)), str(path))
    raise FlowError(f"schema file {path}: known are .avsc (Avro), .proto (Protocol Buffers) and .schema.json (JSON Schema)")
