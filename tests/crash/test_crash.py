"""Killed anywhere, a run that is started again ends with exactly what an undisturbed one ends with."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from merganser import faults
from merganser.verify import verify
from tests.crash.flows import make_flow, write_events
from tests.crash.harness import KILLED, Job, attempt, contents, until_done
from tests.crash.oracle import expected

pytestmark = pytest.mark.crash
REBUILT = ("per_minute", "last_of_key", "kept", "sessions", "folded", "awaited", "emitted", "pairs", "as_of", "fetched")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[tuple[object, ...]]]]:
    folder = tmp_path_factory.mktemp("events")
    write_events(folder)
    assert attempt(Job(str(folder), str(folder / "calm.duckdb"))) == 0
    return folder, contents(str(folder / "calm.duckdb"))


def test_the_undisturbed_run_equals_plain_sql(undisturbed) -> None:
    folder, found = undisturbed
    for view, rows in expected(folder).items():
        assert found[view] == rows, view
    for _, read, *fates in found["books"]:
        assert read == sum(fates)
    assert [check for check in verify([make_flow(folder, folder / "calm.out")], folder / "calm.duckdb") if not check.ok] == []


@pytest.mark.parametrize("name", [p for p in faults.POINTS if not p.startswith("redrive")])  # see engine/test_redrive.py
def test_killed_at_a_named_point(name: str, undisturbed, tmp_path: Path) -> None:
    folder, calm = undisturbed
    job = Job(str(folder), str(tmp_path / "s.duckdb"))
    rebuild = replace(job, rebuild=REBUILT)
    if name.startswith("rebuild"):
        assert attempt(job) == 0
        assert attempt(replace(rebuild, fault=(name, 1))) == KILLED
        assert attempt(rebuild) == 0
    else:
        count = 1 if name.startswith(("checkpoint", "sink")) else 4
        assert attempt(replace(job, fault=(name, count))) == KILLED
        assert attempt(job) == 0
        if not name.startswith("sink") and name != "step.write":  # a rebuild sends nothing
            assert attempt(replace(rebuild, fault=(name, 1))) == KILLED
            assert attempt(rebuild) == 0
    assert contents(job.store) == calm


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_times(seed: int, undisturbed, tmp_path: Path) -> None:
    folder, calm = undisturbed
    chance = random.Random(seed)
    job = Job(str(folder), str(tmp_path / "s.duckdb"), workers=chance.choice([1, 2]), chunk_bytes=chance.randrange(6000, 60000))
    until_done(job, job, chance, kills=5, longest=0.8)
    assert contents(job.store) == calm
