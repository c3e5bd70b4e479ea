"""Protocol Buffers: ``.proto`` files, compiled at run time, and the columns that their messages declare.

The compiler is Google's own, as the package ``grpcio-tools`` has it: users need no ``protoc``.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from merganser.errors import FlowError
from merganser.schema import Schema

SCALARS: dict[int, str] = {
    FieldDescriptor.TYPE_DOUBLE: "DOUBLE",
    FieldDescriptor.TYPE_FLOAT: "FLOAT",
    FieldDescriptor.TYPE_INT64: "BIGINT",
    FieldDescriptor.TYPE_SINT64: "BIGINT",
    FieldDescriptor.TYPE_SFIXED64: "BIGINT",
    FieldDescriptor.TYPE_UINT64: "UBIGINT",
    FieldDescriptor.TYPE_FIXED64: "UBIGINT",
    FieldDescriptor.TYPE_INT32: "INTEGER",
    FieldDescriptor.TYPE_SINT32: "INTEGER",
    FieldDescriptor.TYPE_SFIXED32: "INTEGER",
    FieldDescriptor.TYPE_UINT32: "UINTEGER",
    FieldDescriptor.TYPE_FIXED32: "UINTEGER",
    FieldDescriptor.TYPE_BOOL: "BOOLEAN",
    FieldDescriptor.TYPE_STRING: "VARCHAR",
    FieldDescriptor.TYPE_BYTES: "BLOB",
    FieldDescriptor.TYPE_ENUM: "VARCHAR",
}
WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value" for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
FREE = frozenset(f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue"))
"""Messages that are JSON by their meaning."""

TIMESTAMP, DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"


@dataclass(frozen=True)
class Message:
    """A message type: its full name, and the files that define it (a serialized ``FileDescriptorSet``)."""

    name: str
    files: bytes

    @cached_property
    def descriptor(self) -> Descriptor:
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(self.files).file:
            pool.Add(file)
        return pool.FindMessageTypeByName(self.name)

    @cached_property
    def kind(self) -> Any:
        """The Python class of its messages."""
        return message_factory.GetMessageClass(self.descriptor)

    @cached_property
    def file(self) -> str:
        """The name of the file that it stands in."""
        return str(self.descriptor.file.name)


def load(path: Path, name: str | None, at: str) -> Message:
    """A message of a ``.proto`` file, by its name or full name; the first of the file without. Raises FlowError."""
    files = compiled(path, at)
    known = _messages(files, _own(files))
    if not known:
        raise FlowError(f"{at}: the file has no message")
    if name is None:
        return Message(known[0], files)
    found = [n for n in known if n == name or n.endswith(f".{name}")]
    if len(found) != 1:
        which = "several messages" if found else "no message"
        raise FlowError(f"{at}: there is {which} named {name!r}; the file has {', '.join(found or known)}")
    return Message(found[0], files)


def compiled(path: Path, at: str) -> bytes:
    """A ``.proto`` file and all that it imports. Imports are looked for beside it, and in the folders above it."""
    path = path.resolve()
    first = None
    for root in [path.parent, *path.parent.parents][:4]:
        files, said = _protoc(root, path)
        if files is not None:
            return files
        first = first or said
        if "File not found" not in said:
            break
    first = (first or "").replace(f"{path.parent}/", "")
    raise FlowError(f"{at} cannot be compiled: {first}")


def compiled_text(text: str, references: dict[str, str], at: str) -> Message:
    """The first message of a schema that is text, with the texts that it imports by name."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        own = next(name for n in itertools.count() if (name := f"schema{n or ''}.proto") not in references)
        for name, content in {**references, own: text}.items():
            path = (root / name).resolve()
            if not path.is_relative_to(root.resolve()):
                raise FlowError(f"{at}: an import named {name!r} leaves its folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return load(root / own, None, at)


def _protoc(root: Path, path: Path) -> tuple[bytes | None, str]:
    """What the compiler made, or what it said. In a process of its own: it writes its errors where Python cannot read them."""
    own = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"-I{own}", "--include_imports",
                   f"--descriptor_set_out={made}", str(path.relative_to(root))]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=root)
        if done.returncode or not made.exists():
            return None, "; ".join(line for line in done.stderr.splitlines() if "warning" not in line)
        return made.read_bytes(), ""


def _own(files: bytes) -> str:
    """The name of the file that was compiled: it stands last, behind all that it imports."""
    return str(descriptor_pb2.FileDescriptorSet.FromString(files).file[-1].name)


def _messages(files: bytes, file: str) -> list[str]:
    """Full names of the messages of a file, in their order, nested ones behind those that they stand in."""
    found: list[str] = []

    def add(prefix: str, message: Any) -> None:
        if not message.options.map_entry:
            found.append(f"{prefix}{message.name}")
            for inner in message.nested_type:
                add(f"{prefix}{message.name}.", inner)

    for made in descriptor_pb2.FileDescriptorSet.FromString(files).file:
        if made.name == file:
            for message in made.message_type:
                add(f"{made.package}." if made.package else "", message)
    return found


def at_index(message: Message, path: list[int]) -> Message:
    """The message that a Confluent message index points at: the n-th of the file, the m-th within that, and so on."""
    for made in descriptor_pb2.FileDescriptorSet.FromString(message.files).file:
        if made.name == message.file:
            inner: Any = made.message_type
            name = made.package
            for number in path:
                found = inner[number]
                name = f"{name}.{found.name}" if name else found.name
                inner = found.nested_type
            return Message(name, message.files)
    raise IndexError(path)


def index_of(message: Message) -> list[int]:
    """The Confluent message index of a message: its place in the file, or in the message that it stands in, outermost first."""
    path: list[int] = []
    descriptor: Any = message.descriptor
    while descriptor is not None:
        within = descriptor.containing_type
        siblings = within.nested_types if within is not None else descriptor.file.message_types_by_name.values()
        path.insert(0, [d.full_name for d in siblings].index(descriptor.full_name))
        descriptor = within
    return path


# -- messages to columns ------------------------------------------------------------------------------------------------


def declared(message: Message, at: str) -> Schema:
    """The columns of a message: one for each field. Raises FlowError."""
    fields = message.descriptor.fields
    if not fields:
        raise FlowError(f"{at}: message {message.name} has no field")
    if recursive(message.descriptor):
        raise FlowError(f"{at}: message {message.name} contains itself, which no row can; take a message within it")
    return Schema.of(((f.name, sql_of(f), not nullable(f)) for f in fields), message)


def nullable(field: FieldDescriptor) -> bool:
    """Fields with presence may be absent; without, an absent field has its type's zero."""
    return bool(field.has_presence) and not field.is_required


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_json(descriptor: Descriptor) -> bool:
    """Messages whose values are JSON: free ones, those that contain themselves, those without a field."""
    return descriptor.full_name in FREE or not descriptor.fields or recursive(descriptor)


def sql_of(field: FieldDescriptor) -> str:
    """The SQL type of a field. An enum is the name of its value; what contains itself is JSON."""
    if is_map(field):
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        return f"MAP({sql_of(key)}, {sql_of(value)})"
    kind = _sql_of_one(field)
    return f"{kind}[]" if field.is_repeated else kind


def _sql_of_one(field: FieldDescriptor) -> str:
    if field.type in SCALARS:
        return SCALARS[field.type]
    descriptor = field.message_type
    if descriptor.full_name == TIMESTAMP:
        return "TIMESTAMP WITH TIME ZONE"
    if descriptor.full_name == DURATION:
        return "INTERVAL"
    if descriptor.full_name in WRAPPERS:
        return SCALARS[descriptor.fields_by_name["value"].type]
    if is_json(descriptor):
        return "JSON"
    return "STRUCT(" + ", ".join(f'"{f.name}" {sql_of(f)}' for f in descriptor.fields) + ")"


def recursive(descriptor: Descriptor) -> bool:
    seen: set[str] = set()
    waiting = [f.message_type for f in descriptor.fields if f.message_type is not None]
    while waiting:
        inner = waiting.pop()
        if inner.full_name == descriptor.full_name:
            return True
        if inner.full_name not in seen and inner.full_name not in FREE:
            seen.add(inner.full_name)
            waiting += [f.message_type for f in inner.fields if f.message_type is not None]
    return False
