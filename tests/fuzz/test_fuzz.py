"""Mutated records of each format: what is taken is what the reference has, all else is refused with its bytes."""

from __future__ import annotations

import resource

import pytest

from tests.fuzz.formats import FORMATS
from tests.fuzz.run import MEMORY, fuzz


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_records_are_the_references_or_refused(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    accepted, refused = fuzz(name, 17_000, seed=1)
    assert accepted > 2_000 and refused > 2_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY
