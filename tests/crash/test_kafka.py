"""Killed anywhere, a flow from Kafka to Kafka ends with what committed messages make, each row sent once."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.crash.kafka import PARTITIONS, Job, Publisher, attempt, check, killed, killed_with_broker, make_flow, store_of
from tests.flows import rows
from tests.kafka.broker import Broker
from tests.kafka.fixture import Kafka

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("seed", range(2))
def test_the_flow_is_killed(seed: int, kafka: Kafka, tmp_path: Path) -> None:
    job = Job(kafka.plain, kafka.topic(PARTITIONS), kafka.topic(PARTITIONS), store_of(tmp_path))
    chance = random.Random(seed)
    publisher = Publisher(kafka, job.topic, seed, 20_000)
    publisher.start()
    for _ in range(10):
        killed(job, chance, 1.2)
    finished(kafka, publisher, job)


def test_the_flow_and_the_broker_are_killed_at_the_same_moment(broker: Broker, tmp_path: Path) -> None:
    kafka = Kafka(broker.address)
    job = Job(kafka.plain, kafka.topic(PARTITIONS), kafka.topic(PARTITIONS), store_of(tmp_path))
    publisher = Publisher(kafka, job.topic, 7, 20_000)
    publisher.start()
    killed_with_broker(job, broker, random.Random(7))
    assert attempt(job, 1.5) == -9
    finished(kafka, publisher, job)


def finished(kafka: Kafka, publisher: Publisher, job: Job) -> None:
    """Read the rest, and look at what came of all."""
    while publisher.is_alive() and publisher.published < 500:  # on a busy machine the kills were over before much was sent
        publisher.join(0.05)
    publisher.stop.set()
    publisher.join(60)
    assert publisher.failure is None and publisher.published > 100
    assert attempt(replace(job, follow=False)) == 0
    assert check(kafka, job) > 50
    assert all(found.ok for found in verify([make_flow(job)], job.store))


def test_a_log_that_was_cut_off_and_went_on_otherwise(broker: Broker, tmp_path: Path) -> None:
    """What a broker forgets that took the lead without having everything; here the end of its file is taken away."""
    kafka, store = Kafka(broker.address), tmp_path / "s.duckdb"
    topic = kafka.topic()
    for n in range(6):
        kafka.send(topic, {"id": n})
    flow = mg.Flow("f")
    flow.read(mg.source("events", mg.kafka(topic, brokers=kafka.plain), schema={"id": "BIGINT"})).materialize("v")
    mg.run([flow], store)
    broker.kill()
    log = next(broker.folder.glob(f"data/{topic}-0/*.log"))
    os.truncate(log, log.stat().st_size * 4 // 6)
    broker.start()
    for following in (["a"], ["b", "c"]):  # shorter than what was read, then longer
        kafka.send(topic, *({"id": ord(letter)} for letter in following))
        lost = rf"cut off at offset 4, so offsets 4 to 5 \(2 of them\) of {topic}/0 are lost.*--accept-gap"
        with pytest.raises(mg.SourceError, match=lost):
            mg.run([flow], store)
    mg.run([flow], store, accept_gap=True)
    kafka.send(topic, {"id": ord("d")})
    mg.run([flow], store)
    assert [n for (n,) in rows(store, "SELECT id FROM v ORDER BY id")] == [0, 1, 2, 3, 4, 5, *b"abcd"]
    [(position,)] = rows(store, "SELECT position FROM merganser.positions")
    assert [gap[:2] for gap in json.loads(position)["gaps"]] == [[4, 6]]
