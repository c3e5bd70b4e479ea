"""Writer and projections are killed at random times: money is neither created nor lost, and every event counts once."""

from __future__ import annotations

from pathlib import Path

import pytest

from merganser.verify import verify
from tests.crash.event_store import PROJECTIONS, Job, check, make_flow, storm
from tests.event_stores import sqlite

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_bank_and_its_projections_are_killed(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    where = sqlite(tmp_path) if kind == "sqlite" else request.getfixturevalue("postgres").database()
    storm(where, tmp_path, seed=1, kills=3)
    assert check(where, tmp_path) > 70
    for name in PROJECTIONS:
        job = Job(where, flow=name, folder=str(tmp_path))
        assert all(found.ok for found in verify([make_flow(job)], job.store))
