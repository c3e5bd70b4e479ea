"""What the transcoder of eventsourcing wraps comes out as what is in it, and nothing else changes."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from eventsourcing.persistence import DatetimeAsISO, DecimalAsStr, JSONTranscoder, UUIDAsHex
from hypothesis import example, given
from hypothesis import strategies as st

from merganser.codecs.stored_events import unwrapped

TEXTS = st.sampled_from(["", "ä", '"', "\\", '{"_type_":"decimal_str","_data_":"1"}', "_type_", '\\"_type_\\"', "}"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
UUIDS = st.uuids().map(lambda u: {"_type_": "uuid_hex", "_data_": u.hex})
NAMES = st.sampled_from(["decimal_str", "datetime_iso", "money", "tuple_as_list"])


def wrapped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda name, data: {"_type_": name, "_data_": data}, NAMES, inner)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["a", "b", "_data_", '"'])
    return st.one_of(wrapped(inner), UUIDS, st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3))


VALUES = st.recursive(SCALARS, nested, max_leaves=8)


def plain(value: Any) -> Any:
    """The same in Python, without looking at texts."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        if list(value) == ["_type_", "_data_"]:
            data = value["_data_"]
            return str(uuid.UUID(data)) if value["_type_"] == "uuid_hex" else plain(data)
        return {key: plain(each) for key, each in value.items()}
    return value


@given(st.lists(st.dictionaries(st.sampled_from(["x", "y"]), VALUES, max_size=2), min_size=1, max_size=4), st.booleans())
@example([{"x": {"_type_": "t", "_data_": "1", "more": 2}}, {"y": {"more": 2, "_type_": "t", "_data_": "1"}}], False)
def test_wrappings_are_taken_off(states: list[dict[str, Any]], spaced: bool) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    texts = [json.dumps(state, separators=separators, ensure_ascii=False).encode() for state in states]
    found = unwrapped(pa.array([*texts, b'{"_type_":\xff'], pa.binary())).to_pylist()
    assert [json.loads(text) for text in found[:-1]] == [plain(state) for state in states]
    assert found[-1] == b'{"_type_":\xff'


def test_what_the_library_writes() -> None:
    transcoder = JSONTranscoder()
    for each in (UUIDAsHex(), DecimalAsStr(), DatetimeAsISO()):
        transcoder.register(each)
    state = {"id": uuid.UUID(int=7), "lines": [Decimal("1.50"), Decimal(2)], "at": datetime(2026, 1, 1, tzinfo=UTC)}
    (found,) = unwrapped(pa.array([transcoder.encode(state)], pa.binary())).to_pylist()
    expected = {"id": str(uuid.UUID(int=7)), "lines": ["1.50", "2"], "at": "2026-01-01T00:00:00+00:00"}
    assert json.loads(found) == expected
