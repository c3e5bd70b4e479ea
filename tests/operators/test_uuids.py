"""Texts are UUIDs where Python's uuid writes just the same text of them."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merganser.operators.uuids import uuids

UUID = st.uuids().map(str)
LIKE = st.one_of(
    UUID,
    UUID.map(str.upper),
    UUID.map(lambda text: f"{{{text}}}"),
    UUID.map(lambda text: text.replace("-", "")),
    st.text("0123456789abcdefABCDEFg-", min_size=36, max_size=36),
    st.none(),
)


def _is_one(text: str | None) -> bool:
    try:
        return text is not None and str(uuid.UUID(text)) == text
    except ValueError:
        return False


@given(st.one_of(st.lists(UUID), st.lists(LIKE)), st.integers(0, 3), st.integers(0, 3))
def test_all_or_none(texts: list[str | None], before: int, cut: int) -> None:
    whole = pa.array([*["x"] * before, *texts], pa.string())[before:]
    found = uuids(pa.chunked_array([whole[:cut], whole[cut:]]))
    all_of_them = all(map(_is_one, texts))
    assert found.to_pylist() == [uuid.UUID(t) if all_of_them and t else None for t in texts]


@pytest.mark.parametrize("place", range(36))
def test_each_character_is_looked_at(place: int) -> None:
    text = "01234567-89ab-cdef-fedc-ba9876543210"
    for character in map(chr, range(128)):
        other = text[:place] + character + text[place + 1 :]
        found = uuids(pa.chunked_array([[text, other]])).to_pylist()
        assert found == ([uuid.UUID(text), uuid.UUID(other)] if _is_one(other) else [None, None]), other


def test_other_types_are_none() -> None:
    assert uuids(pa.chunked_array([[1, 2]])).to_pylist() == [None, None]
