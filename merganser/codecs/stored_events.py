"""Events of an event store (the library ``eventsourcing``): a JSON object each, beside who it is of and what it is called.

Its transcoder wraps values that JSON does not have: ``{"_type_":"decimal_str","_data_":"1.50"}``. Here they become what is
in them, text for text, and UUIDs get their dashes, so that columns of any type can be taken from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.json import JsonCodec
from merganser.codecs.messages import Messages
from merganser.codecs.values import utf8_error
from merganser.schema import Schema

ORIGINS = {
    "notification_id": "BIGINT",
    "originator_id": "VARCHAR",
    "originator_version": "BIGINT",
    "topic": "VARCHAR",
    "event_type": "VARCHAR",
}
"""Columns that stand beside an event's state: ``event_type`` is what its topic has behind the module."""

COMMON = {"timestamp": "TIMESTAMP WITH TIME ZONE", "correlation_id": "VARCHAR", "causation_id": "VARCHAR"}
"""Columns of the state itself that every event may have."""

NOT_ID = -1
"""An event's ordinal is its notification id less one, so that the ordinals begin at 0."""

HEX = "([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})"
DASHED = r"\1-\2-\3-\4-\5"
WRAPPED_UUID = r'\{"_type_":"uuid_hex","_data_":"' + HEX + r'"\}'
WRAPPED = r'\{"_type_":"[^"\\]*","_data_":("(?:[^"\\]|\\.)*"|[-+0-9.eE]+|true|false|null)\}'
"""Quotes within a JSON string are escaped, so what these match is never text in one."""

OPENING = re.compile(r'\{\s*"_type_"\s*:\s*"([^"\\]*)"\s*,\s*"_data_"\s*:\s*')


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """Some events in the order of their notification ids: arrays of one length.

    ``values``: their states, as JSON (binary); ``offsets``: their ordinals; ``originators``, ``topics``: strings.
    """

    values: pa.BinaryArray
    offsets: npt.NDArray[np.int64]
    originators: pa.StringArray
    versions: npt.NDArray[np.int64]
    topics: pa.StringArray

    @staticmethod
    def of(rows: Sequence[tuple[int, str, int, str, bytes]]) -> StoredEvents:
        """Of tuples of notification id, originator, version, topic and state."""
        ids, originators, versions, topics, states = zip(*rows) if rows else ((), (), (), (), ())
        return StoredEvents(
            pa.array(states, pa.binary()), np.array(ids, np.int64) + NOT_ID, pa.array(originators, pa.string()),
            np.array(versions, np.int64), pa.array(topics, pa.string()),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> bytes:
        """An event's state."""
        return self.values[i].as_py() or b""

    def take(self, rows: npt.NDArray[np.int64]) -> StoredEvents:
        at = pa.array(rows, pa.int64())
        return StoredEvents(
            self.values.take(at), self.offsets[rows], self.originators.take(at), self.versions[rows], self.topics.take(at)
        )


def event_types(topics: pa.StringArray) -> pa.StringArray:
    """What the topics (``shop.domain:Order.Placed``) have behind the module."""
    return pc.replace_substring_regex(topics, r"^.*:", "")


class StoredEventsCodec:
    """The rows of stored events: of their states, and the columns that stand beside them."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._beside = [c.name for c in schema.columns if c.name in ORIGINS]
        self._states = JsonCodec(replace(schema, columns=tuple(c for c in schema.columns if c.name not in ORIGINS)))
        self._arrow = schema.arrow_schema()

    def decode(self, chunk: Chunk) -> Decoded:
        events: StoredEvents = chunk.payload
        plain = Messages(unwrapped(events.values), events.offsets, np.full(len(events), -1), base=NOT_ID)
        decoded = self._states.decode(replace(chunk, payload=plain))
        table = decoded.table
        at = np.searchsorted(events.offsets, table[SEQ].to_numpy())
        whole = len(at) == len(events)
        for name in self._beside:
            column = _beside(events, name).cast(self._arrow.field(name).type)
            table = table.append_column(name, column if whole else column.take(pa.array(at)))
        rejects = decoded.rejects
        if rejects:
            rows = np.searchsorted(events.offsets, [r.seq for r in rejects]).tolist()
            rejects = [_named(replace(r, raw=events[i]), events.topics[i].as_py()) for r, i in zip(rejects, rows)]
        return Decoded(table.select([*self._schema.names(), SEQ]), rejects)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        events: StoredEvents = chunk.payload
        rows = np.searchsorted(events.offsets, seqs).tolist()
        return [(Place(chunk.place.file, None, seq - NOT_ID), events[i]) for i, seq in zip(rows, seqs)]


def _named(reject: Reject, topic: str) -> Reject:
    return replace(reject, detail=f"{topic}: {reject.detail}")


def _beside(events: StoredEvents, name: str) -> pa.Array:
    if name == "notification_id":
        return pa.array(events.offsets - NOT_ID)
    if name == "originator_version":
        return pa.array(events.versions)
    if name == "originator_id":  # SQLite has UUIDs without their dashes
        return pc.replace_substring_regex(events.originators, f"^{HEX}$", DASHED)
    return events.topics if name == "topic" else event_types(events.topics)


def unwrapped(states: pa.BinaryArray) -> pa.BinaryArray:
    """JSON objects with the transcoder's wrappings taken off; those that are not UTF-8 stay as they are."""
    try:
        texts = states.cast(pa.string())
    except pa.ArrowInvalid:
        each = [unwrapped(pa.array([s], pa.binary()))[0].as_py() if not utf8_error(s) else s for s in states.to_pylist()]
        return pa.array(each, pa.binary())
    if pc.any(pc.match_substring(texts, '"uuid_hex"')).as_py():
        texts = pc.replace_substring_regex(texts, WRAPPED_UUID, f'"{DASHED}"')
    texts = pc.replace_substring_regex(texts, WRAPPED, r"\1")
    if pc.any(left := pc.match_substring(texts, '"_type_"')).as_py():
        texts = pa.array([_unwrapped(t) if w else t for t, w in zip(texts.to_pylist(), left.to_pylist())], pa.string())
    return texts.cast(pa.binary())


def _unwrapped(text: str) -> str:
    """One object, the innermost wrapping first: its value may be anything, but nothing in it is wrapped any more."""
    for opening in reversed(list(OPENING.finditer(text))):
        try:
            _, end = json.JSONDecoder().raw_decode(text, opening.end())
        except ValueError:
            return text  # no JSON: its codec says so
        closing = re.compile(r"\s*\}").match(text, end)
        if closing is None:
            continue  # an object of the user's, with more in it
        inner = text[opening.end() : end]
        if opening[1] == "uuid_hex":
            inner = re.sub(f'^"{HEX}"$', f'"{DASHED}"', inner)
        text = text[: opening.start()] + inner + text[closing.end() :]
    return text
