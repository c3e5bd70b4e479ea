"""Killed anywhere, a flow from Kafka to Kafka ends with what committed messages make, each row sent once."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from merganser.verify import verify
from tests.crash.harness import child
from tests.crash.kafka import PARTITIONS, Job, Publisher, check, killed, make_flow, store_of, work
from tests.kafka.fixture import Kafka

pytestmark = pytest.mark.crash


def attempt(job: Job, kill_after: float | None = None) -> int:
    return child(work, job, kill_after)


@pytest.mark.parametrize("seed", range(2))
def test_the_flow_is_killed(seed: int, kafka: Kafka, tmp_path: Path) -> None:
    job = Job(kafka.plain, kafka.topic(PARTITIONS), kafka.topic(PARTITIONS), store_of(tmp_path))
    chance = random.Random(seed)
    publisher = Publisher(kafka, job.topic, seed, 20_000)
    publisher.start()
    for _ in range(10):
        killed(attempt, job, chance, 1.2)
    publisher.stop.set()
    publisher.join(60)
    assert publisher.failure is None and publisher.published > 100
    last = replace(job, follow=False)
    assert attempt(last) == 0
    assert check(kafka, job) > 50
    assert all(found.ok for found in verify([make_flow(job)], job.store))
