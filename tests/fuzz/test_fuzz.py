"""Mutated records and files of each format: what is taken is what the reference has, all else is refused with its bytes."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.fuzz.files import FILES, fuzz_files
from tests.fuzz.formats import FORMATS
from tests.fuzz.run import MEMORY, fuzz, mutate

RECORDS = {"avro": 12_000, "protobuf": 11_000, "json": 11_000, "framed avro": 5_000, "csv": 5_000}
WHOLE = {"container files": 1_000, "parquet": 2_500, "arrow": 2_500}
"""50,000 in all."""


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_records_are_the_references_or_refused(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    accepted, refused = fuzz(name, RECORDS[name], seed=1)
    assert min(accepted, refused) > RECORDS[name] // 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_as_they_are_or_refused(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    whole, refused = fuzz_files(name, WHOLE[name], 1, tmp_path, mutate)
    assert min(whole, refused) > WHOLE[name] // 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY
