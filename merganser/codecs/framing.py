"""Messages that say by which schema they were written: Confluent's framing, and Avro's single-object encoding.

- Confluent: a zero byte, the schema's id (four bytes, big end first), for Protocol Buffers the indexes of the message within its
  file, then the record.
- Single object: 0xC3 0x01, the fingerprint of the schema (eight bytes, little end first), then the datum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import Chunk, Codec, Decoded, Place
from merganser.codecs.avro import DatumReader
from merganser.codecs.binary import Broken, Failure, RecordReader
from merganser.codecs.cursor import Bytes, Ints
from merganser.codecs.json import JsonCodec
from merganser.codecs.messages import Messages
from merganser.errors import SourceError
from merganser.registry import DeniedError, Registry
from merganser.schema import Schema, notations
from merganser.schema.avro import AvroSchema
from merganser.schema.compatibility.protobuf import unreadable
from merganser.schema.notations import Notated

if TYPE_CHECKING:  # its packages are optional
    from merganser.schema.protobuf import Message

HEAD = 5
"""Bytes of Confluent's framing."""


class ConfluentReader:
    """Reads framed Avro or Protocol Buffers: each message by the schema of its id, as the declared columns."""

    def __init__(self, schema: Schema, registry: Registry, notation: str, where: str) -> None:
        self._schema, self._registry, self._notation, self._where = schema, registry, notation, where
        self._readers: dict[tuple[int, tuple[int, ...]], RecordReader | Broken] = {}

    def read(self, data: Bytes, start: Ints, end: Ints) -> tuple[pa.Table, Ints, list[Failure]]:
        framed = (end - start >= HEAD) & (data.octets[np.minimum(start, data.size)] == 0)
        failures: list[Failure] = [
            (int(i), "not framed", "a zero byte and the id of a schema were expected in front of the record")
            for i in np.flatnonzero(~framed)
        ]
        rows = np.flatnonzero(framed)
        ids = (data.words[start[rows] + 1] & np.uint64(0xFFFFFFFF)).astype(np.uint32).byteswap()
        parts: list[tuple[pa.Table, Ints]] = []
        for number in np.unique(ids).tolist() if len(ids) and (ids != ids[0]).any() else ids[:1].tolist():
            mine = rows[ids == number]
            for path, some, begin in self._paths(data, mine, start, end, failures):
                reader = self._reader(int(number), path)
                if isinstance(reader, Broken):
                    failures += [(int(i), reader.reason, reader.detail) for i in some]
                    continue
                table, numbers, wrong = reader.read(data, begin, end[some])
                parts.append((table, some[numbers]))
                failures += [(int(some[i]), reason, detail) for i, reason, detail in wrong]
        return _joined(parts, self._schema, failures)

    def _paths(
        self, data: Bytes, rows: Ints, start: Ints, end: Ints, failures: list[Failure]
    ) -> Iterable[tuple[tuple[int, ...], Ints, Ints]]:
        """The messages of one id by their message indexes (none in Avro), and where their records begin."""
        if self._notation == "avro":
            yield (), rows, start[rows] + HEAD
            return
        plain = (data.octets[start[rows] + HEAD] == 0) & (end[rows] - start[rows] > HEAD)  # one zero is short for [0]
        if plain.any():
            yield (0,), rows[plain], start[rows[plain]] + HEAD + 1
        by_path: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for i in rows[~plain].tolist():
            try:
                path, begin = _indexes(data, int(start[i]) + HEAD, int(end[i]))
            except Broken as error:
                failures.append((i, error.reason, error.detail))
            else:
                by_path.setdefault(path, []).append((i, begin))
        for path, found in by_path.items():
            yield path, np.array([i for i, _ in found]), np.array([begin for _, begin in found])

    def _reader(self, number: int, path: tuple[int, ...]) -> RecordReader | Broken:
        if (number, path) not in self._readers:
            try:
                self._readers[number, path] = self._made(self._registry.by_id(number), path, number)
            except DeniedError as error:
                self._readers[number, path] = Broken("unknown schema", f"schema {number}: {error}")
        return self._readers[number, path]

    def _made(self, found: Notated, path: tuple[int, ...], number: int) -> RecordReader | Broken:
        where = f"{self._where}, schema {number} of the registry"
        if found.notation != self._notation:
            return Broken("unknown schema", f"schema {number} is {found.notation}, the source is declared to be {self._notation}")
        if self._notation == "avro":
            return DatumReader(self._schema, found.written, where)
        from merganser.codecs.protobuf import MessageReader
        from merganser.schema.protobuf import at_index

        try:
            written = at_index(found.written, list(path))
        except IndexError:
            return Broken("not framed", f"schema {number} has no message at {list(path)}")
        own = self._schema.written
        if own is None:
            return MessageReader(self._schema, where, written)
        _check_readable(own, written, where)
        return MessageReader(self._schema, where, own)


