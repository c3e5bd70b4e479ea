"""Protocol Buffers: whether messages stay what they are when their file changes, as Confluent's Schema Registry judges it.

Fields go by their numbers; their names, and the package, do not matter. A message that is no longer there, a field whose values are
written in another way, a number that becomes ``repeated`` or no longer is (where both files say how often), and fields that come to
exclude each other in a oneof are breaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merganser.schema.compatibility.difference import Difference

if TYPE_CHECKING:  # the package is optional; whoever has a Message has it
    from merganser.schema.protobuf import Message

WIRE: dict[int, str] = {
    1: "double", 2: "float", 3: "number", 4: "number", 5: "number", 6: "fixed64", 7: "fixed32", 8: "number", 9: "text or bytes",
    12: "text or bytes", 13: "number", 14: "number", 15: "fixed32", 16: "fixed64", 17: "zigzag number", 18: "zigzag number",
}  # fmt: skip
"""Field type to the way that its values are written; one within a way may become another one."""

TYPES: dict[int, str] = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string", 12: "bytes",
    13: "uint32", 14: "enum", 15: "sfixed32", 16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip
HELD: dict[str, tuple[str, ...]] = {
    "bool": ("int32", "uint32", "int64", "uint64"), "int32": ("int64", "enum"), "uint32": ("int64", "uint64"),
    "enum": ("int32", "int64"), "sint32": ("sint64",), "string": ("bytes",), "bytes": ("string",),
}  # fmt: skip
"""For a written type: the others that each of its values is read as itself by (or not at all: bytes that are no text)."""


def differences(reader: Message, writer: Message) -> list[Difference]:
    """What breaks between the messages of two files, ``reader`` being the later one."""
    return _types(_top(writer), _top(reader), "")


def unreadable(reader: Any, writer: Any, path: str = "", seen: frozenset[str] = frozenset()) -> list[Difference]:
    """What of a writer's message type could be another value when it is read as the reader's: fields of another kind, and
    numbers that those of the reader do not hold."""
    if writer.full_name in seen:
        return []
    seen |= {writer.full_name}
    read = {f.number: f for f in reader.fields}
    found: list[Difference] = []
    for old in writer.fields:
        new, at = read.get(old.number), f"{path}/{old.number}"
        if new is None:
            continue
        if different := _fields(old, new, at, shallow=True):
            found += different
        elif old.is_repeated and not new.is_repeated:
            detail = f"{new.name} was repeated, and is one value: the others would be lost"
            found.append(Difference("FIELD_LABEL_CHANGED", at, detail))
        elif old.type != new.type and TYPES.get(new.type) not in HELD.get(TYPES.get(old.type, ""), ()):
            detail = f"{new.name} was {TYPES[old.type]}, and is {TYPES[new.type]}, which does not hold all of its values"
            found.append(Difference("FIELD_SCALAR_KIND_CHANGED", at, detail))
        elif old.message_type is not None:
            found += unreadable(new.message_type, old.message_type, at, seen)
    return found


def _top(message: Message) -> dict[str, Any]:
    return dict(message.descriptor.file.message_types_by_name)


def _types(old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
    found = []
    for name, descriptor in old.items():
        at = f"{path}/{name}"
        if name not in new:
            if not descriptor.GetOptions().map_entry:
                found.append(Difference("MESSAGE_REMOVED", at, f"the reader has no message {descriptor.full_name}"))
        elif not descriptor.GetOptions().map_entry:
            found += _messages(descriptor, new[name], at)
    return found


def _oneof(field: Any) -> str | None:
    """The name of the oneof that a field is in; ``optional`` makes one of its own, which is none."""
    oneof = field.containing_oneof
    return None if oneof is None or (len(oneof.fields) == 1 and oneof.name == f"_{field.name}") else str(oneof.name)


def _messages(old: Any, new: Any, path: str) -> list[Difference]:
    before = {f.number: f for f in old.fields}
    after = {f.number: f for f in new.fields}
    found = _oneofs(before, after, path)
    for number in sorted(before.keys() | after.keys()):
        at = f"{path}/{number}"
        if number not in after:
            if before[number].is_required:
                found.append(Difference("REQUIRED_FIELD_REMOVED", at, f"{before[number].name} was required"))
        elif number not in before:
            if after[number].is_required:
                found.append(Difference("REQUIRED_FIELD_ADDED", at, f"{after[number].name} is required, and was not written"))
        else:
            found += _fields(before[number], after[number], at)
    return found + _types(dict(old.nested_types_by_name), dict(new.nested_types_by_name), path)


def _oneofs(before: dict[int, Any], after: dict[int, Any], path: str) -> list[Difference]:
    found = []
    for name in sorted({o for f in after.values() if (o := _oneof(f))}):
        members = [n for n, f in after.items() if _oneof(f) == name and n in before]
        alone = [n for n in members if _oneof(before[n]) is None]
        if len(alone) + len({o for n in members if (o := _oneof(before[n]))}) < 2:
            continue  # these excluded each other before
        kind = "MULTIPLE_FIELDS_MOVED_TO_ONEOF" if len(alone) > 1 else "FIELD_MOVED_TO_EXISTING_ONEOF"
        names = ", ".join(after[n].name for n in members)
        found.append(Difference(kind, f"{path}/{name}", f"of {names} several could be written together before"))
    kept = {o for f in after.values() if (o := _oneof(f))}
    for number, field in sorted(before.items()):
        if number not in after and _oneof(field) in kept:
            detail = f"{field.name} may have been written, and the reader would find none of the oneof"
            found.append(Difference("ONEOF_FIELD_REMOVED", f"{path}/{_oneof(field)}/{number}", detail))
    return found


def _fields(old: Any, new: Any, path: str, shallow: bool = False) -> list[Difference]:
    before, after = _kind(old), _kind(new)
    if before != after:
        return [Difference("FIELD_KIND_CHANGED", path, f"{new.name} was a {before}, and is a {after}")]
    if before == "scalar":
        if WIRE[old.type] != WIRE[new.type]:
            detail = f"{new.name} was written as {WIRE[old.type]}, and is read as {WIRE[new.type]}"
            return [Difference("FIELD_SCALAR_KIND_CHANGED", path, detail)]
        was, now = _label(old), _label(new)
        if not shallow and was and now and was != now and WIRE[old.type] != "text or bytes":
            return [Difference("FIELD_NUMERIC_LABEL_CHANGED", path, f"{new.name} was {was}, and is {now}")]
        return []
    if before == "map":
        if shallow:
            return []  # its entries are messages
        parts = [(old.message_type.fields_by_name[p], new.message_type.fields_by_name[p]) for p in ("key", "value")]
        return [d for a, b in parts for d in _fields(a, b, path)]
    names = [_local(f.message_type) for f in (old, new)]
    if names[0] != names[1]:
        return [Difference("FIELD_NAMED_TYPE_CHANGED", path, f"{new.name} was a {names[0]}, and is a {names[1]}")]
    if not shallow and old.message_type.file.name != old.containing_type.file.name:
        return _messages(old.message_type, new.message_type, path)  # of a file that it imports
    return []


def _label(field: Any) -> str | None:
    """How often a scalar field is there, where its file says so: that of proto3 does not for one without ``optional``."""
    if field.is_required or field.is_repeated:
        return "required" if field.is_required else "repeated"
    return "optional" if field.has_presence and _oneof(field) is None and not field.containing_type.GetOptions().map_entry else None


def _kind(field: Any) -> str:
    if field.message_type is None:
        return "scalar"
    return "map" if field.message_type.GetOptions().map_entry else "message"


def _local(descriptor: Any) -> str:
    """A message's name without its package."""
    return str(descriptor.full_name).removeprefix(f"{descriptor.file.package}.")
