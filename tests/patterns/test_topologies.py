"""Topologies: the answer does not depend on how many workers compete, nor on which flow of a chain is killed when."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

import merganser as mg
from merganser import faults
from merganser.cli.load import load
from merganser.verify import verify
from tests.crash.harness import KILLED, child
from tests.flows import rows
from tests.kafka.fixture import Kafka
from tests.patterns.test_shop_events import DATA, ROOT

PLACED = f"SELECT DISTINCT ON (event_id) * FROM read_json('{DATA}/orders/*.jsonl') WHERE type = 'OrderPlaced'"


def test_competing_workers_give_the_same_answer(tmp_path: Path) -> None:
    [flow] = load([str(ROOT / "flows/patterns/router.py")])
    found = []
    for workers in (1, 2, 4):
        store = tmp_path / f"{workers}.duckdb"
        mg.run([flow], store, workers=workers, chunk_bytes=200_000, epoch=0)
        found.append({v.name: sorted(rows(store, f'SELECT COLUMNS(*)::VARCHAR FROM "{v.name}"'), key=repr) for v in flow.ends})
    assert found[0] == found[1] == found[2]
    routed = {name: len(found[0][name]) for name in ("for_the_bank", "for_the_warehouse")}
    events = f"(SELECT DISTINCT event_id, type FROM read_json('{DATA}/orders/*.jsonl'))"
    counts = f"SELECT count(*) FILTER (type LIKE 'Payment%'), count(*) FILTER (type LIKE 'Shipment%') FROM {events}"
    assert tuple(routed.values()) == duckdb.execute(counts).fetchall()[0]


@dataclass(frozen=True)
class Job:
    """A run of one flow of the chain, killed at a point."""

    brokers: str
    topic: str
    flow: str
    store: str
    fault: tuple[str, int] | None = None


def _work(job: Job) -> None:
    os.environ |= {"KAFKA_BROKERS": job.brokers, "PLACED_TOPIC": job.topic}
    if job.fault:
        faults.arm(*job.fault)
    [flow] = [f for f in load([str(ROOT / "flows/patterns/chain.py")]) if f.name == job.flow]
    mg.run([flow], job.store, epoch=0, chunk_bytes=80_000)


@pytest.mark.crash
def test_a_chain_of_flows_that_are_killed(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = kafka.topic(2)
    plan = [
        ("placing", ("sink.within", 1)), ("placing", ("sink.after", 1)), ("counting", ("commit.before", 1)), ("placing", None),
        ("counting", None),
    ]  # fmt: skip
    for name, fault in plan:
        code = child(_work, Job(kafka.plain, topic, name, str(tmp_path / f"{name}.duckdb"), fault))
        assert code in ((0,) if fault is None else (0, KILLED))
    counted = "SELECT customer_id, count(*), sum(amount::DECIMAL(10,2))::VARCHAR"
    expected = duckdb.execute(f"{counted} FROM ({PLACED}) GROUP BY ALL ORDER BY ALL").fetchall()
    assert len(expected) > 40
    assert rows(tmp_path / "counting.duckdb", "SELECT customer_id, orders, spent::VARCHAR FROM spent ORDER BY ALL") == expected
    monkeypatch.setenv("KAFKA_BROKERS", kafka.plain)
    monkeypatch.setenv("PLACED_TOPIC", topic)
    for flow in load([str(ROOT / "flows/patterns/chain.py")]):
        assert all(found.ok for found in verify([flow], tmp_path / f"{flow.name}.duckdb"))
