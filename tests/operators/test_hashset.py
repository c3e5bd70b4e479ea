"""The set of hashes says what plain Python sets say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merganser.operators import hashset
from merganser.operators.hashset import ROWS, HashSet


def masks(count: int, again: npt.NDArray[np.int64], before: npt.NDArray[np.bool_]) -> tuple[list[bool], list[bool]]:
    """Which of all are in ``again``, and which were in before."""
    seen, old = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    seen[again] = True
    old[again[before]] = True
    return seen.tolist(), old.tolist()


HASH = st.one_of(st.integers(0, 20), st.integers(0, (1 << 43) - 1)).map(lambda h: h << 21)


@pytest.mark.parametrize("rows", [int(ROWS), 3])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(HASH, max_size=8), max_size=40))
def test_what_was_in_before(monkeypatch: pytest.MonkeyPatch, rows: int, batches: list[list[int]]) -> None:
    """``rows``: more of them at once are put in order in another way."""
    monkeypatch.setattr(hashset, "ROWS", np.uint64(rows))
    hashes, before = HashSet(), set[int]()
    for i, batch in enumerate(batches):
        seen, old = masks(len(batch), *hashes.add(np.array(batch, np.uint64), i))
        count = Counter(batch)
        assert old == [h in before for h in batch]
        assert seen == [h in before or count[h] > 1 for h in batch]
        before |= set(batch)


def test_what_is_old_is_forgotten() -> None:
    hashes = HashSet()
    for i in range(100):  # more runs than are kept apart
        hashes.add(np.array([i << 40], np.uint64), newest=i)
    hashes.forget(before=90)
    _, old = masks(100, *hashes.add(np.arange(100, dtype=np.uint64) << np.uint64(40), newest=100))
    assert all(old[90:]) and sum(old) < 100