def _check_readable(own: Message, written: Message, where: str) -> None:
    """Fields go by number, so the declared message reads what others wrote, unless values would not stay what they are."""
    if own.descriptor.name != written.descriptor.name:
        names = written.descriptor.full_name, own.descriptor.full_name
        raise SourceError(f"{where} is message {names[0]}; the source is declared to be {names[1]}")
    if found := unreadable(own.descriptor, written.descriptor):
        text = "; ".join(map(str, found))
        raise SourceError(
            f"{where} wrote what cannot be read as the declared message: {text}. `merganser schema check` compares two schemas"
        )


class SingleObjectReader:
    """Reads Avro in single-object encoding, of the writers that are known."""

    def __init__(self, schema: Schema, writers: Iterable[AvroSchema], where: str) -> None:
        self._schema, self._where = schema, where
        self._writers = {w.fingerprint: w for w in writers}
        self._readers: dict[int, DatumReader] = {}

    def read(self, data: Bytes, start: Ints, end: Ints) -> tuple[pa.Table, Ints, list[Failure]]:
        at = np.minimum(start, data.size)
        framed = (end - start >= 10) & (data.octets[at] == 0xC3) & (data.octets[at + 1] == 1)
        failures: list[Failure] = [
            (int(i), "not framed", "0xC3 0x01 and the fingerprint of a schema were expected in front of the datum")
            for i in np.flatnonzero(~framed)
        ]
        rows = np.flatnonzero(framed)
        prints = data.words[start[rows] + 2]
        parts: list[tuple[pa.Table, Ints]] = []
        for fingerprint in np.unique(prints).tolist():
            some = rows[prints == fingerprint]
            writer = self._writers.get(int(fingerprint))
            if writer is None:
                failures += [(int(i), "unknown schema", f"no schema has the fingerprint {fingerprint:016x}") for i in some]
                continue
            reader = self._readers.setdefault(int(fingerprint), DatumReader(self._schema, writer, self._where))
            table, numbers, wrong = reader.read(data, start[some] + 10, end[some])
            parts.append((table, some[numbers]))
            failures += [(int(some[i]), reason, detail) for i, reason, detail in wrong]
        return _joined(parts, self._schema, failures)


class FramedJsonCodec:
    """Decodes JSON messages with Confluent's framing in front; the id is not looked up, since JSON says what it means."""

    def __init__(self, schema: Schema) -> None:
        self._codec = JsonCodec(schema)

    def decode(self, chunk: Chunk) -> Decoded:
        messages: Messages = chunk.payload
        bare = [raw[HEAD:] if raw[:1] == b"\0" and len(raw) >= HEAD else raw for raw in messages.values.to_pylist()]
        decoded = self._codec.decode(replace(chunk, payload=replace(messages, values=pa.array(bare, pa.binary()))))
        at = np.searchsorted(messages.offsets, [r.seq for r in decoded.rejects]).tolist()
        return Decoded(decoded.table, [replace(r, raw=messages[i]) for i, r in zip(at, decoded.rejects)])

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._codec.locate(chunk, seqs)


def _joined(
    parts: list[tuple[pa.Table, Ints]], schema: Schema, failures: list[Failure]
) -> tuple[pa.Table, Ints, list[Failure]]:
    """Rows of several readers, in the order of their records."""
    if not parts:
        return schema.arrow_schema().empty_table(), np.zeros(0, np.int64), sorted(failures)
    numbers = np.concatenate([n for _, n in parts])
    table = pa.concat_tables([t for t, _ in parts]) if len(parts) > 1 else parts[0][0]
    order = np.argsort(numbers, kind="stable")
    if (order[:-1] > order[1:]).any():
        table = table.take(pa.array(order))
    return table, numbers[order], sorted(failures)


def _indexes(data: Bytes, at: int, end: int) -> tuple[tuple[int, ...], int]:
    """Confluent's message indexes: how many there are, then each, as zigzag varints. Returns them, and where the record begins."""

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 35:
            octet = int(data.octets[at])
            value |= (octet & 127) << shift
            at, shift = at + 1, shift + 7
            if octet < 128:
                return (value >> 1) ^ -(value & 1), at
        raise Broken("not framed", "the indexes of the message are cut off")

    count, at = number(at)
    if not 0 <= count <= 32:
        raise Broken("not framed", f"{count} indexes of a message; at most 32 are taken")
    path = []
    for _ in range(count):
        index, at = number(at)
        if index < 0:
            raise Broken("not framed", f"an index of {index}")
        path.append(index)
    return tuple(path) or (0,), at


class SchemaColumns:
    """Columns of the schema that messages name: ``schema.id``, and ``schema.version``, which version of its subject that is.

    NULL where a message names none. In a folder of versions (single-object encoding) it is the number of the file.
    """

    def __init__(self, registry: Registry, format: str) -> None:
        self._registry, self._format = registry, format
        self._found: dict[tuple[int, str], int | DeniedError] = {}

    def take(self, origin: str, values: pa.BinaryArray, topics: pa.StringArray) -> tuple[pa.Array, dict[int, tuple[str, str]]]:
        """A column (int32), and why it cannot be told for some of the messages."""
        ids, there = self._ids(values)
        if origin == "schema.id":
            return pa.array(ids.astype(np.int32), mask=~there), {}
        bad: dict[int, tuple[str, str]] = {}
        column = np.zeros(len(ids), np.int32)
        coded = topics.dictionary_encode()
        which = coded.indices.to_numpy()
        pairs = np.stack([ids[there], which[there].astype(np.uint64)])
        for number, code in np.unique(pairs, axis=1).T.tolist():
            rows = np.flatnonzero(there & (ids == number) & (which == code))
            found = self._version(number, coded.dictionary[code].as_py())
            if isinstance(found, DeniedError):
                bad |= dict.fromkeys(rows.tolist(), ("unknown schema", f"schema {number}: {found}"))
            else:
                column[rows] = found
        return pa.array(column, mask=~there), bad

    def _ids(self, values: pa.BinaryArray) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """The id, or the fingerprint, that stands in front of each message, and whether one does."""
        begin, size, order = (b"\xc3\x01", 8, "<u8") if self._format == "avro-single-object" else (b"\0", 4, ">u4")
        heads = pc.binary_slice(values.fill_null(b""), 0, len(begin) + size)
        there = pc.and_(pc.equal(pc.binary_length(heads), len(begin) + size), pc.starts_with(heads, begin))
        kept = there.to_numpy(zero_copy_only=False)
        ids = np.zeros(len(values), np.uint64)
        ids[kept] = np.frombuffer(b"".join(head[len(begin) :] for head in heads.filter(there).to_pylist()), order)
        return ids, kept

    def _version(self, number: int, topic: str) -> int | DeniedError:
        key = number, topic
        if key not in self._found:
            try:
                if self._registry.folder is None:
                    self._found[key] = self._registry.version_of(number, f"{topic}-value")
                else:
                    self._found[key] = _numbers(self._registry, topic)[number]
            except DeniedError as error:
                self._found[key] = error
            except KeyError:
                self._found[key] = DeniedError(f"no schema in {self._registry.folder} has the fingerprint {number:016x}")
        return self._found[key]


def _numbers(registry: Registry, topic: str) -> dict[int, int]:
    """Fingerprint to version of the Avro schemas in a folder; those of the subject that is named as the topic count first."""
    found: dict[int, int] = {}
    for subject in sorted(registry.subjects(), key=lambda name: name == topic):
        for number in registry.versions(subject):
            version = registry.version(subject, number)
            if version.notation == "avro":
                found[version.written.fingerprint] = number
    return found


def codec(format: str, registry: Registry | None) -> Callable[[Schema], Codec]:
    """The codec of messages' values: ``json``, ``avro``, ``avro-single-object``, ``protobuf``; framed where there is a registry."""
    from merganser.codecs.binary import BinaryCodec

    where = "the topic"
    if format == "protobuf":
        notations.protobuf_needed("format='protobuf'")

    def make(schema: Schema) -> Codec:
        if format == "json":
            return JsonCodec(schema) if registry is None else FramedJsonCodec(schema)
        if format == "avro-single-object":
            return BinaryCodec(SingleObjectReader(schema, _known(schema, registry), where))
        if registry is not None and registry.folder is None:
            return BinaryCodec(ConfluentReader(schema, registry, format, where))
        if format == "avro":
            if not isinstance(schema.written, AvroSchema):
                raise SourceError(f"{where} holds Avro without a schema: declare schema='order.avsc', or registry=")
            return BinaryCodec(DatumReader(schema, schema.written, where))
        from merganser.codecs.protobuf import MessageReader

        return BinaryCodec(MessageReader(schema, where))

    return make


def _known(schema: Schema, registry: Registry | None) -> list[AvroSchema]:
    """The writers that a fingerprint may stand for: the declared schema, and all Avro versions in a folder."""
    found = [schema.written] if isinstance(schema.written, AvroSchema) else []
    if registry is not None and registry.folder is not None:
        for subject in registry.subjects():
            versions = (registry.version(subject, number) for number in registry.versions(subject))
            found += [v.written for v in versions if v.notation == "avro"]
    return found


FORMATS = ("json", "avro", "avro-single-object", "protobuf")
