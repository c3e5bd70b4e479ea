"""Texts have hashes, and are UUIDs where Python's uuid writes just the same text of them."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merganser.operators.ids import hashed

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
    found = hashed(pa.chunked_array([whole[:cut], whole[cut:]]))[1]
    all_of_them = all(map(_is_one, texts))
    assert found.to_pylist() == [uuid.UUID(t) if all_of_them and t else None for t in texts]


@pytest.mark.parametrize("place", range(36))
def test_each_character_is_looked_at(place: int) -> None:
    text = "01234567-89ab-cdef-fedc-ba9876543210"
    for character in map(chr, range(128)):
        other = text[:place] + character + text[place + 1 :]
        found = hashed(pa.chunked_array([[text, other]]))[1].to_pylist()
        assert found == ([uuid.UUID(text), uuid.UUID(other)] if _is_one(other) else [None, None]), other


@given(st.lists(st.one_of(LIKE, st.text(max_size=80))), st.integers(0, 5))
def test_a_hash_depends_on_the_text_alone(texts: list[str | None], cut: int) -> None:
    whole = pa.array(texts, pa.string())
    kinds = [whole.cast(pa.large_string()), whole.dictionary_encode(), pa.chunked_array([whole[:cut], whole[cut:]])]
    alone = [hashed(pa.chunked_array([[text]], pa.string()))[0][0].as_py() for text in texts]
    for ids in kinds:
        found = hashed(ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids]))[0].to_pylist()
        assert found == alone
    by_hash = {hash: text or "" for hash, text in zip(alone, texts)}
    assert [by_hash[hash] for hash in alone] == [text or "" for text in texts], "no two texts have one hash"


def test_hashes_of_many_ids_differ_in_their_first_bits() -> None:
    """As they must for the set of hashes, which does not look at the last ones: of what is random, and of what hardly differs."""
    count = 100_000
    similar = [f"00000000-0000-4000-8000-{i:012x}" for i in range(count)]
    for texts in ([str(i) for i in range(count)], similar, [f"{text}-" for text in similar]):
        hashes = hashed(pa.chunked_array([texts]))[0].to_numpy()
        assert len(np.unique(hashes >> np.uint64(21))) == count
        expected = count / 256
        assert abs(np.bincount((hashes >> np.uint64(56)).view(np.int64)) - expected).max() < 8 * expected**0.5


def test_what_stands_under_a_null_says_nothing() -> None:
    texts = pa.array([str(uuid.UUID(int=i)) for i in range(3)])
    _, offsets, data = texts.buffers()
    hidden = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(bytes([0b001])), offsets, data])
    assert hidden.to_pylist() == [texts[0].as_py(), None, None]
    hashes, uuids = hashed(pa.chunked_array([hidden]))
    assert uuids.null_count == 3
    assert hashes.equals(hashed(pa.chunked_array([[texts[0].as_py(), None, None]], pa.string()))[0])
